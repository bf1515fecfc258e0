"""The tables of a campaign's database: which columns and arrays, and how large."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from hpctem.config import Config
from hpctem.database.schema import (
    ATOMS_DIGEST,
    Axis,
    Field,
    Layout,
    Stack,
    choose_structures_per_segment,
)
from hpctem.detection.filters import MEDIAN_VIEW, RAW_VIEW
from hpctem.hrtem.conditions import CONDITION_COLUMNS
from hpctem.hrtem.grids import Grids
from hpctem.structures import recipes
from hpctem.structures.columns import (
    PARTICLE_COLUMNS,
    PLANAR_DEFECT_COLUMNS,
    STRUCTURE_COLUMNS,
)
from hpctem.structures.scenes import Column

# The structure tables use the short unit, the file the one that NeXus viewers know.
UNITS = {"A": "angstrom"}
IMAGES = "/entry/images/intensity"
INSTANCES = "/entry/labels/instances"
EXIT_WAVES = "/entry/waves/exit_wave"
POSITIONS, NUMBERS, TAGS = (f"/entry/atoms/{name}" for name in ("positions", "numbers", "tags"))

IMAGE_STATISTICS: tuple[Column, ...] = (
    Column("mean", "float64", "", "mean of the stored image"),
    Column("standard_deviation", "float64", "", "standard deviation of the stored image"),
    Column("minimum", "float64", "", "smallest pixel of the stored image"),
    Column("maximum", "float64", "", "largest pixel of the stored image"),
    Column("saturated", "float64", "", "share of the pixels that exceeded 16 bits"),
    Column("particle_fraction", "float64", "", "share of the pixels that show a particle"),
)


def plan_layout(
    config: Config,
    grids: Grids,
    structures: range,
    image_dtype: np.dtype,
    image_units: str,
    campaign: Mapping[str, str],
) -> Layout:
    """The layout of the database that holds a range of the campaign's structures.

    `image_dtype`, `image_units` are those the detector gives; `campaign` the texts stored with the
    data.
    """
    rows = {
        "images": config.images,
        "structures": 1,
        **recipes.count_rows(config.structure),
        "waves": config.waves if config.storage.exit_waves else 0,
        "atoms": recipes.count_atoms(config.structure) if config.storage.store_atoms else 0,
    }
    rows = {table: count for table, count in rows.items() if count > 0}
    fields = [f for f in _fields(config, grids, image_dtype, image_units) if f.table in rows]
    size = sum(f.row_bytes * rows[f.table] for f in fields)
    wanted = config.campaign.structures_per_segment
    counts = {
        "particles": "particles_placed",
        "planar_defects": "planar_defects_placed",
        "atoms": "n_atoms",
    }
    ny, nx = grids.stored
    dy, dx = grids.extent[0] / grids.image[0], grids.extent[1] / grids.image[1]
    return Layout(
        structures=len(structures),
        first_structure=structures.start,
        rows_per_structure=rows,
        structures_per_segment=wanted or choose_structures_per_segment(size, len(structures)),
        fields=tuple(fields),
        counts={
            table: f"/entry/structures/{name}" for table, name in counts.items() if table in rows
        },
        campaign=campaign,
        stacks=(
            Stack(IMAGES, (Axis("y", ny, dy), Axis("x", nx, dx)), title=config.campaign.name),
            Stack(INSTANCES, (Axis("y", ny, dy), Axis("x", nx, dx)), title="particles"),
        ),
        title=config.campaign.description or config.campaign.name,
    )


def _fields(
    config: Config, grids: Grids, image_dtype: np.dtype, image_units: str
) -> Iterable[Field]:
    chunks = {"chunks": [1, *grids.stored]}
    median = config.imaging.median
    yield Field(
        IMAGES,
        "images",
        image_dtype,
        grids.stored,
        image_units,
        "3 x 3 median of the recorded images" if median == "stored" else "images as recorded",
        attributes=chunks | {"view": MEDIAN_VIEW if median == "view" else RAW_VIEW},
    )
    yield Field(
        INSTANCES,
        "images",
        np.dtype("u1"),
        grids.stored,
        "",
        "which particle a pixel shows: 0 none, k particle k",
        attributes=chunks,
    )
    yield from _columns("metadata", "images", (*CONDITION_COLUMNS, *IMAGE_STATISTICS))
    yield from _columns("structures", "structures", STRUCTURE_COLUMNS)
    yield Field(
        ATOMS_DIGEST,
        "structures",
        np.dtype("u1"),
        (16,),
        "",
        "BLAKE2b-128 of positions, numbers and tags of the atoms",
    )
    yield from _columns("particles", "particles", PARTICLE_COLUMNS)
    yield from _columns("planar_defects", "planar_defects", PLANAR_DEFECT_COLUMNS)
    phonons = config.simulation.phonons.configurations if config.simulation.phonons else 1
    yield Field(
        EXIT_WAVES,
        "waves",
        np.dtype("c8"),
        (phonons, *grids.exit),
        "",
        "exit waves of all phonon configurations at the exit plane; the incident wave is 1",
        attributes={"chunks": [1, 1, *grids.exit]},
    )
    yield Field(
        POSITIONS, "atoms", np.dtype("f8"), (3,), "angstrom", "x, y, z of the atoms at rest"
    )
    yield Field(NUMBERS, "atoms", np.dtype("u1"), (), "", "atomic numbers")
    yield Field(TAGS, "atoms", np.dtype("u1"), (), "", "0 substrate, k particle k")


def _columns(group: str, table: str, columns: Iterable[Column]) -> Iterable[Field]:
    for column in columns:
        yield Field(
            f"/entry/{group}/{column.name}",
            table,
            np.dtype(column.dtype),
            (),
            UNITS.get(column.units, column.units),
            column.description,
            tuple(column.categories),
        )
