"""The generator of images from images: the U-Net of pix2pix with instance normalisation.

Khan et al. 2023, Methods, after Isola et al. 2017 (arXiv:1611.07004, appendix 6.1.1). Down: 4 x 4
convolutions at stride 2 with 64, 128, 256, 512, 512 ... filters, normalised but for the first and
the last, leaky rectified. Up: transposed 4 x 4 convolutions at stride 2 with as many filters,
normalised, the innermost with dropout 0.5, rectified, concatenated with their counterpart. At last
a transposed convolution to one channel and tanh. 54.4 million parameters at width 64 with 8
levels.

The last convolution down gives one pixel of an image of 2^levels pixels; its normalisation would
leave nothing of the image, so there is none.
"""

from __future__ import annotations

import keras
from keras import layers

from hpctem.learning.networks.instance_norm import InstanceNormalization
from hpctem.learning.networks.seeds import derive_seed
from hpctem.learning.networks.sides import Sides

SLOPE = 0.2
# Beyond this many levels every further one has dropout on the way up: three of eight levels.
LEVELS_WITHOUT_DROPOUT = 5


def generator(
    width: int = 64,
    levels: int = 8,
    dropout: float = 0.5,
    *,
    seed: int = 0,
    name: str = "generator",
) -> keras.Model:
    """The generator: images (batch, y, x, 1) of -1...1 to images of the same shape, float32.

    y and x are multiples of 2^levels. `width` is the number of filters of the first level, doubled
    up to eight times. Kernels begin as N(0, 0.02). Every pixel depends on the whole image, through
    the normalisations. `name` distinguishes the two of a cycle: with one seed, names give them
    different weights.
    """

    def start(layer: str) -> keras.initializers.Initializer:
        return keras.initializers.RandomNormal(0.0, 0.02, seed=derive_seed(seed, f"{name}/{layer}"))

    def normalise(x, layer):  # type: ignore[no-untyped-def]
        own = derive_seed(seed, f"{name}/{layer}")
        return InstanceNormalization(seed=own, name=f"{layer}_norm")(x)

    images = keras.Input((None, None, 1), name="images")
    x = Sides(2**levels, name="sides")(images)
    filters = [width * min(2**level, 8) for level in range(levels)]
    kept = []
    for level in range(levels):
        layer = f"down{level}"
        x = layers.Conv2D(
            filters[level],
            4,
            2,
            "same",
            use_bias=False,
            kernel_initializer=start(layer),
            name=layer,
        )(x)
        if 0 < level < levels - 1:
            x = normalise(x, layer)
        x = layers.LeakyReLU(SLOPE)(x)
        kept.append(x)
    for level in reversed(range(levels - 1)):
        layer = f"up{level}"
        x = layers.Conv2DTranspose(
            filters[level],
            4,
            2,
            "same",
            use_bias=False,
            kernel_initializer=start(layer),
            name=layer,
        )(x)
        x = normalise(x, layer)
        if dropout and level > LEVELS_WITHOUT_DROPOUT - 2:
            own = derive_seed(seed, f"{name}/{layer}_dropout")
            x = layers.Dropout(dropout, seed=own, name=f"{layer}_dropout")(x)
        x = layers.ReLU()(x)
        x = layers.Concatenate()([x, kept[level]])
    result = layers.Conv2DTranspose(
        1, 4, 2, "same", kernel_initializer=start("image"), dtype="float32", name="image"
    )(x)
    return keras.Model(images, layers.Activation("tanh", dtype="float32")(result), name=name)
