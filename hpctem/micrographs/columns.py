"""The atom columns of an image of a known crystal, one by one: how bright each is among its like.

Every site of the lattice that was found gets a round peak, and the image is the sum of them on a
background that varies slowly,

    I(p) = sum_k a_k exp(-|r(p) - r_k|^2 / (2 w^2)) + B(p),

with r(p) where the beam was at pixel p, the smooth distortion and the displacement of each line
taken out. All heights a_k and the background are one linear problem; the width w is the one that
leaves the least. A column's ratio is its height over the median of its neighbours of
the same class: 1 for the usual column, near 0.5 where one of two equal atoms is missing.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.sparse

from hpctem.errors import ConfigError
from hpctem.micrographs.known import KnownLattice
from hpctem.micrographs.measure import Measured
from hpctem.structures.unit_cells import Material

NEIGHBOURS = 60  # of the same class, whose median is the usual height
REACH = 3.5  # widths, beyond which a peak is nothing
SPACING = 1.0  # lattice lines between the knots of the background
EXPONENT = 1.7  # of the atomic number, for which sites are the brighter ones
STEPS = 24  # places tried for the origin along each side of the cell
WIDTHS = (0.35, 0.4, 0.45, 0.5, 0.55, 0.6, 0.65, 0.7, 0.8, 0.9, 1.0)  # A, tried in turn
WIDTH_PART = 160  # pixels a side of the part that decides the width


@dataclass(frozen=True)
class ImagedColumns:
    """Atom columns in an image; arrays are (n,).

    x, y: where they lie, pixels (column and row of the image, of all its rows). site: which column
    of the cell, index into `names`. height: in units of the image. error: standard deviation of the
    height. ratio: height over the usual one of its class nearby. whole: False where the column lies
    so near the border that part of it is not seen. width: of all peaks, A.
    """

    names: tuple[str, ...]
    width: float
    x: np.ndarray
    y: np.ndarray
    site: np.ndarray
    height: np.ndarray
    error: np.ndarray
    ratio: np.ndarray
    whole: np.ndarray


def measure_columns(image: np.ndarray, measured: Measured, known: KnownLattice) -> ImagedColumns:
    """Heights of all atom columns of an image (ny, nx) of a known crystal.

    Raises ConfigError where the crystal's atoms are not known, or no lattice was found.
    """
    if known.material is None:
        raise ConfigError(f"of {known.name} no atoms are known: name a material, such as mos2")
    if measured.pattern is None or measured.lines is None or measured.distortion is None:
        raise ConfigError(f"no lattice of {known.name} was found in the image")
    names, sites, powers = group_columns(known.material)
    cell, step = measured.distortion.cell, measured.distortion.step
    origin, sites = _find_origin(measured, cell, sites, powers)
    beam = _beam_positions(measured)
    places, kinds = _list_sites(beam, cell, origin, sites)
    width = _fit_width(image, beam, places, step, cell)
    heights, errors = _fit_heights(image, beam, places, step, width, cell)
    x, y = _find_pixels(beam, places).T
    margin = REACH * width / measured.distortion.pixel_size
    ny, nx = image.shape
    whole = (np.minimum(x, nx - 1 - x) >= margin) & (np.minimum(y, ny - 1 - y) >= margin)
    ratio = heights / _usual_heights(places @ step.T, kinds, heights, whole)
    return ImagedColumns(names, width, x, y, kinds, heights, errors, ratio, whole)


def group_columns(material: Material) -> tuple[tuple[str, ...], np.ndarray, np.ndarray]:
    """Columns of a cell seen along z: names ('Mo', 'S2'), (n, 2) parts of the cell, brightness.

    Brightness is the sum of Z^1.7 over the atoms.
    """
    from ase.data import chemical_symbols

    plane = material.cell[:2, :2]
    parts = (material.positions[:, :2] @ np.linalg.inv(plane)) % 1.0
    groups: list[list[int]] = []
    for atom, part in enumerate(parts):
        for group in groups:
            apart = part - parts[group[0]]
            if np.linalg.norm((apart - np.rint(apart)) @ plane) < 0.3:
                group.append(atom)
                break
        else:
            groups.append([atom])
    names = []
    for group in groups:
        symbols = [chemical_symbols[n] for n in material.numbers[group]]
        counted = {s: symbols.count(s) for s in sorted(symbols)}
        names.append("".join(s if n == 1 else f"{s}{n}" for s, n in counted.items()))
    powers = [float((material.numbers[g].astype(float) ** EXPONENT).sum()) for g in groups]
    return tuple(names), parts[[g[0] for g in groups]], np.array(powers)


def _find_origin(
    measured: Measured, cell: np.ndarray, sites: np.ndarray, powers: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Where the cell begins, pixels, and the sites as they lie, perhaps turned by 180 degrees.

    The origin at which the sites, weighted by their brightness, lie on the brightest places.
    """
    pattern = measured.pattern
    assert pattern is not None
    steps = np.arange(STEPS) / STEPS
    origins = np.stack(np.meshgrid(steps, steps, indexing="ij"), axis=-1).reshape(-1, 2)
    best = None
    for turned in (sites, -sites):
        where = (origins[:, None] + turned) @ cell
        waves = np.exp(2j * np.pi * where @ pattern.places.T)
        value = 2 * (waves @ pattern.amplitudes).real @ powers
        if best is None or value.max() > best[0] + 1e-9:
            best = value.max(), origins[value.argmax()] @ cell, turned
    assert best is not None
    return best[1], best[2]


