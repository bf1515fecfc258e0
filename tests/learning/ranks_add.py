"""Ranks under mpirun that use every transport; rank 0 prints what each rank got, as JSON.

Only differs from a training in that its numbers are known: rank r holds `numbers(r, shape)`.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import io
import json
import sys
import time
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from hpctem.errors import HpctemError
from hpctem.learning.ranks.transport import Transport, open_transport, require_equal
from hpctem.parallel import Communicator, abort_on_error, world

SHAPES = ((3, 2), (), (0,), (7001,), (5,))
DTYPES = ("float32", "float64", "float32", "float32", "float16")
BRANCHES = 12


def numbers(rank: int, shape: tuple[int, ...], dtype: str = "float32") -> np.ndarray:
    """What a rank holds: normal numbers."""
    generator = np.random.default_rng([rank, *shape])
    return generator.normal(size=shape).astype(dtype)


def add_up(transport: Transport) -> dict:
    """Sums and means of the ranks' numbers, eagerly and in a function."""
    rank = transport.rank
    tensors = [tf.constant(numbers(rank, *pair)) for pair in zip(SHAPES, DTYPES, strict=True)]
    in_function = tf.function(transport.average)(tensors)
    eagerly = transport.average(tensors)
    count = transport.total(tf.constant([rank + 1, 10], tf.int64))
    half = transport.total(tf.constant([0.5 * (rank + 1)], tf.bfloat16))
    unlike = tf.function(transport.total, input_signature=[tf.TensorSpec((None, 2), tf.float32)])(
        numbers(rank, (4, 2))
    )
    return {
        "means": [t.numpy().tolist() for t in in_function],
        "dtypes": [t.dtype.name for t in in_function],
        "eagerly": [t.numpy().tolist() for t in eagerly],
        "count": count.numpy().tolist(),
        "half": float(half[0]),
        "of_unknown_length": unlike.numpy().tolist(),
    }


def differentiate(transport: Transport) -> dict:
    """Gradient of this rank's loss (rank + 1) |y|^2 with y the total of x, and of |y|^4."""
    x = tf.constant(numbers(transport.rank, (3,)))

    @tf.function
    def both() -> tuple[tf.Tensor, tf.Tensor]:
        with tf.GradientTape() as outer:
            outer.watch(x)
            with tf.GradientTape() as inner:
                inner.watch(x)
                loss = (transport.rank + 1.0) * tf.reduce_sum(transport.total(x) ** 2)
            first = inner.gradient(loss, x)
        return first, outer.gradient(first, x)

    first, second = both()
    return {"first": first.numpy().tolist(), "second": second.numpy().tolist()}


def meet_in_order(transport: Transport) -> dict:
    """Totals of alike tensors in branches that are ready in another order on each rank.

    Branch b sums 100 b + rank; ranks with even numbers are late with the first branches, the
    others with the last. Then come the gradients, whose sums go the other way.
    """
    rank = transport.rank

    def wait(number: np.ndarray, branch: np.ndarray) -> np.ndarray:
        place = branch if rank % 2 else BRANCHES - branch
        time.sleep(0.002 * float(place))
        return number

    @tf.function
    def run(x: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        with tf.GradientTape() as tape:
            tape.watch(x)
            late = [
                # Not stateful: such a call may run whenever its arguments are there.
                tf.ensure_shape(
                    tf.numpy_function(
                        wait, [x[b], tf.constant(float(b))], tf.float32, stateful=False
                    ),
                    (),
                )
                for b in range(BRANCHES)
            ]
            totals = [transport.total(n + 0.0 * x[b]) for b, n in enumerate(late)]
            weighed = tf.add_n([(b + 1.0) * total for b, total in enumerate(totals)])
            loss = weighed + tf.reduce_sum(0.5 * transport.total(x) ** 2)
        return tf.stack(totals), tf.stack([weighed, *tf.unstack(tape.gradient(loss, x))])

    x = tf.constant([100.0 * b + rank for b in range(BRANCHES)])
    totals, rest = run(x)
    again, _ = run(x)
    return {
        "totals": totals.numpy().tolist(),
        "again": again.numpy().tolist(),
        "weighed": float(rest[0]),
        "gradients": rest[1:].numpy().tolist(),
    }


def repeat(transport: Transport) -> dict:
    """Whether twenty means of the same numbers have the same bits."""
    large, small = numbers(transport.rank, (100003,)), numbers(transport.rank, (17,))
    average = tf.function(transport.average)
    found = {
        b"".join(t.numpy().tobytes() for t in average([tf.constant(large), tf.constant(small)]))
        for _ in range(20)
    }
    return {"results": len(found), "bytes": hashlib.sha256(found.pop()).hexdigest()}


def send_out(transport: Transport, communicator: Communicator) -> dict:
    """Variables of every kind from rank 0, and what is said when one differs on the last rank."""
    keras.utils.set_random_seed(transport.rank + 1)
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2), keras.layers.Dropout(0.5)])
    optimiser = keras.optimizers.Adam()
    optimiser.build(model.trainable_variables)
    half = tf.Variable(tf.cast([transport.rank, 1.5], tf.bfloat16), name="half")
    scalar = tf.Variable(transport.rank, dtype=tf.int64, name="scalar")
    variables = [*model.variables, *optimiser.variables, half, scalar]
    before = complain(lambda: require_equal(transport, communicator, variables))
    transport.broadcast(variables)
    between = complain(lambda: require_equal(transport, communicator, variables))
    if transport.rank == transport.size - 1:
        scalar.assign_add(1)
    after = complain(lambda: require_equal(transport, communicator, {"a": half, "b/c": scalar}))
    return {
        "kernel": model.layers[0].kernel.numpy().tolist(),
        "scalar": int(scalar.numpy()),
        "half": half.numpy().astype(float).tolist(),
        "seeds": [v.numpy().tolist() for v in model.variables if "seed" in v.path],
        "said": [before, between, after],
    }


def complain(act) -> list:
    """What went wrong, in words: nothing, or error, message, whether all ranks say it."""
    try:
        act()
    except HpctemError as error:
        return [type(error).__name__, str(error), error.shared]
    return []


def choose(communicator: Communicator, folder: Path) -> dict:
    """What is chosen while the last rank finds a Horovod of another TensorFlow before its own."""
    foreign = communicator.rank == communicator.size - 1
    if foreign:
        sys.path.insert(0, str(folder))
    said = io.StringIO()
    with contextlib.redirect_stderr(said):
        chosen = open_transport(communicator).name
    refused = complain(lambda: open_transport(communicator, "horovod"))
    if foreign:
        sys.path.remove(str(folder))
    alone = complain(lambda: open_transport(communicator, "single"))
    return {"chosen": chosen, "said": said.getvalue(), "refused": refused, "alone": alone}


def main(folder: Path) -> None:
    communicator = world()
    with abort_on_error(communicator):
        answer = {}
        transports = ["mpi4py"]
        if importlib.util.find_spec("horovod") is not None:
            answer["choice"] = choose(communicator, folder)
            transports.insert(0, "auto")
        for wanted in transports:
            transport = open_transport(communicator, wanted)
            answer[transport.name] = {
                "rank": [transport.rank, transport.size, transport.local_rank],
                "add_up": add_up(transport),
                "differentiate": differentiate(transport),
                "meet": meet_in_order(transport),
                "repeat": repeat(transport),
                "send_out": send_out(transport, communicator),
            }
        answers = communicator.gather(answer)
        if communicator.rank == 0:
            print(json.dumps(answers))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
