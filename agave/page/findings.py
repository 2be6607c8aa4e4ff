"""The numbers of the page, each read from a csv file of the results: sentences and tables."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from agave import figures
from agave.claims.evidence import short_name
from agave.csv_tables import Schema
from agave.figures import figure_cells
from agave.grid import Cell
from agave.page.parts import Table, arrays_of
from agave.provenance.run_record import COMPUTE
from agave.results import CODEC_TABLE, ORDER, TABLE_1, Results
from agave.schemas import CODEC_TABLE_SCHEMA, ORDER_SCHEMA, TABLE_1_SCHEMA
from agave.tables.table1 import LEFT, as_texts, notes, training_minutes

if TYPE_CHECKING:
    import pandas as pd

ESTIMATES_SCHEMA: Schema = {
    "cell": "text",
    "kl_weight": "number",
    "levels": "integer",
    "quantity": "text",
    "bits_per_dim": "number",
    "standard_error": "number",
    "seeds": "integer",
}
"""The csv files behind Figures 4 and 5b."""
GAINS_SCHEMA: Schema = {"cell": "text", "seed": "integer", "samples": "integer", "iwae_bits_per_dim": "number", "gain": "number"}
"""The csv file behind the growth of the bound."""
COMPUTE_SCHEMA: Schema = {
    "step": "text",
    "jobs": "integer",
    "wall_hours": "number",
    "processor_hours": "number",
    "gpu_hours": "number",
    "longest_job_minutes": "number",
    "peak_memory_mib": "number",
}
CURVES = {"kl": "KL", "vae_bits_per_dim": "VAE decoder", "pixelcnn_bits_per_dim": "PixelCNN decoder"}
TERMS = {
    "kl": "KL",
    "vae_reconstruction": "VAE reconstruction",
    "vae_bits_per_dim": "VAE decoder, total",
    "pixelcnn_reconstruction": "PixelCNN reconstruction",
    "pixelcnn_bits_per_dim": "PixelCNN decoder, total",
}


def estimate(source: Results, name: str, cell: Cell, quantity: str) -> tuple[float, float]:
    """Return a number of the csv file behind a figure and its standard error, bits/dim.

    Raises:
        UserError: the file is missing or damaged, or has no such number.
    """
    table = _table(source, name, ESTIMATES_SCHEMA)
    row = table[table["cell"].eq(cell.name) & table["quantity"].eq(quantity)]
    if len(row) != 1 or row["bits_per_dim"].isna().any():
        raise source.wrong(f"figures/figure{name}.csv", f"has no {quantity} of {cell.name}")
    return float(row["bits_per_dim"].iloc[0]), float(row["standard_error"].iloc[0])


def at(source: Results, name: str, cell: Cell, quantity: str) -> float:
    """Return the number of `estimate` alone."""
    return estimate(source, name, cell, quantity)[0]


def samples_shown(source: Results) -> list[str]:
    """Say how many samples Figure 1 shows."""
    shape = arrays_of(source, "1c")["prior_sample"].shape
    return [f"{shape[0] * shape[1]} samples of each model, of the first training seed and noise seed {source.params.sample.seed}."]


def systems_table(source: Results) -> list[Table]:
    """Return Table 1 with our numbers, and what is behind each of ours."""
    table = source.table(TABLE_1, TABLE_1_SCHEMA)
    numbers, origin = as_texts(table, training_minutes(source))
    below = notes(table, source.preset)
    if table["our_model"].isna().any():
        below.append("Rows without a number of ours: systems that this preset does not train.")
    repeated = numbers["Model"].duplicated(keep=False)  # a published row that stands beside two models of ours
    numbers.loc[repeated, "Model"] = numbers["Our model"]
    hidden = ["Reference", "Published number is", "Our model"]
    return [
        _of_texts("Table 1: bits per dimension", numbers.drop(columns=hidden), below),
        _of_texts("Behind each of our numbers", origin, folded=True),
    ]


def compared(source: Results) -> list[str]:
    """Compare AGAVE with PixelCNN++, and our order with the published one."""
    table, order = source.table(TABLE_1, TABLE_1_SCHEMA), source.table(ORDER, ORDER_SCHEMA).iloc[0]
    best = short_name(figure_cells("1c", source.params)[0], source.params)
    found = []
    for row in table[table["our_model"].eq(f"AGAVE, {best.replace(' ', ' = ', 1)}")].to_dict("records"):
        low, high = (row[f"our_difference_to_pixelcnn_pp_{end}"] for end in ("low", "high"))
        found.append(
            f"AGAVE at {best}: {row['our_bits_per_dim']:.3f} bits/dim, which is {row['our_difference_to_pixelcnn_pp']:+.3f} "
            f"[{low:+.3f}, {high:+.3f}] against PixelCNN++ alone on the same {row['our_images']} images."
        )
    if order.notna()["rank_correlation"]:
        low, high = order["rank_correlation_low"], order["rank_correlation_high"]
        found.append(
            f"Rank correlation of the order of our {int(order['models'])} models with the published order: "
            f"{order['rank_correlation']:.2f} [{low:.2f}, {high:.2f}]."
        )
    return found


def images_shown(source: Results) -> list[str]:
    """Say what Figure 3 shows."""
    images, weights = len(arrays_of(source, "3a")["original"]), figure_cells("3a", source.params)
    seed = source.params.sample.seed
    return [f"{images} test images at {len(weights)} values of λ, first training seed, noise seed {seed}. The slider changes λ alone."]


def by_kl_weight(source: Results) -> list[str]:
    """Say how far the curves of Figure 4 go."""
    *cells, alone = figure_cells("4", source.params)
    first, second, last = cells[0], cells[min(1, len(cells) - 1)], cells[-1]
    kl = [at(source, "4", cell, "kl") for cell in (first, last)]
    total = [at(source, "4", cell, "pixelcnn_bits_per_dim") for cell in (first, second, last, alone)]
    vae = [at(source, "4", cell, "vae_bits_per_dim") for cell in (first, last)]
    ends = f"from λ = {first.kl_weight:g} to {last.kl_weight:g}"
    return [
        f"The KL goes from {kl[0]:.3f} to {kl[1]:.3f} bits/dim {ends}, the VAE decoder from {vae[0]:.3f} to {vae[1]:.3f}, and the PixelCNN "
        f"decoder from {total[0]:.3f} to {total[2]:.3f}: by {total[1] - total[0]:+.3f} in the first step and {total[2] - total[1]:+.3f} "
        "in all later ones.",
        f"PixelCNN++ alone has {total[3]:.3f} bits/dim.",
    ]


def terms(source: Results) -> list[Table]:
    """Return the numbers of Figure 4."""
    *cells, alone = figure_cells("4", source.params)
    rows = [[f"λ = {cell.kl_weight:g}", *(_value(source, cell, quantity) for quantity in TERMS)] for cell in cells]
    rows.append(["PixelCNN++ alone", *[""] * (len(TERMS) - 1), _value(source, alone, "pixelcnn_bits_per_dim")])
    return [Table("Figure 4 in numbers, bits/dim ± standard error", ["Model", *TERMS.values()], rows)]


def by_levels(source: Results) -> list[str]:
    """Say how far the curve of Figure 5b goes."""
    first, *_, last = figure_cells("5b", source.params) * 2
    totals = [at(source, "5b", cell, "pixelcnn_bits_per_dim") for cell in (first, last)]
    return [
        f"From {first.levels} to {last.levels} colour levels the total goes from {totals[0]:.3f} to {totals[1]:.3f} bits/dim: "
        f"{totals[1] - totals[0]:+.3f}."
    ]


def levels(source: Results) -> list[Table]:
    """Return the numbers of Figure 5b."""
    found = [(cell, estimate(source, "5b", cell, "pixelcnn_bits_per_dim")) for cell in figure_cells("5b", source.params)]
    rows = [[f"{cell.levels}", f"{value:.3f} ± {error:.3f}"] for cell, (value, error) in found]
    return [Table("Figure 5b in numbers", ["Colour levels", "PixelCNN decoder, total, bits/dim ± standard error"], rows)]


def importance(source: Results) -> list[Table]:
    """Return the bound of each model of the text with one and with all importance samples, means over seeds."""
    table = _table(source, "growth", GAINS_SCHEMA)
    rows = []
    for cell in figure_cells("growth", source.params):
        means = table[table["cell"].eq(cell.name)].groupby("samples")[["iwae_bits_per_dim", "gain"]].mean()
        if means.empty:
            raise source.wrong("figures/figuregrowth.csv", f"has no row of {cell.name}")
        values = [means["iwae_bits_per_dim"].iloc[0], means["iwae_bits_per_dim"].iloc[-1], means["gain"].iloc[-1]]
        rows.append([short_name(cell, source.params), f"{means.index[-1]}", *(f"{value:.4f}" for value in values)])
    return [Table("The importance-sampled bound, bits/dim", ["Model", "Samples K", "With one sample", "With K", "Gain"], rows)]


def compressed(source: Results) -> list[Table]:
    """Return the sizes of the files that models and image formats compress the same images to."""
    table = source.table(CODEC_TABLE, CODEC_TABLE_SCHEMA)
    columns = {
        "Reported likelihood": "bound_bits_per_dim",
        "File of all images": "file_bits_per_dim",
        "One picture of all": "one_picture_bits_per_dim",
        "One file an image": "one_file_each_bits_per_dim",
    }
    texts = table[list(columns.values())].map("{:.4f}".format).where(table[list(columns.values())].notna(), "")
    overhead = table["overhead_percent"].map("{:+.2f}".format).where(table["overhead_percent"].notna(), "")
    rows = [[name, *values, more] for name, values, more in zip(table["coder"], texts.to_numpy().tolist(), overhead, strict=True)]
    note = f"The first {table['images'].iloc[0]} images of {table['data_set'].iloc[0]}. Image formats know nothing of these images."
    return [Table("Compressed files, bits/dim", ["Coder", *columns, "Overhead, %"], rows, [note])]


def cost(source: Results) -> Table:
    """Return what each step cost."""
    rows = [
        [
            row["step"],
            f"{row['jobs']}",
            *(f"{row[key]:.3f}" for key in ("wall_hours", "processor_hours", "gpu_hours")),
            f"{row['longest_job_minutes']:.1f}",
            f"{row['peak_memory_mib']:.0f}",
        ]
        for row in source.table(COMPUTE, COMPUTE_SCHEMA).to_dict("records")
    ]
    header = ["Step", "Jobs", "Wall time, h", "CPU time, h", "GPU time, h", "Longest job, min", "Peak memory, MiB"]
    return Table(
        "Cost of each step",
        header,
        rows,
        ["From the run record of every job. Wall time is summed over jobs, several of which ran side by side."],
    )


def _value(source: Results, cell: Cell, quantity: str) -> str:
    return "{:.3f} ± {:.3f}".format(*estimate(source, "4", cell, quantity))


def _table(source: Results, name: str, schema: Schema) -> pd.DataFrame:
    return source.table(next(path for path in figures.outputs(name) if path.endswith(".csv")), schema)


def _of_texts(title: str, table: pd.DataFrame, below: Sequence[str] = (), folded: bool = False) -> Table:
    return Table(title, [str(name) for name in table], table.to_numpy().tolist(), below, LEFT, folded)
