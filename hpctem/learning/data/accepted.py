"""Which images of translated databases may be used: those that passed their check."""

from __future__ import annotations

import numpy as np

from hpctem.collection.collection import Collection
from hpctem.errors import ConfigError

ACCEPTED = "accepted"


def take_accepted(images: Collection) -> Collection:
    """Without images of translated databases that failed their check: `accepted` is 0.

    Raises ConfigError where none is left.
    """
    if ACCEPTED not in images.columns:
        return images
    # A database that was not translated has no such column: NaN there.
    kept = images.take(np.flatnonzero(images.column(ACCEPTED) != 0))
    if len(images) and not len(kept):
        raise ConfigError(
            f"none of {len(images)} translated images was accepted; hpctem query --where "
            f'"{ACCEPTED} = 0" --columns reason tells why'
        )
    return kept
