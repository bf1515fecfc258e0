"""The tables of a campaign's structures: every value drawn for them and derived from them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from hpctem.structures.defects import KINDS
from hpctem.structures.scenes import Column

STRUCTURE_COLUMNS: tuple[Column, ...] = (
    Column("cell_x", "float64", "A", "width of the periodic cell"),
    Column("cell_y", "float64", "A", "length of the periodic cell"),
    Column("height", "float64", "A", "height of the cell along the beam"),
    Column("n_atoms", "int64", "", "number of atoms"),
    Column("n_substrate_atoms", "int64", "", "atoms of the substrate"),
    Column("n_particle_atoms", "int64", "", "atoms of all particles"),
    Column("n_displaced_atoms", "int64", "", "substrate atoms that gave way to particles"),
    Column("elements", "S64", "", "symbols of its elements in alphabetical order: 'Au C'"),
    Column("substrate_thickness", "float64", "A", "thickness of the substrate; 0 without one"),
    Column("surface_z", "float64", "A", "height of the substrate's upper surface in the cell"),
    Column("particles_requested", "int32", "", "number of particles drawn"),
    Column("particles_placed", "int32", "", "number of particles that found a place"),
    Column("mean_radius", "float64", "A", "mean radius of the particles; 0 without any"),
    Column("planar_defects_requested", "int32", "", "planar defects drawn, over all particles"),
    Column("planar_defects_placed", "int32", "", "planar defects that fit, over all particles"),
)

PARTICLE_COLUMNS: tuple[Column, ...] = (
    Column("particle", "int32", "", "tag of the particle's atoms and of its pixels, from 1"),
    Column("draw", "int32", "", "number in its random streams, from 1, unplaced ones counted"),
    Column("radius", "float64", "A", "radius"),
    Column("x", "float64", "A", "centre along x"),
    Column("y", "float64", "A", "centre along y"),
    Column("z", "float64", "A", "centre along the beam, from the bottom of the cell"),
    Column("quaternion_w", "float64", "", "orientation w: turns the crystal into the image"),
    Column("quaternion_x", "float64", "", "orientation x"),
    Column("quaternion_y", "float64", "", "orientation y"),
    Column("quaternion_z", "float64", "", "orientation z"),
    Column("in_plane", "float64", "rad", "azimuth about a fixed zone axis; 0 where uniform"),
    Column("offset_a", "float64", "", "sphere's centre in the unit cell, fraction of a1"),
    Column("offset_b", "float64", "", "sphere's centre in the unit cell, fraction of a2"),
    Column("offset_c", "float64", "", "sphere's centre in the unit cell, fraction of a3"),
    Column("embedding", "float64", "", "depth under the surface as a fraction of the radius"),
    Column("n_atoms", "int64", "", "number of atoms"),
    Column("attempts", "int32", "", "places tried"),
    Column("planar_defects_requested", "int32", "", "planar defects drawn"),
    Column("planar_defects_placed", "int32", "", "planar defects that fit"),
)

PLANAR_DEFECT_COLUMNS: tuple[Column, ...] = (
    Column("particle", "int32", "", "the particle, from 1"),
    Column("kind", "uint8", "", "twin or intrinsic stacking fault", KINDS),
    Column("plane", "int32", "", "index of the (111) plane, from the lowest that the sphere cuts"),
    Column("offset", "float64", "A", "distance from the particle's centre along the normal"),
    Column("normal_h", "int32", "", "index h of the plane in the crystal under the defects"),
    Column("normal_k", "int32", "", "index k"),
    Column("normal_l", "int32", "", "index l"),
    Column("normal_x", "float64", "", "unit normal in the image, x"),
    Column("normal_y", "float64", "", "unit normal in the image, y"),
    Column("normal_z", "float64", "", "unit normal in the image, z"),
)


def tabulate(rows: Sequence[Mapping[str, Any]], columns: Sequence[Column]) -> dict[str, np.ndarray]:
    """Turn rows into one array (len(rows),) of the declared dtype per column.

    A category becomes its index among the column's categories. Raises KeyError when a row lacks a
    column.
    """
    return {
        column.name: np.array(
            [
                column.categories.index(row[column.name]) if column.categories else row[column.name]
                for row in rows
            ],
            dtype=column.dtype,
        )
        for column in columns
    }
