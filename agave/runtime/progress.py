"""Show the progress of long work: a bar on a terminal, plain lines in a log."""

from __future__ import annotations

import sys
import time
from types import TracebackType

from tqdm import tqdm


class Progress:
    """Count finished units of a task, and show rate, time left and a figure of merit.

    Args:
        total: number of units in all.
        label: name of the task.
        unit: name of a unit, for example "step".
        start: number of units done before, when resuming.
        interval: seconds between the lines of a log.
        quiet: whether to print nothing, because another process does.
    """

    def __init__(self, total: int, label: str, unit: str, start: int = 0, interval: float = 15.0, quiet: bool = False) -> None:
        self.total, self.label, self.unit, self.interval = total, label, unit, interval
        self.quiet = quiet
        self.done, self._start, self._began, self._last = start, start, time.monotonic(), time.monotonic()
        self._bar = (
            tqdm(total=total, desc=label, unit=unit, initial=start, dynamic_ncols=True) if sys.stderr.isatty() and not quiet else None
        )

    def update(self, units: int = 1, note: str = "") -> None:
        """Count more units; `note` is shown beside them, for example "3.21 bits/dim"."""
        self.done += units
        if self.quiet:
            return
        if self._bar is not None:
            self._bar.set_postfix_str(note, refresh=False)
            self._bar.update(units)
            return
        now = time.monotonic()
        if now - self._last >= self.interval or self.done >= self.total:
            self._last = now
            rate = (self.done - self._start) / max(now - self._began, 1e-9)
            left = (self.total - self.done) / max(rate, 1e-9)
            parts = [f"{self.label}: {self.done}/{self.total} {self.unit}s", f"{rate:.3g} {self.unit}s/s", f"{_clock(left)} left", note]
            print(", ".join(part for part in parts if part), file=sys.stderr, flush=True)

    def say(self, text: str) -> None:
        """Print a line that stays, beside the bar or in the log."""
        if not self.quiet:
            tqdm.write(f"{self.label}: {text}", file=sys.stderr)

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._bar is not None:
            self._bar.close()


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
