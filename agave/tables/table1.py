"""Table 1 of the paper with our numbers beside the published ones, row by row. All of ours are of the same test images."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from agave import grid
from agave.bootstrap import crossed_bootstrap
from agave.config import Params
from agave.csv_tables import make_table
from agave.grid import Cell
from agave.models import REGISTRY, options_of
from agave.planning.network_costs import parameters
from agave.provenance.run_record import RunRecord
from agave.published import DATA_SET, IMAGES, NAMES, TABLE_1, Row
from agave.results import TRAINING_RECORDS, Results, training_names
from agave.schemas import ORDER_SCHEMA, TABLE_1_SCHEMA
from agave.statistics import FORMULA, over_seeds, rank_correlation, standard_error_of_images

if TYPE_CHECKING:
    import pandas as pd

CONFIDENCE = 0.95


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


def order(source: Results) -> pd.DataFrame:
    """Compare the order of our numbers with that of the published ones, on the images of `table_1`.

    Returns:
        tables/order.csv: one row, columns `ORDER_SCHEMA`: Spearman's rank correlation with its 95 % interval over images and seeds. No
        value for fewer than three models.

    Raises:
        UserError: a result is missing, damaged or of other images.
    """
    cells = grid.table_1_cells(source.params)
    rows = [row for row in TABLE_1 if row.system in cells]
    bits = source.bits_on_the_same_images([cells[row.system] for row in rows])
    row: dict[str, Any] = {"models": len(rows), "images": bits.shape[1], "seeds": len(bits)}
    if len(rows) > 2:
        published = [float(one.bits_per_dim) for one in rows]
        value, ((low, high),) = crossed_bootstrap(bits, lambda means: rank_correlation(means, published)[..., None], [CONFIDENCE])
        row |= {"rank_correlation": value[0], "rank_correlation_low": low[0], "rank_correlation_high": high[0]}
    return make_table([row], ORDER_SCHEMA)


def _models(params: Params) -> Iterator[tuple[Row, Cell | None]]:
    """Yield the rows: the published number, and our model beside it."""
    best = grid.table_cells(params)[1]
    ours = grid.table_1_cells(params)
    for row in TABLE_1:
        yield row, ours.pop(row.system, None)
    if best.kl_weight != 12:
        yield _unpublished(model_name(best, params)), best
    for cell in grid.resolution_cells(params):
        value = LOW_RESOLUTION.get(cell.resolution, "") if params.prepare.image_size == 32 else ""
        model = f"AGAVE, {cell.resolution}×{cell.resolution} auxiliary image"
        yield Row(model, "Lucas & Verbeek, 2017, text", "", value, "bound", "agave") if value else _unpublished(model), cell
    for name, cell in ours.items():
        yield _unpublished(name), cell


def _unpublished(model: str) -> Row:
    return Row(model, "not in the paper", "", "", "", "")


def model_name(cell: Cell, params: Params) -> str:
    """Return the name of a model as tables print it."""
    if cell.kind != "agave":
        return (NAMES | {"pixelcnn_pp": "PixelCNN++"}).get(cell.system, cell.kind)
    size = "" if cell.resolution == params.prepare.image_size else f", {cell.resolution}×{cell.resolution}"
    return f"AGAVE, λ = {cell.kl_weight:g}{size}"


def _measured(source: Results, bounds: pd.DataFrame, iwae: pd.DataFrame) -> dict[Cell | None, dict[str, Any]]:
    """Return our columns of the table for each of our models."""
    pixelcnn_pp = grid.baselines(source.params)[1]
    cells = [pixelcnn_pp, *grid.table_cells(source.params), *grid.further_cells(source.params)]
    bits = source.bits_on_the_same_images(cells)
    means = over_seeds(_long({cell.name: bits[..., index] for index, cell in enumerate(cells)}), "bits_per_dim")
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
            "our_model": model_name(cell, source.params),
            "our_architecture": _architecture(cell, source.params),
            "our_parameters": sum(parameters(source.params, cell).values()) or None,
            "our_bound": "" if REGISTRY[cell.system].bound == "exact" else "<=",
            "our_number": _number(cell),
            "our_bits_per_dim": mean["value"],
            "our_standard_error": mean["standard_error"],
            "our_images": images,
            "our_samples": iwae["samples"].iloc[0] if cell.has_samples else None,
            "our_seeds": len(bits),
            "our_measured_on": data_set,
            "our_comparable": "yes" if data_set == DATA_SET and images == IMAGES else "no",
        }
        if cell != pixelcnn_pp:
            ends = {"": differences, "_low": low, "_high": high}
            measured[cell] |= {f"our_difference_to_pixelcnn_pp{end}": values[index - 1] for end, values in ends.items()}
        if not cell.has_samples:
            measured[cell] |= _on_all_images(source, cell, images)
    return measured


def _on_all_images(source: Results, cell: Cell, images: int) -> dict[str, Any]:
    """Return the value on all test images of a model whose value costs one pass, where the other columns are of fewer images."""
    bits = source.bits_without_noise(cell)
    if bits.shape[1] == images:
        return {}
    mean = over_seeds(_long({cell.name: bits}), "bits_per_dim").iloc[0]
    values = {"our_bits_per_dim": mean["value"], "our_standard_error": mean["standard_error"]}
    return {f"{name}_on_all_images": value for name, value in values.items()} | {"our_all_images": bits.shape[1]}


def _architecture(cell: Cell, params: Params) -> str:
    """Say where the architecture of our model comes from, and whether it is smaller than in the preset `paper`."""
    of_paper = options_of(cell.system, Params()) == options_of(cell.system, params)
    return REGISTRY[cell.system].architecture + ("" if of_paper else ", other sizes")


def _number(cell: Cell) -> str:
    bound = REGISTRY[cell.system].bound
    if bound == "exact":
        return "exact"
    if not cell.has_samples:
        return "bound without noise"
    return "bound, importance-sampled" + (" over the dequantisation noise" if bound == "dequantised" else "")


def _long(bits: dict[str, Any]) -> pd.DataFrame:
    """Return means over images and their standard errors, one row per model and seed, from arrays (seeds, images)."""
    import pandas as pd

    rows = [(name, one.mean(), standard_error_of_images(one.tolist())) for name, values in bits.items() for one in values]
    table = pd.DataFrame(rows, columns=["cell", "bits_per_dim", "bits_per_dim_standard_error"])
    return table.astype({"bits_per_dim_standard_error": "float64"})


def _row(published: Row, ours: dict[str, Any]) -> dict[str, Any]:
    cited = bool(published.bits_per_dim)
    row = {
        "model": published.model,
        "reference": published.reference,
        "published_bound": published.bound,
        "published_bits_per_dim": published.bits_per_dim,
        "published_number": published.number,
        "published_mark": "cited" if cited else "",
        "published_data_set": DATA_SET if cited else "",
    }
    return row | {name: round(value, 6) if isinstance(value, float) else value for name, value in ours.items()}


LEFT = ("Model", "Reference", "Published number is", "Ours is", "Architecture", "Measured on", "Our model")
"""The headings of columns that are aligned to the left; numbers are aligned to the right."""


def as_texts(table: pd.DataFrame, minutes: Mapping[str, float]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return Table 1 as it is printed, in two parts, without columns that would be empty.

    Args:
        table: result of `table_1`.
        minutes: result of `training_minutes`.

    Returns:
        The numbers, three digits after the point, and what is behind each of ours: texts, with headings. † marks cited values, ‡ ours
        that were not measured on the images of the published ones.
    """
    import pandas as pd

    def numbers(column: str, form: str = "{:.3f}") -> pd.Series[str]:
        return table[column].map(lambda value: "" if pd.isna(value) else form.format(value))

    text = {name: table[name].astype(str).where(table[name].notna(), "") for name in table}
    measured = table["our_model"].notna()
    difference = "our_difference_to_pixelcnn_pp"
    interval = " [" + numbers(f"{difference}_low", "{:+.3f}") + ", " + numbers(f"{difference}_high", "{:+.3f}") + "]"
    on_all = " ± " + numbers("our_standard_error_on_all_images") + " (" + text["our_all_images"] + ")"
    bits = {
        "Model": text["model"],
        "Reference": text["reference"],
        "Published": text["published_bound"] + " " + text["published_bits_per_dim"] + text["published_mark"].str.replace("cited", " †"),
        "Published number is": text["published_number"],
        "Ours": text["our_bound"] + " " + numbers("our_bits_per_dim") + text["our_comparable"].map({"no": " ‡", "yes": "", "": ""}),
        "Standard error": numbers("our_standard_error"),
        "Minus PixelCNN++ [95 % interval]": (numbers(difference, "{:+.3f}") + interval).where(table[difference].notna(), ""),
        "On all test images (number)": (numbers("our_bits_per_dim_on_all_images") + on_all).where(table["our_all_images"].notna(), ""),
        "Our model": text["our_model"],
    }
    origin = {
        "Our model": text["our_model"],
        "Ours is": text["our_number"],
        "K": text["our_samples"],
        "Images": text["our_images"],
        "Seeds": text["our_seeds"],
        "Parameters": numbers("our_parameters", "{:,.0f}"),
        "Training, minutes": text["our_model"].map(lambda name: f"{minutes[name]:.1f}" if name in minutes else ""),
        "Architecture": text["our_architecture"],
        "Measured on": text["our_measured_on"],
    }
    return _filled(bits), _filled({name: column[measured] for name, column in origin.items()})


