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
from hpctem.database.schema import Layout
from hpctem.optics.annuli import Annulus, weigh_annuli
from hpctem.optics.atomic_layers import plan_layers
from hpctem.optics.electron import wavelength
from hpctem.optics.grid import Grid, antialias_aperture
from hpctem.optics.incoherent import choose_grid
from hpctem.optics.lanes import LANES
from hpctem.optics.panels import count_panels, keep_rows
from hpctem.optics.probe import Probe
from hpctem.optics.stem import StemMultislice, frame_tile, list_tiles
from hpctem.optics.transfer import focal_planes
from hpctem.stem.campaign import lead_beam
from hpctem.stem.conditions import DrawConditions, set_probe
from hpctem.stem.experiment import Experiment
from hpctem.stem.pictures import plan_probes, transfer_of
from hpctem.structures.scenes import Structure

# Settings of the probe, and images of each, that are looked at to know the others.
MOST_FOCI, MOST_PATHS = 8, 4
# What a call costs beside its atoms, lines of the scan or pixels, in these.
STRUCTURE_ATOMS, COLUMN_ATOMS, PLACED_ATOMS, SCATTERING_ATOMS = 4000, 300, 4000, 1000
DRAWN_LINES = 2500
FILM_PIXELS, SCAN_PIXELS, COUNTED_PIXELS, ROW_PIXELS = 90_000, 50_000, 6000, 28_000
# What the digest of a row takes beside its bytes, in these: columns and defects have many rows.
ROW_BYTES = 2000
# What a point of the scan takes that is gathered alone, over one of a line that keeps to a row.
ALONE = 4.0
# Label maps: what a pixel takes, and in each frame, and a map beside its pixels; in nanoseconds of
# one core, which a calibration's rate makes those of its machine.
MAPS = {
    "atoms": (5.3, 0.0, 2e4),
    "distance": (17.0, 0.0, 4e5),
    "disk": (1.6, 0.0, 4e5),
    "gaussian": (5.1, 0.0, 4e5),
    "image": (9.0, 2.2, 12e6),
    "image of a point": (9.0, 2.2, 3e6),
}
# What cross sections and a point spread function take over those under a probe.
WITHOUT_PROBE = 0.05
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
    maps                       label maps that are drawn, by their names in MAPS
    film                       frames in which the carbon is looked at; 0 without any
    counted, blurred, turned   whether there is a beam, an MTF; whether the lines of the scan cross
                               the rows of the picture, so that points are gathered alone
    configurations             of frozen phonons; 0 where no probes are passed
    scan                       points of the scans of all probes and detectors
    pictures, potentials       shape -> number of transforms of incoherent pictures, and for the
                               potential of multislice
    probes, probe_lines        the same of probes on a GPU, and line by line on a CPU
    rows                       of a structure in all tables
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
    film: float
    counted: bool
    blurred: bool
    turned: bool
    configurations: int
    scan: float
    pictures: Counts
    potentials: Counts
    probes: Counts
    probe_lines: Counts
    rows: int
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
            "turned": (self.turned, "the scan is rotated or is not"),
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
        share = WITHOUT_PROBE if self.method == "convolution" else 1.0
        gathered = self.frames * pixels * (ALONE if self.turned else 1.0)
        units = {
            "structure": self.atoms + STRUCTURE_ATOMS,
            "columns": self.atoms + COLUMN_ATOMS,
            "conditions": float(images * (self.frames * self.image[0] + DRAWN_LINES)),
            "lens": self.foci * share,
            "film": images * (self.film * pixels + FILM_PIXELS) if self.film else 0.0,
            "scan": images * self.segments * (gathered + SCAN_PIXELS),
            "detection": images * self.segments * (pixels + COUNTED_PIXELS),
            "labels": images * sum(map(self._time_map, self.maps)),
            "places": images * (self.atoms + PLACED_ATOMS),
            "rows": images * (pixels + ROW_PIXELS),
            "digests": float(self.stored_bytes + ROW_BYTES * self.rows),
            "writing": float(self.stored_bytes),
        }
        if self.method != "multislice":
            return units | {"scattering": share * self.foci * (self.atoms + SCATTERING_ATOMS)}
        displaced = self.configurations if self.configurations > 1 else 0
        return units | {
            "displacements": self.foci * displaced * self.atoms,
            "pictures": self.scan,
        }

    def _time_map(self, name: str) -> float:
        """What one label map of an image takes, as MAPS has it."""
        pixel, in_frame, beside = MAPS[name]
        return math.prod(self.image) * (pixel + in_frame * self.frames) + beside


def describe_structure(
    experiment: Experiment, index: int, structure: Structure, layout: Layout
) -> StemWork:
    """The work of structure `index`."""
    config = experiment.config
    imaging, wanted = config.imaging, config.labels
    phonons = config.simulation.phonons
    multislice = config.simulation.method == "multislice"
    maps = [name for name in ("atoms", "distance") if getattr(wanted, name)]
    if experiment.kinds:
        point = wanted.defects.method == "image" and imaging.probe is None
        maps.append("image of a point" if point else wanted.defects.method)
    draw = DrawConditions(config, experiment.streams, index)
    work = StemWork(
        atoms=float(len(structure.positions)),
        method=config.simulation.method,
        foci=imaging.foci,
        images=config.images,
        frames=imaging.scan.frames,
        segments=sum(d.segments for d in imaging.detectors.values()) or 1,
        image=experiment.shape,
        maps=tuple(maps),
        film=_count_film_frames(experiment, draw),
        counted=imaging.beam is not None,
        blurred=imaging.detector.mtf is not None,
        turned=imaging.scan.rotation.support != (0.0, 0.0),
        configurations=(phonons.configurations if phonons else 1) if multislice else 0,
        scan=0.0,
        pictures=(),
        potentials=(),
        probes=(),
        probe_lines=(),
        rows=sum(layout.rows_per_structure[table] for table in layout.tables),
        stored_bytes=layout.structure_bytes,
    )
    shown = min(imaging.foci, MOST_FOCI)
    count = _count_passes if multislice else _count_pictures
    counted = [count(experiment, structure, draw, focus, work) for focus in range(shown)]
    return _add_works(counted, imaging.foci / shown)


