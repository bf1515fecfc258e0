"""Samples to a network: read in background threads, varied, in an order that nothing changes."""

from __future__ import annotations

import functools
import math
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import tensorflow as tf

from hpctem.errors import DatabaseError, HpctemError, MachineError
from hpctem.learning.data.augmentation import MOST_SCALING, augment, check_possible
from hpctem.learning.data.order import number_positions
from hpctem.learning.data.samples import Feedable
from hpctem.parallel import Communicator
from hpctem.sections.training import Augmentation
from hpctem.subsets.draws import random_bits

# Batches that are kept ready.
READY = 4
# Threads that read and vary them: as many as a rank has cores. Four also on fewer, because some of
# them wait for the disk; no more than sixteen, each of which holds a batch.
FEWEST, MOST = 4, 16


def feed(
    samples: Feedable,
    augmentation: Augmentation,
    *,
    epoch: int,
    first_step: int = 0,
    steps: int,
    batch: int,
    rank: int = 0,
    size: int = 1,
    epochs: int = 1,
    shuffle: bool = True,
    prefetch: int = READY,
    readers: int = FEWEST,
) -> tf.data.Dataset:
    """The batches of one rank for steps first_step ... steps - 1 of an epoch, and of later epochs.

    Step s of all ranks together takes positions s * batch * size ... of the epoch, this rank the
    `rank`-th `batch` of them. Which sample stands at a position, where its square lies and how it
    is varied follow from (seed, epoch, position): the sequence is the same at any `prefetch`, any
    number of threads, and when an epoch is taken up at `first_step`. Positions beyond the last
    sample begin again, in another order.

    batch      images of a step on this rank
    epochs     so many in all, one after the other in one pipeline: the first batches of the next
               one are read while the last ones of an epoch are learnt from
    prefetch   batches that are kept ready; 0 reads each when it is asked for
    readers    threads that read and vary; see `count_readers`
    shuffle    without it the order is that of the samples

    Yields (images float32 (batch, ny, nx, 1), classes uint8 (batch, ny, nx)), or images alone where
    the samples have no classes. Reading that fails ends the sequence with an error of TensorFlow,
    of which `reading` makes that of hpctem.

    Raises ConfigError where the samples cannot be varied so, see `augmentation.augment`.
    """
    shape = samples.shape
    check_possible(augmentation, shape)
    window = widen(shape, samples.room, augmentation.scaling)
    positions = np.arange(steps)[:, np.newaxis] * batch * size + rank * batch + np.arange(batch)
    lock = threading.Lock()

    @functools.lru_cache(maxsize=2)
    def number(epoch: int) -> np.ndarray:
        """The samples of an epoch's steps, of two epochs where one ends and the next begins."""
        if not shuffle:
            return positions % len(samples)
        flat = number_positions(positions.reshape(-1), len(samples), samples.seed, epoch)
        return flat.reshape(positions.shape)

    def read(taken: np.int64) -> list[np.ndarray]:
        later, step = divmod(int(taken), steps)
        with lock:  # one reader works an order out, the others wait for it
            numbers = number(epoch + later)
        stream = f"hpctem/learning/{samples.seed}/{epoch + later}"
        return read_batch(samples, numbers[step], positions[step], stream, window)

    def vary(seeds: tf.Tensor, *taken: tf.Tensor) -> Any:
        images, classes = _shape_batch(taken, batch, window)
        seeds.set_shape((batch, 2))
        return _join(
            augment(images, classes, seeds, augmentation, shape=shape, span=samples.prepare.span)
        )

    types = [tf.int32, tf.float32] + ([] if samples.classes is None else [tf.uint8])
    dataset = tf.data.Dataset.range(first_step, epochs * steps)
    # Without batches kept ready everything runs when it is asked for, in this order.
    side_by_side = {"num_parallel_calls": readers} if prefetch else {}
    dataset = dataset.map(lambda step: tf.numpy_function(read, [step], types), **side_by_side)
    dataset = dataset.map(vary, **side_by_side)
    return _prefetch(dataset, prefetch)


