"""The small result files behind tables and figures: where they lie, how they are read, which command makes a missing one."""

from __future__ import annotations

import csv
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from agave import grid
from agave.config import Params
from agave.csv_tables import Kind, Schema, read_table
from agave.errors import UserError
from agave.grid import Cell

if TYPE_CHECKING:
    import pandas as pd

Row = dict[str, str]

BOUNDS = "tables/bounds.csv"
IWAE = "tables/iwae.csv"
HISTORIES = "trainings/history.csv"
TRAINING_RECORDS = "trainings/runs.jsonl"
CLAIMS = "claims/claims.csv"
CLAIMS_PAGE = "claims/claims.md"
BOUND_QUANTITIES = ("kl", "vae_reconstruction", "pixelcnn_reconstruction", "vae_bits_per_dim", "pixelcnn_bits_per_dim")
BOUND_COLUMNS = ("cell", "kind", "kl_weight", "levels", "resolution", "auxiliary", "seed", "data_set", "images", *BOUND_QUANTITIES)
IWAE_COLUMNS = (*BOUND_COLUMNS[:9], "samples", "elbo_bits_per_dim", "iwae_bits_per_dim", "iwae_bits_per_dim_standard_error")
GROWTH_COLUMNS = (*BOUND_COLUMNS[:9], "samples", "iwae_bits_per_dim", "iwae_bits_per_dim_standard_error", "gain", "gain_standard_error")
HISTORY_COLUMNS = ("step", "kl", "vae_reconstruction", "pixelcnn_reconstruction", "total")
HISTORIES_COLUMNS = ("stage", "model", "seed", *HISTORY_COLUMNS)

CELL_SCHEMA: Schema = {
    "cell": "text",
    "kind": "text",
    "kl_weight": "number",
    "levels": "integer",
    "resolution": "integer",
    "auxiliary": "boolean",
    "seed": "integer",
    "data_set": "text",
    "images": "integer",
    "precision": "text",
}
"""The first columns of everything that was measured of a cell: which model, and on what."""


def _measured(*quantities: str) -> Schema:
    number: Kind = "number"
    return {name: number for quantity in quantities for name in (quantity, f"{quantity}_standard_error")}


BOUND_SCHEMA: Schema = {**CELL_SCHEMA, **_measured(*BOUND_QUANTITIES)}
"""evaluate/CELL/seed~SEED/bound.csv (one row) and tables/bounds.csv; bits/dim, the standard errors over images."""
IWAE_SCHEMA: Schema = {**CELL_SCHEMA, "samples": "integer", **_measured("elbo_bits_per_dim", "iwae_bits_per_dim")}
"""evaluate/CELL/seed~SEED/iwae.csv (one row) and tables/iwae.csv."""
GROWTH_SCHEMA: Schema = {**CELL_SCHEMA, "samples": "integer", **_measured("iwae_bits_per_dim", "gain")}
"""evaluate/CELL/seed~SEED/growth.csv, one row a number of samples."""
HISTORY_SCHEMA: Schema = {
    "step": "integer",
    "kl": "number",
    "vae_reconstruction": "number",
    "pixelcnn_reconstruction": "number",
    "total": "number",
}
"""history.csv of a training."""
HISTORIES_SCHEMA: Schema = {"stage": "text", "model": "text", "seed": "integer", **HISTORY_SCHEMA}
"""trainings/history.csv, the histories of all trainings."""


def bound_path(cell: Cell, seed: int) -> str:
    """The one-sample bound of a cell, below results/<preset>/."""
    return f"evaluate/{cell.name}/seed~{seed}/bound.csv"


def iwae_path(cell: Cell, seed: int) -> str:
    """The importance-sampled bound of a cell, below results/<preset>/."""
    return f"evaluate/{cell.name}/seed~{seed}/iwae.csv"


def growth_path(cell: Cell, seed: int) -> str:
    """The importance-sampled bound of a cell with fewer samples, below results/<preset>/."""
    return f"evaluate/{cell.name}/seed~{seed}/growth.csv"


def per_image_path(cell: Cell, seed: int) -> str:
    """The terms of the one-sample bound of a cell, image by image, below results/<preset>/."""
    return f"evaluate/{cell.name}/seed~{seed}/per_image.npz"