def _filled(columns: dict[str, pd.Series[str]]) -> pd.DataFrame:
    import pandas as pd

    stripped = {name: column.str.strip().str.replace("<=", "≤") for name, column in columns.items()}
    return pd.DataFrame({name: column for name, column in stripped.items() if column.any()})


def training_minutes(source: Results) -> dict[str, float]:
    """Return the minutes that the trainings of each of our models took, its pretrainings included, mean over seeds, by `our_model`.

    Raises:
        UserError: trainings/runs.jsonl is missing or damaged.
    """
    seconds = {record.folder: record.wall_seconds for record in RunRecord.read_lines(source, TRAINING_RECORDS)}
    seeds, found = source.params.grid.seeds, {}
    for _, cell in _models(source.params):
        if cell is not None:
            folders = [f"{stage}/{name}/seed~{seed}" for stage, name in training_names(cell) for seed in seeds]
            if all(folder in seconds for folder in folders):
                found[model_name(cell, source.params)] = sum(seconds[folder] for folder in folders) / len(seeds) / 60
    return found


def notes(table: pd.DataFrame, preset: str) -> list[str]:
    """Return the sentences below Table 1."""
    found = [
        f"Bits per dimension, lower is better. Preset {preset}. Published: on the {IMAGES:,} {DATA_SET} images.",
        "† cited from the paper (Table 1 or section 4.2), not measured here.",
        "Ours: mean over seeds and over the same images for all models; of a bound with noise the importance-sampled one, with K samples.",
        f"Standard error, also after ±: {FORMULA}.",
        "Training: all trainings of the model with its pretrainings, on whatever machine they ran. Architecture: that of the publication; "
        "with sizes of ours where it gives none; or our reading where it leaves more open. Other sizes: not those of the preset paper.",
        "Minus PixelCNN++: mean difference on the same images; its interval is from draws of images and seeds, the same for both models.",
    ]
    if table["our_comparable"].eq("no").any():
        found.append(f"‡ not measured on the {IMAGES:,} {DATA_SET} images: not comparable with the published values.")
    return found
