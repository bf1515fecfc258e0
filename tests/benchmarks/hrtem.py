"""Time every step of the HRTEM job on one core, and abTEM on the same work beside it.

    jobs/benchmark [--pixels 640] [--repeats 3] [--json FILE] [--no-abtem]

The work is that of the Thermal data set: gold particle on 5 nm of carbon in a cell of 12.8 nm,
300 kV, 2 A slices. Each figure is the best of several runs, on one thread (which
jobs/benchmark sets); the machine should be quiet.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from hpctem.backend import Backend, select_backend
from hpctem.config import Config
from hpctem.detection.detector import Detector, detect
from hpctem.optics.grid import Grid
from hpctem.optics.multislice import Multislice, exit_waves
from hpctem.optics.transfer import Imaging, form_images
from hpctem.sampling import Streams
from hpctem.simulate import read_campaign
from hpctem.structures.phonons import RMS_300K, displacements
from hpctem.structures.recipes import sample_structure
from hpctem.structures.scenes import Structure

THERMAL = Path(__file__).parents[2] / "configs" / "au_on_carbon_thermal.yaml"
EXTENT = (128.0, 128.0)
ENERGY = 3e5


def best(work: Callable[[], Any], repeats: int) -> float:
    """Shortest wall time in s; the first run, which compiles, is not counted."""
    work()
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        work()
        times.append(time.perf_counter() - started)
    return min(times)


def time_hpctem(
    config: Config, structure: Structure, pixels: int, repeats: int, backend: Backend
) -> dict[str, float]:
    """Seconds of each step, hpctem."""
    streams = Streams(config.campaign.seed)
    positions = structure.positions + displacements(
        structure.numbers, RMS_300K, streams("phonon/0/0", 0)
    )
    grid = Grid((pixels, pixels), EXTENT)
    fast = Multislice(ENERGY, 2.0, "kirkland")
    height = structure.cell[2]

    def wave(multislice: Multislice) -> Any:
        return exit_waves(positions[None], structure.numbers, height, grid, multislice, backend)

    psi = wave(fast)
    small = exit_waves(
        positions[None], structure.numbers, height, grid, fast, backend, output_shape=(640, 640)
    )
    auto = Imaging(ENERGY, defocus=30.0, focal_spread=15.0)
    foci = [replace(auto, defocus=10.0 * k) for k in range(11)]
    planes = [replace(focus, spread_nodes=25) for focus in foci]
    intensity = form_images(small, EXTENT, [auto], backend)[0]
    finite = replace(fast, projection="finite")

    def record() -> Any:
        a, b = streams("a", 0), streams("b", 0)
        return detect(intensity, 400.0, 0.04, Detector(), a, b, backend)

    assert np.isfinite(psi).all()
    return {
        "sample a structure": best(lambda: sample_structure(config.structure, streams, 0), repeats),
        "exit wave, infinite projection": best(lambda: wave(fast), repeats),
        "exit wave, finite projection": best(lambda: wave(finite), 1),
        "image of one phonon, default nodes": best(
            lambda: form_images(small, EXTENT, foci, backend), repeats
        )
        / len(foci),
        "image of one phonon, 25 planes": best(
            lambda: form_images(small, EXTENT, planes, backend), repeats
        )
        / len(foci),
        "record an image": best(record, repeats),
    }


def time_abtem(structure: Structure, pixels: int, repeats: int) -> dict[str, float]:
    """Seconds of the same steps, abTEM on its own FFTW with one thread."""
    import abtem
    import ase
    import dask

    abtem.config.set({"fft": "fftw", "fftw.threads": 1, "num_workers": 1})
    atoms = ase.Atoms(structure.numbers, structure.positions, cell=structure.cell, pbc=True)

    def wave(projection: str) -> Any:
        potential = abtem.Potential(
            atoms, gpts=pixels, slice_thickness=2.0, parametrization="kirkland",
            projection=projection,
        )  # fmt: skip
        with dask.config.set(scheduler="single-threaded"):
            return abtem.PlaneWave(energy=ENERGY).multislice(potential).compute(progress_bar=False)

    psi = wave("infinite")

    def images(count: int) -> Any:
        spread = abtem.distributions.gaussian(
            standard_deviation=15.0, num_samples=25, sampling_limit=3.0, center=30.0,
            ensemble_mean=True,
        )  # fmt: skip
        ctf = abtem.CTF(energy=ENERGY, defocus=spread)
        with dask.config.set(scheduler="single-threaded"):
            for _ in range(count):
                psi.apply_ctf(ctf).intensity().compute(progress_bar=False)

    return {
        "exit wave, infinite projection": best(lambda: wave("infinite"), repeats),
        "exit wave, finite projection": best(lambda: wave("finite"), 1),
        "image of one phonon, 25 planes": best(lambda: images(1), repeats),
    }


def main() -> None:
    """Print the table; with --json also write it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pixels", type=int, default=640)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--no-abtem", action="store_true")
    options = parser.parse_args()
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})  # one core, whoever starts threads
    backend = select_backend("cpu")
    config = read_campaign(THERMAL).config
    structure = sample_structure(config.structure, Streams(config.campaign.seed), 0)
    ours = time_hpctem(config, structure, options.pixels, options.repeats, backend)
    other = {} if options.no_abtem else time_abtem(structure, options.pixels, options.repeats)
    print(
        f"{len(structure.numbers)} atoms, {structure.cell[2]:.1f} A high, {options.pixels} pixels, "
        f"{backend.fft_provider}, {platform.processor() or platform.machine()}"
    )
    print(f"{'step':36} {'hpctem':>9} {'abTEM':>9} {'ratio':>6}")
    for name, seconds in ours.items():
        beside = other.get(name)
        print(
            f"{name:36} {seconds:8.3f}s "
            + (f"{beside:8.3f}s {beside / seconds:6.1f}" if beside else "")
        )
    if options.json:
        options.json.write_text(json.dumps({"hpctem": ours, "abtem": other}, indent=1))


if __name__ == "__main__":
    main()
