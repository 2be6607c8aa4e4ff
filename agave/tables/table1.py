"""Table 1 of the paper with our numbers beside the published ones. All of ours are of the same test images."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from agave import grid
from agave.bootstrap import crossed_bootstrap
from agave.config import Params
from agave.csv_tables import make_table
from agave.grid import Cell
from agave.published import DATA_SET, IMAGES
from agave.results import TABLE_1_SCHEMA, Results
from agave.statistics import FORMULA, over_seeds, standard_error_of_images

if TYPE_CHECKING:
    import pandas as pd

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Published:
    """A row of Table 1 of the paper: bits per dimension on the 10,000 CIFAR-10 test images.

    Attributes:
        model: name of the model in the paper.
        reference: publication that the number is from.
        bound: "<=" if the number is an upper bound, otherwise "".
        bits_per_dim: the number as printed.
    """

    model: str
    reference: str
    bound: str
    bits_per_dim: str


AGAVE = "AGAVE, λ = 12"
PUBLISHED = (
    Published("NICE", "Dinh et al., 2015", "", "4.48"),
    Published("Conv. DRAW", "Gregor et al., 2016", "<=", "3.58"),
    Published("Real NVP", "Dinh et al., 2017", "", "3.49"),
    Published("MatNet", "Bachman, 2016", "<=", "3.24"),
    Published("PixelCNN", "Oord et al., 2016", "", "3.14"),
    Published("VAE-IAF", "Kingma et al., 2016", "<=", "3.11"),
    Published("Gated pixelCNN", "van den Oord et al., 2016", "", "3.03"),
    Published("Pixel-RNN", "Oord et al., 2016", "", "3.00"),
    Published("Aux. pixelCNN", "Kolesnikov & Lampert, 2017", "", "2.98"),
    Published("Lossy VAE", "Chen et al., 2017", "<=", "2.95"),
    Published(AGAVE, "Lucas & Verbeek, 2017", "<=", "2.92"),
    Published("pixCNN++", "Salimans et al., 2017", "", "2.92"),
)
# PAPER: The text does not say whether its 2.94 and 2.93 are one-sample or importance-sampled bounds. Ours are importance-sampled.
LOW_RESOLUTION = {16: "2.94", 8: "2.93"}  # of 32x32 images, section 4.2 of the paper


def table_1(source: Results, bounds: pd.DataFrame, iwae: pd.DataFrame) -> pd.DataFrame:
    """Put our numbers beside the published ones.

    Args:
        source: the results; the values of each image are read from them.
        bounds: tables/bounds.csv.
        iwae: tables/iwae.csv.

    Returns:
        tables/table1.csv: one row per model, columns `TABLE_1_SCHEMA`. All numbers `our_bits_per_dim` are of the same images.

    Raises:
        UserError: a result is missing, damaged or of other images.
    """
    ours = _measured(source, bounds, iwae)
    return make_table([_row(published, ours.get(cell, {})) for published, cell in _models(source.params)], TABLE_1_SCHEMA)


def _models(params: Params) -> Iterator[tuple[Published, Cell | None]]:
    """Yield the rows: the published number, and our model beside it."""
    vae, pixelcnn_pp = grid.baselines(params)
    best = grid.table_cells(params)[1]
    ours = {"VAE-IAF": vae, "pixCNN++": pixelcnn_pp} | ({AGAVE: best} if best.kl_weight == 12 else {})
    for row in PUBLISHED:
        yield row, ours.get(row.model)
    if best not in ours.values():
        yield Published(_name(best, params), "not in the paper", "", ""), best
    for cell in grid.resolution_cells(params):
        value = LOW_RESOLUTION.get(cell.resolution, "") if params.prepare.image_size == 32 else ""
        model = f"AGAVE, {cell.resolution}×{cell.resolution} auxiliary image"
        yield Published(model, "Lucas & Verbeek, 2017, text" if value else "not in the paper", "", value), cell
    for cell in grid.further_cells(params):
        yield Published(cell.kind, "not in the paper", "", ""), cell


def _name(cell: Cell, params: Params) -> str:
    if cell.kind != "agave":
        return {"vae": "VAE-IAF", "pixelcnn_pp": "PixelCNN++"}.get(cell.kind, cell.kind)
    size = "" if cell.resolution == params.prepare.image_size else f", {cell.resolution}×{cell.resolution}"
    return f"AGAVE, λ = {cell.kl_weight:g}{size}"


def _measured(source: Results, bounds: pd.DataFrame, iwae: pd.DataFrame) -> dict[Cell | None, dict[str, Any]]:
    """Return our columns of the table for each of our models."""
    pixelcnn_pp = grid.baselines(source.params)[1]
    cells = [pixelcnn_pp, *grid.table_cells(source.params), *grid.further_cells(source.params)]
    bits, exact = source.bits_on_the_same_images(cells), source.exact_bits(pixelcnn_pp)
    means = over_seeds(_long({cell.name: bits[..., index] for index, cell in enumerate(cells)}), "bits_per_dim")
    on_all = over_seeds(_long({pixelcnn_pp.name: exact}), "bits_per_dim").iloc[0]
    differences, ((low, high),) = crossed_bootstrap(bits, lambda one: one[..., 1:] - one[..., :1], [CONFIDENCE])
    images, data_set = bits.shape[1], bounds["data_set"].iloc[0]
    other = iwae[iwae["images"].ne(images)]
    if not other.empty:
        row = other.iloc[0]
        path = f"evaluate/{row['cell']}/seed~{row['seed']}/iwae.csv"
        raise source.wrong(path, f"is of {row['images']} images, iwae.npz of {images}; accepted: the same images for all models")
    measured: dict[Cell | None, dict[str, Any]] = {}
    for index, cell in enumerate(cells):
        mean = means.loc[cell.name]
        measured[cell] = {
            "our_model": _name(cell, source.params),
            "our_bound": "<=" if cell.has_vae else "",
            "our_bits_per_dim": mean["value"],
            "our_standard_error": mean["standard_error"],
            "our_images": images,
            "our_samples": iwae["samples"].iloc[0] if cell.has_vae else None,
            "our_seeds": len(bits),
            "our_measured_on": data_set,
            "our_comparable": "yes" if data_set == DATA_SET and images == IMAGES else "no",
        }
        if cell != pixelcnn_pp:
            ends = {"": differences, "_low": low, "_high": high}
            measured[cell] |= {f"our_difference_to_pixelcnn_pp{end}": values[index - 1] for end, values in ends.items()}
        elif exact.shape[1] != images:
            measured[cell] |= {
                "our_bits_per_dim_on_all_images": on_all["value"],
                "our_standard_error_on_all_images": on_all["standard_error"],
                "our_all_images": exact.shape[1],
            }
    return measured


def _long(bits: dict[str, Any]) -> pd.DataFrame:
    """Return means over images and their standard errors, one row per model and seed, from arrays (seeds, images)."""
    import pandas as pd

    rows = [(name, one.mean(), standard_error_of_images(one.tolist())) for name, values in bits.items() for one in values]
    table = pd.DataFrame(rows, columns=["cell", "bits_per_dim", "bits_per_dim_standard_error"])
    return table.astype({"bits_per_dim_standard_error": "float64"})


def _row(published: Published, ours: dict[str, Any]) -> dict[str, Any]:
    cited = bool(published.bits_per_dim)
    row = {
        "model": published.model,
        "reference": published.reference,
        "published_bound": published.bound,
        "published_bits_per_dim": published.bits_per_dim,
        "published_mark": "cited" if cited else "",
        "published_data_set": DATA_SET if cited else "",
    }
    return row | {name: round(value, 6) if isinstance(value, float) else value for name, value in ours.items()}


LEFT = ("Model", "Reference", "Measured on", "Our model")
"""The headings of columns that are aligned to the left; numbers are aligned to the right."""


def as_texts(table: pd.DataFrame) -> pd.DataFrame:
    """Return Table 1 as it is printed, three digits after the point, without the columns that would be empty.

    Args:
        table: result of `table_1`.

    Returns:
        Texts, with headings. † marks cited values, ‡ ours that were not measured on the images of the published ones.
    """
    import pandas as pd

    def numbers(column: str, form: str = "{:.3f}") -> pd.Series[str]:
        return table[column].map(lambda value: "" if pd.isna(value) else form.format(value))

    text = {name: table[name].astype(str).where(table[name].notna(), "") for name in table}
    measured = table["our_model"].notna()
    difference = "our_difference_to_pixelcnn_pp"
    interval = " [" + numbers(f"{difference}_low", "{:+.3f}") + ", " + numbers(f"{difference}_high", "{:+.3f}") + "]"
    on_all = " ± " + numbers("our_standard_error_on_all_images") + " (" + text["our_all_images"] + ")"
    shown = {
        "Model": text["model"],
        "Reference": text["reference"],
        "Published": text["published_bound"] + " " + text["published_bits_per_dim"] + text["published_mark"].str.replace("cited", " †"),
        "Ours": text["our_bound"] + " " + numbers("our_bits_per_dim") + text["our_comparable"].map({"no": " ‡", "yes": "", "": ""}),
        "Standard error": numbers("our_standard_error"),
        "Minus PixelCNN++ [95 % interval]": (numbers(difference, "{:+.3f}") + interval).where(table[difference].notna(), ""),
        "K": text["our_samples"].where(table["our_samples"].notna() | ~measured, "exact"),
        "Images": text["our_images"],
        "On all test images (number)": (numbers("our_bits_per_dim_on_all_images") + on_all).where(table["our_all_images"].notna(), ""),
        "Seeds": text["our_seeds"],
        "Measured on": text["our_measured_on"],
        "Our model": text["our_model"],
    }
    stripped = {name: column.str.strip().str.replace("<=", "≤") for name, column in shown.items()}
    return pd.DataFrame({name: column for name, column in stripped.items() if column.any()})


def notes(table: pd.DataFrame, preset: str) -> list[str]:
    """Return the sentences below Table 1."""
    found = [
        f"Bits per dimension, lower is better. Preset {preset}. Published: on the {IMAGES:,} {DATA_SET} images.",
        "† cited from the paper (Table 1 or section 4.2), not measured here.",
        "Ours: importance-sampled bound with K samples, or the exact likelihood; mean over seeds and over the same images for all models.",
        f"Standard error, also after ±: {FORMULA}.",
        "Minus PixelCNN++: mean difference on the same images; its interval is from draws of images and seeds, the same for both models.",
    ]
    if table["our_comparable"].eq("no").any():
        found.append(f"‡ not measured on the {IMAGES:,} {DATA_SET} images: not comparable with the published values.")
    return found
