"""The variational lossy autoencoder (Chen et al. 2017), its ResNet variant: an autoregressive prior, and a decoder with a small window."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from agave import config_networks
from agave.config import Model
from agave.config_networks import SystemBlock
from agave.models.interface import scale_to_unit
from agave.models.layers import MaskedConv2d, at_least_float32, folded, nin
from agave.models.ops import elu
from agave.models.residual import RESIDUAL_SCALE, PreActivatedConv2d, ResidualBlock, conv3x3, doubling, halving
from agave.models.window_decoded import WindowDecodedModel
from agave.models.window_pixelcnn import WindowPixelCNN
from agave.objective import free_bits
from agave.random_numbers import RandomNumbers


class MeanFlow(nn.Module):
    """The mean of each latent value given those before it, in reverse raster order: a PixelCNN with two hidden layers."""

    def __init__(self, latent: int, hidden: int) -> None:
        super().__init__()
        self.h0 = MaskedConv2d(latent, hidden, strict=False)
        self.h1 = MaskedConv2d(hidden, hidden, strict=False)
        self.mean = MaskedConv2d(hidden, latent, strict=True)

    def forward(self, z: Tensor) -> Tensor:
        """Return the means, of the shape of z (B, latent, h, w)."""
        return RESIDUAL_SCALE * at_least_float32(self.mean(elu(self.h1(elu(self.h0(z))))))


class AutoregressivePrior(nn.Module):
    """p(z): standard normal noise eps, transformed by autoregressive flows, between which the order of the values is reversed.

    A flow maps z to z - mean(z), where the mean of a value depends on the values before it, so its Jacobian is triangular with a
    diagonal of ones: log p(z) = log N(eps; 0, 1).

    Args:
        latent: feature maps of z.
        hidden: feature maps of the hidden layers of a flow.
        flows: number of flows.

    Source: Chen et al. (2017), section 3.2.
    """

    def __init__(self, latent: int, hidden: int, flows: int) -> None:
        super().__init__()
        # PAPER: The paper says that its flows shift and do not scale for binary images, and nothing about CIFAR-10. Ours shift.
        self.flows = nn.ModuleList(MeanFlow(latent, hidden) for _ in range(flows))

    def to_noise(self, z: Tensor) -> Tensor:
        """Return eps of z, both (B, latent, h, w)."""
        for index, flow in enumerate(self.flows):
            z = z if index == 0 else z.flip(1, 2, 3)
            z = z - flow(z)
        return z

    def from_noise(self, noise: Tensor) -> Tensor:
        """Return z of eps, the inverse of `to_noise`, by fixed-point iteration.

        Each iteration sets one more value of every image right for good, and after as many as there are values all are.
        """
        with folded(self):
            for index, flow in reversed(list(enumerate(self.flows))):
                z = noise
                for _ in range(noise[0].numel()):
                    z = noise + flow(z)
                noise = z if index == 0 else z.flip(1, 2, 3)
        return noise


class LossyVAE(WindowDecodedModel):
    """A VAE with a Gaussian posterior and an autoregressive prior; its latent variables hold what no window of pixels shows.

    Args:
        sizes: the block `table1.lossy_vae` of params.yaml.
        image_size: height and width of x, pixels; a multiple of 4.

    Source: Chen et al. (2017), section 4.3.
    """

    # PAPER: The bound of 2.95 is that of the DenseNet variant, whose growth rate the paper does not give. This is the ResNet variant, 3.04.
    system = "lossy_vae"

    def __init__(self, sizes: config_networks.LossyVAEModel, image_size: int) -> None:
        wide, deep = sizes.channels
        super().__init__(image_size, 4, WindowPixelCNN.from_options(sizes.decoder, wide))
        self.latent, self.free_bits = sizes.latent, sizes.free_bits
        # PAPER: The paper does not say how its residual blocks are made. Ours are those of the VAE with inverse autoregressive flow.
        self.encoder = nn.Sequential(
            conv3x3(3, wide),
            *(ResidualBlock(wide) for _ in range(2)),
            halving(wide, deep),
            *(ResidualBlock(deep) for _ in range(2)),
            halving(deep, deep),
            *(ResidualBlock(deep) for _ in range(3)),
            PreActivatedConv2d(deep, 2 * sizes.latent, (1, 1), init_scale=0.1),
        )
        self.prior = AutoregressivePrior(sizes.latent, sizes.flow_channels, sizes.flows)
        self.features = nn.Sequential(
            nin(sizes.latent, deep),
            *(ResidualBlock(deep) for _ in range(3)),
            doubling(deep, deep),
            *(ResidualBlock(deep) for _ in range(2)),
            doubling(deep, wide),
            *(ResidualBlock(wide) for _ in range(2)),
        )

    @classmethod
    def from_options(
        cls, options: Model, image_size: int, *, resolution: int | None = None, levels: int = 256, sizes: SystemBlock | None = None
    ) -> LossyVAE:
        """Make an untrained model; it has no auxiliary image."""
        assert isinstance(sizes, config_networks.LossyVAEModel)
        return cls(sizes, image_size)

    def encode(self, x_uint8: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and log-deviation of the posterior, (B, latent, H/4, W/4) each."""
        outputs = self.encoder(scale_to_unit(x_uint8, self.decoder.out.gain.dtype))
        mean, log_deviation = at_least_float32(outputs).chunk(2, dim=1)
        return mean, log_deviation

    def latent_noise(self, batch: int, numbers: RandomNumbers) -> list[Tensor]:
        """Return standard normal noise, (B, latent, H/4, W/4)."""
        grid = self.image_size // 4
        return [numbers.normal(0, (batch, self.latent, grid, grid), self.decoder.out.gain)]

    def infer(self, encoding: tuple[Tensor, Tensor], noise: list[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Return phi(z) with z from the posterior, (B, C, H, W), its sampled KL (B,), and the KL of the objective, with free bits."""
        mean, log_deviation = encoding
        (of_posterior,) = noise
        z = mean + torch.exp(log_deviation) * of_posterior
        of_prior = self.prior.to_noise(z)
        kl = (0.5 * of_prior.square() - 0.5 * of_posterior.square() - log_deviation).sum((1, 2, 3))  # log q(z|x) - log p(z)
        # PAPER: The paper scales the KL so that it stays near a target that it does not give. We use free bits on the whole KL.
        return self._phi(z), kl, free_bits(kl.unsqueeze(1), self.free_bits)

    def generate(self, noise: list[Tensor]) -> Tensor:
        """Return phi(z), (B, C, H, W), with z from the prior."""
        (of_prior,) = noise
        return self._phi(self.prior.from_noise(of_prior))

    def needs_whole_batch(self) -> str | None:
        """Return the parameter of free bits if it is above 0, because free bits need the batch mean of the KL."""
        return f"table1.lossy_vae.free_bits {self.free_bits:g}" if self.free_bits > 0 else None

    def _phi(self, z: Tensor) -> Tensor:
        return elu(self.features(z))
