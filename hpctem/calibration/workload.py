"""What the average structure of a campaign asks of a machine, in the units that cost grows with.

Only distributions and grids are looked at, and a few structures are sampled: no wave is computed.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hpctem.campaign import Experiment
from hpctem.conditions import DrawConditions
from hpctem.database.schema import Layout
from hpctem.errors import SampleError
from hpctem.grids import fast_size
from hpctem.memory import DEPTH_FUNCTIONS
from hpctem.optics.electron import wavelength
from hpctem.optics.transfer import focal_planes
from hpctem.structures.recipes import list_elements
from hpctem.structures.scenes import Structure

Shape = tuple[int, int]
SAMPLED, SAMPLING_SECONDS = 24, 3.0


@dataclass(frozen=True)
class Work:
    """The work of one structure, or of the average of several.

    atoms, particles, slices   means over structures; slices are those that hold atoms
    waves, phonons             exit waves, and the configurations of each
    foci, images, planes       of all waves together; planes of the focal spread for each focus
    channels                   fields deposited and transformed for two slices at once
    wave, exit, focus          (rows, columns) of multislice, exit wave, and where images form
    image, stored              of an image before and after the crop
    finite, mask, blurred      projection, how particles are masked, whether an MTF is applied
    stored_bytes               bytes of a structure in the file
    """

    atoms: float
    particles: float
    slices: float
    waves: int
    phonons: int
    foci: int
    images: int
    planes: float
    channels: int
    wave: Shape
    exit: Shape
    focus: Shape
    image: Shape
    stored: Shape
    finite: bool
    mask: str
    blurred: bool
    stored_bytes: int

    def transforms(self) -> dict[str, dict[Shape, float]]:
        """Transforms that the formulas of each step name: step -> shape -> number."""
        configurations = self.waves * self.phonons
        each = 4 * self.slices + self.slices / 2 * (self.channels + 1)
        planes = self.foci * self.phonons * self.planes
        labels: dict[Shape, float] = {}
        _add(labels, self.exit, 4 * self.waves * self.particles)
        if self.mask != "projected_potential":  # multislice of the particle alone
            _add(labels, self.wave, configurations * self.particles * each)
            _add(labels, self.exit, 2 * configurations * self.particles)
        images: dict[Shape, float] = {}
        _add(images, self.exit, configurations + 2 * self.foci * (self.focus != self.exit))
        _add(images, self.focus, planes)
        return {
            "exit waves": {self.wave: configurations * each},
            "labels": labels,
            "imaging": images,
        }

    def units(self) -> dict[str, float]:
        """Step -> how much of what its time is proportional to; transforms are not among them."""
        configurations = self.waves * self.phonons
        return {
            "structure": self.atoms,
            "atom tables": self.atoms,
            "displacements": configurations * self.atoms if self.phonons > 1 else 0.0,
            "depth functions": math.prod(self.wave) * self.channels if self.finite else 0.0,
            "detection": self.images * math.prod(self.image),
            "rows": self.images * math.prod(self.stored),
            "digests": self.stored_bytes,
            "writing": self.stored_bytes,
        }


def _add(counts: dict[Shape, float], shape: Shape, number: float) -> None:
    counts[shape] = counts.get(shape, 0.0) + number


def describe_structure(experiment: Experiment, structure: Structure, layout: Layout) -> Work:
    """The work of one structure."""
    config, grids = experiment.config, experiment.grids
    simulation, imaging = config.simulation, config.imaging
    finite = simulation.projection == "finite"
    elements = len(list_elements(config.structure))
    height = structure.cell[2]
    count = max(1, math.ceil(height / simulation.slice_thickness - 1e-9))
    thickness = height / count
    held = np.unique(np.clip(structure.positions[:, 2] // thickness, 0, count - 1)).size
    return Work(
        atoms=float(len(structure.positions)),
        particles=float(len(structure.particles)),
        slices=float(count if finite else held),
        waves=config.waves,
        phonons=simulation.phonons.configurations if simulation.phonons else 1,
        foci=config.foci,
        images=config.images,
        planes=count_planes(experiment),
        channels=elements * (DEPTH_FUNCTIONS if finite else 1),
        wave=grids.wave,
        exit=grids.exit,
        focus=focus_grid(experiment),
        image=grids.image,
        stored=grids.stored,
        finite=finite,
        mask=config.labels.mask.method,
        blurred=imaging.detector.mtf is not None,
        stored_bytes=layout.structure_bytes,
    )


def average_work(works: Sequence[Work]) -> Work:
    """The mean of several structures of one campaign."""
    means = {
        name: float(np.mean([getattr(work, name) for work in works]))
        for name in ("atoms", "particles", "slices", "planes")
    }
    return Work(**{**{name: getattr(works[0], name) for name in Work.__annotations__}, **means})


def describe_work(experiment: Experiment, layout: Layout, structures: range) -> Work:
    """The work of the campaign's average structure, from structures spread over `structures`.

    Two dozen of them, fewer where sampling takes more than three seconds. Raises SampleError when
    none of them can be built.
    """
    begin = time.monotonic()
    works, failure = [], SampleError("no structure")
    order = np.linspace(0, len(structures) - 1, min(SAMPLED, len(structures))).astype(int)
    for place in np.random.default_rng(0).permutation(np.unique(order)).tolist():
        try:
            structure = experiment.structure(structures[place])
        except SampleError as error:
            failure = error
            continue
        works.append(describe_structure(experiment, structure, layout))
        if time.monotonic() - begin > SAMPLING_SECONDS:
            break
    if not works:
        raise SampleError(f"none of the sampled structures can be built: {failure}")
    return average_work(works)


def count_planes(experiment: Experiment) -> float:
    """Planes of the focal spread for each focus, mean over the first foci of some structures."""
    config = experiment.config
    band = image_band(experiment)
    counts = []
    for index in range(min(8, config.campaign.structures)):
        spread = DrawConditions(config, experiment.streams, index).optics(0)["focal_spread"]
        nodes = config.imaging.focal_planes
        counts.append(len(focal_planes(spread, nodes, config.simulation.energy, band)[0]))
    return float(np.mean(counts))


def image_band(experiment: Experiment) -> float:
    """Largest frequency in 1/A that the wave of an image holds."""
    grids, config = experiment.grids, experiment.config
    nyquist = min(n / (2 * length) for n, length in zip(grids.exit, grids.extent, strict=True))
    aperture = config.imaging.objective_aperture
    if aperture is None:
        return nyquist
    return min(nyquist, aperture / wavelength(config.simulation.energy))


def focus_grid(experiment: Experiment) -> Shape:
    """Pixels on which foci are computed: enough for twice the band, at most the exit wave's."""
    grids, band = experiment.grids, image_band(experiment)
    ny, nx = (fast_size(max(32, 4 * band * length + 2)) for length in grids.extent)
    smaller = ny < 0.9 * grids.exit[0] and nx < 0.9 * grids.exit[1]
    return (ny, nx) if smaller else grids.exit
