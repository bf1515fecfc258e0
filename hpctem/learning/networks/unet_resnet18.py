"""U-Net with a ResNet-18 encoder, for segmentation (Rangel DaCosta et al. 2024).

The paper gives: a U-Net, a ResNet-18 encoder, three poolings and upsamplings, about 14 million
parameters. Only one arrangement is all of that, and it is built here: the four stages of ResNet-18
(He et al. 2016, arXiv:1512.03385, table 1; 64, 128, 256, 512 filters, two blocks each) at full,
half, quarter and eighth size, the first convolution (7 x 7) keeping the size and no pooling after
it; then three times nearest-neighbour enlargement, concatenation with the stage of that size, and
two 3 x 3 convolutions of 256, 128, 64 filters, as Segmentation Models, which the paper used, does;
at last a 3 x 3 convolution to the classes. 14.27 million parameters at width 64 with two classes.
"""

from __future__ import annotations

from collections.abc import Callable

import keras
from keras import layers

from hpctem.learning.networks.seeds import derive_seed
from hpctem.learning.networks.sides import Sides

STRIDE = 8
# Side in pixels of the square that one pixel of the result depends on.
RECEPTIVE_FIELD = 145
# Pixels beyond which nothing changes it; the field is not centred, as strides are even.
REACH = 78
STAGES = 4

Normalise = Callable[[], layers.Layer]


def unet_resnet18(
    channels_out: int,
    width: int = 64,
    normalise: Normalise = layers.BatchNormalization,
    *,
    dropout: float = 0.0,
    seed: int = 0,
) -> keras.Model:
    """The U-Net: images (batch, y, x, 1) to logits (batch, y, x, channels_out) of float32.

    y and x are multiples of STRIDE. `width` is the number of filters of the first stage, doubled
    from stage to stage; `dropout` (none in the paper) leaves out features ahead of each pair of
    convolutions on the way up. Kernels begin as He et al. 2015 (arXiv:1502.01852) draw them.
    """

    def convolve(x, filters, size, stride, name):  # type: ignore[no-untyped-def]
        if size == 1 and stride > 1:
            # The same numbers: of such a convolution with few filters, the gradient that oneDNN
            # computes in TensorFlow 2.18 writes beyond its memory and ends the process.
            x, stride = x[:, ::stride, ::stride], 1
        # No bias: the normalisation would take it away.
        start = keras.initializers.HeNormal(derive_seed(seed, name))
        x = layers.Conv2D(
            filters, size, stride, "same", use_bias=False, kernel_initializer=start, name=name
        )(x)
        normalisation = normalise()
        normalisation.name = f"{name}_norm"
        return normalisation(x)

    def add_block(x, filters, stride, name):  # type: ignore[no-untyped-def]
        # The basic block of He et al. 2016, figure 2; a projection where size or filters change.
        shortcut = x
        if stride != 1 or x.shape[-1] != filters:
            shortcut = convolve(x, filters, 1, stride, f"{name}_project")
        y = layers.ReLU()(convolve(x, filters, 3, stride, f"{name}_first"))
        y = convolve(y, filters, 3, 1, f"{name}_second")
        return layers.ReLU()(layers.Add()([y, shortcut]))

    images = keras.Input((None, None, 1), name="images")
    x = Sides(STRIDE, name="sides")(images)
    x = layers.ReLU()(convolve(x, width, 7, 1, "stem"))
    stages = []
    for stage in range(STAGES):
        filters = width * 2**stage
        x = add_block(x, filters, 1 if stage == 0 else 2, f"stage{stage}a")
        x = add_block(x, filters, 1, f"stage{stage}b")
        stages.append(x)
    for stage in reversed(range(STAGES - 1)):
        x = layers.UpSampling2D(2, name=f"enlarge{stage}")(x)
        x = layers.Concatenate()([x, stages[stage]])
        if dropout:
            name = f"dropout{stage}"
            x = layers.Dropout(dropout, seed=derive_seed(seed, name), name=name)(x)
        for part in ("first", "second"):
            x = layers.ReLU()(convolve(x, width * 2**stage, 3, 1, f"up{stage}_{part}"))
    # In 16 bit, logits would be rounded before the losses see them.
    start = keras.initializers.GlorotUniform(derive_seed(seed, "logits"))
    logits = layers.Conv2D(
        channels_out, 3, padding="same", kernel_initializer=start, dtype="float32", name="logits"
    )(x)
    return keras.Model(images, logits, name="unet_resnet18")
