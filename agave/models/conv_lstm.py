"""A convolutional LSTM that reads an image at twice the size of its own grid."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from agave.models.layers import WeightNormConv2d, at_least_float32


class LSTMState(NamedTuple):
    """State of a convolutional LSTM: its output h and its memory, (B, hidden, H / 2, W / 2) each."""

    h: Tensor
    memory: Tensor


class ConvLSTM(nn.Module):
    """A convolutional LSTM on the half grid.

    Args:
        image_channels: channels of its input at the size of x, which a stride of 2 halves.
        channels: channels of its other input, on the half grid.
        hidden: feature maps of its state.
        kernel: height and width of the kernels, odd.
    """

    def __init__(self, image_channels: int, channels: int, hidden: int, kernel: int) -> None:
        super().__init__()
        padding = (kernel // 2,) * 4
        self.read = WeightNormConv2d(image_channels, 4 * hidden, (kernel, kernel), stride=2, padding=padding)
        self.recur = WeightNormConv2d(channels + hidden, 4 * hidden, (kernel, kernel), padding=padding, bias=False)

    def forward(self, image: Tensor, x: Tensor, state: LSTMState) -> LSTMState:
        """Return the next state from inputs (B, image_channels, H, W) and (B, channels, H / 2, W / 2)."""
        gates = at_least_float32(self.read(image) + self.recur(torch.cat((x, state.h), dim=1)))
        let_in, keep, let_out, new = gates.chunk(4, dim=1)
        memory = torch.sigmoid(keep + 1) * state.memory + torch.sigmoid(let_in) * torch.tanh(new)  # + 1: at first it remembers
        return LSTMState(torch.sigmoid(let_out) * torch.tanh(memory), memory)
