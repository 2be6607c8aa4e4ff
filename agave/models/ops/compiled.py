"""Compile compiled.c on first use with the machine's C compiler, keep the library in the user's cache, and call it on CPU tensors.

Without a compiler torch's own operations give the same results up to rounding; a training step then takes about a sixth longer.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shlex
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

SOURCE = Path(__file__).with_name("compiled.c")
# no -ffast-math: what is not finite must stay so, and the same code gives the same bits
FLAGS = ("-O3", "-march=native", "-fno-math-errno", "-fno-trapping-math", "-fopenmp", "-shared", "-fPIC")
SUFFIXES = {torch.float32: "float32", torch.bfloat16: "bfloat16"}


class Shape(ctypes.Structure):
    """The struct of this name in compiled.c."""

    _fields_ = [(name, ctypes.c_int64) for name in ("batch", "height", "width", "channels", "left", "right", "top", "bottom")]


def cache_folder() -> Path:
    """Return the folder of the compiled library: in the user's cache, or where that cannot be written to, for temporary files.

    Raises:
        OSError: neither can be written to, or the latter belongs to another user.
    """
    try:
        folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "agave"
        folder.mkdir(parents=True, exist_ok=True)
        if os.access(folder, os.W_OK):
            return folder
    except (OSError, RuntimeError):  # RuntimeError: no $HOME, and a user that the system does not know
        pass
    folder = Path(tempfile.gettempdir()) / f"agave-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.stat().st_uid != os.getuid() or folder.is_symlink():
        raise PermissionError(f"{folder} belongs to another user")
    print(f"note: no home folder that can be written to; compiled kernels go to {folder}", file=sys.stderr)
    return folder


def _processor() -> str:
    """Return what -march=native depends on, because machines with different CPUs may share a cache."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return platform.processor()
    return "\n".join(sorted({line for line in lines if line.startswith(("model name", "flags", "Features", "CPU part"))}))


def build(compiler: str | None = None) -> Path:
    """Compile compiled.c unless that has been done here.

    Args:
        compiler: command of the compiler, with its arguments if any ("ccache gcc"); default: $CC, or cc.

    Returns:
        The library.

    Raises:
        OSError, ValueError, subprocess.SubprocessError: there is no compiler, it fails, or the cache cannot be written to.
    """
    command = [*shlex.split(compiler or os.environ.get("CC") or "cc"), *FLAGS]
    made_from = [SOURCE.read_text(encoding="utf-8"), *command, platform.machine(), _processor()]
    library = cache_folder() / f"kernels-{hashlib.sha256(chr(10).join(made_from).encode()).hexdigest()[:16]}.so"
    if not library.exists():
        with tempfile.TemporaryDirectory(dir=library.parent) as folder:
            made = Path(folder) / library.name
            subprocess.run([*command, str(SOURCE), "-o", str(made), "-lm"], check=True, capture_output=True, timeout=120)
            made.replace(library)
    return library


@cache
def library() -> ctypes.CDLL | None:
    """Return the compiled kernels, or None if they cannot be compiled (a line on stderr says so) or are switched off (AGAVE_KERNELS=0)."""
    if os.environ.get("AGAVE_KERNELS") == "0":
        return None
    try:
        return ctypes.CDLL(str(build()))
    except (OSError, ValueError, subprocess.SubprocessError) as error:  # ValueError: a $CC with an open quotation
        print(f"note: no compiled kernels ({error}); torch's own operations take their place, which is slower", file=sys.stderr)
        return None


def is_eager_cpu(x: Tensor) -> bool:
    """Return whether x is an ordinary tensor on a CPU, of a type that the kernels know, outside torch.compile."""
    return x.device.type == "cpu" and x.dtype in SUFFIXES and type(x) is Tensor and not torch.compiler.is_compiling()


def serve(*tensors: Tensor, channels_last: bool = True) -> bool:
    """Return whether the kernels can be called on these: on a CPU, of one type that they know, dense, in one order in memory.

    Args:
        tensors: arguments of a kernel.
        channels_last: whether the memory format must be channels last.
    """
    first = tensors[0]
    if not is_eager_cpu(first):
        return False
    if channels_last:
        fits = all(t.is_contiguous(memory_format=torch.channels_last) for t in tensors)
    else:
        dense = first.is_contiguous() or first.is_contiguous(memory_format=torch.channels_last)
        fits = dense and all(t.stride() == first.stride() for t in tensors)
    return fits and all(t.dtype == first.dtype for t in tensors) and library() is not None


def call(name: str, *arguments: Tensor | Shape | float | int | None) -> None:
    """Run a kernel for the type of its first tensor; None stands for a missing one.

    Args:
        name: name of the function in compiled.c, without the type.
        arguments: its arguments in order, without the number of threads, which is torch's.
    """
    kernels = library()
    assert kernels is not None, "serve says whether there are kernels"
    first = next(one for one in arguments if isinstance(one, Tensor))
    converted: list[Any] = [_converted(one) for one in arguments]
    getattr(kernels, f"{name}_{SUFFIXES[first.dtype]}")(*converted, ctypes.c_int(torch.get_num_threads()))


def _converted(value: Tensor | Shape | float | int | None) -> Any:
    if isinstance(value, Tensor):
        return ctypes.c_void_p(value.data_ptr())
    if isinstance(value, int):
        return ctypes.c_int64(value)
    return ctypes.c_float(value) if isinstance(value, float) else value
