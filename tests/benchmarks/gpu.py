"""Waves and images on a GPU beside the cuFFT calls that they consist of, and the rate of the job.

    jobs/benchmark --gpu [--pixels 640 1280] [--batches 1 2 4 8] [--repeats 10] [--structures 8]
                         [--job-repeats 3] [--no-job] [--json FILE]

The work is that of `jobs/benchmark`: Thermal, 8 phonon configurations, 11 foci with 25 planes.
CUDA events stand around the whole call, so what the host does before and between the kernels counts
where the GPU waits for it; what part of the time it asks for kernels is told beside (near 1 the GPU
waits for it, and a graph of the kernels would pay). The transforms alone are as many of the same
shapes, with as many planes at once. Judged is the number of configurations at once that hpctem
takes; others are told. The pipeline is timed by the clock: with writing as a user starts it,
without as the loop that computes the rows. The exit code is 1 when a target is missed, 2 without a
GPU.
"""

from __future__ import annotations

import argparse
import math
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from job import LONG, SHORT, run_turns, spend, write_campaign
from provenance import describe, introduce
from steps import PHONONS, THERMAL
from targets import GPU, Figure, conclude

from hpctem.backend import Backend, select_backend
from hpctem.calibration.hrtem_work import HrtemWork, describe_structure
from hpctem.calibration.transforms import Shape
from hpctem.campaign_file import CampaignFile, read_campaign
from hpctem.errors import ConfigError
from hpctem.hrtem.campaign import compute_structure, displace_atoms
from hpctem.hrtem.conditions import DrawConditions
from hpctem.hrtem.experiment import Experiment, set_optics
from hpctem.optics.grid import Grid
from hpctem.optics.multislice import FIELDS, exit_waves, plan_slices
from hpctem.optics.transfer import form_images
from hpctem.simulate import lay_out

FOCI, PLANES = 11, 25
# What stands in the table, and the step whose transforms are timed beside it.
STEPS = {"exit waves": "exit waves", "images": "imaging"}
Work = Callable[[], Any]
Clock = Callable[[Work], tuple[float, float]]


def count_calls(counts: Mapping[Shape, float], batch: int) -> list[tuple[Shape, int]]:
    """Calls of each shape, with `batch` planes at once, that do no fewer transforms."""
    return [(shape, math.ceil(number / batch)) for shape, number in counts.items() if number]


def transform_alone(counts: Mapping[Shape, float], batch: int, backend: Backend) -> Work:
    """So many transforms of each shape, there and back in place, on zeros, which stay so."""
    calls = count_calls(counts, batch)
    planes = {shape: backend.xp.zeros((batch, *shape), dtype="complex64") for shape, _ in calls}

    def work() -> None:
        for shape, number in calls:
            plane = planes[shape]
            for n in range(number):
                if n % 2 == 0:
                    backend.fft2(plane, out=plane)
                else:
                    backend.ifft2(plane, out=plane, scaled=False)

    return work


def make_steps(
    experiment: Experiment, campaign: CampaignFile, batch: int
) -> tuple[dict[str, Work], HrtemWork]:
    """Exit waves and images of structure 0 as calls, and what transforms they consist of."""
    config, grids, backend = experiment.config, experiment.grids, experiment.backend
    structure = experiment.structure(0)
    displaced, height = displace_atoms(experiment, structure, 0, 0), structure.cell[2]
    multislice = experiment.multislice((0.0, 0.0))
    slices = plan_slices(structure.positions, structure.numbers, height, multislice)
    draw = DrawConditions(config, experiment.streams, 0)
    settings = [set_optics(config, draw.optics(focus), height) for focus in range(config.foci)]

    def pass_waves() -> Any:
        return exit_waves(
            displaced, structure.numbers, height, Grid(grids.wave, grids.extent), multislice,
            backend, grids.exit, slices, batch,
        )  # fmt: skip

    waves = pass_waves()
    layout = lay_out(campaign, experiment, range(config.campaign.structures))
    work = describe_structure(experiment, 0, structure, layout)
    steps = {
        "exit waves": pass_waves,
        "images": lambda: form_images(waves, grids.extent, settings, backend),
    }
    return steps, work


