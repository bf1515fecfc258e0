"""What training makes small: losses of segmentations and of CycleGANs, on float32 tensors."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import tensorflow as tf

from hpctem.errors import ConfigError

Total = Callable[[tf.Tensor], tf.Tensor]

# Power below which a spectrum tells nothing: images are prepared to -1...1, so that noise of a
# standard deviation of 0.1 has a power of 1e-2 at every frequency.
POWER_FLOOR = 1e-6


def cross_entropy(logits: tf.Tensor, classes: tf.Tensor) -> tf.Tensor:
    """Mean over all pixels of -log of the probability given to the true class.

    logits (batch, y, x, channels), classes (batch, y, x) of integers below channels.
    """
    return tf.reduce_mean(
        tf.nn.sparse_softmax_cross_entropy_with_logits(
            labels=tf.cast(classes, tf.int32), logits=tf.cast(logits, tf.float32)
        )
    )


def soft_f1(logits: tf.Tensor, classes: tf.Tensor, total: Total = tf.identity) -> tf.Tensor:
    """F1 of probabilities: the mean over the classes, background among them, of TP/(TP+(FN+FP)/2).

    TP, FP, FN are sums of probabilities over all pixels of all images, by `total` over all ranks
    before the ratio is taken (the paper's section 4.4; a mean of ratios would be another loss, at
    any other number of ranks). A class that no pixel of the step is of has no F1 and is left out
    of the mean. Shapes as of `cross_entropy`.

    The gradient on one rank is that of the sum over the ranks of their (equal) values, if the
    gradient of `total` is the total of the gradients: averaged over the ranks, the gradient of
    the parameters is that of one value for all images.
    """
    return f1_of_counts(total(soft_counts(logits, classes)))


def soft_counts(logits: tf.Tensor, classes: tf.Tensor) -> tf.Tensor:
    """Sums over all pixels of all images: float32 (3, channels).

    Of each class the probability it got where it is right (TP), all that it got (TP + FP), and the
    pixels that are of it (TP + FN). Shapes as of `cross_entropy`.
    """
    probabilities = tf.nn.softmax(tf.cast(logits, tf.float32))
    channels = probabilities.shape[-1]
    truth = tf.one_hot(tf.cast(classes, tf.int32), channels, dtype=tf.float32)
    pixels = [0, 1, 2]
    return tf.stack(
        [
            tf.reduce_sum(probabilities * truth, pixels),
            tf.reduce_sum(probabilities, pixels),
            tf.reduce_sum(truth, pixels),
        ]
    )


def f1_of_counts(counts: tf.Tensor) -> tf.Tensor:
    """Mean of TP / (TP + (FN + FP) / 2) over the classes that are there, of `soft_counts`."""
    true_positives, predicted, present = tf.unstack(counts)
    # TP + (FN + FP) / 2 is half of what is predicted and what is there. A class that is neither
    # is 0 / 0: certain networks give exact zeros.
    ratios = tf.math.divide_no_nan(2 * true_positives, predicted + present)
    there = tf.cast(present > 0, counts.dtype)
    return tf.reduce_sum(ratios * there) / tf.reduce_sum(there)


def segmentation_loss(
    kind: str, logits: tf.Tensor, classes: tf.Tensor, total: Total = tf.identity
) -> tf.Tensor:
    """The loss of a segmentation: `cross_entropy`, or `cross_entropy_f1` with 1 - soft F1 added."""
    if kind == "cross_entropy":
        return cross_entropy(logits, classes)
    if kind == "cross_entropy_f1":
        return cross_entropy(logits, classes) + 1 - soft_f1(logits, classes, total)
    raise ConfigError(f"loss: '{kind}' is neither cross_entropy nor cross_entropy_f1")


def discriminator_loss(real: tf.Tensor, generated: tf.Tensor) -> tf.Tensor:
    """Equations 1 and 2 of Khan et al. 2023: mean D(generated)^2 + mean (1 - D(real))^2.

    `real` and `generated` are judgements of any shape. The paper prints norms, means of squares
    are meant (least squares, Mao et al. 2017, arXiv:1611.04076).
    """
    return tf.reduce_mean(tf.square(generated)) + tf.reduce_mean(tf.square(1 - real))


def adversarial_loss(*judgements: tf.Tensor) -> tf.Tensor:
    """Equation 5: the sum of mean (1 - D(generated))^2 over the discriminators, image and power."""
    return tf.add_n([tf.reduce_mean(tf.square(1 - judgement)) for judgement in judgements])


def cycle_loss(
    experiment: tf.Tensor,
    experiment_back: tf.Tensor,
    simulation: tf.Tensor,
    simulation_back: tf.Tensor,
) -> tf.Tensor:
    """Equation 6: mean |F(G(x)) - x| + mean |G(F(y)) - y|, of images and of what came back."""
    return tf.reduce_mean(tf.abs(experiment_back - experiment)) + tf.reduce_mean(
        tf.abs(simulation_back - simulation)
    )


def identity_loss(images: tf.Tensor, generated: tf.Tensor) -> tf.Tensor:
    """Equation 7: mean (G(y) - y)^2, of images that are already of the kind that G makes."""
    return tf.reduce_mean(tf.square(generated - images))


def generator_loss(
    adversarial: tf.Tensor,
    cycle: tf.Tensor,
    identity: tf.Tensor,
    cycle_weight: float,
    identity_weight: float,
) -> tf.Tensor:
    """Equations 3 and 4: adversarial + cycle_weight x cycle + identity_weight x identity."""
    return adversarial + cycle_weight * cycle + identity_weight * identity


@dataclass(frozen=True)
class SpectrumScale:
    """Mean and standard deviation of the log power of training patches; kept with the model."""

    mean: float
    std: float


def log_power(images: tf.Tensor, eps: float = POWER_FLOOR) -> tf.Tensor:
    """log(|F|^2 + eps) of the orthonormal, centred Fourier transform F of every image.

    Takes (batch, y, x, 1), gives float32 of the same shape with frequency zero at [y // 2, x // 2].
    """
    planes = tf.cast(images[..., 0], tf.float32)
    shape = tf.shape(planes)
    pixels = tf.cast(shape[1] * shape[2], tf.float32)
    # Not by a cast, whose gradient drops the imaginary part and warns of it at every trace.
    planes = tf.complex(planes, tf.zeros_like(planes))
    waves = tf.signal.fftshift(tf.signal.fft2d(planes), axes=(1, 2))
    # Without an absolute value, which has no gradient at zero.
    power = (tf.square(tf.math.real(waves)) + tf.square(tf.math.imag(waves))) / pixels
    return tf.math.log(power + eps)[..., tf.newaxis]


def scale_log_power(images: tf.Tensor, scale: SpectrumScale, eps: float = POWER_FLOOR) -> tf.Tensor:
    """What discriminators of power spectra see: log power, less the mean, by the deviation."""
    return (log_power(images, eps) - scale.mean) / scale.std


def measure_spectrum(patches: Iterable[np.ndarray], eps: float = POWER_FLOOR) -> SpectrumScale:
    """Mean and standard deviation of `log_power` over all frequencies of all training patches.

    `patches` is an array (n, y, x) or anything that gives prepared images (y, x). Raises
    ConfigError when there are none, or when they do not vary.
    """
    count, total, squares = 0, 0.0, 0.0
    for patch in patches:
        power = np.abs(np.fft.fft2(patch, norm="ortho")) ** 2
        logarithm = np.log(power.astype(np.float64) + eps)
        count += logarithm.size
        total += float(logarithm.sum())
        squares += float((logarithm**2).sum())
    if not count:
        raise ConfigError("there are no training patches to measure power spectra of")
    mean = total / count
    variance = squares / count - mean**2
    if variance <= 1e-12 * max(1.0, mean**2):
        raise ConfigError(
            "the power spectra of the training patches do not vary: the patches are blank; "
            "see what images the training file names, and how they are prepared"
        )
    return SpectrumScale(mean, float(np.sqrt(variance)))