def _count_film_frames(experiment: Experiment, draw: DrawConditions) -> float:
    """Frames in which the carbon of an image is looked at, as `scan_film` decides; 0 for none."""
    if experiment.config.imaging.contamination is None:
        return 0.0
    values = draw.image(0)
    path = lead_beam(experiment, draw, 0, values)
    spread = math.sqrt(float(path.lines.var(axis=0).sum(axis=-1).mean()))
    return float(path.frames) if spread >= values["contamination_shortest"] / 12 else 1.0


def _count_pictures(
    experiment: Experiment, structure: Structure, draw: DrawConditions, focus: int, work: StemWork
) -> StemWork:
    """The transforms of the picture of one setting of the probe."""
    values = draw.probe(focus)
    if work.method == "convolution":
        band = transfer_of(experiment, values).band
    else:
        band = 2 * set_probe(experiment.config, values).cutoff
    # Every element has a shape of its own, but points under a point spread function.
    fields = 1 if work.method == "convolution" else max(np.unique(structure.numbers).size, 1)
    shape = choose_grid(experiment.extent, band).shape
    return replace(work, pictures=(((1, *shape), fields + 1.0),))


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
    window = multislice.window
    table = multislice.parametrization
    heights, numbers = structure.positions[:, 2], structure.numbers
    layers = plan_layers(heights, numbers, multislice.slice_thickness, table).index
    nodes = focal_planes(probe.focal_spread, "auto", probe.energy, probe.cutoff)[0].size
    frame, lead = frame_tile(grid, window)
    kept, last = _count_rows(experiment, probe, multislice, grid.pixel)
    potentials: dict[Shape, float] = {}
    probes: dict[Shape, float] = {}
    lines: dict[Shape, float] = {}
    for rows, columns in list_tiles(grid.shape):
        points = (rows.stop - rows.start) * (columns.stop - columns.start)
        corner = np.array(grid.point(rows.start, columns.start)) - lead
        place = structure.positions[:, :2] - corner
        inside = ((place >= 0) & (place < frame.extent[::-1])).all(axis=1)
        held, layer = np.unique(layers[inside], return_inverse=True)
        slices = max(held.size, 1)
        channels = len(set(zip((layer // 2).tolist(), numbers[inside].tolist(), strict=True)))
        fields = channels + -(-slices // 2) + 2 * slices if channels else 0
        passes = work.configurations * (points * nodes + EDGE_WAVES)
        along_y = (1 + 2 * (slices - 1)) * count_panels(window[1])
        add_transforms(potentials, frame.shape, work.configurations * fields)
        add_transforms(probes, window, passes * (2 * slices - 1))
        add_transforms(lines, window[:1], passes * along_y)
        add_transforms(lines, window[1:], passes * (2 * (slices - 1) * kept + last) / LANES)
    return replace(
        work,
        scan=float(grid.points * work.segments),
        potentials=tuple(potentials.items()),
        probes=tuple(probes.items()),
        probe_lines=tuple(lines.items()),
    )


def _count_rows(
    experiment: Experiment, probe: Probe, multislice: StemMultislice, pixel: tuple[float, float]
) -> tuple[int, int]:
    """Rows that a CPU keeps of a window between slices, and behind the last one."""
    window, lam = multislice.window, wavelength(probe.energy)
    kept, last = _keep_rows(window, pixel, multislice.taper, lam, experiment.annuli)
    if experiment.config.storage.diffraction:  # every frequency is kept
        last = LANES * -(-window[0] // LANES)
    return kept, last


@lru_cache(maxsize=16)
def _keep_rows(
    window: tuple[int, int],
    pixel: tuple[float, float],
    taper: float,
    lam: float,
    annuli: tuple[Annulus, ...],
) -> tuple[int, int]:
    """Rows that `PanelPassage` keeps: inside the aperture, and inside the detectors."""
    grid = Grid(window, (window[0] * pixel[0], window[1] * pixel[1]))
    row = np.minimum(np.arange(window[0]), window[0] - np.arange(window[0]))
    half = antialias_aperture(grid, taper)
    weights = weigh_annuli(grid, lam, annuli)
    inside = half.any(axis=1)[row], weights.any(axis=(0, 2))
    return keep_rows(inside[0]).place.size, keep_rows(inside[1]).place.size


def _add_works(works: Sequence[StemWork], times: float) -> StemWork:
    """The work of several settings of the probe, `times` as much."""
    return replace(
        works[0],
        scan=times * sum(work.scan for work in works),
        pictures=_add_counts((work.pictures for work in works), times),
        potentials=_add_counts((work.potentials for work in works), times),
        probes=_add_counts((work.probes for work in works), times),
        probe_lines=_add_counts((work.probe_lines for work in works), times),
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
        _add_works(works, 1 / len(works)),
        atoms=float(np.mean([work.atoms for work in works])),
        film=float(np.mean([work.film for work in works])),
    )


def rebuild_work(described: Mapping[str, Any]) -> StemWork:
    """The work of which `dataclasses.asdict` made plain data, that has been JSON since."""
    values: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in described.items()
    }
    for name in ("pictures", "potentials", "probes", "probe_lines"):
        values[name] = tuple((tuple(shape), number) for shape, number in values[name])
    return StemWork(**values)
