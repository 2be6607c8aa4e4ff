"""Read image files as 8-bit RGB, and refuse those that do not hold 8-bit colour."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, TiffImagePlugin, UnidentifiedImageError

from agave.errors import UserError

# Formats whose depth `_excess_depth` knows. Pillow reads others, some of them with more than 8 bits, and silently reduces these.
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
TRANSPARENCY, FRAMES = "transparency", "further frames"

_BITS_PER_SAMPLE, _COLOUR_MAP, _SAMPLE_FORMAT = 258, 320, 339  # tags of TIFF
_UNSIGNED = 1


def open_image(path: Path) -> tuple[Image.Image, list[dict[str, str]]]:
    """Read an image file as 8-bit RGB, turned upright as its EXIF entry says.

    Grey becomes RGB. Transparency is dropped, so that hidden colours show, and previews or second views that follow the photograph in a
    JPEG file are not read; both are reported.

    Returns:
        The image, and the name and reason of each thing in the file that was left out.

    Raises:
        UserError: the file cannot be read, is damaged, holds more than 8 bits per channel, or has several frames.
    """
    left_out = []
    try:
        with Image.open(path, formats=FORMATS) as image:
            frames = getattr(image, "n_frames", 1)
            problem = _excess_depth(image, path)
            if problem is None and frames > 1 and image.format != "MPO":
                problem = f"{frames} frames; save each as a file of its own"
            if problem is None:
                image.load()
                if frames > 1:
                    left_out.append({"name": f"{path.name}, frames 2 to {frames}", "reason": FRAMES})
                if image.has_transparency_data and image.convert("RGBA").getchannel("A").getextrema() != (255, 255):
                    left_out.append({"name": path.name, "reason": TRANSPARENCY})
                return ImageOps.exif_transpose(image).convert("RGB"), left_out
    except UnidentifiedImageError:
        problem = "another format, 12-bit or damaged"
    except Exception as error:  # for damaged files Pillow raises errors of a dozen types
        problem = str(error) or type(error).__name__
    accepted = f"a whole image file with one frame and 8 bits per channel ({', '.join(FORMATS)})"
    raise UserError(f"{path}: not a readable image ({problem}); accepted: {accepted}")


def read_exactly(path: Path) -> NDArray[np.uint8]:
    """Read an image file of which nothing that can be seen is lost as 8-bit RGB, turned upright as its EXIF entry says.

    Returns:
        uint8 (H, W, 3); grey has three equal channels.

    Raises:
        UserError: as `open_image`; or the file has transparency or a palette, or its colours are not RGB.
    """
    image, left_out = open_image(path)
    accepted = f"RGB or grey with 8 bits per channel; convert it first, for example with: magick {path.name} -alpha off PNG24:rgb.png"
    if any(part["reason"] == TRANSPARENCY for part in left_out):
        raise UserError(f"{path}: has transparency, which would be lost; accepted: {accepted}")
    with Image.open(path, formats=FORMATS) as file:
        if file.mode not in ("RGB", "L", "RGBA", "LA"):
            kind = "a palette" if file.mode.startswith("P") else f"colours of the kind {file.mode}"
            raise UserError(f"{path}: has {kind}, which would be lost; accepted: {accepted}")
    return np.asarray(image, np.uint8)


def resize_square(image: Image.Image, left: int, top: int, side: int, image_size: int) -> NDArray[np.uint8]:
    """Shrink a square part of an RGB image, with anti-aliasing.

    Pillow's Lanczos filter widens with the reduction, so it removes what the coarser grid cannot show and keeps more detail than a
    box or a Gaussian. It calculates in fixed point, so it gives the same bytes on every machine; a crop takes 0.3 ms.

    Args:
        image: image in mode RGB.
        left: left edge of the square, pixels.
        top: top edge of the square, pixels.
        side: side of the square, pixels.
        image_size: height and width of the result, pixels.

    Returns:
        uint8 (image_size, image_size, 3).
    """
    part = image.crop((left, top, left + side, top + side))  # resize(box=...) would let the surroundings leak in
    return np.asarray(part.resize((image_size, image_size), Image.Resampling.LANCZOS), np.uint8)


def _excess_depth(image: Image.Image, path: Path) -> str | None:
    """Describe what in a file has more than 8 bits per channel, as the file itself states; None if nothing has.

    Pillow's mode does not show it, because it is RGB for 16-bit PNG, TIFF and PPM files as well. Pillow itself refuses JPEG files of
    12 bits. BMP, GIF and WebP files have at most 8 bits.
    """
    bits = 8
    if image.format == "PNG":
        with path.open("rb") as file:
            bits = file.read(25)[24]  # the bit depth in the header chunk
    elif image.format == "PPM":
        with path.open("rb") as file:
            magic, *numbers = re.sub(rb"#[^\r\n]*", b"", file.read(4096)).split(maxsplit=4)[:4]
        if magic not in (b"P1", b"P2", b"P3", b"P4", b"P5", b"P6"):
            return f"the variant {magic.decode('latin-1')} of PPM"
        bits = 1 if magic in (b"P1", b"P4") else int(numbers[2]).bit_length()  # the largest value follows width and height
    elif isinstance(image, TiffImagePlugin.TiffImageFile):
        tags = image.tag_v2
        if any(kind != _UNSIGNED for kind in _values(tags.get(_SAMPLE_FORMAT, _UNSIGNED))):
            return "values that are not unsigned integers"
        bits = max(_values(tags.get(_BITS_PER_SAMPLE, 1)))
        colours = _values(tags.get(_COLOUR_MAP, 0))  # 16 bits each; of 8 bits if all are multiples of 256 or of 257
        if not any(all(colour % factor == 0 for colour in colours) for factor in (256, 257)):
            return "a palette of 16 bits per channel"
    return f"{bits} bits per channel" if bits > 8 else None


def _values(tag: int | tuple[int, ...]) -> tuple[int, ...]:
    return tag if isinstance(tag, tuple) else (tag,)
