"""What lattice a material has: its class among the five of the plane, and its space group.

The lattice is the material's own, whatever cell it is written in: spglib (Togo, Shinohara and
Tanaka, Sci. Technol. Adv. Mater. Meth. 4, 2384822 (2024)) finds every translation that maps the
crystal onto itself to within TOLERANCE. Both answers are kept for each material of a process.
"""

from __future__ import annotations

import functools
import math
import warnings

import numpy as np

from hpctem.errors import SampleError
from hpctem.structures.unit_cells import Material
from hpctem.structures.zone_axes import (
    ZoneAxis,
    complete_basis,
    reduce_axis,
    reduce_pair,
)

BRAVAIS_CLASSES = ("hexagonal", "square", "rectangular", "rhombus", "oblique")
TOLERANCE = 0.01  # A, by which atoms may miss where a symmetry puts them
LATTICE_TOLERANCE = 0.005  # of the shortest vector, by which lattice vectors may


def bravais_class(material: Material, zone_axis: ZoneAxis = (0, 0, 1)) -> str:
    """Which of BRAVAIS_CLASSES the lattice is that the beam sees; rhombus is centred rectangular.

    Of a layer its own lattice; of a bulk crystal that of its translations in projection along the
    direction zone_axis, integers on its vectors. Lengths and offsets are told apart beyond
    LATTICE_TOLERANCE. Raises SampleError where no symmetry is found, as of atoms that coincide.
    """
    return classify_lattice(*plane_lattice(material, zone_axis))


def plane_lattice(material: Material, zone_axis: ZoneAxis = (0, 0, 1)) -> np.ndarray:
    """The two shortest vectors (2, 2) float64 A of the lattice that the beam sees, one a row.

    Of a layer as it stands, in x and y; of a bulk crystal across the zone axis, in axes of which
    only the plane is defined. Raises SampleError as `bravais_class`.
    """
    lattice = _find_lattice(*_contents(material), reduce_axis(zone_axis), material.name)
    return np.array(lattice).reshape(2, 2)


def space_group(material: Material) -> tuple[int, str]:
    """Number and international symbol of the space group, as (187, 'P-6m2').

    Of a layer it is that of layers repeated far apart. Raises SampleError where no symmetry is
    found, as of atoms that coincide.
    """
    number, symbol, _ = _analyse(*_contents(material), material.name)
    return number, symbol


def classify_lattice(a: np.ndarray, b: np.ndarray) -> str:
    """The class of the plane lattice with reduced vectors a, b: (2,) float64 A, |a| <= |b|.

    In a reduced basis b reaches over a by a share of 0 to 1/2 of it, and: hexagonal are equal
    lengths and 1/2, square equal lengths and 0, rectangular 0, centred rectangular equal lengths
    or 1/2 (International Tables for Crystallography A, section 3.1.2), oblique the rest.
    """
    square = float(a @ a)
    share = abs(float(a @ b)) / square
    equal = abs(math.sqrt(float(b @ b) / square) - 1.0) < LATTICE_TOLERANCE
    if share < LATTICE_TOLERANCE:
        return "square" if equal else "rectangular"
    if share > 0.5 - LATTICE_TOLERANCE:
        return "hexagonal" if equal else "rhombus"
    return "rhombus" if equal else "oblique"


Contents = tuple[bytes, bytes, bytes]


def _contents(material: Material) -> Contents:
    """Cell, positions and numbers as bytes, by which answers are kept.

    A layer gets a third vector longer than the two others: of equal lengths the lattice would seem
    to have symmetries that turn the layer out of its plane.
    """
    cell = material.cell
    if material.periodic == 2:
        a, b, _ = cell
        length = 10.0 + material.height + 2.5 * math.sqrt(max(float(a @ a), float(b @ b)))
        cell = np.array([a, b, (0.0, 0.0, length)])
    return cell.tobytes(), material.positions.tobytes(), material.numbers.tobytes()


@functools.lru_cache(maxsize=1 << 16)
def _find_lattice(
    cell: bytes, positions: bytes, numbers: bytes, axis: ZoneAxis, name: str
) -> tuple[float, ...]:
    """The four numbers of `plane_lattice`."""
    primitive = np.array(_analyse(cell, positions, numbers, name)[2]).reshape(3, 3)
    beam = np.array(axis, dtype=float) @ np.frombuffer(cell).reshape(3, 3)
    # The axis on the primitive vectors is whole numbers, too.
    u, v, w = (round(x) for x in (beam @ np.linalg.inv(primitive)).tolist())
    rows = complete_basis(reduce_axis((u, v, w)))
    z = beam / math.sqrt(float(beam @ beam))
    across = min((1, 0, 2), key=lambda k: abs(float(z[k])))
    x = np.cross(np.eye(3)[across], z)
    x /= math.sqrt(float(x @ x))
    plane = primitive @ np.array([x, np.cross(z, x)]).T
    first, second = reduce_pair(rows[0], rows[1], plane)
    return (*(first @ plane).tolist(), *(second @ plane).tolist())


@functools.lru_cache(maxsize=1 << 16)
def _analyse(
    cell: bytes, positions: bytes, numbers: bytes, name: str
) -> tuple[int, str, tuple[float, ...]]:
    """Number and symbol of the space group, and the nine numbers of a primitive cell."""
    import spglib

    vectors = np.frombuffer(cell).reshape(3, 3)
    fractional = np.frombuffer(positions).reshape(-1, 3) @ np.linalg.inv(vectors)
    kinds = np.frombuffer(numbers, dtype=np.uint8)
    crystal = (vectors.tolist(), fractional.tolist(), kinds.tolist())
    with warnings.catch_warnings():  # spglib announces another way to fail
        warnings.simplefilter("ignore")
        found = spglib.get_symmetry_dataset(crystal, symprec=TOLERANCE)
    if found is None:
        raise SampleError(f"spglib finds no symmetry of {name}; do atoms of its cell coincide?")
    primitive = np.asarray(found.primitive_lattice)
    return int(found.number), str(found.international), tuple(primitive.ravel().tolist())
