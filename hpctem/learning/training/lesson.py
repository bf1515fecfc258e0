"""A lesson: all that a training file comes to, open and ready for the training loop.

Each kind of network has a function that opens its lessons: `open_segmentation`, `open_cyclegan`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from hpctem.collection.collection import Collection
    from hpctem.learning.data.preparation import Prepare
    from hpctem.learning.training.loop import Plan, Task


@dataclass(frozen=True)
class Kept:
    """What of a lesson goes into the model folder beside weights and metrics.

    networks      the Keras models that are used later, by name; the others are in checkpoints only
    prepares      what images go through before a network sees them, by what they are: 'image' for
                  segmentation and defects, 'simulation' and 'experiment' for a CycleGAN
    classes       names of the classes 1, 2, ... of pixels; () for a CycleGAN
    pixel_sizes   least and largest of the images learnt from, A
    shape         (ny, nx) of what a network saw at once
    constants     numbers that use needs beside these, as plain data for JSON
    images        of databases: 'training', those learnt from, and 'validation', those held out
    """

    networks: Mapping[str, Any]
    prepares: Mapping[str, Prepare]
    classes: tuple[str, ...]
    pixel_sizes: tuple[float, float] | None
    shape: tuple[int, int]
    constants: Mapping[str, Any] = field(default_factory=dict)
    images: Mapping[str, Collection] = field(default_factory=dict)


@dataclass(frozen=True)
class Lesson:
    """What the training loop needs, and what is kept.

    task      what is learnt
    feed_of   feed_of(epoch, first_step) -> batches of this rank from there to the training's end
    plan      epochs, steps, rate
    rows      name -> digest of what is learnt from and validated with, in hexadecimal
    kept      what goes into the model folder
    explain   explain(epoch, step) -> arrays that say what this rank's batch is made of
    counts    numbers for people: training images, validation images, parameters ...
    """

    task: Task
    feed_of: Callable[[int, int], Any]
    plan: Plan
    rows: Mapping[str, str]
    kept: Kept
    explain: Callable[[int, int], Mapping[str, np.ndarray]] = lambda epoch, step: {}
    counts: Mapping[str, float] = field(default_factory=dict)
