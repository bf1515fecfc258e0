"""Planar defects on (111) of face-centred cubic crystals: twins and intrinsic stacking faults.

A crystal of planes ...ABCABC... becomes ABCACBA where a plane is a mirror (twin), ABCABABC... is
ABCAB|ABC: a plane left out (intrinsic stacking fault); Hirth and Lothe, Theory of Dislocations,
2nd edition (1982), chapter 10. Each defect turns the whole crystal above its plane by a symmetry
of the (111) net, so that every atom keeps twelve neighbours at a / sqrt 2.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hpctem.errors import ConfigError, SampleError
from hpctem.structures.lattices import Crystal, is_fcc
from hpctem.structures.volumes import carve_sphere, to_cartesian, within_slab

KINDS = ("twin", "stacking_fault")

# The four {111} planes of fcc; the opposite normals are the same planes.
NORMALS = ((1, 1, 1), (-1, 1, 1), (1, -1, 1), (1, 1, -1))


@dataclass(frozen=True)
class PlanarDefect:
    """One planar defect of a sphere.

    kind: one of KINDS. plane: index of its (111) plane, counted along the normal from the lowest
    one that the sphere cuts. A twin's mirror is that plane, a stacking fault lies above it.
    """

    kind: str
    plane: int


@dataclass(frozen=True)
class PlaneStack:
    """The (111) planes that a sphere cuts.

    normal: (3,) integers. lowest: height of the lowest plane above the sphere's centre along the
    normal, A (negative). spacing: distance of neighbouring planes, A. count: number of planes.
    """

    normal: tuple[int, int, int]
    lowest: float
    spacing: float
    count: int

    def offset(self, defect: PlanarDefect) -> float:
        """Height of a defect above the sphere's centre along the normal, A."""
        shift = 0.5 if defect.kind == "stacking_fault" else 0.0
        return self.lowest + (defect.plane + shift) * self.spacing


def require_fcc(crystal: Crystal) -> None:
    """Raise ConfigError unless planar defects on (111) are defined for the crystal."""
    if not is_fcc(crystal):
        raise ConfigError(
            f"planar defects lie on (111) of an fcc element, not of {crystal.name}; take lattice "
            "fcc, a file with the conventional cubic cell of four atoms, or leave them out"
        )


def stack_planes(
    crystal: Crystal, radius: float, centre: np.ndarray, normal: tuple[int, int, int]
) -> PlaneStack:
    """Find the (111) planes that a sphere cuts.

    radius in A, centre (3,) float64 in A in the crystal's frame, normal one of NORMALS. Raises
    ConfigError when the crystal is not fcc.
    """
    require_fcc(crystal)
    spacing = float(crystal.cell[0, 0]) / math.sqrt(3)
    site = to_cartesian(crystal.fractional[:1], crystal.cell)[0] - centre
    height = sum(n * float(x) for n, x in zip(normal, site, strict=True)) / math.sqrt(3)
    first = math.ceil((-radius - height) / spacing)
    last = math.floor((radius - height) / spacing)
    return PlaneStack(normal, height + first * spacing, spacing, last - first + 1)


def draw_planes(
    generator: np.random.Generator, planes: int, count: int, separation: int, edge: int
) -> np.ndarray:
    """Draw the planes of `count` defects, uniform among all sets that keep the distances.

    planes: number of planes of the sphere. separation: smallest difference of two indices. edge:
    smallest number of planes between a defect's plane and the sphere's outside, on either side.
    Returns indices (k,) int64, ascending, where k is the largest number up to `count` that fits.

    Sets with gaps of at least s among n planes are the plain sets among n - (k - 1)(s - 1), each
    gap shortened by s - 1: one draw without replacement, no rejection.
    """
    room = max(0, planes - 2 * edge)
    separation = max(1, separation)
    k = min(count, (room + separation - 1) // separation)
    if k <= 0:
        return np.zeros(0, dtype=np.int64)
    shortened = generator.choice(room - (k - 1) * (separation - 1), size=k, replace=False)
    return np.sort(shortened).astype(np.int64) + edge + np.arange(k) * (separation - 1)


def carve_faulted_sphere(
    crystal: Crystal,
    radius: float,
    centre: np.ndarray,
    normal: tuple[int, int, int],
    defects: Sequence[PlanarDefect],
) -> tuple[np.ndarray, np.ndarray]:
    """Atoms of a sphere of fcc crystal with planar defects on parallel (111) planes.

    radius in A; centre (3,) float64 A in the frame of the crystal below the lowest defect; normal
    one of NORMALS; defects in ascending order of their planes. Returns positions (n, 3) float64 A
    relative to the centre and numbers (n,) uint8. Raises ConfigError when the crystal is not fcc,
    SampleError when the planes are not ascending or lie outside the sphere.
    """
    stack = stack_planes(crystal, radius, centre, normal)
    indices = [defect.plane for defect in defects]
    if indices != sorted(set(indices)) or not all(0 <= p < stack.count for p in indices):
        raise SampleError(
            f"defect planes {indices} must ascend within 0 to {stack.count - 1}, the planes that "
            f"a sphere of radius {radius:g} A cuts"
        )
    along = np.array(normal, dtype=float) / math.sqrt(3)
    mirror = np.eye(3) - 2.0 * along[:, None] * along[None, :]
    # In-plane part of the step between neighbouring planes, a/2 [110] - a/3 [111]: the Shockley
    # partial a/6 <11-2> that carries A to B, B to C, C to A.
    partial = crystal.cell[0, 0] / 6.0 * np.array([1.0, 1.0, -2.0]) * np.array(normal)

    # The crystal of a layer is r = turn q + shift, q being the crystal below the lowest defect.
    turn: np.ndarray = np.eye(3)
    shift: np.ndarray = np.zeros(3)
    order = 1.0
    bottom = -math.inf
    positions, numbers = [], []
    for defect in [*defects, None]:
        top = math.inf
        if defect is not None:
            top = stack.lowest + (defect.plane + 0.5) * stack.spacing
        layer, kinds = carve_sphere(crystal, radius, centre - _apply(turn.T, shift))
        layer = to_cartesian(layer, turn.T)
        kept = within_slab(layer, along, bottom, top)
        positions.append(layer[kept])
        numbers.append(kinds[kept])
        bottom = top
        if defect is None:
            break
        if defect.kind == "twin":
            turn = _compose(mirror, turn)
            shift = _apply(mirror, shift) + 2.0 * stack.offset(defect) * along
            order = -order
        elif defect.kind == "stacking_fault":
            # A mirrored crystal runs CBA: its partial points the other way.
            shift = shift + order * partial
        else:
            raise ConfigError(
                f"unknown planar defect {defect.kind!r}; choose one of {', '.join(KINDS)}"
            )
    return np.concatenate(positions), np.concatenate(numbers)


def _apply(matrix: np.ndarray, vector: np.ndarray) -> np.ndarray:
    return to_cartesian(vector[None], matrix.T)[0]


def _compose(second: np.ndarray, first: np.ndarray) -> np.ndarray:
    return to_cartesian(second, first)
