"""How the scan distorts a known lattice: pixel size, contraction and shear, but no rotation.

A pixel (column, row) lies at S (column, row) in the specimen, S = R(rotation) U with

    U = pixel [[1, shear], [0, 1]] diag(1, 1 + contraction),

upper triangular, as a campaign's scan has it. The lattice vectors P (columns, in pixels) and their
true ones A (in A) are related by S P = Q A with some rotation Q. So P^T (S^T S) P = A^T A, which
gives S^T S, whose Cholesky factor is U. Three numbers of the true lattice's metric give three of
the scan; a strain of the specimen is not told from a distortion of the scan.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Distortion:
    """What relates pixels to the specimen.

    pixel_size: A along the rows. contraction: relative lengthening of the pixel along y. shear:
    displacement along x per length along y. direction: angle in radian from the rows to the
    lattice's nearest shortest vector, in the specimen. step: U (2, 2), A; columns are the vectors
    of one pixel along a row and of one row. cell: (2, 2) rows, the lattice vectors in pixels that
    stand for those of the known lattice.
    """

    pixel_size: float
    contraction: float
    shear: float
    direction: float
    step: np.ndarray
    cell: np.ndarray


def measure_distortion(vectors: np.ndarray, known: np.ndarray) -> Distortion:
    """The scan under which a known lattice looks like the one found.

    vectors: (2, 2) rows a1, a2 in pixels, (x, y). known: (2, 2) rows in A. Of all choices of equal
    cells that of the smallest distortion is taken.
    """
    metric = known @ known.T
    best, smallest = None, math.inf
    for choice in _CHOICES:
        cell = choice @ vectors
        inverse = np.linalg.inv(cell)
        # Rows are vectors: cell M cell^T = metric.
        step = np.linalg.cholesky(_symmetric(inverse @ metric @ inverse.T)).T
        pixel, length = float(step[0, 0]), float(step[1, 1])
        found = Distortion(
            pixel,
            length / pixel - 1,
            float(step[0, 1]) / length,
            _direction(step, vectors),
            step,
            cell,
        )
        size = math.hypot(math.log(length / pixel), found.shear)
        if size < smallest - 1e-9:
            best, smallest = found, size
    assert best is not None
    return best


def ideal_lattice(vectors: np.ndarray) -> tuple[str, np.ndarray] | None:
    """The symmetric lattice that a found one nearly is: its name and vectors of mean size.

    vectors: (2, 2) in pixels or A, reduced. Hexagonal or square where a distortion under 12 %
    brings them there, the nearer of the two; None else.
    """
    options = []
    for name, angle in (("hexagonal", 2 * math.pi / 3), ("square", math.pi / 2)):
        unit = np.array([[1.0, 0.0], [math.cos(angle), math.sin(angle)]])
        area = abs(float(np.linalg.det(vectors))) / abs(float(np.linalg.det(unit)))
        ideal = math.sqrt(area) * unit
        found = measure_distortion(vectors, ideal)
        options.append((math.hypot(math.log1p(found.contraction), found.shear), name, ideal))
    size, name, ideal = min(options, key=lambda option: option[0])
    return (name, ideal) if size < 0.12 else None


def _direction(step: np.ndarray, vectors: np.ndarray) -> float:
    """Angle in (-90, 90] degrees from the rows to the shortest vector nearest to them, radian."""
    short = [*vectors, vectors[0] + vectors[1], vectors[0] - vectors[1]]
    in_specimen = [step @ vector for vector in short]
    longest = 1.15 * min(float(np.linalg.norm(vector)) for vector in in_specimen)
    angles = [
        math.remainder(math.atan2(y, x), math.pi)
        for x, y in in_specimen
        if math.hypot(x, y) <= longest
    ]
    return min(angles, key=abs)


def _symmetric(matrix: np.ndarray) -> np.ndarray:
    return (matrix + matrix.T) / 2


def _whole_matrices() -> tuple[np.ndarray, ...]:
    found = []
    for entries in itertools.product((-2, -1, 0, 1, 2), repeat=4):
        matrix = np.array(entries, dtype=np.float64).reshape(2, 2)
        if abs(round(float(np.linalg.det(matrix)))) == 1:
            found.append(matrix)
    return tuple(found)


_CHOICES = _whole_matrices()
