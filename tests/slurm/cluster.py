"""A throw-away Slurm on this machine: one controller and four small nodes with two fake GPUs each. Needs root.

python tests/slurm/cluster.py COMMAND...    run a command with it; afterwards nothing of it is left
"""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil

NODES = ("n1", "n2", "n3", "n4")  # n1, n2: partition batch; n3 is taken down; on n4 urgent jobs preempt those of spot
GPUS = 2  # a node
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "scancel", "scontrol", "sinfo")
SYSTEM_CONFIGURATION = Path("/etc/slurm/slurm.conf")  # the job step of Snakemake's plugin looks nowhere else
BACKUP = SYSTEM_CONFIGURATION.with_suffix(".conf.before-throw-away")
CHILD_SUBREAPER = 36  # prctl: orphans below this process become its children

# No systemd, cgroups or database. Processors and memory are invented, so that the paper's requests fit. A requeued job waits
# for cred_expire. Slurm itself looks at time limits every 30 seconds.
CONFIGURATION = """\
ClusterName=throwaway
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller_port}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=20
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/%n.log
SlurmctldParameters=idle_on_node_suspend
SlurmdParameters=config_overrides
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
MailProg=/bin/true
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
DefMemPerCPU=1000
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/filetxt
JobCompLoc={folder}/jobs.txt
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=1
JobAcctGatherParams=OverMemoryKill
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
JobRequeue=1
MinJobAge=600
KillWait=10
SlurmdTimeout=15
ReturnToService=2
SchedulerParameters=sched_interval=2,bf_interval=2,batch_sched_delay=1
GresTypes=gpu
{nodes}
PartitionName=batch Nodes=n[1-2] Default=YES
PartitionName=fragile Nodes=n3
PartitionName=spot Nodes=n4 PriorityTier=1
PartitionName=urgent Nodes=n4 PriorityTier=10
"""


def obstacle() -> str | None:
    """What keeps a throw-away Slurm from running here, in one line, or None."""
    missing = [name for name in PROGRAMS if shutil.which(name) is None]
    if os.geteuid() != 0:
        return f"a throw-away Slurm needs root, this is user {os.geteuid()}; accepted: root, in a container for example"
    if missing:
        return f"a throw-away Slurm needs the programs {', '.join(missing)}; on Debian: apt-get install slurm-wlm slurmctld slurmd munge"
    if SYSTEM_CONFIGURATION.exists() and subprocess.run(["scontrol", "ping"], capture_output=True, check=False).returncode == 0:
        return f"this machine belongs to a Slurm already ({SYSTEM_CONFIGURATION}); accepted: a machine without one"
    return None