def iwae_arrays_path(cell: Cell, seed: int) -> str:
    """The importance-sampled bound of a cell, image by image, below results/<preset>/."""
    return f"evaluate/{cell.name}/seed~{seed}/iwae.npz"


def samples_path(cell: Cell, seed: int) -> str:
    """The images of a cell, below results/<preset>/."""
    return f"sample/{cell.name}/seed~{seed}/samples.npz"


def history_paths(params: Params) -> dict[tuple[str, str, int], str]:
    """Training histories below results/<preset>/, as {(stage, model, seed): path}, stage "pretrain" or "joint"."""
    trained = grid.all_cells(params)
    resolutions = sorted({cell.resolution for cell in trained if cell.has_vae}, reverse=True)
    pretrained = ["pixelcnn_pp", *(f"vae-resolution~{resolution}" for resolution in resolutions)]
    models = [("pretrain", name) for name in pretrained] + [("joint", cell.name) for cell in trained]
    return {(stage, name, seed): f"{stage}/{name}/seed~{seed}/history.csv" for stage, name in models for seed in params.grid.seeds}


def claim_inputs(params: Params) -> list[str]:
    """The files that the claims are decided by, below results/<preset>/."""
    every, seeds = grid.all_cells(params), params.grid.seeds
    terms = [per_image_path(cell, seed) for cell in every for seed in seeds]
    bounds = [iwae_arrays_path(cell, seed) for cell in grid.table_cells(params) for seed in seeds]
    return [BOUNDS, *terms, *bounds, *(samples_path(cell, seeds[0]) for cell in every)]


