"""PixelRNN: diagonal bidirectional LSTM layers and a softmax over 256 values (van den Oord et al. 2016a)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from agave import config_networks
from agave.config import Model
from agave.config_networks import SystemBlock
from agave.models.causal_conv import FIRST_KERNEL, CausalConv2d
from agave.models.diagonal_lstm import DiagonalBiLSTM, as_feature_maps, lstm
from agave.models.softmax import SoftmaxHead, SoftmaxModel, window
from agave.sampling.sub_pixels import PixelNetwork


class PixelRNN(SoftmaxModel):
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
    ) -> PixelRNN:
        """Make an untrained model; it has no auxiliary image."""
        assert isinstance(sizes, config_networks.PixelRNNModel)
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

    def __init__(self, model: PixelRNN, x: Tensor) -> None:
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
