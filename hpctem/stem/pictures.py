"""The noise-free pictures of a specimen under one setting of the probe, by each method."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from hpctem.backend import Backend
from hpctem.detection.looking import look
from hpctem.detection.scan import ScanPath, bounds
from hpctem.optics.incoherent import Picture, form_picture, gather_points
from hpctem.optics.point_spread import Transfer, gaussian_transfer, tabulated_transfer
from hpctem.optics.probe import Probe, probe_transfer
from hpctem.optics.scan_grid import ScanGrid, picture_of_scan
from hpctem.optics.stem import Signals, scan_detectors
from hpctem.stem.conditions import DrawConditions, set_probe
from hpctem.stem.experiment import Experiment
from hpctem.stem.tables import PATTERNS
from hpctem.structures import phonons
from hpctem.structures.scenes import MARGIN, Structure
from hpctem.tables import IMAGES

# Points of the tabulated image of an atom per wavelength of its highest frequency, and how far (A)
# it is tabulated beyond the distance at which it has fallen to what labels still ask for.
POINTS, FARTHEST = 4.0, 12.0


@dataclass(frozen=True)
class View:
    """A picture of the specimen whose point (0, 0) lies at `origin` (x, y) A of the field."""

    picture: Picture
    origin: tuple[float, float] = (0.0, 0.0)

    def look(self, path: ScanPath, backend: Backend) -> Any:
        """The picture along a scan, mean over its frames: (ny, nx) float32."""
        x, y = (there - here for there, here in zip(path.origin, self.origin, strict=True))
        return look(self.picture, replace(path, origin=(x, y)), backend)


def form_pictures(
    experiment: Experiment,
    structure: Structure,
    draw: DrawConditions,
    focus: int,
    values: Mapping[str, float],
    paths: Sequence[ScanPath],
) -> tuple[dict[str, list[View]], dict[str, np.ndarray]]:
    """The pictures of every detector, segment by segment, and the diffraction patterns if kept.

    `values`: the conditions of the focus; `paths`: the scans that will be led over the pictures.
    """
    if experiment.config.simulation.method == "multislice":
        probe = set_probe(experiment.config, values)
        grid = plan_probes(experiment, probe, paths)
        displaced = displace_atoms(experiment, structure, draw, focus)
        signals = pass_probes(experiment, structure, displaced, grid, probe)
        kept = {PATTERNS: signals.patterns} if signals.patterns is not None else {}
        return show_signals(experiment, signals, grid, probe), kept
    weights = experiment.scatter(structure, values)
    transfer = transfer_of(experiment, values)
    return {IMAGES: [spread_atoms(experiment, structure, values, weights, transfer)]}, {}


def spread_atoms(
    experiment: Experiment,
    structure: Structure,
    values: Mapping[str, float],
    weights: np.ndarray,
    transfer: Transfer,
) -> View:
    """The incoherent picture: every atom, with what it scatters, under the probe's intensity.

    `weights`: float64 (n,), cross sections in A^2; `values`: the conditions of the focus.
    """
    picture = form_picture(
        structure.positions[:, :2],
        weights,
        experiment.extent,
        transfer,
        experiment.backend,
        experiment.blur(structure.numbers),
        experiment.shapes(structure.numbers, values),
    )
    return View(picture)


def transfer_of(experiment: Experiment, values: Mapping[str, float]) -> Transfer:
    """The transfer function of the probe's intensity, or of the point spread function."""
    if experiment.config.simulation.method != "convolution":
        return probe_transfer(set_probe(experiment.config, values))
    if experiment.point_spread is not None:
        return tabulated_transfer(*experiment.point_spread)
    return gaussian_transfer(values["psf_width"])


def point_spread(experiment: Experiment, values: Mapping[str, float]) -> tuple[np.ndarray, float]:
    """The noise-free image of one atom: (n, n) float32, the atom at [n // 2, n // 2]; A per pixel.

    As its defects' labels need it: on a square of at most 24 A.
    """
    transfer = transfer_of(experiment, values)
    sampling = 1 / (POINTS * transfer.band)
    half = math.ceil(min(FARTHEST, experiment.reach) / sampling)
    side = 4 * half * sampling
    middle = np.array([side / 2, side / 2])
    atom = form_picture(middle[None], np.ones(1), (side, side), transfer, experiment.backend)
    places = (np.arange(2 * half + 1) - half) * sampling
    lines, columns = (np.zeros((places.size, 2)) for _ in range(2))
    lines[:, 1], columns[:, 0] = places, places
    seen = gather_points(atom, (middle + lines)[None], columns, experiment.backend)
    return experiment.backend.to_host(seen), sampling


def plan_probes(experiment: Experiment, probe: Probe, paths: Sequence[ScanPath]) -> ScanGrid:
    """The points at which probes tell the whole of what the scans cover."""
    area = experiment.scan_area  # the same for all, so that diffraction patterns fit their table
    if not experiment.config.storage.diffraction:
        corners = np.array([bounds(path) for path in paths])
        x0, y0 = corners[:, :2].min(axis=0).tolist()
        x1, y1 = corners[:, 2:].max(axis=0).tolist()
        area = x0, y0, x1, y1
    return experiment.plan_scan(area, probe)


def pass_probes(
    experiment: Experiment,
    structure: Structure,
    displaced: np.ndarray,
    grid: ScanGrid,
    probe: Probe,
) -> Signals:
    """What all detectors collect of a probe at the points of a grid.

    `displaced`: the atoms in every phonon configuration, (P, n, 3) float64 A.
    """
    return scan_detectors(
        displaced,
        structure.numbers,
        structure.cell[2],
        grid,
        probe,
        experiment.annuli,
        experiment.multislice(probe, structure.cell[2] - 2 * MARGIN),
        experiment.backend,
        patterns=experiment.config.storage.diffraction,
    )


def show_signals(
    experiment: Experiment, signals: Signals, grid: ScanGrid, probe: Probe
) -> dict[str, list[View]]:
    """The pictures of every detector, segment by segment, from what was collected on a grid."""
    pictures: dict[str, list[View]] = {}
    of_segment = iter(signals.values)
    for path, detector in experiment.detectors.items():
        pictures[path] = [
            View(
                picture_of_scan(next(of_segment), grid, experiment.backend, probe.source_size),
                grid.origin,
            )
            for _ in range(detector.segments)
        ]
    return pictures


def displace_atoms(
    experiment: Experiment, structure: Structure, draw: DrawConditions, focus: int
) -> np.ndarray:
    """The atoms in every phonon configuration of a focus: (P, n, 3) float64 A."""
    frozen = experiment.config.simulation.phonons
    if frozen is None:
        return structure.positions[None]
    displaced = (
        phonons.displacements(
            structure.numbers,
            experiment.rms,
            draw.streams(f"phonon/{focus}/{configuration}", draw.structure),
        )
        for configuration in range(frozen.configurations)
    )
    return np.stack([structure.positions + one for one in displaced])
