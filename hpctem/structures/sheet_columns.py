"""The tables of sheets: every value drawn for a structure and derived from it, and its defects."""

from __future__ import annotations

from dataclasses import replace

from hpctem.sections import stem as configs
from hpctem.structures.materials import BRAVAIS_CLASSES
from hpctem.structures.scenes import Column

SHEET_COLUMNS: tuple[Column, ...] = (
    Column("material", "S64", "", "name of the material: '1H-WSe2', 'SrTiO3'"),
    Column("material_id", "S64", "", "prototype, name of the file, or the database's of its row"),
    Column("bravais", "uint8", "", "class of the lattice in projection", BRAVAIS_CLASSES),
    Column("space_group", "int32", "", "number of the material's space group"),
    Column("a", "float64", "A", "first vector of the cell in projection, before strain"),
    Column("b", "float64", "A", "second vector of the cell in projection, before strain"),
    Column("gamma", "float64", "rad", "angle between them"),
    Column("cell_x", "float64", "A", "width of the field that the atoms fill"),
    Column("cell_y", "float64", "A", "length of the field that the atoms fill"),
    Column("height", "float64", "A", "height of the cell along the beam"),
    Column("n_atoms", "int64", "", "number of atoms"),
    Column("n_defects", "int32", "", "number of point defects"),
    Column("elements", "S64", "", "symbols of its elements in alphabetical order: 'Se W'"),
    Column("thickness", "float64", "A", "of a film; of layers from lowest to highest site at rest"),
    Column("layers", "int32", "", "number of layers; 0 of a bulk crystal"),
    Column("twist", "float64", "rad", "angle from each layer to the next"),
    Column("rotation", "float64", "rad", "azimuth of the crystal's first axis in the plane"),
    Column("displacement", "float64", "A", "standard deviation along each axis, of every atom"),
    Column("strain_xx", "float64", "", "strain along the crystal's x axis, its first vector"),
    Column("strain_yy", "float64", "", "strain along the crystal's y axis"),
    Column("strain_xy", "float64", "", "symmetric shear of the crystal"),
    Column("tilt_x", "float64", "rad", "lean of the specimen's normal towards +x"),
    Column("tilt_y", "float64", "rad", "lean of the specimen's normal towards +y"),
    Column("ripple_amplitude", "float64", "A", "rms height of the ripples; 0 without them"),
    Column("ripple_wavelength", "float64", "A", "mean wavelength of the ripples; 0 without them"),
    Column("edge", "uint8", "", "whether it shows an edge of the flake", ("no", "yes")),
    Column("edge_distance", "float64", "A", "of the edge from the field's middle; 0 without one"),
    Column("edge_direction", "float64", "rad", "azimuth of its outward normal; 0 without one"),
    Column("edge_roughness", "float64", "A", "rms deviation from a line; 0 without one"),
    Column("holes", "int32", "", "number of holes"),
    Column("mean_hole_radius", "float64", "A", "mean radius of the holes; 0 without any"),
    Column(
        "hole_fraction", "float64", "", "share of the sites in the field of view that they took"
    ),
    Column("islands", "int32", "", "number of islands"),
    Column("mean_island_radius", "float64", "A", "mean radius of the islands; 0 without any"),
)

DEFECT_COLUMNS: tuple[Column, ...] = (
    Column("defect", "int32", "", "number in its structure, from 1"),
    Column("kind", "uint8", "", "kind of point defect, as the campaign names it"),
    Column("site", "S16", "", "class of its site; of an adatom hollow, bridge, top or random"),
    Column("removed", "S32", "", "symbols of the atoms that are gone: 'Se Se'"),
    Column("added", "S32", "", "symbols of the atoms that have come"),
    Column("atoms", "int32", "", "number of atoms that are gone, replaced or added"),
    Column("x", "float64", "A", "their mean x; of atoms gone, where they would be"),
    Column("y", "float64", "A", "their mean y"),
    Column("z", "float64", "A", "their mean z"),
)


def defect_kinds(config: configs.Structure) -> tuple[str, ...]:
    """Names of the campaign's kinds of point defects, in its order."""
    return tuple(defect.label for defect in config.defects)


def sheet_columns(config: configs.Structure) -> tuple[Column, ...]:
    """Columns of the table of structures: SHEET_COLUMNS and the rate of each kind of defect."""
    rates = (
        Column(
            f"rate_{defect.label}",
            "float64",
            "",
            f"probability of {defect.label} at each "
            + ("unit cell" if defect.kind == "adatom" else "column that can bear it"),
        )
        for defect in config.defects
    )
    return (*SHEET_COLUMNS, *rates)


def defect_columns(config: configs.Structure) -> tuple[Column, ...]:
    """Columns of the table of point defects, its kinds those of the campaign."""
    kinds = defect_kinds(config)
    return tuple(
        replace(column, categories=kinds) if column.name == "kind" else column
        for column in DEFECT_COLUMNS
    )
