"""Paths that a user gives: list the images of a folder and what is left out, and notice changes. Needs no NumPy."""

from __future__ import annotations

import hashlib
import json
import os
import re
from contextlib import suppress
from pathlib import Path

from agave.config import Prepare
from agave.errors import UserError
from agave.files import atomic_write

READ_ENDINGS = (".bmp", ".gif", ".jfif", ".jpe", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".pnm", ".ppm", ".tif", ".tiff", ".webp")
# Endings of image files that are not read. Such a file is an error, so that no image is left out silently.
_OTHER_IMAGES = re.compile(
    r"\.(ai|apng|arw|avif|avifs|bpg|cr2|cr3|cur|dcm|dds|dib|dng|emf|eps|exr|fits?|hdr|heics?|heif|hif|icns|ico|iff|j2[ck]|jp2|jpf|jpg2|jpm|jpx|jxl"
    r"|jxr|mng|mpo|nef|nrw|orf|pam|pcx|pfm|pic|ps[bd]|qoi|raf|ras|raw|rgb|rw2|sgi|sr2|srw|svgz?|tga|wdp|wmf|xbm|xcf|xpm)",
    re.IGNORECASE,
)


def list_images(folder: Path) -> tuple[list[Path], list[dict[str, str]]]:
    """List the image files of a folder, sorted by name, and everything else that lies there.

    A file is read if its name ends in one of `READ_ENDINGS`. A file that is an image by its ending or content, but is not read, is an
    error. Hidden files, folders and files of other kinds are left out.

    Returns:
        Paths of the image files, and name and reason of each thing left out.

    Raises:
        UserError: the folder cannot be read, holds images that are not read, or no images.
    """
    images, left_out, refused = [], [], []
    try:
        for path in sorted(folder.iterdir()):
            if path.name.startswith("."):
                left_out.append({"name": path.name, "reason": "hidden"})
            elif path.exists() and not path.is_file():
                left_out.append({"name": path.name, "reason": "folder" if path.is_dir() else "no file"})
            elif path.suffix.lower() in READ_ENDINGS:
                images.append(path)
            elif _OTHER_IMAGES.fullmatch(path.suffix) or _is_image(path):
                refused.append(path.name)
            else:
                left_out.append({"name": path.name, "reason": "no image"})
    except OSError as error:
        raise UserError(f"{folder}: cannot be read ({error.strerror}); accepted: a folder of image files") from None
    accepted = f"accepted: files ending in {' '.join(READ_ENDINGS)}"
    if refused:
        raise UserError(f"{folder}: images that are not read: {_some(refused)}; {accepted}; convert, rename or move them")
    if not images:
        raise UserError(f"{folder}: a folder without images{' (' + summary_of(left_out) + ')' if left_out else ''}; {accepted}")
    return images, left_out


def summary_of(left_out: list[dict[str, str]]) -> str:
    """Describe in one line what was left out: the number and the first names for each reason."""
    reasons: dict[str, list[str]] = {}
    for entry in left_out:
        reasons.setdefault(entry["reason"], []).append(entry["name"])
    return "left out: " + "; ".join(f"{reason} {len(names)} ({_some(names)})" for reason, names in reasons.items())


def fingerprint(folder: str | Path) -> str:
    """Return a digest of the names, sizes and times of change of the files in a folder; it changes with any of them.

    Hidden files do not count. A path that is not a folder, or cannot be read, has a digest as well; the step that reads it reports the
    error.
    """
    found: list[tuple[str, int, int]] = []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if not entry.name.startswith("."):
                    counts = entry.is_file()
                    status = entry.stat(follow_symlinks=counts)
                    found.append((entry.name, status.st_size if counts else 0, status.st_mtime_ns if counts else 0))
    except OSError as error:
        found.append((str(error.errno), 0, 0))
    return hashlib.sha256(ascii(sorted(found)).encode()).hexdigest()


def note_for_dvc(file: str | Path, params: Prepare) -> None:
    """Keep in a small YAML file the path that stage `prepare` of dvc.yaml depends on: the user's own images, or else the file itself.

    DVC reads paths only from files and has no optional dependencies. The file follows from params.yaml, so whenever it is out of
    date the stage's parameters have changed as well, and the stage runs in any case. If there is no such file, none is made.

    Args:
        file: file of the checkout, `workflow/own_images.yaml`.
        params: block `prepare` of the preset that params.yaml names.
    """
    file = Path(file)
    own = params.path if params.source == "images" and params.path is not None else file.as_posix()
    comment = "# Written by the workflow: the images given by path that DVC watches, or this file where there are none."
    text = f"{comment}\nown_images: {json.dumps(own)}\n".encode()
    with suppress(OSError, UserError):  # in a checkout that cannot be written to DVC does nothing either
        if file.exists() and file.read_bytes() != text:
            with atomic_write(file) as temporary:
                temporary.write_bytes(text)


def _is_image(path: Path) -> bool:
    """Return whether the content is that of an image format, whatever the name."""
    from PIL import Image

    from agave.data.image_files import FORMATS

    try:
        with Image.open(path, formats=(*FORMATS, "AVIF", "JPEG2000")):
            return True
    except Exception:  # Pillow raises errors of many types for what is not an image
        return False


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
