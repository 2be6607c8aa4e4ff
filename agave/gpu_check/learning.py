"""The part `learning`: a PixelCNN++ and a joint training on images, long enough to see that the loss falls."""

from __future__ import annotations

import statistics
import time
from typing import Any

import torch

from agave.gpu_check.setting import Setting
from agave.objective import Objective
from agave.runtime.checkpoints import RollingState
from agave.runtime.progress import Progress
from agave.training.loop import Pace, Trainer

SYSTEMS = ("pixelcnn_pp", "agave")
STEPS = {"published": (40, 4000), "tiny": (30, 30)}  # at least, at most
BATCH = {"published": 32, "tiny": 8}


def run(setting: Setting) -> dict[str, Any]:
    """Return curves by system, and whether the loss fell and nothing was skipped."""
    found = {system: _train(setting, system, setting.left() / (len(SYSTEMS) - place)) for place, system in enumerate(SYSTEMS)}
    return {"trainings": found, "passed": all(training["passed"] for training in found.values())}


def _train(setting: Setting, system: str, seconds: float) -> dict[str, Any]:
    """Train a system for about so many seconds, with the precision of the preset."""
    model, x = setting.model(system)[0], setting.training_images().to(setting.device)
    params, batch = setting.params(), BATCH[setting.size]
    pace = Pace(autocast=torch.bfloat16 if params.compute.precision == "bfloat16" else None)
    folder = setting.folder / "learning" / system
    least, most = STEPS[setting.size]
    options = params.joint.model_copy(update={"steps": most, "batch": batch, "warmup_steps": min(20, least // 3), "cooldown_steps": 0})
    state = RollingState(folder)
    for old in folder.glob("state-*"):
        old.unlink()
    trainer = Trainer(model.to(setting.device), x, x, Objective(2.0), options, seed=0, state=state, pace=pace, label=f"gpu-check {system}")
    trainer.prepare()
    trainer.interval = 1 if setting.size == "tiny" else 5
    trainer.begin_row()
    end = time.monotonic() + seconds
    try:
        with Progress(most, f"gpu-check {system}", "step") as progress:
            while trainer.at.step < least or (trainer.at.step < most and time.monotonic() < end):
                trainer.advance(progress)
    finally:
        state.close()
    totals = [row["total"] for row in trainer.at.history if row["total"] is not None]
    quarter = max(1, len(totals) // 4)
    first, last = (statistics.fmean(part) for part in (totals[:quarter], totals[-quarter:])) if totals else (float("nan"),) * 2
    return {
        "steps": trainer.at.step,
        "batch": batch,
        "history": trainer.at.history,
        "skipped": trainer.at.skipped,
        "first": first,
        "last": last,
        "passed": last < first and trainer.at.skipped == 0,
    }
