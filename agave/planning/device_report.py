"""The report of `agave gpu-check` as planning reads it: the throughput that was measured on a device. Needs no torch."""

from __future__ import annotations

import json
from pathlib import Path

from agave.errors import UserError
from agave.planning.plan import Throughput

ACCEPTED = "accepted: results/gpu/DEVICE/report.json of `agave gpu-check`"


def measured_throughput(path: Path) -> Throughput:
    """Read the throughput of a device.

    Args:
        path: report.json of `agave gpu-check`.

    Raises:
        UserError: the file is no such report, or the part `speed` was not run.
    """
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read as json ({error}); {ACCEPTED}") from None
    found = report.get("throughput") if isinstance(report, dict) else None
    if not found:
        raise UserError(f"{path}: holds no measured throughput; {ACCEPTED} --parts environment,speed")
    try:
        return Throughput(**found)
    except TypeError:
        raise UserError(f"{path}: its throughput has other entries than this version reads ({', '.join(found)}); {ACCEPTED}") from None
