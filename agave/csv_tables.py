"""Read and write csv tables as pandas frames. Each table has a schema; the same content gives the same bytes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from agave.errors import UserError
from agave.files import atomic_write

if TYPE_CHECKING:
    import pandas as pd

Kind = Literal["text", "integer", "number", "boolean"]
Schema = dict[str, Kind]
"""The required columns of a table and what each holds; an empty entry is a missing value in every kind of column."""

FLOAT_FORMAT = "%.9g"
DTYPES = {"text": "string", "integer": "Int64", "number": "float64", "boolean": "boolean"}


def read_table(path: Path, schema: Schema) -> pd.DataFrame:
    """Read a csv file that `write_table` wrote.

    Args:
        path: path of the file.
        schema: the columns that it must have. Further columns are kept, with the type that pandas infers.

    Returns:
        One row per line. Columns of text have dtype "string", of integers "Int64", of numbers "float64", of booleans "boolean".

    Raises:
        FileNotFoundError: there is no such file.
        UserError: the file is not a table, has no row, lacks a column, or holds a value of another kind; the message names it.
    """
    import pandas as pd

    try:
        frame = pd.read_csv(path, dtype="string", keep_default_na=False, na_values=[""], encoding="utf-8")
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read as a csv table ({' '.join(str(error).split())})") from None
    missing = [column for column in schema if column not in frame]
    if missing:
        raise UserError(f"{path}: lacks the column {', '.join(missing)}")
    if frame.empty:
        raise UserError(f"{path}: holds no row")
    for column in frame.columns:
        kind = schema.get(column)
        frame[column] = _inferred(frame[column]) if kind is None else _converted(path, frame[column], kind)
    return frame


def make_table(rows: Sequence[Mapping[str, Any]], schema: Schema) -> pd.DataFrame:
    """Make a frame of rows.

    Args:
        rows: each the values of some columns; the others are missing.
        schema: the columns, in order, and what each holds.

    Returns:
        The frame, with the dtypes that `read_table` gives; an empty text is a missing value.
    """
    import pandas as pd

    columns = {name: [None if row.get(name) == "" else row.get(name) for row in rows] for name in schema}
    return pd.DataFrame({name: pd.Series(values, dtype=DTYPES[schema[name]]) for name, values in columns.items()})


def write_table(path: Path, table: pd.DataFrame | Sequence[Mapping[str, Any]]) -> None:
    """Write a table as csv, whole or not at all.

    Args:
        path: path of the file.
        table: a frame, or at least one row as a mapping; columns in the order of the frame or of the first row. Floats have
            nine significant digits, missing values are empty.

    Raises:
        UserError: the disk is full, or the folder cannot be written to.
    """
    import pandas as pd

    frame = table if isinstance(table, pd.DataFrame) else pd.DataFrame(list(table), columns=list(table[0]))
    with atomic_write(path) as temporary:
        frame.to_csv(temporary, index=False, float_format=FLOAT_FORMAT, lineterminator="\n", encoding="utf-8")


def _converted(path: Path, values: pd.Series[Any], kind: str) -> pd.Series[Any]:
    """Convert a column of text to another kind, or raise an error that names the first entry that is not of that kind."""
    import pandas as pd

    if kind == "text":
        return values
    if kind == "boolean":
        found = values.map({"True": True, "False": False})
        wrong = values.notna() & found.isna()
    else:
        found = pd.to_numeric(values, errors="coerce")
        wrong = values.notna() & (found.isna() | ~found.abs().lt(float("inf")))
        if kind == "integer":
            wrong |= found.notna() & (found % 1 != 0)
    if wrong.any():
        row = int(wrong.to_numpy().argmax())
        accepted = {"integer": "an integer", "number": "a finite number", "boolean": "True or False"}[kind]
        raise UserError(f"{path}: {values.name} in line {row + 2} is '{values[row]}'; accepted: {accepted}")
    converted: pd.Series[Any] = found.astype(pd.api.types.pandas_dtype(DTYPES[kind]))
    return converted


def _inferred(values: pd.Series[Any]) -> pd.Series[Any]:
    """Convert a column outside the schema: to numbers if all entries are numbers, otherwise to text."""
    import pandas as pd

    try:
        return pd.to_numeric(values).astype("float64")
    except ValueError:
        return values
