"""The file format `.agv`: a header that says how the images are arranged and coded, and the words of the stack.

    magic        4 bytes   89 41 47 56; a copy in text mode breaks it
    version      1 byte    1
    kind         1 byte    0 PixelCNN++, 1 AGAVE, 2 VAE
    model        8 bytes   the first of the SHA-256 of model.safetensors
    integers               in groups of 7 bits, the lowest first: number, height, width of the images; side of a tile; bits of the bins;
                           number of runs, and for each how many groups, their size and how they are coded; number of groups whose grid is
                           shifted, and for each its number and the shift; number of layers of latent variables, and for each the set of
                           feature maps that are not coded; number of words
    crc32        4 bytes   of everything above
    crc32        4 bytes   of the body
    body                   the words, 2 bytes each, then the state, 8 bytes

All numbers of a fixed size are little endian. The state starts at 2^48 plus the CRC-32 of all pixels, so that the decoder, which comes back
to it, knows whether it has found the same pixels.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass, field
from enum import IntEnum
from itertools import groupby

import numpy as np

from agave.codec.entropy import Stack
from agave.errors import UserError

MAGIC = b"\x89AGV"
VERSION = 1
MODEL_BYTES = 8
_FIXED = struct.Struct("<4sBB8s")
_CHECKSUMS = struct.Struct("<II")
_MOST_BITS = 7000  # of an integer of a header


class Coding(IntEnum):
    """How the images of a group are coded."""

    MODEL = 0  # by the model; with latent variables, these with bits back
    PRIOR_MEAN = 1  # by the model with latent variables at the mean of the prior, which needs no bits
    PLAIN = 2  # 8 bits a value


@dataclass(frozen=True)
class Group:
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
        images: number of images.
        height: height of an image, pixels.
        width: width of an image, pixels.
        tile: side of the square tiles that images are cut into, pixels.
        groups: groups of tiles, in the order of decoding.
        bits: logarithm of the number of bins of a latent variable; 0 without latent variables.
        left_out: for each layer of latent variables, a set (bit i: map i) of feature maps that are not coded.
    """

    kind: int
    model: bytes
    images: int
    height: int
    width: int
    tile: int
    groups: tuple[Group, ...]
    bits: int = 0
    left_out: tuple[int, ...] = field(default=())

    @property
    def tiles(self) -> int:
        """Return the number of tiles of all images."""
        return self.images * -(-self.height // self.tile) * -(-self.width // self.tile)


def write_container(header: Header, stack: Stack) -> bytes:
    """Return the bytes of a file."""
    runs = [(len(list(run)), size, coding) for (size, coding), run in groupby(header.groups, lambda group: (group.size, group.coding))]
    shifted = [(index, group.offset) for index, group in enumerate(header.groups) if group.offset]
    integers = [header.images, header.height, header.width, header.tile, header.bits]
    for rows in (runs, shifted, [(maps,) for maps in header.left_out]):
        integers += [len(rows), *(value for row in rows for value in row)]
    integers.append(len(stack.words))
    body = np.array(stack.words, "<u2").tobytes() + struct.pack("<Q", stack.state)
    head = _FIXED.pack(MAGIC, VERSION, header.kind, header.model) + b"".join(map(_varint, integers))
    return head + _CHECKSUMS.pack(zlib.crc32(head), zlib.crc32(body)) + body


def read_container(data: bytes, name: str) -> tuple[Header, Stack]:
    """Read the bytes of a file.

    Args:
        data: the bytes.
        name: name of the file, for messages.

    Raises:
        UserError: it is no such file, of another version, or damaged.
    """
    if not data.startswith(MAGIC):
        raise UserError(f"{name}: not a file of `agave compress`; accepted: a file that starts with the bytes {MAGIC.hex(' ')}")
    reader = _Reader(data, name)
    _, version, kind, model = _FIXED.unpack(reader.take(_FIXED.size))
    if version != VERSION:
        raise UserError(f"{name}: version {version} of the format, or damaged; accepted: version {VERSION}")
    images, height, width, tile, bits = (reader.integer() for _ in range(5))
    runs = [(reader.integer(), reader.integer(), reader.integer()) for _ in range(reader.integer())]
    shifts = dict([(reader.integer(), reader.integer()) for _ in range(reader.integer())])
    left_out = tuple(reader.integer() for _ in range(reader.integer()))
    words = reader.integer()
    head_sum = zlib.crc32(data[: reader.place])
    of_head, of_body = _CHECKSUMS.unpack(reader.take(_CHECKSUMS.size))
    if head_sum != of_head:
        raise reader.damage()
    whole = reader.place + 2 * words + 8
    if len(data) != whole:
        raise UserError(f"{name}: damaged, {len(data):,} of {whole:,} bytes; accepted: a whole file. Copy it again")
    body = reader.take(2 * words + 8)
    if zlib.crc32(body) != of_body:
        raise reader.damage()
    sizes = [(size, coding) for count, size, coding in runs for _ in range(count)]
    groups = tuple(Group(size, Coding(coding), shifts.get(index, 0)) for index, (size, coding) in enumerate(sizes))
    stack = Stack(np.frombuffer(body, "<u2", words).tolist(), *struct.unpack("<Q", body[-8:]))
    return Header(kind, model, images, height, width, tile, groups, bits, left_out), stack


class _Reader:
    """Reads bytes one part after the other; what is missing is damage."""

    def __init__(self, data: bytes, name: str) -> None:
        self.data, self.name, self.place = data, name, 0

    def damage(self) -> UserError:
        """Return the error that says that the file is damaged."""
        return UserError(f"{self.name}: damaged, a checksum does not fit its {len(self.data):,} bytes; accepted: a whole file. Copy it again")

    def take(self, count: int) -> bytes:
        """Return the next bytes.

        Raises:
            UserError: there are not so many.
        """
        part = self.data[self.place : self.place + count]
        if len(part) < count:
            raise self.damage()
        self.place += count
        return part

    def integer(self) -> int:
        """Return the next integer.

        Raises:
            UserError: it is cut off or too large.
        """
        value = shift = 0
        while True:
            byte = self.take(1)[0]
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value
            if shift > _MOST_BITS:
                raise self.damage()


def _varint(value: int) -> bytes:
    parts = bytearray()
    while value >= 0x80:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    parts.append(value)
    return bytes(parts)
