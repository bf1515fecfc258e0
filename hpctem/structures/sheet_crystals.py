"""The crystals of a STEM campaign's structures, made ready to fill a field of view."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from hpctem.sampling import Streams
from hpctem.sections import stem as configs
from hpctem.structures.filling import Unit, prepare_unit
from hpctem.structures.materials import (
    Material,
    bravais_class,
    choose_material,
    class_names,
    list_materials,
    load_material,
    orient,
    pick_material,
    space_group,
)
from hpctem.structures.recipes import atomic_number


@dataclass(frozen=True)
class SheetCrystal:
    """A material and its cell as it is laid down: of a bulk crystal along its zone axis."""

    material: Material
    zone_axis: tuple[int, int, int]
    unit: Unit

    @functools.cached_property
    def description(self) -> Mapping[str, Any]:
        """What the table of structures says of it; raises SampleError as `space_group`."""
        a, b = self.unit.vectors[:2, :2].tolist()
        lengths = math.hypot(*a), math.hypot(*b)
        cos = (a[0] * b[0] + a[1] * b[1]) / (lengths[0] * lengths[1])
        return {
            "material": self.material.name,
            "material_id": self.material.identifier,
            "bravais": bravais_class(self.material, self.zone_axis),
            "space_group": space_group(self.material)[0],
            "a": lengths[0],
            "b": lengths[1],
            "gamma": math.acos(min(max(cos, -1.0), 1.0)),
        }


@functools.lru_cache(maxsize=8)
def load_crystal(config: configs.Material, zone_axis: tuple[int, int, int]) -> SheetCrystal:
    """The crystal of a prototype or a file; raises ConfigError."""
    return prepare_crystal(load_material(config), zone_axis)


def take_crystal(config: configs.Structure, streams: Streams, index: int) -> SheetCrystal:
    """The crystal of structure `index`: of a database the one whose turn it is.

    Raises SampleError for a row of a database that cannot be imaged, or not by this campaign.
    """
    materials = list_materials(config.material)
    if materials is None:
        return load_crystal(config.material, config.zone_axis)
    return _pick_crystal(config, choose_material(materials, streams, index))


@functools.lru_cache(maxsize=1 << 13)
def _pick_crystal(config: configs.Structure, chosen: int) -> SheetCrystal:
    return prepare_crystal(pick_material(config, chosen), config.zone_axis)


def prepare_crystal(material: Material, zone_axis: tuple[int, int, int]) -> SheetCrystal:
    """Make a material ready to fill a field."""
    laid = orient(material, zone_axis) if material.periodic == 3 else material
    vectors = laid.cell[: laid.periodic]
    unit = prepare_unit(vectors, laid.positions, laid.numbers, laid.classes)
    return SheetCrystal(material, zone_axis, unit)


def describe_lack_of_room(crystal: SheetCrystal, field: tuple[float, float]) -> str:
    """What is wrong where the field (lx, ly) A is smaller than the crystal's cell, or ''."""
    a, b = (math.hypot(*vector) for vector in crystal.unit.vectors[:2, :2].tolist())
    if min(field) >= max(a, b):
        return ""
    return (
        f"the field of view of {field[0]:.4g} x {field[1]:.4g} A is smaller than the cell of "
        f"{crystal.material.name}, {a:.4g} x {b:.4g} A; enlarge imaging.pixels or imaging.sampling"
    )


def site_classes(config: configs.Structure) -> tuple[str, ...]:
    """Names of the classes of sites; tags of atoms are 1 + the index among them."""
    return class_names(config.material)


def match_sites(
    defect: configs.PointDefect,
    class_names: tuple[str, ...],
    classes: np.ndarray,
    numbers: np.ndarray,
) -> np.ndarray:
    """Which sites a kind of defect can take, (n,) bool.

    Those of its class or, where it names an element, of that element; an atom that is of the
    element which would replace it is no site of it. classes, numbers: (n,) uint8.
    """
    if defect.site in class_names:
        match = classes == class_names.index(defect.site)
    else:
        match = numbers == atomic_number(defect.site)
    if defect.element is not None:
        match &= numbers != atomic_number(defect.element)
    return match


def defects_of_columns(config: configs.Structure) -> list[configs.PointDefect]:
    """The kinds of defects of the crystal's columns, in their order."""
    return [defect for defect in config.defects if defect.kind != "adatom"]


def adatoms_of(config: configs.Structure) -> list[configs.PointDefect]:
    """The kinds of adatoms, in their order."""
    return [defect for defect in config.defects if defect.kind == "adatom"]
