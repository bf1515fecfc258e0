"""Ranks under mpirun that share one batch among themselves; rank 0 prints what each computed.

Rank r has r + 1 images of the batch. Beside it, each rank computes with Keras' own batch
normalisation on the whole batch, as one process would.
"""

from __future__ import annotations

import importlib.util
import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from hpctem.learning.ranks.batch_norm import SynchronisedBatchNormalization, merge_moments
from hpctem.learning.ranks.transport import Transport, open_transport
from hpctem.parallel import Communicator, abort_on_error, world

MOMENTUM = 0.9


def whole_batch(size: int) -> tuple[np.ndarray, np.ndarray]:
    """Images (n, 12, 12, 1) and what weighs the pixels of the output (n, 12, 12, 2)."""
    generator = np.random.default_rng(7)
    count = size * (size + 1) // 2
    brightness = generator.normal(size=(count, 1, 1, 1))
    images = brightness + generator.normal(size=(count, 12, 12, 1))
    return images.astype(np.float32), generator.normal(size=(count, 12, 12, 2)).astype(np.float32)


def share(rank: int) -> slice:
    """The rank's images of the batch: 1, 2, 3 ... of them."""
    start = rank * (rank + 1) // 2
    return slice(start, start + rank + 1)


def build(normalise: Callable[[], keras.layers.Layer]) -> keras.Model:
    """Two convolutions with normalisation between and after them."""
    keras.utils.set_random_seed(3)
    image = keras.Input((None, None, 1))
    x = keras.layers.Conv2D(4, 3, padding="same")(image)
    x = normalise()(x)
    x = keras.layers.Conv2D(2, 3, padding="same", activation="tanh")(keras.layers.ReLU()(x))
    return keras.Model(image, normalise()(x))


def plain() -> keras.layers.Layer:
    return keras.layers.BatchNormalization(momentum=MOMENTUM)


def learn(
    model: keras.Model, images: np.ndarray, weights: np.ndarray, transport: Transport
) -> dict:
    """Output, loss, gradients and statistics of one step on this rank's images.

    The loss is a sum over all images and, as F1 is, a ratio of sums over the ranks.
    """

    @tf.function
    def step() -> tuple:
        with tf.GradientTape() as tape:
            output = model(images, training=True)
            sums = tf.stack([tf.reduce_sum(output * weights), tf.reduce_sum(output**4)])
            above, below = tf.unstack(transport.total(sums))
            # Averaged over the ranks, `size` times this rank's sum is the sum of all.
            loss = transport.size * tf.reduce_sum(output**3 * weights) / 100 + above / below
        gradients = tape.gradient(loss, model.trainable_variables)
        return output, transport.average([loss, *gradients])

    output, (loss, *gradients) = step()
    return {
        "output": output.numpy(),
        "loss": float(loss),
        "gradients": [g.numpy() for g in gradients],
        "moving": [v.numpy() for v in model.non_trainable_variables if "moving" in v.path],
        "after": model(images, training=False).numpy(),
    }


def largest(a: np.ndarray, b: np.ndarray) -> float:
    """Largest difference, as a share of the largest magnitude."""
    return float(np.abs(a - b).max() / np.abs(b).max())


def compare(transport: Transport) -> dict:
    """Ranks against one process with Keras' own layer on the whole batch."""
    images, weights = whole_batch(transport.size)
    mine = share(transport.rank)
    alone = Transport("single", Communicator(), tf.identity)
    expected = learn(build(plain), images, weights, alone)
    model = build(lambda: SynchronisedBatchNormalization(transport, momentum=MOMENTUM))
    found = learn(model, images[mine], weights[mine], transport)
    apart = learn(build(plain), images[mine], weights[mine], transport)

    def excess(found: dict, name: str) -> float:
        # Of all together: what stands before a normalisation as a bias has the gradient zero.
        return largest(*(np.concatenate([a.ravel() for a in d[name]]) for d in (found, expected)))

    return {
        "output": largest(found["output"], expected["output"][mine]),
        "after": largest(found["after"], expected["after"][mine]),
        "loss": abs(found["loss"] / expected["loss"] - 1),
        "gradients": excess(found, "gradients"),
        "moving": excess(found, "moving"),
        "gradients_apart": excess(apart, "gradients"),
        "moving_bytes": [v.tobytes().hex() for v in found["moving"]],
        "read_by_keras": read_by_keras(model, found["after"], images[mine]),
    }


def read_by_keras(model: keras.Model, expected: np.ndarray, images: np.ndarray) -> bool:
    """Whether a network with Keras' own layers reads the weights file and says the same."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "network.weights.h5")
        model.save_weights(path)
        other = build(plain)
        other.load_weights(path)
    return bool(np.array_equal(other(images, training=False).numpy(), expected))


def merge(transport: Transport) -> dict:
    """Moments of a bright batch whose ranks differ in brightness, and their sensitivity."""
    values = bright(transport.rank)

    @tf.function
    def run() -> tuple[tf.Tensor, ...]:
        with tf.GradientTape() as tape:
            tape.watch(values)
            mean, variance = merge_moments(values, transport)
            loss = tf.reduce_sum(variance) / transport.size
        return mean, variance, tape.gradient(loss, values)

    mean, variance, slope = run()
    return {
        "mean": mean.numpy().tolist(),
        "variance": variance.numpy().tolist(),
        "slope": slope.numpy().ravel()[:6].tolist(),
    }


def bright(rank: int) -> tf.Tensor:
    """Values (50 (r + 1), 2) of mean 2000 + r and standard deviation 1."""
    generator = np.random.default_rng([11, rank])
    return tf.constant(generator.normal(2000.0 + rank, size=(50 * (rank + 1), 2)), tf.float32)


def main() -> None:
    communicator = world()
    with abort_on_error(communicator):
        answer = {}
        found = importlib.util.find_spec("horovod") is not None
        for wanted in ("horovod", "mpi4py") if found else ("mpi4py",):
            transport = open_transport(communicator, wanted)
            answer[wanted] = {"compare": compare(transport), "merge": merge(transport)}
        answers = communicator.gather(answer)
        if communicator.rank == 0:
            print(json.dumps(answers))


if __name__ == "__main__":
    sys.exit(main())