def feed_validation(
    samples: Feedable,
    batch: int,
    rank: int = 0,
    size: int = 1,
    prefetch: int = READY,
    readers: int = FEWEST,
) -> tf.data.Dataset:
    """The batches of one rank when each sample is seen once by all ranks together, unvaried.

    Full batches as in `feed`, then what is left is shared as evenly as can be: the last batch is
    smaller, and where less than one for each rank is left, some ranks have one batch fewer. So
    nothing that all ranks must join in may be done for each batch. Squares lie where they always
    lie in validation. Yields as `feed` does.
    """
    full = len(samples) // (batch * size)
    steps = np.arange(full)[:, np.newaxis] * batch * size + rank * batch
    blocks = list(steps + np.arange(batch))
    rest = np.array_split(np.arange(full * batch * size, len(samples)), size)[rank]
    blocks += [rest] if len(rest) else []
    stream, shape = f"hpctem/learning/{samples.seed}/validation", samples.shape

    def read(step: np.int64) -> list[np.ndarray]:
        return read_batch(samples, blocks[step], blocks[step], stream, shape)

    types = [tf.int32, tf.float32] + ([] if samples.classes is None else [tf.uint8])
    dataset = tf.data.Dataset.range(len(blocks))
    side_by_side = {"num_parallel_calls": readers} if prefetch else {}
    dataset = dataset.map(lambda step: tf.numpy_function(read, [step], types), **side_by_side)
    dataset = dataset.map(lambda _, *taken: _join(_shape_batch(taken, None, shape)))
    return _prefetch(dataset, prefetch)


def count_readers(communicator: Communicator) -> int:
    """Threads for the feeds of this rank, from 4 to 16: a core each of those that it may use.

    Cores that several ranks of a node may use count for each by its share. Every rank must come.
    """
    cores = os.sched_getaffinity(0)
    mine = socket.gethostname(), tuple(sorted(cores))
    sharing = communicator.allgather(mine).count(mine)
    return min(max(len(cores) // sharing, FEWEST), MOST)


def widen(shape: tuple[int, int], room: tuple[int, int], scaling: float) -> tuple[int, int]:
    """The window that is read for squares that are shown smaller by up to `scaling`.

    As much as a size of 1 - scaling shows, as far as the images reach; beyond, `augment` reflects.
    """
    most = 1.0 / (1.0 - min(scaling, MOST_SCALING))
    margins = [
        max(0, min(math.ceil(side * (most - 1.0) / 2), (whole - side) // 2))
        for side, whole in zip(shape, room, strict=True)
    ]
    return shape[0] + 2 * margins[0], shape[1] + 2 * margins[1]


def read_batch(
    samples: Feedable,
    numbers: np.ndarray,
    positions: np.ndarray,
    stream: str,
    window: tuple[int, int],
) -> list[np.ndarray]:
    """Seeds int32 (n, 2), images float32 (n, *window) and, if there are any, classes uint8.

    numbers     (n,) of the samples
    positions   (n,) consecutive, in the epoch: they and the stream decide all that is random
    """
    places = np.stack([random_bits(f"{stream}/{axis}", positions) for axis in "yx"], axis=1)
    seeds = random_bits(f"{stream}/seeds", positions).view(np.int32).reshape(-1, 2)
    try:
        images, classes = samples.cut(numbers, places, window)
    except HpctemError as error:
        # TensorFlow passes on the text alone.
        raise RuntimeError(f"{MARK}{type(error).__name__}: {error}{MARK}") from error
    return [seeds, images] if classes is None else [seeds, images, classes]


MARK = "<hpctem>"


def tell_failure(error: Exception) -> HpctemError | None:
    """The error of hpctem that ended a feed, from the one that TensorFlow raised; None without."""
    parts = str(error).split(MARK)
    if len(parts) < 3:
        return None
    kind, _, text = parts[1].partition(": ")
    return (DatabaseError if kind == "DatabaseError" else MachineError)(text)


@contextmanager
def reading() -> Iterator[None]:
    """Raise what ended a feed as hpctem's own error; other errors of TensorFlow as they are."""
    try:
        yield
    except tf.errors.OpError as error:
        failure = tell_failure(error)
        if failure is None:
            raise
        raise failure from error


def _shape_batch(
    taken: tuple[tf.Tensor, ...], batch: int | None, shape: tuple[int, int]
) -> tuple[tf.Tensor, tf.Tensor | None]:
    """Tensors with the shapes that NumPy's functions do not tell TensorFlow."""
    for values in taken:
        values.set_shape((batch, *shape))
    return taken[0][..., tf.newaxis], taken[1] if len(taken) > 1 else None


def _join(pair: tuple[tf.Tensor, tf.Tensor | None]) -> Any:
    images, classes = pair
    return images if classes is None else (images, classes)


def _prefetch(dataset: tf.data.Dataset, prefetch: int) -> tf.data.Dataset:
    options = tf.data.Options()
    options.deterministic = True
    # What would choose the number of threads and buffers by itself changes nothing but memory.
    options.autotune.enabled = False
    dataset = dataset.with_options(options)
    return dataset.prefetch(prefetch) if prefetch else dataset
