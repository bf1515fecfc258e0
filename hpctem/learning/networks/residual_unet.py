"""Residual U-Net for defects (Khan et al. 2023, after Lee et al. 2020).

The earlier paper is doi:10.1021/acs.nanolett.0c00269. Down, with 16, 32, 64, 128 filters: two 3 x 3
convolutions, each normalised and rectified; their result is kept for the way up; its 2 x 2 maxima
are added to a 1 x 1 convolution of the block's input at stride 2, normalised; dropout. Two
convolutions of 256 filters at a sixteenth of the size. Up, with 128, 64, 32, 16: a transposed 3 x 3
convolution at stride 2, two convolutions added to it, concatenation with what was kept, dropout,
two convolutions. At last a 1 x 1 convolution to the classes. 2.57 million parameters at width 16.
"""

from __future__ import annotations

from collections.abc import Callable

import keras
from keras import layers

from hpctem.learning.networks.seeds import derive_seed
from hpctem.learning.networks.sides import Sides

STRIDE = 16
# Side in pixels of the square that one pixel of the result depends on.
RECEPTIVE_FIELD = 284
# Pixels beyond which nothing changes it; the field is not centred, as strides are even.
REACH = 152
LEVELS = 4

Normalise = Callable[[], layers.Layer]


def residual_unet(
    channels_out: int,
    width: int = 16,
    dropout: float = 0.1,
    normalise: Normalise = layers.BatchNormalization,
    *,
    seed: int = 0,
) -> keras.Model:
    """The residual U-Net: images (batch, y, x, 1) to logits (batch, y, x, channels_out), float32.

    y and x are multiples of STRIDE. `width` is the number of filters of the first level, doubled
    from level to level. Kernels begin as Glorot and Bengio 2010 draw them.
    """

    def start(name: str) -> keras.initializers.Initializer:
        return keras.initializers.GlorotUniform(derive_seed(seed, name))

    def convolve(x, filters, size, stride, name):  # type: ignore[no-untyped-def]
        if size == 1 and stride > 1:
            # The same numbers: of such a convolution with few filters, the gradient that oneDNN
            # computes in TensorFlow 2.18 writes beyond its memory and ends the process.
            x, stride = x[:, ::stride, ::stride], 1
        # No bias: the normalisation would take it away.
        x = layers.Conv2D(
            filters,
            size,
            stride,
            "same",
            use_bias=False,
            kernel_initializer=start(name),
            name=name,
        )(x)
        normalisation = normalise()
        normalisation.name = f"{name}_norm"
        return normalisation(x)

    def convolve_twice(x, filters, name):  # type: ignore[no-untyped-def]
        x = layers.ReLU()(convolve(x, filters, 3, 1, f"{name}_first"))
        return layers.ReLU()(convolve(x, filters, 3, 1, f"{name}_second"))

    def drop(x, name):  # type: ignore[no-untyped-def]
        if not dropout:
            return x
        return layers.Dropout(dropout, seed=derive_seed(seed, name), name=name)(x)

    images = keras.Input((None, None, 1), name="images")
    x = Sides(STRIDE, name="sides")(images)
    kept = []
    for level in range(LEVELS):
        filters = width * 2**level
        y = convolve_twice(x, filters, f"down{level}")
        kept.append(y)
        shortcut = convolve(x, filters, 1, 2, f"down{level}_shortcut")
        x = layers.Add()([layers.MaxPooling2D(2)(y), shortcut])
        x = drop(x, f"down{level}_dropout")
    x = convolve_twice(x, width * 2**LEVELS, "bottom")
    for level in reversed(range(LEVELS)):
        filters, name = width * 2**level, f"up{level}"
        x = layers.Conv2DTranspose(
            filters, 3, 2, "same", kernel_initializer=start(name), name=name
        )(x)
        x = layers.Add()([x, convolve_twice(x, filters, f"{name}_residual")])
        x = layers.Concatenate()([x, kept[level]])
        x = drop(x, f"{name}_dropout")
        x = convolve_twice(x, filters, f"{name}_join")
    # In 16 bit, logits would be rounded before the losses see them.
    logits = layers.Conv2D(
        channels_out, 1, kernel_initializer=start("logits"), dtype="float32", name="logits"
    )(x)
    return keras.Model(images, logits, name="residual_unet")
