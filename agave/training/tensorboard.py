"""Show the rows of a training's history in TensorBoard, if it is installed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from agave.errors import UserError


@contextmanager
def watching(folder: Path | None, *names: object) -> Iterator[Callable[[dict[str, float | int | None]], None] | None]:
    """Yield a function that shows a row of the history in TensorBoard, or None without a folder.

    Args:
        folder: folder of all runs, or None.
        names: parts of the name of this run, for example step, cell and seed.

    Raises:
        UserError: TensorBoard is not installed.
    """
    if folder is None:
        yield None
        return
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise UserError("--tensorboard needs the package tensorboard; install it with: pip install 'agave[tensorboard]'") from None
    writer = SummaryWriter(str(folder.joinpath(*map(str, names))))

    def watch(row: dict[str, float | int | None]) -> None:
        for name, value in row.items():
            if name != "step" and value is not None:
                writer.add_scalar(name, value, row["step"])

    try:
        yield watch
    finally:
        writer.close()
