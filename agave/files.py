"""Write files so that they are either complete or not there."""

from __future__ import annotations

import errno
import hashlib
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from agave.errors import UserError

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_NO_FSYNC = (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP)  # a file system that cannot flush one file


@contextmanager
def atomic_write(path: str | Path) -> Iterator[Path]:
    """Write a file under a temporary name in the same folder, then flush it to disk and rename it.

    If anything goes wrong, an earlier file stays as it was and nothing half-written is left. The new file gets the permissions that
    the umask or the folder's access list gives to any new file. A link is replaced, not followed.

    Args:
        path: path of the finished file; missing folders are made.

    Yields:
        The temporary path, with the same ending, to write to.

    Raises:
        UserError: the disk is full, or the folder cannot be written to.
    """
    path = Path(path)
    temporary = path.with_name(f".{secrets.token_hex(8)}{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.touch(exist_ok=False)
        yield temporary
        with temporary.open("rb+") as file:
            _flush(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        if error.errno in _FULL:
            raise UserError(f"{path}: not written, the disk is full ({error.strerror}); what was there before is untouched") from error
        raise UserError(f"{path}: not written ({error.strerror or error}); accepted: a file in a folder that can be written to") from error
    finally:
        with suppress(OSError):
            temporary.unlink()


def sha256(path: str | Path) -> str:
    """Return the SHA-256, hexadecimal, of a file's bytes.

    Raises:
        UserError: the file is missing or cannot be read.
    """
    try:
        with Path(path).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error}); accepted: a file that is there and may be read") from error


def _flush(descriptor: int) -> None:
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _NO_FSYNC:
            raise
