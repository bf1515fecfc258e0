"""Databases that are all columns: what conditions are tested on, made in a moment."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hpctem.collection.collection import Collection
from hpctem.database.fill import fill
from hpctem.database.schema import Axis, Field, Layout, Stack
from hpctem.database.segment import StructureRows, quarantine

IMAGES, PARTICLES, DEFECTS = 6, 3, 4
KINDS = ("twin", "stacking_fault")
DOSES = (100.0, 300.0, 0.1, 900.0, 1e-3, 0.30000000000000004)
PIXELS = 4


def field(name: str, table: str, dtype: str, units: str = "", **options: object) -> Field:
    group = "metadata" if table == "images" else table
    return Field(f"/entry/{group}/{name}", table, np.dtype(dtype), (), units, name, **options)


FIELDS = (
    Field("/entry/images/intensity", "images", np.dtype("u2"), (PIXELS, PIXELS), "electrons"),
    Field("/entry/labels/instances", "images", np.dtype("u1"), (PIXELS, PIXELS)),
    field("structure_id", "images", "i8"),
    field("focus_index", "images", "i4"),
    field("dose", "images", "f8", "electron/angstrom^2"),
    field("defocus", "images", "f8", "angstrom"),
    field("tilt", "images", "f4", "rad"),
    field("offset", "images", "f8"),
    field("height", "images", "f8", "angstrom"),
    field("height", "structures", "f8", "angstrom"),
    field("thickness", "structures", "f8", "angstrom"),
    field("n_atoms", "structures", "i8"),
    field("lattice", "structures", "u1", categories=("fcc", "bcc", "hcp")),
    field("name", "structures", "S12"),
    field("extra", "structures", "f8", "angstrom", nan=True),
    field("particles_placed", "structures", "i4"),
    field("defects_placed", "structures", "i4"),
    field("radius", "particles", "f8", "angstrom"),
    field("n_atoms", "particles", "i8"),
    Field("/entry/particles/place", "particles", np.dtype("f8"), (3,), "angstrom"),
    field("kind", "planar_defects", "u1", categories=KINDS),
    field("particle", "planar_defects", "i4"),
)
COUNTS = {
    "particles": "/entry/structures/particles_placed",
    "planar_defects": "/entry/structures/defects_placed",
}


@dataclass(frozen=True)
class Draw:
    """Rows of a structure from its index alone; the bad ones are quarantined."""

    seed: int
    bad: tuple[int, ...] = ()

    def __call__(self, index: int) -> StructureRows:
        if index in self.bad:
            return quarantine(f"structure {index} is bad")
        random = np.random.Generator(np.random.Philox(key=[self.seed, 0], counter=[0, 0, 0, index]))
        particles, defects = int(random.integers(0, PARTICLES + 1)), int(random.integers(0, 5))
        shape = (IMAGES, PIXELS, PIXELS)
        values = {
            "images/intensity": random.integers(0, 1000, shape),
            "labels/instances": random.integers(0, 3, shape),
            "metadata/structure_id": np.full(IMAGES, index),
            "metadata/focus_index": np.arange(IMAGES) // 2,
            "metadata/dose": random.choice(DOSES, IMAGES),
            "metadata/defocus": random.normal(0, 50, IMAGES).round(1),
            "metadata/tilt": random.normal(0, 0.01, IMAGES),
            "metadata/offset": random.integers(0, 3, IMAGES).astype(float),
            "metadata/height": np.full(IMAGES, 1.0),
            "structures/height": random.uniform(50, 60),
            "structures/thickness": random.uniform(20, 80),
            "structures/n_atoms": random.integers(1000, 2000),
            "structures/lattice": ("fcc", "bcc", "hcp")[index % 3],
            "structures/name": ("gold", "it's", "Ångström", "")[index % 4],
            "structures/extra": np.nan if index % 2 else float(index),
            "structures/particles_placed": particles,
            "structures/defects_placed": defects,
            "particles/radius": random.uniform(10, 40, particles),
            "particles/n_atoms": random.integers(10, 99, particles),
            "particles/place": random.uniform(0, 96, (particles, 3)),
            "planar_defects/kind": random.integers(0, 2, defects),
            "planar_defects/particle": random.integers(1, 4, defects),
        }
        return StructureRows({f"/entry/{name}": rows for name, rows in values.items()})


@dataclass(frozen=True)
class Reduced:
    """The same rows without the fields that a layout lacks, and with its units."""

    draw: Draw
    paths: frozenset[str]

    def __call__(self, index: int) -> StructureRows:
        rows = self.draw(index)
        kept = {path: values for path, values in rows.rows.items() if path in self.paths}
        return StructureRows(kept, rows.status, rows.error)


def make_database(
    path: Path,
    structures: int = 40,
    first: int = 0,
    seed: int = 1,
    bad: Sequence[int] = (),
    name: str = "drawn",
    fields: Sequence[Field] = FIELDS,
    stop_after: int | None = None,
) -> Path:
    """A database of some structures; with `stop_after` only so many segments of 8 are committed."""
    axes = (Axis("y", PIXELS, 0.2), Axis("x", PIXELS, 0.2))
    counted = {table for table in COUNTS if any(item.table == table for item in fields)}
    layout = Layout(
        structures=structures,
        first_structure=first,
        structures_per_segment=8,
        rows_per_structure={"images": IMAGES, "particles": PARTICLES, "planar_defects": DEFECTS},
        counts={table: place for table, place in COUNTS.items() if table in counted},
        fields=tuple(fields),
        campaign={"resolved_config": json.dumps({"campaign.name": json.dumps(name)})},
        stacks=(
            Stack("/entry/images/intensity", axes),
            Stack("/entry/labels/instances", axes),
        ),
    )
    asked = itertools.count(1)

    def stop() -> bool:
        return stop_after is not None and next(asked) > stop_after

    compute = Reduced(Draw(seed, tuple(bad)), frozenset(item.path for item in fields))
    fill(path, layout, {"seed": str(seed)}, compute, stop=stop)
    return path


def content(collection: Collection, condition: str = "dose > 200") -> tuple:
    """What a condition chooses; spawned processes can import this module."""
    found = collection.where(condition)
    return (
        found.rows.tolist(),
        found.images[:].sum(axis=(1, 2)).tolist(),
        found.column("thickness").tolist(),
    )
