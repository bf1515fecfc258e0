"""The recipe of a sheet: a crystal that fills the field of view, and what is wrong with it.

Every value has a stream of its own, as of `recipes`: `structure/<name>`, at the structure's index,
for the values of the table (layers, rotation, strain_xx, ..., `defects/<label>/rate`) and for what
is drawn many times: offset (of the lattice), twist_centre, ripples, edge_present, edge,
hole_count, hole_radii, hole_places, holes (their outlines), island_count, island_radii,
island_places, islands, defects (of the columns), adatoms, displacements.

The order of what happens to the crystal:

1. the lattice, at a random offset, is strained in its own frame, then rotated;
2. layers lie upon one another, each turned by the twist about a random point of the field; islands
   of a further layer lie on them;
3. edge and holes take what lies beyond; columns that are left bear defects, adatoms settle;
4. all is bent by the ripples, tilted about the middle of the field, every atom displaced;
5. what lies in [0, lx) x [0, ly) is kept.

A column, as defects know it, holds the sites of one class at one place in projection: of a layer
those of one unit cell, of a film of a bulk crystal those through its whole thickness (but for
those that a tilt takes beyond the field's border). Adatoms settle on the surface whatever lies
below.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from hpctem.errors import SampleError
from hpctem.sampling import Streams
from hpctem.sections import stem as configs
from hpctem.structures.distortions import transform
from hpctem.structures.filling import Sites
from hpctem.structures.flakes import Cuts, covered_by
from hpctem.structures.point_defects import Planted, draw_adatoms, place_adatoms, plant_defects
from hpctem.structures.recipes import Draw, atomic_number, name_elements
from hpctem.structures.scenes import MARGIN, Structure
from hpctem.structures.sheet_columns import (
    defect_columns,
    defect_kinds,
    sheet_columns,
)
from hpctem.structures.sheet_crystals import (
    adatoms_of,
    defects_of_columns,
    describe_lack_of_room,
    match_sites,
    site_classes,
    take_crystal,
)
from hpctem.structures.sheet_layers import Flat, draw_cuts, draw_pose, draw_values, lay_down
from hpctem.structures.sheet_limits import (
    check_sheet,
    count_atoms,
    count_columns,
    count_defects,
    list_elements,
)

__all__ = [
    "check_sheet",
    "count_atoms",
    "count_columns",
    "count_defects",
    "defect_columns",
    "defect_kinds",
    "list_elements",
    "sample_sheet",
    "sheet_columns",
    "site_classes",
]


@dataclass(frozen=True)
class Adatoms:
    """Adatoms on the flat specimen.

    positions: (m, 3) float64 A. kinds: (m,) int64, index among the kinds of adatoms. numbers: (m,)
    uint8.
    """

    positions: np.ndarray
    kinds: np.ndarray
    numbers: np.ndarray


def sample_sheet(
    config: configs.Structure,
    field: tuple[float, float],
    streams: Streams,
    index: int,
    view: tuple[float, float] | None = None,
) -> Structure:
    """Build structure `index` of a campaign: a pure function of (config, field, seed, index).

    field: lx, ly in A. The atoms fill [0, lx) x [0, ly), not periodic: the crystal goes on beyond
    the border. view: width and height in A of the part about its middle that is to be seen, where
    holes and islands lie and whose share of sites in holes is told; the whole field by default.
    Tags are 1 + the index among `site_classes`, 0 of adatoms; the lowest atom lies at
    z = MARGIN. Raises SampleError when this sample cannot be built: a row of the database that
    cannot be imaged, a cell larger than the field, an edge or holes that leave no atom.
    """
    draw = Draw(streams, index, "structure")
    crystal = take_crystal(config, streams, index)
    view = field if view is None else view
    lack = describe_lack_of_room(crystal, view)
    if lack:
        raise SampleError(lack)
    values = draw_values(config, crystal, draw)
    pose = draw_pose(config, crystal, values, field, view, draw)
    flat = lay_down(config, crystal, values, pose, draw)
    cuts = draw_cuts(config, values, pose, draw)
    sites = flat.sites
    places = sites.positions[:, :2]
    in_flake, drilled = flat.grown & ~cuts.beyond(places), cuts.drilled(places)
    present = in_flake & ~drilled
    planted = _plant(config, sites, present, values, draw)
    adatoms = _settle(config, flat, cuts, values, draw)

    positions = pose.place(_append(sites.positions, adatoms.positions))
    if values["displacement"] > 0:
        normals = draw.generator("displacements").standard_normal(positions.shape)
        positions = positions + values["displacement"] * normals
    numbers, taken = _apply(config, sites, planted)
    x, y, z = positions.T
    kept = (x >= 0) & (x < field[0]) & (y >= 0) & (y < field[1])
    kept[: len(present)] &= present & ~taken
    if not kept.any():
        raise SampleError("the structure holds no atoms: its edge or its holes took them all")
    z = z + (MARGIN - float(z[kept].min()))
    height = float(z[kept].max()) + MARGIN
    positions = np.column_stack([x, y, z])
    defects = _list_defects(config, sites, planted, adatoms, positions, field)

    numbers = _append(numbers, adatoms.numbers)[kept]
    tags = _append(sites.classes + np.uint8(1), np.zeros(len(adatoms.kinds), np.uint8))[kept]
    cell = (float(field[0]), float(field[1]), height)
    values |= {
        **crystal.description,
        "cell_x": cell[0],
        "cell_y": cell[1],
        "height": height,
        "n_atoms": len(numbers),
        "n_defects": len(defects),
        "elements": name_elements(numbers),
        "holes": len(cuts.holes),
        "mean_hole_radius": _mean([hole.radius for hole in cuts.holes]),
        "hole_fraction": _share_of_holes(in_flake, drilled, positions, field, view),
        "islands": len(flat.islands),
        "mean_island_radius": _mean([island.outline.radius for island in flat.islands]),
    }
    return Structure(positions[kept], numbers, tags, cell, values, defects=defects, periodic=False)


def _append(array: np.ndarray, further: np.ndarray) -> np.ndarray:
    return np.concatenate([array, further]) if len(further) else array


def _share_of_holes(
    in_flake: np.ndarray,
    drilled: np.ndarray,
    positions: np.ndarray,
    field: tuple[float, float],
    view: tuple[float, float],
) -> float:
    """Share of the flake's sites in the view that lay where holes are.

    in_flake, drilled: (n,) bool. positions: (n + m, 3) A.
    """
    if not drilled.any():
        return 0.0
    apart = np.abs(positions[: len(drilled), :2] - 0.5 * np.array(field))
    seen = np.all(apart <= 0.5 * np.array(view), axis=1) & in_flake
    return float(drilled[seen].mean()) if seen.any() else 0.0


def _mean(numbers: list[float]) -> float:
    return math.fsum(numbers) / len(numbers) if numbers else 0.0


def _plant(
    config: configs.Structure,
    sites: Sites,
    present: np.ndarray,
    values: Mapping[str, Any],
    draw: Draw,
) -> Planted:
    """Draw the defects of the columns."""
    kinds = defects_of_columns(config)
    if not kinds:
        nothing = np.zeros(0, dtype=np.int64)
        return Planted(nothing, nothing, nothing)
    names = site_classes(config)
    matches = []
    for kind in kinds:
        match = match_sites(kind, names, sites.classes, sites.numbers) & present
        if kind.kind == "antisite" and atomic_number(str(kind.element)) not in sites.numbers:
            match[:] = False  # of a database, whose other materials hold that element
        matches.append(match)
    return plant_defects(
        sites.columns,
        sites.n_columns,
        matches,
        [kind.atoms for kind in kinds],
        [values[f"rate_{kind.label}"] for kind in kinds],
        draw.generator("defects"),
    )


def _apply(
    config: configs.Structure, sites: Sites, planted: Planted
) -> tuple[np.ndarray, np.ndarray]:
    """Atomic numbers (n,) uint8 of the sites after substitution, and which are vacant (n,) bool."""
    if len(planted.kinds) == 0:
        return sites.numbers, np.zeros(len(sites.numbers), dtype=bool)
    elements = [atomic_number(d.element) if d.element else 0 for d in defects_of_columns(config)]
    put = np.array(elements, dtype=np.uint8)[planted.kinds[planted.defects]]
    numbers = sites.numbers.copy()
    numbers[planted.sites[put > 0]] = put[put > 0]
    vacant = np.zeros(len(numbers), dtype=bool)
    vacant[planted.sites[put == 0]] = True
    return numbers, vacant


def _settle(
    config: configs.Structure, flat: Flat, cuts: Cuts, values: Mapping[str, Any], draw: Draw
) -> Adatoms:
    """Draw the adatoms: they settle on the uppermost layer, or on an island that covers it."""
    kinds = adatoms_of(config)
    if not kinds:
        return Adatoms(np.zeros((0, 3)), np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.uint8))
    rates = [values[f"rate_{kind.label}"] for kind in kinds]
    cells, drawn, uniform = draw_adatoms(len(flat.places), rates, draw.generator("adatoms"))
    positions = np.empty((len(cells), 3))
    for k, kind in enumerate(kinds):
        own = drawn == k
        if own.any():
            periods = flat.unit.vectors[:2, :2]
            within = place_adatoms(kind.site, flat.surface, periods, uniform[own])
            within = transform(flat.linear, np.insert(within, 2, 0.0, axis=1))[:, :2]
            positions[own, :2] = flat.places[cells[own]] + within
            positions[own, 2] = flat.top + kind.height
    positions[covered_by(flat.islands, positions[:, :2]), 2] += flat.step
    stays = ~(cuts.beyond(positions[:, :2]) | cuts.drilled(positions[:, :2]))
    numbers = np.array([atomic_number(str(kind.element)) for kind in kinds], dtype=np.uint8)
    return Adatoms(positions[stays], drawn[stays], numbers[drawn[stays]])


def _list_defects(
    config: configs.Structure,
    sites: Sites,
    planted: Planted,
    adatoms: Adatoms,
    positions: np.ndarray,
    field: tuple[float, float],
) -> list[dict[str, Any]]:
    """The rows of all defects whose mean position lies in the field, those of columns first.

    positions: (n + m, 3) A of sites and adatoms, those that are gone where they would be.
    """
    from ase.data import chemical_symbols

    if len(planted.kinds) == 0 and len(adatoms.kinds) == 0:
        return []
    names = site_classes(config)
    columns, surface = defects_of_columns(config), adatoms_of(config)
    counts = np.bincount(planted.defects, minlength=len(planted.kinds))
    own = positions[planted.sites]
    means = [
        np.bincount(planted.defects, own[:, k], len(planted.kinds)) / np.maximum(counts, 1)
        for k in range(3)
    ]
    ends = np.cumsum(counts).tolist()
    taken = [chemical_symbols[number] for number in sites.numbers[planted.sites].tolist()]
    classes = sites.classes[planted.sites].tolist()
    rows = []
    places = np.stack(means, axis=1).tolist()
    for kind, place, end, count in zip(
        planted.kinds.tolist(), places, ends, counts.tolist(), strict=True
    ):
        one = columns[kind]
        symbols = " ".join(taken[end - count : end])
        added = " ".join([one.element] * one.atoms) if one.element else ""
        rows.append((one.label, names[classes[end - 1]], symbols, added, one.atoms, place))
    for kind, place in zip(
        adatoms.kinds.tolist(), positions[len(sites.numbers) :].tolist(), strict=True
    ):
        one = surface[kind]
        rows.append((one.label, one.site, "", str(one.element), 1, place))
    inside = (row for row in rows if 0 <= row[5][0] < field[0] and 0 <= row[5][1] < field[1])
    keys = ("defect", "kind", "site", "removed", "added", "atoms", "x", "y", "z")
    return [
        dict(zip(keys, (number, *row[:5], *row[5]), strict=True))
        for number, row in enumerate(inside, start=1)
    ]
