"""Multislice STEM: what detectors collect while a focused probe is led over a specimen.

At every point of a scan the probe passes the slices (`hpctem.optics.multislice` has the formulas)
in a window cut out of the transmission functions of the whole specimen, and the squares of the
transform behind the last slice are summed over each detector, averaged over frozen phonons (Loane,
Xu & Silcox 1991, doi:10.1107/S0108767391000375) and focal spread.

The points lie on whole pixels, so all probes are one wave and only their windows differ. The slices
are the atomic planes, each at its scattering centroid. A frame of any size is done in tiles: only
one tile's transmission functions are held at a time.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from hpctem.backend import Backend
from hpctem.errors import ConfigError
from hpctem.optics.annuli import Annulus, check_angles, weigh_annuli, weigh_circle
from hpctem.optics.atomic_layers import plan_layers, transmit
from hpctem.optics.electron import wavelength
from hpctem.optics.grid import Grid, antialias_aperture, fast_size
from hpctem.optics.incident import Incident, edge_waves, free_probe
from hpctem.optics.potential import check_positions
from hpctem.optics.probe import Probe
from hpctem.optics.probe_passage import ProbePassage, Way, passage_for
from hpctem.optics.scan_grid import ScanGrid
from hpctem.optics.transfer import focal_planes

PAD = 2.0
"""A beyond the windows that a tile's potential is computed for: there it wraps around."""

TILE = 32
"""Points of the scan along each side of a tile."""

PATTERNS = 16
"""Diffraction patterns held whole at a time, before they are cropped."""


@dataclass(frozen=True)
class StemMultislice:
    """How probes pass the specimen.

    `window`: (ny, nx) pixels of the window of each probe (`choose_window`); `slice_thickness`:
    greatest thickness of a slice in A; `parametrization`: lobato, kirkland or peng; `taper`: edge
    of the antialiasing aperture in units of 1 / pixel size; `repeated`: whether the probe is one
    of a lattice of probes, a window apart, as codes for periodic cells have it, and not a single
    one (`free_probe`).
    """

    window: tuple[int, int]
    slice_thickness: float = 2.0
    parametrization: str = "lobato"
    taper: float = 0.01
    repeated: bool = False

    def __post_init__(self) -> None:
        if not self.slice_thickness > 0:
            raise ConfigError(f"slice thickness {self.slice_thickness} A must be positive.")


@dataclass(frozen=True, eq=False)
class Signals:
    """What was collected at every point of a scan, as shares of the beam.

    `values`: float32 (K, ny, nx), K all segments of all detectors in their order; `patterns`:
    float32 (ny, nx, my, mx) or None, diffraction patterns out to the largest outer angle, the
    direct beam in pixel (my // 2, mx // 2), without what passes outside the windows
    (`hpctem.optics.incident`); `angles`: rad per pixel along y and x.
    """

    values: np.ndarray
    patterns: np.ndarray | None
    angles: tuple[float, float]


def pattern_shape(
    window: tuple[int, int], pixel: tuple[float, float], energy: float, annuli: Sequence[Annulus]
) -> tuple[int, int]:
    """Pixels (my, mx) of a diffraction pattern out to the largest detector angle.

    `window`: pixels of the probes' window, `pixel` (dy, dx) in A, `energy` in eV.
    """
    reach = max(annulus.outer for annulus in annuli) / wavelength(energy)
    cut = [math.floor(reach * n * d + 1e-9) for n, d in zip(window, pixel, strict=True)]
    return 2 * cut[0] + 1, 2 * cut[1] + 1


