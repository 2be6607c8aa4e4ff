"""Compress images with a trained model, and decompress them to exactly the same images.

The networks run in float64, and what they compute is rounded to a grid before it becomes a probability. So the sender may compute all
pixels of an image in one pass and the receiver one pixel after the other, with other batches, threads and instructions: the last digits
differ, the rounded numbers do not. Where a number lies so close to a boundary of the grid that they might, the sender shifts the grid.

All images share one stack. The receiver pops group after group; the sender pushes the last group first. Latent variables need bits to
begin with: the images that the sender pushes first are coded without any, and groups grow as fast as the stack.
"""

from __future__ import annotations

import copy
import zlib
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from agave.codec import tiles
from agave.codec.conditionals import SYSTEMS_WITH_CODER, parts_of
from agave.codec.container import MODEL_BYTES, Coding, Header, ImageGroup, makes_no_sense, read_container, write_container
from agave.codec.entropy import LOWEST, Exhausted, Floats, Stack
from agave.codec.groups import GroupCoder
from agave.codec.latents import LatentCoder, NotFinite
from agave.data.arrays import ImageArray
from agave.errors import UserError
from agave.files import sha256
from agave.models import load
from agave.models.interface import LikelihoodModel
from agave.models.layers import folded
from agave.random_numbers import POSTERIOR, KeyedNumbers
from agave.runtime.progress import Progress

BITS_OF_BINS = 8
"""Logarithm of the number of bins of a latent variable. Bins as wide as a posterior cost bits, narrow ones more images to begin with."""


@dataclass(frozen=True)
class Compressed:
    """A compressed file.

    Attributes:
        data: its bytes.
        header: what they begin with.
        lengths: ideal length in bits of each tile, as it is coded, (tiles,).
    """

    data: bytes
    header: Header
    lengths: Floats

    @property
    def codings(self) -> list[Coding]:
        """Return how each tile is coded."""
        return [group.coding for group in self.header.groups for _ in range(group.size)]


