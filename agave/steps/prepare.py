"""The step `prepare`: get images from a source, verify and split them, and store them as uint8 arrays with a manifest."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from agave.config import Params
from agave.config_checks import check_counts
from agave.data.arrays import array_sha256, write_npy
from agave.data.interface import count_duplicates
from agave.data.listing import summary_of
from agave.data.sources import SOURCES
from agave.files import atomic_write
from agave.provenance.run_record import recording


def run(params: Params, output: Path, images: Path | None = None) -> dict[str, Any]:
    """Prepare the images and write the run record run.json beside them; arguments, result and errors are those of `prepare`."""
    path = images or (Path(params.prepare.path) if params.prepare.path else None)
    given = {"images": path} if path is not None and path.is_file() else {}  # else the files are named in the manifest
    with recording("prepare", {"prepare": params.prepare.model_dump()}, given, output / "run.json") as record:
        manifest = prepare(params, output, images)
        record.outputs += [output / name for name in ("train.npy", "test.npy", "manifest.json")]
    return manifest


def prepare(params: Params, output: Path, images: Path | None = None) -> dict[str, Any]:
    """Get, verify and split the images; write train.npy, test.npy and manifest.json.

    All three files are complete before the first is put in place, and the manifest comes last, so after an error the folder is as it
    was. The same parameters give the same bytes. What was left out of a folder is named in one line on stderr.

    Args:
        params: parameters of the preset; the block `prepare` says which images.
        output: the folder to write to; made if missing.
        images: array file or folder; takes the place of `prepare.source` and `prepare.path`.

    Returns:
        The manifest: source, name, image_size, train and test (number of images, SHA-256 of the array's bytes in C
        order), split, licence, duplicates_across_splits, files, and for a folder of images left_out.

    Raises:
        UserError: images are missing, damaged, of the wrong shape or type, in both splits, or too few for a later step;
            or the disk is full.
    """
    chosen = params.prepare
    if images is not None:
        chosen = chosen.model_copy(update={"source": "images", "path": str(images)})
    found = SOURCES[chosen.source](chosen)
    train, test = np.ascontiguousarray(found.train), np.ascontiguousarray(found.test)
    check_counts(params, len(train), len(test))
    manifest = {
        "source": found.source,
        "name": {"train": found.train_name, "test": found.test_name},
        "image_size": chosen.image_size,
        "train": {"images": len(train), "sha256": array_sha256(train)},
        "test": {"images": len(test), "sha256": array_sha256(test)},
        "split": found.split,
        "licence": found.licence,
        "duplicates_across_splits": count_duplicates(train, test, found.official_split),
        "files": found.files,
    }
    if found.left_out is not None:
        manifest["left_out"] = found.left_out
    # The last one opened is the first one in place, so the manifest is the last.
    with (
        atomic_write(output / "manifest.json") as manifest_path,
        atomic_write(output / "test.npy") as test_path,
        atomic_write(output / "train.npy") as train_path,
    ):
        write_npy(train_path, train)
        write_npy(test_path, test)
        manifest_path.write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
    if found.left_out:
        print(f"{chosen.path}: {summary_of(found.left_out)}", file=sys.stderr)
    return manifest
