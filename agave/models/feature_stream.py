"""The feature stream, which brings f(z) to every gated block of PixelCNN++ (AGAVE paper, section 4.1)."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from agave.models.layers import WeightNormConv2d
from agave.models.ops import elu


class FeatureStream(nn.Module):
    """Non-masked convolutions on f(z): one activation per gated block, at the resolution of that block.

    Args:
        feature_channels: channels of f(z).
        stream_channels: feature maps of the stream.
        blocks_up: gated blocks per resolution in the up pass, finest grid first.
        blocks_down: gated blocks per resolution in the down pass, coarsest grid first.

    Source: AGAVE paper, section 4.1: "standard non-masked convolutional layers [...], as many as there are pixelCNN layers".
    """

    def __init__(self, feature_channels: int, stream_channels: int, blocks_up: list[int], blocks_down: list[int]) -> None:
        super().__init__()
        channels = stream_channels

        def conv(in_channels: int, init_scale: float = 1.0) -> WeightNormConv2d:
            return WeightNormConv2d(in_channels, channels, (3, 3), padding=(1, 1, 1, 1), init_scale=init_scale)

        # PAPER: The paper gives neither kernel sizes nor connections of the stream. Ours is 3x3 and residual, so 32 layers preserve f(z).
        self.first = conv(feature_channels)
        self.up = nn.ModuleList(nn.ModuleList(conv(channels, 0.3) for _ in range(n)) for n in blocks_up)
        self.downsize = nn.ModuleList(WeightNormConv2d(channels, channels, (3, 3), stride=2, padding=(1, 1, 1, 1)) for _ in blocks_up[1:])
        self.down = nn.ModuleList(nn.ModuleList(conv(channels, 0.3) for _ in range(n)) for n in blocks_down)
        self.upsize = nn.ModuleList(
            WeightNormConv2d(channels, channels, (3, 3), stride=2, padding=(1, 0, 1, 0), transposed=True) for _ in blocks_down[1:]
        )

    def forward(self, features: Float[Tensor, "b c h w"]) -> tuple[list[list[Tensor]], list[list[Tensor]]]:
        """Map f(z) (B, C, H, W) to activations [resolution][block] of the up pass and of the down pass, ready for injection."""
        phi = self.first(features.contiguous(memory_format=torch.channels_last))
        active = elu(phi)  # what convolutions and injections read
        up: list[list[Tensor]] = []
        ends = []
        for s, convs in enumerate(self.up):
            if s > 0:
                phi = self.downsize[s - 1](active)
                active = elu(phi)
            up.append([])
            for conv in convs:  # type: ignore[attr-defined]
                phi = phi + conv(active)
                active = elu(phi)
                up[-1].append(active)
            ends.append(phi)
        down: list[list[Tensor]] = []
        for s, convs in enumerate(self.down):
            if s > 0:
                phi = self.upsize[s - 1](active) + ends[-1 - s]
                active = elu(phi)
            down.append([])
            for conv in convs:  # type: ignore[attr-defined]
                phi = phi + conv(active)
                active = elu(phi)
                down[-1].append(active)
        return up, down
