"""Databases of drawn images whose pixels say where they are: what learning is fed in tests."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from hpctem.database.fill import fill
from hpctem.database.schema import Axis, Field, Layout, Stack
from hpctem.database.segment import StructureRows, quarantine

IMAGES = "/entry/images/intensity"
KINDS = ("metal", "chalcogen")


@dataclass(frozen=True)
class Drawn:
    """What is drawn: `each` images of each structure, all of one shape.

    The pixel (y, x) of file row r is first + r ny nx + y nx + x. Its labels follow from that
    number n: instances n % 3, atoms n % 5 where that is 1 or 2, soft n % 256 of 255, and distance.
    accepted: every third image was not. median: 'none', 'view' or 'stored', as in a campaign.
    """

    shape: tuple[int, int] = (20, 20)
    structures: int = 6
    each: int = 3
    first: int = 0
    seed: int = 1
    pixel_size: float = 0.2
    dtype: str = "u2"
    median: str = "none"
    labels: tuple[str, ...] = ("instances", "atoms", "soft", "distance")
    kinds: tuple[str, ...] = KINDS
    accepted: bool = False
    bad: tuple[int, ...] = ()

    def numbers(self, row: int) -> np.ndarray:
        """The pixels of a row, int64 (ny, nx)."""
        size = self.shape[0] * self.shape[1]
        return self.first + row * size + np.arange(size).reshape(self.shape)

    def __call__(self, index: int) -> StructureRows:
        if index in self.bad:
            return quarantine(f"structure {index} is bad")
        rows = index * self.each + np.arange(self.each)
        number = np.stack([self.numbers(int(row)) for row in rows])
        atoms = hashlib.blake2b(f"{self.seed}/{index}".encode(), digest_size=16).digest()
        values = {
            "images/intensity": number,
            "labels/instances": number % 3,
            "labels/atoms": np.where(number % 5 <= 2, number % 5, 0),
            "labels/soft": number % 256,
            "labels/distance": number * 0.1,
            "metadata/pixel_size": np.full(self.each, self.pixel_size),
            "metadata/accepted": rows % 3 != 0,
            "structures/atoms_digest": np.frombuffer(atoms, np.uint8),
        }
        held = {item.path for item in self.fields}
        return StructureRows({f"/entry/{k}": v for k, v in values.items() if f"/entry/{k}" in held})

    @property
    def fields(self) -> tuple[Field, ...]:
        """The datasets."""
        view = "median 3x3" if self.median == "view" else "raw"
        attributes = {
            "atoms": {"classes": list(self.kinds)},
            "soft": {"scale": 1 / 255},
        }
        maps = [
            Field(
                f"/entry/labels/{name}",
                "images",
                np.dtype("f4" if name == "distance" else "u1"),
                self.shape,
                attributes=attributes.get(name, {}),
            )
            for name in self.labels
        ]
        accepted = [Field("/entry/metadata/accepted", "images", np.dtype("u1"))]
        return (
            Field(IMAGES, "images", np.dtype(self.dtype), self.shape, "electrons",
                  attributes={"view": view}),
            *maps,
            Field("/entry/metadata/pixel_size", "images", np.dtype("f8"), (), "angstrom"),
            *(accepted if self.accepted else ()),
            Field("/entry/structures/atoms_digest", "structures", np.dtype("u1"), (16,)),
        )  # fmt: skip


def make_images(path: Path, drawn: Drawn = Drawn()) -> Path:
    """A finished database of drawn images; its campaign is named like the file."""
    ny, nx = drawn.shape
    axes = (Axis("y", ny, drawn.pixel_size), Axis("x", nx, drawn.pixel_size))
    planned = repr(replace(drawn, bad=())).encode()
    resolved = {"campaign.name": json.dumps(path.stem), "imaging.median": json.dumps(drawn.median)}
    label = f"/entry/labels/{drawn.labels[0]}" if drawn.labels else None
    layout = Layout(
        structures=drawn.structures,
        structures_per_segment=2,
        rows_per_structure={"images": drawn.each},
        fields=drawn.fields,
        campaign={
            "resolved_config": json.dumps(resolved),
            "config_hash": hashlib.blake2b(planned, digest_size=8).hexdigest(),
        },
        stacks=(Stack(IMAGES, axes), *([Stack(label, axes, title="particles")] if label else [])),
    )
    fill(path, layout, {"seed": str(drawn.seed)}, drawn)
    return path
