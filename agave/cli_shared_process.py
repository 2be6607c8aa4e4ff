"""Run short commands in copies of one process that has loaded torch already, which takes two seconds otherwise.

Snakemake starts the process (`start`) beside its local jobs. A command `agave evaluate`, `sample` or `codec` that finds it in
$AGAVE_SHARED_PROCESS hands over its arguments, folder, variables and open files (`run_there`), waits, and passes signals on. Everything
else stays as if the command had run by itself: each has a process of its own, a copy (fork), so nothing that one does reaches another.
"""

from __future__ import annotations

import importlib
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

VARIABLE = "AGAVE_SHARED_PROCESS"
COMMANDS = ("evaluate", "sample", "codec")
STANDARD_FILES = (0, 1, 2)


def start() -> subprocess.Popen[bytes]:
    """Start the process and name its socket in $AGAVE_SHARED_PROCESS. It ends when its standard input is closed, or the caller ends."""
    path = Path(tempfile.mkdtemp(prefix="agave-")) / "socket"
    os.environ[VARIABLE] = str(path)
    command = [sys.executable, "-m", "agave.cli_shared_process", str(path)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, env=os.environ | {"OMP_NUM_THREADS": "1"}, start_new_session=True)


def run_there(arguments: Sequence[str]) -> int | None:
    """Run a command of `agave` in a copy of the shared process.

    Args:
        arguments: the arguments of `agave`.

    Returns:
        Its exit code; None if it is no command for a shared process, or there is none that answers.
    """
    path = os.environ.get(VARIABLE)
    if path is None or not arguments or arguments[0] not in COMMANDS:
        return None
    with socket.socket(socket.AF_UNIX) as connection:
        try:
            connection.connect(path)
        except OSError:  # not ready yet, or on another machine
            return None

        def pass_on(number: int, _: FrameType | None) -> None:
            connection.send(bytes([number]))

        request = json.dumps([list(arguments), os.getcwd(), dict(os.environ)]).encode()
        socket.send_fds(connection, [len(request).to_bytes(8, "big")], STANDARD_FILES)
        connection.sendall(request)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, pass_on)
        answer = connection.recv(8)
    return int.from_bytes(answer, "big") if answer else 1


def wait_for_commands(path: Path) -> None:
    """Wait at a socket, and start a copy for each command, until the standard input is closed.

    Args:
        path: path of the socket, in a folder of its own, which is deleted at the end.
    """
    for command in COMMANDS:
        importlib.import_module(f"agave.steps.{command}")
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the copies
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        listening.listen()
        while listening.fileno() in select.select([listening.fileno(), sys.stdin.fileno()], [], [])[0]:
            connection, _ = listening.accept()
            if os.fork() == 0:
                listening.close()
                os._exit(_attend(connection))
            connection.close()
    shutil.rmtree(path.parent, ignore_errors=True)


def _attend(connection: socket.socket) -> int:
    """Run one command in a copy of this process: pass signals on to it, and its exit code back. It ends with whoever asked for it."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    header, files, _, _ = socket.recv_fds(connection, 8, len(STANDARD_FILES))
    length, request = int.from_bytes(header, "big"), b""
    while len(request) < length:
        request += connection.recv(length - len(request))
    ended, open_while_it_runs = os.pipe()
    child = os.fork()
    if child == 0:
        connection.close()
        os.close(ended)
        _become(files, *json.loads(request))
    os.close(open_while_it_runs)
    while ended not in select.select([connection.fileno(), ended], [], [])[0]:
        numbers = connection.recv(16)
        for number in numbers or (signal.SIGKILL,):  # without an answer: whoever asked is gone
            os.kill(child, number)
        if not numbers:
            break
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    try:
        connection.send((code if code >= 0 else 128 - code).to_bytes(8, "big"))
    except OSError:
        return 1
    return 0


def _become(files: Sequence[int], arguments: list[str], folder: str, variables: dict[str, str]) -> None:
    """Become the command that was asked for; never returns."""
    import torch

    from agave.cli import main

    for place, file in zip(STANDARD_FILES, files, strict=True):
        os.dup2(file, place)
    # as they are at the start of a process; they stay open to its end
    sys.stdin, sys.stdout = open(0, closefd=False), open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", buffering=1, errors="backslashreplace", closefd=False)  # noqa: SIM115
    os.environ.clear()
    os.environ.update({name: value for name, value in variables.items() if name != VARIABLE})
    os.chdir(folder)
    torch.set_num_threads(int(variables.get("OMP_NUM_THREADS") or os.cpu_count() or 1))
    for number in (signal.SIGTERM, signal.SIGCHLD):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.argv[1:], code = arguments, 1
    try:
        main(prog_name="agave")
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os._exit(code)


if __name__ == "__main__":
    wait_for_commands(Path(sys.argv[1]))
