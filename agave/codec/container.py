"""The file format `.agv`: how the images are arranged and coded, and the stack.

    magic        4 bytes   89 41 47 56; a copy in text mode breaks it
    kind         1 byte    upper four bits: version of the format, 1; lower four bits: 0 PixelCNN++, 1 AGAVE, 2 VAE
    model        4 bytes   the first of the SHA-256 of model.safetensors
    integers               in groups of 7 bits, the lowest first: height and width of the images; number of runs of groups, and for each
                           how many groups, and 3 times their size plus how they are coded; number of groups whose grid is shifted, and
                           for each its number and the shift; with latent variables, bits of a bin, number of layers, and for each the
                           set of feature maps that are not coded
    words                  of the stack, 2 bytes each
    state        8 bytes   of the stack
    checksum     4 bytes   CRC-32 of everything above

All numbers of a fixed size are little endian. How many images there are follows from the sizes of the groups and of an image.

The stack starts with a state of 2^48 plus the CRC-32 of all pixels. The decoder comes back to that state, and so knows whether it has
found the same pixels.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from enum import IntEnum
from itertools import groupby

import numpy as np

from agave.codec.bins import MOST_BITS
from agave.codec.entropy import Stack
from agave.errors import UserError

MAGIC = b"\x89AGV"
VERSION = 1
MODEL_BYTES = 4
_FIXED = struct.Struct("<4sB4s")
_END = struct.Struct("<QI")
_LONGEST = 7000  # bits of an integer of a header


class Coding(IntEnum):
    """How the images of a group are coded."""

    MODEL = 0  # by the model; with latent variables, these with bits back
    PRIOR_MEAN = 1  # by the model with latent variables at the mean of the prior, which needs no bits
    PLAIN = 2  # 8 bits a value


@dataclass(frozen=True)
class ImageGroup:
    """Images that are coded together: how many, how, and the place of the grid (see `entropy.round_to_grid`)."""

    size: int
    coding: Coding
    offset: int = 0


@dataclass(frozen=True)
class Header:
    """What the decoder must know besides the model.

    Attributes:
        kind: kind of the model.
        model: first bytes of the SHA-256 of its file.
        height: height of an image, pixels.
        width: width of an image, pixels.
        groups: groups of tiles, in the order of decoding.
        bits: logarithm of the number of bins of a latent variable; 0 without latent variables.
        left_out: for each layer of latent variables, a set (bit i: map i) of feature maps that are not coded.
    """

    kind: int
    model: bytes
    height: int
    width: int
    groups: tuple[ImageGroup, ...]
    bits: int = 0
    left_out: tuple[int, ...] = ()

    def fits(self, tile: int, layers: int) -> bool:
        """Return whether the groups hold the tiles of whole images, and the latent variables fit the layers of the model."""
        of_image, sizes = -(-self.height // tile) * -(-self.width // tile), [group.size for group in self.groups]
        whole = of_image > 0 < sum(sizes) and sum(sizes) % of_image == 0 and all(sizes)
        return whole and len(self.left_out) == layers and self.bits in (range(1, MOST_BITS + 1) if layers else range(1))


def write_container(header: Header, stack: Stack) -> bytes:
    """Return the bytes of a file."""
    runs = [
        (len(list(run)), len(Coding) * size + coding) for (size, coding), run in groupby(header.groups, lambda one: (one.size, one.coding))
    ]
    shifted = [(index, group.offset) for index, group in enumerate(header.groups) if group.offset]
    integers = [header.height, header.width]
    for rows in (runs, shifted):
        integers += [len(rows), *(value for row in rows for value in row)]
    if header.bits:
        integers += [header.bits, len(header.left_out), *header.left_out]
    head = _FIXED.pack(MAGIC, VERSION << 4 | header.kind, header.model) + b"".join(map(_varint, integers))
    data = head + np.array(stack.words, "<u2").tobytes() + struct.pack("<Q", stack.state)
    return data + struct.pack("<I", zlib.crc32(data))


def read_container(data: bytes, name: str) -> tuple[Header, Stack]:
    """Read the bytes of a file.

    Args:
        data: the bytes.
        name: name of the file, for messages.

    Raises:
        UserError: it is no such file, of another version, or damaged.
    """
    if not data.startswith(MAGIC) or len(data) < _FIXED.size + _END.size:
        raise UserError(f"{name}: not a file of `agave compress`; accepted: a file that starts with the bytes {MAGIC.hex(' ')}")
    if zlib.crc32(data[:-4]).to_bytes(4, "little") != data[-4:]:
        raise UserError(f"{name}: damaged, the checksum does not fit its {len(data):,} bytes; accepted: a whole file. Copy it again")
    _, kind, model = _FIXED.unpack_from(data)
    if kind >> 4 != VERSION:
        raise UserError(f"{name}: version {kind >> 4} of the format; accepted: version {VERSION}")
    integers = _Integers(data, _FIXED.size, name)
    height, width = integers.next(), integers.next()
    runs, shifts = ([(integers.next(), integers.next()) for _ in range(integers.next())] for _ in range(2))
    bits = integers.next() if kind & 15 else 0
    left_out = tuple(integers.next() for _ in range(integers.next())) if kind & 15 else ()
    sizes, places = [size for count, size in runs for _ in range(count)], dict(shifts)
    groups = tuple(ImageGroup(size // len(Coding), Coding(size % len(Coding)), places.get(index, 0)) for index, size in enumerate(sizes))
    state, _ = _END.unpack(data[-_END.size :])
    body = data[integers.place : -_END.size]
    if len(body) % 2:
        raise makes_no_sense(name)
    stack = Stack(np.frombuffer(body, "<u2").tolist(), state)
    return Header(kind & 15, model, height, width, groups, bits, left_out), stack


def makes_no_sense(name: str) -> UserError:
    """Return the error for a file whose checksum fits, but which no writer of this format has made."""
    return UserError(f"{name}: its header makes no sense; accepted: a file that `agave compress` has written")


class _Integers:
    """Reads integers one after the other."""

    def __init__(self, data: bytes, place: int, name: str) -> None:
        self.data, self.place, self.name = data, place, name

    def next(self) -> int:
        """Return the next integer.

        Raises:
            UserError: it is not there.
        """
        value = shift = 0
        while self.place < len(self.data) - _END.size and shift < _LONGEST:
            byte = self.data[self.place]
            self.place += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value
        raise makes_no_sense(self.name)


def _varint(value: int) -> bytes:
    parts = bytearray()
    while value >= 0x80:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    parts.append(value)
    return bytes(parts)
