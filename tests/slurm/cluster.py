"""A Slurm of two nodes on this machine: a munged, a slurmctld and two slurmd of its own.

Everything lies in one folder, ports are on loopback, and only processes that were started here are
ended; the system's own Slurm and munge, where there are any, are neither read nor touched. By hand,
`python tests/slurm/cluster.py COMMAND ...` runs a command (by default a shell) with a cluster
around it.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

NODES = ("n1", "n2")
GUARD = "--guard"
DAEMONS = ("munged", "slurmctld", "slurmd")
COMMANDS = ("sbatch", "srun", "squeue", "scontrol", "scancel", "sinfo")
# Debian keeps daemons where only root's PATH looks.
PLACES = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"])
ENDED = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "DEADLINE", "OUT_OF_MEMORY")

# The nodes share this machine's cores on purpose: what is tested is Slurm, not speed. Waits are as
# short as they can be: a job that goes back to the queue starts cred_expire seconds later, of which
# 5 are the least that is taken. MinJobAge keeps ended jobs for scontrol to show.
SLURM_CONF = """\
ClusterName=hpctem
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=1,batch_sched_delay=0,bf_interval=1
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
EnforcePartLimits=ALL
DefMemPerCPU=2000
MpiDefault=none
ReturnToService=2
SlurmdParameters=config_overrides
SlurmdTimeout={silence}
KillWait=5
MinJobAge=3600
MailProg=/bin/true
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
TmpFS={folder}/tmp-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/log/slurmctld
SlurmdLogFile={folder}/log/slurmd-%n
GresTypes=gpu
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=2 RealMemory=8000 \
Gres=gpu:a40:2
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs=2 RealMemory=8000 \
Gres=gpu:a40:2
PartitionName=cpu Nodes=n1,n2 Default=YES DefaultTime=10 MaxTime=60 State=UP
PartitionName=short Nodes=n1,n2 DefaultTime=1 MaxTime=2 State=UP
PartitionName=urgent Nodes=n1,n2 DefaultTime=1 MaxTime=60 State=UP PriorityTier=10
PartitionName=gpu Nodes=n1,n2 DefaultTime=10 MaxTime=60 State=UP
"""


@dataclass
class Cluster:
    """A running cluster.

    folder       its configuration, logs, spools, the key of its munge
    environment  for commands that are to reach it
    daemons      by name: munged, slurmctld, n1, n2
    """

    folder: Path
    environment: dict[str, str]
    daemons: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def run(
        self, *command: object, timeout: float = 60, **options
    ) -> subprocess.CompletedProcess[str]:
        """Run a command that sees this cluster; its exit status is not checked."""
        words = [str(word) for word in command]
        options.setdefault("env", self.environment)
        return subprocess.run(words, capture_output=True, text=True, timeout=timeout, **options)

    def ask(self, *command: object, **options) -> str:
        """What a command prints; AssertionError with its messages where it fails."""
        done = self.run(*command, **options)
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
        return done.stdout.strip()

    def submit(self, script: str, *options: object, folder: Path) -> str:
        """Submit the text of a job's script with a folder to run in; the job's number."""
        return self.ask(
            *("sbatch", "--parsable", "-D", folder, *options), input=f"#!/bin/bash\n{script}\n"
        ).split(";")[0]

    def show(self, job: object) -> dict[str, str]:
        """What scontrol tells of a job: JobState, Restarts, ExitCode, Reason, NodeList ..."""
        text = self.ask("scontrol", "show", "job", "--oneliner", job).splitlines()[0]
        return dict(word.split("=", 1) for word in text.split() if "=" in word)

    def await_job(self, job: object, *states: str, timeout: float = 120) -> dict[str, str]:
        """Wait until a job has one of these states (has ended, by default); what `show` tells.

        A job that is on its way back into the queue has not ended.
        """
        wanted = states or ENDED

        def look() -> dict[str, str] | None:
            found = self.show(job)
            return found if found["JobState"] in wanted else None

        return wait_for(look, timeout, lambda: f"{self.show(job)}\n{self.tell_logs()}")

    def await_nodes(self, state: str, *nodes: str, timeout: float = 30) -> None:
        """Wait until nodes (all by default) have a state as sinfo names it: idle, mixed, down."""

        def look() -> bool:
            found = self.run("sinfo", "-h", "-N", "-p", "cpu", "-n", ",".join(nodes or NODES))
            states = [line.split()[-1].rstrip("*") for line in found.stdout.splitlines()]
            return len(states) == len(nodes or NODES) and set(states) == {state}

        wait_for(look, timeout, self.tell_logs)

    def kill_daemon(self, name: str) -> None:
        """SIGKILL to one daemon and nothing else; the steps of a node's jobs live on."""
        self.daemons[name].kill()
        self.daemons.pop(name).wait()

    def start_daemon(self, name: str) -> None:
        """Start a daemon (again): munged, slurmctld, n1 or n2."""
        folder = self.folder
        command = {
            "munged": [
                *("munged", "--foreground", f"--key-file={folder}/munge.key"),
                *(f"--socket={folder}/munge.socket", f"--pid-file={folder}/munged.pid"),
                *(f"--log-file={folder}/log/munged", f"--seed-file={folder}/munge.seed"),
            ],
            "slurmctld": ["slurmctld", "-D"],
        }.get(name, ["slurmd", "-D", "-N", name])
        program = shutil.which(command[0], path=PLACES)
        assert program is not None, f"{command[0]} is gone"
        with open(folder / "log" / f"{name}.out", "ab") as out:
            self.daemons[name] = subprocess.Popen(
                [program, *command[1:]],
                env=self.environment | {"PATH": PLACES},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,
            )

    def tell_logs(self, lines: int = 15) -> str:
        """The ends of all daemons' logs, for the message of a failure."""
        parts = []
        for path in sorted((self.folder / "log").iterdir()):
            end = path.read_text(errors="replace").splitlines()[-lines:]
            parts.append("\n".join([f"--- {path.name}", *end]))
        return "\n".join(parts)


