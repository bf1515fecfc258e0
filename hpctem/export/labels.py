"""Which label maps go with an export, and what each of them is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hpctem.collection.stacks import find_stack, list_stacks, tell_classes
from hpctem.database.reader import Database
from hpctem.database.schema import Field
from hpctem.errors import ConfigError

ALL, NONE = "all", "none"


@dataclass(frozen=True)
class Label:
    """One label map of the export.

    name         in the database
    key          in the export: 'label' where it is the only one, else its name
    classes      names of the values 1, 2, ...; () where they are not named
    scale        what a stored 1 means
    units        of the values, '' for pure numbers
    """

    name: str
    key: str
    dtype: np.dtype
    description: str = ""
    classes: tuple[str, ...] = ()
    scale: float = 1.0
    units: str = ""


def plan_labels(
    databases: Sequence[Database], wanted: Sequence[str], kind: str, reals: bool
) -> tuple[Label, ...]:
    """The labels to export, in the order asked for or that of the first database.

    wanted   names, or ALL that every database has alike and the format can hold, or NONE
    kind     name of the format; reals: it can hold real numbers

    Raises ConfigError for a name that a database lacks, that means something else in another
    database, or that the format cannot hold.
    """
    wanted = tuple(wanted)
    if wanted == (NONE,):
        return ()
    if wanted == (ALL,):
        held = [list_stacks(database) for database in databases]
        common = [name for name in held[0] if all(name in stacks for stacks in held)]
        fields = {name: [stacks[name] for stacks in held] for name in common}
        fields = {n: f for n, f in fields.items() if not _find_fault(n, f, kind, reals)}
    else:
        fields = {name: [find_stack(d, name) for d in databases] for name in wanted}
        for name, found in fields.items():
            if fault := _find_fault(name, found, kind, reals):
                raise ConfigError(fault)
    return tuple(
        Label(
            name=name,
            key="label" if len(fields) == 1 else name,
            dtype=np.result_type(*(item.dtype for item in found)),
            description=found[0].description,
            classes=tell_classes(found[0]),
            scale=_tell_scale(found[0]),
            units=found[0].units,
        )
        for name, found in fields.items()
    )


def _find_fault(name: str, fields: Sequence[Field], kind: str, reals: bool) -> str:
    """Why a label cannot be exported, '' where it can; `fields` of it in each database."""
    if not reals and any(item.dtype.kind == "f" for item in fields):
        return (
            f"the label {name!r} holds real numbers, which {kind} cannot hold: choose tiff or "
            "another format, or leave it out of the labels"
        )
    told = {
        "classes": [", ".join(tell_classes(item)) or "none" for item in fields],
        "scale": [f"{_tell_scale(item):.4g}" for item in fields],
        "unit": [item.units or "none" for item in fields],
    }
    for what, texts in told.items():
        if len(set(texts)) > 1:
            return (
                f"the label {name!r} does not have the same {what} in all databases "
                f"({'; '.join(dict.fromkeys(texts))}): export them one by one, or leave it out of "
                "the labels"
            )
    return ""


def _tell_scale(item: Field) -> float:
    """What a stored 1 means."""
    return float(item.attributes.get("scale", 1.0))
