"""The small result files behind tables and figures: their paths, how they are read, and the command that makes a missing one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from agave import grid
from agave.config import Params
from agave.csv_tables import Schema, read_table
from agave.data.arrays import read_array_file
from agave.errors import UserError
from agave.grid import Cell
from agave.schemas import BOUND_SCHEMA
from agave.units import bits_per_dim

if TYPE_CHECKING:
    import pandas as pd


BOUNDS = "tables/bounds.csv"
IWAE = "tables/iwae.csv"
TABLE_1 = "tables/table1.csv"
ORDER = "tables/order.csv"
IMAGE_FORMATS = "formats/formats.csv"
CODEC_TABLE = "tables/codec.csv"
HISTORIES = "trainings/history.csv"
TRAINING_RECORDS = "trainings/runs.jsonl"
CLAIMS = "claims/claims.csv"
CLAIMS_PAGE = "claims/claims.md"
POWER = "claims/power.csv"


_NOT_OF_AN_IMAGE = ("samples", "bits_map", "bits_of_pixels")


def quantities(cell: Cell) -> tuple[str, ...]:
    """Name the columns of bound.csv that a cell has a network for."""
    vae, pixelcnn = ("vae_reconstruction", "vae_bits_per_dim"), ("pixelcnn_reconstruction", "pixelcnn_bits_per_dim")
    return ("kl", *(vae if cell.has_vae else ()), *(pixelcnn if cell.models_x else ()))


def bound_path(cell: Cell, seed: int) -> str:
    """Return the path of the one-sample bound of a cell, below results/<preset>/."""
    return f"evaluate/{cell.name}/seed~{seed}/bound.csv"


def iwae_path(cell: Cell, seed: int) -> str:
    """Return the path of the importance-sampled bound of a cell, below results/<preset>/."""
    return f"evaluate/{cell.name}/seed~{seed}/iwae.csv"


def growth_path(cell: Cell, seed: int) -> str:
    """Return the path of the importance-sampled bound of a cell with fewer samples, below results/<preset>/."""
    return f"evaluate/{cell.name}/seed~{seed}/growth.csv"


def per_image_path(cell: Cell, seed: int) -> str:
    """Return the path of the terms of the one-sample bound of a cell, image by image, below results/<preset>/."""
    return f"evaluate/{cell.name}/seed~{seed}/per_image.npz"


def iwae_arrays_path(cell: Cell, seed: int) -> str:
    """Return the path of the importance-sampled bound of a cell, image by image, below results/<preset>/."""
    return f"evaluate/{cell.name}/seed~{seed}/iwae.npz"


def codec_path(cell: Cell, seed: int) -> str:
    """Return the path of the size of the file that a cell compresses images to, below results/<preset>/."""
    return f"codec/{cell.name}/seed~{seed}/codec.csv"


def codec_arrays_path(cell: Cell, seed: int) -> str:
    """Return the path of the bits of each image in that file, below results/<preset>/."""
    return f"codec/{cell.name}/seed~{seed}/codec.npz"


def compressed_path(cell: Cell, seed: int) -> str:
    """Return the path of that file, below results/<preset>/."""
    return f"codec/{cell.name}/seed~{seed}/images.agv"


def samples_path(cell: Cell, seed: int) -> str:
    """Return the path of all images that were drawn with a cell, which git does not keep, below results/<preset>/."""
    return f"drawn/{cell.name}/seed~{seed}/samples.npz"


def shown_path(cell: Cell, seed: int) -> str:
    """Return the path of the images of a cell that the figures show, below results/<preset>/."""
    return f"sample/{cell.name}/seed~{seed}/shown.npz"


def measures_path(cell: Cell, seed: int) -> str:
    """Return the path of the measures of the images that were drawn with a cell, below results/<preset>/."""
    return f"sample/{cell.name}/seed~{seed}/measures.npz"


def history_paths(params: Params) -> dict[tuple[str, str, int], str]:
    """Return the paths of the training histories below results/<preset>/, as {(stage, model, seed): path}, stage "pretrain" or "joint"."""
    trained = grid.all_cells(params)
    resolutions = sorted({cell.resolution for cell in trained if cell.has_vae}, reverse=True)
    pretrained = ["pixelcnn_pp", *(f"vae-resolution~{resolution}" for resolution in resolutions)]
    models = [("pretrain", name) for name in pretrained] + [("joint", cell.name) for cell in trained]
    return {(stage, name, seed): f"{stage}/{name}/seed~{seed}/history.csv" for stage, name in models for seed in params.grid.seeds}


def training_names(cell: Cell) -> list[tuple[str, str]]:
    """Return the trainings that a model comes from as (stage, model), the pretrainings first."""
    pretrained = [f"vae-resolution~{cell.resolution}"] * cell.has_vae + ["pixelcnn_pp"] * cell.has_pixelcnn_pp
    return [*(("pretrain", name) for name in pretrained), ("joint", cell.name)]


def claim_inputs(params: Params) -> list[str]:
    """List the files that decide the claims, below results/<preset>/."""
    every, seeds = grid.all_cells(params), params.grid.seeds
    terms = [per_image_path(cell, seed) for cell in every for seed in seeds]
    bounds = [iwae_arrays_path(cell, seed) for cell in grid.sampled_cells(params) for seed in seeds]
    codec = [codec_arrays_path(cell, seeds[0]) for cell in grid.codec_cells(params)]
    return [BOUNDS, *terms, *bounds, *(measures_path(cell, seed) for cell in every for seed in seeds), *codec]


@dataclass(frozen=True)
class Results:
    """The results of one preset.

    Attributes:
        params: the parameters of the preset.
        preset: its name.
        folder: results/<preset>.
    """

    params: Params
    preset: str
    folder: Path

    def command(self, path: str) -> str:
        """Return the command that makes the file `path` (relative to results/<preset>/)."""
        return f"snakemake --cores all results/{self.preset}/{path} --config preset={self.preset}"

    def wrong(self, path: str, problem: str) -> UserError:
        """Return an error about the file `path` that names the command which makes it again."""
        return UserError(f"{self.folder / path}: {problem}; make it with: {self.command(path)}")

    def table(self, path: str, schema: Schema) -> pd.DataFrame:
        """Read a csv file as a frame.

        Args:
            path: path of the file, relative to results/<preset>/.
            schema: its columns and what each holds.

        Returns:
            One row per line; dtypes as `agave.csv_tables.read_table` gives them, missing values as NA.

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
        """Read one file per cell and seed of the grid, and join their rows.

        Args:
            cells: the models, in the order of the rows.
            path_of: names the file of a cell and seed, for example `bound_path`.
            schema: schema of each file.
            single: whether a file has exactly one row.
            data_set: data set that all must have been measured on; "" accepts any, as long as it is the same for all.

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
                self._check_measured(path, frame, cell)
                frames.append(frame)
        return pd.concat(frames, ignore_index=True)

    def bounds_of(self, cells: Sequence[Cell]) -> pd.DataFrame:
        """Read the rows of tables/bounds.csv of some cells.

        Args:
            cells: the models.

        Returns:
            One row per cell and seed of the grid, in their order.

        Raises:
            UserError: the table is missing or older than the grid.
        """
        table = self.table(BOUNDS, BOUND_SCHEMA).set_index(["cell", "seed"], drop=False)
        wanted = [(cell, seed) for cell in cells for seed in self.params.grid.seeds]
        for cell, seed in wanted:
            if (cell.name, seed) not in table.index:
                raise self.wrong(BOUNDS, f"has no row for the cell {cell.name}, seed {seed}")
            self._check_measured(BOUNDS, table.loc[[(cell.name, seed)]], cell)
        return table.loc[[(cell.name, seed) for cell, seed in wanted]].reset_index(drop=True)

    def _check_measured(self, path: str, rows: pd.DataFrame, cell: Cell) -> None:
        for column in (*quantities(cell), "elbo_bits_per_dim", "iwae_bits_per_dim", "gain"):
            if column in rows and rows[column].isna().any():
                raise self.wrong(path, f"{column} of {cell.name} is missing; accepted: a finite number")

    def data_set(self) -> str:
        """Return the data set that the numbers of tables/bounds.csv were measured on."""
        return str(self.table(BOUNDS, BOUND_SCHEMA)["data_set"].iloc[0])

    def images(self, cell: Cell, keys: Sequence[str]) -> dict[str, NDArray[np.uint8]]:
        """Read the images of a cell that the figures show, drawn with the first seed of the grid.

        Args:
            cell: the model.
            keys: names of arrays of shown.npz.

        Returns:
            For each key the images, uint8 (N, H, W, 3).

        Raises:
            UserError: the file is missing, damaged, or lacks an array of that shape and type.
        """
        path = shown_path(cell, self.params.grid.seeds[0])
        found = self.arrays(path, keys)
        for key, array in found.items():
            if array.dtype != np.uint8 or array.ndim != 4 or array.shape[3] != 3 or not len(array):
                raise self.wrong(path, f"{key} is {array.dtype} {array.shape}; accepted: uint8 (N, H, W, 3)")
        return found

    def arrays(self, path: str, keys: Sequence[str]) -> dict[str, NDArray[Any]]:
        """Read some arrays of an .npz file, or raise UserError if it is missing, damaged, or lacks one."""
        arrays = self._arrays(path)
        for key in keys:
            if key not in arrays:
                raise self.wrong(path, f"lacks the array {key}")
        return {key: arrays[key] for key in keys}

    def per_image(self, cell: Cell, path_of: Callable[[Cell, int], str]) -> dict[str, NDArray[np.float64]]:
        """Read the measurements of a cell for each image.

        Args:
            cell: the model.
            path_of: names the file of a cell and seed: `per_image_path`, `iwae_arrays_path` or `measures_path`.

        Returns:
            {name: (seeds, images) or (seeds, images, k)}, in the order of the seeds of the grid: terms in nats, of which the
            importance-sampled bound has one for each number of samples; or measures of images.

        Raises:
            UserError: a file is missing or damaged, or has other arrays than the file of the first seed.
        """
        paths = [path_of(cell, seed) for seed in self.params.grid.seeds]
        found = [{name: array for name, array in self._arrays(path).items() if name not in _NOT_OF_AN_IMAGE} for path in paths]
        for path, arrays in zip(paths, found, strict=True):
            if {name: array.shape for name, array in arrays.items()} != {name: array.shape for name, array in found[0].items()}:
                raise self.wrong(path, "has other arrays than that of the first seed")
        return {name: np.stack([arrays[name] for arrays in found]).astype(np.float64) for name in found[0]}

    def bits_without_noise(self, cell: Cell) -> NDArray[np.float64]:
        """Return the negative log-likelihood of a model without noise, exact or bounded, (seeds, all test images), bits/dim of x."""
        return self._bits(self._term(cell, per_image_path, "kl") - self._term(cell, per_image_path, "log_prob_x"))

    def bits_on_the_same_images(self, cells: Sequence[Cell]) -> NDArray[np.float64]:
        """Return the values that Table 1 compares: importance-sampled bounds, and the values themselves of models without noise.

        Args:
            cells: C models of the table.

        Returns:
            (seeds, images, C), bits/dim of x, on the images that all of them were measured on, the first test images.

        Raises:
            UserError: a result is missing, damaged or of other images.
        """
        bits = [
            self._bits(-self._term(cell, iwae_arrays_path, "iwae")) if cell.has_samples else self.bits_without_noise(cell) for cell in cells
        ]
        images = min(one.shape[1] for one in bits)
        for cell, one in zip(cells, bits, strict=True):
            if cell.has_samples and one.shape[1] != images:
                path = iwae_arrays_path(cell, self.params.grid.seeds[0])
                raise self.wrong(path, f"holds {one.shape[1]} images, another model {images}; accepted: the same number for all")
        return np.stack([one[:, :images] for one in bits], axis=2)

    def code_lengths(self, cell: Cell) -> dict[str, NDArray[np.float64]]:
        """Read the bits that each image takes in the file of a cell, with the first seed of the grid.

        Args:
            cell: one of `grid.codec_cells`.

        Returns:
            {"bits": as coded, "bound_bits": as the bound has it, "by_model": 1 where the image is coded by the model with its latent
            variables}, each (images,).

        Raises:
            UserError: the file is missing or damaged, or lacks an array.
        """
        path = codec_arrays_path(cell, self.params.grid.seeds[0])
        arrays = self.arrays(path, ("bits", "bound_bits", "by_model"))
        for name, array in arrays.items():
            if array.shape != arrays["bits"].shape or array.ndim != 1:
                raise self.wrong(path, f"{name} is {array.shape}; accepted: one value an image")
        return {name: array.astype(np.float64) for name, array in arrays.items()}

    def _term(self, cell: Cell, path_of: Callable[[Cell, int], str], name: str) -> NDArray[np.float64]:
        arrays = self.per_image(cell, path_of)
        if name not in arrays or arrays[name].ndim != 2:
            raise self.wrong(path_of(cell, self.params.grid.seeds[0]), f"lacks the array {name} of one value an image")
        return arrays[name]

    def _bits(self, nats: NDArray[np.float64]) -> NDArray[np.float64]:
        return bits_per_dim(nats, 3 * self.params.prepare.image_size**2)

    def _arrays(self, path: str) -> dict[str, NDArray[Any]]:
        try:
            return read_array_file(self.folder / path)
        except UserError as error:
            problem = str(error).removeprefix(f"{self.folder / path}: ")
            raise self.wrong(path, f"cannot be read: {problem}" if (self.folder / path).exists() else "missing") from None
