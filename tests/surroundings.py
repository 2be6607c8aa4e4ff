"""Surroundings that differ from those of a developer's machine, one function each, to run the command line in.

Each function is given an empty folder that any user can enter, makes a checkout in it, and returns how to run commands there.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from test_workflow import ROOT, check_out

STRANGER = 54321  # a user's id without an entry in the list of users


@dataclass
class Surroundings:
    """A checkout, and the environment and rights with which commands run in it.

    Attributes:
        checkout: the working directory of the commands.
        free: a folder that the commands can write to.
        environment: of the commands.
        prefix: a command that runs the commands.
        umask: of the commands; -1 for that of the tests.
        read_only: whether the commands cannot write into the checkout.
    """

    checkout: Path
    free: Path
    environment: dict[str, str]
    prefix: tuple[str, ...] = ()
    umask: int = -1
    read_only: bool = False

    def run(self, module: str, *arguments: object) -> subprocess.CompletedProcess[str]:
        """Run `python -m MODULE` of the checkout's own code; output and errors come together in `stdout`."""
        command = [*self.prefix, sys.executable, "-m", module, *map(str, arguments)]
        done = subprocess.run(
            command,
            cwd=self.checkout,
            env=self.environment,
            umask=self.umask,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=180,
            check=False,
        )
        return subprocess.CompletedProcess(command, done.returncode, done.stdout.decode("utf-8", errors="replace"))

    def agave(self, *arguments: object) -> subprocess.CompletedProcess[str]:
        """Run the command `agave`."""
        return self.run("agave.cli", *arguments)

    def snakemake(self, *arguments: object) -> subprocess.CompletedProcess[str]:
        """Run Snakemake, which itself needs a home and a user's name."""
        needed = {"HOME": str(self.free), "LOGNAME": "somebody"}
        return replace(self, environment=needed | {key: value for key, value in self.environment.items() if value}).run(
            "snakemake", *arguments
        )


def plain(place: Path, name: str = "checkout") -> Surroundings:
    """Return a checkout without anything odd about it, owned by the user."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("SNAKEMAKE", "GIT", "LC_", "PYTHON"))}
    (place / "free").mkdir()
    return Surroundings(check_out(place / name), place / "free", kept | {"OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"})


def latin1_locale(place: Path) -> Surroundings:
    """Return surroundings whose locale has no Greek letters."""
    locale = place / "locale" / "en_US.ISO-8859-1"
    if shutil.which("localedef") is None or not Path("/usr/share/i18n/charmaps/ISO-8859-1.gz").exists():
        pytest.skip("a locale cannot be made here; on Debian: apt-get install locales")
    locale.parent.mkdir()
    subprocess.run(["localedef", "-i", "en_US", "-f", "ISO-8859-1", str(locale)], check=True)
    found = plain(place)
    found.environment |= {"LOCPATH": str(locale.parent), "LC_ALL": "en_US.ISO-8859-1"}
    return found


def c_locale(place: Path) -> Surroundings:
    """Return surroundings with the locale C, which Python is kept from replacing."""
    found = plain(place)
    found.environment |= {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    return found


def no_home(place: Path) -> Surroundings:
    """Return surroundings without HOME."""
    found = plain(place)
    found.environment.pop("HOME", None)
    return found


def unknown_user(place: Path) -> Surroundings:
    """Return surroundings of a user without a name and without HOME, as in a container; the checkout is the user's."""
    found = _of_stranger(no_home(place))
    for folder in (found.checkout, found.free):
        _give(folder, STRANGER)
    return found


def other_owner(place: Path) -> Surroundings:
    """Return a git checkout of another owner, which git refuses to look at; it can be written to."""
    found = _of_stranger(_committed(plain(place)))
    _give(found.free, STRANGER)
    for path in [found.checkout, *found.checkout.rglob("*")]:
        if not path.is_symlink():
            path.chmod(path.stat().st_mode | 0o222)
    found.environment["HOME"] = str(found.free)
    return found


def read_only_checkout(place: Path) -> Surroundings:
    """Return a checkout that cannot be written to, as on a shared disk; HOME can."""
    found = replace(_of_stranger(plain(place)), read_only=True)
    _give(found.free, STRANGER)
    found.environment["HOME"] = str(found.free)
    return found


def odd_path(place: Path) -> Surroundings:
    """Return a checkout whose path has spaces, braces, quotes and letters beyond ASCII."""
    return plain(place, "my 'own' {copy} of ünï$HOME")


def colon_in_path(place: Path) -> Surroundings:
    """Return a checkout whose path has a colon, which separates the entries of PATH and PYTHONPATH."""
    return plain(place, "copy:2")


def windows_line_endings(place: Path) -> Surroundings:
    """Return a checkout in which git has turned line endings into those of Windows."""
    found = _committed(plain(place, "original"))
    clone = place / "checkout"
    subprocess.run(["git", "clone", "--quiet", "--config", "core.autocrlf=true", str(found.checkout), str(clone)], check=True)
    found.checkout = clone
    assert b"\r\n" in (clone / "params.yaml").read_bytes()
    return found


def strict_umask(place: Path) -> Surroundings:
    """Return surroundings in which new files are the user's alone."""
    found = plain(place)
    found.umask = 0o077
    return found


def inherited_launcher(place: Path) -> Surroundings:
    """Return surroundings with the variables of an outer launcher of several processes."""
    found = plain(place)
    found.environment |= {"WORLD_SIZE": "2", "RANK": "1", "LOCAL_RANK": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}
    found.environment |= {"SLURM_NTASKS": "2", "SLURM_PROCID": "1", "OMPI_COMM_WORLD_SIZE": "2"}
    return found


def _of_stranger(found: Surroundings) -> Surroundings:
    """Let the commands run as another user, who may read everything (the interpreter may lie in the home of root); only root can."""
    rights = [f"--{kind}-caps=+dac_read_search" for kind in ("inh", "ambient")]
    found.prefix = ("setpriv", f"--reuid={STRANGER}", f"--regid={STRANGER}", "--clear-groups", *rights)
    possible = os.geteuid() == 0 and shutil.which("setpriv") is not None
    if not possible or subprocess.run([*found.prefix, sys.executable, "-c", ""], check=False).returncode:
        pytest.skip("only root can run commands as another user, by the command setpriv")
    found.environment |= {"USER": "", "LOGNAME": ""}
    return found


def _give(folder: Path, user: int) -> None:
    for path in [folder, *folder.rglob("*")]:
        os.chown(path, user, user, follow_symlinks=False)


def _committed(found: Surroundings) -> Surroundings:
    """Make the checkout a git repository."""
    shutil.copy(ROOT / ".gitignore", found.checkout)
    identity = [part for key in ("user.name=test", "user.email=test@example.org", "core.autocrlf=false") for part in ("-c", key)]
    for command in (["init", "--quiet"], ["add", "--all"], ["commit", "--quiet", "--message", "checkout"]):
        subprocess.run(["git", *identity, *command], cwd=found.checkout, check=True)
    return found


EVERY: tuple[Callable[[Path], Surroundings], ...] = (
    latin1_locale,
    c_locale,
    no_home,
    unknown_user,
    other_owner,
    read_only_checkout,
    odd_path,
    colon_in_path,
    windows_line_endings,
    strict_umask,
    inherited_launcher,
)
