"""The ResNet VAE with inverse autoregressive flow (Kingma et al. 2016), with the changes of AGAVE (section 4.1)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from agave.draws import normal
from agave.models.layers import (
    Checkpointed,
    MaskedConv2d,
    WeightNormConv2d,
    at_least_float32,
    data_dependent_initialisation,
    full_precision,
)
from agave.models.ops import elu

Noise = Callable[[int, tuple[int, ...]], Tensor]
"""Standard normal noise for a stochastic layer: (index of the layer in generation order, shape) -> tensor of that shape."""

RESIDUAL_SCALE = 0.1  # of residual branches and of the flow's outputs; needed for stability at 20 layers


@dataclass(frozen=True)
class BottomUp:
    """What a layer's bottom-up pass leaves for its top-down pass: (B, latent or hidden, H, W) each."""

    mean: Tensor
    log_deviation: Tensor
    context: Tensor


class AutoregressiveNet(nn.Module):
    """The flow of one layer: (mean, log-deviation) of each latent value from those before it, in reverse raster order.

    Source: Kingma et al. (2016), section 3 and appendix C.
    """

    def __init__(self, latent: int, hidden: int, exponent: float = 1.0) -> None:
        super().__init__()
        self.h0 = MaskedConv2d(latent, hidden, strict=False, init_gain_exponent=exponent)
        self.h1 = MaskedConv2d(hidden, hidden, strict=False, init_gain_exponent=exponent)
        self.mean = MaskedConv2d(hidden, latent, strict=True, init_gain_exponent=exponent)
        self.log_deviation = MaskedConv2d(hidden, latent, strict=True, init_gain_exponent=exponent)

    def forward(self, z: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        """Z (B, latent, H, W), context (B, hidden, H, W) -> mean and log-deviation, both (B, latent, H, W)."""
        h = elu(self.h0(z) + context)
        h = elu(self.h1(h))
        return RESIDUAL_SCALE * self.mean(h), RESIDUAL_SCALE * self.log_deviation(h)


class StochasticLayer(Checkpointed):
    """One layer of the ResNet VAE: bottom-up and top-down residual blocks, prior, posterior and flow.

    Args:
        hidden: feature maps of the deterministic path (h).
        latent: latent feature maps (z).
        halve: whether the bottom-up pass halves the grid (and the top-down pass doubles it).
        exponent: see `WeightNormConv2d`, init_gain_exponent.

    Source: Kingma et al. (2016), appendix C, and the published code.
    """

    def __init__(self, hidden: int, latent: int, halve: bool, exponent: float) -> None:
        super().__init__()
        self.hidden, self.latent, self.halve = hidden, latent, halve

        def conv(in_channels: int, out_channels: int, down: bool = False, up: bool = False) -> WeightNormConv2d:
            # TF's SAME padding for an even grid and stride 2: one row and column of zeros at the far side
            padding = (0, 0, 0, 0) if up else (0, 1, 0, 1) if down else (1, 1, 1, 1)
            return WeightNormConv2d(
                in_channels,
                out_channels,
                (3, 3),
                stride=2 if down or up else 1,
                padding=padding,
                transposed=up,
                init_scale=0.1,
                log_gain=True,
                init_gain_exponent=exponent,
            )

        self.up_in = conv(hidden, 2 * latent + 2 * hidden, down=halve)
        self.up_out = conv(hidden, hidden)
        self.down_in = conv(hidden, 4 * latent + 2 * hidden)
        self.flow = AutoregressiveNet(latent, hidden, exponent)
        self.down_out = conv(hidden + latent, hidden, up=halve)

    def bottom_up(self, h: Tensor) -> tuple[Tensor, BottomUp]:
        """H (B, hidden, H, W) -> h for the next layer, and what the top-down pass of this one needs."""
        sizes = [self.latent, self.latent, self.hidden, self.hidden]
        mean, log_deviation, context, d = self.up_in(elu(h)).split(sizes, dim=1)
        if self.halve:
            h = h[:, :, ::2, ::2]
        return h + RESIDUAL_SCALE * self.up_out(elu(d)), BottomUp(mean, log_deviation, context)

    def top_down(self, h: Tensor, below: BottomUp | None, noise: Tensor) -> tuple[Tensor, Tensor]:
        """One step of generation (`below` None: z from the prior) or of inference (z from the posterior).

        Args:
            h: (B, hidden, H, W).
            below: of this layer's bottom-up pass, or None.
            noise: (B, latent, H, W), standard normal.

        Returns:
            h for the next layer, and the KL of each latent feature map (B, latent), nats (zeros when generating).
        """
        sizes = [self.latent] * 4 + [self.hidden] * 2
        prior_mean, prior_log_deviation, mean, log_deviation, context, d = self.down_in(elu(h)).split(sizes, dim=1)
        prior_mean, prior_log_deviation = at_least_float32(prior_mean), at_least_float32(prior_log_deviation)
        if below is None:
            z = prior_mean + torch.exp(prior_log_deviation) * noise
            kl = torch.zeros(z.shape[:2], dtype=z.dtype, device=z.device)
        else:
            mean = at_least_float32(mean) + at_least_float32(below.mean)
            log_deviation = at_least_float32(log_deviation) + at_least_float32(below.log_deviation)
            z0 = mean + torch.exp(log_deviation) * noise
            flow_mean, flow_log_deviation = map(at_least_float32, self.flow(z0, context + below.context))
            z = (z0 - flow_mean) * torch.exp(-flow_log_deviation)
            # log q(z) = log N(z0; mean, deviation) + flow_log_deviation: the flow's log-determinant has the opposite sign
            log_posterior = -log_deviation - 0.5 * noise.square() + flow_log_deviation
            log_prior = -prior_log_deviation - 0.5 * ((z - prior_mean) * torch.exp(-prior_log_deviation)).square()
            kl = (log_posterior - log_prior).sum((2, 3))
        d = self.down_out(elu(torch.cat((z, d), dim=1)))
        if self.halve:
            h = h.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
        return h + RESIDUAL_SCALE * d, kl


class VAE(nn.Module):
    """ResNet VAE with IAF; its decoder output f(z) is the mean image of logistics with one scale per colour channel.

    Args:
        image_size: height and width of x, pixels; a multiple of 2^depth.
        resolution: height and width of y and f(z): image_size, or its half or quarter.
        depth: scales of the latent variables.
        blocks: stochastic layers per scale.
        hidden: feature maps of the deterministic path.
        latent: latent feature maps per layer.
        published_init: initial gains as in the published code (their cube root).

    Raises:
        ValueError: sizes do not fit.

    Source: Kingma et al. (2016), section 5 and appendix C; AGAVE paper, section 4.1.
    """

    def __init__(
        self, image_size: int, resolution: int, depth: int, blocks: int, hidden: int, latent: int, published_init: bool = False
    ) -> None:
        super().__init__()
        if image_size % 2**depth:
            raise ValueError(f"image_size {image_size} with depth {depth}; accepted: multiples of {2**depth}")
        self.image_size, self.resolution, self.depth = image_size, resolution, depth
        self.hidden, self.latent = hidden, latent
        # PAPER: the published code starts with the cube root of the intended gain and normalises transposed convolutions over
        # the wrong axes, by mistake; we use the intended form (model.vae.published_init: the cube root).
        exponent = 1 / 3 if published_init else 1.0

        def outer(in_channels: int, out_channels: int, stride: int, padding: tuple[int, int, int, int], up: bool) -> WeightNormConv2d:
            return WeightNormConv2d(
                in_channels,
                out_channels,
                (5, 5),
                stride=stride,
                padding=padding,
                transposed=up,
                init_scale=0.1,
                log_gain=True,
                init_gain_exponent=exponent,
            )

        self.stem = outer(3, hidden, 2, (1, 2, 1, 2), up=False)
        self.layers = nn.ModuleList(
            StochasticLayer(hidden, latent, halve=level > 0 and block == 0, exponent=exponent)
            for level in range(depth)
            for block in range(blocks)
        )
        self.top = nn.Parameter(torch.zeros(hidden))
        # PAPER: how a decoder makes a smaller f(z) is not given; the trunk at half size stays and only the last layer changes.
        if resolution == image_size:
            self.head = outer(hidden, 3, 2, (1, 0, 1, 0), up=True)
        elif resolution * 2 == image_size:
            self.head = outer(hidden, 3, 1, (2, 2, 2, 2), up=False)
        elif resolution * 4 == image_size:
            self.head = outer(hidden, 3, 2, (1, 2, 1, 2), up=False)
        else:
            raise ValueError(f"resolution {resolution}; accepted: {image_size}, {image_size // 2} or {image_size // 4}")
        self.log_scale = nn.Parameter(torch.full((3, 1, 1), math.log(16.0)))  # of the logistics, in [0, 256] units

    def encode(self, x_uint8: Tensor) -> list[BottomUp]:
        """Bottom-up pass: x (B, 3, H, W), integers 0 to 255 -> one record per stochastic layer, lowest first."""
        x = (x_uint8.to(self.top.dtype) + 0.5) / 256 - 0.5
        h = self.stem(x)
        records = []
        for layer in self.layers:
            h, record = layer.again(layer.bottom_up, h)  # type: ignore[operator]
            records.append(record)
        return records

    def decode(self, records: list[BottomUp] | None, batch: int, noise: Noise) -> tuple[Float[Tensor, "b 3 r r"], Float[Tensor, "b g"]]:
        """Top-down pass: f(z) with z from the posterior, or from the prior if there are no records.

        Args:
            records: of `encode`, or None to generate.
            batch: number of images B.
            noise: standard normal noise per layer.

        Returns:
            f(z), the mean image in [0, 256] edge units, (B, 3, r, r); KL of every latent feature map, (B, layers * latent), nats.
        """
        size = self.image_size // 2**self.depth
        h = self.top[None, :, None, None].expand(batch, -1, size, size)
        kl_maps = []
        for index, layer in enumerate(reversed(self.layers)):
            shape = (batch, self.latent, *h.shape[2:])
            record = records[len(self.layers) - 1 - index] if records is not None else None
            h, kl = layer.again(layer.top_down, h, record, noise(index, shape))  # type: ignore[operator]
            kl_maps.append(kl)
        with full_precision(h):
            mean = (self.head(elu(at_least_float32(h))) + 0.5) * 256
        # PAPER: the published VAE clips its mean, which blocks gradients at black and white; here the likelihood sees it unclipped.
        return mean, torch.cat(kl_maps, dim=1)

    def noise(self) -> Noise:
        """Noise from the global generator, for training."""
        return lambda _, shape: normal(shape, self.top)

    @torch.no_grad()
    def initialise(self, x_uint8: Tensor, y_uint8: Tensor) -> None:
        """Data-dependent initialisation on a batch.

        Args:
            x_uint8: (B, 3, H, W).
            y_uint8: (B, 3, r, r); the scales of the logistics start at the spread of y around f(z).
        """
        # PAPER: the published code draws z from the prior in this pass; here the posterior, which is what training will use.
        with data_dependent_initialisation(self):
            mean, _ = self.decode(self.encode(x_uint8), x_uint8.shape[0], self.noise())
        spread = (y_uint8.to(mean.dtype) + 0.5 - mean).transpose(0, 1).flatten(1).std(1)  # (3,)
        # PAPER: the initial scale is not given; that of a logistic with the spread of the first batch.
        self.log_scale.copy_(torch.log(spread * math.sqrt(3) / math.pi).view(3, 1, 1))
