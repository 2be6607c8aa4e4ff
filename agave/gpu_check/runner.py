"""Run the parts of the check one after the other; what is finished is kept, so that a killed run goes on."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from agave import config
from agave.errors import UserError
from agave.files import atomic_write
from agave.gpu_check.environment import device_name
from agave.gpu_check.report import passed, write_report
from agave.gpu_check.setting import PARTS, Setting, Size, registered
from agave.provenance.code_digest import digest
from agave.runtime.checkpoints import identity
from agave.runtime.devices import set_up


def check_device(
    device: str,
    size: Size,
    parts: Sequence[str],
    *,
    params_file: Path,
    state: Path,
    output: Path,
    minutes: float,
    images: Path | None,
    say: Callable[[str], object],
) -> bool:
    """Run parts of the check and write the report.

    Args:
        device: "cuda" or "cpu".
        size: sizes of the networks.
        parts: names in PARTS.
        params_file: file of the parameters.
        state: folder in which finished parts are kept.
        output: folder of the reports.
        minutes: time for all parts together.
        images: array file or folder of images to learn from; None: the embedded photographs.
        say: called with each line of progress.

    Returns:
        Whether all checks passed.

    Raises:
        UserError: there is no GPU, or a part is unknown.
    """
    unknown = sorted(set(parts) - PARTS.keys())
    if unknown:
        raise UserError(f"part '{unknown[0]}' of the check; accepted: {', '.join(PARTS)}")
    if device == "cuda" and not torch.cuda.is_available():
        raise UserError("this machine shows no GPU; accepted: a machine with one, or --device cpu --size tiny to try the check itself")
    found = set_up(config.load(params_file, "tiny").compute, device, None if device == "cuda" else torch.get_num_threads())
    name = identity(device=device_name(found), size=size, source=digest("joint"), images=images, params=params_file.read_text("utf-8"))
    setting = Setting(found, size, params_file, state / name, 60 * minutes, images)
    results: dict[str, dict[str, Any]] = {}
    for part, run in registered({part: place for part, place in PARTS.items() if part in parts}):
        kept = setting.folder / f"{part}.json"
        if kept.exists():
            results[part] = json.loads(kept.read_text(encoding="utf-8"))
            say(f"gpu-check: {part}: done before")
            continue
        say(f"gpu-check: {part} ...")
        began = time.monotonic()
        setting.begin(part)
        results[part] = run(setting)
        with atomic_write(kept) as temporary:
            temporary.write_text(json.dumps(results[part]) + "\n", encoding="utf-8")
        say(f"gpu-check: {part}: {time.monotonic() - began:.0f} s{'' if results[part].get('passed', True) else ', FAILED'}")
    folder = write_report(setting, results, output)
    for check in results.get("correctness", {}).get("checks", []):
        if not check["passed"]:
            say(f"gpu-check: FAILED {check['name']} ({check['size']}): {check['found']}, accepted: {check['tolerance']} {check['note']}")
    say(f"gpu-check: {'passed' if passed(results) else 'FAILED'}; the report is {folder / 'report.md'}")
    return passed(results)
