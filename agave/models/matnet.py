"""The Matryoshka network (Bachman 2016): latent variables at several grids, joined by deterministic paths. Our reading."""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

import torch
from torch import Tensor, nn

from agave import config_networks
from agave.config import Model
from agave.config_networks import SystemBlock
from agave.models.gaussian import Gaussian
from agave.models.interface import scale_to_unit
from agave.models.layers import Checkpointed, WeightNormConv2d, data_dependent_initialisation, nin
from agave.models.ops import elu
from agave.models.residual import RESIDUAL_SCALE, PreActivatedConv2d, ResidualBlock, conv3x3, doubling, halving
from agave.models.window_decoded import WindowDecodedModel
from agave.models.window_pixelcnn import WindowPixelCNN
from agave.random_numbers import RandomNumbers


class BottomUpStates(NamedTuple):
    """The result of the bottom-up pass: its state before every module, lowest first, and its last state; (B, channels, h, w) each."""

    before: list[Tensor]
    last: Tensor


class LatentModule(Checkpointed):
    """One module: a step of the bottom-up pass, of the merge path, and of the top-down pass with its latent variables.

    In the top-down pass z is drawn from p(z|t), or for inference from q(z|m), where m merges the top-down state t with the bottom-up
    state b. Nothing of m or b reaches t but through z.

    Args:
        channels: feature maps of every state.
        latent: latent feature maps (z).
        finer: feature maps on the next finer grid, for the lowest module of a grid, which joins the two grids; None: it joins none.
    """

    def __init__(self, channels: int, latent: int, finer: int | None) -> None:
        super().__init__()
        self.coarser = nn.Identity() if finer is None else halving(finer, channels)
        self.bottom_up = ResidualBlock(channels)
        self.merge = nn.Sequential(conv3x3(3 * channels, channels), conv3x3(channels, channels))
        self.posterior = conv3x3(channels, 2 * latent, init_scale=0.1)
        self.prior = nn.Sequential(conv3x3(channels, channels), conv3x3(channels, 2 * latent, init_scale=0.1))
        self.step = nn.Sequential(conv3x3(latent + channels, channels), conv3x3(channels, channels))
        self.finer = nn.Identity() if finer is None else doubling(channels, finer)
        self.finer_merged = nn.Identity() if finer is None else doubling(channels, finer)

    def infer(self, t: Tensor, m: Tensor, b: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return the next t and m, and the sampled and the analytic KL, (B,) nats each.

        Args:
            t: state of the top-down pass, (B, channels, h, w).
            m: state of the merge path, of the same shape.
            b: state of the bottom-up pass before this module, of the same shape.
            noise: (B, latent, h, w), standard normal.
        """
        m = m + RESIDUAL_SCALE * self.merge(torch.cat((t, b, m), dim=1))
        prior, posterior = Gaussian.from_outputs(self.prior(t)), Gaussian.from_outputs(self.posterior(m))
        z = posterior.draw(noise)
        return self._next(t, z), self.finer_merged(m), posterior.log_prob(z) - prior.log_prob(z), posterior.kl(prior).flatten(1).sum(1)

    def generate(self, t: Tensor, noise: Tensor) -> Tensor:
        """Return the next t, with z from the prior; the arguments are those of `infer`."""
        return self._next(t, Gaussian.from_outputs(self.prior(t)).draw(noise))

    def _next(self, t: Tensor, z: Tensor) -> Tensor:
        found: Tensor = self.finer(t + RESIDUAL_SCALE * self.step(torch.cat((z, t), dim=1)))
        return found


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

    def __init__(self, sizes: config_networks.MatNetModel, image_size: int) -> None:
        finest, coarsest = sizes.channels[0], sizes.channels[-1]
        super().__init__(image_size, sizes.divisor, WindowPixelCNN.from_options(sizes.decoder, finest))
        self.latent, self.top = sizes.latent, sizes.top
        stem = WeightNormConv2d(3, finest // 2, (3, 3), stride=sizes.stride, padding=(1, 1, 1, 1))
        self.stem = nn.Sequential(stem, conv3x3(finest // 2, finest))
        self.grids: list[int] = []  # height and width of each module, lowest first
        self.stack = nn.ModuleList()
        for level, (channels, number) in enumerate(zip(sizes.channels, sizes.modules, strict=True)):
            self.grids += [image_size // sizes.stride >> level] * number
            for place in range(number):
                self.stack.append(LatentModule(channels, sizes.latent, sizes.channels[level - 1] if level > 0 and place == 0 else None))
        self.top_posterior = nn.Sequential(
            PreActivatedConv2d(coarsest, sizes.top_hidden, (self.grids[-1], self.grids[-1])),
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
        assert isinstance(sizes, config_networks.MatNetModel)
        return cls(sizes, image_size)

    @torch.no_grad()
    def initialise(self, x_uint8: Tensor, y_uint8: Tensor | None = None, pretrained: Collection[str] = ()) -> None:
        """Initialise the network from data, except what follows the top vector: its input is standard normal, and a batch has few of it."""
        with data_dependent_initialisation(*(part for name, part in self.named_children() if name != "begin")):
            self(x_uint8)

    def encode(self, x_uint8: Tensor) -> BottomUpStates:
        """Run the bottom-up pass."""
        b, before = self.stem(scale_to_unit(x_uint8, self.decoder.out.gain.dtype)), []
        for module in self.stack:
            before.append(module.coarser(b))  # type: ignore[operator]
            b = module.bottom_up(before[-1])  # type: ignore[operator]
        return BottomUpStates(before, b)

    def latent_noise(self, batch: int, numbers: RandomNumbers) -> list[Tensor]:
        """Return standard normal noise: (B, top, 1, 1), then (B, latent, h, w) for each module in the order of generation."""
        shapes = [(batch, self.top, 1, 1)] + [(batch, self.latent, grid, grid) for grid in reversed(self.grids)]
        return [numbers.normal(index, shape, self.decoder.out.gain) for index, shape in enumerate(shapes)]

    def infer(self, encoding: BottomUpStates, noise: list[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Return phi(z) with z from the posterior, (B, C, H, W), its sampled KL (B,), and the analytic KL summed over the batch."""
        of_top, *of_modules = noise
        m = encoding.last
        posterior = Gaussian.from_outputs(self.top_posterior(m))
        prior = Gaussian(torch.zeros_like(posterior.mean), torch.zeros_like(posterior.mean))
        z = posterior.draw(of_top)
        t, kl, analytic = self._begin(z), posterior.log_prob(z) - prior.log_prob(z), posterior.kl(prior).flatten(1).sum(1)
        for module, b, one in zip(reversed(self.stack), reversed(encoding.before), of_modules, strict=True):
            t, m, sampled, exact = module.again(module.infer, t, m, b, one)  # type: ignore[operator]
            kl, analytic = kl + sampled, analytic + exact
        return self._phi(t), kl, analytic.sum()

    def generate(self, noise: list[Tensor]) -> Tensor:
        """Return phi(z), (B, C, H, W), with z from the prior."""
        of_top, *of_modules = noise
        t = self._begin(of_top)
        for module, one in zip(reversed(self.stack), of_modules, strict=True):
            t = module.generate(t, one)  # type: ignore[operator]
        return self._phi(t)

    def _begin(self, z: Tensor) -> Tensor:
        """Return the first state t of the top-down pass, from the top vector (B, top, 1, 1)."""
        t: Tensor = self.begin(z)
        return t.view(len(z), -1, self.grids[-1], self.grids[-1])

    def _phi(self, t: Tensor) -> Tensor:
        return elu(self.head(t))
