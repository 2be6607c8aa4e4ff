"""The ResNet VAE with inverse autoregressive flow (Kingma et al. 2016), with the changes of AGAVE (section 4.1)."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor, nn

from agave.config import Model
from agave.config_networks import VAEModel
from agave.likelihoods import discretized_logistic_log_prob
from agave.models.interface import LikelihoodModel, Noise, Terms
from agave.models.layers import (
    Checkpointed,
    MaskedConv2d,
    WeightNormConv2d,
    at_least_float32,
    data_dependent_initialisation,
    full_precision,
)
from agave.models.ops import elu
from agave.objective import free_bits
from agave.random_numbers import POSTERIOR, PRIOR, KeyedNumbers, RandomNumbers, StepNumbers

RESIDUAL_SCALE = 0.1  # of residual branches and of the flow's outputs; needed for stability at 20 layers


class Encoding(NamedTuple):
    """The output of a layer's bottom-up pass that its top-down pass needs: (B, latent or hidden, H, W) each."""

    mean: Tensor
    log_deviation: Tensor
    context: Tensor


class TopDown(NamedTuple):
    """The output of a layer's first top-down convolution: (B, latent or hidden, H, W) each."""

    prior_mean: Tensor
    prior_log_deviation: Tensor
    mean: Tensor
    log_deviation: Tensor
    context: Tensor
    deterministic: Tensor


