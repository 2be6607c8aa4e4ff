"""Find results of models that the grid no longer names, by their folder names, and set them aside without deleting them.

Without this, a smaller grid would leave its old cells in results/ and in DVC's ledger. Trained weights can be days of work and a grid
is easily mistyped, so results are moved to a folder that the user empties. When they are moved back, they count as finished again.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from pathlib import Path

from agave import grid
from agave.config import Params
from agave.errors import UserError
from agave.files import atomic_write
from agave.results import bound_path, codec_path, history_paths, iwae_path, measures_path, samples_path

MODEL_FOLDERS = ("pretrain", "joint", "evaluate", "drawn", "sample", "codec")
_MODEL = re.compile(rf"{grid.NAME_PATTERN}|vae-resolution~[0-9]+")
_SEED = re.compile(r"seed~[0-9]+")


def stale(params: Params, results: Path) -> list[str]:
    """Find what the workflow wrote for models, seeds or bounds that the parameters no longer ask for.

    Only names that the workflow gives count, so other files are never listed.

    Args:
        params: the parameters of the preset.
        results: results/<preset>.

    Returns:
        Folders and files relative to `results`, sorted.
    """
    seeds = params.grid.seeds
    wanted = set(history_paths(params).values())
    wanted |= {path(cell, seed) for path in (bound_path, samples_path, measures_path) for cell in grid.all_cells(params) for seed in seeds}
    wanted |= {codec_path(cell, seeds[0]) for cell in grid.codec_cells(params)}
    folders = {results / Path(path).parent for path in wanted}
    sampled = {results / Path(iwae_path(cell, seed)).parent for cell in grid.sampled_cells(params) for seed in seeds}
    found: list[Path] = []
    for step in MODEL_FOLDERS:
        for folder in (results / step).glob("*/seed~*"):
            if not (_MODEL.fullmatch(folder.parent.name) and _SEED.fullmatch(folder.name) and folder.is_dir()):
                continue
            if folder not in folders:
                found.append(folder)
            elif step == "evaluate" and folder not in sampled:  # its bounds stay, it is in no table any more
                found += [*folder.glob("iwae*"), *folder.glob("growth.csv")]
    return sorted(path.relative_to(results).as_posix() for path in found)


def free_folder(preset: str) -> Path:
    """Return the folder for the next results that are set aside: work/pruned/<preset>/<number>."""
    number = 1
    while (folder := Path("work/pruned") / preset / str(number)).exists() or list_of(folder).exists():
        number += 1
    return folder


def list_of(folder: Path) -> Path:
    """Return the file that lists what was set aside in a folder. It is beside the folder, whose contents can thus be copied back."""
    return folder.with_name(f"{folder.name}.txt")


def set_aside(paths: Sequence[str], results: Path, folder: Path) -> None:
    """Move results to another folder, under the same names, and list them in a text file beside it.

    Args:
        paths: relative to `results`.
        results: results/<preset>.
        folder: destination; nothing in it is overwritten.

    Raises:
        UserError: one of them is there already, or cannot be moved.
    """
    for path in paths:
        target = folder / path
        if target.exists():
            raise UserError(f"{target}: already exists; accepted: a folder to set results aside that does not hold them yet")
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.move(results / path, target)
        except OSError as error:
            raise UserError(f"{results / path}: cannot be moved to {target} ({error.strerror or error})") from None
        model = (results / path).parent
        if not any(model.iterdir()):
            model.rmdir()
    with atomic_write(list_of(folder)) as temporary:
        temporary.write_text("".join(f"{path}\n" for path in paths), encoding="utf-8")
