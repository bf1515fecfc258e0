"""The job as a user starts it: its rate at one and two ranks, its memory, what its safety costs.

Rates are differences between a long and a short run, so that starting Python, laying out the file
and the last check of the database do not count.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import yaml

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


def write_campaign(path: Path, source: Path, pixels: int, phonons: int, foci: int) -> Path:
    """The campaign of the job: `source` in infinite projection, one image with median a focus."""
    campaign = yaml.safe_load(source.read_text())
    simulation, imaging = campaign["simulation"], campaign["imaging"]
    simulation |= {"sampling": f"{128 / pixels} A", "projection": "infinite"}
    simulation["phonons"]["configurations"] = phonons
    series = [f"{n} nm" for n in range(-(foci // 2), foci - foci // 2)]
    imaging |= {"foci": foci, "images_per_focus": 1, "dose": "400 e/A^2", "median": "stored"}
    imaging["defocus"] = {"grid": series, "per": "focus"}
    campaign["storage"] = {"exit_waves": False}
    path.write_text(yaml.safe_dump(campaign))
    return path


def run_job(campaign: Path, structures: int, ranks: int, safe: bool = True) -> Run:
    """Simulate some structures anew; raises CalledProcessError if that fails."""
    folder = campaign.parent / "job"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    launch = [] if ranks == 1 else [*find_mpirun(), "-n", str(ranks)]
    program = PROGRAM.format(safe=safe, folder=str(folder))
    arguments = ["simulate", campaign, "--limit", str(structures), "--device", "cpu"]
    command = [*launch, sys.executable, "-c", program, *arguments, "-o", folder / "job.hdf5"]
    measured = subprocess.run(
        [sys.executable, "-c", MEASURE, *command], check=True, capture_output=True, text=True
    )
    synced = sum(float(path.read_text()) for path in folder.glob("*.synced"))
    return Run(*json.loads(measured.stdout), synced)


def find_mpirun() -> list[str]:
    """The launcher, with the flags that root and more ranks than cores need."""
    program = find_launcher() or "mpirun"
    text = subprocess.run([program, "--version"], capture_output=True, text=True, check=True).stdout
    root = ["--allow-run-as-root"] if os.geteuid() == 0 else []
    return [program, *root, "--oversubscribe"] if "Open MPI" in text else [program]


def measure_job(
    folder: Path, source: Path, pixels: int, phonons: int, foci: int, repeats: int
) -> dict[str, float]:
    """Rates per image; the runs take turns, and the shortest of `repeats` counts.

    The short run has two structures for each rank, enough to fill the contact sheet at the end.
    """
    campaign = write_campaign(folder / "job.yaml", source, pixels, phonons, foci)
    run_job(campaign, 1, 1)  # compiles
    modes = {"one": (1, True), "two": (2, True), "unsafe": (1, False)}
    shortest: dict[tuple[str, int], Run] = {}
    for _ in range(repeats):
        for mode, (ranks, safe) in modes.items():
            for structures in (SHORT, LONG):
                run = run_job(campaign, ranks * structures, ranks, safe)
                before = shortest.get((mode, structures), run)
                shortest[mode, structures] = before.shorter(run)
    one, two, unsafe = (shortest[mode, LONG] - shortest[mode, SHORT] for mode in modes)
    images = (LONG - SHORT) * foci
    return {
        "CPU seconds per image": one.cpu / images,
        "images per second, one rank": images / one.wall,
        "images per second, two ranks": 2 * images / two.wall,
        "two ranks over one": 2 * one.wall / two.wall,
        "two ranks over one, by CPU time": 4 * one.cpu / two.cpu,
        "peak memory of a rank, MiB": one.peak / 2**20,
        "time with fsync over without": one.wall / unsafe.wall,
        "seconds of fsync per structure": one.synced / (LONG - SHORT),
    }