def wait_for(look: Callable[[], T], timeout: float, tell: Callable[[], str]) -> T:
    """The first true value that `look` returns; AssertionError with `tell` after `timeout` s."""
    limit = time.monotonic() + timeout
    while not (found := look()):
        assert time.monotonic() < limit, f"waited {timeout:g} s in vain\n{tell()}"
        time.sleep(0.3)
    return found


def find_missing() -> str:
    """Name the programs without which there is no cluster; nothing where all are there."""
    names = [name for name in (*DAEMONS, *COMMANDS) if shutil.which(name, path=PLACES) is None]
    return ", ".join(names)


@contextlib.contextmanager
def cluster(silence: int = 10) -> Iterator[Cluster]:
    """A cluster whose two nodes are idle; it is ended with all its jobs on leaving.

    silence  s after which a node that is not heard of is down, and its jobs are requeued
    """
    # Not pytest's folder: munge wants others to reach its socket, and a socket's path is short.
    with tempfile.TemporaryDirectory(prefix="slurm-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        environment = os.environ | {
            "SLURM_CONF": f"{folder}/slurm.conf",
            # Jobs find this Python and its hpctem.
            "PATH": os.pathsep.join([str(Path(sys.executable).parent), PLACES]),
            # Open MPI names shared memory by host and rank on a node: both nodes' would be one.
            "OMPI_MCA_btl": "self,tcp",
        }
        made = Cluster(folder, environment)
        # Ends what is left when its pipe closes, so also when this process is killed.
        guard = subprocess.Popen(
            [sys.executable, __file__, GUARD, name], stdin=subprocess.PIPE, start_new_session=True
        )
        try:
            for attempt in range(3):
                write_configuration(folder, silence)
                if start(made, last=attempt == 2):
                    break
            yield made
        finally:
            end(made)
            guard.communicate()


def write_configuration(folder: Path, silence: int) -> None:
    for name in (
        "log",
        "state",
        *(f"{kind}-{node}" for kind in ("spool", "tmp") for node in NODES),
    ):
        (folder / name).mkdir(exist_ok=True)
    if not (key := folder / "munge.key").exists():
        key.touch(0o600)
        key.write_bytes(secrets.token_bytes(1024))
    # A GPU is a character device; these two are on every machine.
    for number, device in enumerate(("null", "zero")):
        path = folder / f"gpu{number}"
        path.unlink(missing_ok=True)
        path.symlink_to(f"/dev/{device}")
    (folder / "gres.conf").write_text(f"Name=gpu Type=a40 File={folder}/gpu[0-1]\n")
    text = SLURM_CONF.format(
        folder=folder,
        host=socket.gethostname().split(".")[0],
        user="root" if os.geteuid() == 0 else find_user(),
        ports=find_ports(3),
        silence=silence,
    )
    (folder / "slurm.conf").write_text(text)


def find_user() -> str:
    import pwd

    return pwd.getpwuid(os.geteuid()).pw_name


def find_ports(count: int) -> list[int]:
    """Ports that nobody listens on, below those that Linux gives to connections by itself."""
    ports: list[int] = []
    while len(ports) < count:
        port = 10000 + secrets.randbelow(20000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            if port not in ports:
                ports.append(port)
    return ports


def start(made: Cluster, last: bool) -> bool:
    """Start all daemons; False where one could not, for another may have taken its port."""
    try:
        made.start_daemon("munged")
        wait_for((made.folder / "munge.socket").exists, 10, made.tell_logs)
        for name in ("slurmctld", *NODES):
            made.start_daemon(name)
        made.await_nodes("idle")
    except AssertionError:
        if last:
            raise
        for name in tuple(made.daemons):
            made.kill_daemon(name)
        return False
    return True


def end(made: Cluster) -> None:
    """Cancel all jobs and end the daemons."""
    with contextlib.suppress(subprocess.TimeoutExpired, AssertionError):
        if made.run("scancel", "--signal=KILL", "--full", "--me", timeout=10).returncode == 0:
            made.run("scancel", "--me", timeout=10)
            wait_for(lambda: not made.ask("squeue", "-h", "-t", "R,CG"), 15, str)
    for daemon in reversed(made.daemons.values()):
        daemon.terminate()
    for daemon in made.daemons.values():
        try:
            daemon.wait(10)
        except subprocess.TimeoutExpired:
            daemon.kill()
            daemon.wait()


def guard_cluster(folder: Path) -> None:
    """Wait until the process that made a cluster closes the pipe or dies; end what is left."""
    sys.stdin.read()
    while left := find_processes(folder):
        for process in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        time.sleep(0.1)
    shutil.rmtree(folder, ignore_errors=True)


def find_processes(folder: Path) -> list[int]:
    """Processes whose environment names the cluster in this folder, but for this one."""
    wanted = f"SLURM_CONF={folder}/slurm.conf".encode()
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            if wanted in path.read_bytes().split(b"\0") and path.parent.name != str(os.getpid()):
                found.append(int(path.parent.name))
    return found


if __name__ == "__main__":
    if sys.argv[1:2] == [GUARD]:
        sys.exit(guard_cluster(Path(sys.argv[2])))
    if missing := find_missing():
        sys.exit(f"not installed: {missing}")
    with cluster() as running:
        sys.exit(subprocess.run(sys.argv[1:] or ["bash"], env=running.environment).returncode)
