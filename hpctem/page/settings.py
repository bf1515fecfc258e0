"""What a campaign asks for, key by key: its distributions and its fixed values."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from hpctem.config import Config
from hpctem.distributions import Drawn, Quantity
from hpctem.report import choose_unit
from hpctem.sampling import Distribution
from hpctem.sections.common import Section
from hpctem.units import UNITS, internal_unit


@dataclass(frozen=True)
class Setting:
    """One key of the campaign file with the value it has, given or by default.

    unit   internal unit of its numbers, '' for none
    asked  what was asked for in words, where its numbers are others than those of the file
    """

    key: str
    value: Any
    unit: str
    meaning: str
    asked: str = ""

    @property
    def drawn(self) -> bool:
        """The value is drawn, so that it differs from sample to sample."""
        return isinstance(self.value, Distribution) and self.value.kind != "constant"

    @property
    def text(self) -> str:
        """The value for a reader, with its unit."""
        return self.asked or describe_value(self.value, self.unit)


def list_settings(config: Config) -> list[Setting]:
    """Every key of a campaign that says something, in the order of the file's sections."""
    return list(_walk(config, ""))


def _walk(section: Section, prefix: str) -> Iterator[Setting]:
    for name, info in type(section).model_fields.items():
        value = getattr(section, name)
        key = f"{prefix}{name}"
        unit = _find_unit((info.annotation, *info.metadata))
        meaning = info.description or ""
        if isinstance(value, Section):
            yield from _walk(value, f"{key}.")
        elif isinstance(value, dict):
            for part, item in value.items():
                if isinstance(item, Section):
                    yield from _walk(item, f"{key}.{part}.")
                else:
                    yield Setting(f"{key}.{part}", item, unit, meaning)
        elif isinstance(value, tuple) and value and isinstance(value[0], Section):
            for place, item in enumerate(value):
                yield from _walk(item, f"{key}.{getattr(item, 'label', place)}.")
        elif value is not None and value != "" and value != ():
            yield Setting(key, value, unit, meaning)


def _find_unit(marks: tuple[Any, ...]) -> str:
    """The unit that a type is marked with, at whatever depth."""
    for mark in marks:
        if isinstance(mark, Drawn | Quantity):
            return internal_unit(mark.dimension) if mark.dimension in UNITS else ""
        inner = (*getattr(mark, "__args__", ()), *getattr(mark, "__metadata__", ()))
        if inner and (unit := _find_unit(inner)):
            return unit
    return ""


def describe_value(value: Any, unit: str) -> str:
    """A value of a campaign for a reader: 'normal, mean 4 nm, deviation 1 nm'."""
    if isinstance(value, Distribution):
        return describe_distribution(value, unit)
    if isinstance(value, tuple | list):
        if any(isinstance(item, str) for item in value):
            return ", ".join(map(str, value))
        return write_numbers(value, unit)
    if isinstance(value, int | float) and not isinstance(value, bool):
        return write_numbers((value,), unit)
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)


def choose_common_unit(values: Sequence[Any], unit: str) -> tuple[float, str]:
    """Factor and name of the unit for numbers that stand together: that of the largest.

    Lengths under 1.5 nm are those of atoms, in Å; angles from half a radian on are azimuths, in
    degrees.
    """
    largest = max((abs(v) for v in values if math.isfinite(v)), default=0.0)
    if unit in ("A", "angstrom") and largest < 15:
        return 1.0, "Å"
    if unit == "rad" and largest >= 0.5:
        return 180 / math.pi, "deg"
    return choose_unit(largest, unit)


def write_numbers(values: Sequence[Any], unit: str, between: str = ", ") -> str:
    """Numbers in a common unit, which is written once; six digits, no zeros at their end."""
    factor, shown = choose_common_unit(values, unit)
    return f"{between.join(f'{value * factor:.6g}' for value in values)} {shown}".strip()


def describe_distribution(distribution: Distribution, unit: str) -> str:
    """What a distribution is, in one line, with units."""
    kind, (low, high) = distribution.kind, distribution.parameters
    if kind == "constant":
        return describe_value(distribution.values[0], unit)
    if kind in ("choice", "grid"):
        text = describe_value(distribution.values, unit)
        if distribution.weights:
            text += " with weights " + " : ".join(f"{weight:g}" for weight in distribution.weights)
        if distribution.std:
            text += f", each with deviation {write_numbers((distribution.std,), unit)}"
        return f"{'one of' if kind == 'choice' else 'in turn'} {text}"
    if kind != "normal":
        name = "uniform" if kind == "uniform" else "log-uniform"
        return f"{name}, {write_numbers((low, high), unit, ' … ')}"
    factor, shown = choose_common_unit((low, high, *distribution.bounds), unit)
    mean, deviation = (f"{value * factor:.6g} {shown}".strip() for value in (low, high))
    text = f"normal, mean {mean}, deviation {deviation}"
    bounds = [bound for bound in distribution.bounds if math.isfinite(bound)]
    if not bounds:
        return text
    how = "clipped" if distribution.clip else "truncated"
    ends = " … ".join(f"{bound * factor:.6g}" for bound in bounds)
    side = ""
    if len(bounds) == 1:
        side = "at least " if math.isfinite(distribution.bounds[0]) else "at most "
    return f"{text}, {how} to {side}{ends} {shown}".strip()
