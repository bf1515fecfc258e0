"""Compute one structure in a process of its own, to see whether that one kills the process."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from hpctem.database.segment import StructureRows, quarantine
from hpctem.errors import MachineError

# What a faulty structure does to a process; SIGKILL (out of memory, users, Slurm) is not among it.
FATAL = (signal.SIGSEGV, signal.SIGBUS, signal.SIGILL, signal.SIGFPE, signal.SIGABRT)
# A child must not take itself for one more rank of this job.
_LAUNCHER = ("OMPI_", "PMI_", "PMIX_", "MPI_", "HYDRA_", "HYDI_", "MPIR_", "ORTE_", "PRTE_")


def compute_alone(compute: Callable[[int], StructureRows], structure: int) -> StructureRows:
    """The rows of a structure, computed by a fresh Python process without MPI.

    Quarantined when that process dies of SIGSEGV, SIGBUS, SIGILL, SIGFPE or SIGABRT. `compute` must
    be picklable; errors it raises are raised here.

    Raises MachineError when the process ends in any other way without a result.
    """
    environment = {k: v for k, v in os.environ.items() if not k.startswith(_LAUNCHER)}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
    with tempfile.TemporaryDirectory(prefix="hpctem-") as name:
        task, answer = Path(name, "task"), Path(name, "answer")
        task.write_bytes(pickle.dumps((compute, structure)))
        command = [sys.executable, "-m", "hpctem.database.isolate", str(task), str(answer)]
        child = subprocess.run(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        if child.returncode == 0 and answer.exists():
            result = pickle.loads(answer.read_bytes())
            if isinstance(result, BaseException):
                raise result
            return result
        if -child.returncode in FATAL:
            number = signal.Signals(-child.returncode)
            return quarantine(
                f"its computation dies of {number.name}, also in a process of its own"
            )
        tail = child.stderr.decode(errors="replace").strip().splitlines()[-1:]
        raise MachineError(
            f"structure {structure}, computed alone in a process after three deaths, ended with "
            f"code {child.returncode}: {' '.join(tail) or 'no message'}"
        )


def _main(task: str, answer: str) -> None:
    compute, structure = pickle.loads(Path(task).read_bytes())
    result: StructureRows | Exception
    try:
        result = compute(structure)
    except Exception as error:
        result = error
    Path(answer).write_bytes(pickle.dumps(result))


if __name__ == "__main__":
    _main(*sys.argv[1:])
