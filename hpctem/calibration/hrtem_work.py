"""What a structure of an HRTEM campaign asks of a machine, in the units that cost grows with."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from typing import Any, ClassVar

import numpy as np

from hpctem.calibration.transforms import Shape, add_transforms
from hpctem.database.schema import Layout
from hpctem.hrtem.conditions import DrawConditions
from hpctem.hrtem.experiment import Experiment, set_optics
from hpctem.hrtem.grids import Grids
from hpctem.hrtem.memory import DEPTH_FUNCTIONS
from hpctem.optics.electron import wavelength
from hpctem.optics.grid import Grid, antialias_aperture
from hpctem.optics.lanes import LANES
from hpctem.optics.multislice import Multislice
from hpctem.optics.panels import count_panels, keep_rows
from hpctem.optics.potential import slice_of
from hpctem.optics.spreading import BAND
from hpctem.optics.transfer import Imaging, focal_planes, intensity_shape
from hpctem.structures.recipes import list_elements
from hpctem.structures.scenes import Structure

# A, beyond which finite projection leaves out what an atom adds to a slice: 3 for C, 3.25 for Au.
DEPTH_REACH = 3.0


@dataclass(frozen=True)
class Passage:
    """What one configuration of atoms asks of multislice, or the sum over several lots of atoms.

    slices   that the wave is passed through
    pairs    of them, whose potentials are made together
    fields   deposited and transformed for these pairs, one for each element (and function of depth)
    """

    slices: float = 0.0
    pairs: float = 0.0
    fields: float = 0.0


@dataclass(frozen=True)
class HrtemWork:
    """The work of one structure, or of the average of several; a `Work`.

    atoms, particles           means over structures
    whole                      passage of all atoms; `parts`: of each particle alone, together
    waves, phonons             exit waves, and the configurations of each
    foci, images, planes       of all waves together; planes: defoci in which the waves are looked
                               at, which images share
    channels                   fields for each pair of slices at most
    wave, exit, focus          (rows, columns) of multislice, exit wave, and where images form
    rows_kept                  rows that a CPU keeps of potential, wave and focus
    image, stored              (rows, columns) of an image before and after the crop
    finite, mask, blurred      projection, how particles are masked, whether an MTF is applied
    stored_bytes               bytes of a structure in the file
    """

    atoms: float
    particles: float
    whole: Passage
    parts: Passage
    waves: int
    phonons: int
    foci: int
    images: int
    planes: float
    channels: int
    wave: Shape
    exit: Shape
    focus: Shape
    rows_kept: tuple[int, int, int]
    image: Shape
    stored: Shape
    finite: bool
    mask: str
    blurred: bool
    stored_bytes: int

    technique: ClassVar[str] = "hrtem"

    @property
    def family(self) -> str:
        """See `Work.family`."""
        return "HRTEM"

    @property
    def pixels(self) -> float:
        """Those of the waves."""
        return float(math.prod(self.wave))

    def manner(self) -> dict[str, tuple[Any, str]]:
        """See `Work.manner`."""
        return {
            "finite": (self.finite, "the projection (finite or infinite) is another"),
            "mask": (self.mask, "masks are made by another method"),
            "blurred": (self.blurred, "the detector has an MTF or has none"),
        }

    def amounts(self) -> tuple[float, ...]:
        """See `Work.amounts`."""
        return self.whole.slices, self.phonons, self.images, self.channels

    def transforms(self, by_lines: bool) -> dict[str, dict[Shape, float]]:
        """Transforms of each step: step -> shape -> number; `by_lines` as on a CPU."""
        configurations = self.waves * self.phonons
        exit_waves = self._pass(self.whole, by_lines, configurations)
        add_transforms(exit_waves, self.exit, configurations)
        labels: dict[Shape, float] = {}
        add_transforms(labels, self.exit, 4 * self.waves * self.particles)
        if self.mask != "projected_potential":  # multislice of the particle alone, then its phase
            for shape, number in self._pass(self.parts, by_lines, configurations).items():
                add_transforms(labels, shape, number)
            add_transforms(labels, self.exit, 3 * configurations * self.particles)
        images: dict[Shape, float] = {}
        add_transforms(images, self.exit, configurations)
        if self.focus != self.exit:  # computed on fewer pixels and interpolated
            add_transforms(images, self.focus, self.foci)
            add_transforms(images, self.exit, self.foci)
        looks = self.phonons * self.planes
        if by_lines:
            ny, nx = self.focus
            add_transforms(images, (nx,), looks * self.rows_kept[2] / LANES)
            add_transforms(images, (ny,), looks * count_panels(nx))
        else:
            add_transforms(images, self.focus, looks)
        return {"exit waves": exit_waves, "labels": labels, "imaging": images}

    def _pass(self, passage: Passage, by_lines: bool, times: float) -> dict[Shape, float]:
        """Transforms of multislice: of V there and back, of t and of psi there and back."""
        slices, pairs, fields = passage.slices, passage.pairs, passage.fields
        counts: dict[Shape, float] = {}
        if not slices:
            return counts
        if not by_lines:
            add_transforms(counts, self.wave, times * (fields + pairs + 4 * slices - 1))
            return counts
        ny, nx = self.wave
        potential, wave = (rows / LANES for rows in self.rows_kept[:2])
        # The first wave is a transmission function; the last stays transformed.
        along_y = fields + pairs + slices + 3 * (slices - 1)
        along_x = (fields + pairs) * potential + (4 * slices - 1) * wave
        add_transforms(counts, (ny,), times * along_y * count_panels(nx))
        add_transforms(counts, (nx,), times * along_x)
        return counts

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


def describe_structure(
    experiment: Experiment, index: int, structure: Structure, layout: Layout
) -> HrtemWork:
    """The work of structure `index`."""
    config, grids = experiment.config, experiment.grids
    simulation, imaging = config.simulation, config.imaging
    finite = simulation.projection == "finite"
    tags = structure.tags
    parts = [count_passage(experiment, structure, tags == tag) for tag in np.unique(tags[tags > 0])]
    band = image_band(experiment)
    focus = intensity_shape(Grid(grids.exit, grids.extent), band)
    return HrtemWork(
        atoms=float(len(structure.positions)),
        particles=float(len(structure.particles)),
        whole=count_passage(experiment, structure, tags >= 0),
        parts=_combine(parts, sum),
        waves=config.waves,
        phonons=simulation.phonons.configurations if simulation.phonons else 1,
        foci=config.foci,
        images=config.images,
        planes=float(count_planes(experiment, index, structure.cell[2])),
        channels=len(list_elements(config.structure)) * (DEPTH_FUNCTIONS if finite else 1),
        wave=grids.wave,
        exit=grids.exit,
        focus=focus,
        rows_kept=(*_rows_of_wave(grids.wave, grids.extent), _rows_of_focus(focus, grids, band)),
        image=grids.image,
        stored=grids.stored,
        finite=finite,
        mask=config.labels.mask.method,
        blurred=imaging.detector.mtf is not None,
        stored_bytes=layout.structure_bytes,
    )


def count_passage(experiment: Experiment, structure: Structure, chosen: np.ndarray) -> Passage:
    """The passage through the chosen atoms at rest, bool (n,), in the slices of the structure."""
    simulation = experiment.config.simulation
    count = max(1, math.ceil(structure.cell[2] / simulation.slice_thickness - 1e-9))
    thickness = structure.cell[2] / count
    finite = simulation.projection == "finite"
    reach, functions = (DEPTH_REACH, DEPTH_FUNCTIONS) if finite else (0.0, 1)
    height, numbers = structure.positions[chosen, 2], structure.numbers[chosen]
    held = np.zeros((0, count), dtype=bool)
    for number in np.unique(numbers):
        own = height[numbers == number]
        lowest, highest = (slice_of(own + r, thickness, count) for r in (-reach, reach))
        begun = np.bincount(lowest, minlength=count + 1)
        ended = np.bincount(highest + 1, minlength=count + 1)
        held = np.vstack([held, np.cumsum(begun - ended)[:count] > 0])
    passed = held if finite else held[:, held.any(axis=0)]
    if passed.size == 0:
        return Passage()
    fields = sum(int(passed[:, n : n + 2].any(axis=1).sum()) for n in range(0, passed.shape[1], 2))
    return Passage(passed.shape[1], (passed.shape[1] + 1) // 2, fields * functions)


@lru_cache(maxsize=8)
def _rows_of_wave(shape: Shape, extent: tuple[float, float]) -> tuple[int, int]:
    """Rows that `PanelPassage` keeps of the potential and of the wave."""
    row = np.minimum(np.arange(shape[0]), shape[0] - np.arange(shape[0]))
    aperture = antialias_aperture(Grid((shape[0], shape[1]), extent), Multislice.taper)
    wide = keep_rows(row <= BAND * shape[0]).place.size
    return wide, keep_rows(aperture.any(axis=1)[row]).place.size


def _rows_of_focus(shape: Shape, grids: Grids, band: float) -> int:
    """Rows of the focused wave that the lens lets through."""
    ky = np.fft.fftfreq(shape[0], grids.extent[0] / shape[0])
    return keep_rows(np.abs(ky) <= band * (1 + 1e-6)).place.size


def average_work(works: Sequence[HrtemWork]) -> HrtemWork:
    """The mean of several structures of one campaign."""

    def mean(values: Iterable[float]) -> float:
        return float(np.mean(list(values)))

    return replace(
        works[0],
        atoms=mean(work.atoms for work in works),
        particles=mean(work.particles for work in works),
        planes=mean(work.planes for work in works),
        whole=_combine([work.whole for work in works], mean),
        parts=_combine([work.parts for work in works], mean),
    )


def _combine(passages: Sequence[Passage], combine: Callable[[Iterable[float]], float]) -> Passage:
    """A passage whose numbers are combined from those of several."""
    return Passage(*(float(combine(getattr(p, f.name) for p in passages)) for f in fields(Passage)))


def count_planes(experiment: Experiment, index: int, height: float) -> int:
    """Defoci in which the waves of a structure are looked at; height of its cell in A.

    Images of a wave that differ in defocus alone share them (`hpctem.optics.transfer`).
    """
    config, band = experiment.config, image_band(experiment)
    draw = DrawConditions(config, experiment.streams, index)
    looks: set[tuple[int, Imaging, float]] = set()
    for focus in range(config.foci):
        setting = set_optics(config, draw.optics(focus), height)
        wave, defocus = focus // config.imaging.foci, setting.exit_defocus
        lens = replace(
            setting,
            defocus=defocus if setting.convergence else 0.0,
            reference="exit_plane",
            height=None,
        )
        nodes, energy = setting.spread_nodes, setting.energy
        planes, _ = focal_planes(setting.focal_spread, nodes, energy, band, defocus)
        looks |= {(wave, lens, plane) for plane in planes.tolist()}
    return len(looks)


def image_band(experiment: Experiment) -> float:
    """Largest frequency in 1/A that the wave of an image holds: multislice leaves no larger one."""
    grids, config = experiment.grids, experiment.config
    exit_grid, wave = Grid(grids.exit, grids.extent), Grid(grids.wave, grids.extent)
    held = min(exit_grid.nyquist, wave.antialias_radius)
    aperture = config.imaging.objective_aperture
    if aperture is None:
        return held
    return min(held, aperture / wavelength(config.simulation.energy))


def rebuild_work(described: Mapping[str, Any]) -> HrtemWork:
    """The work of which `dataclasses.asdict` made plain data, that has been JSON since."""
    values: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in described.items()
    }
    values |= {name: Passage(**values[name]) for name in ("whole", "parts")}
    return HrtemWork(**values)
