"""The discriminator of squares of 70 x 70 pixels (Isola et al. 2017, arXiv:1611.07004).

4 x 4 convolutions: 64 filters (without normalisation), 128, 256 at stride 2; filled up by a pixel,
512 at stride 1; filled up by a pixel, one at stride 1. Between them instance normalisation and
leaky rectification. An image of 256 x 256 pixels gives 30 x 30 judgements, each of a square of
70 x 70 pixels. 2.76 million parameters at width 64. The discriminators of power spectra are the
same network, fed with `hpctem.learning.training.losses.scale_log_power`.
"""

from __future__ import annotations

import keras
from keras import layers

from hpctem.learning.networks.generator import SLOPE
from hpctem.learning.networks.instance_norm import InstanceNormalization
from hpctem.learning.networks.seeds import derive_seed
from hpctem.learning.networks.sides import Sides

# Side in pixels of the square that one judgement is of, normalisation aside.
RECEPTIVE_FIELD = 70
LEAST_SIDE = 24


def patchgan(width: int = 64, *, seed: int = 0, name: str = "patchgan") -> keras.Model:
    """The discriminator: images (batch, y, x, 1) to judgements (batch, y/8 - 2, x/8 - 2, 1).

    Judgements are float32 without bounds; training draws them to 1 for real and 0 for generated
    squares. Sides are at least LEAST_SIDE pixels; eighths are rounded up. Kernels begin as
    N(0, 0.02). `name` distinguishes the four of a cycle: with one seed, names give them different
    weights.
    """

    def convolve(x, filters, stride, padding, layer):  # type: ignore[no-untyped-def]
        own = derive_seed(seed, f"{name}/{layer}")
        last = layer == "judgement"
        return layers.Conv2D(
            filters,
            4,
            stride,
            padding,
            use_bias=last,
            kernel_initializer=keras.initializers.RandomNormal(0.0, 0.02, seed=own),
            dtype="float32" if last else None,
            name=layer,
        )(x)

    def normalise(x, layer):  # type: ignore[no-untyped-def]
        own = derive_seed(seed, f"{name}/{layer}")
        return InstanceNormalization(seed=own, name=f"{layer}_norm")(x)

    images = keras.Input((None, None, 1), name="images")
    x = Sides(1, LEAST_SIDE, name="sides")(images)
    x = layers.LeakyReLU(SLOPE)(convolve(x, width, 2, "same", "down0"))
    for level in (1, 2):
        layer = f"down{level}"
        x = normalise(convolve(x, width * 2**level, 2, "same", layer), layer)
        x = layers.LeakyReLU(SLOPE)(x)
    x = convolve(layers.ZeroPadding2D(1)(x), width * 8, 1, "valid", "wide")
    x = layers.LeakyReLU(SLOPE)(normalise(x, "wide"))
    x = convolve(layers.ZeroPadding2D(1)(x), 1, 1, "valid", "judgement")
    return keras.Model(images, x, name=name)
