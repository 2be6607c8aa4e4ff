"""The table of compressed files: how long they are beside the likelihoods, and what common image formats take for the same images."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from agave import grid
from agave.config import Params
from agave.csv_tables import make_table
from agave.results import IMAGE_FORMATS, Results, codec_path
from agave.schemas import CODEC_SCHEMA, CODEC_TABLE_SCHEMA, IMAGE_FORMATS_SCHEMA
from agave.tables.formats import as_markdown
from agave.tables.table1 import model_name

if TYPE_CHECKING:
    import pandas as pd

NOTES_OF_MODELS = (
    "File: the whole file of all images, with header and checksums. First images: coded with z at the mean of its prior, before there are "
    "bits to draw z with; they cost more, and do so once a file.",
    "The model is needed to decompress, and its size is in no number.",
)
NOTES_OF_FORMATS = (
    "The image formats know nothing of these images, and are made for larger ones: one file an image is mostly header. Without header: "
    "less what a plain grey image takes. One picture: all images side by side, as a model has them in one file.",
)
NAMES_OF_BOUNDS = {"exact": "exact likelihood", "elbo": "one-sample bound"}


def codec_inputs(params: Params) -> list[str]:
    """List the files that `codec_table` reads, relative to results/<preset>/."""
    return [*(codec_path(cell, params.grid.seeds[0]) for cell in grid.codec_cells(params)), IMAGE_FORMATS]


def codec_table(source: Results) -> pd.DataFrame:
    """Gather the sizes of the compressed files.

    Args:
        source: the results.

    Returns:
        tables/codec.csv: one row per model of `codec.cells`, with the first seed of the grid, then one per image format.

    Raises:
        UserError: a result is missing or damaged; the message names the command that makes it.
    """
    params, rows = source.params, list[dict[str, Any]]()
    for cell in grid.codec_cells(params):
        table = source.table(codec_path(cell, params.grid.seeds[0]), CODEC_SCHEMA)
        rows.append({"coder": model_name(cell, params), **_first_row(table)})
    formats = source.table(IMAGE_FORMATS, IMAGE_FORMATS_SCHEMA)
    rows += [{"coder": row["format"], **row} for row in (_first_row(formats.iloc[[index]]) for index in range(len(formats)))]
    return make_table(rows, CODEC_TABLE_SCHEMA)


def _first_row(table: pd.DataFrame) -> dict[str, Any]:
    return {str(name): value for name, value in table.iloc[0].dropna().items()}


def codec_text(table: pd.DataFrame, preset: str) -> str:
    """Return the table as Markdown: the models, then the image formats, then what the numbers are."""
    import pandas as pd

    models, formats = table[table["cell"].notna()], table[table["cell"].isna()]
    parts = []
    if len(models):
        text = {
            "Model": models["coder"],
            "Reported is": models["bound"].map(NAMES_OF_BOUNDS),
            "Reported": models["bound_bits_per_dim"].map("{:.4f}".format),
            "File": models["file_bits_per_dim"].map("{:.4f}".format),
            "Bytes": models["file_bytes"].map("{:,}".format),
            "Overhead, %": models["overhead_percent"].map("{:+.3f}".format),
            "First images": models["images_without_latent_variables"].map(str),
            "Overhead of the others, %": models["overhead_percent_of_the_others"].map("{:+.3f}".format),
            "Decoded exactly": models["exact_images"].map(str) + " of " + models["images"].map(str),
        }
        parts.append(as_markdown(pd.DataFrame(text), [], ("Model", "Reported is")))
    columns = {"One file an image": "one_file_each", "Without header": "without_header", "One picture": "one_picture"}
    numbers = {name: formats[f"{column}_bits_per_dim"].map("{:.3f}".format) for name, column in columns.items()}
    parts.append(as_markdown(pd.DataFrame({"Format": formats["coder"]} | numbers), [], ("Format",)))
    images = f"the first {table['images'].iloc[0]} images of {table['data_set'].iloc[0]}"
    notes = [
        f"Bits per dimension, lower is better. Preset {preset}, {images}, models of the first seed.",
        *NOTES_OF_MODELS * bool(len(models)),
        *NOTES_OF_FORMATS,
    ]
    return "\n".join([*parts, "".join(f"{note}  \n" for note in notes)])
