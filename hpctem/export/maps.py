"""What goes with each image of an export: label maps, images of further detectors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hpctem.collection.stacks import (
    GROUPS,
    LABELS,
    find_stack,
    join_names,
    list_stacks,
    tell_classes,
    tell_scale,
)
from hpctem.database.reader import Database
from hpctem.database.schema import Field
from hpctem.errors import ConfigError

ALL, NONE = "all", "none"


@dataclass(frozen=True)
class Map:
    """A label map of each image, or its image by a further detector.

    group        of the database, LABELS or DETECTORS
    name         in the database
    alone        it is the only label of the export
    segments     (n,) of a detector of n segments, the leading axis; () of all others
    classes      names of the values 1, 2, ...; () where they are not named
    scale        what a stored 1 means
    units        of the values, '' for pure numbers
    """

    group: str
    name: str
    alone: bool
    dtype: np.dtype
    segments: tuple[int, ...] = ()
    description: str = ""
    classes: tuple[str, ...] = ()
    scale: float = 1.0
    units: str = ""

    @property
    def path(self) -> str:
        """Its dataset in a database."""
        return self.group + self.name

    @property
    def pixel_bytes(self) -> int:
        """Bytes of one pixel, in all segments."""
        return self.dtype.itemsize * int(np.prod(self.segments))

    def spell(self, between: str, many: bool = False) -> str:
        """Its name in the export: 'label' of the only one, else 'label', between, its name.

        many   'labels' instead of 'label'
        """
        kind = GROUPS[self.group] + "s" * many
        return kind if self.alone else f"{kind}{between}{self.name}"


def plan_maps(
    databases: Sequence[Database],
    group: str,
    wanted: Sequence[str],
    kind: str,
    reals: bool,
    segments: bool,
) -> tuple[Map, ...]:
    """The labels or detectors to export, in the order asked for or that of the first database.

    wanted   names, or ALL that every database has alike and the format can hold, or NONE
    kind     name of the format
    reals    it can hold real numbers; segments: it can hold several images as one

    Raises ConfigError for a name that a database lacks, that means something else in another
    database, or that the format cannot hold.
    """
    wanted = tuple(wanted)
    if wanted == (NONE,):
        return ()
    if wanted == (ALL,):
        held = [list_stacks(database, group) for database in databases]
        common = [name for name in held[0] if all(name in stacks for stacks in held)]
        fields = {name: [stacks[name] for stacks in held] for name in common}
        faults = {n: _find_fault(group, n, f, kind, reals, segments) for n, f in fields.items()}
        fields = {name: found for name, found in fields.items() if not faults[name]}
    else:
        fields = {name: [find_stack(d, name, group) for d in databases] for name in wanted}
        for name, found in fields.items():
            if fault := _find_fault(group, name, found, kind, reals, segments):
                raise ConfigError(fault)
    return tuple(
        Map(
            group=group,
            name=name,
            alone=group == LABELS and len(fields) == 1,
            dtype=np.result_type(*(item.dtype for item in found)),
            segments=_tell_segments(found[0]),
            description=found[0].description,
            classes=tell_classes(found[0]),
            scale=tell_scale(found[0]),
            units=found[0].units,
        )
        for name, found in fields.items()
    )


def list_left(databases: Sequence[Database], group: str, maps: Sequence[Map]) -> tuple[str, ...]:
    """Names that some database has in a group and that are not exported."""
    exported = [each.name for each in maps]
    return tuple(name for name in join_names(databases, group) if name not in exported)


def _find_fault(
    group: str, name: str, fields: Sequence[Field], kind: str, reals: bool, segments: bool
) -> str:
    """Why a map cannot be exported, '' where it can; `fields` of it in each database."""
    what = GROUPS[group]
    held = "real numbers" if any(item.dtype.kind == "f" for item in fields) and not reals else ""
    if any(_tell_segments(item) for item in fields) and not segments:
        held = "images of several segments"
    if held:
        return (
            f"the {what} {name!r} holds {held}, which {kind} cannot hold: choose tiff or another "
            f"format, or leave it out of the {what}s"
        )
    told = {
        "classes": [", ".join(tell_classes(item)) or "none" for item in fields],
        "scale": [f"{tell_scale(item):.4g}" for item in fields],
        "unit": [item.units or "none" for item in fields],
        "segments": [str(*_tell_segments(item)) or "none" for item in fields],
    }
    for aspect, texts in told.items():
        if len(set(texts)) > 1:
            return (
                f"the {what} {name!r} does not have the same {aspect} in all databases "
                f"({'; '.join(dict.fromkeys(texts))}): export them one by one, or leave it out of "
                f"the {what}s"
            )
    return ""


def _tell_segments(item: Field) -> tuple[int, ...]:
    """The axes that stand before y and x."""
    return tuple(item.shape[:-2])
