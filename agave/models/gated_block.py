"""The gated residual block of PixelCNN++, of which both of its streams consist."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from agave.models.layers import Checkpointed, WeightNormConv2d, nin
from agave.models.ops import Activation, activation, gate

INJECTION_SCALE = 0.05
"""Initial standard deviation of what the feature stream adds in a gated block.

Small enough that a pretrained network hardly notices (about 0.2 bits/dim in the preset `demo`), large enough that the
weights of the feature stream get a gradient from the first step. From zero it took several times as many steps until samples followed f(z).
"""


class Stream(NamedTuple):
    """State of one of the two streams at a layer.

    Attributes:
        value: t, (B, F, H, W).
        active: concat_elu(t), (B, 2F, H, W), without and with the zeros that its convolutions need; computed once for all of them.
    """

    value: Tensor
    active: Activation


class SkipConv(WeightNormConv2d):
    """A 1x1 convolution of concat_elu([s1, s2]), channel order [s1, s2, -s1, -s2].

    It is computed as a sum of one convolution a tensor, so that the tensors need not be concatenated.
    """

    def forward(self, *skips: Activation) -> Tensor:  # type: ignore[override]
        """Convolve concat_elu of each, (B, 2 C_i, H, W) -> (B, out, H, W)."""
        active = [skip.plain for skip in skips if skip.plain is not None]
        if len(active) == 1:
            return super().forward(active[0])
        if self.initialising:
            halves = [one.chunk(2, dim=1) for one in active]
            return super().forward(torch.cat([plus for plus, _ in halves] + [minus for _, minus in halves], dim=1))
        sizes = [one.shape[1] // 2 for one in active]
        weights = torch.split(self.weight(), 2 * sizes, dim=1)
        matrices = [torch.cat(pair, dim=1) for pair in zip(weights[: len(active)], weights[len(active) :], strict=True)]
        out = F.conv2d(active[0], matrices[0], self.bias)
        for one, matrix in zip(active[1:], matrices[1:], strict=True):
            out += F.conv2d(one, matrix)
        return out


class GatedBlock(Checkpointed):
    """Gated residual block of one stream, with a skip input a and a feature phi.

        c1 = conv1(concat_elu(t)) + skip(concat_elu(a))
        c2 = conv2(dropout(concat_elu(c1))) + inject(phi)
        p, q = c2.chunk(2)
        return t + p * sigmoid(q)

    Args:
        conv: `down_conv` (u stream) or `down_right_conv` (ul stream).
        filters: feature maps F of t.
        skip_channels: channels of the skip input; 0: none.
        stream_channels: channels of the feature; 0: none.
        dropout: probability of dropping an activation between the convolutions.
        conv2: the second convolution, where it is of another kind than the first; None: `conv`.
        injection_scale: initial standard deviation of what the feature adds.

    Source: Salimans et al. (2017), section 2.4; conditioning in the place of the class vector.
    """

    def __init__(
        self,
        conv: Any,
        filters: int,
        skip_channels: int,
        stream_channels: int,
        dropout: float = 0.0,
        *,
        conv2: Any = None,
        injection_scale: float = INJECTION_SCALE,
    ) -> None:
        super().__init__()
        self.conv1: WeightNormConv2d = conv(2 * filters, filters)
        self.skip = SkipConv(2 * skip_channels, filters, (1, 1)) if skip_channels else None
        self.conv2: WeightNormConv2d = (conv2 or conv)(2 * filters, 2 * filters, init_scale=0.1)
        # PAPER: The paper does not say how the feature stream enters a layer. Here it is added before the gate of every block.
        self.inject = nin(stream_channels, 2 * filters, init_scale=injection_scale) if stream_channels else None
        self.dropout = dropout

    def forward(self, t: Stream, skips: tuple[Activation, ...] = (), phi: Tensor | None = None, keep: Tensor | None = None) -> Stream:
        """Return the next state of the stream.

        Args:
            t: state of this stream.
            skips: concat_elu of the skip inputs, 2 x `skip_channels` channels in all.
            phi: feature (B, stream channels, H, W).
            keep: (B, H, W, 2F) booleans, False for the activations that are dropped; None: none are.
        """
        return self.again(self._forward, t, skips, phi, keep)

    def _forward(self, t: Stream, skips: tuple[Activation, ...], phi: Tensor | None, keep: Tensor | None) -> Stream:
        c1 = self.conv1(t.active)  # (B, F, H, W)
        if self.skip is not None and skips:
            c1 += self.skip(*skips)
        c2 = self.conv2(activation(c1, self.conv2.padding, keep=keep, dropout=self.dropout, plain=False))  # (B, 2F, H, W)
        if self.inject is not None and phi is not None:
            c2 += self.inject(phi)
        return self.stream(gate(t.value, c2))  # t + p * sigmoid(q)

    def stream(self, value: Tensor) -> Stream:
        """Return t (B, F, H, W) together with its activation, as this kind of block reads it."""
        return Stream(value, activation(value, self.conv1.padding))
