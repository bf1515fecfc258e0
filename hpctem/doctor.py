"""What this machine has and lacks for hpctem, and whether what it has works.

Every examination runs in a process of its own (under mpirun, where it is about MPI), so that a
library that crashes or hangs is reported instead of ending the report.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal

from hpctem.examinations import (
    ABSENT,
    EXAMINATIONS,
    RANK_VARIABLES,
    Examination,
    find_launcher,
)

State = Literal["ok", "missing", "broken"]
# What a surrounding MPI job leaves in the environment: a job inside it must not join that one.
MPI_TRACES = ("OMPI_", "PMI_", "PMIX_", "PRTE_", "MPI_LOCAL", "HYDI_")


@dataclass(frozen=True)
class Check:
    """One line of the report: `needed` says that the main job cannot run without it."""

    name: str
    state: State
    detail: str
    advice: str = ""
    needed: bool = False


def diagnose(folder: Path | None = None) -> list[Check]:
    """Examine this machine; databases are to be written in `folder` (the current one by default).

    Takes some ten seconds, most of it importing. Never raises for what it finds: that is in the
    checks, in a fixed order.
    """
    return [examine(examination, folder or Path.cwd()) for examination in EXAMINATIONS.values()]


def can_simulate(checks: list[Check]) -> bool:
    """Whether everything that the main job needs is there and works."""
    return all(check.state == "ok" for check in checks if check.needed)


def format_report(checks: list[Check]) -> str:
    """Lay out the checks as a table, each problem followed by what to do about it."""
    width = max(len(check.name) for check in checks)
    lines = []
    for check in checks:
        lines.append(f"{check.state:8} {check.name:{width}}  {check.detail}")
        if check.advice:
            lines.append(f"{'':8} {'':{width}}  -> {check.advice}")
    if can_simulate(checks):
        lines.append("\nThe main job, `hpctem simulate`, can run here.")
    else:
        stops = ", ".join(check.name for check in checks if check.needed and check.state != "ok")
        lines.append(f"\nThe main job, `hpctem simulate`, cannot run here: see {stops} above.")
    return "\n".join(lines)


def examine(examination: Examination, folder: Path) -> Check:
    """Run one examination in processes of its own and judge how it ended."""

    def judge(state: State, detail: str) -> Check:
        advice = "" if state == "ok" else examination.advice
        return Check(examination.name, state, detail, advice, examination.needed)

    command = [sys.executable, "-m", "hpctem.examinations", examination.name]
    if examination.ranks:
        launcher = find_launcher()
        if launcher is None:
            return judge("missing", "no mpirun beside this Python or on the PATH")
        command = [launcher, "-n", str(examination.ranks), *command]
    environment = quiet(examination.ranks)
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        try:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                cwd=folder,
                env=environment,
            )
        except OSError as error:
            return judge("broken", f"{command[0]} cannot be started in {folder}: {error}")
        try:
            status, silence = process.wait(examination.timeout), "ended without a word"
        except subprocess.TimeoutExpired:
            status, silence = end(process), f"no answer in {examination.timeout:.0f} s"
        said, complaint = (read_last_line(stream) for stream in (out, err))
    if status == 0 and said.startswith(ABSENT):
        return judge("missing", said.removeprefix(ABSENT))
    if status == 0 and said:
        return judge("ok", said)
    return judge("broken", said or complaint or silence)


def end(process: subprocess.Popen) -> int:
    """End a process that does not answer; mpirun passes SIGTERM on to its ranks, SIGKILL not."""
    process.terminate()
    try:
        return process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait()


def read_last_line(stream: IO[str]) -> str:
    stream.seek(0)
    lines = [line.strip(" -=*\n") for line in stream]
    return next((line for line in reversed(lines) if line), "")


def quiet(ranks: int) -> dict[str, str]:
    """The environment of an examination: no traces of a surrounding MPI job, one thread, and leave
    for Open MPI to start as root and on a single core."""
    traces: tuple[str, ...] = ()
    if any(name.startswith(RANK_VARIABLES) for name in os.environ):
        traces += MPI_TRACES
    if ranks:
        traces += ("SLURM_",)  # mpirun is to start its ranks here and wait for no node
    ours = {name: value for name, value in os.environ.items() if not name.startswith(traces)}
    package = str(Path(__file__).parents[1])
    return ours | {
        "PYTHONPATH": os.pathsep.join(filter(None, (package, os.environ.get("PYTHONPATH")))),
        "PYTHONSAFEPATH": "1",
        "OMP_NUM_THREADS": "1",
        "HDF5_USE_FILE_LOCKING": "FALSE",
        "OMPI_ALLOW_RUN_AS_ROOT": "1",
        "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
        "OMPI_MCA_rmaps_base_oversubscribe": "1",
        "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe",
    }
