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
# hpctem without the calls that wait for the disk: what a crash would lose is not measured here.
WITHOUT_SYNC = """
import os
os.fsync = os.fdatasync = lambda descriptor: None
from hpctem.cli import main
main()
"""


@dataclass(frozen=True)
class Run:
    """Wall and CPU seconds of all ranks, and the peak bytes of the largest process."""

    wall: float
    cpu: float
    peak: int

    def __sub__(self, other: Run) -> Run:
        return Run(self.wall - other.wall, self.cpu - other.cpu, self.peak)


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
    program = ["-m", "hpctem"] if safe else ["-c", WITHOUT_SYNC]
    arguments = ["simulate", campaign, "--limit", str(structures), "--device", "cpu"]
    command = [*launch, sys.executable, *program, *arguments, "-o", folder / "job.hdf5"]
    measured = subprocess.run(
        [sys.executable, "-c", MEASURE, *command], check=True, capture_output=True, text=True
    )
    return Run(*json.loads(measured.stdout))


def find_mpirun() -> list[str]:
    """The launcher, with the flags that root and more ranks than cores need."""
    program = find_launcher() or "mpirun"
    text = subprocess.run([program, "--version"], capture_output=True, text=True, check=True).stdout
    root = ["--allow-run-as-root"] if os.geteuid() == 0 else []
    return [program, *root, "--oversubscribe"] if "Open MPI" in text else [program]


def measure_job(
    folder: Path, source: Path, pixels: int, phonons: int, foci: int, structures: int = 2
) -> dict[str, float]:
    """Rates per image, from `structures` more than one for each rank."""
    campaign = write_campaign(folder / "job.yaml", source, pixels, phonons, foci)
    run_job(campaign, 1, 1)  # compiles
    one, two, unsafe = (
        run_job(campaign, ranks * (1 + structures), ranks, safe)
        - run_job(campaign, ranks, ranks, safe)
        for ranks, safe in ((1, True), (2, True), (1, False))
    )
    images = structures * foci
    return {
        "CPU seconds per image": one.cpu / images,
        "images per second, one rank": images / one.wall,
        "images per second, two ranks": 2 * images / two.wall,
        "two ranks over one": 2 * one.wall / two.wall,
        "two ranks over one, by CPU time": 2 * one.cpu / (two.cpu / 2),
        "peak memory of a rank, MiB": one.peak / 2**20,
        "share of the wall time for the disk": 1 - unsafe.wall / one.wall,
    }
