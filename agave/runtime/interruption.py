"""Stop long work in time: signals, time limits, and the interval between saves."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from agave.errors import UserError


class InterruptedWorkError(UserError):
    """Raised when work stops before its end with its state saved."""


@dataclass(frozen=True)
class Stop:
    """The time limit of some work, and the interval between saves.

    Attributes:
        save_every: seconds between saved states.
        time_limit: seconds after which to save and stop; None: no limit.
    """

    save_every: float = 300.0
    time_limit: float | None = None


@contextmanager
def stopping_signals() -> Iterator[threading.Event]:
    """Let TERM and INT set the event instead of killing the process while the context is active; the current step is finished."""
    event = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield event
        return
    before = {s: signal.signal(s, lambda *_: event.set()) for s in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield event
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
