"""Networks from the keys of a training file, and how much they are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import keras
import numpy as np

from hpctem.learning.networks import residual_unet, unet_resnet18
from hpctem.sections.training import Network


def build_network(
    section: Network,
    classes: int,
    normalise: Callable[[], keras.layers.Layer] = keras.layers.BatchNormalization,
    *,
    seed: int = 0,
) -> keras.Model:
    """The network of a training file, for so many classes beside the background.

    Takes images (batch, y, x, 1) with sides that are multiples of `stride_of(section)`, gives
    logits (batch, y, x, 1 + classes) of float32. Weights and dropout follow from `seed`; the state
    of dropout is among the model's `variables`, though not among its `weights`.
    """
    module = _module_of(section)
    chosen: dict[str, int | float] = {}
    if section.width is not None:
        chosen["width"] = section.width
    if section.dropout is not None:
        chosen["dropout"] = section.dropout
    make: Callable[..., keras.Model] = getattr(module, section.name)
    return make(1 + classes, normalise=normalise, seed=seed, **chosen)


def stride_of(section: Network) -> int:
    """What the sides of images must be multiples of; also the step that leaves results alike."""
    return _module_of(section).STRIDE


def receptive_field_of(section: Network) -> int:
    """Side in pixels of the square that one pixel of the result depends on, at any width."""
    return _module_of(section).RECEPTIVE_FIELD


def reach_of(section: Network) -> int:
    """Pixels beyond which nothing changes a pixel of the result: so far tiles feel their edges."""
    return _module_of(section).REACH


def _module_of(section: Network):  # type: ignore[no-untyped-def]
    return {"unet_resnet18": unet_resnet18, "residual_unet": residual_unet}[section.name]


@dataclass(frozen=True)
class Extent:
    """How much a network is.

    parameters      numbers that training changes
    multiply_adds   of one pass, per pixel of the image, in the convolutions
    """

    parameters: int
    multiply_adds: float


def measure_extent(network: keras.Model, side: int) -> Extent:
    """How much a network is, its passes measured on images of side x side pixels.

    A convolution costs kernel x channels in x channels out per pixel of its result, a transposed
    one per pixel of its input.
    """
    kinds = (keras.layers.Conv2D, keras.layers.Conv2DTranspose)
    convolutions = [layer for layer in network.layers if isinstance(layer, kinds)]
    transposed = [isinstance(layer, keras.layers.Conv2DTranspose) for layer in convolutions]
    ends = [a.input if t else a.output for a, t in zip(convolutions, transposed, strict=True)]
    shapes = keras.Model(network.input, ends).compute_output_shape((1, side, side, 1))
    if len(ends) == 1:
        shapes = [shapes]
    total = sum(
        int(np.prod(shape[1:3])) * int(np.prod(layer.kernel.shape))
        for layer, shape in zip(convolutions, shapes, strict=True)
    )
    trained = sum(int(np.prod(weight.shape)) for weight in network.trainable_weights)
    return Extent(trained, total / side**2)
