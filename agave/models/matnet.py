"""The Matryoshka network (Bachman 2016): latent variables at several grids, joined by deterministic paths. Our reading."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from agave import config_networks
from agave.config import Model
from agave.config_networks import SystemBlock
from agave.models.interface import scale_to_unit
from agave.models.layers import Checkpointed, WeightNormConv2d, at_least_float32, nin
from agave.models.ops import elu
from agave.models.residual import RESIDUAL_SCALE, PreActivatedConv2d, ResidualBlock, conv3x3, doubling, halving
from agave.models.window_decoded import WindowDecodedModel
from agave.models.window_pixelcnn import WindowPixelCNN
from agave.random_numbers import RandomNumbers


class Gaussian(NamedTuple):
    """Mean and log-deviation of independent values, (B, ...) each."""

    mean: Tensor
    log_deviation: Tensor

    @classmethod
    def from_outputs(cls, outputs: Tensor) -> Gaussian:
        """Make it from the outputs of a layer, (B, 2 C, ...)."""
        return cls(*at_least_float32(outputs).chunk(2, dim=1))

    def draw(self, noise: Tensor) -> Tensor:
        """Return mean + deviation * noise."""
        return self.mean + torch.exp(self.log_deviation) * noise

    def log_prob(self, z: Tensor) -> Tensor:
        """Return log N(z) without its constant, nats summed per image: (B,)."""
        standardized = (z - self.mean) * torch.exp(-self.log_deviation)
        return (-self.log_deviation - 0.5 * standardized.square()).flatten(1).sum(1)

    def kl_from(self, prior: Gaussian) -> Tensor:
        """Return the KL divergence of this distribution from the prior, nats summed per image: (B,)."""
        log_ratio = self.log_deviation - prior.log_deviation
        distance = (self.mean - prior.mean) * torch.exp(-prior.log_deviation)
        return (0.5 * (torch.exp(2 * log_ratio) + distance.square() - 1) - log_ratio).flatten(1).sum(1)


class Encoding(NamedTuple):
    """The result of the bottom-up pass: its state before every module, lowest first, and its last state; (B, channels, h, w) each."""

    before: list[Tensor]
    last: Tensor


class LatentModule(Checkpointed):
    """One module: a step of the bottom-up pass, of the merge path, and of the top-down pass with its latent variables.

    In the top-down pass z is drawn from p(z|t), or for inference from q(z|m), where m merges the top-down state t with the bottom-up
    state b. Nothing of m or b reaches t but through z.
    """

    def __init__(self, channels: int, latent: int) -> None:
        super().__init__()
        self.bottom_up = ResidualBlock(channels)
        self.merge = nn.Sequential(conv3x3(3 * channels, channels), conv3x3(channels, channels))
        self.posterior = conv3x3(channels, 2 * latent, init_scale=0.1)
        self.prior = nn.Sequential(conv3x3(channels, channels), conv3x3(channels, 2 * latent, init_scale=0.1))
        self.step = nn.Sequential(conv3x3(latent + channels, channels), conv3x3(channels, channels))

    def infer(self, t: Tensor, m: Tensor, b: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return the next t and m, (B, channels, h, w) each, and the sampled and the analytic KL, (B,) nats each."""
        m = m + RESIDUAL_SCALE * self.merge(torch.cat((t, b, m), dim=1))
        prior, posterior = Gaussian.from_outputs(self.prior(t)), Gaussian.from_outputs(self.posterior(m))
        z = posterior.draw(noise)
        return self._next(t, z), m, posterior.log_prob(z) - prior.log_prob(z), posterior.kl_from(prior)

    def generate(self, t: Tensor, noise: Tensor) -> Tensor:
        """Return the next t (B, channels, h, w), with z from the prior."""
        return self._next(t, Gaussian.from_outputs(self.prior(t)).draw(noise))

    def _next(self, t: Tensor, z: Tensor) -> Tensor:
        return t + RESIDUAL_SCALE * self.step(torch.cat((z, t), dim=1))


