"""Pieces of SQL and what is known of their values: numbers in a unit, texts, categories."""

from __future__ import annotations

import difflib
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from hpctem.collection.names import Node
from hpctem.collection.sql import Source
from hpctem.collection.vocabulary import DIMENSIONS
from hpctem.units import parse_number, parse_quantity


@dataclass(frozen=True)
class Written:
    """SQL and what is known of its value.

    string       the text of a string constant
    numeric      it is a number, in `units`
    categories   the values it can have
    """

    text: str
    string: str | None = None
    numeric: bool = False
    units: str = ""
    categories: tuple[str, ...] = ()


def write_number(source: Source, value: float, node: Node) -> str:
    """A double in SQL, to the last bit (DuckDB takes 0.1 for a decimal).

    Raises ConfigError, with the place, for a number that is not finite.
    """
    if not math.isfinite(value):
        source.fail("the number is too large", node)
    written = repr(value)
    return f"({written})" if "e" in written else f"({written}e0)"


def fit(source: Source, values: list[Written], nodes: Sequence[Node]) -> list[Written]:
    """Values that stand beside each other: string constants become what the others are.

    Beside numbers they are numbers, in the unit of these; beside categories one of them.

    Raises ConfigError, with the place, for a text that is no such number or none of the categories,
    and for numbers of different units.
    """
    known = next((value for value in values if value.numeric and value.units), None)
    known = known or next((value for value in values if value.numeric), None)
    named = next((value for value in values if value.categories), None)
    fitted = []
    for value, node in zip(values, nodes, strict=True):
        if known is not None and value.units and value.units != known.units:
            source.fail(f"a value in {value.units} stands beside one in {known.units}", node)
        if value.string is not None and known is not None:
            value = _measure(source, value.string, known, node)
        elif value.string is not None and named and value.string not in named.categories:
            near = difflib.get_close_matches(value.string, named.categories, 1)
            hint = f"; nearest: {near[0]!r}" if near else ""
            several = ", ".join(named.categories[:8])
            source.fail(f"{value.string!r} is none of the values {several}{hint}", node)
        fitted.append(value)
    return fitted


def _measure(source: Source, text: str, known: Written, node: Node) -> Written:
    try:
        if known.units in DIMENSIONS:
            value = parse_quantity(text, DIMENSIONS[known.units])
        else:
            value = parse_number(text)
    except ValueError as error:
        source.fail(str(error), node)
    return Written(write_number(source, value, node), numeric=True, units=known.units)


def require_truth(source: Source, value: Written, node: Node) -> str:
    """SQL of a value that is true or false, such as a comparison.

    DuckDB takes any number but zero for true, so that `dose = 400 OR 1600` would be every image.

    Raises ConfigError, with the place, for a number and for a text.
    """
    if value.numeric or value.categories or value.string is not None:
        what = "number" if value.numeric else "text"
        source.fail(
            f"a {what} is neither true nor false: write each comparison in full, as "
            "'dose = 400 OR dose = 1600', or a list, as 'dose IN (400, 1600)'",
            node,
        )
    return value.text


def without_categories(value: Written) -> Written:
    """The same value, beside which any text may stand."""
    return replace(value, categories=())
