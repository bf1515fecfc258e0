"""Time the HRTEM job beside abTEM on the same work, one thread on one core, and how exact it is.

    jobs/benchmark [--pixels 640 1280] [--repeats 5] [--job-repeats 2] [--json FILE]
                   [--no-abtem] [--no-job] [--no-errors]

The work is that of the Thermal data set: gold particle on 5 nm of carbon in a cell of 12.8 nm,
300 kV, 2 A slices. Both codes take turns, and each figure is the shortest CPU time of several, so
that other work on the machine disturbs little. The whole job (structures, waves, images, noise,
median, commits to the disk) runs as a user starts it, by `job.py`.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from exact import deviation, exact_exit_wave, exact_images, image_error
from job import measure_job

from hpctem.backend import Backend, select_backend
from hpctem.campaign_file import read_campaign
from hpctem.detection.detector import Detector, detect
from hpctem.detection.filters import filter_median
from hpctem.optics.grid import Grid
from hpctem.optics.multislice import Multislice, exit_waves, plan_slices
from hpctem.optics.transfer import Imaging, form_images
from hpctem.sampling import Streams
from hpctem.structures.phonons import RMS_300K, displacements
from hpctem.structures.recipes import sample_structure
from hpctem.structures.scenes import Structure

THERMAL = Path(__file__).parents[2] / "configs" / "au_on_carbon_thermal.yaml"
EXTENT = (128.0, 128.0)
IMAGE = (640, 640)
ENERGY, SPREAD, DOSE = 3e5, 15.0, 400.0
PHONONS, FOCI = 8, 11
Work = Callable[[], Any]

# The least that is asked for: abTEM's time over ours.
ASKED = {
    "exit wave, infinite projection": 2.2,
    "exit wave, finite projection": 5.0,
    "image, default planes, of 11 foci": 18.0,
    "image, 25 planes, of 11 foci": 6.5,
    "image, default planes, of 4 foci": 18.0,
    "image, 25 planes, of 4 foci": 6.5,
    "whole job, per image": 7.0,
}


def race(runners: dict[str, Work], repeats: int) -> dict[str, float]:
    """Shortest CPU time in s of each, taking turns; a first run, which compiles, does not count."""
    shortest = dict.fromkeys(runners, np.inf)
    for repeat in range(repeats + 1):
        for name, work in runners.items():
            started = time.process_time()
            work()
            if repeat:
                shortest[name] = min(shortest[name], time.process_time() - started)
    return shortest


def make_hpctem(structure: Structure, pixels: int, backend: Backend) -> dict[str, tuple[Work, int]]:
    """Every step as a call, and for how many images it works."""
    streams = Streams(0)
    positions = structure.positions + displacements(
        structure.numbers, RMS_300K, streams("phonon/0/0", 0)
    )
    grid, height = Grid((pixels, pixels), EXTENT), structure.cell[2]
    fast = Multislice(ENERGY, 2.0, "kirkland")

    def pass_wave(multislice: Multislice = fast, shape: tuple[int, int] = IMAGE) -> Any:
        return exit_waves(
            positions[None], structure.numbers, height, grid, multislice, backend, shape
        )

    wave = pass_wave()
    series = {
        11: [Imaging(ENERGY, 10.0 * k, focal_spread=SPREAD) for k in range(11)],
        4: [Imaging(ENERGY, d, focal_spread=SPREAD) for d in (-31.0, 4.0, 22.0, 61.0)],
    }
    intensity = form_images(wave, EXTENT, series[11][:1], backend)[0]

    def record() -> Any:
        area = EXTENT[0] * EXTENT[1] / intensity.size
        counts = detect(
            intensity, DOSE, area, Detector(), streams("a", 0), streams("b", 0), backend
        )
        return filter_median(counts[0])

    recipe = read_campaign(THERMAL).config.structure
    steps: dict[str, tuple[Work, int]] = {
        "sample a structure": (lambda: sample_structure(recipe, streams, 0), 1),
        "exit wave, infinite projection": (lambda: pass_wave(shape=grid.shape), 1),
        "exit wave, finite projection": (lambda: pass_wave(replace(fast, projection="finite")), 1),
        "noise and median": (record, 1),
    }
    for count, foci in series.items():
        for name, nodes in (("default", "auto"), ("25", 25)):
            settings = [replace(focus, spread_nodes=nodes) for focus in foci]
            steps[f"image, {name} planes, of {count} foci"] = (
                lambda settings=settings: form_images(wave, EXTENT, settings, backend),
                count,
            )
    return steps


def make_abtem(structure: Structure, pixels: int) -> dict[str, Work]:
    """The same steps in abTEM, on its own FFTW with one thread; noise and median as its users do.

    A wave is formed into images on its own grid, since abTEM has no other.
    """
    import abtem
    import ase
    import dask
    from scipy.ndimage import median_filter

    abtem.config.set({"fft": "fftw", "fftw.threads": 1, "num_workers": 1})
    dask.config.set(scheduler="single-threaded")
    atoms = ase.Atoms(structure.numbers, structure.positions, cell=structure.cell, pbc=True)

    def pass_wave(projection: str) -> Any:
        potential = abtem.Potential(
            atoms, gpts=pixels, slice_thickness=2.0, parametrization="kirkland",
            projection=projection,
        )  # fmt: skip
        return abtem.PlaneWave(energy=ENERGY).multislice(potential).compute(progress_bar=False)

    wave = pass_wave("infinite")
    spread = abtem.distributions.gaussian(
        standard_deviation=SPREAD, num_samples=25, sampling_limit=3.0, center=30.0,
        ensemble_mean=True,
    )  # fmt: skip
    transfer = abtem.CTF(energy=ENERGY, defocus=spread)
    generator, expected = np.random.default_rng(0), np.full(IMAGE, 16.0)
    return {
        "exit wave, infinite projection": lambda: pass_wave("infinite"),
        "exit wave, finite projection": lambda: pass_wave("finite"),
        "image, 25 planes": lambda: (
            wave.apply_ctf(transfer).intensity().compute(progress_bar=False)
        ),
        "noise and median": lambda: median_filter(generator.poisson(expected), 3, mode="nearest"),
    }


def time_steps(
    structure: Structure, pixels: int, repeats: int, backend: Backend, with_abtem: bool
) -> dict[str, dict[str, float]]:
    """CPU seconds of every step of both codes, per wave or image."""
    ours = make_hpctem(structure, pixels, backend)
    theirs = make_abtem(structure, pixels) if with_abtem else {}
    table: dict[str, dict[str, float]] = {}
    for name, (work, images) in ours.items():
        same = "image, 25 planes" if name.startswith("image") else name
        runners = {"hpctem": work} | ({"abtem": theirs[same]} if same in theirs else {})
        times = race(runners, 1 if "finite projection" in name and with_abtem else repeats)
        table[name] = times | {"hpctem": times["hpctem"] / images}
    return table


def add_up(steps: dict[str, dict[str, float]], code: str) -> float:
    """Seconds per image of 8 phonons and 11 foci with 25 planes, noise and median, by its steps."""
    names = "exit wave, infinite projection", "image, 25 planes, of 11 foci", "noise and median"
    wave, image, record = (steps[name][code] for name in names)
    return PHONONS * (wave / FOCI + image) + record


def measure_errors(structure: Structure, pixels: int, backend: Backend) -> dict[str, float]:
    """Wave and images against float64 with exact structure factors on the same grid and slices."""
    grid, height = Grid((pixels, pixels), EXTENT), structure.cell[2]
    multislice = Multislice(ENERGY, 2.0, "kirkland")
    numbers, positions = structure.numbers, structure.positions
    found = exit_waves(positions[None], numbers, height, grid, multislice, backend)
    slices = plan_slices(positions, numbers, height, multislice)
    expected = exact_exit_wave(positions, numbers, grid, slices, multislice)
    errors = {"exit wave": deviation(found[0], expected)}
    focus = Imaging(ENERGY, 35.0, focal_spread=SPREAD)
    for name, nodes in (("default", "auto"), ("25", 25)):
        image = form_images(found, EXTENT, [replace(focus, spread_nodes=nodes)], backend)[0]
        exact = exact_images(expected, EXTENT, focus, nodes)
        errors[f"image, {name} planes"] = image_error(image, exact)
    return errors


def print_steps(pixels: int, steps: dict[str, dict[str, float]]) -> None:
    print(f"\n{pixels} pixels{'':26} {'hpctem':>10} {'abTEM':>10} {'ratio':>7} {'asked':>7}")
    for name, times in steps.items():
        line = f"{name:36} {times['hpctem']:9.4f}s"
        if "abtem" in times:
            line += f" {times['abtem']:9.3f}s {times['abtem'] / times['hpctem']:7.1f}"
            line += f" {ASKED[name]:7.1f}" if name in ASKED else ""
        print(line, flush=True)


def main() -> None:
    """Print the tables; with --json also write them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pixels", type=int, nargs="+", default=[640, 1280])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--job-repeats", type=int, default=2)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--no-abtem", action="store_true")
    parser.add_argument("--no-job", action="store_true")
    parser.add_argument("--no-errors", action="store_true")
    options = parser.parse_args()
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(cores)})  # one core, whoever starts threads
    backend = select_backend("cpu")
    config = read_campaign(THERMAL).config
    structure = sample_structure(config.structure, Streams(config.campaign.seed), 0)
    print(
        f"{len(structure.numbers)} atoms, {structure.cell[2]:.1f} A high, "
        f"{backend.fft_provider}, {platform.processor() or platform.machine()}"
    )
    result: dict[str, Any] = {"atoms": len(structure.numbers)}
    for pixels in options.pixels:
        steps = time_steps(structure, pixels, options.repeats, backend, not options.no_abtem)
        record = {"steps": steps}
        if not options.no_job:
            os.sched_setaffinity(0, cores)
            with tempfile.TemporaryDirectory() as folder:
                record["job"] = measure_job(
                    Path(folder), THERMAL, pixels, PHONONS, FOCI, options.job_repeats
                )
            os.sched_setaffinity(0, {max(cores)})
            whole = {"hpctem": record["job"]["CPU seconds per image"]}
            if not options.no_abtem:
                whole["abtem"] = add_up(steps, "abtem")
            steps["whole job, per image"] = whole
            sampling = steps["sample a structure"]["hpctem"] / (FOCI * whole["hpctem"])
            record["job"]["share of sampling structures"] = sampling
        print_steps(pixels, steps)
        for name, value in record.get("job", {}).items():
            print(f"{name:36} {value:10.3f}")
        if not options.no_errors:
            record["errors"] = measure_errors(structure, pixels, backend)
            for name, error in record["errors"].items():
                print(f"error of the {name:23} {error:10.1e}")
        result[str(pixels)] = record
    if options.json:
        options.json.write_text(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
