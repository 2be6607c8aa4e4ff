"""Ask git about the checkout. Without git, or outside of a repository, there is no answer, which is not an error."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

from agave.provenance.code_digest import PACKAGE


def git_state(folder: Path = PACKAGE) -> dict[str, Any]:
    """Return {"commit", "dirty"} of the code that runs; both are None if git does not track it.

    What a run itself writes, results/ and dvc.lock, does not make it dirty.

    Args:
        folder: a package in the checkout; default: agave.
    """
    if _git(folder, "ls-files", "--error-unmatch", "__init__.py") is None:
        return {"commit": None, "dirty": None}
    commit = _git(folder, "rev-parse", "HEAD")
    status = _git(folder, "status", "--porcelain", "--untracked-files=no", ":/", ":(top,exclude)results", ":(top,exclude)dvc.lock")
    return {"commit": commit and commit.decode().strip(), "dirty": None if status is None else bool(status)}


def committed(path: Path) -> bytes | None:
    """Return the content of a file in the last commit, or None if it holds no such file.

    Args:
        path: relative to the working directory.
    """
    return _git(Path(), "show", f"HEAD:./{path.as_posix()}")


def _git(folder: Path, *arguments: str) -> bytes | None:
    # The checkout may belong to another user, and a git hook that called us may have left variables of another repository.
    environment = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
    command = ["git", "-C", str(folder), "-c", "safe.directory=*", "-c", "core.fsmonitor=false", *arguments]
    try:
        return subprocess.run(command, env=environment, capture_output=True, check=True, timeout=20).stdout
    except (OSError, subprocess.SubprocessError):
        return None