@dataclass(frozen=True)
class Results:
    """What one preset has computed.

    Attributes:
        params: the parameters of the preset.
        preset: its name.
        folder: results/<preset>.
    """

    params: Params
    preset: str
    folder: Path

    def command(self, path: str) -> str:
        """The command that makes the file `path` (relative to results/<preset>/)."""
        return f"snakemake --cores all results/{self.preset}/{path} --config preset={self.preset}"

    def wrong(self, path: str, problem: str) -> UserError:
        """An error about the file `path` that names the command which makes it anew."""
        return UserError(f"{self.folder / path}: {problem}; make it with: {self.command(path)}")

    def table(self, path: str, schema: Schema) -> pd.DataFrame:
        """Read a csv file as a frame.

        Args:
            path: of the file, relative to results/<preset>/.
            schema: its columns and what each holds.

        Returns:
            One row a line; dtypes as `agave.csv_tables.read_table` gives them, missing values as NA.

        Raises:
            UserError: the file is missing, has no row, lacks a column, or holds a value of another kind.
        """
        try:
            return read_table(self.folder / path, schema)
        except FileNotFoundError:
            raise self.wrong(path, "missing") from None
        except UserError as error:
            raise self.wrong(path, str(error).removeprefix(f"{self.folder / path}: ")) from None

    def gather(
        self, cells: Sequence[Cell], path_of: Callable[[Cell, int], str], schema: Schema, *, single: bool = True, data_set: str = ""
    ) -> pd.DataFrame:
        """Read one file a cell and seed of the grid, and put them one below the other.

        Args:
            cells: the models, in the order of the rows.
            path_of: names the file of a cell and seed, for example `bound_path`.
            schema: of each file.
            single: whether a file has exactly one row.
            data_set: what all must have been measured on; "": the same, whatever it is.

        Returns:
            The rows of all files.

        Raises:
            UserError: a file is missing or damaged, or belongs to another cell, seed or data set.
        """
        import pandas as pd

        frames: list[pd.DataFrame] = []
        for cell in cells:
            for seed in self.params.grid.seeds:
                path = path_of(cell, seed)
                frame = self.table(path, schema)
                if not (frame["cell"].eq(cell.name) & frame["seed"].eq(seed)).all() or (single and len(frame) != 1):
                    what = "exactly one row," if single else "only rows"
                    raise self.wrong(path, f"does not hold {what} for the cell {cell.name} and seed {seed}")
                data_set = data_set or frame["data_set"].iloc[0]
                if frame["data_set"].ne(data_set).any():
                    raise self.wrong(path, f"was measured on '{frame['data_set'].iloc[0]}', others on '{data_set}'")
                if frames and list(frame) != list(frames[0]):
                    raise self.wrong(path, "has other columns than the cells before it")
                frames.append(frame)
        return pd.concat(frames, ignore_index=True)

    def bounds_of(self, cells: Sequence[Cell]) -> pd.DataFrame:
        """Read the rows of tables/bounds.csv of some cells.

        Args:
            cells: the models.

        Returns:
            One row a cell and seed of the grid, in their order.

        Raises:
            UserError: the table is missing or older than the grid.
        """
        table = self.table(BOUNDS, BOUND_SCHEMA).set_index(["cell", "seed"], drop=False)
        wanted = [(cell.name, seed) for cell in cells for seed in self.params.grid.seeds]
        for name, seed in wanted:
            if (name, seed) not in table.index:
                raise self.wrong(BOUNDS, f"has no row for the cell {name}, seed {seed}")
        return table.loc[wanted].reset_index(drop=True)

    def rows(self, path: str, columns: Sequence[str]) -> list[Row]:
        """Read a csv file, every value as it is written there.

        Args:
            path: of the file, relative to results/<preset>/.
            columns: that it must have.

        Raises:
            UserError: the file is missing, has no row or lacks a column.
        """
        try:
            with (self.folder / path).open(newline="", encoding="utf-8") as file:
                reader = csv.DictReader(file)
                rows = list(reader)
                missing = [column for column in columns if column not in (reader.fieldnames or ())]
        except FileNotFoundError:
            raise self.wrong(path, "missing") from None
        if missing:
            raise self.wrong(path, f"lacks the column {', '.join(missing)}")
        if not rows:
            raise self.wrong(path, "holds no row")
        return rows

    def number(self, path: str, row: Row, column: str) -> float:
        """One value of a row of the csv file `path`.

        Raises:
            UserError: it is no finite number.
        """
        try:
            value = float(row[column])
        except ValueError:
            value = float("nan")
        if not np.isfinite(value):
            raise self.wrong(path, f"{column} of {row.get('cell', 'a row')} is '{row[column]}', which is no finite number")
        return value

    def bounds(self, cell: Cell) -> list[Row]:
        """The rows of tables/bounds.csv of a cell, one per seed of the grid.

        Raises:
            UserError: the table is missing or older than the grid.
        """
        table = {(row["cell"], row["seed"]): row for row in self.rows(BOUNDS, BOUND_COLUMNS)}
        wanted = [(cell.name, str(seed)) for seed in self.params.grid.seeds]
        for name, seed in wanted:
            if (name, seed) not in table:
                raise self.wrong(BOUNDS, f"has no row for the cell {name}, seed {seed}")
        return [table[key] for key in wanted]

    def data_set(self) -> str:
        """The data set that the numbers of tables/bounds.csv were measured on."""
        return self.rows(BOUNDS, BOUND_COLUMNS)[0]["data_set"]

    def images(self, cell: Cell, keys: Sequence[str]) -> dict[str, NDArray[np.uint8]]:
        """Images that were drawn for a cell, first seed of the grid.

        Args:
            cell: the model.
            keys: which of the arrays of samples.npz.

        Returns:
            For each key the images, uint8 (N, H, W, 3).

        Raises:
            UserError: the file is missing, damaged, or lacks an array of that shape and type.
        """
        path = samples_path(cell, self.params.grid.seeds[0])
        try:
            with np.load(self.folder / path, allow_pickle=False) as file:
                arrays = {key: file[key] for key in keys if key in file.files}
        except FileNotFoundError:
            raise self.wrong(path, "missing") from None
        except (zipfile.BadZipFile, ValueError, EOFError, AttributeError):
            raise self.wrong(path, "cannot be read as an npz file of images") from None
        for key in keys:
            if key not in arrays:
                raise self.wrong(path, f"lacks the array {key}")
            if arrays[key].dtype != np.uint8 or arrays[key].ndim != 4 or arrays[key].shape[3] != 3 or not len(arrays[key]):
                raise self.wrong(path, f"{key} is {arrays[key].dtype} {arrays[key].shape}; accepted: uint8 (N, H, W, 3)")
        return arrays
