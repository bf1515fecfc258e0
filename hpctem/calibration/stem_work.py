"""What a structure of a STEM campaign asks of a machine, in the units that cost grows with.

A call of a step costs something beside its pixels or atoms; that counts as so many more of them,
which were measured from images of 96 to 1024 pixels.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, ClassVar

import numpy as np

from hpctem.calibration.transforms import Shape, add_transforms
from hpctem.config import StemConfig
from hpctem.database.schema import Layout
from hpctem.optics.annuli import weigh_annuli
from hpctem.optics.atomic_layers import plan_layers
from hpctem.optics.electron import wavelength
from hpctem.optics.grid import Grid, antialias_aperture
from hpctem.optics.incoherent import choose_grid
from hpctem.optics.lanes import LANES
from hpctem.optics.panels import count_panels, keep_rows
from hpctem.optics.probe import Probe
from hpctem.optics.scan_grid import ScanGrid
from hpctem.optics.stem import TILE, StemMultislice, frame_tile
from hpctem.optics.transfer import focal_planes
from hpctem.stem.campaign import lead_beam
from hpctem.stem.conditions import DrawConditions
from hpctem.stem.experiment import Experiment, set_probe
from hpctem.stem.pictures import plan_probes, transfer_of
from hpctem.structures.scenes import Structure

# Settings of the probe, and images of each, that are looked at to know the others.
MOST_FOCI, MOST_PATHS = 8, 4
# What a call costs beside its atoms or pixels, in these.
STRUCTURE_ATOMS, COLUMN_ATOMS, PLACED_ATOMS = 0.0, 0.0, 0.0
FILM_PIXELS, SCAN_PIXELS, COUNTED_PIXELS, ROW_PIXELS = 0.0, 0.0, 0.0, 0.0
# Probes from the aperture's edge that pass each tile beside those of the scan.
EDGE_WAVES = 4

Counts = tuple[tuple[Shape, float], ...]


@dataclass(frozen=True)
class StemWork:
    """The work of one structure, or of the average of several; a `Work`.

    atoms                      mean over structures
    method                     incoherent, convolution or multislice
    foci, images, frames       settings of the probe, images of all of them, frames of each image
    segments                   of all detectors together
    image                      (rows, columns) of an image
    maps                       label maps that are drawn, by their method
    kinds                      of point defects
    contamination, counted, blurred, points
                               whether there is carbon, a beam, an MTF; whether the lines of the
                               scan cross the rows of the picture, so that points stand alone
    configurations             of frozen phonons; 0 where no probes are passed
    scan                       points of the scans of all probes and detectors
    pictures, potentials       shape -> number of transforms of incoherent pictures, and for the
                               potential of multislice
    probes, probe_lines        the same of probes on a GPU, and line by line on a CPU
    stored_bytes               bytes of a structure in the file
    """

    atoms: float
    method: str
    foci: int
    images: int
    frames: int
    segments: int
    image: Shape
    maps: tuple[str, ...]
    kinds: int
    contamination: bool
    counted: bool
    blurred: bool
    points: bool
    configurations: int
    scan: float
    pictures: Counts
    potentials: Counts
    probes: Counts
    probe_lines: Counts
    stored_bytes: int

    technique: ClassVar[str] = "stem"

    @property
    def family(self) -> str:
        """See `Work.family`: incoherent pictures and those by convolution are formed alike."""
        return "multislice STEM" if self.method == "multislice" else "incoherent STEM"

    @property
    def pixels(self) -> float:
        """Those of an image, or of the window of a probe."""
        if self.probes:
            return float(math.prod(max(self.probes, key=lambda counted: counted[1])[0]))
        return float(math.prod(self.image))

    def manner(self) -> dict[str, tuple[Any, str]]:
        """See `Work.manner`."""
        return {
            "method": (self.method, "the simulation's method is another"),
            "maps": (self.maps, "other label maps are drawn"),
            "points": (self.points, "the scan is rotated or is not"),
            "counted": (self.counted, "electrons are counted or are not"),
            "blurred": (self.blurred, "the detector has an MTF or has none"),
        }

    def amounts(self) -> tuple[float, ...]:
        """See `Work.amounts`."""
        return self.atoms, self.foci, self.images, self.frames, self.segments, self.configurations

    def transforms(self, by_lines: bool) -> dict[str, dict[Shape, float]]:
        """See `Work.transforms`."""
        if self.method != "multislice":
            return {"pictures": dict(self.pictures)}
        probes = self.probe_lines if by_lines else self.probes
        return {"potentials": dict(self.potentials), "probes": dict(probes)}

    def units(self) -> dict[str, float]:
        """See `Work.units`."""
        pixels, images = math.prod(self.image), self.images
        units = {
            "structure": self.atoms + STRUCTURE_ATOMS,
            "columns": self.atoms + COLUMN_ATOMS,
            "conditions": float(images),
            "lens": float(self.foci),
            "film": images * (pixels + FILM_PIXELS) * self.contamination,
            "scan": images * self.segments * (self.frames * pixels + SCAN_PIXELS),
            "detection": images * self.segments * (pixels + COUNTED_PIXELS),
            "labels": images * self._map_pixels(),
            "places": images * (self.atoms + PLACED_ATOMS),
            "rows": images * (pixels + ROW_PIXELS),
            "digests": float(self.stored_bytes),
            "writing": float(self.stored_bytes),
        }
        if self.method != "multislice":
            return units
        return units | {
            "displacements": self.foci * self.configurations * self.atoms,
            "pictures": self.scan,
        }

    def _map_pixels(self) -> float:
        """Pixels of the label maps of an image, each weighed with what it takes."""
        return 1.0 * math.prod(self.image)


def describe_structure(
    experiment: Experiment, index: int, structure: Structure, layout: Layout
) -> StemWork:
    """The work of structure `index`."""
    config = experiment.config
    imaging, wanted = config.imaging, config.labels
    phonons = config.simulation.phonons
    multislice = config.simulation.method == "multislice"
    maps = [name for name in ("atoms", "distance") if getattr(wanted, name)]
    maps += [f"defects by {wanted.defects.method}"] if experiment.kinds else []
    work = StemWork(
        atoms=float(len(structure.positions)),
        method=config.simulation.method,
        foci=imaging.foci,
        images=config.images,
        frames=imaging.scan.frames,
        segments=sum(d.segments for d in imaging.detectors.values()) or 1,
        image=experiment.shape,
        maps=tuple(maps),
        kinds=len(experiment.kinds),
        contamination=imaging.contamination is not None,
        counted=imaging.beam is not None,
        blurred=imaging.detector.mtf is not None,
        points=imaging.scan.rotation.support != (0.0, 0.0),
        configurations=(phonons.configurations if phonons else 1) if multislice else 0,
        scan=0.0,
        pictures=(),
        potentials=(),
        probes=(),
        probe_lines=(),
        stored_bytes=layout.structure_bytes,
    )
    draw = DrawConditions(config, experiment.streams, index)
    shown = min(imaging.foci, MOST_FOCI)
    count = _count_passes if multislice else _count_pictures
    counted = [count(experiment, structure, draw, focus, work) for focus in range(shown)]
    return _add_works(counted, imaging.foci / shown)


def _count_pictures(
    experiment: Experiment, structure: Structure, draw: DrawConditions, focus: int, work: StemWork
) -> StemWork:
    """The transforms of the picture of one setting of the probe."""
    values = draw.probe(focus)
    if work.method == "convolution":
        band = transfer_of(experiment, values).band
    else:
        band = 2 * set_probe(experiment.config, values).cutoff
    blurs = experiment.blur(structure.numbers)
    widths = 1 if blurs is None else max(np.unique(blurs).size, 1)
    shape = choose_grid(experiment.extent, band).shape
    return replace(work, pictures=(((1, *shape), widths + 1.0),))


def _count_passes(
    experiment: Experiment, structure: Structure, draw: DrawConditions, focus: int, work: StemWork
) -> StemWork:
    """The transforms of the probes of one setting, and of the tiles that they pass."""
    config = experiment.config
    values = draw.probe(focus)
    probe = set_probe(config, values)
    first = focus * config.imaging.images_per_focus
    images = range(first, first + min(config.imaging.images_per_focus, MOST_PATHS))
    paths = [lead_beam(experiment, draw, m, draw.image(m) | values) for m in images]
    grid = plan_probes(experiment, probe, paths)
    multislice = experiment.multislice(probe, structure.cell[2])
    heights, numbers = structure.positions[:, 2], structure.numbers
    thickness, table = multislice.slice_thickness, multislice.parametrization
    slices = len(plan_layers(heights, numbers, thickness, table).planes)
    nodes = focal_planes(probe.focal_spread, "auto", probe.energy, probe.cutoff)[0].size
    tiles = count_tiles(grid) * work.configurations
    frame, _ = frame_tile(grid, multislice.window)
    elements = np.unique(numbers).size
    fields = -(-slices // 2) * (elements + 1) + 2 * slices
    passes = work.configurations * grid.points * nodes + tiles * EDGE_WAVES
    window = multislice.window
    lines: dict[Shape, float] = {}
    kept, last = _count_rows(config, probe, multislice, grid.pixel, experiment)
    along_y = (1 + 2 * (slices - 1)) * count_panels(window[1])
    add_transforms(lines, (window[0],), passes * along_y)
    add_transforms(lines, (window[1],), passes * (2 * (slices - 1) * kept + last) / LANES)
    return replace(
        work,
        scan=float(grid.points * work.segments),
        potentials=((frame.shape, float(tiles * fields)),),
        probes=((window, float(passes * (2 * slices - 1))),),
        probe_lines=tuple(lines.items()),
    )


def count_tiles(grid: ScanGrid) -> int:
    """Tiles that a scan is done in."""
    return math.prod(-(-points // TILE) for points in grid.shape)


def _count_rows(
    config: StemConfig,
    probe: Probe,
    multislice: StemMultislice,
    pixel: tuple[float, float],
    experiment: Experiment,
) -> tuple[int, int]:
    """Rows that a CPU keeps of a window between slices, and behind the last one."""
    kept, last = _keep_rows(
        multislice.window, pixel, multislice.taper, wavelength(probe.energy), experiment.annuli
    )
    return kept, multislice.window[0] + -multislice.window[0] % LANES if (
        config.storage.diffraction
    ) else last


@lru_cache(maxsize=16)
def _keep_rows(
    window: tuple[int, int], pixel: tuple[float, float], taper: float, lam: float, annuli: Any
) -> tuple[int, int]:
    """Rows that `PanelPassage` keeps: inside the aperture, and inside the detectors."""
    grid = Grid(window, (window[0] * pixel[0], window[1] * pixel[1]))
    row = np.minimum(np.arange(window[0]), window[0] - np.arange(window[0]))
    half = antialias_aperture(grid, taper)
    weights = weigh_annuli(grid, lam, annuli)
    return keep_rows(half.any(axis=1)[row]).place.size, keep_rows(
        weights.any(axis=(0, 2))
    ).place.size


COUNTED = ("pictures", "potentials", "probes", "probe_lines")


def _add_works(works: Sequence[StemWork], times: float) -> StemWork:
    """The work of several settings of the probe, `times` as much."""
    return replace(
        works[0],
        scan=times * sum(work.scan for work in works),
        **{name: _add_counts((getattr(w, name) for w in works), times) for name in COUNTED},
    )


def _add_counts(counts: Iterable[Counts], times: float) -> Counts:
    total: dict[Shape, float] = {}
    for counted in counts:
        for shape, number in counted:
            add_transforms(total, shape, times * number)
    return tuple(sorted(total.items()))


def average_work(works: Sequence[StemWork]) -> StemWork:
    """The mean of several structures of one campaign."""
    return replace(
        _add_works(works, 1 / len(works)), atoms=float(np.mean([work.atoms for work in works]))
    )


def rebuild_work(described: Mapping[str, Any]) -> StemWork:
    """The work of which `dataclasses.asdict` made plain data, that has been JSON since."""
    values: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in described.items()
    }
    values |= {
        name: tuple((tuple(shape), number) for shape, number in values[name]) for name in COUNTED
    }
    return StemWork(**values)