def scan_detectors(
    positions: np.ndarray,
    numbers: np.ndarray,
    height: float,
    scan: ScanGrid,
    probe: Probe,
    annuli: Sequence[Annulus],
    multislice: StemMultislice,
    backend: Backend,
    patterns: bool = False,
) -> Signals:
    """Lead a probe over a specimen and collect.

    `positions`: float64 (P, n, 3) in A, P phonon configurations of the same n atoms, in a specimen
    frame that is not periodic: where there is no atom is vacuum; `numbers`: integer (n,);
    `height` in A: the defocus is measured from the plane at half of it. The source size of the
    probe is left to `hpctem.optics.scan_grid.picture_of_scan`; its focal spread is averaged over a
    few defoci. `patterns`: also keep every diffraction pattern.

    Raises ConfigError for elements without scattering factor, a detector or probe beyond the band
    limit of the sampling (check it early with `check_angles`); SampleError for positions that are
    not finite.
    """
    positions = np.asarray(positions, dtype=np.float64)
    numbers = np.asarray(numbers)
    check_positions(positions)
    specimen = _Specimen(positions, numbers, height, probe, tuple(annuli), multislice, scan.pixel)
    count = sum(annulus.segments for annulus in annuli)
    values = np.zeros((*scan.shape, count))
    side = pattern_shape(multislice.window, scan.pixel, probe.energy, annuli)
    kept = np.zeros((*scan.shape, *side), np.float32) if patterns else None
    for rows, columns in list_tiles(scan.shape):
        shape = rows.stop - rows.start, columns.stop - columns.start
        signals = _scan_tile(
            specimen, scan, (rows.start, columns.start), shape, backend,
            None if kept is None else kept[rows, columns],
        )  # fmt: skip
        values[rows, columns] = signals.reshape(*shape, count)
    grid = specimen.window
    lam = wavelength(probe.energy)
    return Signals(
        np.ascontiguousarray(np.moveaxis(values, -1, 0), dtype=np.float32),
        kept,
        (lam / grid.extent[0], lam / grid.extent[1]),
    )


