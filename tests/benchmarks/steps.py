"""Every step of the HRTEM job as a call, hpctem's and abTEM's, on one structure of Thermal."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from hpctem.backend import Backend
from hpctem.campaign_file import read_campaign
from hpctem.detection.detector import Detector, detect
from hpctem.detection.filters import filter_median
from hpctem.optics.grid import Grid
from hpctem.optics.multislice import Multislice, exit_waves
from hpctem.optics.transfer import Imaging, form_images
from hpctem.sampling import Streams
from hpctem.structures.phonons import RMS_300K, displacements
from hpctem.structures.recipes import sample_structure
from hpctem.structures.scenes import Structure

THERMAL = Path(__file__).parents[2] / "configs" / "au_on_carbon_thermal.yaml"
EXTENT = (128.0, 128.0)
IMAGE = (640, 640)
ENERGY, SPREAD, DOSE = 3e5, 15.0, 400.0
PHONONS = 8
MULTISLICE = Multislice(ENERGY, 2.0, "kirkland")
Work = Callable[[], Any]


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
    fast = MULTISLICE

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


def pass_abtem(structure: Structure, pixels: int, projection: str) -> Any:
    """abTEM's exit wave of the atoms at rest, by one thread; its arrays are [x, y]."""
    import abtem
    import ase
    import dask

    abtem.config.set({"fft": "fftw", "fftw.threads": 1, "num_workers": 1})
    dask.config.set(scheduler="single-threaded")
    atoms = ase.Atoms(structure.numbers, structure.positions, cell=structure.cell, pbc=True)
    potential = abtem.Potential(
        atoms, gpts=pixels, slice_thickness=2.0, parametrization="kirkland", projection=projection
    )
    return abtem.PlaneWave(energy=ENERGY).multislice(potential).compute(progress_bar=False)


def make_abtem(structure: Structure, pixels: int) -> dict[str, Work]:
    """The same steps in abTEM, on its own FFTW with one thread; noise and median as its users do.

    A wave is formed into images on its own grid, since abTEM has no other.
    """
    import abtem
    from scipy.ndimage import median_filter

    wave = pass_abtem(structure, pixels, "infinite")
    spread = abtem.distributions.gaussian(
        standard_deviation=SPREAD, num_samples=25, sampling_limit=3.0, center=30.0,
        ensemble_mean=True,
    )  # fmt: skip
    transfer = abtem.CTF(energy=ENERGY, defocus=spread)
    generator, expected = np.random.default_rng(0), np.full(IMAGE, 16.0)
    return {
        "exit wave, infinite projection": lambda: pass_abtem(structure, pixels, "infinite"),
        "exit wave, finite projection": lambda: pass_abtem(structure, pixels, "finite"),
        "image, 25 planes": lambda: (
            wave.apply_ctf(transfer).intensity().compute(progress_bar=False)
        ),
        "noise and median": lambda: median_filter(generator.poisson(expected), 3, mode="nearest"),
    }


def time_steps(
    ours: dict[str, tuple[Work, int]], theirs: dict[str, Work], repeats: int
) -> dict[str, dict[str, float]]:
    """CPU seconds of every step of both codes, per wave or image."""
    table: dict[str, dict[str, float]] = {}
    for name, (work, images) in ours.items():
        same = "image, 25 planes" if name.startswith("image") else name
        runners = {"hpctem": work} | ({"abtem": theirs[same]} if same in theirs else {})
        times = race(runners, repeats)
        table[name] = times | {"hpctem": times["hpctem"] / images}
    return table


WHOLE_JOB = "exit wave, infinite projection", "image, 25 planes", "noise and median"
"""abTEM's steps of which its whole job consists."""


def add_up(seconds: dict[str, float], foci: int) -> float:
    """abTEM's seconds for an image of 8 phonons and so many foci, from those of `WHOLE_JOB`."""
    wave, image, record = (seconds[name] for name in WHOLE_JOB)
    return PHONONS * (wave / foci + image) + record