class Posterior(NamedTuple):
    """The posterior before the flow, z0 ~ N(mean, exp(log_deviation)), and the context of the flow: (B, latent or hidden, H, W) each."""

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
        """Return mean and log-deviation, both (B, latent, H, W), for z (B, latent, H, W) and context (B, hidden, H, W)."""
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

    def bottom_up(self, h: Tensor) -> tuple[Tensor, Encoding]:
        """Return h for the next layer and the encoding for the top-down pass of this one, from h (B, hidden, H, W)."""
        sizes = [self.latent, self.latent, self.hidden, self.hidden]
        mean, log_deviation, context, d = self.up_in(elu(h)).split(sizes, dim=1)
        if self.halve:
            h = h[:, :, ::2, ::2]
        return h + RESIDUAL_SCALE * self.up_out(elu(d)), Encoding(mean, log_deviation, context)

    def top_down(self, h: Tensor, below: Encoding | None, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Compute one step of generation (z from the prior) or of inference (z from the posterior).

        Args:
            h: (B, hidden, H, W).
            below: encoding of this layer's bottom-up pass; None generates.
            noise: (B, latent, H, W), standard normal.

        Returns:
            h for the next layer, and the KL of each latent feature map (B, latent), nats (zeros when generating).
        """
        own = self.split(h)
        if below is None:
            z = own.prior_mean + torch.exp(own.prior_log_deviation) * noise
            kl = torch.zeros(z.shape[:2], dtype=z.dtype, device=z.device)
        else:
            mean, log_deviation, context = self.posterior(own, below)
            z0 = mean + torch.exp(log_deviation) * noise
            flow_mean, flow_log_deviation = map(at_least_float32, self.flow(z0, context))
            z = (z0 - flow_mean) * torch.exp(-flow_log_deviation)
            # log q(z) = log N(z0; mean, deviation) + flow_log_deviation: the flow's log-determinant has the opposite sign
            log_posterior = -log_deviation - 0.5 * noise.square() + flow_log_deviation
            log_prior = -own.prior_log_deviation - 0.5 * ((z - own.prior_mean) * torch.exp(-own.prior_log_deviation)).square()
            kl = (log_posterior - log_prior).sum((2, 3))
        return self.merge(h, z, own.deterministic), kl

    def split(self, h: Tensor) -> TopDown:
        """Return what the layer makes of h (B, hidden, H, W) before it has z."""
        sizes = [self.latent] * 4 + [self.hidden] * 2
        prior_mean, prior_log_deviation, *others = self.down_in(elu(h)).split(sizes, dim=1)
        return TopDown(at_least_float32(prior_mean), at_least_float32(prior_log_deviation), *others)

    def posterior(self, own: TopDown, below: Encoding) -> Posterior:
        """Return the posterior before the flow, whose parameters are sums over both passes."""
        mean = at_least_float32(own.mean) + at_least_float32(below.mean)
        log_deviation = at_least_float32(own.log_deviation) + at_least_float32(below.log_deviation)
        return Posterior(mean, log_deviation, own.context + below.context)

    def merge(self, h: Tensor, z: Tensor, deterministic: Tensor) -> Tensor:
        """Return h for the next layer, from h (B, hidden, H, W), z (B, latent, H, W) and the deterministic part of `split`."""
        d = self.down_out(elu(torch.cat((z, deterministic), dim=1)))
        if self.halve:
            h = h.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
        merged: Tensor = h + RESIDUAL_SCALE * d
        return merged


class VAEIAF(nn.Module):
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
        # PAPER: By mistake the published code starts with the cube root of the intended gain and normalises transposed convolutions
        # over the wrong axes. We use the intended form (model.vae.published_init: the cube root).
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
        # PAPER: The paper does not say how a decoder makes a smaller f(z). The trunk at half size stays, and only the last layer changes.
        if resolution == image_size:
            self.head = outer(hidden, 3, 2, (1, 0, 1, 0), up=True)
        elif resolution * 2 == image_size:
            self.head = outer(hidden, 3, 1, (2, 2, 2, 2), up=False)
        elif resolution * 4 == image_size:
            self.head = outer(hidden, 3, 2, (1, 2, 1, 2), up=False)
        else:
            raise ValueError(f"resolution {resolution}; accepted: {image_size}, {image_size // 2} or {image_size // 4}")
        self.log_scale = nn.Parameter(torch.full((3, 1, 1), math.log(16.0)))  # of the logistics, in [0, 256] units

    @classmethod
    def from_options(cls, sizes: VAEModel, image_size: int, resolution: int) -> VAEIAF:
        """Make a network of the sizes in params.yaml."""
        return cls(image_size, resolution, sizes.depth, sizes.blocks, sizes.hidden, sizes.latent, published_init=sizes.published_init)

    def encode(self, x_uint8: Tensor) -> list[Encoding]:
        """Run the bottom-up pass: x (B, 3, H, W), integers 0 to 255 -> one encoding per stochastic layer, lowest first."""
        x = (x_uint8.to(self.top.dtype) + 0.5) / 256 - 0.5
        h = self.stem(x)
        encodings = []
        for layer in self.layers:
            h, encoding = layer.again(layer.bottom_up, h)  # type: ignore[operator]
            encodings.append(encoding)
        return encodings

    def decode(self, encodings: list[Encoding] | None, noise: list[Tensor]) -> tuple[Float[Tensor, "b 3 r r"], Float[Tensor, "b g"]]:
        """Run the top-down pass: f(z) with z from the posterior, or from the prior if there are no encodings.

        Args:
            encodings: result of `encode`, or None to generate.
            noise: result of `latent_noise`, for B images.

        Returns:
            f(z), the mean image in [0, 256] edge units, (B, 3, r, r); KL of every latent feature map, (B, layers * latent), nats.
        """
        h = self.start(noise[0].shape[0])
        kl_maps = []
        for index, layer in enumerate(reversed(self.layers)):
            below = encodings[len(self.layers) - 1 - index] if encodings is not None else None
            h, kl = layer.again(layer.top_down, h, below, noise[index])  # type: ignore[operator]
            kl_maps.append(kl)
        return self.finish(h), torch.cat(kl_maps, dim=1)

    def start(self, batch: int) -> Tensor:
        """Return h above the topmost layer, (B, hidden, h, w)."""
        size = self.image_size // 2**self.depth
        return self.top[None, :, None, None].expand(batch, -1, size, size)

    def finish(self, h: Tensor) -> Float[Tensor, "b 3 r r"]:
        """Return f(z), the mean image in [0, 256] edge units, (B, 3, r, r), from h below the last layer."""
        # PAPER: The published VAE clips its mean, which blocks gradients at black and white. Here the likelihood uses the unclipped mean.
        with full_precision(h):
            mean: Tensor = self.head(elu(at_least_float32(h)))
        return (mean + 0.5) * 256

    def latent_noise(self, batch: int, numbers: RandomNumbers) -> list[Tensor]:
        """Draw standard normal noise (B, latent, h, w) for each stochastic layer, in the order of generation."""
        return [numbers.normal(index, (batch, *shape), self.top) for index, shape in enumerate(self.latent_shapes)]

    @property
    def latent_shapes(self) -> list[tuple[int, int, int]]:
        """Return the shape (latent, h, w) of z in each stochastic layer, in the order of generation."""
        shapes, size = [], self.image_size // 2**self.depth
        for layer in reversed(self.layers):
            shapes.append((self.latent, size, size))
            size *= 2 if layer.halve else 1
        return shapes

    @torch.no_grad()
    def initialise(self, x_uint8: Tensor, y_uint8: Tensor) -> None:
        """Initialise the network from a batch.

        Args:
            x_uint8: (B, 3, H, W).
            y_uint8: (B, 3, r, r); the scales of the logistics start at the spread of y around f(z).
        """
        # PAPER: The published code draws z from the prior in this pass. Ours draws it from the posterior, as training does.
        with data_dependent_initialisation(self):
            mean, _ = self.decode(self.encode(x_uint8), self.latent_noise(len(x_uint8), StepNumbers()))
        spread = (y_uint8.to(mean.dtype) + 0.5 - mean).transpose(0, 1).flatten(1).std(1)  # (3,)
        # PAPER: The paper does not give the initial scale. Ours is that of a logistic with the spread of the first batch.
        self.log_scale.copy_(torch.log(spread * math.sqrt(3) / math.pi).view(3, 1, 1))


class LatentModel(LikelihoodModel):
    """A system with the latent variables of the VAE: the common part of the VAE alone and AGAVE.

    Args:
        options: sizes and choices, the block `model` of params.yaml.
        image_size: height and width of x, pixels.
        resolution: height and width of y, pixels; None: those of x.
        levels: colour levels b of y.
    """

    bound = "elbo"
    unused_parameters = True  # the topmost residual branch of the VAE; without the auxiliary loss the scales of y

    def __init__(self, options: Model, image_size: int, resolution: int | None = None, levels: int = 256) -> None:
        super().__init__(image_size, resolution)
        self.options, self.levels = options, levels
        self.vae = VAEIAF.from_options(options.vae, image_size, self.resolution)

    def encode(self, x_uint8: Tensor) -> list[Encoding]:
        """Return the encodings of the VAE's bottom-up pass."""
        return self.vae.encode(x_uint8)

    def draw_noise(self, batch: int, numbers: RandomNumbers) -> Noise:
        """Return the noise of the latent variables."""
        return {"latents": self.vae.latent_noise(batch, numbers)}

    def log_prob_y(self, y_uint8: Tensor, mean: Tensor) -> Tensor:
        """Return log p(y | f(z)), nats per image (B,), for y (B, 3, r, r) and f(z) (B, 3, r, r) in edge units."""
        mean, log_scale = self._for_likelihood(mean), self._for_likelihood(self.vae.log_scale)
        return discretized_logistic_log_prob(y_uint8, mean, log_scale, self.levels, self.options.likelihood.tails).sum((1, 2, 3))

    def terms_of(self, kl_maps: Tensor, log_prob_pixels: Tensor | None, log_prob_y: Tensor | None) -> Terms:
        """Return the terms of the objective from the KL of each latent feature map (B, G) and log-likelihoods (B, H, W) and (B,)."""
        objective = free_bits(kl_maps, self.options.vae.free_bits)
        if log_prob_pixels is None:
            return Terms(kl_maps.sum(1), None, log_prob_y, objective)
        return Terms(kl_maps.sum(1), log_prob_pixels.sum((1, 2)), log_prob_y, objective, log_prob_pixels.detach())

    def needs_whole_batch(self) -> str | None:
        """Return the parameter of free bits if it is above 0, because free bits need the batch mean of the KL."""
        free = self.options.vae.free_bits
        return f"model.vae.free_bits {free:g}" if free > 0 else None

    @torch.inference_mode()
    def mean_image(self, x_uint8: Tensor | None, images: range, seed: int) -> Tensor:
        """Return f(z) in edge units, (B, 3, r, r), with z from the posterior of the images, or from the prior for None.

        Args:
            x_uint8: (B, 3, H, W), or None.
            images: index of each image, which keys the noise.
            seed: seed of the noise.
        """
        noise = self.vae.latent_noise(len(images), KeyedNumbers(seed, PRIOR if x_uint8 is None else POSTERIOR, images))
        mean, _ = self.vae.decode(None if x_uint8 is None else self.vae.encode(x_uint8), noise)
        return mean

    def reconstruct(self, images: NDArray[np.uint8] | Tensor, seed: int = 0) -> Tensor:
        """Return f(z) with z drawn from the posterior, uint8 (N, 3, r, r)."""
        x_uint8 = self.check_images(images)
        return as_image(self.mean_image(x_uint8, range(len(x_uint8)), seed))


def as_image(mean: Tensor) -> Tensor:
    """Return f(z) in edge units as 8-bit values: v occupies [v, v + 1)."""
    return torch.floor(mean).clamp(0, 255).to(torch.uint8)
