"""A database of scanned crystals with labels by name and a table of defects, made in a moment."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hpctem.database.fill import fill
from hpctem.database.schema import Axis, Field, Layout, Stack
from hpctem.database.segment import StructureRows, quarantine

IMAGES, MOST, SIZE = 3, 5, 32
KINDS = ("Se_vacancy", "Mo_on_W")
SITES = ("metal", "chalcogen")
PARTS = {"atoms": "u1", "Se_vacancy": "u1", "Mo_on_W": "u1", "distance": "f4"}


def column(name: str, table: str, dtype: str = "f8", units: str = "", **options: Any) -> Field:
    group = "metadata" if table == "images" else table
    return Field(f"/entry/{group}/{name}", table, np.dtype(dtype), (), units, name, **options)


def lay_out(
    structures: int,
    labels: Sequence[str] = tuple(PARTS),
    name: str = "wse2",
    pixels: str = "u2",
    sites: Sequence[str] = SITES,
) -> Layout:
    """The layout: labels of these names, images of that type, further detectors."""
    axes = (Axis("y", SIZE, 1.0, ""), Axis("x", SIZE, 1.0, ""))
    attributes: dict[str, dict[str, Any]] = {"atoms": {"classes": list(sites)}}
    return Layout(
        structures=structures,
        structures_per_segment=2,
        rows_per_structure={"images": IMAGES, "defects": IMAGES * MOST},
        counts={"defects": "/entry/structures/n_defects_listed"},
        fields=(
            Field("/entry/images/intensity", "images", np.dtype(pixels), (SIZE, SIZE), "electrons"),
            *(
                Field(
                    f"/entry/labels/{label}",
                    "images",
                    np.dtype(PARTS[label]),
                    (SIZE, SIZE),
                    "angstrom" if label == "distance" else "",
                    f"map of {label}",
                    attributes=attributes.get(label, {}),
                )
                for label in labels
            ),
            Field("/entry/detectors/bf", "images", np.dtype("f4"), (2, SIZE, SIZE)),
            Field("/entry/detectors/maadf", "images", np.dtype("u2"), (SIZE, SIZE), "electrons"),
            column("structure_id", "images", "i8"),
            column("wave_index", "images", "i4"),
            column("focus_index", "images", "i4"),
            column("dose_index", "images", "i4"),
            column("energy", "images", units="eV"),
            column("pixel_size", "images", units="angstrom"),
            column("defocus", "images", units="angstrom"),
            column("focal_spread", "images", units="angstrom"),
            column("semiangle_cutoff", "images", units="rad"),
            column("source_size", "images", units="angstrom"),
            column("current", "images", units="pA"),
            column("dwell_time", "images", units="us"),
            column("frames", "images", "i4"),
            column("dose", "images", units="electron/angstrom^2"),
            column("electrons_per_pixel", "images"),
            column("scan_jitter", "images", units="angstrom"),
            column("minimum", "images"),
            column("maximum", "images"),
            *(column(f"n_{kind}", "images", "i4") for kind in KINDS),
            Field("/entry/structures/material", "structures", np.dtype("S64")),
            column("n_defects_listed", "structures", "i4"),
            column("n_atoms", "structures", "i8"),
            column("defect", "defects", "i4"),
            column("kind", "defects", "u1", categories=KINDS),
            Field("/entry/defects/site", "defects", np.dtype("S16")),
            column("x", "defects", units="angstrom"),
            column("y", "defects", units="angstrom"),
            column("image", "defects", "i4"),
            column("pixel_x", "defects"),
            column("pixel_y", "defects"),
            column("inside", "defects", "u1"),
        ),
        campaign={
            "resolved_config": json.dumps(
                {"campaign.name": json.dumps(name), "campaign.technique": '"stem"'}
            ),
            "config_hash": name,
        },
        stacks=(
            Stack("/entry/images/intensity", axes),
            *(Stack(f"/entry/labels/{label}", axes) for label in labels[:1]),
        ),
    )


@dataclass(frozen=True)
class Draw:
    """Rows of a structure: defects at places of their own in each of its images."""

    layout: Layout
    seed: int = 1
    bad: tuple[int, ...] = ()

    def __call__(self, index: int) -> StructureRows:
        if index in self.bad:
            return quarantine(f"structure {index} is bad")
        random = np.random.Generator(np.random.Philox(key=[self.seed, 0], counter=[0, 0, 0, index]))
        shape = (IMAGES, SIZE, SIZE)
        images = random.poisson(30, shape)
        n, order = 1 + index % MOST, np.arange(IMAGES)
        kinds = random.integers(0, 2, n)
        places = random.uniform(4, SIZE - 4, (IMAGES, n, 2))
        maps = {name: np.zeros(shape, kind) for name, kind in PARTS.items()}
        y, x = np.indices((SIZE, SIZE))
        for image in order:
            for (px, py), kind in zip(places[image], kinds, strict=True):
                maps[KINDS[kind]][image] |= (np.hypot(x - px, y - py) < 3).astype("u1")
            maps["distance"][image] = np.hypot(x - 16, y - 16) / 10
        maps["atoms"][:, ::4, ::4] = 1
        maps["atoms"][:, 2::4, 2::4] = 2
        pixel = 0.1 + 0.01 * order + 0.1 * (index % 2)
        rows = {
            "images/intensity": images,
            "detectors/bf": random.random((IMAGES, 2, SIZE, SIZE)),
            "detectors/maadf": 2 * images,
            "metadata/structure_id": np.full(IMAGES, index),
            "metadata/wave_index": 0 * order,
            "metadata/focus_index": order,
            "metadata/dose_index": 0 * order,
            "metadata/energy": np.full(IMAGES, 80e3),
            "metadata/pixel_size": pixel,
            "metadata/defocus": random.normal(0, 10, IMAGES),
            "metadata/focal_spread": np.full(IMAGES, 30.0),
            "metadata/semiangle_cutoff": np.full(IMAGES, 0.025),
            "metadata/source_size": np.full(IMAGES, 1.0),
            "metadata/current": np.full(IMAGES, 35.0),
            "metadata/dwell_time": np.full(IMAGES, 20.0),
            "metadata/frames": np.full(IMAGES, 10),
            "metadata/dose": 43690.6 / pixel**2,
            "metadata/electrons_per_pixel": np.full(IMAGES, 43690.6),
            "metadata/scan_jitter": random.exponential(0.1, IMAGES),
            "metadata/minimum": images.min((1, 2)),
            "metadata/maximum": images.max((1, 2)),
            "structures/material": ("WSe2", "MoSe2")[index % 2],
            "structures/n_defects_listed": n * IMAGES,
            "structures/n_atoms": 900 - n,
            "defects/defect": np.tile(1 + np.arange(n), IMAGES),
            "defects/kind": [KINDS[kind] for kind in np.tile(kinds, IMAGES)],
            "defects/site": np.array(SITES, "S16")[1 - np.tile(kinds, IMAGES)],
            "defects/x": (places[..., 0] * pixel[:, None]).reshape(-1),
            "defects/y": (places[..., 1] * pixel[:, None]).reshape(-1),
            "defects/image": np.repeat(order, n),
            "defects/pixel_x": places[..., 0].reshape(-1),
            "defects/pixel_y": places[..., 1].reshape(-1),
            "defects/inside": np.ones(n * IMAGES, int),
        }
        rows |= {
            f"metadata/n_{kind}": np.full(IMAGES, (kinds == k).sum())
            for k, kind in enumerate(KINDS)
        }
        rows |= {f"labels/{name}": values for name, values in maps.items()}
        known = {item.path for item in self.layout.fields}
        return StructureRows({p: v for name, v in rows.items() if (p := f"/entry/{name}") in known})


def make_scans(
    path: Path,
    structures: int = 6,
    seed: int = 1,
    bad: tuple[int, ...] = (),
    labels: Sequence[str] = tuple(PARTS),
    name: str = "wse2",
    pixels: str = "u2",
    sites: Sequence[str] = SITES,
) -> Path:
    """A finished database of some structures with three images each."""
    layout = lay_out(structures, labels, name, pixels, sites)
    fill(path, layout, {"seed": str(seed)}, Draw(layout, seed, bad))
    return path
