"""Known lattices, by which pixels are measured: 'mos2', 'graphene', 'a=3.16A,hexagonal'."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from hpctem.errors import ConfigError
from hpctem.sections import stem as configs
from hpctem.sections.common import nearest
from hpctem.structures.prototypes import (
    CARBON_LIKE,
    DICHALCOGENIDES,
    NITRIDE_LIKE,
    PEROVSKITES,
    build_prototype,
)
from hpctem.structures.unit_cells import Material
from hpctem.units import parse_quantity

ANGLES = {"hexagonal": 2 * math.pi / 3, "square": math.pi / 2}


@dataclass(frozen=True)
class KnownLattice:
    """A two-dimensional lattice of known size.

    name: as it is called. vectors: (2, 2) float64 A, rows a1, a2. material: its unit cell where the
    atoms are known too, with `config`, the campaign's keys for it; else None.
    """

    name: str
    vectors: np.ndarray
    material: Material | None = None
    config: configs.Material | None = None


def parse_lattice(text: str) -> KnownLattice:
    """The lattice that a name or constants mean.

    text: a material of the table of prototypes, in any case ('mos2', '1T-TaS2', 'graphene', 'hbn',
    'srtio3'), or its constants, 'a=3.16A,hexagonal', 'a=3.9A,square' or 'a=3.5A,b=4.6A' with an
    'angle=90deg'. Raises ConfigError for anything else, with the nearest name.
    """
    if "=" in text:
        return _parse_constants(text)
    table = {name.lower(): config for name, config in known_materials().items()}
    config = table.get(text.strip().lower())
    if config is None:
        raise ConfigError(
            f"no lattice is called {text!r}{nearest(text.lower(), table)}; known are materials "
            "such as graphene, hbn, mos2, 1t-tas2 and srtio3, or write a=3.16A,hexagonal"
        )
    material = build_prototype(configs.Material.model_validate(config))
    parsed = configs.Material.model_validate(config)
    return KnownLattice(material.name, material.cell[:2, :2].copy(), material, parsed)


def known_materials() -> dict[str, dict[str, object]]:
    """Every material of the table by its name: the campaign's keys for it."""
    found: dict[str, dict[str, object]] = {}
    for phase, table in DICHALCOGENIDES.items():
        for symbols in table:
            keys: dict[str, object] = {"prototype": phase, "elements": list(symbols)}
            name = "".join(symbols) + "2"
            found[f"{phase}-{name}"] = keys
            found.setdefault(name, keys)
    found |= {
        "".join(symbols) + "3": {"prototype": "perovskite", "elements": list(symbols)}
        for symbols in PEROVSKITES
    }
    for prototype, constants in (("graphene", CARBON_LIKE), ("hbn", NITRIDE_LIKE)):
        if constants:
            found[prototype] = {"prototype": prototype}
    return found


def _parse_constants(text: str) -> KnownLattice:
    values: dict[str, float] = {}
    angle = None
    for part in text.split(","):
        name, equals, value = (piece.strip() for piece in part.partition("="))
        try:
            if not equals and name.lower() in ANGLES:
                angle = ANGLES[name.lower()]
            elif name in ("a", "b") and equals:
                values[name] = parse_quantity(value, "length")
            elif name == "angle" and equals:
                angle = parse_quantity(value, "angle")
            else:
                raise ValueError(f"{part.strip()!r} is not understood")
        except ValueError as error:
            raise ConfigError(
                f"the lattice {text!r}: {error}; write a=3.16A,hexagonal or a=3.9A,square or "
                "a=3.5A,b=4.6A,angle=90deg"
            ) from None
    if "a" not in values:
        raise ConfigError(f"the lattice {text!r} has no 'a'; write a=3.16A,hexagonal")
    if angle is None:
        angle = ANGLES["square"] if "b" in values else ANGLES["hexagonal"]
    a, b = values["a"], values.get("b", values["a"])
    if not (0.5 <= min(a, b) and max(a, b) <= 200 and 0.17 <= angle <= math.pi - 0.17):
        raise ConfigError(
            f"the lattice {text!r} is out of range: a and b lie between 0.5 A and 200 A, the angle "
            "between 10 deg and 170 deg"
        )
    return KnownLattice(text, np.array([[a, 0.0], [b * math.cos(angle), b * math.sin(angle)]]))
