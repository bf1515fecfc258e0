"""Databases of structures in a series of foci and doses: what subsets are drawn from in tests."""

from __future__ import annotations

import hashlib
import itertools
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hpctem.database.fill import fill
from hpctem.database.schema import Axis, Field, Layout, Stack
from hpctem.database.segment import StructureRows, quarantine

DOSES = (100.0, 400.0)
FOCI = 11
EACH = FOCI * len(DOSES)
ELEMENTS = ("Au C", "C Cd Se", "C Mo S", "C Se W", "C")
FIELDS = (
    Field("/entry/images/intensity", "images", np.dtype("u2"), (2, 2), "electrons"),
    Field("/entry/labels/instances", "images", np.dtype("u1"), (2, 2)),
    Field("/entry/metadata/structure_id", "images", np.dtype("i8")),
    Field("/entry/metadata/focus_index", "images", np.dtype("i4")),
    Field("/entry/metadata/dose", "images", np.dtype("f8"), (), "electron/angstrom^2"),
    Field("/entry/metadata/defocus", "images", np.dtype("f8"), (), "angstrom"),
    Field("/entry/structures/substrate_thickness", "structures", np.dtype("f8"), (), "angstrom"),
    Field("/entry/structures/elements", "structures", np.dtype("S64")),
    Field("/entry/structures/mean_radius", "structures", np.dtype("f8"), (), "angstrom"),
    Field("/entry/structures/atoms_digest", "structures", np.dtype("u1"), (16,)),
)


@dataclass(frozen=True)
class Draw:
    """Rows of a structure: 11 foci from -50 nm to 50 nm, 10 nm apart with a spread, at two doses.

    Structures of the same seed have the same atoms.
    """

    seed: int
    bad: tuple[int, ...] = ()

    def __call__(self, index: int) -> StructureRows:
        if index in self.bad:
            return quarantine(f"structure {index} is bad")
        random = np.random.Generator(np.random.Philox(key=[self.seed, 0], counter=[0, 0, 0, index]))
        foci = np.arange(-500.0, 501.0, 100.0) + random.normal(0, 10, FOCI)
        atoms = hashlib.blake2b(f"{self.seed}/{index}".encode(), digest_size=16).digest()
        values = {
            "images/intensity": random.integers(0, 1000, (EACH, 2, 2)),
            "labels/instances": random.integers(0, 3, (EACH, 2, 2)),
            "metadata/structure_id": np.full(EACH, index),
            "metadata/focus_index": np.repeat(np.arange(FOCI), len(DOSES)),
            "metadata/dose": np.tile(DOSES, FOCI),
            "metadata/defocus": np.repeat(foci, len(DOSES)),
            # 2 to 8 nm; every bin of 1.5 nm has a quarter of the structures.
            "structures/substrate_thickness": 20.0 + 15.0 * (index % 4) + random.uniform(0, 15),
            "structures/elements": ELEMENTS[int(random.integers(5))],
            "structures/mean_radius": random.uniform(10, 40),
            "structures/atoms_digest": np.frombuffer(atoms, np.uint8),
        }
        return StructureRows({f"/entry/{name}": rows for name, rows in values.items()})


def make_series(
    path: Path,
    structures: int = 64,
    first: int = 0,
    seed: int = 1,
    bad: tuple[int, ...] = (),
    name: str = "gold",
    code: str = "1",
    stop_after: int | None = None,
) -> Path:
    """A database of some structures; with `stop_after` only so many segments of 8 are committed.

    `name` is part of the campaign's hash, `code` of its plan alone.
    """
    axes = (Axis("y", 2, 0.2), Axis("x", 2, 0.2))
    layout = Layout(
        structures=structures,
        first_structure=first,
        structures_per_segment=8,
        rows_per_structure={"images": EACH},
        fields=FIELDS,
        campaign={
            "resolved_config": json.dumps({"campaign.name": json.dumps(name)}),
            "config_hash": hashlib.blake2b(f"{name}/{seed}".encode(), digest_size=8).hexdigest(),
        },
        stacks=(
            Stack("/entry/images/intensity", axes),
            Stack("/entry/labels/instances", axes),
        ),
    )
    asked = itertools.count(1)

    def stop() -> bool:
        return stop_after is not None and next(asked) > stop_after

    fill(path, layout, {"seed": str(seed), "code": code}, Draw(seed, bad), stop=stop)
    return path
