"""Prototypes: graphene, hexagonal boron nitride, MX2 in 1H and 1T, cubic perovskites.

Constants are those measured, of the bulk at room temperature, to a picometre or two: MX2 after
Wilson and Yoffe, Adv. Phys. 18, 193 (1969); WS2, WSe2: Schutte, De Boer and Jellinek, J. Solid
State Chem. 70, 207 (1987); MoSe2, MoTe2: Bronsema, De Boer and Jellinek, Z. anorg. allg. Chem. 540,
15 (1986); NbSe2: Meerschaut and Deudon, Mater. Res. Bull. 36, 1721 (2001); TiSe2: Riekel, J. Solid
State Chem. 17, 389 (1976); NiTe2, PdTe2, PtX2: Furuseth, Selte and Kjekshus, Acta Chem. Scand. 19,
257 (1965). Those marked * are computed ones of the monolayer, as in Haastrup et al., 2D Mater. 5,
042002 (2018). Perovskites: the cubic phase, or the cube root of the volume of a formula unit.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from hpctem.errors import ConfigError
from hpctem.sections import stem as configs
from hpctem.structures.lattices import VACUUM
from hpctem.structures.recipes import atomic_number
from hpctem.structures.unit_cells import HEAVIEST, Material, write_formula

THIRDS = ((1 / 3, 2 / 3), (2 / 3, 1 / 3))
VAN_DER_WAALS = 3.3  # A, between the planes of atoms that face each other


@dataclass(frozen=True)
class Dichalcogenide:
    """Constants of MX2 in A: a, the distance between the planes of X, and that of the layers."""

    a: float
    thickness: float
    distance: float


Symbols = tuple[str, ...]

# Symbols -> in-plane constant and distance of the layers, A.
CARBON_LIKE: dict[Symbols, tuple[float, float]] = {("C",): (2.461, 3.354)}
NITRIDE_LIKE: dict[Symbols, tuple[float, float]] = {("B", "N"): (2.504, 3.330)}
# Of each prototype, and what it is of unless elements are given.
HONEYCOMBS = {"graphene": (CARBON_LIKE, ("C",)), "hbn": (NITRIDE_LIKE, ("B", "N"))}

PRISMATIC: dict[Symbols, Dichalcogenide] = {  # 1H
    ("Mo", "S"): Dichalcogenide(3.160, 3.172, 6.147),
    ("Mo", "Se"): Dichalcogenide(3.289, 3.335, 6.464),
    ("Mo", "Te"): Dichalcogenide(3.519, 3.610, 6.982),
    ("W", "S"): Dichalcogenide(3.153, 3.142, 6.162),
    ("W", "Se"): Dichalcogenide(3.282, 3.341, 6.480),
    ("W", "Te"): Dichalcogenide(3.550, 3.620, 7.020),  # *
    ("Nb", "S"): Dichalcogenide(3.324, 3.130, 5.981),
    ("Nb", "Se"): Dichalcogenide(3.444, 3.330, 6.272),
    ("Ta", "S"): Dichalcogenide(3.314, 3.118, 6.048),
    ("Ta", "Se"): Dichalcogenide(3.437, 3.338, 6.360),
}
OCTAHEDRAL: dict[Symbols, Dichalcogenide] = {  # 1T
    ("Mo", "S"): Dichalcogenide(3.180, 3.140, 6.150),  # *
    ("Ti", "S"): Dichalcogenide(3.407, 2.849, 5.695),
    ("Ti", "Se"): Dichalcogenide(3.540, 3.064, 6.008),
    ("Ti", "Te"): Dichalcogenide(3.777, 3.415, 6.498),
    ("Zr", "S"): Dichalcogenide(3.662, 2.907, 5.813),
    ("Zr", "Se"): Dichalcogenide(3.771, 3.120, 6.149),
    ("Hf", "S"): Dichalcogenide(3.635, 2.919, 5.837),
    ("Hf", "Se"): Dichalcogenide(3.748, 3.140, 6.159),
    ("V", "S"): Dichalcogenide(3.221, 2.950, 5.755),
    ("V", "Se"): Dichalcogenide(3.356, 3.135, 6.104),
    ("Ta", "S"): Dichalcogenide(3.365, 3.050, 5.897),
    ("Ta", "Se"): Dichalcogenide(3.477, 3.180, 6.272),
    ("Ni", "Te"): Dichalcogenide(3.854, 2.630, 5.260),
    ("Pd", "Te"): Dichalcogenide(4.037, 2.760, 5.126),
    ("Pt", "S"): Dichalcogenide(3.543, 2.460, 5.039),  # * thickness
    ("Pt", "Se"): Dichalcogenide(3.728, 2.591, 5.081),
    ("Pt", "Te"): Dichalcogenide(4.026, 2.652, 5.221),
    ("Sn", "S"): Dichalcogenide(3.648, 2.950, 5.899),
    ("Sn", "Se"): Dichalcogenide(3.811, 3.070, 6.137),
    ("Cd", "I"): Dichalcogenide(4.240, 3.420, 6.840),
    ("Pb", "I"): Dichalcogenide(4.557, 3.730, 6.979),
}
DICHALCOGENIDES = {"1H": PRISMATIC, "1T": OCTAHEDRAL}

PEROVSKITES: dict[Symbols, float] = {
    ("Sr", "Ti", "O"): 3.905,
    ("Ba", "Ti", "O"): 4.000,
    ("Ca", "Ti", "O"): 3.826,
    ("Pb", "Ti", "O"): 3.970,
    ("La", "Al", "O"): 3.790,
    ("La", "Mn", "O"): 3.880,
    ("La", "Fe", "O"): 3.930,
    ("La", "Ni", "O"): 3.840,
    ("Sr", "Ru", "O"): 3.930,
    ("Sr", "V", "O"): 3.843,
    ("Sr", "Mn", "O"): 3.805,
    ("K", "Ta", "O"): 3.989,
    ("K", "Nb", "O"): 4.022,
    ("Bi", "Fe", "O"): 3.960,
    ("Dy", "Sc", "O"): 3.945,
    ("Nd", "Ga", "O"): 3.863,
    ("Ba", "Sn", "O"): 4.116,
    ("Ba", "Zr", "O"): 4.193,
    ("Cs", "Pb", "Cl"): 5.605,
    ("Cs", "Pb", "Br"): 5.874,
    ("Cs", "Pb", "I"): 6.289,
}

CLASS_NAMES = {
    "graphene": ("carbon",),
    "hbn": ("boron", "nitrogen"),
    "1H": ("metal", "chalcogen"),
    "1T": ("metal", "chalcogen"),
    "perovskite": ("a_site", "b_site", "anion"),
}


def build_prototype(config: configs.Material) -> Material:
    """The unit cell of a prototype, of known constants or those given.

    Layers have a along x and b at 120 degrees; the point between their atoms is the origin (in 1T,
    the metal). Raises ConfigError for an unknown element and where a constant is neither known nor
    given.
    """
    kind = config.prototype
    if kind == "graphene" or kind == "hbn":
        return _build_honeycomb(config, kind)
    if kind == "1H" or kind == "1T":
        return _build_dichalcogenide(config, kind)
    if kind == "perovskite":
        return _build_perovskite(config)
    raise ConfigError("structure.material has no 'prototype'")


def known_distance(config: configs.Material, height: float) -> float:
    """Distance in A between the middles of neighbouring layers of a two-dimensional material.

    The measured one of known prototypes, else height (A, from the lowest to the highest atom) and
    the van der Waals gap of 3.3 A.
    """
    symbols = config.elements
    if config.prototype in HONEYCOMBS:
        table, default = HONEYCOMBS[config.prototype]
        return table.get(symbols or default, (0.0, height + VAN_DER_WAALS))[1]
    if config.prototype in DICHALCOGENIDES:
        known = DICHALCOGENIDES[config.prototype]
        found = [known.get((symbols[0], x)) for x in symbols[1:]]
        if all(found) and config.thickness is None:
            return sum(one.distance for one in found if one) / len(found)
    return height + VAN_DER_WAALS


def _build_honeycomb(config: configs.Material, kind: str) -> Material:
    table, default = HONEYCOMBS[kind]
    symbols = config.elements or default
    if config.a is None and symbols not in table:
        raise _unknown_constant("a", kind, symbols, table)
    a = config.a if config.a is not None else table[symbols][0]
    numbers = [_number(symbol) for symbol in symbols] * (2 // len(symbols))
    classes = list(range(len(symbols))) * (2 // len(symbols))
    name = {"graphene": "graphene", "hbn": "hBN"}[kind] if symbols == default else ""
    return _layer(config, a, [(*site, 0.0) for site in THIRDS], numbers, classes, name)


def _build_dichalcogenide(config: configs.Material, kind: str) -> Material:
    table = DICHALCOGENIDES[kind]
    metal, above, below = (*config.elements, config.elements[-1])[:3]
    found = [table.get((metal, x)) for x in (above, below)]
    known = [one for one in found if one is not None]
    for key in ("a", "thickness"):
        if getattr(config, key) is None and len(known) < 2:
            raise _unknown_constant(key, kind, (metal, above, below), table)
    a = config.a if config.a is not None else sum(one.a for one in known) / 2
    # Of a Janus layer either bond is as long as in its own MX2, the constant their mean.
    heights = [_plane_height(one, a) for one in known]
    if len(heights) < 2:
        heights = _heights_by_radii(metal, (above, below), a)
    if above == below:
        heights = [heights[0]] * 2 if config.thickness is not None else [known[0].thickness / 2] * 2
    if config.thickness is not None:
        scale = config.thickness / sum(heights)
        heights = [scale * height for height in heights]
    up, down = heights
    first, second = THIRDS
    if kind == "1H":
        sites = [(*first, 0.0), (*second, up), (*second, -down)]
    else:
        sites = [(0.0, 0.0, 0.0), (*first, up), (*second, -down)]
    numbers = [_number(symbol) for symbol in (metal, above, below)]
    return _layer(config, a, sites, numbers, [0, 1, 1], "", f"{kind}-")


def _plane_height(known: Dichalcogenide, a: float) -> float:
    """Height of X above M, A, where a bond has the length of the known compound at constant a."""
    square = known.a**2 / 3 + known.thickness**2 / 4 - a**2 / 3
    return math.sqrt(square) if square > 0.25 else known.thickness / 2


def _heights_by_radii(metal: str, chalcogens: tuple[str, str], a: float) -> list[float]:
    """Heights of X above and below M, A, in the ratio that covalent radii give."""
    from ase.data import covalent_radii

    bonds = [float(covalent_radii[_number(metal)] + covalent_radii[_number(x)]) for x in chalcogens]
    return [math.sqrt(max(bond**2 - a**2 / 3, 0.25)) for bond in bonds]


def _layer(
    config: configs.Material,
    a: float,
    sites: list[tuple[float, float, float]],
    numbers: list[int],
    classes: list[int],
    name: str,
    prefix: str = "",
) -> Material:
    """A hexagonal layer; sites: fractions of a and b, and the height in A."""
    kind = str(config.prototype)
    u, v, z = np.array(sites).T
    height = float(np.ptp(z))
    cell = np.array(
        [[a, 0.0, 0.0], [-a / 2, a * math.sqrt(3.0) / 2, 0.0], [0.0, 0.0, height + VACUUM]]
    )
    positions = u[:, None] * cell[0] + v[:, None] * cell[1]
    positions[:, 2] = z - z.min()
    kinds = np.array(numbers, dtype=np.uint8)
    name = name or prefix + write_formula(kinds)
    return Material(
        cell, positions, kinds, np.array(classes, dtype=np.uint8), CLASS_NAMES[kind], name, 2, kind
    )


def _build_perovskite(config: configs.Material) -> Material:
    if config.a is None and config.elements not in PEROVSKITES:
        raise _unknown_constant("a", "perovskite", config.elements, PEROVSKITES)
    a = config.a if config.a is not None else PEROVSKITES[config.elements]
    sites = np.array([(0, 0, 0), (0.5, 0.5, 0.5), (0.5, 0.5, 0), (0.5, 0, 0.5), (0, 0.5, 0.5)])
    first, second, anion = (_number(symbol) for symbol in config.elements)
    name = "".join(config.elements) + "3"
    return Material(
        a * np.eye(3),
        a * sites,
        np.array([first, second, anion, anion, anion], dtype=np.uint8),
        np.array([0, 1, 2, 2, 2], dtype=np.uint8),
        CLASS_NAMES["perovskite"],
        name,
        3,
        "perovskite",
    )


def _number(symbol: str) -> int:
    number = atomic_number(symbol)
    if number > HEAVIEST:
        raise ConfigError(
            f"structure.material.elements: {symbol} is element {number}; scattering factors end "
            f"with element {HEAVIEST}"
        )
    return number


def _unknown_constant(
    key: str, kind: str, symbols: Symbols, table: Mapping[Symbols, object]
) -> ConfigError:
    for symbol in symbols:
        _number(symbol)  # an unknown element is the greater mistake
    unit = "3.2 A" if key == "a" else "3.3 A"
    known = ", ".join("".join(one) for one in table)
    return ConfigError(
        f"structure.material: {kind} of {' '.join(symbols)} has no known constant {key!r}; give "
        f"it, as 'structure.material.{key}: {unit}' (known are those of {known})"
    )
