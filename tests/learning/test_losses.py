"""Losses against NumPy, their gradients against finite differences, batches against their parts."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import tensorflow as tf

from hpctem.errors import ConfigError
from hpctem.learning.training import losses
from hpctem.learning.training.losses import SpectrumScale

LOGITS = np.random.default_rng(1).normal(0, 2, (4, 5, 6, 3)).astype(np.float32)
CLASSES = np.random.default_rng(2).integers(0, 3, (4, 5, 6)).astype(np.uint8)


def softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits.astype(np.float64) - logits.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


def count(logits: np.ndarray, classes: np.ndarray) -> list[tuple[float, float, float]]:
    """True positives, false positives, false negatives of every class, pixel by pixel."""
    probabilities = softmax(logits)
    counts = []
    for k in range(logits.shape[-1]):
        p, t = probabilities[..., k], classes == k
        counts.append((float((p * t).sum()), float((p * ~t).sum()), float(((1 - p) * t).sum())))
    return counts


def compare_with_differences(
    function: Callable[[tf.Tensor], tf.Tensor], at: np.ndarray, step: float, within: float
) -> None:
    """The gradient of a function, against central differences in directions drawn at random."""
    point = tf.constant(at)
    with tf.GradientTape() as tape:
        tape.watch(point)
        value = function(point)
    gradient = tape.gradient(value, point).numpy().astype(np.float64)
    generator = np.random.default_rng(5)
    for _ in range(5):
        direction = generator.normal(size=at.shape).astype(np.float32)
        ahead = float(function(tf.constant(at + step * direction)))
        behind = float(function(tf.constant(at - step * direction)))
        slope = (ahead - behind) / (2 * step)
        expected = float((gradient * direction).sum())
        scale = float(np.abs(gradient * direction).sum())
        assert abs(slope - expected) < within * scale


def test_cross_entropy_is_the_mean_of_minus_log_of_the_true_class() -> None:
    chosen = np.take_along_axis(softmax(LOGITS), CLASSES[..., None].astype(int), -1)

    assert float(losses.cross_entropy(LOGITS, CLASSES)) == pytest.approx(
        -np.log(chosen).mean(), rel=1e-6
    )


def test_soft_f1_is_the_ratio_of_the_paper_for_every_class() -> None:
    ratios = [tp / (tp + 0.5 * (fn + fp)) for tp, fp, fn in count(LOGITS, CLASSES)]

    assert float(losses.soft_f1(LOGITS, CLASSES)) == pytest.approx(np.mean(ratios), rel=1e-6)


def test_soft_f1_of_certain_predictions_is_the_f1_of_counts() -> None:
    # Nine of ten pixels of class 1 found, three of thirty pixels of class 0 called class 1.
    classes = np.array([1] * 10 + [0] * 30, np.uint8).reshape(1, 4, 10)
    called = np.array([1] * 9 + [0] + [1] * 3 + [0] * 27).reshape(1, 4, 10)
    logits = 200.0 * np.eye(2, dtype=np.float32)[called]
    f1 = (2 * 9 / (2 * 9 + 3 + 1) + 2 * 27 / (2 * 27 + 1 + 3)) / 2

    assert float(losses.soft_f1(logits, classes)) == pytest.approx(f1, rel=1e-6)
    assert float(losses.soft_f1(200.0 * np.eye(2, dtype=np.float32)[classes], classes)) == 1.0


def test_a_class_that_no_pixel_is_of_has_no_part_in_soft_f1() -> None:
    classes = np.where(CLASSES == 2, 0, CLASSES).astype(np.uint8)
    ratios = [tp / (tp + 0.5 * (fn + fp)) for tp, fp, fn in count(LOGITS, classes)[:2]]

    assert float(losses.soft_f1(LOGITS, classes)) == pytest.approx(np.mean(ratios), rel=1e-6)


def test_a_class_that_is_neither_there_nor_predicted_gives_numbers() -> None:
    logits = tf.constant(200.0 * np.eye(3, dtype=np.float32)[np.zeros((1, 4, 4), int)])
    with tf.GradientTape() as tape:
        tape.watch(logits)
        value = losses.segmentation_loss("cross_entropy_f1", logits, np.zeros((1, 4, 4), np.uint8))

    assert float(value) == 0
    assert np.isfinite(tape.gradient(value, logits).numpy()).all()


def test_two_halves_with_totals_give_the_loss_and_gradient_of_the_whole() -> None:
    whole = tf.constant(LOGITS)
    with tf.GradientTape() as tape:
        tape.watch(whole)
        value = losses.segmentation_loss("cross_entropy_f1", whole, CLASSES)
    expected = tape.gradient(value, whole).numpy()

    halves = [slice(0, 2), slice(2, 4)]
    sums: list[tf.Tensor] = []
    for half in halves:
        losses.soft_f1(LOGITS[half], CLASSES[half], lambda x: sums.append(x) or x)

    gradients, values = [], []
    for rank, half in enumerate(halves):
        other = sums[1 - rank]

        @tf.custom_gradient
        def total(
            counts: tf.Tensor, other: tf.Tensor = other
        ) -> tuple[tf.Tensor, Callable[[tf.Tensor], tf.Tensor]]:
            # Both ranks have one and the same value: the total of the gradients is twice theirs.
            return counts + other, lambda upstream: 2 * upstream

        part = tf.constant(LOGITS[half])
        with tf.GradientTape() as tape:
            tape.watch(part)
            value_here = losses.segmentation_loss("cross_entropy_f1", part, CLASSES[half], total)
        values.append(float(value_here))
        gradients.append(tape.gradient(value_here, part).numpy())

    # What averaging over two ranks does to the gradient of any parameter behind these logits.
    assert np.mean(values) == pytest.approx(float(value), rel=1e-6)
    assert np.concatenate(gradients) / 2 == pytest.approx(expected, rel=1e-4, abs=1e-8)


def test_ratios_of_halves_would_be_another_loss() -> None:
    halves = [float(losses.soft_f1(LOGITS[h], CLASSES[h])) for h in (slice(0, 1), slice(1, 4))]

    assert abs(np.mean(halves) - float(losses.soft_f1(LOGITS, CLASSES))) > 1e-3


@pytest.mark.parametrize("kind", ["cross_entropy", "cross_entropy_f1"])
def test_gradients_of_segmentation_losses_match_finite_differences(kind: str) -> None:
    compare_with_differences(
        lambda logits: losses.segmentation_loss(kind, logits, CLASSES), LOGITS, 1e-2, 1e-3
    )


def test_losses_of_sixteen_bit_logits_are_computed_in_thirty_two() -> None:
    value = losses.segmentation_loss("cross_entropy_f1", LOGITS.astype(np.float16), CLASSES)

    assert value.dtype == tf.float32
    assert float(value) == pytest.approx(
        float(losses.segmentation_loss("cross_entropy_f1", LOGITS, CLASSES)), rel=1e-3
    )


def test_an_unknown_loss_is_named() -> None:
    with pytest.raises(ConfigError, match="'dice' is neither cross_entropy nor cross_entropy_f1"):
        losses.segmentation_loss("dice", LOGITS, CLASSES)


def test_equations_1_to_7_are_means_of_squares_and_absolute_values() -> None:
    generator = np.random.default_rng(3)
    judged, fake, power = (generator.normal(size=(2, 3, 3, 1)).astype("f4") for _ in range(3))
    x, x_back, y, y_back = (generator.normal(size=(2, 8, 8, 1)).astype("f4") for _ in range(4))
    same = generator.normal(size=y.shape).astype("f4")

    assert float(losses.discriminator_loss(judged, fake)) == pytest.approx(
        (fake**2).mean() + ((1 - judged) ** 2).mean(), rel=1e-6
    )
    adversarial = ((1 - fake) ** 2).mean() + ((1 - power) ** 2).mean()
    assert float(losses.adversarial_loss(fake, power)) == pytest.approx(adversarial, rel=1e-6)
    assert float(losses.adversarial_loss(fake)) == pytest.approx(((1 - fake) ** 2).mean(), rel=1e-6)
    cycle = np.abs(x_back - x).mean() + np.abs(y_back - y).mean()
    assert float(losses.cycle_loss(x, x_back, y, y_back)) == pytest.approx(cycle, rel=1e-6)
    identity = ((same - y) ** 2).mean()
    assert float(losses.identity_loss(y, same)) == pytest.approx(identity, rel=1e-6)
    whole = losses.generator_loss(
        losses.adversarial_loss(fake, power),
        losses.cycle_loss(x, x_back, y, y_back),
        losses.identity_loss(y, same),
        cycle_weight=10.0,
        identity_weight=5.0,
    )
    assert float(whole) == pytest.approx(adversarial + 10 * cycle + 5 * identity, rel=1e-6)


def test_a_perfect_discriminator_and_a_perfect_cycle_lose_nothing() -> None:
    ones, zeros = np.ones((1, 3, 3, 1), np.float32), np.zeros((1, 3, 3, 1), np.float32)

    assert float(losses.discriminator_loss(ones, zeros)) == 0
    assert float(losses.discriminator_loss(zeros, ones)) == 2
    assert float(losses.adversarial_loss(ones, ones)) == 0
    assert float(losses.cycle_loss(ones, ones, zeros, zeros)) == 0


@pytest.mark.parametrize("shape", [(2, 16, 16, 1), (1, 15, 8, 1)])
def test_log_power_is_numpys_centred_orthonormal_transform(shape: tuple[int, ...]) -> None:
    images = np.random.default_rng(4).normal(size=shape).astype(np.float32)
    waves = np.fft.fftshift(np.fft.fft2(images[..., 0], norm="ortho"), axes=(1, 2))

    found = losses.log_power(images, 1e-3).numpy()

    assert found.shape == shape and found.dtype == np.float32
    assert found[..., 0] == pytest.approx(np.log(np.abs(waves) ** 2 + 1e-3), abs=2e-5)


def test_log_power_of_a_wave_is_where_the_wave_is() -> None:
    rows, columns = np.mgrid[:16, :16]
    wave = np.cos(2 * np.pi * (3 * rows + 2 * columns) / 16).astype(np.float32)

    found = losses.log_power(wave[None, ..., None], 1e-6).numpy()[0, ..., 0]

    # |F|^2 of an amplitude of 1 on N pixels: (1/2)^2 N, at the wave and its mirror image.
    peaks = {(8 + 3, 8 + 2), (8 - 3, 8 - 2)}
    assert {tuple(map(int, place)) for place in np.argwhere(found > 0)} == peaks
    assert found[11, 10] == pytest.approx(np.log(256 / 4), rel=1e-5)
    assert np.delete(found.ravel(), [11 * 16 + 10, 5 * 16 + 6]).max() < np.log(2e-6)


def test_gradient_through_log_power_is_finite_where_there_is_no_power() -> None:
    weight = tf.Variable(0.0)
    ramp = tf.reshape(tf.linspace(-1.0, 1.0, 64), (1, 8, 8, 1))
    for start in (0.0, 0.3):
        weight.assign(start)
        with tf.GradientTape() as tape:
            # A generator that gives a blank image: at 0, |F| is 0 at every frequency.
            value = tf.reduce_sum(losses.log_power(weight * ramp))
        assert np.isfinite(tape.gradient(value, weight).numpy())


def test_gradient_through_log_power_matches_finite_differences() -> None:
    images = np.random.default_rng(6).normal(size=(1, 8, 8, 1)).astype(np.float32)
    scale = SpectrumScale(-1.0, 2.0)

    compare_with_differences(
        lambda x: tf.reduce_mean(tf.square(losses.scale_log_power(x, scale, 0.1))),
        images,
        1e-2,
        2e-3,
    )


def test_power_spectra_of_training_patches_have_mean_0_and_deviation_1_when_scaled() -> None:
    patches = np.random.default_rng(7).normal(0, 0.1, (5, 24, 24)).astype(np.float32)

    scale = losses.measure_spectrum(patches)
    found = losses.scale_log_power(patches[..., None], scale).numpy()

    assert found.mean() == pytest.approx(0, abs=1e-4)
    assert found.std() == pytest.approx(1, abs=1e-4)
    # Power of noise of variance s^2 is exponential with mean s^2: log s^2 - 0.5772, pi / sqrt 6.
    # 2880 independent powers: standard errors 0.024 and 0.019; within four of them.
    assert scale.mean == pytest.approx(np.log(0.01) - 0.57722, abs=0.1)
    assert scale.std == pytest.approx(np.pi / np.sqrt(6), abs=0.08)
    assert losses.measure_spectrum(iter(patches)) == scale


@pytest.mark.parametrize(
    ("patches", "words"),
    [
        (np.zeros((0, 8, 8), np.float32), "no training patches"),
        (np.zeros((2, 8, 8), np.float32), "do not vary"),
    ],
)
def test_patches_without_a_spectrum_are_refused(patches: np.ndarray, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        losses.measure_spectrum(patches)
