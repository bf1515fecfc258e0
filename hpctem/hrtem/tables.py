"""The tables of an HRTEM campaign's database: which columns and arrays, and how large."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from hpctem.config import HrtemConfig
from hpctem.database.schema import (
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
from hpctem.tables import (
    IMAGE_STATISTICS,
    IMAGES,
    INSTANCES,
    atom_fields,
    column_fields,
    digest_field,
)

EXIT_WAVES = "/entry/waves/exit_wave"
IMAGE_COLUMNS: tuple[Column, ...] = (
    *CONDITION_COLUMNS,
    *IMAGE_STATISTICS,
    Column("particle_fraction", "float64", "", "share of the pixels that show a particle"),
)


def plan_layout(
    config: HrtemConfig,
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
    config: HrtemConfig, grids: Grids, image_dtype: np.dtype, image_units: str
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
    yield from column_fields("metadata", "images", IMAGE_COLUMNS)
    yield from column_fields("structures", "structures", STRUCTURE_COLUMNS)
    yield digest_field()
    yield from column_fields("particles", "particles", PARTICLE_COLUMNS)
    yield from column_fields("planar_defects", "planar_defects", PLANAR_DEFECT_COLUMNS)
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
    yield from atom_fields("0 substrate, k particle k")