class MatNet(WindowDecodedModel):
    """A VAE with modules of latent variables on several grids and a small vector of them at the top.

    Args:
        sizes: the block `table1.matnet` of params.yaml.
        image_size: height and width of x, pixels; the coarsest grid must divide it.

    Source: Bachman (2016), and the author's code of June 2016.
    """

    # PAPER: The form of the model of CIFAR-10 is not known to us, nor is that of its autoregressive part. We read the modules as in the
    # author's code of June 2016, with residual paths, ELUs and a learned deviation of the prior; the autoregressive part is a PixelCNN++
    # with a window of 7x4 pixels, as in the variational lossy autoencoder.
    system = "matnet"

    def __init__(self, sizes: config_networks.MatNet, image_size: int) -> None:
        finest, coarsest = sizes.channels[0], sizes.channels[-1]
        super().__init__(image_size, sizes.divisor, WindowPixelCNN.from_options(sizes.decoder, finest))
        self.latent, self.top = sizes.latent, sizes.top
        self.grids = [image_size // sizes.stride >> level for level in range(len(sizes.channels))]
        stem = WeightNormConv2d(3, finest // 2, (3, 3), stride=sizes.stride, padding=(1, 1, 1, 1))
        self.stem = nn.Sequential(stem, conv3x3(finest // 2, finest))
        self.levels = nn.ModuleList(
            nn.ModuleList(LatentModule(channels, sizes.latent) for _ in range(number))
            for channels, number in zip(sizes.channels, sizes.modules, strict=True)
        )
        pairs = list(zip(sizes.channels[:-1], sizes.channels[1:], strict=True))
        self.coarser = nn.ModuleList(halving(fine, coarse) for fine, coarse in pairs)
        self.finer = nn.ModuleList(doubling(coarse, fine) for fine, coarse in pairs)
        self.finer_merged = nn.ModuleList(doubling(coarse, fine) for fine, coarse in pairs)
        coarsest_grid = (self.grids[-1], self.grids[-1])
        self.top_posterior = nn.Sequential(
            PreActivatedConv2d(coarsest, sizes.top_hidden, coarsest_grid),
            PreActivatedConv2d(sizes.top_hidden, 2 * sizes.top, (1, 1), init_scale=0.1),
        )
        self.begin = nn.Sequential(
            nin(sizes.top, sizes.top_hidden), PreActivatedConv2d(sizes.top_hidden, coarsest * self.grids[-1] ** 2, (1, 1))
        )
        self.head = doubling(finest, finest) if sizes.stride == 2 else conv3x3(finest, finest)

    @classmethod
    def from_options(
        cls, options: Model, image_size: int, *, resolution: int | None = None, levels: int = 256, sizes: SystemBlock | None = None
    ) -> MatNet:
        """Make an untrained model; it has no auxiliary image."""
        assert isinstance(sizes, config_networks.MatNet)
        return cls(sizes, image_size)

    def encode(self, x_uint8: Tensor) -> Encoding:
        """Run the bottom-up pass."""
        b, before = self.stem(scale_to_unit(x_uint8, self.decoder.out.gain.dtype)), []
        for level, modules in enumerate(self.levels):
            if level > 0:
                b = self.coarser[level - 1](b)
            for module in modules:  # type: ignore[attr-defined]
                before.append(b)
                b = module.bottom_up(b)
        return Encoding(before, b)

    def latent_noise(self, batch: int, numbers: RandomNumbers) -> list[Tensor]:
        """Return standard normal noise: (B, top, 1, 1), then (B, latent, h, w) for each module in the order of generation."""
        shapes = [(batch, self.top, 1, 1)]
        for grid, modules in reversed(list(zip(self.grids, self.levels, strict=True))):
            shapes += [(batch, self.latent, grid, grid)] * len(modules)  # type: ignore[arg-type]
        return [numbers.normal(index, shape, self.decoder.out.gain) for index, shape in enumerate(shapes)]

    def infer(self, encoding: Encoding, noise: list[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Return phi(z) with z from the posterior, (B, C, H, W), its sampled KL (B,), and the analytic KL summed over the batch."""
        before, remaining, m = list(encoding.before), iter(noise), encoding.last
        posterior = Gaussian.from_outputs(self.top_posterior(m))
        prior = Gaussian(torch.zeros_like(posterior.mean), torch.zeros_like(posterior.mean))
        z = posterior.draw(next(remaining))
        t, kl, analytic = self._begin(z), posterior.log_prob(z) - prior.log_prob(z), posterior.kl_from(prior)
        for level in reversed(range(len(self.levels))):
            for module in reversed(self.levels[level]):  # type: ignore[arg-type]
                t, m, sampled, exact = module.again(module.infer, t, m, before.pop(), next(remaining))
                kl, analytic = kl + sampled, analytic + exact
            if level > 0:
                t, m = self.finer[level - 1](t), self.finer_merged[level - 1](m)
        return self._phi(t), kl, analytic.sum()

    def generate(self, noise: list[Tensor]) -> Tensor:
        """Return phi(z), (B, C, H, W), with z from the prior."""
        remaining = iter(noise)
        t = self._begin(next(remaining))
        for level in reversed(range(len(self.levels))):
            for module in reversed(self.levels[level]):  # type: ignore[arg-type]
                t = module.generate(t, next(remaining))
            if level > 0:
                t = self.finer[level - 1](t)
        return self._phi(t)

    def _begin(self, z: Tensor) -> Tensor:
        """Return the first state t of the top-down pass, from the top vector (B, top, 1, 1)."""
        t: Tensor = self.begin(z)
        return t.view(len(z), -1, self.grids[-1], self.grids[-1])

    def _phi(self, t: Tensor) -> Tensor:
        return elu(self.head(t))
