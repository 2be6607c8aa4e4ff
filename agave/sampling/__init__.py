"""Draw images from a PixelCNN++, pixel by pixel in raster order; windows.py does it for one that sees a small window."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, overload

import torch
from torch import Tensor

from agave.config import Sample
from agave.likelihoods import sample_mixture
from agave.models.pixelcnn_pp import PixelCNNpp
from agave.random_numbers import PIXELS, KeyedNumbers
from agave.runtime.progress import Progress
from agave.sampling.cached_pixelcnn_pp import CachedPixelCNNpp
from agave.sampling.cuda_graphs import RecordedSteps
from agave.sampling.windows import sample_in_windows as sample_in_windows


@dataclass(frozen=True)
class PixelLaw:
    """The way a pixel is drawn from the logits of the network.

    Attributes:
        uniforms: number of uniform numbers in (0, 1) that a pixel needs.
        draw: function of logits (B, outputs) and uniforms (B, `uniforms`) that returns the pixels, (B, 3) in [-1, 1].
    """

    uniforms: int
    draw: Callable[[Tensor, Tensor], Tensor]


def mixture_law(mixtures: int, options: Sample | None = None) -> PixelLaw:
    """Return the law of PixelCNN++, a mixture of logistics.

    Args:
        mixtures: number of components K.
        options: `round_pixels` and `temperature`, see `likelihoods.sample_mixture`; None: rounded, temperature 1.
    """
    round_pixels, temperature = (options.round_pixels, options.temperature) if options else (True, 1.0)

    def draw(logits: Tensor, uniforms: Tensor) -> Tensor:
        return sample_mixture(logits, uniforms[:, :-3], uniforms[:, -3:], round_pixels, temperature)

    return PixelLaw(mixtures + 3, draw)


@overload
def sample(
    pixelcnn_pp: PixelCNNpp, features: Tensor | None = None, *, return_logits: Literal[True], **others: Any
) -> tuple[Tensor, Tensor]: ...
@overload
def sample(pixelcnn_pp: PixelCNNpp, features: Tensor | None = None, *, return_logits: Literal[False] = False, **others: Any) -> Tensor: ...


@torch.inference_mode()  # type: ignore[misc]  # the overloads name only what decides the type
def sample(
    pixelcnn_pp: PixelCNNpp,
    features: Tensor | None = None,
    *,
    batch: int,
    shape: tuple[int, ...],
    seed: int,
    cached: bool = True,
    teacher: Tensor | None = None,
    return_logits: bool = False,
    first: int = 0,
    stream: int = PIXELS,
    options: Sample | None = None,
    law: PixelLaw | None = None,
    given: Tensor | None = None,
    label: str | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    """Draw images from a PixelCNN++.

    Args:
        pixelcnn_pp: the network; dropout is off while sampling.
        features: (B, feature_channels, H, W), f(z) in [-1, 1] at the size of x; None: unconditional.
        batch: number of images B.
        shape: (H, W) of the images, or (3, H, W).
        seed: seed of the noise, keyed by image: the images do not depend on how many are drawn at once.
        cached: whether every activation is computed once; False runs the whole network for every pixel (slow, for checking).
        teacher: (B, 3, H, W) uint8; the pixels are set to these instead of being drawn; `given` is ignored then.
        return_logits: whether to return also the logits that each pixel was drawn from.
        first: index of the first image, when a larger set is drawn in pieces.
        stream: purpose of the noise, see `agave.random_numbers`.
        options: `round_pixels` and `temperature`, see `likelihoods.sample_mixture`; None: rounded, temperature 1.
        law: the way a pixel is drawn; None: from the mixture of logistics, with `options`.
        given: (B, 3, h, W) uint8, the first h rows of the images, which are then completed.
        label: name under which progress is shown; None shows none.

    Returns:
        (B, 3, H, W) uint8; with `return_logits` also the outputs of the network, (B, 10 K, H, W).

    Raises:
        ValueError: a shape does not fit.
    """
    height, width = shape[-2:]
    pixelcnn_pp.check((batch, 3, height, width), features)
    known = _check_known(teacher, given, batch, height, width)
    was_training = pixelcnn_pp.training
    pixelcnn_pp.eval()
    law = law or mixture_law(pixelcnn_pp.mixtures, options)
    numbers = KeyedNumbers(seed, stream, range(first, first + batch))
    pixels = _Pixels(pixelcnn_pp, features, known, (batch, height, width), law, numbers)
    pixels.draw(cached, return_logits, label)
    pixelcnn_pp.train(was_training)
    x_uint8 = torch.round(pixels.x * 127.5 + 127.5).to(torch.uint8)
    return (x_uint8, pixels.logits) if pixels.logits is not None else x_uint8


def _check_known(teacher: Tensor | None, given: Tensor | None, batch: int, height: int, width: int) -> Tensor | None:
    """Return the first rows of the images that are known, all of them with a teacher.

    Raises:
        ValueError: they do not fit the images.
    """
    known = given if teacher is None else teacher
    if known is None:
        return None
    name, accepted = ("given", range(height + 1)) if teacher is None else ("teacher", range(height, height + 1))
    fits = known.ndim == 4 and known.shape[2] in accepted and tuple(known.shape) == (batch, 3, known.shape[2], width)
    if not fits or known.is_floating_point():
        rows = f"0 to {height}" if teacher is None else str(height)
        raise ValueError(f"{name} is {known.dtype} {tuple(known.shape)}; accepted: uint8 ({batch}, 3, {rows}, {width})")
    return known


class _Pixels:
    """The buffers of a batch of images that is drawn, and the loop over their pixels.

    `row_noise`, `row_x` and `row_logits` hold the current row, (W, B, ...), as one view a column. They serve every row, so a step always
    reads and writes the same addresses and can be recorded as a CUDA graph.
    """

    def __init__(
        self,
        model: PixelCNNpp,
        features: Tensor | None,
        known: Tensor | None,
        size: tuple[int, int, int],
        law: PixelLaw,
        numbers: KeyedNumbers,
    ) -> None:
        batch, height, width = size
        self.model, self.features, self.size, self.law = model, features, size, law
        like = self.like = model.out.gain.detach()
        self.x = like.new_zeros(batch, 3, height, width)
        self.rows_known = 0 if known is None else known.shape[2]
        if known is not None:
            self.x[:, :, : self.rows_known] = ((known.to(like.dtype) - 127.5) / 127.5).to(like.device)
        self.uniforms: Tensor | None = None
        if self.rows_known < height:
            self.uniforms = numbers.uniform(0, (batch, height, width, law.uniforms), like)
        self.logits: Tensor | None = None
        self.row_noise, self.row_x = like.new_empty(width, batch, law.uniforms), like.new_empty(width, batch, 3)
        self.row_logits = like.new_empty(width, batch, model.out.out_channels)

    def draw(self, cached: bool, keep_logits: bool, label: str | None) -> None:
        """Draw all rows that are not known."""
        batch, height, width = self.size
        if keep_logits:
            self.logits = self.like.new_empty(batch, self.model.out.out_channels, height, width)
        noise, pixels, kept = self.row_noise.unbind(), self.row_x.unbind(), self.row_logits.unbind()
        network = (CachedPixelCNNpp if cached else _FullPasses)(self.model, batch, height, width, self.features)
        steps = RecordedSteps(self.like.device, record=cached)

        def step(draws: bool, column: int) -> None:
            logits = network.logits(column)
            if keep_logits:
                kept[column].copy_(logits)
            if draws:
                pixels[column].copy_(self.law.draw(logits, noise[column]))
            network.write(column, pixels[column])

        progress = Progress(height, label, "row") if label else None
        for row in range(height):
            draws = row >= self.rows_known
            self._begin_row(row)
            network.start_row(row)
            for column in range(width):
                steps.run((network.phase, draws, column), partial(step, draws, column))
            network.end_row()
            self._end_row(row)
            if progress is not None:
                progress.update()

    def _begin_row(self, row: int) -> None:
        self.row_x.copy_(self.x[:, :, row].permute(2, 0, 1))
        if self.uniforms is not None:
            self.row_noise.copy_(self.uniforms[:, row].transpose(0, 1))

    def _end_row(self, row: int) -> None:
        self.x[:, :, row] = self.row_x.permute(1, 2, 0)
        if self.logits is not None:
            self.logits[:, :, row] = self.row_logits.permute(1, 2, 0)


class _FullPasses:
    """The slow reference for `CachedPixelCNNpp`: the same interface with a whole forward pass for every pixel."""

    phase = 0

    def __init__(self, model: PixelCNNpp, batch: int, height: int, width: int, features: Tensor | None) -> None:
        self.model, self.features, self.row = model, features, 0
        self.x = model.out.gain.detach().new_zeros(batch, 3, height, width)

    def start_row(self, row: int) -> None:
        self.row = row

    def logits(self, column: int) -> Tensor:
        logits: Tensor = self.model(self.x, self.features)
        return logits[:, :, self.row, column]

    def write(self, column: int, pixel: Tensor) -> None:
        self.x[:, :, self.row, column] = pixel

    def end_row(self) -> None:
        """Do nothing, because the next pass computes everything again."""