def list_tiles(shape: tuple[int, int]) -> Iterator[tuple[slice, slice]]:
    """Parts of the scan, as even as can be, of at most TILE points a side."""
    cuts = [np.linspace(0, n, -(-n // TILE) + 1).astype(int).tolist() for n in shape]
    for top, bottom in zip(cuts[0], cuts[0][1:], strict=False):
        for left, right in zip(cuts[1], cuts[1][1:], strict=False):
            yield slice(top, bottom), slice(left, right)


class _Specimen:
    """The atoms, and what a probe meets besides them, made once for all tiles."""

    def __init__(
        self,
        positions: np.ndarray,
        numbers: np.ndarray,
        height: float,
        probe: Probe,
        annuli: tuple[Annulus, ...],
        multislice: StemMultislice,
        pixel: tuple[float, float],
    ) -> None:
        self.positions, self.numbers, self.height = positions, numbers, height
        self.probe, self.annuli, self.multislice = probe, annuli, multislice
        (ny, nx), (dy, dx) = multislice.window, pixel
        self.window = Grid((ny, nx), (ny * dy, nx * dx))
        rest = positions[..., 2].mean(axis=0)
        self.layers = plan_layers(
            rest, numbers, multislice.slice_thickness, multislice.parametrization
        )
        if len(numbers) == 0:
            self.layers.planes[:] = height / 2
        self.offsets, self.shares = focal_planes(
            probe.focal_spread, "auto", probe.energy, probe.cutoff
        )
        self.passages: dict[tuple[int, ...], tuple[ProbePassage, list[Incident]]] = {}
        lam = wavelength(probe.energy)
        self.weights = weigh_annuli(self.window, lam, annuli)
        width = lam / min(self.window.extent)
        self.edge = weigh_circle(probe.semiangle_cutoff, width, annuli)
        self.edge_waves = edge_waves(probe, self.window)
        for annulus in annuli:
            check_angles(probe.energy, max(pixel), annulus.outer)

    def passage(
        self, occupied: tuple[int, ...], backend: Backend
    ) -> tuple[ProbePassage, list[Incident]]:
        """The way through some of the slices, and the wave of each focus before the first."""
        if occupied not in self.passages:
            lam, grid = wavelength(self.probe.energy), self.window
            planes = self.layers.planes[list(occupied)]
            half = antialias_aperture(grid, self.multislice.taper) / grid.pixels
            way = Way(grid, lam, np.diff(planes), half.astype(np.float32), self.weights)
            ahead = self.height / 2 - planes[0]  # from the first slice to the plane of focus
            incident = [
                free_probe(self.probe, grid, offset + ahead, self.multislice.repeated)
                for offset in self.offsets.tolist()
            ]
            self.passages[occupied] = passage_for(backend)(way, backend), incident
        return self.passages[occupied]

    def collect_edge(self, passage: ProbePassage, corner: np.ndarray) -> np.ndarray:
        """What is collected, (K,), of a beam from the aperture's edge about one window."""
        scattered = [
            passage.pass_probes(wave, corner[None])[0] - self.weights[:, row, column]
            for (row, column), wave in self.edge_waves
        ]
        return self.edge + np.mean(scattered, axis=0)


def _scan_tile(
    specimen: _Specimen,
    scan: ScanGrid,
    first: tuple[int, int],
    shape: tuple[int, int],
    backend: Backend,
    patterns: np.ndarray | None,
) -> np.ndarray:
    """Signals (points, K), float64, of a tile of `shape` points that begins at point `first`."""
    grid, lead = frame_tile(scan, specimen.window.shape)
    corner = np.array([*scan.point(*first), 0.0]) - np.array([*lead, 0.0])
    middle = specimen.positions.mean(axis=0) - corner
    inside = ((middle[:, :2] >= 0) & (middle[:, :2] < np.array(grid.extent[::-1]))).all(axis=1)
    occupied, layer = np.unique(specimen.layers.index[inside], return_inverse=True)
    key = tuple(occupied.tolist()) or (0,)
    passage, incident = specimen.passage(key, backend)
    multislice = specimen.multislice
    corners = _list_corners(scan, shape)
    total = np.zeros((len(corners), sum(a.segments for a in specimen.annuli)))
    for configuration in specimen.positions[:, inside] - corner:
        passage.enter(
            transmit(
                configuration[:, :2], layer, specimen.numbers[inside], len(key), grid,
                specimen.probe.energy, multislice.parametrization, multislice.taper, backend,
            )
        )  # fmt: skip
        outside = np.zeros(total.shape[1])
        if incident[0].missed:
            centre = shape[0] // 2 * shape[1] + shape[1] // 2
            outside = specimen.collect_edge(passage, corners[centre])
        for wave, share in zip(incident, specimen.shares / len(specimen.positions), strict=True):
            if patterns is None:
                signals = passage.pass_probes(wave.field, corners)
            else:
                signals = _pass_with_patterns(passage, wave.field, corners, patterns, float(share))
            total += share * (signals + wave.missed * outside)
    return total


def frame_tile(scan: ScanGrid, window: tuple[int, int]) -> tuple[Grid, tuple[float, float]]:
    """The grid of every tile, and how far (x, y) in A its first point lies from its corner."""
    pads = [math.ceil(PAD / d) for d in scan.pixel]
    size = [
        fast_size((min(TILE, points) - 1) * step + n + 2 * pad)
        for points, step, n, pad in zip(scan.shape, scan.step, window, pads, strict=True)
    ]
    (dy, dx), (ny, nx) = scan.pixel, size
    lead = (pads[1] + window[1] // 2) * dx, (pads[0] + window[0] // 2) * dy
    return Grid((ny, nx), (ny * dy, nx * dx)), lead


def _list_corners(scan: ScanGrid, shape: tuple[int, int]) -> np.ndarray:
    """Rows and columns where the windows of a tile's points begin, int64 (points, 2)."""
    rows, columns = (
        math.ceil(PAD / d) + step * np.arange(n, dtype=np.int64)
        for d, step, n in zip(scan.pixel, scan.step, shape, strict=True)
    )
    return np.stack(np.meshgrid(rows, columns, indexing="ij"), axis=-1).reshape(-1, 2)


def _pass_with_patterns(
    passage: ProbePassage,
    field: np.ndarray,
    corners: np.ndarray,
    patterns: np.ndarray,
    share: float,
) -> np.ndarray:
    """Signals (points, K); adds `share` of the cropped patterns to `patterns` (rows, ..., mx)."""
    signals = []
    rows, columns = (np.arange(n) - n // 2 for n in patterns.shape[-2:])
    for begin in range(0, len(corners), PATTERNS):
        some = corners[begin : begin + PATTERNS]
        whole = np.zeros((len(some), *field.shape), np.float32)
        signals.append(passage.pass_probes(field, some, whole))
        chosen = np.unravel_index(np.arange(begin, begin + len(some)), patterns.shape[:2])
        patterns[chosen] += np.float32(share) * whole[:, rows[:, None], columns]
    return np.concatenate(signals)
