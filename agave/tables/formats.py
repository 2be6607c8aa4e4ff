"""Write a table of texts as Markdown and as LaTeX, with notes below it."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

# Characters that LaTeX has only as mathematics.
MATHEMATICS = str.maketrans(
    {"±": r"$\pm$", "λ": r"$\lambda$", "≤": r"$\leq$", "†": r"$^\dagger$", "‡": r"$^\ddagger$", "×": r"$\times$", "²": "$^2$", "−": "$-$"}
)


def as_markdown(table: pd.DataFrame, notes: Sequence[str], left: Collection[str]) -> str:
    """Return a table as Markdown.

    Args:
        table: table of texts, with the headings as columns.
        notes: sentences below the table, one per line.
        left: headings of the columns that are aligned to the left; the others are aligned to the right.

    Returns:
        The table, and below it the notes after an empty line.
    """
    texts = table.map(lambda text: text.replace("|", "\\|"))
    aligned = ["left" if column in left else "right" for column in texts]
    lines = texts.to_markdown(index=False, colalign=aligned, disable_numparse=True)
    return "\n".join([lines, *[""] * bool(notes), *(f"{note}  " for note in notes)]) + "\n"


def as_latex(table: pd.DataFrame, notes: Sequence[str], left: Collection[str]) -> str:
    """Return a table as LaTeX for the package booktabs; arguments and result are those of `as_markdown`."""
    columns = "".join("l" if column in left else "r" for column in table)
    style = table.style.hide(axis="index").format(escape="latex").format_index(escape="latex", axis="columns")
    escaped = [re.sub(r"([&%$#_{}])", r"\\\1", note) for note in notes]
    text = style.to_latex(hrules=True, column_format=columns) + "\n".join([r"\par\footnotesize", *escaped]) + "\n"
    return "% needs the package booktabs\n" + text.translate(MATHEMATICS)
