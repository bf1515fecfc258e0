"""Recipes of sheets that several tests share, and all sites of a crystal by brute force."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
from scipy.spatial.transform import Rotation

from hpctem.sampling import Streams
from hpctem.sections.stem import Structure as StructureConfig
from hpctem.structures.materials import Placement, layer_distance, orient, stack_layers
from hpctem.structures.scenes import Structure
from hpctem.structures.sheet_crystals import take_crystal
from hpctem.structures.sheets import sample_sheet

GRAPHENE = {"prototype": "graphene"}
WSE2 = {"prototype": "1H", "elements": ["W", "Se"]}
PTSE2 = {"prototype": "1T", "elements": ["Pt", "Se"]}
STO = {"prototype": "perovskite", "elements": ["Sr", "Ti", "O"]}
ANY_ANGLE = {"uniform": ["-170 deg", "170 deg"]}


def recipe(material: dict[str, Any] = WSE2, **settings: Any) -> StructureConfig:
    return StructureConfig.model_validate({"material": material, **settings})


def sample(
    config: StructureConfig,
    field: tuple[float, float] = (60.0, 50.0),
    index: int = 0,
    seed: int = 5,
) -> Structure:
    return sample_sheet(config, field, Streams(seed), index)


def every_site(
    config: StructureConfig, field: tuple[float, float], made: Structure, index: int, seed: int = 5
) -> tuple[np.ndarray, np.ndarray]:
    """Positions (n, 3) A and numbers of the sites in the field, from far more cells than needed.

    A second way to the sites of a structure without ripples, displacements, edge, holes, islands
    and defects: three loops over cells, matrices of SciPy, one cut at the end.
    """
    streams, values = Streams(seed), made.values
    material = take_crystal(config, streams, index).material
    bulk = material.periodic == 3
    if bulk:
        material = orient(material, config.zone_axis)
    turn = Rotation.from_euler("z", values["rotation"]).as_matrix()
    strain = np.eye(3)
    strain[:2, :2] += [
        [values["strain_xx"], values["strain_xy"]],
        [values["strain_xy"], values["strain_yy"]],
    ]
    laid = turn @ strain
    offset = streams("structure/offset", index).random(3)[: 3 if bulk else 2]
    middle = np.array([field[0] / 2, field[1] / 2, 0.0])
    origin = middle + laid @ (offset @ material.cell[: len(offset)])
    reach = 3.0 * np.hypot(*field) + (values["thickness"] if bulk else 0.0)
    most = [int(reach / np.linalg.norm(vector)) + 3 for vector in material.cell]
    ranges = [range(-n, n + 1) for n in (most if bulk else most[:2])]
    cells = np.array(list(itertools.product(*ranges))) @ material.cell[: len(ranges)]

    count = max(values["layers"], 1)
    stack: list[Placement | None] = [None]
    if not bulk:
        distance = layer_distance(config, material)
        stack = [*stack_layers(material, count, distance, config.layers.stacking, values["twist"])]
    centre = np.append(streams("structure/twist_centre", index).random(2) * field, 0.0)
    found, numbers = [], []
    for one in stack:
        crystal = (cells[:, None] + material.positions).reshape(-1, 3)
        if one is None:
            sites = origin + crystal @ laid.T
            inside = np.abs(sites[:, 2]) < values["thickness"] / 2
        else:
            if one.turned:
                crystal = crystal * [-1, -1, 1]
            sites = origin + (crystal + np.array([*one.shift, 0.0])) @ laid.T
            sites = centre + (sites - centre) @ Rotation.from_euler("z", one.angle).as_matrix().T
            sites[:, 2] = crystal[:, 2] + one.z - values["thickness"] / 2
            inside = np.ones(len(sites), dtype=bool)
        lean = Rotation.from_rotvec([-values["tilt_y"], values["tilt_x"], 0.0]).as_matrix()
        sites = middle + (sites - middle) @ lean.T
        inside &= np.all((sites[:, :2] >= 0) & (sites[:, :2] < field), axis=1)
        found.append(sites[inside])
        numbers.append(np.tile(material.numbers, len(cells))[inside])
    positions = np.concatenate(found)
    positions[:, 2] += 2.0 - positions[:, 2].min()
    return positions, np.concatenate(numbers)
