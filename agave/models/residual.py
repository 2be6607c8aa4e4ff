"""Residual blocks and changes of grid, of which encoders and decoders with several grids consist."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from agave.models.layers import Checkpointed, WeightNormConv2d
from agave.models.ops import Activation, elu

RESIDUAL_SCALE = 0.1  # of residual branches, as in vae_iaf.py


class PreActivatedConv2d(WeightNormConv2d):
    """A weight-normalised convolution of elu(x)."""

    def forward(self, x: Tensor | Activation) -> Tensor:
        """Convolve elu(x), (B, in, H, W)."""
        assert isinstance(x, Tensor), "the nonlinearity is this layer's own"
        return super().forward(elu(x))


def conv3x3(in_channels: int, out_channels: int, **options: Any) -> PreActivatedConv2d:
    """Make a 3x3 convolution of elu(x) that keeps the grid."""
    return PreActivatedConv2d(in_channels, out_channels, (3, 3), padding=(1, 1, 1, 1), **options)


def halving(in_channels: int, out_channels: int) -> PreActivatedConv2d:
    """Make a 3x3 convolution of elu(x) with stride 2, for grids of even size."""
    return conv3x3(in_channels, out_channels, stride=2)


def doubling(in_channels: int, out_channels: int) -> PreActivatedConv2d:
    """Make a transposed 3x3 convolution of elu(x) with stride 2."""
    return PreActivatedConv2d(in_channels, out_channels, (3, 3), stride=2, padding=(1, 0, 1, 0), transposed=True)


class ResidualBlock(Checkpointed):
    """Two 3x3 convolutions beside an identity: h + 0.1 outer(elu(inner(elu(h))))."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.inner, self.outer = conv3x3(channels, channels), conv3x3(channels, channels)

    def forward(self, h: Tensor) -> Tensor:
        """Return the next state, of the shape of h (B, channels, H, W)."""
        found: Tensor = self.again(self._forward, h)
        return found

    def _forward(self, h: Tensor) -> Tensor:
        return h + RESIDUAL_SCALE * self.outer(self.inner(h))  # type: ignore[no-any-return]