def measure_steps(
    experiment: Experiment, campaign: CampaignFile, batch: int, clock: Clock
) -> dict[str, tuple[float, float, float]]:
    """Step -> its seconds, those of its transforms alone, and those until all was asked for.

    By a clock that times one call: its seconds, and the host's.
    """
    steps, work = make_steps(experiment, campaign, batch)
    counted = work.transforms(by_lines=False)
    planes = 1 if experiment.backend.name == "numpy" else batch
    found = {}
    for name, step in steps.items():
        alone = transform_alone(counted[STEPS[name]], planes, experiment.backend)
        (seconds, host), (floor, _) = clock(step), clock(alone)
        found[name] = seconds, floor, host
    return found


def judge_steps(
    found: Mapping[str, tuple[float, float, float]], pixels: int, batch: int, taken: int
) -> list[Figure]:
    """Each step over its transforms; judged where `batch` is what hpctem has `taken`."""
    figures = []
    for name, (seconds, alone, host) in found.items():
        tried = "" if batch == taken else " (tried)"
        what = f"{name} over their transforms{tried}"
        where = f"{pixels} px, {batch} at once"
        figures.append(Figure(what, where, seconds / alone, seconds, alone))
        figures.append(Figure(f"host's part of {name}{tried}", where, host / seconds))
    return figures


def by_events(backend: Backend, repeats: int) -> Clock:
    """A clock of the GPU: the shortest of `repeats` calls between two events on its stream.

    Beside it the shortest time until a call returned, with nothing before it on the stream.
    """
    cuda = backend.xp.cuda

    def measure(work: Work) -> tuple[float, float]:
        work()  # compiles, plans
        seconds, host = math.inf, math.inf
        for _ in range(repeats):
            start, end = cuda.Event(), cuda.Event()
            backend.synchronize()
            start.record()
            begin = time.perf_counter()
            work()
            host = min(host, time.perf_counter() - begin)
            end.record()
            end.synchronize()
            seconds = min(seconds, cuda.get_elapsed_time(start, end) / 1000)
        return seconds, host

    return measure


def rate_pipeline(experiment: Experiment, structures: int) -> float:
    """Images a second of the loop that computes rows and brings them to the host."""
    compute_structure(experiment, 0)  # compiles
    begin = time.perf_counter()
    for index in range(structures):
        compute_structure(experiment, index)
    return structures * experiment.config.images / (time.perf_counter() - begin)


def rate_job(campaign: Path, repeats: int) -> float:
    """Images a second of the job as a user starts it on one GPU, every commit on the disk."""
    one = spend(run_turns(campaign, ("one",), repeats, "cuda"), "one")
    return (LONG - SHORT) * FOCI / one.wall


def main() -> int:
    """Print the table; with --json also write it."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--pixels", type=int, nargs="+", default=[640, 1280])
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--structures", type=int, default=8)
    parser.add_argument("--job-repeats", type=int, default=3)
    parser.add_argument("--no-job", action="store_true")
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    try:
        backend = select_backend("cuda")
    except ConfigError as error:
        reason = str(error).removesuffix(" Use --device cpu.")
        print(f"error: nothing to measure: {reason}", file=sys.stderr)
        return 2
    provenance = describe(backend)
    print(introduce(provenance), flush=True)
    figures = []
    for pixels in asked.pixels:
        with tempfile.TemporaryDirectory(prefix="hpctem-gpu-") as folder:
            path = write_campaign(Path(folder, "job.yaml"), THERMAL, pixels, PHONONS, FOCI, PLANES)
            campaign = read_campaign(path)
            experiment = Experiment(campaign.config, backend)
            taken = backend.planes_at_once(PHONONS, math.prod(experiment.grids.wave), FIELDS)
            for batch in sorted({*asked.batches, taken}):
                found = measure_steps(
                    experiment, campaign, batch, by_events(backend, asked.repeats)
                )
                figures += judge_steps(found, pixels, batch, taken)
            rates = {"without": rate_pipeline(experiment, asked.structures)}
            if not asked.no_job:
                rates["with"] = rate_job(path, asked.job_repeats)
        for name, rate in rates.items():
            figures.append(Figure(f"images per second, {name} writing", f"{pixels} px", rate))
    return conclude(figures, GPU, provenance, asked.json, "cuFFT")


if __name__ == "__main__":
    sys.exit(main())
