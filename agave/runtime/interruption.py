"""Stopping long work in time: signals, time limits, and how often to save."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from agave.errors import UserError


class InterruptedWorkError(UserError):
    """Work stopped before its end with its state saved."""


@dataclass(frozen=True)
class Stop:
    """When to stop early, and how often to save.

    Attributes:
        save_every: seconds between saved states.
        time_limit: seconds after which to save and stop; None: no limit.
    """

    save_every: float = 300.0
    time_limit: float | None = None


@contextmanager
def stopping_signals() -> Iterator[threading.Event]:
    """While active, TERM and INT set the event instead of killing the process; the step in hand is finished."""
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
