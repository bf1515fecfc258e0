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
# Of what Slurm sets: where it is, not what a job was given.
_KEPT = ("SLURM_CONF", "SLURM_CLUSTERS", "SLURM_CLUSTER_NAME")
_NUMBER = re.compile(r"\d+")
# What squeue calls jobs that are still to end.
WAITING = ("PENDING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "SPECIAL_EXIT", "CONFIGURING")


@dataclass(frozen=True)
class Queued:
    """A job, or a task of an array, that Slurm has not ended: its number, name, state and reason.

    job     as the scripts write it: 12, or 12_3 for a task
    left    of its time, as squeue writes it
    folder  that it works in
    """

    job: str
    name: str
    state: str
    reason: str
    left: str
    folder: str = ""

    @property
    def number(self) -> int:
        """Of the job, or of the array that it is a task of."""
        return int(self.job.split("_")[0])

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
    # What a job that submits its successor was given is not for the successor.
    given = {k: v for k, v in os.environ.items() if not k.startswith("SLURM_") or k in _KEPT}
    command = ["sbatch", "--test-only" if test else "--parsable"]
    if after:
        command += [f"--dependency={after}", "--kill-on-invalid-dep=yes"]
    if tasks:
        command.append(f"--array={tasks}")
    done = _run([*command, str(script)], folder, given)
    if done.returncode != 0:
        words = done.stderr.strip() or done.stdout.strip()
        raise MachineError(f"sbatch refuses {script.name}: {words}")
    if test:
        return (done.stderr.strip() or done.stdout.strip()).removeprefix("sbatch: ")
    number = done.stdout.strip().split(";")[0]
    if not _NUMBER.fullmatch(number):
        raise MachineError(f"sbatch answered {done.stdout.strip()!r}, which is no job's number")
    return number


def look_up(folder: Path) -> list[Queued] | None:
    """Jobs that were submitted from a folder and that Slurm has not ended, by whatever command.

    None where Slurm cannot be asked, or does not answer.
    """
    if shutil.which("squeue") is None:
        return None
    user = str(os.getuid())
    try:
        done = _run(["squeue", "-h", "-r", "-u", user, "-o", "%i|%j|%T|%r|%L|%Z"])
    except MachineError:
        return None
    if done.returncode != 0:
        return None
    found = [Queued(*line.split("|", 5)) for line in done.stdout.splitlines() if "|" in line]
    there = folder.resolve()
    return [one for one in found if one.folder and Path(one.folder).resolve() == there]


def tell_ends(jobs: Iterable[str]) -> dict[str, str]:
    """What accounting says of how jobs ended, such as TIMEOUT; those that it knows."""
    numbers = sorted({job for job in jobs if job})
    if shutil.which("sacct") is None or not numbers:
        return {}
    try:
        done = _run(
            ["sacct", "-n", "-X", "-P", "-j", ",".join(numbers), "-o", "JobID,State,ExitCode"]
        )
    except MachineError:
        return {}
    lines = done.stdout.splitlines() if done.returncode == 0 else []
    rows = [line.split("|") for line in lines if line.count("|") == 2]
    return {job: f"{state}, exit code {code}" for job, state, code in rows}


def cancel_jobs(jobs: Sequence[str]) -> list[str]:
    """End jobs; the words of Slurm about those that it could not end, such as ended ones."""
    if not jobs:
        return []
    done = _run(["scancel", *jobs])
    lines = [line for line in done.stderr.strip().splitlines() if line]
    if done.returncode != 0 and not lines:
        lines = [f"scancel ended with code {done.returncode}"]
    return lines


def _run(
    command: list[str], folder: Path | None = None, environment: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            command,
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )
    except FileNotFoundError:
        raise MachineError(f"there is no {command[0]} on this machine") from None
    except subprocess.TimeoutExpired:
        raise MachineError(
            f"{command[0]} gave no answer in {SECONDS} s; try again later: what runs goes on"
        ) from None
