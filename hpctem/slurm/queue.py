"""Slurm's own commands: submit, look into the queue, cancel. None of them is trusted alone."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from hpctem.errors import MachineError

# A controller that answers slowly is asked no longer than this.
SECONDS = 60
_NUMBER = re.compile(r"\d+")
# What squeue calls jobs that are still to end.
WAITING = ("PENDING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "SPECIAL_EXIT", "CONFIGURING")


@dataclass(frozen=True)
class Queued:
    """A job, or a task of an array, that Slurm has not ended: its number, name, state and reason.

    job   as the scripts write it: 12, or 12_3 for a task
    left  of its time, as squeue writes it
    """

    job: str
    name: str
    state: str
    reason: str
    left: str

    @property
    def waiting(self) -> bool:
        """Whether it has yet to start, or to start again."""
        return self.state in WAITING


def has_slurm() -> bool:
    """Whether jobs can be submitted from this machine."""
    return shutil.which("sbatch") is not None


def submit_script(
    script: Path, folder: Path, after: str | None, test: bool = False, tasks: str | None = None
) -> str:
    """Submit a script from the campaign folder; the number of its job.

    after   dependency, as afterok:12
    test    ask only whether it would be taken; Slurm's answer is returned
    tasks   of an array, instead of those that the script names

    Raises MachineError with Slurm's words when it refuses.
    """
    command = ["sbatch", "--test-only" if test else "--parsable"]
    if after:
        command += [f"--dependency={after}", "--kill-on-invalid-dep=yes"]
    if tasks:
        command.append(f"--array={tasks}")
    done = _run([*command, str(script)], folder)
    if done.returncode != 0:
        words = done.stderr.strip() or done.stdout.strip()
        raise MachineError(f"sbatch refuses {script.name}: {words}")
    if test:
        return (done.stderr.strip() or done.stdout.strip()).removeprefix("sbatch: ")
    number = done.stdout.strip().split(";")[0]
    if not _NUMBER.fullmatch(number):
        raise MachineError(f"sbatch answered {done.stdout.strip()!r}, which is no job's number")
    return number


def look_up(jobs: Iterable[str]) -> list[Queued] | None:
    """Those of some jobs that Slurm has not ended; None where it cannot be asked.

    Jobs that Slurm no longer knows are left out.
    """
    numbers = sorted(set(jobs))
    if shutil.which("squeue") is None:
        return None
    if not numbers:
        return []
    # All of the user's: squeue fails as a whole where one of the numbers asked for is unknown.
    done = _run(["squeue", "-h", "-r", "-u", str(os.getuid()), "-o", "%i|%j|%T|%r|%L"])
    if done.returncode != 0:
        return None
    found = [Queued(*line.split("|", 4)) for line in done.stdout.splitlines() if "|" in line]
    return [one for one in found if one.job.split("_")[0] in numbers]


def tell_end(job: str) -> str:
    """What accounting says of how a job ended, such as TIMEOUT; '' where there is none."""
    if shutil.which("sacct") is None or not job:
        return ""
    done = _run(["sacct", "-n", "-X", "-P", "-j", job, "-o", "State,ExitCode"])
    lines = done.stdout.strip().splitlines() if done.returncode == 0 else []
    return lines[-1].replace("|", ", exit code ") if lines else ""


def cancel_jobs(jobs: Sequence[str]) -> list[str]:
    """End jobs; the words of Slurm about those that it could not end, such as ended ones."""
    if not jobs:
        return []
    done = _run(["scancel", *jobs])
    return [line for line in done.stderr.strip().splitlines() if line]


def _run(command: list[str], folder: Path | None = None) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            command, cwd=folder, capture_output=True, text=True, timeout=SECONDS, check=False
        )
    except FileNotFoundError:
        raise MachineError(f"there is no {command[0]} on this machine") from None
    except subprocess.TimeoutExpired:
        raise MachineError(
            f"{command[0]} gave no answer in {SECONDS} s; try again later: what runs goes on"
        ) from None
