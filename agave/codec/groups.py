"""Code one group of images: choose how, push it, pop it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from agave.codec.conditionals import Conditional
from agave.codec.container import Coding, ImageGroup
from agave.codec.entropy import OFFSETS, Exhausted, Floats, Stack, distance_to_boundary
from agave.codec.latents import LatentCoder, NotFinite, Received
from agave.codec.pixels import code_lengths, pixel_intervals, pop_pixels, push_pixels
from agave.errors import UserError

GUARD = 1e-12
"""Smallest distance of a number to a boundary of the grid. Computations of the same number differ by some 1e-14."""

_PLAIN_BITS = 8


@dataclass(frozen=True)
class Pushed:
    """A stack after a group was pushed, how it was coded, and the ideal length in bits of each of its images."""

    stack: Stack
    group: ImageGroup
    lengths: Floats


class GroupCoder:
    """Codes groups of images of the size that the model has.

    Args:
        conditional: the distribution of the pixels.
        latents: coder of the latent variables, or None.
    """

    def __init__(self, conditional: Conditional, latents: LatentCoder | None) -> None:
        self._conditional, self._latents = conditional, latents

    def push_last(self, stack: Stack, x_uint8: Tensor, most: int) -> Pushed:
        """Push as many of the last images as the stack allows.

        Args:
            stack: the stack, which stays as it is.
            x_uint8: (B, 3, H, W), all images that are left.
            most: largest number of images in a group.

        Raises:
            UserError: the model returns numbers that are not finite.
        """
        size = -(-len(x_uint8) // -(-len(x_uint8) // most))  # groups of equal size, as few as possible
        if self._latents is not None:
            size = min(size, (16 * len(stack.words)) // self._latents.bits_needed)
        while size:
            images = range(len(x_uint8) - size, len(x_uint8))
            try:
                found = self._push(stack, x_uint8[images.start :], images, Coding.MODEL)
            except (Exhausted, NotFinite):  # an image needs more bits than others, or its latent variables cannot be coded
                size //= 2
            else:
                return found if found.lengths.sum() <= _plain_length(x_uint8) * size else self._push_plain(stack, x_uint8[images.start :])
        return self._push_without_latents(stack, x_uint8, most)

    def pop(
        self, stack: Stack, group: ImageGroup, images: range, shape: tuple[int, int], after_row: Callable[[], object]
    ) -> NDArray[np.uint8]:
        """Pop a group.

        Args:
            stack: the stack.
            group: how it is coded.
            images: numbers of its images.
            shape: height and width of an image.
            after_row: called after each row of pixels.

        Returns:
            (B, 3, height, width).

        Raises:
            Exhausted: the stack does not hold the images.
            NotFinite: the flow overflows, which it did not for the sender.
        """
        height, width = shape
        if group.coding == Coding.PLAIN:
            values = np.array(stack.pop_raw(3 * height * width * group.size, _PLAIN_BITS), np.uint8)
            for _ in range(height):
                after_row()
            return values.reshape(group.size, 3, height, width)
        received, mean = list[Received](), None
        if self._latents is not None:
            if group.coding == Coding.MODEL:
                received, mean = self._latents.pop_prior(stack, images)
            else:
                mean = self._latents.mean_of_prior(group.size)
        network = self._conditional.network(group.size, mean)
        found = pop_pixels(stack, network, (group.size, height, width), group.offset, after_row)
        if self._latents is not None and mean is not None and received:
            self._latents.push_posterior(stack, torch.from_numpy(found).to(mean.device), received, group.offset)
        return found

    def _push(self, stack: Stack, x_uint8: Tensor, images: range, coding: Coding) -> Pushed:
        """Push images with the first offset at which no number lies close to a boundary of the grid."""
        for offset in range(OFFSETS):
            attempt = stack.copy()
            lengths, margin = self._push_at(attempt, x_uint8, images, coding, offset)
            if margin >= GUARD:
                return Pushed(attempt, ImageGroup(len(images), coding, offset), lengths)
        return self._push_plain(stack, x_uint8)

    def _push_at(self, stack: Stack, x_uint8: Tensor, images: range, coding: Coding, offset: int) -> tuple[Floats, float]:
        """Push images with a given offset; return their lengths and the distance of the closest number to a boundary of the grid."""
        sent, mean = None, None
        if self._latents is not None:
            if coding == Coding.MODEL:
                sent = self._latents.pop_posterior(stack, x_uint8, images, offset)
                mean = sent.mean
            else:
                mean = self._latents.mean_of_prior(len(images))
        logits = self._conditional.logits(x_uint8, mean)
        margin = float(distance_to_boundary(logits, offset).min())
        if math.isnan(margin):
            raise UserError("the model returns numbers that are not finite; accepted: a trained model. Nothing was written")
        starts, frequencies = pixel_intervals(logits, x_uint8.cpu().numpy(), offset)
        push_pixels(stack, starts, frequencies)
        lengths = code_lengths(frequencies)
        if self._latents is not None and sent is not None:
            self._latents.push_prior(stack, sent.bins)
            lengths, margin = lengths + sent.lengths, min(margin, sent.margin)
        return lengths, margin

    def _push_without_latents(self, stack: Stack, x_uint8: Tensor, most: int) -> Pushed:
        """Push as few of the last images as give the stack the bits that latent variables need."""
        assert self._latents is not None, "without latent variables every group has found its place"
        lacking = self._latents.bits_needed - 16 * len(stack.words)
        size = min(most, len(x_uint8), max(1, math.ceil(lacking / _plain_length(x_uint8))))
        images = range(len(x_uint8) - size, len(x_uint8))
        found = self._push(stack, x_uint8[images.start :], images, Coding.PRIOR_MEAN)
        return found if found.lengths.sum() <= _plain_length(x_uint8) * size else self._push_plain(stack, x_uint8[images.start :])

    def _push_plain(self, stack: Stack, x_uint8: Tensor) -> Pushed:
        after = stack.copy()
        after.push_raw(x_uint8.cpu().numpy().ravel()[::-1].tolist(), _PLAIN_BITS)
        return Pushed(after, ImageGroup(len(x_uint8), Coding.PLAIN), np.full(len(x_uint8), _plain_length(x_uint8)))


def _plain_length(x_uint8: Tensor) -> float:
    """Return the number of bits of one image of (B, 3, H, W) without a model."""
    return float(_PLAIN_BITS * x_uint8[0].numel())
