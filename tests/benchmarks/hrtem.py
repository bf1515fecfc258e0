"""Time the HRTEM job beside abTEM on the same work, one thread on one core, and how exact it is.

    jobs/benchmark [--pixels 640 1280] [--repeats 5] [--job-repeats 3] [--finite-errors 640]
                   [--no-abtem] [--no-job] [--no-errors] [--json FILE]

The work is that of the Thermal data set: gold particle on 5 nm of carbon in a cell of 12.8 nm,
300 kV, 2 A slices. Both codes take turns, and each figure is the shortest CPU time of several, so
that other work on the machine disturbs little. The whole job (structures, waves, images, noise,
median, commits to the disk) runs as a user starts it, by `job.py`. Every figure is held against
what is asked of it; the exit code is 1 when one is missed. abTEM's whole job is its steps added up,
the median of turns between the runs of ours: a machine may be slower some minutes later.
Errors of finite projection take minutes, so they are measured on the grids of `--finite-errors`.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

from errors import measure_errors
from job import MODES, judge_job, run_turns, seconds_per_image, write_campaign
from provenance import describe, introduce
from steps import (
    PHONONS,
    THERMAL,
    WHOLE_JOB,
    Work,
    add_up,
    make_abtem,
    make_hpctem,
    race,
    time_steps,
)
from targets import HRTEM, Figure, conclude

from hpctem.backend import select_backend
from hpctem.campaign_file import read_campaign
from hpctem.sampling import Streams
from hpctem.structures.recipes import sample_structure

# Foci of a structure and planes of their focal spread, of the jobs as a user starts them.
WHOLE, OTHER = (11, 25), (4, "auto")
Steps = dict[str, dict[str, float]]


def list_steps(steps: Steps, pixels: int) -> list[Figure]:
    """A line for each step: abTEM's time over ours, or ours alone, which is not judged."""
    figures = []
    for name, times in steps.items():
        ours, theirs = times["hpctem"], times.get("abtem")
        value = ours if theirs is None else theirs / ours
        what = f"{name} (alone)" if theirs is None and name in HRTEM else name
        figures.append(Figure(what, f"{pixels} px", value, ours, theirs))
    return figures


def run_jobs(pixels: int, steps: Steps, theirs: dict[str, Work], repeats: int) -> list[Figure]:
    """The whole job: with everything of the 11 foci, its rate alone of the other."""
    figures = []
    for foci, planes in (WHOLE, OTHER):
        turns: dict[str, list[float]] = {name: [] for name in WHOLE_JOB}

        def time_theirs(turns: dict[str, list[float]] = turns) -> None:
            cores = os.sched_getaffinity(0)
            os.sched_setaffinity(0, {max(cores)})
            for name, seconds in race({name: theirs[name] for name in WHOLE_JOB}, 1).items():
                turns[name].append(seconds)
            os.sched_setaffinity(0, cores)

        with tempfile.TemporaryDirectory(prefix="hpctem-job-") as folder:
            path = Path(folder, "job.yaml")
            campaign = write_campaign(path, THERMAL, pixels, PHONONS, foci, planes)
            whole = (foci, planes) == WHOLE
            modes, between = tuple(MODES) if whole else ("one",), time_theirs if theirs else None
            runs = run_turns(campaign, modes, repeats, between=between)
        times = {"hpctem": seconds_per_image(runs, foci)}
        if theirs:
            # Not the shortest: our job takes many seconds, the machine's good and bad ones.
            times["abtem"] = add_up({n: median(took) for n, took in turns.items()}, foci)
        named = "default" if planes == "auto" else planes
        name = f"whole job, {foci} foci, {named} planes, an image"
        figures += list_steps({name: times}, pixels)
        share = steps["sample a structure"]["hpctem"] / (foci * times["hpctem"])
        if whole:
            figures.append(Figure("share of sampling structures", f"{pixels} px", share))
            figures += judge_job(runs, foci, f"{pixels} px")
    return figures


def main() -> int:
    """Print the table; with --json also write it. Returns 1 when a target is missed."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--pixels", type=int, nargs="+", default=[640, 1280])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--job-repeats", type=int, default=3)
    parser.add_argument("--finite-errors", type=int, nargs="*", default=[640])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--no-abtem", action="store_true")
    parser.add_argument("--no-job", action="store_true")
    parser.add_argument("--no-errors", action="store_true")
    asked = parser.parse_args()
    cores, with_abtem = os.sched_getaffinity(0), not asked.no_abtem
    backend = select_backend("cpu")
    provenance: dict[str, Any] = describe(backend)
    print(introduce(provenance))
    config = read_campaign(THERMAL).config
    structure = sample_structure(config.structure, Streams(config.campaign.seed), 0)
    print(f"{len(structure.numbers)} atoms, {structure.cell[2]:.1f} A high", flush=True)
    figures = []
    for pixels in asked.pixels:
        os.sched_setaffinity(0, {max(cores)})  # one core, whoever starts threads
        theirs = make_abtem(structure, pixels) if with_abtem else {}
        steps = time_steps(make_hpctem(structure, pixels, backend), theirs, asked.repeats)
        figures += list_steps(steps, pixels)
        if not asked.no_job:
            os.sched_setaffinity(0, cores)
            figures += run_jobs(pixels, steps, theirs, asked.job_repeats)
            os.sched_setaffinity(0, {max(cores)})
        if not asked.no_errors:
            finite = pixels in asked.finite_errors
            figures += measure_errors(structure, pixels, backend, finite, with_abtem)
        print(f"{pixels} px: done", file=sys.stderr, flush=True)
    return conclude(figures, HRTEM, provenance, asked.json, "abTEM", atoms=len(structure.numbers))


if __name__ == "__main__":
    sys.exit(main())
