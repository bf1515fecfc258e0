"""What can be asked of a subset, as it is written on the command line and in Python."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from numbers import Integral
from typing import Any

from hpctem.errors import ConfigError
from hpctem.subsets.splits import parse_fractions

STRUCTURE = "structure_id"


@dataclass(frozen=True)
class Request:
    """What a subset was asked for; `hpctem subset --help` says what each means.

    Texts are as they are written on the command line; they are checked when made by `ask`.
    """

    where: str | None = None
    sample: tuple[str, ...] = ()
    per: tuple[str, ...] = ()
    stratify: tuple[str, ...] = ()
    balance: tuple[str, ...] = ()
    combinations: str | None = None
    split: str | None = None
    folds: int | None = None
    group: str = STRUCTURE
    draws: int = 1
    seed: int = 0
    allow_fewer: bool = False


@dataclass(frozen=True)
class Step:
    """One drawing: `count` units, of all rows or of every group.

    unit    column whose values are the units; '' for single rows
    group   column whose values are the groups that each give `count`; '' for all rows together
    """

    text: str
    count: int
    unit: str = ""
    group: str = ""


def ask(
    where: str | None = None,
    sample: int | str | Iterable[int | str] = (),
    per: str | Iterable[str] = (),
    stratify: str | Iterable[str] = (),
    balance: str | Iterable[str] = (),
    combinations: str | None = None,
    split: str | Mapping[str, Any] | None = None,
    folds: int | None = None,
    group: str | None = None,
    draws: int = 1,
    seed: int = 0,
    allow_fewer: bool = False,
) -> Request:
    """The request of these options, those that can be given several times as one text or several.

    Raises ConfigError for what cannot be meant.
    """
    if isinstance(split, Mapping):
        split = ",".join(f"{name}={_as_fraction(part)}" for name, part in split.items())
    if split is not None and folds is not None:
        raise ConfigError("give either a split or folds: each fold has parts train and validation")
    if not isinstance(group, str | None):
        raise ConfigError(f"the group {group!r} is no name of a column")
    if group not in (None, STRUCTURE) and split is None and folds is None:
        raise ConfigError(f"the group {group!r} is kept together by a split or folds: give one")
    for number, name, least in ((draws, "draws", 1), (folds, "folds", 2), (seed, "seed", 0)):
        if number is not None and not (isinstance(number, Integral) and number >= least):
            raise ConfigError(f"{name} is {number!r}; it is a whole number from {least} on")
    request = Request(
        where,
        _list(sample),
        _list(per),
        _list(stratify),
        _list(balance),
        combinations,
        split,
        None if folds is None else int(folds),
        group or STRUCTURE,
        int(draws),
        int(seed),
        bool(allow_fewer),
    )
    sample_steps(request)
    per_steps(request)
    if split is not None:
        parse_fractions(split)
    columns = [column for column, _ in map(parse_stratum, request.stratify)]
    for column in columns:
        if columns.count(column) > 1:
            raise ConfigError(f"stratify: column {column} is named twice")
    if combinations is not None and combinations not in columns:
        raise ConfigError(
            f"combinations of {combinations!r}: give the column its strata with stratify, as "
            f"{combinations}:0,10,20"
        )
    return request


def _list(values: Any) -> tuple[str, ...]:
    given = values if isinstance(values, Iterable) and not isinstance(values, str) else [values]
    return tuple(str(value).strip() for value in given)


def _as_fraction(part: Any) -> Any:
    # 2/3 as a float is meant as the fraction.
    return Fraction(part).limit_denominator(10**6) if isinstance(part, float) else part


def sample_steps(request: Request) -> tuple[Step, ...]:
    """The drawings of `sample`: 'N' rows or 'N:COLUMN' values with all their rows.

    Raises ConfigError for anything else, and where single rows are drawn twice.
    """
    steps = []
    for text in request.sample:
        found = re.fullmatch(r"(\d+)(?::(\S+))?", text)
        if not found or not int(found[1]):
            raise ConfigError(
                f"sample: {text!r} is neither N rows nor N:COLUMN; write 1024 or 128:structure_id"
            )
        steps.append(Step(f"sample {text}", int(found[1]), found[2] or ""))
    if sum(not step.unit for step in steps) > 1:
        raise ConfigError("sample: a number of rows is given twice; give one, and N:COLUMN besides")
    return tuple(steps)


def per_steps(request: Request) -> tuple[Step, ...]:
    """The drawings of `per`: 'COLUMN:K' rows, or 'COLUMN:K:UNIT' values of UNIT, for each value.

    Raises ConfigError for anything else.
    """
    steps = []
    for text in request.per:
        found = re.fullmatch(r"([^\s:]+):(\d+)(?::([^\s:]+))?", text)
        if not found or not int(found[2]):
            raise ConfigError(
                f"per: {text!r} is no COLUMN:K or COLUMN:K:UNIT; write structure_id:3 for three "
                "images of each structure, structure_id:3:focus_index for three foci"
            )
        steps.append(Step(f"per {text}", int(found[2]), found[3] or "", found[1]))
    return tuple(steps)


def parse_stratum(text: str) -> tuple[str, str | None]:
    """Column and edges of 'COLUMN:e1,e2,...' or 'COLUMN'.

    Raises ConfigError for an empty column.
    """
    column, colon, edges = (part.strip() for part in text.partition(":"))
    if not column or (colon and not edges):
        raise ConfigError(
            f"strata: {text!r} is no COLUMN or COLUMN:EDGES; write campaign or dose:0,500,1000"
        )
    return column, edges if colon else None
