"""What `simulation.accuracy` costs, and how right it is, on the work of the Thermal data set.

    jobs/benchmark --presets [--reference 0.03125] [--configurations 192] [--sweep] [--abtem]
                             [--json FILE]

Three errors, each against something that does not have it. The systematic one of sampling, slices
and infinite projection: wave and images of one frozen configuration against the same atoms in
finite projection on a grid of `--reference` A, in slices of 0.5 A. The random one of few phonon
configurations: images of P against the mean of all others. That of the focal planes: against 301
planes over +-6 standard deviations. With `--sweep` also the errors of other samplings, slices and
numbers of planes. With `--abtem` also abTEM's finite projection on a grid of 0.067 A in slices of
1 A, beside hpctem's on the same grid and slices.

Errors are norms of the difference over norms of the contrast. Times are CPU seconds of one core,
since then other work on the machine disturbs little.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from exact import deviation, image_error
from provenance import describe, introduce

from hpctem.backend import Backend, select_backend
from hpctem.config import HrtemConfig, check_config
from hpctem.hrtem.campaign import (
    coarsen_waves,
    compute_structure,
    displace_atoms,
    exit_waves_of,
)
from hpctem.hrtem.experiment import Experiment
from hpctem.hrtem.job import plan_layout
from hpctem.hrtem.memory import estimate_memory
from hpctem.marked_yaml import parse_yaml
from hpctem.optics.electron import wavelength
from hpctem.optics.multislice import propagate_waves
from hpctem.optics.transfer import Imaging, form_images
from hpctem.planning.show import format_table
from hpctem.sections.accuracy import PRESETS
from hpctem.structures.scenes import Structure

THERMAL = Path(__file__).parents[2] / "configs" / "au_on_carbon_thermal.yaml"
DEFOCI = (-60.0, -30.0, 0.0, 40.0)  # A, from the centre of the cell
SPREAD = 15.0
GAUSSIAN_PLANES, GAUSSIAN_REACH = 301, 6.0
BLOCKS = 12
"""Sets of P configurations, at most, that the random error is the mean of."""
TIMED = 8
"""A structure of more phonon configurations is not timed whole."""
Row = dict[str, float]


def read_preset(accuracy: str | None, **simulation: Any) -> HrtemConfig:
    """The Thermal campaign with a preset, or with other keys of `simulation`."""
    document = yaml.safe_load(THERMAL.read_text())
    kept = {key: document["simulation"][key] for key in ("energy", "parametrization")}
    phonons = {"rms": document["simulation"]["phonons"]["rms"], **simulation.pop("phonons", {})}
    chosen = {"accuracy": accuracy} if accuracy else {}
    document["simulation"] = {**kept, "phonons": phonons, **chosen, **simulation}
    document["imaging"].pop("focal_planes")
    document["storage"] = {"exit_waves": False}
    config = check_config(parse_yaml(yaml.safe_dump(document)))
    assert isinstance(config, HrtemConfig)
    return config


@dataclass(frozen=True)
class Seen:
    """Wave (ny, nx) complex64 and images (foci, ny, nx) float32 of one configuration; CPU s."""

    wave: np.ndarray
    images: np.ndarray
    seconds: float


def image_waves(
    waves: Any, experiment: Experiment, height: float, spread: float = SPREAD
) -> np.ndarray:
    """Images of the defoci, (foci, ny, nx) float32; `spread` is the focal spread in A."""
    grids = experiment.grids
    assert grids.binning == 1
    foci = [
        Imaging(
            experiment.config.simulation.energy,
            defocus,
            focal_spread=spread,
            spread_nodes=experiment.config.imaging.focal_planes,
            reference="cell_centre",
            height=height,
        )
        for defocus in DEFOCI
    ]
    return np.asarray(form_images(waves, grids.extent, foci, experiment.backend))


def see(
    config: HrtemConfig, structure: Structure, displaced: np.ndarray, backend: Backend, times: int
) -> Seen:
    """Wave and images of one configuration of the atoms; the shortest CPU time of several."""
    experiment = Experiment(config, backend)
    seconds = math.inf
    for _ in range(times):
        begin = time.process_time()
        waves = exit_waves_of(experiment, structure, displaced, structure.tags >= 0, (0.0, 0.0))
        seconds = min(seconds, time.process_time() - begin)
    return Seen(waves[0], image_waves(waves, experiment, structure.cell[2]), seconds)


def compare(found: Seen, expected: Seen) -> Row:
    """Errors of wave and images."""
    pairs = zip(found.images, expected.images, strict=True)
    return {
        "wave": deviation(found.wave, expected.wave),
        "images": float(np.mean([image_error(*pair) for pair in pairs])),
    }


def time_campaign(config: HrtemConfig, backend: Backend) -> Row:
    """CPU seconds of a structure with all its images.

    Of more than `TIMED` configurations one and two are timed, and each further one is taken to cost
    what the second does: the row says of how many the time is.
    """
    assert config.simulation.phonons is not None
    count = config.simulation.phonons.configurations

    def compute(configurations: int) -> float:
        phonons = config.simulation.phonons.model_copy(update={"configurations": configurations})
        simulation = config.simulation.model_copy(update={"phonons": phonons})
        experiment = Experiment(config.model_copy(update={"simulation": simulation}), backend)
        begin = time.process_time()
        compute_structure(experiment, 0)
        return time.process_time() - begin

    compute(1)  # compiles
    timed = count if count <= TIMED else 2
    seconds = compute(timed)
    if timed < count:
        first = compute(1)
        seconds = first + (count - 1) * (seconds - first)
    experiment = Experiment(config, backend)
    layout = plan_layout(experiment, range(config.campaign.structures), {})
    return {
        "structure, s": seconds,
        "configurations timed": timed,
        "images per s": config.images / seconds,
        "memory, bytes": estimate_memory(experiment, layout),
    }


def measure_phonons(structure: Structure, count: int, backend: Backend) -> dict[str, Row]:
    """Error of images of P configurations that the others, count - P of them, do not share.

    Both means scatter, with variances as 1 / P and 1 / (count - P); the share of the first is told.
    The dose is that at which counting alone makes the same error: its variance is, in units of the
    mean, 1 / (dose x area of a pixel).
    """
    config = read_preset(None, sampling="0.2 A", phonons={"configurations": count})
    experiment = Experiment(config, backend)
    displaced = displace_atoms(experiment, structure, 0, 0)
    images = np.stack(
        [see(config, structure, one[None], backend, 1).images for one in displaced]
    )  # (P, foci, ny, nx)
    total = images.sum(axis=0, dtype=np.float64)
    errors: dict[str, Row] = {}
    for size in sorted({1, *(preset.configurations for preset in PRESETS.values())}):
        found = []
        for begin in range(0, min(count, BLOCKS * size) - size + 1, size):
            block = images[begin : begin + size].sum(axis=0, dtype=np.float64)
            rest = (total - block) / (count - size)
            share = math.sqrt((count - size) / count)
            for one, other in zip(block / size, rest, strict=True):
                error = share * image_error(one, other)
                found.append(
                    (error, 1 / (experiment.grids.pixel_area * (error * other.std()) ** 2))
                )
        error, dose = np.mean(found, axis=0).tolist()
        errors[str(size)] = {"error": error, "dose, e/A^2": dose}
    return errors


def add_planes(wave: np.ndarray, experiment: Experiment, height: float, spread: float) -> Any:
    """The image of the first defocus, plane by plane of the Gaussian focal spread, (ny, nx).

    wave: complex64 (ny, nx); `spread` in A.
    """
    offsets = np.linspace(-GAUSSIAN_REACH, GAUSSIAN_REACH, GAUSSIAN_PLANES)
    weights = np.exp(-(offsets**2) / 2)
    exact = np.zeros(wave.shape)
    extent, backend = experiment.grids.extent, experiment.backend
    energy = experiment.config.simulation.energy
    for offset, weight in zip(offsets.tolist(), (weights / weights.sum()).tolist(), strict=True):
        plane = Imaging(energy, DEFOCI[0] + spread * offset, reference="cell_centre", height=height)
        image = form_images(wave[None], extent, [plane], backend)[0]
        exact += weight * np.asarray(image, dtype=np.float64)
    return exact


def sweep(structure: Structure, displaced: np.ndarray, truth: Seen, backend: Backend) -> None:
    """Print the error of images by sampling, slices and their planes, and by the focal planes."""
    height = structure.cell[2]
    rows: dict[str, Row] = {}
    for thickness in (4, 3, 2, 1):
        row = rows[f"slices of {thickness} A"] = {}
        for sampling in (0.2, 0.16, 0.1333, 0.1, 0.08, 0.067):
            keys = {"sampling": f"{sampling} A", "slice_thickness": f"{thickness} A"}
            one = see(read_preset(None, **keys), structure, displaced, backend, 1)
            row[f"{sampling:g} A"] = compare(one, truth)["images"]
    show("infinite projection", rows, lambda value: f"{value:.3g}")
    rows = {}
    for plane in ("edge", "centre", "centroid"):
        row = rows[plane] = {}
        for thickness in (4, 2, 1):
            keys = {"slice_plane": plane, "slice_thickness": f"{thickness} A"}
            one = see(read_preset("standard", **keys), structure, displaced, backend, 1)
            row[f"{thickness} A"] = compare(one, truth)["images"]
    show("slices act at, 0.1 A", rows, lambda value: f"{value:.3g}")
    rows = {}
    for sampling in (0.2, 0.1):
        config = read_preset("standard", sampling=f"{sampling} A")
        wave = see(config, structure, displaced, backend, 1).wave
        for spread in (15.0, 40.0):
            row = rows[f"{sampling} A, focal spread {spread:g} A"] = {}
            exact = add_planes(wave, Experiment(config, backend), height, spread)
            for count in (7, 9, 25, "auto"):
                imaging = config.imaging.model_copy(update={"focal_planes": count})
                planes = Experiment(config.model_copy(update={"imaging": imaging}), backend)
                image = image_waves(wave[None], planes, height, spread)[0]
                row[str(count)] = image_error(image, exact)
    show("focal planes", rows, lambda value: f"{value:.3g}")


def pass_abtem(structure: Structure, displaced: np.ndarray, config: HrtemConfig) -> Any:
    """abTEM's exit wave on the grid and in the slices of `config`, in finite projection.

    Its slices act at the side where the beam enters: half a slice is made up for, so that they act
    in their middle. Returns complex64 (1, ny, nx) on the grid of the images, limited to its Nyquist
    circle as ours.
    """
    import abtem
    import ase
    import dask

    abtem.config.set({"fft": "fftw", "fftw.threads": 1, "num_workers": 1})
    dask.config.set(scheduler="single-threaded")
    atoms = ase.Atoms(structure.numbers, displaced[0], cell=structure.cell, pbc=True)
    experiment, simulation = Experiment(config, select_backend("cpu")), config.simulation
    potential = abtem.Potential(
        atoms,
        gpts=experiment.grids.wave[::-1],
        slice_thickness=simulation.slice_thickness,
        parametrization=simulation.parametrization,
        projection="finite",
    )
    energy = simulation.energy
    wave = abtem.PlaneWave(energy=energy).multislice(potential).compute(progress_bar=False)
    found = np.ascontiguousarray(np.asarray(wave.array).squeeze().T)[None].astype(np.complex64)
    extent, half = experiment.grids.extent, structure.cell[2] / len(potential) / 2
    found = propagate_waves(found, extent, -half, wavelength(energy), experiment.backend)
    return coarsen_waves(found, experiment.grids, experiment.backend)


def show(name: str, rows: dict[str, Row], form: Callable[[float], str]) -> None:
    """One table: a line for each of the rows."""
    columns = list(next(iter(rows.values())))
    lines = [[row, *(form(values[c]) for c in columns)] for row, values in rows.items()]
    print(f"\n{format_table([name, *columns], lines)}", flush=True)


def main() -> None:
    """Print the tables; with --json also write them."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--reference", type=float, default=0.03125, help="pixel of the reference, A"
    )
    parser.add_argument("--configurations", type=int, default=192)
    parser.add_argument("--sweep", action="store_true", help="also other samplings and planes")
    parser.add_argument("--abtem", action="store_true", help="compare the reference with abTEM")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})  # one core, whoever starts threads
    backend = select_backend("cpu")
    provenance = describe(backend)
    print(introduce(provenance), flush=True)
    standard = Experiment(read_preset("standard"), backend)
    structure = standard.structure(0)
    height = structure.cell[2]
    displaced = displace_atoms(standard, structure, 0, 0)[:1]
    print(f"{len(structure.numbers)} atoms, {height:.1f} A high")
    finest = {"slice_thickness": "0.5 A", "projection": "finite", "phonons": {"configurations": 1}}
    reference = read_preset(None, sampling=f"{options.reference} A", **finest)
    truth = see(reference, structure, displaced, backend, 1)
    contrast = float(truth.images.std(axis=(1, 2)).mean())
    print(f"reference of {truth.seconds:.0f} s; contrast of its images {contrast:.3f}")
    result: dict[str, Any] = {**provenance, "contrast": contrast}
    seen = {}
    systematic: dict[str, Row] = {}
    for name in PRESETS:
        seen[name] = see(read_preset(name), structure, displaced, backend, 2)
        systematic[name] = compare(seen[name], truth) | {
            "exit wave, CPU s": seen[name].seconds,
            "planes": image_error(
                seen[name].images[0],
                add_planes(seen[name].wave, Experiment(read_preset(name), backend), height, SPREAD),
            ),
        }
        other = read_preset(name, projection="finite")
        systematic[f"{name}, finite"] = compare(
            see(other, structure, displaced, backend, 1), truth
        ) | {"exit wave, CPU s": math.nan, "planes": math.nan}
    result["systematic"] = systematic
    show("systematic error", systematic, lambda value: f"{value:.3g}")
    result["phonons"] = measure_phonons(structure, options.configurations, backend)
    show("random error", result["phonons"], lambda value: f"{value:.3g}")
    result["cost"] = {name: time_campaign(read_preset(name), backend) for name in PRESETS}
    show("cost", result["cost"], lambda value: f"{value:.3g}")
    if options.sweep:
        sweep(structure, displaced, truth, backend)
    if options.abtem:
        same = read_preset("converged", projection="finite", slice_plane="centre")
        ours = see(same, structure, displaced, backend, 1)
        waves = pass_abtem(structure, displaced, same)
        images = image_waves(waves, Experiment(same, backend), height)
        theirs = Seen(waves[0], images, math.nan)
        result["abtem"] = {
            "abTEM - hpctem": compare(theirs, ours),
            "abTEM - reference": compare(theirs, truth),
            "hpctem - reference": compare(ours, truth),
        }
        show("0.067 A, slices of 1 A", result["abtem"], lambda value: f"{value:.3g}")
    if options.json:
        options.json.write_text(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
