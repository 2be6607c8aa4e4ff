"""The cost of the further systems of Table 1, from their sizes alone, without torch; network_costs.py has the paper's networks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise

from agave.config import Params
from agave.config_checks import whitening_bytes
from agave.planning.layer_costs import Convolution, Numbers


@dataclass(frozen=True)
class SystemCost:
    """What a system costs.

    Attributes:
        layers: yields its layers for the parameters of a preset.
        likelihood: number of values that a training step keeps for the likelihood of an image.
        passes: number of forward passes, one after another, with which images are drawn, in units of `layers`.
        fixed: bytes that a job holds whatever the number of images, besides trained weights and their states.
    """

    layers: Callable[[Params], Iterator[Convolution | Numbers]]
    likelihood: Callable[[Params], int]
    passes: Callable[[Params], float]
    fixed: Callable[[Params], int] = lambda params: 0


def nice(params: Params) -> Iterator[Convolution | Numbers]:
    """Yield the layers of NICE: the whitening, which is not trained, four couplings and the scales."""
    sizes, values = params.table1.nice, _values(params)
    yield Numbers(0, inputs=values, reads=1, multiply_adds=values**2)
    widths = [values // 2] + [sizes.hidden] * sizes.hidden_layers + [values // 2]
    for _ in range(4):
        for inputs, outputs in pairwise(widths):
            yield Convolution(inputs, outputs, 1, 1, 1, per_output=1)
    yield Numbers(values)


def real_nvp(params: Params) -> Iterator[Convolution | Numbers]:
    """Yield the layers of Real NVP: at each scale three couplings of pixels and three of channels, at the last one four of pixels."""
    sizes, size = params.table1.real_nvp, params.prepare.image_size
    for scale in range(sizes.scales):
        image, width, places, last = 3 << scale, sizes.channels << scale, (size >> scale) ** 2, scale == sizes.scales - 1
        for _ in range(4 if last else 3):
            yield from _affine_coupling(2 * image + 1, image, width, sizes.blocks, places)
        for _ in range(0 if last else 3):
            yield from _affine_coupling(4 * image, 2 * image, 2 * width, sizes.blocks, places // 4)


def _affine_coupling(inputs: int, changed: int, width: int, blocks: int, places: int) -> Iterator[Convolution | Numbers]:
    yield Convolution(inputs, width, 9, places, places)
    for taps in [1] + [9, 9, 1] * blocks:
        yield Convolution(width, width, taps, places, places)
    yield Convolution(width, 2 * changed, 1, places, places)
    yield Numbers(1 + 2 * changed)


def _values(params: Params) -> int:
    return 3 * params.prepare.image_size**2


COSTS: dict[str, SystemCost] = {
    "nice": SystemCost(
        nice, lambda params: 4 * _values(params), lambda params: 1, fixed=lambda params: whitening_bytes(params.prepare.image_size)
    ),
    "real_nvp": SystemCost(real_nvp, lambda params: 10 * _values(params), lambda params: 1),
}
"""One entry a system, by its name in `agave.models.REGISTRY`."""
