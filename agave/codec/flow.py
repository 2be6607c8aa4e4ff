"""Run the inverse autoregressive flow one latent value after the other, so that every hidden activation is computed once.

Values are in reverse raster order, feature map by feature map inside a pixel. A pixel needs the one to its right and the three below
it. So all pixels (row, column) with the same 2 row + column can run together, from the largest sum to the smallest: 46 steps instead of
256 for a grid of 16 x 16 pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from agave.codec.entropy import Floats
from agave.models.layers import MaskedConv2d
from agave.models.vae_iaf import RESIDUAL_SCALE, AutoregressiveNet

Value = TypeVar("Value", bound=np.generic)

_NEIGHBOURS = ((1, 2), (2, 0), (2, 1), (2, 2))  # taps (row, column) of a 3x3 kernel, besides its centre, that the masks leave


class Front(NamedTuple):
    """Latent values that do not depend on each other: rows and columns of P pixels, and feature maps; of all images."""

    rows: NDArray[np.int64]
    columns: NDArray[np.int64]
    maps: slice

    def of(self, values: NDArray[Value]) -> NDArray[Value]:
        """Return the values (P, B, maps) of an array (h, w, B, latent)."""
        return values[self.rows, self.columns, :, self.maps]

    def set(self, values: NDArray[Value], new: NDArray[Value]) -> None:
        """Set the values of an array (h, w, B, latent)."""
        values[self.rows, self.columns, :, self.maps] = new


Choose = Callable[[Front, Floats, Floats], Floats]
"""Given a front, mean and log-deviation of the flow there, (P, B, maps) each, returns z0 there."""


class CachedFlow:
    """The flow of one layer for a group of images.

    Args:
        flow: the network, in float64.
        context: (B, hidden, h, w).
    """

    def __init__(self, flow: AutoregressiveNet, context: Tensor) -> None:
        self._context = by_pixel(context)
        self._latent, self._hidden = flow.h0.in_channels, flow.h0.out_channels
        self._groups = min(self._latent, self._hidden)
        outputs = zip(_taps(flow.mean), _taps(flow.log_deviation), strict=True)
        self._layers = [_taps(flow.h0), _taps(flow.h1), [np.concatenate(pair, axis=-1) for pair in outputs]]

    def run(self, choose: Choose) -> None:
        """Ask for z0 on all fronts in order."""
        height, width, batch, _ = self._context.shape
        channels = (self._latent, self._hidden, self._hidden)
        known = [np.zeros((height + 1, width + 2, batch, count)) for count in channels]  # z0 and both hidden layers, zeros around
        for rows, columns in _fronts(height, width):
            beside = [
                _beside(values, rows, columns) @ neighbours + bias
                for values, (_, neighbours, bias) in zip(known, self._layers, strict=True)
            ]
            beside[0] += self._context[rows, columns].reshape(-1, self._hidden)
            here = [np.empty((len(rows) * batch, count)) for count in channels]
            for group in range(self._groups):
                self._run_group(group, rows, columns, beside, here, choose)
            for values, new in zip(known, here, strict=True):
                values[rows, columns + 1] = new.reshape(len(rows), batch, -1)

    def _run_group(
        self, group: int, rows: NDArray[np.int64], columns: NDArray[np.int64], beside: list[Floats], here: list[Floats], choose: Choose
    ) -> None:
        """Run the feature maps of one group, which do not depend on each other, and the hidden ones that see no later group."""
        (of_z0, _, _), (of_first, _, _), (of_second, _, _) = self._layers
        z0, first, second = here
        maps, hidden = (slice(group * count // self._groups, (group + 1) * count // self._groups) for count in (self._latent, self._hidden))
        shape = (len(rows), len(z0) // len(rows), -1)
        mean, log_deviation = (
            RESIDUAL_SCALE * (beside[2][:, part] + second[:, : hidden.start] @ of_second[: hidden.start, part])
            for part in (maps, slice(maps.start + self._latent, maps.stop + self._latent))
        )
        z0[:, maps] = choose(Front(rows, columns, maps), mean.reshape(shape), log_deviation.reshape(shape)).reshape(len(z0), -1)
        first[:, hidden] = _elu(beside[0][:, hidden] + z0[:, : maps.stop] @ of_z0[: maps.stop, hidden])
        second[:, hidden] = _elu(beside[1][:, hidden] + first[:, : hidden.stop] @ of_first[: hidden.stop, hidden])


def by_pixel(values: Tensor) -> Floats:
    """Rearrange a tensor (B, C, h, w) to an array (h, w, B, C)."""
    return np.ascontiguousarray(values.permute(2, 3, 0, 1).double().cpu().numpy())


def _taps(layer: MaskedConv2d) -> list[Floats]:
    """Return the weights of the centre (in, out), those of the neighbours (4 in, out), and the bias."""
    weight, bias = layer.weight().detach().double().cpu().numpy(), layer.bias
    assert bias is not None
    neighbours = np.concatenate([weight[:, :, row, column].T for row, column in _NEIGHBOURS])
    return [np.ascontiguousarray(weight[:, :, 1, 1].T), neighbours, bias.detach().double().cpu().numpy()]


def _fronts(height: int, width: int) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Yield rows and columns of the pixels that can run together, in the order of the flow."""
    for total in reversed(range(2 * height + width - 2)):
        rows = np.arange(height)
        columns = total - 2 * rows
        inside = (columns >= 0) & (columns < width)
        yield rows[inside], columns[inside]


def _beside(values: Floats, rows: NDArray[np.int64], columns: NDArray[np.int64]) -> Floats:
    """Return the values of the four neighbours of pixels side by side, (P B, 4 C)."""
    found = np.concatenate([values[rows + row - 1, columns + column] for row, column in _NEIGHBOURS], axis=-1)
    return found.reshape(-1, found.shape[-1])


def _elu(x: Floats) -> Floats:
    return np.where(x > 0, x, np.expm1(np.minimum(x, 0)))
