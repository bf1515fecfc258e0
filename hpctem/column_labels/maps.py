"""Label maps of a STEM image: one value for each pixel, true at the pixel's place in the specimen.

A pixel lies where the scan stood, on average over the frames, distorted as the image is; what the
beam smears out in the image is smeared only in `map_defect_images`, which follows every frame. A
pixel knows of everything that reaches it: an atom or a defect just outside the image still marks
the pixels within its radius, as it brightens them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from hpctem.column_labels import painting
from hpctem.column_labels.columns import Columns
from hpctem.column_labels.nearest import measure_distances
from hpctem.column_labels.spans import Lines, Spans, find_spans, lay_lines, turn_points
from hpctem.detection.scan import ScanPath
from hpctem.errors import ConfigError, SampleError

FARTHEST = 3.6
"""Standard deviations after which 255 exp(-r^2 / 2 sigma^2) rounds to 0."""

TAIL = 2e-4
"""The image of an atom is followed until it has fallen to this share of its peak."""

SLACK = 0.2
"""What the tails of all atoms about a pixel may add up to where they are left out at first, as a
share of the threshold."""

FLATNESS = 4e-4
"""Largest error of linear interpolation in the image of an atom, as a share of its peak."""

LARGEST = 1500
"""No table is refined to more pixels along a side."""


def map_columns(columns: Columns, path: ScanPath, radius: float = 0.7) -> np.ndarray:
    """Which class of sites a pixel shows: 0 background, k within `radius` of a column of class k.

    Of several columns the nearest one has the pixel. Columns of foreign atoms alone (class 0) are
    background. radius: A. Returns uint8 (ny, nx). Raises ConfigError for a radius not above 0.
    """
    _check_radius(radius, "atom columns")
    lines = lay_lines(path)
    known = columns.site_class > 0
    points = np.stack([columns.x[known], columns.y[known]], axis=1)
    labels = np.zeros(path.shape, dtype=np.uint8)
    spans = find_spans(points, lines, radius)
    painting.paint_nearest(labels, columns.site_class[known], *_geometry(spans, lines))
    return labels


def map_distances(columns: Columns, path: ScanPath) -> np.ndarray:
    """How far each pixel is from the middle of the nearest atom column, in the specimen.

    Returns float32 (ny, nx), A. Raises SampleError where there is no column at all.
    """
    if len(columns.x) == 0:
        raise SampleError("there are no atoms, so no pixel has a distance to the nearest column")
    return measure_distances(np.stack([columns.x, columns.y], axis=1), lay_lines(path))


def map_defect_disks(
    defects: Sequence[Mapping[str, Any]], kinds: Sequence[str], path: ScanPath, radius: float = 0.7
) -> dict[str, np.ndarray]:
    """For each kind the pixels within `radius` of one of its defects: uint8 (ny, nx), 1 or 0.

    defects: rows with kind (a name), x and y in A, as `Structure.defects`; kinds: all that the
    campaign has, whether in this image or not; radius: A. Raises ConfigError for a radius not
    above 0.
    """
    _check_radius(radius, "defects")
    lines = lay_lines(path)
    maps = {}
    for kind in kinds:
        maps[kind] = np.zeros(path.shape, dtype=np.uint8)
        spans = find_spans(_places_of(defects, kind), lines, radius)
        painting.paint_disks(maps[kind], spans.row, spans.first, spans.stop)
    return maps


def map_defect_gaussians(
    defects: Sequence[Mapping[str, Any]], kinds: Sequence[str], path: ScanPath, width: float = 0.7
) -> dict[str, np.ndarray]:
    """For each kind 255 exp(-r^2 / 2 width^2) of the nearest defect, rounded: uint8 (ny, nx).

    width: standard deviation, A. The rest as in `map_defect_disks`.
    """
    _check_radius(width, "defects")
    lines = lay_lines(path)
    maps = {}
    for kind in kinds:
        maps[kind] = np.zeros(path.shape, dtype=np.uint8)
        spans = find_spans(_places_of(defects, kind), lines, FARTHEST * width)
        painting.paint_gaussians(maps[kind], float(width), *_geometry(spans, lines))
    return maps


def map_defect_images(
    defects: Sequence[Mapping[str, Any]],
    kinds: Sequence[str],
    path: ScanPath,
    psf: np.ndarray,
    sampling: float,
    threshold: float = 0.25,
) -> dict[str, np.ndarray]:
    """For each kind where the image of its defects' own atoms alone exceeds a threshold.

    One atom for each defect, all of one weight, seen by this image's probe without noise; the mean
    over the frames, each at its own positions, where neighbours add up. A pixel is 1 where that
    exceeds `threshold` times the peak of `psf`, the most that one isolated defect can give; so no
    defect, no label, whatever else is in the image.

    psf: (n, n), the image of one atom in the specimen's frame, source size and all, of any scale:
    the atom lies at [n // 2, n // 2], beyond the table it is zero. sampling: A of its pixels, along
    x and y. A table too coarse for linear interpolation is refined by cubic splines. Values are
    exact to 1e-3 of the peak: tails below 2e-4 of it are left out. The rest as in
    `map_defect_disks`. Raises SampleError for a psf that is not finite or has no peak, ConfigError
    for a threshold outside 0..1 or a sampling that is not above 0.
    """
    if not 0 < threshold < 1:
        raise ConfigError(f"the defects' threshold is {threshold:g}: it must lie between 0 and 1")
    table, sampling, reach = prepare_table(psf, sampling)
    frames = [lay_lines(path, frame) for frame in range(path.frames)]
    maps = {}
    for kind in kinds:
        places = _places_of(defects, kind)
        maps[kind] = _exceed(places, frames, table, sampling, reach, threshold)
    return maps


def _exceed(
    places: np.ndarray,
    frames: Sequence[Lines],
    table: np.ndarray,
    sampling: float,
    reach: float,
    threshold: float,
) -> np.ndarray:
    """Where the mean image of atoms exceeds `threshold`: uint8 (ny, nx).

    places: (m, 2) float64 A; the rest as of `prepare_table`. First the atoms' cores are added up
    everywhere; tails, which reach over far more pixels, only matter where the sum falls short of
    the threshold by no more than they can give. There everything is summed up.
    """
    ny, nx = len(frames[0].along), len(frames[0].offset)
    exceeded = np.zeros((ny, nx), dtype=np.uint8)
    if len(places) == 0:
        return exceeded
    core, slack = _choose_core(places, table, sampling, reach, SLACK * threshold)
    image = np.zeros((ny, nx), dtype=np.float32)
    for lines in frames:
        geometry = _geometry(find_spans(places, lines, core), lines)
        painting.add_images(image, table, sampling, lines.axis, *geometry)
    level = np.float32(threshold * len(frames))
    bright = np.flatnonzero(image > np.float32((threshold - slack) * len(frames)))
    sums = image.reshape(-1)[bright]
    short = sums <= level
    if slack > 0 and short.any():
        again, pixels = np.zeros(np.count_nonzero(short), np.float32), np.divmod(bright[short], nx)
        for lines in frames:
            points = turn_points(places, lines)
            points = points[np.argsort(points[:, 1])]
            where = (points, lines.along, lines.across, lines.offset)
            painting.sum_images(again, *pixels, table, sampling, lines.axis, reach, *where)
        sums[short] = again
    exceeded.reshape(-1)[bright] = sums > level
    return exceeded


def _choose_core(
    places: np.ndarray, table: np.ndarray, sampling: float, reach: float, slack: float
) -> tuple[float, float]:
    """How far an atom's core reaches, A, and what tails beyond can add up to at one pixel.

    The latter is `slack`, or 0 where the core is all there is. No pixel has more atoms within
    `reach` than one of the atoms has within twice that.
    """
    from scipy.spatial import cKDTree

    tree = cKDTree(places)
    crowd = int(tree.query_ball_point(places, 2 * reach, return_length=True).max())
    faint = slack / crowd
    # The bound is one of sums: a psf with negative tails has none.
    if faint <= TAIL or table.min() < -TAIL:
        return reach, 0.0
    return min(reach, _reach_of(table, sampling, faint)), slack


def _reach_of(table: np.ndarray, sampling: float, share: float) -> float:
    """The radius in A beyond which nothing in a table, between its points too, exceeds `share`."""
    away = (np.arange(len(table)) - len(table) // 2) ** 2.0
    square = (away[:, None] + away[None, :])[np.abs(table) > share].max()
    return (math.sqrt(square) + 1.5) * sampling


def prepare_table(psf: np.ndarray, sampling: float) -> tuple[np.ndarray, float, float]:
    """The image of an atom, made ready for linear interpolation: table, its sampling, its reach.

    psf, sampling: as in `map_defect_images`. Returns float32 (n, n), peak 1, its middle at
    (n // 2, n // 2), with a border of zeros; A; and the radius in A beyond which nothing exceeds
    TAIL.
    """
    psf = np.asarray(psf, dtype=np.float64)
    if not sampling > 0:
        raise ConfigError(f"the pixel of the probe's image is {sampling:g} A: it must be above 0")
    if not np.isfinite(psf).all() or not psf.max(initial=0.0) > 0:
        raise SampleError("the probe's image of an atom holds NaN or infinity, or has no peak")
    psf = psf / psf.max()
    # What lies beyond the reach would only be refined in vain: keep the square that does not.
    middle = len(psf) // 2
    high = np.abs(psf) > TAIL
    away = np.abs(np.arange(len(psf)) - middle)
    half = int(max(away[high.any(axis=0)].max(), away[high.any(axis=1)].max()))
    around = np.pad(psf, ((0, 1), (0, 1)))[
        middle - half : middle + half + 1, middle - half : middle + half + 1
    ]
    factor = _choose_factor(around)
    around, sampling = _refine(around, factor), sampling / factor
    around = (around / around.max()).astype(np.float32)
    reach = _reach_of(around, sampling, TAIL)
    room = max(0, math.ceil(reach / sampling) + 2 - len(around) // 2)
    return np.pad(around, room), sampling, reach


def _choose_factor(table: np.ndarray) -> int:
    """By how much a table has to be refined for linear interpolation to err by FLATNESS at most.

    Its error is an eighth of the second differences, along y and along x. A table that is fine
    already and yet uneven is taken as it is: its steps are meant.
    """
    if len(table) < 4:
        return 1
    bends = sum(float(np.abs(np.diff(table, 2, axis=axis)).max(initial=0.0)) / 8 for axis in (0, 1))
    return max(1, min(math.ceil(math.sqrt(bends / FLATNESS)), LARGEST // len(table)))


def _refine(table: np.ndarray, factor: int) -> np.ndarray:
    """The table at `factor` times finer points, by cubic splines; its middle stays its middle."""
    if factor == 1:
        return table
    from scipy.interpolate import RectBivariateSpline

    half = len(table) // 2
    coarse = np.arange(-half, half + 1)
    fine = np.arange(-half * factor, half * factor + 1) / factor
    return RectBivariateSpline(coarse, coarse, table)(fine, fine)


def _places_of(defects: Sequence[Mapping[str, Any]], kind: str) -> np.ndarray:
    places = [(row["x"], row["y"]) for row in defects if row["kind"] == kind]
    return np.array(places, dtype=np.float64).reshape(-1, 2)


def _geometry(spans: Spans, lines: Lines) -> tuple[np.ndarray, ...]:
    """What the loops of `painting` are told of where to paint."""
    where = (spans.point, spans.row, spans.first, spans.stop, spans.points)
    return (*where, lines.along, lines.across, lines.offset)


def _check_radius(radius: float, of: str) -> None:
    if not radius > 0:
        raise ConfigError(f"the radius of the labels of {of} is {radius:g} A: it must be above 0")
