"""Which of a database's label maps are outlined on its images, and what the outlines mean."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from hpctem.collection.stacks import LABELS, tell_classes, tell_scale
from hpctem.database.schema import Field

KIND = "/entry/defects/kind"
HALF = 0.5


@dataclass(frozen=True)
class Marking:
    """Maps that become one mask.

    fields    the maps: one whose values stay, or one for each kind of defect
    names     what 1, 2, ... mean in the mask; () for particles, which have no names
    defects   the mask tells kinds of defects
    """

    fields: tuple[Field, ...]
    names: tuple[str, ...]
    defects: bool

    def merge(self, maps: Mapping[str, np.ndarray]) -> np.ndarray:
        """The mask (..., ny, nx), of those of path -> map (..., ny, nx): uint8.

        Where kinds overlap the later one is seen; of a Gaussian what is above its half.
        """
        if not self.defects:
            return maps[self.fields[0].path]
        mask = np.zeros(maps[self.fields[0].path].shape, np.uint8)
        for number, item in enumerate(self.fields, 1):
            mask[maps[item.path] * tell_scale(item) >= HALF] = number
        return mask


def list_kinds(fields: Sequence[Field]) -> tuple[str, ...]:
    """The kinds of defects that a database can hold, in their order."""
    return next((item.categories for item in fields if item.path == KIND), ())


def choose_marking(fields: Sequence[Field]) -> Marking | None:
    """What is outlined: the defects, without such maps the first map of whole numbers.

    `fields` of a layout; None where there is no such map.
    """
    maps = {item.name: item for item in fields if item.path == LABELS + item.name}
    kinds = [kind for kind in list_kinds(fields) if kind in maps]
    if kinds:
        return Marking(tuple(maps[kind] for kind in kinds), tuple(kinds), defects=True)
    return mark_classes(fields)


def mark_classes(fields: Sequence[Field]) -> Marking | None:
    """The first map of particles or of classes of atom columns; None where there is none."""
    kinds = list_kinds(fields)
    for item in fields:
        if item.path == LABELS + item.name and item.dtype.kind in "iu" and item.name not in kinds:
            return Marking((item,), tell_classes(item), defects=False)
    return None
