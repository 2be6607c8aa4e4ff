"""The tables: all bounds, all importance-sampled bounds, Table 1 of the paper with our rows beside it, and compressed files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agave import grid
from agave.config import Params
from agave.csv_tables import write_table
from agave.files import atomic_write
from agave.results import (
    BOUNDS,
    CODEC_TABLE,
    IWAE,
    ORDER,
    TABLE_1,
    TRAINING_RECORDS,
    Results,
    bound_path,
    iwae_arrays_path,
    iwae_path,
    per_image_path,
)
from agave.schemas import BOUND_QUANTITIES, BOUND_SCHEMA, IWAE_SCHEMA
from agave.tables import formats
from agave.tables.codec import codec_inputs, codec_table, codec_text
from agave.tables.table1 import LEFT, as_texts, notes, order, table_1, training_minutes

if TYPE_CHECKING:
    import pandas as pd

FILES = ("bounds.csv", "iwae.csv", "table1.csv", "table1.md", "table1.tex", "order.csv", "codec.csv", "codec.md", "metrics.json")


def inputs(params: Params) -> list[str]:
    """List the files that `write_tables` reads, relative to results/<preset>/."""
    seeds, tabled = params.grid.seeds, grid.sampled_cells(params)
    bounds = [bound_path(cell, seed) for cell in grid.all_cells(params) for seed in seeds]
    sampled = [path(cell, seed) for path in (iwae_path, iwae_arrays_path) for cell in tabled for seed in seeds]
    exact = [grid.baselines(params)[1], *(cell for cell in grid.further_cells(params) if not cell.has_samples)]
    exact_terms = [per_image_path(cell, seed) for cell in exact for seed in seeds]
    return [TRAINING_RECORDS, *bounds, *sampled, *exact_terms, *codec_inputs(params)]


def write_tables(params: Params, preset: str, results: Path) -> None:
    """Gather the bounds of all cells and write Table 1.

    Only the cells and seeds of the grid are read: folders left by an earlier grid are ignored.
    Writes tables/bounds.csv, iwae.csv, table1.csv, table1.md, table1.tex, order.csv, codec.csv, codec.md and metrics.json below `results`.

    Args:
        params: the parameters of the preset.
        preset: its name.
        results: results/<preset>.

    Raises:
        UserError: a result is missing, damaged or belongs to another cell or data set; the message names the command that makes it.
    """
    source = Results(params, preset, results)
    bounds = source.gather(grid.all_cells(params), bound_path, BOUND_SCHEMA)
    iwae = source.gather(grid.sampled_cells(params), iwae_path, IWAE_SCHEMA, data_set=bounds["data_set"].iloc[0])
    table, compared, compressed = table_1(source, bounds, iwae), order(source), codec_table(source)
    numbers, origin = as_texts(table, training_minutes(source))
    for path, frame in ((BOUNDS, bounds), (IWAE, iwae), (TABLE_1, table), (ORDER, compared), (CODEC_TABLE, compressed)):
        write_table(results / path, frame)
    below = notes(table, preset)
    texts = {
        "table1.md": formats.as_markdown(numbers, [], LEFT) + "\n" + formats.as_markdown(origin, below, LEFT),
        "table1.tex": formats.as_latex(numbers, [], LEFT) + formats.as_latex(origin, below, LEFT),
        "codec.md": codec_text(compressed, preset),
        "metrics.json": json.dumps(_metrics(bounds, table), indent=2, ensure_ascii=False) + "\n",
    }
    for name, text in texts.items():
        with atomic_write(results / "tables" / name) as temporary:
            temporary.write_text(text, encoding="utf-8")


def _metrics(bounds: pd.DataFrame, table: pd.DataFrame) -> dict[str, Any]:
    """Return the values that `dvc metrics diff` compares, means over seeds in bits/dim: the terms of each cell, and our rows of Table 1."""
    terms = bounds.groupby("cell", sort=False)[list(BOUND_QUANTITIES)].mean().round(6)
    ours = table.dropna(subset="our_model").set_index("our_model")["our_bits_per_dim"]
    return {"table1": ours.to_dict(), "cells": {cell: row.dropna().to_dict() for cell, row in terms.iterrows()}}
