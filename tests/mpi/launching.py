"""Start, watch and kill the synthetic job under mpirun."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hpctem.examinations import find_launcher

SCRIPT = Path(__file__).with_name("synthetic.py")
ROOT = SCRIPT.parents[2]
# One structure that cannot be computed, one that gives a NaN.
JOB = {"structures": 24, "per_segment": 2, "bad": "3", "nan": "7"}


@functools.cache
def find_mpirun() -> tuple[str, ...]:
    """The mpirun that fits mpi4py, with the flags that root and more ranks than cores need."""
    program = find_launcher()
    if program is None:
        return ()
    version = subprocess.run([program, "--version"], capture_output=True, text=True).stdout
    if "Open MPI" in version or "OpenRTE" in version:
        root = ("--allow-run-as-root",) if os.geteuid() == 0 else ()
        return (program, *root, "--oversubscribe")
    return (program,)


def require_mpi(parallel_hdf5: bool = False) -> None:
    """Skip the test where MPI is missing; fail instead where CI says that it must be there."""
    lacks = [] if find_mpirun() else ["mpirun"]
    # Not imported: ASE would then start MPI in this process, which leaves its variables in the
    # environment, and an mpirun that inherits them ends at once without a word.
    if importlib.util.find_spec("mpi4py") is None:
        lacks.append("mpi4py")
    if parallel_hdf5:
        import h5py

        lacks += [] if h5py.get_config().mpi else ["an h5py built with MPI"]
    if lacks:
        message = f"this test needs {' and '.join(lacks)}"
        if os.environ.get("CI", "").lower() in ("1", "true"):
            pytest.fail(message)
        pytest.skip(message)


def command(path: Path, ranks: int, **options: object) -> list[str]:
    """The command line of the job; without mpirun for 0 ranks."""
    launcher = [*find_mpirun(), "-n", str(ranks)] if ranks else []
    arguments = [f"{name}={value}" for name, value in options.items()]
    return [*launcher, sys.executable, str(SCRIPT), str(path), *arguments]


def environment() -> dict[str, str]:
    """The environment of the job: this source tree, one thread."""
    path = os.pathsep.join([str(ROOT), str(SCRIPT.parent)])
    return os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"}


def start(path: Path, ranks: int, **options: object) -> subprocess.Popen[str]:
    """Start the job in a session of its own."""
    return subprocess.Popen(
        command(path, ranks, **options),
        env=environment(),
        text=True,
        start_new_session=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def run(path: Path, ranks: int, timeout: float = 120, **options: object) -> tuple[int, dict, str]:
    """Run the job to its end: exit code, what it printed, its messages."""
    job = start(path, ranks, **options)
    try:
        out, messages = job.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        end(job)
        raise
    lines = [line for line in out.splitlines() if line.startswith("{")]
    return job.returncode, json.loads(lines[-1]) if lines else {}, messages


def ranks_of(job: subprocess.Popen[str]) -> list[int]:
    """Process ids of the job's ranks: the Python processes among mpirun's descendants."""
    found, queue = [], [job.pid]
    while queue:
        process = queue.pop()
        with contextlib.suppress(OSError):
            for children in Path(f"/proc/{process}/task").glob("*/children"):
                queue += [int(child) for child in children.read_text().split()]
            words = Path(f"/proc/{process}/cmdline").read_bytes().split(b"\0")
            if str(SCRIPT).encode() in words[:2]:
                found.append(process)
    return sorted(found)


def kill(processes: list[int]) -> None:
    """SIGKILL, whoever is still there."""
    for process in processes:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)


def end(job: subprocess.Popen[str]) -> None:
    """Make sure that nothing of the job is left."""
    kill([*ranks_of(job), job.pid])
    job.communicate()


def await_end(job: subprocess.Popen[str], seconds: float = 180) -> bool:
    """Wait until a job and its ranks have ended; False where the launcher alone never does.

    Open MPI's mpirun can hang when a rank was killed while it reported to it ("PMIX ERROR:
    UNREACHABLE"): then it is killed too. Raises AssertionError with the stacks of ranks that hang.
    """
    limit = time.monotonic() + seconds
    while True:
        left = ranks_at_work(job)
        try:
            job.communicate(timeout=5)
            return True
        except subprocess.TimeoutExpired:
            if not left and not ranks_at_work(job):
                end(job)
                return False
        if time.monotonic() > limit:
            for process in left:
                os.kill(process, signal.SIGQUIT)  # synthetic.py answers with its stack
            time.sleep(1)
            kill([*left, job.pid])
            raise AssertionError(f"ranks {left} hang\n{job.communicate()[1]}")


def ranks_at_work(job: subprocess.Popen[str]) -> list[int]:
    """Processes that work on the database of a job, also those that lost their launcher."""
    path = job.args[job.args.index(str(SCRIPT)) + 1].encode()
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            words = (folder / "cmdline").read_bytes().split(b"\0")
            if str(SCRIPT).encode() in words[:2] and path in words:
                found.append(int(folder.name))
    return found


def await_death(processes: list[int], seconds: float = 90) -> None:
    """Wait until none of the processes lives (zombies count as dead)."""
    limit = time.monotonic() + seconds
    while any(is_alive(process) for process in processes):
        assert time.monotonic() < limit, f"ranks {processes} outlive their job"
        time.sleep(0.02)


def is_alive(process: int) -> bool:
    """Whether the process exists and is no zombie."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def sha256(path: Path) -> str:
    """Digest of the whole file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()
