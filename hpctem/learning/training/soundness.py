"""Whether a training still computes with numbers, and how it ends where it no longer does.

Weights are looked at after every step, not only the loss, which is that of the weights before: so
the batch that is saved is the one whose gradients were lost, and no checkpoint ever holds them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from hpctem.errors import HpctemError
from hpctem.learning.training.checkpoints import write_archive
from hpctem.parallel import Communicator

ADVICE = (
    "Look at the images for pixels that are no numbers, or begin anew, under another name, with a "
    "lower optimiser.learning_rate or a warm_up"
)


def watch_variables(variables: Iterable[Any]) -> Callable[[], bool]:
    """A question whether all of these variables, of Keras or TensorFlow, hold finite numbers.

    It is answered by their sums, one pass over each: a variable whose sum overflows is as lost as
    one that holds infinity. Variables of whole numbers are not looked at.
    """
    real = [v for v in variables if tf.as_dtype(v.dtype).is_floating]

    @tf.function
    def ask() -> tf.Tensor:
        sums = [tf.cast(tf.reduce_sum(tf.convert_to_tensor(v)), tf.float32) for v in real]
        return tf.reduce_all(tf.math.is_finite(tf.stack(sums)))

    return lambda: not real or bool(ask())


def end_on_loss(
    folder: Path,
    communicator: Communicator,
    place: tuple[int, int],
    batch: Any,
    about: Mapping[str, np.ndarray],
    told: Mapping[str, float],
) -> HpctemError:
    """Save what every rank was learning from when numbers were lost; the error to end with.

    folder   of the model
    place    epoch and step, both from 1
    batch    of this rank: tensors
    about    arrays that say what the batch is made of
    told     metrics of the step: all finite where only the weights after it are not
    """
    epoch, step = place
    into = folder / f"nan-epoch-{epoch}-step-{step}"
    arrays = {f"batch_{k}": part.numpy() for k, part in enumerate(tf.nest.flatten(batch))}
    write_archive(into / f"rank-{communicator.rank}.npz", None, {**arrays, **about})
    communicator.barrier()
    names = [name for name, value in told.items() if not np.isfinite(value)]
    lost = (
        f"{', '.join(names)} is not a finite number in epoch {epoch}, step {step}"
        if names
        else f"the weights are not finite numbers any more after epoch {epoch}, step {step}, "
        "whose gradients were too large"
    )
    return _told_by_all(
        f"the training has failed: {lost}. The batches of all ranks and their rows are in {into}; "
        f"the checkpoints before it are kept. {ADVICE}"
    )


def require_sound_scores(
    scores: Mapping[str, float], deciding: tuple[str, ...], epoch: int
) -> None:
    """Raise HpctemError where what is held out gives no finite numbers.

    scores     of an epoch, from 1
    deciding   those that must be numbers; others may be NaN where there is nothing to score
    """
    lost = [
        name
        for name, value in scores.items()
        if np.isinf(value) or (np.isnan(value) and name in deciding)
    ]
    if lost:
        raise _told_by_all(
            f"the training has failed: {', '.join(lost)} is not a finite number after epoch "
            f"{epoch}, although all weights are; the checkpoints before it are kept. Of the images "
            f"that are held out some may be damaged. {ADVICE}"
        )


def _told_by_all(text: str) -> HpctemError:
    error: Any = HpctemError(text)
    error.shared = True
    return error
