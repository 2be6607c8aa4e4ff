"""Affine couplings of images: half of the values pass through and decide how the other half is shifted and scaled."""

from __future__ import annotations

from abc import abstractmethod

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from agave.models.layers import Checkpointed, DataDependent, WeightNormConv2d, at_least_float32, full_precision, nin


class CouplingBlock(nn.Module):
    """Two convolutions, each after a rectifier, that add to their input."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1, self.conv2 = _conv3x3(channels, channels), _conv3x3(channels, channels)

    def forward(self, h: Tensor) -> Tensor:
        """Compute (B, channels, H, W) -> (B, channels, H, W)."""
        return h + self.conv2(F.relu(self.conv1(F.relu(h))))  # type: ignore[no-any-return]


class ResidualNetwork(nn.Module):
    """A residual network at one resolution, whose output layer sees the input and the output of every block.

    Args:
        inputs: number of channels of the input.
        channels: number of feature maps.
        blocks: number of residual blocks.
        outputs: number of channels of the output.

    Source: Dinh et al. (2017), section 3.7 and the released code.
    """

    # PAPER: Real NVP has batch normalisation, which makes the likelihood of an image depend on its batch or on running averages. Here
    # weight normalisation with data-dependent initialisation takes its place in the networks, and after each coupling ActNorm does.

    def __init__(self, inputs: int, channels: int, blocks: int, outputs: int) -> None:
        super().__init__()
        self.stem = _conv3x3(inputs, channels)
        self.blocks = nn.ModuleList(CouplingBlock(channels) for _ in range(blocks))
        self.skips = nn.ModuleList(nin(channels, channels) for _ in range(blocks + 1))
        self.out = nin(channels, outputs, init_scale=0.1)  # couplings start near the identity

    def forward(self, x: Tensor) -> Tensor:
        """Compute (B, inputs, H, W) -> (B, outputs, H, W)."""
        h = self.stem(F.relu(x))
        total = self.skips[0](h)
        for block, skip in zip(self.blocks, self.skips[1:], strict=True):
            h = block(h)
            total = total + skip(h)
        with full_precision(total):
            return self.out(F.relu(at_least_float32(total)))  # type: ignore[no-any-return]


def _conv3x3(inputs: int, outputs: int) -> WeightNormConv2d:
    return WeightNormConv2d(inputs, outputs, (3, 3), padding=(1, 1, 1, 1))


class ActNorm(DataDependent):
    """A shift and a scale of every channel, which start so that the first images have mean 0 and variance 1.

    Source: Kingma & Dhariwal (2018), section 3.1.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.zeros(channels, 1, 1))
        self.log_scale = nn.Parameter(torch.zeros(channels, 1, 1))

    def forward(self, x: Tensor, free: Tensor) -> tuple[Tensor, Tensor]:
        """Return y = (x + shift) exp(log_scale) where `free` is 1 and x where it is 0, and the log-scale of each value.

        Args:
            x: (B, C, H, W).
            free: a mask that broadcasts with x.
        """
        if self.initialising:
            self._initialise(x, free)
        log_scale = free * self.log_scale.to(x.dtype)
        return (x + free * self.shift) * torch.exp(log_scale), log_scale

    def inverse(self, y: Tensor, free: Tensor) -> Tensor:
        """Return x from y, both (B, C, H, W)."""
        return y * torch.exp(-free * self.log_scale.to(y.dtype)) - free * self.shift

    @torch.no_grad()
    def _initialise(self, x: Tensor, free: Tensor) -> None:
        weight = free.expand_as(x)
        count = weight.sum((0, 2, 3))
        mean = (weight * x).sum((0, 2, 3)) / count
        variance = (weight * (x - mean[:, None, None]).square()).sum((0, 2, 3)) / count
        self.shift.copy_(-mean[:, None, None])
        self.log_scale.copy_(-0.5 * torch.log(variance[:, None, None] + 1e-4))


