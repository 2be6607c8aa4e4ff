"""The part `environment`: device, memory, driver, versions, number of GPUs, variables of Slurm."""

from __future__ import annotations

import os
import shutil
import subprocess
from typing import Any

import torch

from agave.gpu_check.setting import Setting
from agave.provenance.surroundings import machine, packages


def run(setting: Setting) -> dict[str, Any]:
    """Return what there is, as plain values."""
    found: dict[str, Any] = {
        "device": device_name(setting.device),
        "size": setting.size,
        "machine": machine(),
        "packages": packages(),
        "threads": torch.get_num_threads(),
        "gpus": torch.cuda.device_count(),
        "slurm": {name: value for name, value in sorted(os.environ.items()) if name.startswith("SLURM_")},
    }
    if setting.on_gpu:
        properties = torch.cuda.get_device_properties(setting.device)
        found |= {
            "memory": properties.total_memory,
            "capability": f"{properties.major}.{properties.minor}",
            "driver": _driver(),
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),  # type: ignore[no-untyped-call]
            "bfloat16": torch.cuda.is_bf16_supported(including_emulation=False),
        }
    return found


def device_name(device: torch.device) -> str:
    """Return the name of a GPU as its driver gives it, or of the CPU."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU ({machine()['cpu']})"


def _driver() -> str | None:
    program = shutil.which("nvidia-smi")
    if program is None:
        return None
    done = subprocess.run([program, "--query-gpu=driver_version", "--format=csv,noheader"], capture_output=True, text=True, check=False)
    return done.stdout.splitlines()[0].strip() if done.returncode == 0 and done.stdout else None
