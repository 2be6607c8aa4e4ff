"""What `agave prepare` wrote down about the images."""

from __future__ import annotations

import json
from pathlib import Path

from agave.errors import UserError


def name_of_test_images(folder: Path) -> str:
    """Return the name of the test images for tables and captions.

    Args:
        folder: folder of `agave prepare`, whose images were read by `load_images`.

    Raises:
        UserError: the manifest has no such name.
    """
    path = folder / "manifest.json"
    try:
        return str(json.loads(path.read_text(encoding="utf-8"))["name"]["test"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: lacks the name of the test images ({error!r}); run `agave prepare` to make it again") from error
