"""The job as a user starts it: its rate at one and two ranks, its memory, what its safety costs.

Rates are differences between a long and a short run, so that starting Python, laying out the file
and the last check of the database do not count. What fsync costs is the ratio of two such
differences, a few seconds each: it scatters by some percent, so that of every repeat is told. The
seconds inside the calls themselves do not scatter; most of them pass beside computing.
"""

from __future__ import annotations

import functools
import json
import os
import shutil
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml
from targets import Figure

from hpctem.examinations import find_launcher

# Runs one command as its only child, for the kernel adds up the CPU time of all that a process
# has waited for, and keeps the largest memory.
MEASURE = """
import json, resource, subprocess, sys, time
started = time.perf_counter()
done = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL)
used = resource.getrusage(resource.RUSAGE_CHILDREN)
taken = time.perf_counter() - started
print(json.dumps([taken, used.ru_utime + used.ru_stime, used.ru_maxrss * 1024]))
sys.exit(done.returncode)
"""
# hpctem with the calls that wait for the disk timed, or left out: what a crash would then lose is
# not measured here.
PROGRAM = """
import atexit, os, time
from pathlib import Path
from hpctem.cli import main

safe, took = {safe}, []

def timed(wait):
    def call(descriptor):
        started = time.perf_counter()
        if safe:
            wait(descriptor)
        took.append(time.perf_counter() - started)
    return call

os.fsync, os.fdatasync = timed(os.fsync), timed(os.fdatasync)
atexit.register(lambda: Path({folder!r}, str(os.getpid()) + ".synced").write_text(str(sum(took))))
main()
"""
SHORT, LONG = 2, 5
"""Structures of each rank in the two runs of which a rate is the difference."""
MODES = {"one": (1, True), "two": (2, True), "unsafe": (1, False)}
"""Ranks, and whether fsync is called."""
FAILED = 40  # lines of a failed command that are shown


@dataclass(frozen=True)
class Run:
    """Wall and CPU seconds of all ranks, the peak bytes of the largest process, and the seconds
    that all ranks waited for the disk, in the background or not."""

    wall: float
    cpu: float
    peak: int
    synced: float

    def __sub__(self, other: Run) -> Run:
        spent = (self.wall - other.wall, self.cpu - other.cpu)
        return Run(*spent, self.peak, self.synced - other.synced)

    def shorter(self, other: Run) -> Run:
        """The shortest of both in every respect but the peak."""
        spent = (min(self.wall, other.wall), min(self.cpu, other.cpu))
        return Run(*spent, max(self.peak, other.peak), min(self.synced, other.synced))


