"""The order of samples in an epoch, and its steps: pure functions of seed and epoch."""

from __future__ import annotations

from collections.abc import Sized

import numpy as np

from hpctem.errors import ConfigError
from hpctem.subsets.draws import random_bits


def order(count: int, seed: int, epoch: int, turn: int = 0) -> np.ndarray:
    """The order of the samples of an epoch: an int64 permutation of 0 ... count - 1.

    turn   how often all samples have been seen before in this epoch: each time in another order
    """
    bits = random_bits(f"hpctem/learning/{seed}/order/{epoch}/{turn}", np.arange(count))
    return np.argsort(bits, kind="stable")


def number_positions(positions: np.ndarray, count: int, seed: int, epoch: int) -> np.ndarray:
    """Which samples stand at positions of an epoch: int64 numbers below `count`.

    Positions beyond the last sample begin again, in another order.
    """
    turns, within = np.divmod(np.asarray(positions, np.int64), count)
    numbers = np.empty(len(within), np.int64)
    for turn in np.unique(turns).tolist():
        here = turns == turn
        numbers[here] = order(count, seed, epoch, turn)[within[here]]
    return numbers


def steps_per_epoch(samples: Sized, batch: int, size: int) -> int:
    """Steps that go once through all samples: the same number on each of `size` ranks.

    Samples that do not fill a step are left for that epoch: others in each, as the order differs.

    Raises ConfigError where all samples together do not fill one step.
    """
    steps = len(samples) // (batch * size)
    if not steps:
        raise ConfigError(
            f"{len(samples)} samples do not fill one step of {batch} on each of {size} ranks, "
            f"{batch * size} in all: take more images, more patches_per_image, a smaller "
            "schedule.batch or fewer ranks"
        )
    return steps
