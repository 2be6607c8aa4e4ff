"""PixelRNN: diagonal bidirectional LSTM layers and a softmax over 256 values (van den Oord et al. 2016a)."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from agave import config_networks
from agave.config import Model
from agave.config_networks import SystemBlock
from agave.models.layers import Checkpointed, at_least_float32, down_shift
from agave.models.masked_pixelcnn import FIRST_KERNEL, CausalConv2d, SoftmaxHead
from agave.models.softmax import SoftmaxModel, window
from agave.sampling.sub_pixels import PixelNetwork


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


class PixelRNNSystem(SoftmaxModel):
    """PixelRNN with diagonal bidirectional LSTM layers: every pixel depends on all pixels before it.

    Args:
        image_size: height and width of x, pixels.
        channels: number of feature maps h of an LSTM; 2h between the layers.
        layers: number of LSTM layers.
        head: number of feature maps of the two layers before the logits.

    Source: van den Oord et al. (2016), Pixel Recurrent Neural Networks, section 3.5 and Table 1.
    """

    system = "pixelrnn"

    def __init__(self, image_size: int, channels: int, layers: int, head: int) -> None:
        super().__init__(image_size)
        self.first = CausalConv2d(3, 2 * channels, (FIRST_KERNEL, FIRST_KERNEL), "A")
        self.layers = nn.ModuleList(DiagonalBiLSTM(channels, image_size, image_size) for _ in range(layers))
        self.head = SoftmaxHead(2 * channels, head, head)

    @classmethod
    def from_options(
        cls, options: Model, image_size: int, *, resolution: int | None = None, levels: int = 256, sizes: SystemBlock | None = None
    ) -> PixelRNNSystem:
        """Make an untrained model; it has no auxiliary image."""
        assert isinstance(sizes, config_networks.PixelRNN)
        return cls(image_size, sizes.channels, sizes.layers, sizes.head)

    def features(self, x: Tensor) -> Tensor:
        """Return what the head reads: x (B, 3, H, W) in [-1, 1] -> (B, 2h, H, W)."""
        t = self.first(x)
        for layer in self.layers:
            t = layer(t)
        return t  # type: ignore[no-any-return]

    def pixel_network(self, x: Tensor) -> PixelNetwork:
        """Return the network for drawing x, (B, 3, H, W) in [-1, 1], pixel by pixel."""
        return _KeptStates(self, x)


class _KeptStates:
    """The network for drawing: it keeps the states of the row above, and of the pixel to the left, and computes a pixel at a time."""

    def __init__(self, model: PixelRNNSystem, x: Tensor) -> None:
        self.model, self.x, self.row, self.column = model, x, 0, 0
        self.layers: list[DiagonalBiLSTM] = list(model.layers)  # type: ignore[arg-type]
        batch, _, _, width = x.shape
        self.above = [layer.h0.new_zeros(2, width, batch, layer.channels) for layer in self.layers]  # states of the row above
        self.left: list[tuple[Tensor, Tensor]] = []  # state and cell of the pixel to the left, a layer each

    def start_row(self, row: int) -> None:
        if row > 0:
            self._end_row()
        self.row, self.column = row, 0
        batch = len(self.x)
        self.left = [(layer.h0[0, row].expand(batch, -1), layer.c0[0, row].expand(batch, -1)) for layer in self.layers]

    def logits(self, column: int) -> Tensor:
        if column > self.column:  # the pixel to the left has got all its colours
            _, self.left = self._pixel(self.column)
            self.column = column
        t, _ = self._pixel(column)
        return self.model.head(t)[:, :, 0, 0]  # type: ignore[no-any-return]

    def _pixel(self, column: int) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
        """Return what the head reads, (B, 2h, 1, 1), and state and cell of each layer."""
        seen, at = window(self.x, self.row, column, FIRST_KERNEL // 2)
        t, states = self.model.first(seen)[:, :, -1:, at : at + 1], []
        for layer, above, (h, c) in zip(self.layers, self.above, self.left, strict=True):
            gates = torch.addmm(layer.gates(t)[0, 0], torch.cat((above[0, column], h), dim=1), layer.recurrent[0])
            h, c = lstm(gates, c)
            t = t + layer.out((h + above[1, column])[:, :, None, None])
            states.append((h, c))
        return t, states

    def _end_row(self) -> None:
        """Compute the states of both LSTMs for the row, which is complete."""
        here = slice(self.row, self.row + 1)
        t = self.model.first(self.x[:, :, max(0, self.row - FIRST_KERNEL // 2) : self.row + 1])[:, :, -1:]
        for k, (layer, above) in enumerate(zip(self.layers, self.above, strict=True)):
            gates = layer.gates(t) + above @ layer.recurrent[:, None, : layer.channels]
            states = mirrored(layer.scan(mirrored(gates), [1] * gates.shape[1], layer.h0[:, here], layer.c0[:, here]))
            t = t + layer.out(as_feature_maps(states[0] + above[1], height=1))
            self.above[k] = states


def mirrored(states: Tensor) -> Tensor:
    """Turn round the LSTM that comes from the right, of a single row (2, W, ...)."""
    return torch.stack((states[0], states[1].flip(0)))