class Codec:
    """A lossless codec made from a trained model.

    Args:
        model: the model; it is copied.
        identity: first bytes of the SHA-256 of its file; compressed files name them.

    Raises:
        UserError: the system has no coder.
    """

    def __init__(self, model: LikelihoodModel, identity: bytes = bytes(MODEL_BYTES)) -> None:
        self.model, self.identity = copy.deepcopy(model).double().eval(), identity
        self._conditional, self._vae = parts_of(self.model)
        self._kind = SYSTEMS_WITH_CODER.index(model.system)

    @classmethod
    def of_file(cls, path: str | Path, device: str | torch.device = "cpu") -> Codec:
        """Make a codec from a model.safetensors.

        Raises:
            UserError: the file is missing or damaged, or the system has no coder.
        """
        return cls(load(path).to(device), bytes.fromhex(sha256(path))[:MODEL_BYTES])

    @torch.inference_mode()
    def compress(
        self,
        images: NDArray[Any],
        *,
        group: int = 64,
        bits: int | None = None,
        least_map_bits: float = 0.0,
        label: str | None = None,
    ) -> Compressed:
        """Compress images of one size.

        Args:
            images: uint8 (N, H, W, 3).
            group: largest number of tiles that are coded together.
            bits: logarithm of the number of bins of a latent variable; None: as `BITS_OF_BINS` says.
            least_map_bits: latent feature maps with a smaller mean KL, in bits per tile, are left out; 0 leaves none out.
            label: name under which progress is shown; None shows none.

        Raises:
            UserError: there are no images, or the model returns numbers that are not finite.
        """
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] != 3 or 0 in images.shape:
            raise UserError(f"images are {images.dtype} {images.shape}; accepted: uint8 (N, height, width, 3) with at least one image")
        tile = self.model.image_size
        x_uint8 = torch.from_numpy(tiles.cut(images, tile)).permute(0, 3, 1, 2).contiguous().to(next(self.model.parameters()).device)
        stack, groups, lengths = Stack(state=LOWEST + zlib.crc32(images.tobytes())), list[ImageGroup](), list[Floats]()
        with folded(self.model), _progress(len(x_uint8) * tile, label) as progress:
            latents = self._latents(bits, self._informative(x_uint8[:16], least_map_bits))
            coder, left = GroupCoder(self._conditional, latents), x_uint8
            while len(left):
                pushed = coder.push_last(stack, left, group)
                stack, left = pushed.stack, left[: len(left) - pushed.group.size]
                groups.append(pushed.group)
                lengths.append(pushed.lengths)
                progress.update(pushed.group.size * tile)
        bits = 0 if latents is None else latents.bins.bits
        left_out = () if latents is None else tuple(_to_set(~coded) for coded in latents.coded)
        _, height, width, _ = images.shape
        header = Header(self._kind, self.identity, height, width, tuple(groups[::-1]), bits, left_out)
        return Compressed(write_container(header, stack), header, np.concatenate(lengths[::-1]))

    @torch.inference_mode()
    def decompress(self, data: bytes, name: str = "the file", label: str | None = None) -> ImageArray:
        """Decompress a file.

        Args:
            data: its bytes.
            name: its name, for messages.
            label: name under which progress is shown; None shows none.

        Returns:
            uint8 (N, H, W, 3), exactly the images that were compressed.

        Raises:
            UserError: the file is damaged or made with another model, or this machine computes otherwise than the one that wrote it.
        """
        header, stack = read_container(data, name)
        if (header.kind, header.model) != (self._kind, self.identity):
            raise UserError(
                f"{name}: made with the {_describe(header.kind, header.model)}; given is the {_describe(self._kind, self.identity)}; "
                "accepted: the model that it was made with"
            )
        found, first, size = [], 0, self.model.image_size
        if not header.fits(size, 0 if self._vae is None else len(self._vae.layers)):
            raise makes_no_sense(name)
        try:
            with folded(self.model), _progress(sum(group.size for group in header.groups) * size, label) as progress:
                coded = np.array([_from_set(maps, self._vae.latent) for maps in header.left_out]) if self._vae is not None else None
                coder = GroupCoder(self._conditional, self._latents(header.bits, coded))
                for group in header.groups:
                    part = range(first, first + group.size)
                    found.append(coder.pop(stack, group, part, (size, size), partial(progress.update, group.size)))
                    first += group.size
        except (Exhausted, NotFinite):
            raise _other_arithmetic(name) from None
        images = tiles.join(np.concatenate(found).transpose(0, 2, 3, 1), header.height, header.width)
        if stack != Stack(state=LOWEST + zlib.crc32(images.tobytes())):
            raise _other_arithmetic(name)
        return images

    def _latents(self, bits: int | None, coded: NDArray[np.bool_] | None) -> LatentCoder | None:
        if self._vae is None:
            return None
        return LatentCoder(self._vae, BITS_OF_BINS if bits is None else bits, coded)

    def _informative(self, x_uint8: Tensor, least_map_bits: float) -> NDArray[np.bool_] | None:
        """Return the feature maps whose mean KL on a few images reaches a number of bits, (layers, latent)."""
        if self._vae is None or least_map_bits <= 0:
            return None
        noise = self._vae.latent_noise(len(x_uint8), KeyedNumbers(0, POSTERIOR, range(len(x_uint8))))
        _, kl_maps = self._vae.decode(self._vae.encode(x_uint8), noise)
        return (kl_maps.mean(0) >= least_map_bits * np.log(2)).view(-1, self._vae.latent).cpu().numpy()  # type: ignore[no-any-return]


def _progress(rows: int, label: str | None) -> Progress:
    return Progress(rows, label or "", "row", quiet=label is None)


def _describe(kind: int, model: bytes) -> str:
    system = SYSTEMS_WITH_CODER[kind] if kind < len(SYSTEMS_WITH_CODER) else "unknown"
    return f"{system} model whose SHA-256 begins with {model.hex()}"


def _other_arithmetic(name: str) -> UserError:
    return UserError(
        f"{name}: the file is whole, but this machine computes the model otherwise than the one that wrote it; "
        "accepted: the machine, or the version of PyTorch, that wrote it. Nothing was written"
    )


def _to_set(chosen: NDArray[np.bool_]) -> int:
    return sum(1 << int(index) for index in np.flatnonzero(chosen))


def _from_set(left_out: int, count: int) -> NDArray[np.bool_]:
    return np.array([not left_out >> index & 1 for index in range(count)])