def write_campaign(
    path: Path, source: Path, pixels: int, phonons: int, foci: int, planes: int | str = 25
) -> Path:
    """The campaign of the job: `source` in infinite projection, one image with median a focus."""
    campaign = yaml.safe_load(source.read_text())
    simulation, imaging = campaign["simulation"], campaign["imaging"]
    simulation |= {"sampling": f"{128 / pixels} A", "projection": "infinite"}
    simulation["phonons"]["configurations"] = phonons
    series = [f"{n} nm" for n in range(-(foci // 2), foci - foci // 2)]
    imaging |= {"foci": foci, "images_per_focus": 1, "dose": "400 e/A^2", "median": "stored"}
    imaging |= {"defocus": {"grid": series, "per": "focus"}, "focal_planes": planes}
    campaign["storage"] = {"exit_waves": False}
    path.write_text(yaml.safe_dump(campaign))
    return path


def run_job(
    campaign: Path, structures: int, ranks: int, safe: bool = True, device: str = "cpu"
) -> Run:
    """Simulate some structures anew; ends the benchmark with what hpctem said if that fails."""
    folder = campaign.parent / "job"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    launch = [] if ranks == 1 else [*find_mpirun(), "-n", str(ranks)]
    program = PROGRAM.format(safe=safe, folder=str(folder))
    arguments = ["simulate", campaign, "--limit", str(structures), "--device", device]
    command = [*launch, sys.executable, "-c", program, *arguments, "-o", folder / "job.hdf5"]
    measured = subprocess.run(
        [sys.executable, "-c", MEASURE, *command], capture_output=True, text=True
    )
    if measured.returncode:
        said = "\n".join(measured.stderr.strip().splitlines()[-FAILED:])
        raise SystemExit(
            f"hpctem simulate at {ranks} rank(s) gave exit code {measured.returncode}:\n{said}"
        )
    synced = sum(float(path.read_text()) for path in folder.glob("*.synced"))
    return Run(*json.loads(measured.stdout), synced)


def find_mpirun() -> list[str]:
    """The launcher, with the flags that root and more ranks than cores need."""
    program = find_launcher() or "mpirun"
    text = subprocess.run([program, "--version"], capture_output=True, text=True, check=True).stdout
    root = ["--allow-run-as-root"] if os.geteuid() == 0 else []
    return [program, *root, "--oversubscribe"] if "Open MPI" in text else [program]


Runs = dict[tuple[str, int], list[Run]]


def run_turns(
    campaign: Path,
    modes: Sequence[str],
    repeats: int,
    device: str = "cpu",
    between: Callable[[], None] | None = None,
) -> Runs:
    """(mode, structures of a rank) -> a run of each repeat; modes take turns.

    The short run has two structures for each rank, enough to fill the contact sheet at the end.
    `between` is called before every run: what the job is compared with has the same minutes.
    """
    run_job(campaign, 1, 1, device=device)  # compiles
    runs: Runs = {(mode, structures): [] for mode in modes for structures in (SHORT, LONG)}
    for _ in range(repeats):
        for mode, structures in runs:
            ranks, safe = MODES[mode]
            if between is not None:
                between()
            run = run_job(campaign, ranks * structures, ranks, safe, device)
            runs[mode, structures].append(run)
    return runs


def spend(runs: Runs, mode: str) -> Run:
    """What the structures took by which the long run is longer, by the shortest of each."""
    long, short = (functools.reduce(Run.shorter, runs[mode, n]) for n in (LONG, SHORT))
    return long - short


def compare_safety(runs: Runs) -> list[float]:
    """Time with fsync over that without, by the clock, of every repeat; in rising order."""
    walls = {
        mode: [a.wall - b.wall for a, b in zip(runs[mode, LONG], runs[mode, SHORT], strict=True)]
        for mode in ("one", "unsafe")
    }
    return sorted(a / b for a, b in zip(walls["one"], walls["unsafe"], strict=True))


def seconds_per_image(runs: Runs, foci: int) -> float:
    """CPU seconds of an image on one rank."""
    return spend(runs, "one").cpu / ((LONG - SHORT) * foci)


def judge_job(runs: Runs, foci: int, where: str) -> list[Figure]:
    """Rates, memory and the price of safety, of runs in all modes."""
    one, two = spend(runs, "one"), spend(runs, "two")
    images = (LONG - SHORT) * foci
    ratios = compare_safety(runs)
    scatter = f"{ratios[0]:.3f} to {ratios[-1]:.3f} in {len(ratios)} repeats"
    faster = 2 * one.wall / two.wall
    found = {
        "two ranks over one, by the clock": faster,
        "two ranks over one, by CPU time": 4 * one.cpu / two.cpu,
        "peak memory of one rank, MiB": one.peak / 2**20,
        "peak memory of each of two ranks, MiB": two.peak / 2**20,
        "time with fsync over without": statistics.median(ratios),
        "seconds inside fsync over those of a structure": one.synced / one.wall,
        "images per second, one rank": images / one.wall,
        "images per second, two ranks": 2 * images / two.wall,
    }
    notes = {"time with fsync over without": scatter}
    return [Figure(name, where, value, note=notes.get(name, "")) for name, value in found.items()]
