"""Quantities as a person writes them, `-40 nm` or `400 e/A^2`, in the units computed with.

Internally lengths are angstrom, energies eV, angles radian, doses electrons per square angstrom,
currents pA, times microseconds, speeds angstrom per second.
"""

from __future__ import annotations

import math
import re

# Each dimension: unit -> factor to the internal unit, which is the entry with factor 1.
UNITS: dict[str, dict[str, float]] = {
    "length": {"A": 1.0, "pm": 1e-2, "nm": 10.0, "um": 1e4, "mm": 1e7, "m": 1e10},
    "energy": {"eV": 1.0, "keV": 1e3, "MeV": 1e6},
    "angle": {"rad": 1.0, "mrad": 1e-3, "deg": math.pi / 180.0},
    "dose": {"e/A^2": 1.0, "e/nm^2": 1e-2},
    "number density": {"/A^3": 1.0, "/nm^3": 1e-3},
    "current": {"pA": 1.0, "nA": 1e3},
    "time": {"us": 1.0, "ns": 1e-3, "ms": 1e3, "s": 1e6},
    "speed": {"A/s": 1.0, "nm/s": 10.0, "nm/min": 10.0 / 60.0, "pm/s": 1e-2},
}
_SPELLINGS = {
    "\u00c5": "A",
    "\u212b": "A",
    "angstrom": "A",
    "Angstrom": "A",
    "µm": "um",
    "μm": "um",
    "micron": "um",
    "µs": "us",
    "μs": "us",
    "kV": "keV",
    "°": "deg",
    "degree": "deg",
    "degrees": "deg",
    "radian": "rad",
}
_QUANTITY = re.compile(r"\s*([-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)\s*(.*?)\s*")


def internal_unit(dimension: str) -> str:
    """The unit in which values of a dimension are computed and stored."""
    return next(unit for unit, factor in UNITS[dimension].items() if factor == 1.0)


def _spell(unit: str) -> str:
    unit = unit.replace("²", "^2").replace("³", "^3").replace("**", "^").replace(" ", "")
    unit = unit.replace("electrons/", "e/").replace("e-/", "e/").replace("atoms/", "/")
    unit = re.sub(r"^1/", "/", unit)
    for long, short in _SPELLINGS.items():
        if unit == long or unit.endswith(f"/{long}^2") or unit.endswith(f"/{long}^3"):
            unit = unit.replace(long, short)
    return unit


def parse_number(value: object) -> float:
    """A dimensionless number; raises ValueError for anything else (also NaN and infinity)."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError(f"{value!r} is not a number")
    try:
        number = float(value)
    except ValueError:
        raise ValueError(f"{value!r} is not a number") from None
    if not math.isfinite(number):
        raise ValueError(f"{value!r} is not a finite number")
    return number


def parse_quantity(value: object, dimension: str | None) -> float:
    """A quantity of a dimension in its internal unit; without dimension, a bare number.

    Raises ValueError that names the units to choose from when the unit is missing or wrong.
    """
    if dimension is None:
        return parse_number(value)
    units = UNITS[dimension]
    example = f"{value} {internal_unit(dimension)}"
    if isinstance(value, int | float) and not isinstance(value, bool):
        raise ValueError(
            f"{value} has no unit: write it as '{example}' "
            f"(units of {dimension}: {', '.join(units)})"
        )
    match = _QUANTITY.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise ValueError(
            f"{value!r} is no {dimension}; write a number and a unit, as '1 "
            f"{internal_unit(dimension)}'"
        )
    number, unit = float(match[1]), _spell(match[2])
    if not unit:
        raise ValueError(
            f"{value!r} has no unit: write it as '{example}' "
            f"(units of {dimension}: {', '.join(units)})"
        )
    if unit not in units:
        raise ValueError(
            f"{match[2]!r} in {value!r} is not a unit of {dimension}; use one of {', '.join(units)}"
        )
    return number * units[unit]
