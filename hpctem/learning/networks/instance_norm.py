"""Instance normalisation (Ulyanov, Vedaldi, Lempitsky 2016, arXiv:1607.08022)."""

from __future__ import annotations

import keras
from keras import ops

from hpctem.learning.networks.seeds import derive_seed


class InstanceNormalization(keras.layers.Layer):
    """Each channel of each image by its own mean and variance, then by a scale and an offset.

    Takes and gives (batch, y, x, channels). The scale begins as N(1, 0.02), the offset as 0, as in
    pix2pix. Moments are of float32, also in mixed precision. Of a single pixel nothing is left but
    the offset, so that networks leave this layer out where features shrink to 1 x 1.
    """

    def __init__(self, epsilon: float = 1e-5, seed: int = 0, **kwargs: object) -> None:
        super().__init__(**kwargs)
        self.epsilon = epsilon
        self.seed = seed

    def build(self, shape: tuple) -> None:
        start = keras.initializers.RandomNormal(1.0, 0.02, seed=derive_seed(self.seed, self.name))
        self.scale = self.add_weight(shape=(shape[-1],), initializer=start, name="scale")
        self.offset = self.add_weight(shape=(shape[-1],), initializer="zeros", name="offset")

    def call(self, features: object) -> object:
        exact = ops.cast(features, "float32")
        mean = ops.mean(exact, axis=(1, 2), keepdims=True)
        # Of the differences, not mean square minus squared mean: that cancels on flat images.
        variance = ops.mean(ops.square(exact - mean), axis=(1, 2), keepdims=True)
        scale = ops.cast(self.scale, "float32") * ops.rsqrt(variance + self.epsilon)
        result = (exact - mean) * scale + ops.cast(self.offset, "float32")
        return ops.cast(result, self.compute_dtype)

    def compute_output_shape(self, shape: tuple) -> tuple:
        return shape
