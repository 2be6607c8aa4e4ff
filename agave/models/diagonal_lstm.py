"""The diagonal bidirectional LSTM of PixelRNN (van den Oord et al. 2016a)."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from agave.models.causal_conv import CausalConv2d
from agave.models.layers import Checkpointed, at_least_float32, down_shift


def diagonals(height: int, width: int) -> tuple[Tensor, list[int]]:
    """Return the order in which an LSTM that comes from the left visits pixels: diagonal after diagonal, each from its upper end.

    Returns:
        The indices i * width + j in that order, (height * width,); the number of pixels of each of the height + width - 1 diagonals.
    """
    diagonal = torch.arange(height)[:, None] + torch.arange(width)
    lengths = [min(d + 1, height, width, height + width - 1 - d) for d in range(height + width - 1)]
    return diagonal.flatten().argsort(stable=True), lengths


def lstm(gates: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    """Return hidden state and cell of an LSTM, (..., h) each, from its gates o, f, i and input g, (..., 4h), and the cell before."""
    o, f, i, g = at_least_float32(gates).chunk(4, dim=-1)
    # PAPER: The paper does not mention a bias of the forget gate. It starts at 1, so that the cell remembers.
    c = torch.sigmoid(f + 1) * c + torch.sigmoid(i) * torch.tanh(g)
    return torch.sigmoid(o) * torch.tanh(c), c


class DiagonalBiLSTM(Checkpointed):
    """A residual layer of two LSTMs, one that comes from the left and one that comes from the right.

        o, f, i, g = input(t)(i, j) + K [h(i-1, j), h(i, j-1)]
        c(i, j) = sigmoid(f + 1) c(i, j-1) + sigmoid(i) tanh(g);  h(i, j) = sigmoid(o) tanh(c(i, j))
        t' = t + out(h_left + down_shift(h_right))

    The one from the right does the same on the mirrored image; its states are shifted down by a row, because they know pixels to the
    right. Both run in one scan over the diagonals of the image, whose pixels do not depend on each other. Tensors of both have a
    leading axis of 2.

    Args:
        channels: number of feature maps h of each LSTM; t has 2h.
        height: number of rows of the image.
        width: number of columns of the image.

    Source: van den Oord et al. (2016), Pixel Recurrent Neural Networks, sections 3.2 and 3.3.
    """

    order: Tensor
    inverse: Tensor

    def __init__(self, channels: int, height: int, width: int) -> None:
        super().__init__()
        self.channels, self.height = channels, height
        self.input = CausalConv2d(2 * channels, 8 * channels, (1, 1), "B", gate=7)  # 4h of each LSTM
        bound = 1 / math.sqrt(2 * channels)
        self.recurrent = nn.Parameter(torch.empty(2, 2 * channels, 4 * channels).uniform_(-bound, bound))  # K, [above, to the left]
        self.h0 = nn.Parameter(torch.zeros(2, height, 1, channels))  # state and cell to the left of each row
        self.c0 = nn.Parameter(torch.zeros(2, height, 1, channels))
        self.out = CausalConv2d(channels, 2 * channels, (1, 1), "B")
        order, self.lengths = diagonals(height, width)
        mirrored = order + width - 1 - 2 * (order % width)
        self.register_buffer("order", torch.stack((order, mirrored)), persistent=False)
        self.register_buffer("inverse", self.order.argsort(), persistent=False)

    def forward(self, t: Tensor) -> Tensor:
        """Return the next state, (B, 2h, H, W)."""
        return self.again(self._forward, t)

    def _forward(self, t: Tensor) -> Tensor:
        return t + self.out(self.states(t))  # type: ignore[no-any-return]

    def states(self, t: Tensor) -> Tensor:
        """Return h_left + down_shift(h_right): (B, 2h, H, W) -> (B, h, H, W)."""
        gates = select(self.gates(t), self.order)
        states = select(self.scan(gates, self.lengths, self.h0, self.c0), self.inverse)
        left, right = (as_feature_maps(one, self.height) for one in states)
        return left + down_shift(right)

    def gates(self, t: Tensor) -> Tensor:
        """Return what each pixel itself tells the gates: (B, 2h, H, W) -> (2, HW, B, 4h)."""
        told: Tensor = self.input(t).flatten(2)  # (B, 8h, HW)
        return torch.stack(told.permute(2, 0, 1).chunk(2, dim=2))

    def scan(self, gates: Tensor, lengths: list[int], h0: Tensor, c0: Tensor) -> Tensor:
        """Return the states of all pixels of an image, diagonal after diagonal.

        Args:
            gates: (2, HW, B, 4h), in the order of `diagonals`.
            lengths: number of pixels of each diagonal.
            h0: (2, H, 1, h), states to the left of each row.
            c0: (2, H, 1, h), cells to the left of each row.

        Returns:
            (2, HW, B, h), in the same order.
        """
        batch, height = gates.shape[2], h0.shape[1]
        width = len(lengths) - height + 1
        h = c = gates.new_zeros(2, 0, batch, h0.shape[3])
        found = []
        for diagonal, told in enumerate(torch.split(gates, lengths, dim=1)):
            if diagonal < height:  # a row begins
                h = torch.cat((h, h0[:, diagonal : diagonal + 1].expand(-1, -1, batch, -1)), dim=1)
                c = torch.cat((c, c0[:, diagonal : diagonal + 1].expand(-1, -1, batch, -1)), dim=1)
            above = F.pad(h, (0, 0, 0, 0, 1, 0))[:, :-1]  # of each row, the state that the row above had one column to the right
            if diagonal >= width:  # a row has ended
                h, c, above = h[:, 1:], c[:, 1:], above[:, 1:]
            seen = torch.cat((above, h), dim=3).flatten(1, 2)  # (2, pixels x B, 2h)
            told = torch.baddbmm(told.flatten(1, 2), seen, self.recurrent)
            h, c = lstm(told.view(2, -1, batch, told.shape[2]), c)
            found.append(h)
        return torch.cat(found, dim=1)


def as_feature_maps(states: Tensor, height: int) -> Tensor:
    """Return the states of one LSTM, in raster order, as feature maps: (HW, B, h) -> (B, h, H, W)."""
    maps = states.permute(1, 2, 0)
    return maps.reshape(*maps.shape[:2], height, -1)


def select(values: Tensor, order: Tensor) -> Tensor:
    """Return the pixels of each direction in another order: (2, HW, ...), indices (2, HW) -> (2, HW, ...)."""
    return torch.stack([one.index_select(0, places) for one, places in zip(values.unbind(), order.unbind(), strict=True)])