class AffineCoupling(Checkpointed):
    """One coupling: y = (x + t) exp(s), then ActNorm, where x is free; s and t are computed from the values that pass.

    The network computes r and t; s = c tanh(r) with a learned number c, so that the scales are bounded.

    Args:
        inputs: number of channels of what the network is given.
        changed: number of channels that hold the free values.
        channels: number of feature maps.
        blocks: number of residual blocks.
        limit: start of c.

    Source: Dinh et al. (2017), section 3 and the released code.
    """

    # PAPER: Eq. 9 of Real NVP scales, then shifts. The released code shifts, then scales: the same family of maps. We follow the code.

    def __init__(self, inputs: int, changed: int, channels: int, blocks: int, limit: float) -> None:
        super().__init__()
        self.network = ResidualNetwork(inputs, channels, blocks, 2 * changed)
        self.limit = nn.Parameter(torch.tensor(limit))  # c
        self.norm = ActNorm(changed)

    @abstractmethod
    def split(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return what the network is given, the values with those that change, and where these are free (1) or pass (0)."""

    @abstractmethod
    def join(self, x: Tensor, changed: Tensor) -> Tensor:
        """Return x with the changed values in their places."""

    def scale_and_shift(self, given: Tensor, free: Tensor) -> tuple[Tensor, Tensor]:
        """Return s and t, zeros where nothing changes."""
        r, t = self.again(self.network, given.to(self.limit.dtype)).chunk(2, dim=1)
        s = self.limit.to(free.dtype) * torch.tanh(r.to(free.dtype))
        return free * s, free * t

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return y (B, C, H, W) and log |det dy/dx| (B,) for x (B, C, H, W)."""
        given, changed, free = self.split(x)
        s, t = self.scale_and_shift(given, free)
        changed, log_scale = self.norm((changed + t) * torch.exp(s), free)
        return self.join(x, changed), (s + log_scale).sum((1, 2, 3))

    def inverse(self, y: Tensor) -> Tensor:
        """Return x from y: what passes is the same in both."""
        given, changed, free = self.split(y)
        s, t = self.scale_and_shift(given, free)
        return self.join(y, self.norm.inverse(changed, free) * torch.exp(-s) - t)


class CheckerboardCoupling(AffineCoupling):
    """A coupling in which every other pixel passes.

    Args:
        passes: (H, W), 1 where a pixel passes through and 0 where it is changed.
        image_channels: number of channels C of x.
        channels: number of feature maps.
        blocks: number of residual blocks.
    """

    passes: Tensor

    def __init__(self, passes: Tensor, image_channels: int, channels: int, blocks: int) -> None:
        super().__init__(2 * image_channels + 1, image_channels, channels, blocks, limit=0.0)
        self.register_buffer("passes", passes, persistent=False)

    def split(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the pixels that pass with both signs and the mask, all pixels, and where they are free."""
        passes = self.passes.to(x.dtype)
        seen = passes * x
        return torch.cat((seen, -seen, passes.expand_as(x[:, :1])), dim=1), x, 1 - passes[None]

    def join(self, x: Tensor, changed: Tensor) -> Tensor:
        """Return the changed values, among which those that pass are as they were."""
        return changed


class ChannelCoupling(AffineCoupling):
    """A coupling in which half of the channels pass.

    Args:
        first_passes: whether the first half passes and the second half is changed.
        image_channels: number of channels C of x, even.
        channels: number of feature maps.
        blocks: number of residual blocks.
    """

    def __init__(self, first_passes: bool, image_channels: int, channels: int, blocks: int) -> None:
        super().__init__(image_channels, image_channels // 2, channels, blocks, limit=1.0)
        self.first_passes = first_passes

    def split(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the half that passes with both signs, the other half, and a mask that is 1 everywhere."""
        seen, changed = x.chunk(2, dim=1) if self.first_passes else x.chunk(2, dim=1)[::-1]
        return torch.cat((seen, -seen), dim=1), changed, torch.ones_like(changed[:1])

    def join(self, x: Tensor, changed: Tensor) -> Tensor:
        """Return both halves in their order."""
        first, second = x.chunk(2, dim=1)
        return torch.cat((first, changed) if self.first_passes else (changed, second), dim=1)


class Couplings(nn.ModuleList):
    """Couplings one after another."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor | float]:
        """Return y, shape of x, and log |det dy/dx| (B,), for x (B, C, H, W); the identity if there are none."""
        total: Tensor | float = 0.0
        for coupling in self:
            x, log_det = coupling(x)
            total = total + log_det
        return x, total

    def inverse(self, y: Tensor) -> Tensor:
        """Return x."""
        for coupling in reversed(self):
            y = coupling.inverse(y)  # type: ignore[operator]
        return y
