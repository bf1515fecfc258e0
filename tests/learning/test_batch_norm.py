"""Batch normalisation over the ranks: two ranks compute what one would on the double batch."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from hpctem.learning.ranks.batch_norm import SynchronisedBatchNormalization, merge_moments
from hpctem.learning.ranks.transport import Transport
from hpctem.parallel import Communicator

SCRIPT = Path(__file__).with_name("ranks_normalise.py")
RANKS = 2
SINGLE = Transport("single", Communicator(), tf.identity)
EPSILON = np.finfo(np.float32).eps


@pytest.fixture(scope="module")
def answers(run_mpi: Callable, make_once: Callable) -> list[dict]:
    """What each rank found, by transport."""
    pytest.importorskip("mpi4py")

    def fill(folder: Path) -> None:
        done = run_mpi(RANKS, sys.executable, SCRIPT, timeout=300)
        assert done.returncode == 0, done.stderr
        (folder / "answers.json").write_text(done.stdout)

    return json.loads((make_once("ranks_normalise", fill) / "answers.json").read_text())


@pytest.fixture(params=["horovod", "mpi4py"])
def found(request: pytest.FixtureRequest, answers: list[dict]) -> list[dict]:
    """What each rank found with one transport."""
    if request.param not in answers[0]:
        pytest.skip("Horovod is not installed: jobs/install_horovod")
    return [answer[request.param] for answer in answers]


def test_ranks_have_the_gradients_of_the_whole_batch(found: list[dict]) -> None:
    """With one image on the first rank and two on the second; ratios of sums are among the loss.

    Sums of some thousand numbers in float32, in another order: a few hundred roundings at most.
    """
    for answer in found:
        for what in ("output", "after", "loss", "gradients", "moving"):
            assert answer["compare"][what] < 200 * EPSILON, what


def test_statistics_of_each_rank_alone_would_show(found: list[dict]) -> None:
    """The same network with Keras' own layer is far off: the comparison above sees the layer."""
    assert min(answer["compare"]["gradients_apart"] for answer in found) > 0.05


def test_moving_statistics_are_the_same_bits_on_all_ranks(found: list[dict]) -> None:
    first, second = (answer["compare"]["moving_bytes"] for answer in found)
    assert first == second
    assert len(first) == 4


def test_keras_own_layer_reads_the_weights(found: list[dict]) -> None:
    assert all(answer["compare"]["read_by_keras"] for answer in found)


def test_bright_images_keep_their_variance(found: list[dict]) -> None:
    """Mean 2000 at standard deviation 1: plain sums of squares in float32 are off by tens of %.

    What is left is the rounding of a rank's mean, 2000 float32 epsilons of which shift a sum.
    """
    generators = [np.random.default_rng([11, rank]) for rank in range(RANKS)]
    parts = [g.normal(2000.0 + r, size=(50 * (r + 1), 2)) for r, g in enumerate(generators)]
    parts = [part.astype(np.float32).astype(float) for part in parts]
    values = np.concatenate(parts)
    for rank, answer in enumerate(found):
        merged = answer["merge"]
        np.testing.assert_allclose(merged["mean"], values.mean(0), rtol=2 * EPSILON)
        np.testing.assert_allclose(merged["variance"], values.var(0), rtol=2000 * EPSILON)
        # d var / d x = 2 (x - mean) / n; the losses of the ranks are equal and were divided by 2.
        slope = 2 * (parts[rank] - values.mean(0)) / len(values)
        np.testing.assert_allclose(merged["slope"], slope.ravel()[:6], rtol=0, atol=1e-5)


def test_a_sum_of_squares_in_float32_would_lose_it() -> None:
    """The test above means something: the same numbers, summed plainly."""
    values = np.random.default_rng([11, 0]).normal(2000.0, size=(50, 2)).astype(np.float32)
    plain = np.square(values).mean(0, dtype=np.float32) - np.square(values.mean(0))
    assert np.abs(plain / values.astype(float).var(0) - 1).max() > 0.05


def test_alone_it_is_keras_own_layer() -> None:
    values = np.random.default_rng(1).normal(3.0, 2.0, size=(3, 5, 6, 4)).astype(np.float32)
    ours = SynchronisedBatchNormalization(SINGLE, momentum=0.8, epsilon=0.01)
    keras_own = keras.layers.BatchNormalization(momentum=0.8, epsilon=0.01)
    for layer in (ours, keras_own):
        layer.build(values.shape)
        layer.gamma.assign([1.0, 2.0, 0.5, 3.0])
        layer.beta.assign([0.0, -1.0, 2.0, 0.5])
    for training in (True, True, False):
        found, expected = (layer(values, training=training).numpy() for layer in (ours, keras_own))
        np.testing.assert_allclose(found, expected, rtol=0, atol=20 * EPSILON)
    for mine, its in zip(ours.variables, keras_own.variables, strict=True):
        np.testing.assert_allclose(mine.numpy(), its.numpy(), rtol=4 * EPSILON)
        assert (mine.name, mine.shape, mine.dtype) == (its.name, its.shape, its.dtype)


def test_a_frozen_layer_uses_its_moving_statistics() -> None:
    values = tf.random.stateless_normal((2, 4, 4, 3), (1, 2))
    layer = SynchronisedBatchNormalization(SINGLE)
    layer.build(values.shape)
    layer.trainable = False
    np.testing.assert_allclose(layer(values, training=True), values / np.sqrt(1.001), rtol=1e-6)
    assert not layer.moving_mean.numpy().any()


def test_statistics_stay_float32_under_mixed_precision() -> None:
    """A float16 sum of these squares is infinite, and its mean has three digits."""
    values = np.random.default_rng(2).normal(300.0, 1.0, size=(4, 8, 8, 2)).astype(np.float16)
    keras.config.set_dtype_policy("mixed_float16")
    try:
        layer = SynchronisedBatchNormalization(SINGLE, momentum=0.0, epsilon=1e-6)
        output = layer(values, training=True)
    finally:
        keras.config.set_dtype_policy("float32")
    assert output.dtype == tf.float16
    assert {v.dtype for v in layer.variables} == {"float32"}
    exact = values.astype(float)
    np.testing.assert_allclose(layer.moving_mean.numpy(), exact.mean((0, 1, 2)), rtol=1e-6)
    np.testing.assert_allclose(layer.moving_variance.numpy(), exact.var((0, 1, 2)), rtol=1e-4)
    expected = (exact - exact.mean((0, 1, 2))) / exact.std((0, 1, 2))
    assert np.abs(output.numpy() - expected).max() < 4 * 2**-10  # float16 at values up to 4


def test_moments_of_a_whole_image_are_those_of_its_channels() -> None:
    values = np.random.default_rng(3).normal(size=(2, 3, 4, 5)).astype(np.float32)
    mean, variance = merge_moments(tf.constant(values), SINGLE)
    np.testing.assert_allclose(mean, values.mean((0, 1, 2)), atol=4 * EPSILON)
    np.testing.assert_allclose(variance, values.var((0, 1, 2)), rtol=8 * EPSILON)
