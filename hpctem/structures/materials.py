"""The material of each structure of a STEM campaign: a prototype, a file, or a row of a database.

Where a campaign takes its materials from a database, structure i takes one by a permutation drawn
from the stream `structure/material`, at the number of the pass through the database: every material
is taken once before any is taken again.
"""

from __future__ import annotations

import functools

import numpy as np

from hpctem.errors import ConfigError, SampleError
from hpctem.sampling import Streams
from hpctem.sections import stem as configs
from hpctem.structures import lattices
from hpctem.structures.material_databases import (
    CLASS_NAME,
    Materials,
    extract_materials,
    read_materials,
)
from hpctem.structures.prototypes import CLASS_NAMES, build_prototype, known_distance
from hpctem.structures.stacking import Placement, stack_layers
from hpctem.structures.symmetry import BRAVAIS_CLASSES, bravais_class, space_group
from hpctem.structures.unit_cells import Material, describe_fault, stand_up, write_formula
from hpctem.structures.volumes import to_cartesian
from hpctem.structures.zone_axes import orient, reduce_axis

__all__ = [
    "BRAVAIS_CLASSES",
    "Material",
    "Materials",
    "Placement",
    "bravais_class",
    "check_material",
    "choose_material",
    "class_names",
    "extract_materials",
    "layer_distance",
    "list_materials",
    "load_material",
    "orient",
    "pick_material",
    "read_materials",
    "space_group",
    "stack_layers",
]


def pick_material(config: configs.Structure, chosen: int) -> Material:
    """The material of a row, from 0, of a campaign's database.

    Raises SampleError where it cannot be imaged, or is a bulk crystal where a two-dimensional one
    is needed or the reverse.
    """
    assert config.material.database is not None
    materials = read_materials(config.material.database, config.material.filter)
    material = materials[chosen]
    mismatch = _describe_mismatch(config, material)
    if mismatch:
        raise SampleError(f"{materials.describe(chosen)} {mismatch}")
    return material


def check_material(config: configs.Structure) -> None:
    """Check before any work what no sample could mend; raises ConfigError.

    A file or a prototype that is bulk where no thickness is given, or two-dimensional where one is;
    a database that cannot be read, of which nothing is selected, or none of which fits; a zone axis
    or layers of a material that has none.
    """
    _check_keys(config)
    if config.material.database is None:
        material = load_material(config.material)
        mismatch = _describe_mismatch(config, material)
        if mismatch:
            raise ConfigError(f"structure.material: {material.name} {mismatch}")
        return
    materials = read_materials(config.material.database, config.material.filter)
    if not np.any(materials.periodic == (2 if config.thickness is None else 3)):
        kind = "two-dimensional material" if config.thickness is None else "bulk crystal"
        raise ConfigError(
            f"structure.material: none of the {len(materials)} selected materials of "
            f"{materials.source} is a {kind}; "
            + (
                "give structure.thickness to image bulk crystals"
                if config.thickness is None
                else "leave out structure.thickness to image two-dimensional ones"
            )
        )


def load_material(config: configs.Material) -> Material:
    """The unit cell of a prototype or a file; raises ConfigError."""
    if config.database is not None:
        raise ConfigError("structure.material names a database of materials, not one material")
    return _load(config)


def list_materials(config: configs.Material) -> Materials | None:
    """The materials of a campaign that takes them from a database; None of one that has one."""
    if config.database is None:
        return None
    return read_materials(config.database, config.filter)


def class_names(config: configs.Material) -> tuple[str, ...]:
    """Names of the classes of sites, in the order of Material.classes.

    Of a file its chemical symbols in alphabetical order, of a database the one class 'atom'.
    """
    if config.database is not None:
        return (CLASS_NAME,)
    if config.prototype is not None:
        return CLASS_NAMES[config.prototype]
    return load_material(config).class_names


def choose_material(materials: Materials, streams: Streams, index: int) -> int:
    """Which material structure `index` takes: its position, by a permutation for each pass."""
    turn, place = divmod(index, len(materials))
    return int(_permute(streams, len(materials), turn)[place])


def layer_distance(config: configs.Structure, material: Material) -> float:
    """Distance in A between the middles of neighbouring layers: given, known, or estimated.

    The estimate is the height of the layer and a van der Waals gap of 3.3 A.
    """
    if config.layers.distance is not None:
        return config.layers.distance
    return known_distance(config.material, material.height)


@functools.lru_cache(maxsize=4)
def _permute(streams: Streams, count: int, turn: int) -> np.ndarray:
    return streams("structure/material", turn).permutation(count)


@functools.lru_cache(maxsize=8)
def _load(config: configs.Material) -> Material:
    if config.file is not None:
        return _read_material(config.file)
    return build_prototype(config)


def _read_material(path: str) -> Material:
    """The unit cell of a crystal file, one class of sites for each element."""
    from ase.data import chemical_symbols

    crystal = lattices.read_crystal(path, layers=True)
    positions = to_cartesian(crystal.fractional, crystal.cell)
    fault = describe_fault(crystal.cell, positions, crystal.numbers)
    if fault:
        raise ConfigError(f"crystal file {path} {fault}")
    stood = stand_up(crystal.cell, positions)
    if isinstance(stood, str):
        raise ConfigError(f"crystal file {path} {stood}; give a layer or a bulk crystal")
    cell, positions, periodic = stood
    symbols = [chemical_symbols[number] for number in crystal.numbers]
    names = tuple(sorted(set(symbols)))
    classes = np.array([names.index(symbol) for symbol in symbols], dtype=np.uint8)
    formula = write_formula(crystal.numbers)
    return Material(
        cell, positions, crystal.numbers, classes, names, formula, periodic, crystal.name
    )


def _check_keys(config: configs.Structure) -> None:
    """Refuse keys of bulk crystals beside those of layers."""
    if config.thickness is None and config.zone_axis != (0, 0, 1):
        raise ConfigError(
            f"structure.zone_axis {list(config.zone_axis)} is for a bulk crystal, whose "
            "structure.thickness must be given; two-dimensional materials lie across the beam"
        )
    if config.thickness is None:
        return
    reduce_axis(config.zone_axis)
    if config.layers != configs.Layers():
        raise ConfigError(
            "structure.layers is for a two-dimensional material; a bulk crystal has a "
            "structure.thickness"
        )


def _describe_mismatch(config: configs.Structure, material: Material) -> str:
    """Why a material is not of the kind that the campaign images, following its name, or ''."""
    if config.thickness is None and material.periodic == 3:
        return (
            "is a bulk crystal (no 6 A of vacuum along any axis of its cell) and this campaign "
            "images two-dimensional materials; give structure.thickness for a film of it"
        )
    if config.thickness is not None and material.periodic == 2:
        return (
            "is two-dimensional and has no structure.thickness; leave that key out, or give a bulk "
            "crystal"
        )
    return ""
