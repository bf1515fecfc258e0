"""Images and their classes varied alike, each time that they are seen, by seeds of their own.

What happens to a sample depends on its two seeds alone: not on the batch, the rank or the order.
"""

from __future__ import annotations

import tensorflow as tf

from hpctem.errors import ConfigError
from hpctem.sections.training import Augmentation

# Sizes below that would show mostly reflections.
MOST_SCALING = 0.9
# Numbers drawn for each sample: symmetry, size, brightness, contrast.
DRAWN = 4
# Bits that the seeds of the noise differ in, so that it shares no draws with these numbers.
NOISE = 0x6E6F6973
# The symmetries of a square: transposed or not, then these axes reversed. The rotations first.
SYMMETRIES: tuple[tuple[bool, tuple[int, ...]], ...] = (
    (False, ()),
    (False, (0, 1)),
    (True, (0,)),
    (True, (1,)),
    (False, (0,)),
    (False, (1,)),
    (True, ()),
    (True, (0, 1)),
)


def augment(
    images: tf.Tensor,
    classes: tf.Tensor | None,
    seeds: tf.Tensor,
    section: Augmentation,
    *,
    shape: tuple[int, int] | None = None,
    span: float = 1.0,
) -> tuple[tf.Tensor, tf.Tensor | None]:
    """Vary samples: size, rotation, mirror, then contrast, brightness, noise of the images.

    images    float32 (b, h, w, 1), prepared
    classes   uint8 (b, h, w), or None
    seeds     int32 (b, 2), two for each sample
    shape     rows and columns of what is given back: the middle of the images, which may be larger
              so that a smaller size shows what is there; beyond their edges they are reflected
    span      length of the range of prepared values, which brightness refers to

    Returns images float32 (b, *shape, 1), between pixels bilinear, and classes uint8 (b, *shape),
    of the nearest pixel, or None. Contrast is about each image's own mean. Nothing is cut to the
    range: noise on black stays noise.

    Raises ConfigError for images that are not square where they are to be turned by 90 degrees,
    and for a scaling that would show next to nothing.
    """
    height, width = images.shape[1:3]
    ny, nx = (height, width) if shape is None else shape
    check_possible(section, (ny, nx))
    # One by one: nothing can depend on what else is in the batch, and only what was drawn is done.
    types = [tf.TensorSpec((ny, nx, 1), tf.float32)]
    given = [images, seeds]
    if classes is not None:
        types.append(tf.TensorSpec((ny, nx, 1), tf.uint8))
        given.append(classes[..., tf.newaxis])

    def vary(sample: list[tf.Tensor]) -> list[tf.Tensor]:
        image, seed, *truth = sample
        draws = tf.random.stateless_uniform([DRAWN], seed)
        pair = _take_middle([image, *truth], (ny, nx), draws[1], section)
        image, *truth = _turn(pair, draws[0], section)
        return [_change_values(image, draws, seed, section, span), *truth]

    varied, *truth = tf.map_fn(vary, given, fn_output_signature=types)
    return varied, truth[0][..., 0] if truth else None


def check_possible(section: Augmentation, shape: tuple[int, int]) -> None:
    """Raise ConfigError where samples of a shape cannot be varied as a section says."""
    if section.rotations and shape[0] != shape[1]:
        raise ConfigError(
            f"augmentation.rotations: images of {shape[0]} x {shape[1]} px cannot be turned by 90 "
            "degrees; give a patch, or 'rotations: false'"
        )
    if section.scaling > MOST_SCALING:
        raise ConfigError(
            f"augmentation.scaling: {section.scaling:g} shows images at a size of "
            f"{1 - section.scaling:g}; at most {MOST_SCALING:g}"
        )


def add_noise(image: tf.Tensor, seed: tf.Tensor, deviation: float) -> tf.Tensor:
    """An image with normal noise, alone in each pixel: float32 of any shape; `seed` int32 (2,)."""
    normal = tf.random.stateless_normal(image.shape, tf.bitwise.bitwise_xor(seed, NOISE))
    return image + deviation * normal


def _take_middle(
    pair: list[tf.Tensor], shape: tuple[int, int], draw: tf.Tensor, section: Augmentation
) -> list[tf.Tensor]:
    """The middle of an image (h, w, 1) and its classes, at a size that is drawn if any is."""
    if section.scaling:
        size = 1.0 + section.scaling * (2.0 * draw - 1.0)
        ways = ("BILINEAR", "NEAREST")
        return [_resize(v, size, shape, way) for v, way in zip(pair, ways, strict=False)]
    height, width = pair[0].shape[:2]
    top, left = (height - shape[0]) // 2, (width - shape[1]) // 2
    return [values[top : top + shape[0], left : left + shape[1]] for values in pair]


def _resize(values: tf.Tensor, size: tf.Tensor, shape: tuple[int, int], how: str) -> tf.Tensor:
    """An image at a size about its middle, cut or reflected to a shape.

    The pixel (y, x) of the result is that at ((y, x) - c') / size + c of the image, c and c' the
    middles of both.
    """
    height, width = values.shape[:2]
    step, zero = 1.0 / size, tf.zeros_like(size)
    top = (height - 1) / 2 - step * (shape[0] - 1) / 2
    left = (width - 1) / 2 - step * (shape[1] - 1) / 2
    resized = tf.raw_ops.ImageProjectiveTransformV3(
        images=values[tf.newaxis],
        transforms=[tf.stack([step, zero, left, zero, step, top, zero, zero])],
        output_shape=shape,
        interpolation=how,
        fill_mode="REFLECT",
        fill_value=0.0,
    )
    return resized[0]


def _turn(pair: list[tf.Tensor], draw: tf.Tensor, section: Augmentation) -> list[tf.Tensor]:
    """One of the symmetries of a square that are allowed, all equally likely.

    Rotations are the first four, flips those without a transpose, both all eight.
    """
    chosen = SYMMETRIES if section.flips else SYMMETRIES[:4]
    if not section.rotations:
        chosen = tuple(one for one in chosen if not one[0]) if section.flips else SYMMETRIES[:1]
    if len(chosen) == 1:
        return pair

    def make(transposed: bool, axes: tuple[int, ...]) -> list[tf.Tensor]:
        turned = [tf.transpose(v, [1, 0, 2]) for v in pair] if transposed else pair
        return [tf.reverse(v, axes) for v in turned] if axes else [tf.identity(v) for v in turned]

    number = tf.cast(draw * len(chosen), tf.int32)
    return tf.switch_case(number, [lambda one=one: make(*one) for one in chosen])


def _change_values(
    image: tf.Tensor, draws: tf.Tensor, seed: tf.Tensor, section: Augmentation, span: float
) -> tf.Tensor:
    """Contrast, brightness and noise of an image (ny, nx, 1)."""
    if section.contrast or section.brightness:
        # In double precision, so that the order of summation, which threads decide, is not seen.
        mean = tf.cast(tf.reduce_mean(tf.cast(image, tf.float64)), tf.float32)
        contrast = section.contrast * (2.0 * draws[3] - 1.0)
        added = section.brightness * span * (2.0 * draws[2] - 1.0) - contrast * mean
        image = image * (1.0 + contrast) + added
    return add_noise(image, seed, section.noise) if section.noise else image
