"""Keep weights and the rolling state of a training on disk: complete files with checksums, never pickles."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load as load_tensors
from safetensors.torch import save as dump_tensors
from torch import Tensor

from agave.errors import UserError
from agave.files import atomic_write

_HELD = (errno.EWOULDBLOCK, errno.EACCES)  # what flock says while another process holds the lock
_KEY = "agave"  # one metadata key holds one JSON text: several keys would be written in no fixed order


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> None:
    """Write named tensors and JSON metadata as one safetensors file, atomically. The same content gives the same bytes."""
    data = dump_tensors({k: v.detach().cpu().contiguous() for k, v in tensors.items()}, {_KEY: json.dumps(metadata)})
    with atomic_write(path) as temporary:
        temporary.write_bytes(data)


def read_metadata(path: Path) -> dict[str, Any]:
    """Return the JSON metadata of a file of `write_tensors`, without reading its tensors.

    Raises:
        UserError: the file is missing, truncated or not ours.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
    except FileNotFoundError:
        raise UserError(f"{path}: there is no such file; accepted: a model written by `agave pretrain` or `agave joint`") from None
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path}: truncated, or not a safetensors file ({error})") from None
    if _KEY not in metadata:
        raise UserError(f"{path}: holds no agave metadata; accepted: a model written by `agave pretrain` or `agave joint`")
    return dict(json.loads(metadata[_KEY]))


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Return all tensors of a safetensors file, on the CPU.

    Raises:
        UserError: the file is missing, truncated or damaged.
    """
    try:
        return load_tensors(path.read_bytes())
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    except SafetensorError as error:
        raise UserError(f"{path}: truncated, or not a safetensors file ({error})") from None


def load_weights(module: torch.nn.Module, tensors: Mapping[str, Tensor], source: str | Path) -> None:
    """Copy weights into a module, all or none.

    Args:
        module: module with exactly these names and shapes.
        tensors: weights by name.
        source: origin of the tensors, for the message.

    Raises:
        UserError: the weights are of another architecture.
    """
    own = module.state_dict()
    wrong = sorted(
        [f"{name} missing" for name in own.keys() - tensors.keys()]
        + [f"{name} unknown" for name in tensors.keys() - own.keys()]
        + [
            f"{n} {tuple(tensors[n].shape)} instead of {tuple(own[n].shape)}"
            for n in own.keys() & tensors.keys()
            if own[n].shape != tensors[n].shape
        ]
    )
    if wrong:
        raise UserError(f"{source}: weights of another architecture ({len(wrong)} differences, first: {wrong[0]})")
    module.load_state_dict(dict(tensors))


class RollingState:
    """The last two states of a training, in a folder that belongs to exactly one training.

    The folder's name is a hash of parameters, inputs and code, so the state of another configuration is never found. A file's name has
    its step and the SHA-256 of its bytes, so a truncated or changed file is recognised and the one before is used.

    Args:
        folder: folder of this training.
        lock: whether to keep other trainings out; one process of a training does so.

    Raises:
        UserError: another process is training there, or the folder cannot be written to.
    """

    _NAME = re.compile(r"state-(\d{9})-([0-9a-f]{64})\.safetensors")

    def __init__(self, folder: Path, lock: bool = True) -> None:
        self.folder = folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._lock = (folder / "lock").open("w")  # held as long as the process lives
        except OSError as error:
            raise UserError(
                f"{folder}: no training state can be kept there ({error.strerror}); accepted: a folder that can be written to"
            ) from None
        if not lock:
            return
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in _HELD:  # ENOLCK, ENOTSUP, ENOSYS ...: some network file systems
                print(f"{folder}: locks do not work there ({error.strerror}); start no second training with this state", file=sys.stderr)
                return
            self._lock.close()
            raise UserError(f"{folder}: another process is training with this state; wait for it or stop it") from None

    def _files(self) -> list[tuple[int, str, Path]]:
        found = [(match, path) for path in self.folder.iterdir() if (match := self._NAME.fullmatch(path.name))]
        return sorted((int(match[1]), match[2], path) for match, path in found)

    def save(self, step: int, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any], keep: int = 2) -> None:
        """Write a state and remove all but the last `keep`."""
        data = dump_tensors({k: v.detach().cpu().contiguous() for k, v in tensors.items()}, {_KEY: json.dumps(metadata)})
        name = f"state-{step:09}-{hashlib.sha256(data).hexdigest()}.safetensors"
        with atomic_write(self.folder / name) as temporary:
            temporary.write_bytes(data)
        for _, _, path in self._files()[:-keep]:
            path.unlink(missing_ok=True)

    def load(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """Return the newest complete state, or None. Damaged files are named on stderr and removed."""
        for step, digest, path in reversed(self._files()):
            try:
                data = path.read_bytes()
            except OSError as error:
                raise UserError(f"{path}: the state of step {step} cannot be read ({error.strerror}); accepted: a readable file") from None
            if hashlib.sha256(data).hexdigest() == digest:
                with safe_open(path, framework="pt") as file:
                    metadata = json.loads(file.metadata()[_KEY])
                return load_tensors(data), metadata
            print(f"{path}: damaged (the SHA-256 of its bytes is not the one in its name), step {step} is not used", file=sys.stderr)
            path.unlink(missing_ok=True)
        return None

    def close(self) -> None:
        """Release the folder."""
        self._lock.close()


def identity(**parts: Any) -> str:
    """Return a short hash of everything that determines a training, the name of its state folder."""
    text = json.dumps(parts, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:24]