def _beam_positions(measured: Measured) -> np.ndarray:
    """(2, ny, nx): where in the undistorted lattice every pixel lies, x and y in pixels."""
    pattern, lines = measured.pattern, measured.lines
    assert pattern is not None and lines is not None
    _, ny, nx = pattern.warp.shape
    beam = np.stack(np.meshgrid(np.arange(nx), np.arange(ny))) + pattern.warp.astype(np.float64)
    beam[0] += lines.displacements[:, None]
    return beam


def _list_sites(
    beam: np.ndarray, cell: np.ndarray, origin: np.ndarray, sites: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Places (n, 2) in the lattice of all sites that are seen, and (n,) which site each is."""
    low, high = beam.min(axis=(1, 2)), beam.max(axis=(1, 2))
    corners = np.array([(x, y) for x in (low[0], high[0]) for y in (low[1], high[1])])
    cells = (corners - origin) @ np.linalg.inv(cell)
    first, last = np.floor(cells.min(axis=0)) - 1, np.ceil(cells.max(axis=0)) + 1
    numbers = np.stack(
        np.meshgrid(*(np.arange(a, b + 1) for a, b in zip(first, last, strict=True))), axis=-1
    ).reshape(-1, 2)
    places = ((numbers[:, None] + sites) @ cell + origin).reshape(-1, 2)
    kinds = np.tile(np.arange(len(sites)), len(numbers))
    inside = ((places >= low) & (places <= high)).all(axis=1)
    return places[inside], kinds[inside]


def _peaks(
    beam: np.ndarray, places: np.ndarray, width: float, step: np.ndarray
) -> scipy.sparse.csr_matrix:
    """(pixels, n) sparse: the peak of unit height of each site; width in A."""
    from scipy.spatial import cKDTree

    pixels = beam.reshape(2, -1).T @ step.T
    tree = cKDTree(pixels)
    near = tree.query_ball_point(places @ step.T, REACH * width)
    counts = np.array([len(one) for one in near])
    rows = np.concatenate([np.asarray(one, dtype=np.int64) for one in near])
    columns = np.repeat(np.arange(len(places)), counts)
    apart = pixels[rows] - (places @ step.T)[columns]
    values = np.exp(-0.5 * (apart**2).sum(axis=1) / width**2)
    return scipy.sparse.csr_matrix((values, (rows, columns)), shape=(len(pixels), len(places)))


def _background(shape: tuple[int, int], cell: np.ndarray) -> scipy.sparse.csr_matrix:
    """(pixels, knots) sparse: bilinear between knots a lattice line apart."""
    period = float(1 / np.linalg.norm(np.linalg.inv(cell).T, axis=1).min())
    axes = []
    for size in shape:
        knots = max(2, round((size - 1) / (SPACING * period)) + 1)
        at = np.arange(size) * (knots - 1) / (size - 1)
        left = np.minimum(at.astype(np.int64), knots - 2)
        right = at - left
        rows = np.tile(np.arange(size), 2)
        values = np.concatenate([1 - right, right])
        columns = np.concatenate([left, left + 1])
        axes.append(scipy.sparse.csr_matrix((values, (rows, columns)), shape=(size, knots)))
    return scipy.sparse.kron(axes[0], axes[1], format="csr")


def _solve(
    image: np.ndarray, peaks: scipy.sparse.csr_matrix, background: scipy.sparse.csr_matrix
) -> tuple[np.ndarray, np.ndarray, float]:
    """All coefficients, the normal matrix, and the variance of what is left."""
    matrix = scipy.sparse.hstack([peaks, background], format="csr")
    normal = (matrix.T @ matrix).toarray()
    # A peak of which almost nothing is seen has no height; this keeps it at nothing.
    normal[np.diag_indices_from(normal)] += 1e-3 * np.median(np.diag(normal))
    values = image.ravel().astype(np.float64)
    solution = np.linalg.solve(normal, matrix.T @ values)
    rest = values - matrix @ solution
    return solution, normal, float((rest**2).sum() / (len(rest) - len(solution)))


def _fit_width(
    image: np.ndarray, beam: np.ndarray, places: np.ndarray, step: np.ndarray, cell: np.ndarray
) -> float:
    """The width in A of all peaks that leaves the least of a part of the image."""
    ny, nx = (min(size, WIDTH_PART) for size in image.shape)
    part, seen = image[:ny, :nx], beam[:, :ny, :nx]
    low, high = seen.min(axis=(1, 2)), seen.max(axis=(1, 2))
    inside = places[((places >= low) & (places <= high)).all(axis=1)]
    background = _background((ny, nx), cell)
    left = [_solve(part, _peaks(seen, inside, w, step), background)[2] for w in WIDTHS]
    return WIDTHS[int(np.argmin(left))]


def _fit_heights(
    image: np.ndarray,
    beam: np.ndarray,
    places: np.ndarray,
    step: np.ndarray,
    width: float,
    cell: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Heights (n,) of all sites, and their standard deviations by what the fit leaves."""
    peaks = _peaks(beam, places, width, step)
    ny, nx = image.shape
    solution, normal, variance = _solve(image, peaks, _background((ny, nx), cell))
    spread = np.sqrt(variance * np.diag(np.linalg.inv(normal)))
    return solution[: len(places)], spread[: len(places)]


def _usual_heights(
    places: np.ndarray, kinds: np.ndarray, heights: np.ndarray, whole: np.ndarray
) -> np.ndarray:
    """(n,) the median height of the nearest columns of the same class, places in A."""
    from scipy.spatial import cKDTree

    usual = np.zeros(len(places))
    for kind in np.unique(kinds):
        own = kinds == kind
        fit = np.flatnonzero(own & whole)
        if not len(fit):
            raise ConfigError("the image shows no whole column of a class: it is too small")
        _, near = cKDTree(places[fit]).query(places[own], k=min(NEIGHBOURS, len(fit)))
        usual[own] = np.median(heights[fit][near.reshape(own.sum(), -1)], axis=1)
    return usual


def _find_pixels(beam: np.ndarray, places: np.ndarray) -> np.ndarray:
    """(n, 2) column and row of the image at which the beam was at each place of the lattice."""
    from scipy.ndimage import map_coordinates

    grid = np.stack(np.meshgrid(np.arange(beam.shape[2]), np.arange(beam.shape[1])))
    moved = beam - grid
    at = places.copy()
    for _ in range(8):
        shift = [map_coordinates(one, at[:, ::-1].T, order=1, mode="nearest") for one in moved]
        at = places - np.stack(shift, axis=1)
    return at
