"""What tasks share of learning a step: the optimiser's rate and state, and what dropout draws."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf


def set_learning_rate(optimiser: keras.optimizers.Optimizer, rate: float) -> None:
    """The rate of the next step, also of mixed precision."""
    # There, the optimiser that scales losses holds the one that learns.
    getattr(optimiser, "inner_optimizer", optimiser).learning_rate = rate


def name_state(optimiser: keras.optimizers.Optimizer, steps: tf.Variable) -> dict[str, Any]:
    """The optimiser's variables and the number of steps, by names that checkpoints keep."""
    return {
        **{f"optimiser/{k:04d}": v for k, v in enumerate(optimiser.variables)},
        "steps": steps,
    }


def seed_dropout(states: Sequence[Any], keys: np.ndarray, steps: tf.Variable) -> None:
    """Let what dropout leaves out follow from its key and the step, so that no state is kept.

    states: the seed generators' variables; keys: (n,) uint32, of the training's seed and the rank.
    """
    for state, key in zip(states, keys, strict=True):
        state.assign(tf.stack([tf.constant(key), tf.cast(steps, tf.uint32)]))
