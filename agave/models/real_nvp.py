"""Real NVP (Dinh, Sohl-Dickstein & Bengio 2017): affine couplings at several scales, on the logit of an image."""

from __future__ import annotations

import math
from collections.abc import Collection

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from agave import config_networks
from agave.config import Model
from agave.config_networks import SystemBlock
from agave.models.couplings import ChannelCoupling, CheckerboardCoupling, Couplings
from agave.models.dequantised import DequantisedDensity
from agave.models.layers import data_dependent_initialisation
from agave.models.squeezing import checkerboard, ordered_squeeze, ordered_unsqueeze, squeeze
from agave.random_numbers import RandomNumbers


def logit(v: Tensor, alpha: float) -> tuple[Tensor, Tensor]:
    """Return y = log(p / (1 - p)) with p = alpha + (1 - 2 alpha) v / 256, and its log-determinant.

    Args:
        v: (B, ...) in level units, 0 to 256.
        alpha: distance that p keeps from 0 and 1, above 0.

    Returns:
        y, shape of v, and sum log |dy/dv|, (B,) nats.
    """
    # PAPER: Section 4.1 prints alpha + (1 - alpha) v / 256, whose slope has no bound at v = 256. The released code keeps the same distance
    # from both ends; so do we.
    log_p, log_q = torch.log(alpha + (1 - 2 * alpha) * v / 256), torch.log(alpha + (1 - 2 * alpha) * (256 - v) / 256)
    return log_p - log_q, (math.log((1 - 2 * alpha) / 256) - log_p - log_q).flatten(1).sum(1)


class FlowScale(nn.Module):
    """The couplings of one scale: checkerboards, and but for the last scale channels of the squeezed image.

    Args:
        size: height and width of x.
        image_channels: number of channels C of x.
        channels: number of feature maps of the checkerboard couplings; channel couplings have twice as many.
        blocks: number of residual blocks of a coupling.
        last: whether this is the last scale.
    """

    def __init__(self, size: int, image_channels: int, channels: int, blocks: int, last: bool) -> None:
        super().__init__()
        boards = [checkerboard(size, size, odd) for odd in (False, True, False, True)[: 4 if last else 3]]
        halves = () if last else (True, False, True)
        self.pixels = Couplings(CheckerboardCoupling(passes, image_channels, channels, blocks) for passes in boards)
        self.channels = Couplings(ChannelCoupling(first, 4 * image_channels, 2 * channels, blocks) for first in halves)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return y, shape of x, and log |det dy/dx| (B,), for x (B, C, H, W)."""
        x, of_pixels = self.pixels(x)
        y, of_channels = self.channels(squeeze(x))
        return F.pixel_shuffle(y, 2), of_pixels + of_channels

    def inverse(self, y: Tensor) -> Tensor:
        """Return x."""
        return self.pixels.inverse(F.pixel_shuffle(self.channels.inverse(squeeze(y)), 2))


class MultiScaleFlow(nn.Module):
    """All scales. After each but the last, half of the values are independent and the others go on at half the size.

    Args:
        size: height and width of y, a multiple of 2^scales.
        scales: number of scales.
        channels: number of feature maps of the first couplings.
        blocks: number of residual blocks of a coupling.

    Raises:
        ValueError: the size is no such multiple.

    Source: Dinh et al. (2017), section 3.6 and Figure 4.
    """

    def __init__(self, size: int, scales: int, channels: int, blocks: int) -> None:
        super().__init__()
        if size % 2**scales:
            raise ValueError(f"image_size {size} with {scales} scales; accepted: multiples of {2**scales}")
        self.size = size
        self.scales = nn.ModuleList(FlowScale(size >> k, 3 << k, channels << k, blocks, last=k == scales - 1) for k in range(scales))

    def forward(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """Return z (B, 3 H W), scale after scale, and log |det dz/dy| (B,), for y (B, 3, H, W)."""
        found, log_dets = [], []
        for scale in self.scales[:-1]:
            y, log_det = scale(y)
            y, factored = ordered_squeeze(y)
            found.append(factored.flatten(1))
            log_dets.append(log_det)
        y, log_det = self.scales[-1](y)
        return torch.cat((*found, y.flatten(1)), dim=1), torch.stack((*log_dets, log_det)).sum(0)

    def inverse(self, z: Tensor) -> Tensor:
        """Return y (B, 3, H, W) from z (B, 3 H W)."""
        further, whole = len(self.scales) - 1, 3 * self.size**2
        *found, last = torch.split(z, [whole >> k for k in range(1, further + 1)] + [whole >> further], dim=1)
        y: Tensor = self.scales[-1].inverse(last.reshape(len(z), 3 << further, self.size >> further, -1))  # type: ignore[operator]
        for scale, factored in zip(reversed(self.scales[:-1]), reversed(found), strict=True):
            y = scale.inverse(ordered_unsqueeze(y, factored.reshape(y.shape)))  # type: ignore[operator]
        return y


class RealNVP(DequantisedDensity):
    """Real NVP: the logit of an image, then couplings that make its values independent and normal.

    Args:
        image_size: height and width of x, pixels; a multiple of 2^scales.
        scales: number of scales.
        channels: number of feature maps of the first couplings; each squeeze and each scale doubles it.
        blocks: number of residual blocks of a coupling.
        alpha: distance from 0 and 1 that the logit keeps.

    Source: Dinh et al. (2017).
    """

    # PAPER: Real NVP trained with Adam, an L2 penalty on the gains, clipped gradients and mirrored images.
    # Ours trains as all systems here do.

    system = "real_nvp"

    def __init__(self, image_size: int, scales: int, channels: int, blocks: int, alpha: float) -> None:
        super().__init__(image_size)
        self.alpha, self.flow = alpha, MultiScaleFlow(image_size, scales, channels, blocks)

    @classmethod
    def from_options(
        cls, options: Model, image_size: int, *, resolution: int | None = None, levels: int = 256, sizes: SystemBlock | None = None
    ) -> RealNVP:
        """Make an untrained model; it has no auxiliary image."""
        assert isinstance(sizes, config_networks.RealNVPModel)
        return cls(image_size, sizes.scales, sizes.channels, sizes.blocks, sizes.alpha)

    @torch.no_grad()
    def initialise(self, x_uint8: Tensor, y_uint8: Tensor | None = None, pretrained: Collection[str] = ()) -> None:
        """Initialise the couplings from data, one after another."""
        with data_dependent_initialisation(self):
            self(x_uint8)

    def standardise(self, v: Tensor) -> tuple[Tensor, Tensor]:
        """Return the logit."""
        return logit(v, self.alpha)

    def to_levels(self, y: Tensor) -> Tensor:
        """Undo the logit."""
        return (torch.sigmoid(y) - self.alpha) / (1 - 2 * self.alpha) * 256

    def log_prior(self, z: Tensor) -> Tensor:
        """Return the log-density of the standard normal."""
        return -0.5 * (z.square() + math.log(2 * math.pi))

    def draw_prior(self, numbers: RandomNumbers, shape: tuple[int, ...], like: Tensor) -> Tensor:
        """Return standard normal values."""
        return numbers.normal(0, shape, like)