def free_ports(count: int) -> list[int]:
    """Ports of the loopback device that nobody listens to."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for found in sockets:
            found.bind(("127.0.0.1", 0))
        return [found.getsockname()[1] for found in sockets]


def configure(folder: Path) -> None:
    """Write slurm.conf, gres.conf, the key and the fake GPUs."""
    host = socket.gethostname().partition(".")[0]
    controller_port, *node_ports = free_ports(1 + len(NODES))
    nodes = [
        f"NodeName={name} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs=4 RealMemory=500000 Gres=gpu:{GPUS} State=UNKNOWN"
        for name, port in zip(NODES, node_ports, strict=True)
    ]
    text = CONFIGURATION.format(host=host, controller_port=controller_port, folder=folder, nodes="\n".join(nodes))
    (folder / "slurm.conf").write_text(text)
    (folder / "state").mkdir()
    for index in range(GPUS):
        os.mknod(folder / f"gpu{index}", 0o20666, os.makedev(1, 3))  # as /dev/null; a GPU without a device file is refused
    (folder / "gres.conf").write_text(f"AutoDetect=off\nName=gpu File={folder}/gpu[0-{GPUS - 1}]\n")
    key = folder / "munge.key"
    key.write_bytes(os.urandom(128))
    key.chmod(0o400)


@contextmanager
def system_configuration(target: Path) -> Iterator[None]:
    """Let /etc/slurm/slurm.conf name `target`; what was there before comes back."""
    folder, made = SYSTEM_CONFIGURATION.parent, not SYSTEM_CONFIGURATION.parent.exists()
    folder.mkdir(exist_ok=True)
    if SYSTEM_CONFIGURATION.is_symlink() and not SYSTEM_CONFIGURATION.exists():
        SYSTEM_CONFIGURATION.unlink()  # of a run that was killed
    if SYSTEM_CONFIGURATION.exists():
        SYSTEM_CONFIGURATION.rename(BACKUP)
    SYSTEM_CONFIGURATION.symlink_to(target)
    try:
        yield
    finally:
        SYSTEM_CONFIGURATION.unlink()
        if BACKUP.exists():
            BACKUP.rename(SYSTEM_CONFIGURATION)
        if made:
            folder.rmdir()


def start_node(folder: Path, name: str) -> subprocess.Popen[bytes]:
    """Start the daemon of a node, also of one that was taken down."""
    log = (folder / f"{name}.out").open("ab")
    process = subprocess.Popen(["slurmd", "-D", "-N", name, "-f", folder / "slurm.conf"], stdout=log, stderr=log, cwd=folder)
    (folder / f"{name}.daemon").write_text(str(process.pid))
    return process


def reap_orphans(but: int) -> None:
    """Let processes go that ended after their parent did: Slurm would take them for jobs that do not end."""
    for child in psutil.Process().children():
        with suppress(psutil.NoSuchProcess, ChildProcessError):
            if child.pid != but and child.status() == psutil.STATUS_ZOMBIE:
                os.waitpid(child.pid, os.WNOHANG)


def stop_everything() -> None:
    """Stop all processes below this one, jobs and daemons alike."""
    for send in (psutil.Process.terminate, psutil.Process.kill):
        below = psutil.Process().children(recursive=True)
        for process in below:
            with suppress(psutil.NoSuchProcess):
                send(process)
        psutil.wait_procs(below, timeout=5)


@contextmanager
def throw_away_slurm() -> Iterator[Path]:
    """A running Slurm.

    Yields:
        Its folder: logs, and jobs.txt with a line for each job that ended.
    """
    ctypes.CDLL(None).prctl(CHILD_SUBREAPER, 1, 0, 0, 0)
    folder = Path(tempfile.mkdtemp(prefix="throw-away-slurm-"))
    try:
        folder.chmod(0o755)
        configure(folder)
        with system_configuration(folder / "slurm.conf"):
            try:
                names = ("key", "socket", "pid", "log", "seed")
                files = [f"--{name}{'' if name == 'socket' else '-file'}={folder}/munge.{name}" for name in names]
                with (folder / "munged.out").open("wb") as log:
                    subprocess.Popen(["munged", "--foreground", "--force", *files], stdout=log, stderr=log)
                wait_for(lambda: (folder / "munge.socket").exists(), "munged", 60)
                with (folder / "slurmctld.out").open("wb") as log:
                    subprocess.Popen(["slurmctld", "-D", "-f", folder / "slurm.conf"], stdout=log, stderr=log, cwd=folder)
                for name in NODES:
                    start_node(folder, name)
                wait_for(lambda: idle_nodes() == len(NODES), "nodes that can take jobs", 60)
                yield folder
            finally:
                stop_everything()
    finally:
        shutil.rmtree(folder)


def idle_nodes() -> int:
    """Number of nodes that can take a job."""
    command = ["sinfo", "--noheader", "--Node", "--partition=batch,fragile,spot", "--format=%T"]
    shown = subprocess.run(command, capture_output=True, text=True, check=False)
    return shown.stdout.split().count("idle")


def wait_for(condition: Callable[[], Any], what: str, seconds: float = 180) -> Any:
    """What the condition returned when it first was true.

    Raises:
        TimeoutError: it was not within `seconds`.
    """
    end = time.monotonic() + seconds
    while not (found := condition()):
        if time.monotonic() > end:
            raise TimeoutError(f"{what}: not within {seconds:g} s")
        time.sleep(0.1)
    return found


def main() -> int:
    """Run the command of the command line with a throw-away Slurm."""
    if (found := obstacle()) is not None:
        print(f"error: {found}", file=sys.stderr)
        return 1
    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in the background of a shell, also by what is started here
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with throw_away_slurm() as folder:
        command = subprocess.Popen(sys.argv[1:], env=os.environ | {"THROW_AWAY_SLURM": str(folder)})
        while command.poll() is None:
            time.sleep(0.5)
            reap_orphans(command.pid)
        return command.returncode


if __name__ == "__main__":
    sys.exit(main())
