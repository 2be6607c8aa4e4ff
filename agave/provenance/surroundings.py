"""Describe the surroundings of a job: machine, libraries, and what of its command the environment determined."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import click

from agave.files import sha256

PACKAGES = (
    *("agave", "torch", "torchvision", "numpy", "scipy", "pandas", "scikit-image", "scikit-learn", "pillow", "matplotlib", "seaborn"),
    *("safetensors", "pydantic", "snakemake", "dvc"),
)
# Variables that change the last bits of results of torch. Those that are set are written before the recorded command.
ENVIRONMENT = ("AGAVE_KERNELS", "ATEN_CPU_CAPABILITY", "CC", "DNNL_MAX_CPU_ISA", "MKL_CBWR", "MKL_ENABLE_INSTRUCTIONS")


def machine() -> dict[str, Any]:
    """Return operating system, architecture and model of the CPU, and version of Python."""
    return {
        "system": platform.system(),
        "processor": platform.machine(),
        "python": platform.python_version(),
        "cpu": _cpu_model(),
    }


def packages() -> dict[str, str]:
    """Return {name: version} of the installed libraries that results depend on."""
    return {name: found for name in PACKAGES if (found := _version(name)) is not None}


def arithmetic(device: str | None) -> dict[str, Any]:
    """Return what changes the last bits of results of torch; empty if torch is not loaded."""
    if "torch" not in sys.modules:
        return {}
    import torch

    found: dict[str, Any] = {"threads": torch.get_num_threads(), "cpu_capability": torch.backends.cpu.get_cpu_capability()}
    compiled = sys.modules.get("agave.models.ops.compiled")
    if compiled is not None and compiled.library.cache_info().currsize:  # a kernel has been asked for
        found["kernels"] = "torch" if compiled.library() is None else "compiled"
    if device is not None and device.startswith("cuda"):
        cudnn = torch.backends.cudnn.version()  # type: ignore[no-untyped-call]
        found["gpu"] = f"{torch.cuda.get_device_name(device)}, CUDA {torch.version.cuda}, cuDNN {cudnn}"
    return found


def explicit_command(values: Mapping[str, Any]) -> list[str]:
    """Return the command that was given, with everything that it took from the environment written out."""
    arguments = [_portable_argument(argument) for argument in sys.argv[1:]]
    context = click.get_current_context(silent=True)
    if context is None:  # not the command line of agave
        return [Path(sys.argv[0]).name, *arguments]
    accepted = {name for parameter in context.command.params for name in parameter.opts}
    device = values.get("device")
    explicit = {"--threads": values.get("threads"), "--device": device and device.split(":")[0], "--devices": values.get("devices")}
    for option, value in explicit.items():
        if option in accepted and value is not None:
            arguments = _with_option(arguments, option, str(value))
    environment = [f"{name}={os.environ[name]}" for name in ENVIRONMENT if values.get("threads") and name in os.environ]
    return [*(["env", *environment] if environment else []), "agave", *arguments]


def _with_option(arguments: list[str], option: str, value: str) -> list[str]:
    """Return a command line with an option set to a value, in place of an earlier value if there is one."""
    for place, argument in enumerate(arguments):
        if argument == option:
            return [*arguments[: place + 1], value, *arguments[place + 2 :]]
        if argument.startswith(f"{option}="):
            return [*arguments[:place], f"{option}={value}", *arguments[place + 1 :]]
    return [*arguments, option, value]


def portable(value: Any) -> Any:
    """Return the same value without paths that have no meaning on another machine.

    A path inside the checkout stays as it was given, including links, or becomes relative. A file outside is named by its SHA-256, and
    a folder outside by its name.
    """
    if isinstance(value, Mapping):
        return {key: portable(item) for key, item in value.items()}
    if not isinstance(value, str) or not os.path.exists(value):
        return value
    inside = _inside_checkout(value)
    if inside is not None:
        return inside
    return f"sha256:{sha256(value)}" if os.path.isfile(value) else Path(os.path.abspath(value)).name


def _portable_argument(argument: str) -> str:
    option, equals, value = argument.partition("=")
    if option.startswith("--") and equals:
        return f"{option}={portable(value)}"
    return str(portable(argument))


def _inside_checkout(path: str) -> str | None:
    """Return a path relative to the working directory, or None if it lies outside. Links are not followed, unless that helps."""
    if not os.path.isabs(path) and not os.path.normpath(path).startswith(".."):
        return path
    here = [os.getcwd()]
    named = os.environ.get("PWD", "")  # the same folder, by the links that the user took
    if os.path.isabs(named) and os.path.isdir(named) and os.path.samefile(named, "."):
        here.append(os.path.normpath(named))
    for candidate in (os.path.abspath(path), os.path.realpath(path)):
        for folder in here:
            if os.path.commonpath([candidate, folder]) == folder:
                return os.path.relpath(candidate, folder)
    return None


def _cpu_model() -> str | None:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return platform.processor() or None
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), None)


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
