"""Batch normalisation over the batches of all ranks."""

from __future__ import annotations

import keras
import tensorflow as tf

from hpctem.learning.ranks.transport import Transport


class SynchronisedBatchNormalization(keras.layers.BatchNormalization):
    """Keras' batch normalisation of (..., channels), whose statistics are those of all ranks.

    The ranks' batches may differ in size, and every value counts alike. In inference, or with
    `trainable` false, the moving statistics are used as in Keras' own layer; weights have the same
    names, shapes and places in a weights file, so that each layer reads what the other has written.
    Statistics are computed in float32 at least, also where the layer computes in 16 bit.
    """

    def __init__(
        self,
        transport: Transport,
        momentum: float = 0.99,
        epsilon: float = 1e-3,
        name: str | None = None,
    ) -> None:
        super().__init__(momentum=momentum, epsilon=epsilon, name=name)
        self.transport = transport

    def call(self, inputs: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        """Normalise, scale and shift; with `training` also move the moving statistics."""
        inputs = tf.convert_to_tensor(inputs)
        values = inputs if inputs.dtype == tf.float64 else tf.cast(inputs, tf.float32)
        if training and self.trainable:
            mean, variance = merge_moments(values, self.transport)
            for moving, batch in ((self.moving_mean, mean), (self.moving_variance, variance)):
                moving.assign(self.momentum * moving + (1.0 - self.momentum) * batch)
        else:
            mean, variance = (
                tf.cast(moving, values.dtype) for moving in (self.moving_mean, self.moving_variance)
            )
        scaled = tf.nn.batch_normalization(
            values,
            mean,
            variance,
            tf.cast(self.beta, values.dtype),
            tf.cast(self.gamma, values.dtype),
            self.epsilon,
        )
        return tf.cast(scaled, self.compute_dtype)


# Weights files name a layer after its class.
SynchronisedBatchNormalization.__name__ = keras.layers.BatchNormalization.__name__


def merge_moments(values: tf.Tensor, transport: Transport) -> tuple[tf.Tensor, tf.Tensor]:
    """Mean and variance (channels,) of values (..., channels) on all ranks, in their type.

    Each rank subtracts its own mean before it squares. Then count n, mean m and squares s = n (v +
    m^2) of the ranks are added in float64 (Chan, Golub and LeVeque, 1983, equation 1.5b, for all
    ranks at once: one sum over the ranks of 2 channels + 1 numbers), and v = sum s / sum n - m^2.
    What float64 loses there is (m / standard deviation)^2 1e-16 of the variance: a float32 image
    whose mean is 10^6 of its standard deviations holds nothing to normalise any more.
    """
    mean, variance = tf.nn.moments(values, list(range(values.shape.rank - 1)))
    if transport.size == 1:
        return mean, variance
    mean, variance = tf.cast(mean, tf.float64), tf.cast(variance, tf.float64)
    count = tf.cast(tf.size(values) / tf.size(mean), tf.float64)
    parts = tf.concat([[count], count * mean, count * (variance + mean**2)], 0)
    channels = values.shape[-1]
    total, sums, squares = tf.split(transport.total(parts), [1, channels, channels])
    mean = sums / total
    variance = tf.maximum(squares / total - mean**2, 0.0)
    return tf.cast(mean, values.dtype), tf.cast(variance, values.dtype)
