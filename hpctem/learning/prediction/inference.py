"""A trained network on an image of any size: overlapping tiles, all symmetries, one map a class.

Tiles are as large as what the network was trained on and overlap; each counts most in its middle
and least at its border, so that there are no seams. Khan et al. 2023 take tiles of 256 px every
64 px and the average over the 8 symmetries of the square.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from hpctem.backend import select_backend
from hpctem.database.create import gib
from hpctem.errors import ConfigError, MachineError
from hpctem.learning.data.preparation import Prepare, prepare
from hpctem.learning.prediction.resampling import PixelSize, match_pixels, resample
from hpctem.memory import available_memory
from hpctem.sections.training import SegmentationConfig

if TYPE_CHECKING:
    import keras

    from hpctem.learning.training.model_folder import Model

OVERLAP = 4  # tiles that cover each pixel along each direction
RESULTS_HELD = 4.0  # of the size of the largest, at the same time
PIXELS_AT_ONCE = 2**19  # 8 tiles of 256 x 256 px
SYMMETRIES = tuple((turns, mirrored) for mirrored in (False, True) for turns in range(4))

Tell = Callable[[int, int], None]


@dataclass(frozen=True)
class Predictor:
    """A network ready to be used, with what its images must be like.

    compute      float32 (n, h, w), prepared, h and w multiples of `multiple` -> float32
                 (n, h, w, classes + 1): probabilities, the background first
    classes      names of classes 1, 2 ...
    prepare      what is done to images
    pixel_sizes  A, smallest and largest that it learnt from; None where that is unknown
    tile         pixels a side of what it was trained on
    multiple     of pixels, along both directions, that the network can take
    weight       bytes that the network needs for each pixel of an image
    """

    compute: Callable[[np.ndarray], np.ndarray]
    classes: tuple[str, ...]
    prepare: Prepare
    pixel_sizes: tuple[float, float] | None
    tile: int
    multiple: int
    weight: float = 0.0

    def prepares(self, filtered: bool) -> Prepare:
        """What is done to an image, that has been median filtered already or not."""
        return replace(self.prepare, median=self.prepare.median and not filtered)


@dataclass(frozen=True)
class Tiling:
    """How an image is cut for a network.

    tile        pixels a side; that of the training by default
    step        pixels from one tile to the next; a quarter of a tile by default
    whole       the whole image at once, in no tiles: faster, where memory allows
    symmetries  the average over the image turned and mirrored, instead of as it is
    """

    tile: int | None = None
    step: int | None = None
    whole: bool = False
    symmetries: bool = True


def open_predictor(model: Model) -> Predictor:
    """The network of a model, built, its weights loaded, ready for images of any size.

    Raises ConfigError for a model that names no classes of pixels, and as `Model.network` does.
    """
    how, config = model.prepare, model.config
    assert isinstance(config, SegmentationConfig)  # for others there is no such preparation
    import tensorflow as tf

    from hpctem.learning.networks.build import stride_of

    network = model.network()

    @tf.function(input_signature=[tf.TensorSpec([None, None, None, 1], tf.float32)])
    def run(images: tf.Tensor) -> tf.Tensor:
        return tf.nn.softmax(tf.cast(network(images, training=False), tf.float32))

    return Predictor(
        compute=lambda images: run(tf.constant(images[..., None])).numpy(),
        classes=model.classes,
        prepare=how,
        pixel_sizes=model.pixel_sizes,
        tile=max(model.shape),
        multiple=stride_of(config.network),
        weight=weigh(network, stride_of(config.network)),
    )


def weigh(network: keras.Model, multiple: int) -> float:
    """Bytes for each pixel of an image that a network needs for what it keeps between its layers.

    Measured on residual U-Net and U-Net of 16 and 64 filters, 512 and 1024 px a side: 3.1 to 3.8
    times the largest result of a layer.
    """
    import keras

    side = 16 * multiple
    layers = [one.output for one in network.layers if not isinstance(one, keras.layers.InputLayer)]
    shapes = keras.Model(network.input, layers).compute_output_shape((1, side, side, 1))
    return RESULTS_HELD * 4.0 * max(float(np.prod(shape)) for shape in shapes) / side**2


def predict_probabilities(
    predictor: Predictor,
    image: np.ndarray,
    pixel_size: PixelSize | None = None,
    *,
    filtered: bool = False,
    tiling: Tiling = Tiling(),
    tell: Tell | None = None,
) -> np.ndarray:
    """What a network says of every pixel of an image: float32 (classes + 1, ny, nx), sum 1.

    image       (ny, nx), any real dtype, as it was recorded
    pixel_size  A, of both directions or along (y, x); None where it is unknown
    filtered    the image is a median already, as databases may store it: it has no second one
    tell        called with the number of tiles that are done and that there are

    An image with other pixels than the network learnt is resampled, and the maps brought back to
    its own; see `match_pixels`, whose note says so. It is then prepared as in training, the whole
    image by its own range. Smaller than a tile, it is continued by its mirror image to the right
    and below.

    Raises ConfigError for an image under half a tile a side, a pixel size that is not above zero
    or too far from what was learnt, and a tiling that the network cannot take; MachineError where
    memory does not hold a whole image.
    """
    match = match_pixels(pixel_size, predictor.pixel_sizes)
    seen = prepare(resample(image, match.factor), predictor.prepares(filtered))
    ny, nx = seen.shape
    tile, step = choose_tiles(predictor, tiling)
    if min(ny, nx) < tile // 2:
        told = f"{image.shape[0]} x {image.shape[1]} pixels"
        told += f" (resampled to {ny} x {nx})" if match.factor != (1.0, 1.0) else ""
        raise ConfigError(
            f"an image of {told} is too small for tiles of {tile} pixels, on which the network was "
            f"trained: at least {tile // 2} a side are needed"
        )
    if tiling.whole:
        sides = [_round_up(n, predictor.multiple) for n in (ny, nx)]
        _require_memory(predictor, sides)
        maps = _run_turned(predictor, _continue(seen, sides)[None], tiling.symmetries)[0]
    else:
        sides = [max(_round_up(n, predictor.multiple), tile) for n in (ny, nx)]
        maps = blend_tiles(
            lambda tiles: _run_turned(predictor, tiles, tiling.symmetries),
            _continue(seen, sides),
            tile,
            step,
            tell,
        )
    maps = np.moveaxis(maps[:ny, :nx], -1, 0)
    back = (1 / match.factor[0], 1 / match.factor[1])
    return np.ascontiguousarray(resample(maps, back, image.shape, order=1))


def _require_memory(predictor: Predictor, sides: list[int]) -> None:
    needed = predictor.weight * sides[0] * sides[1]
    free = available_memory(select_backend("cpu"))
    if needed > free:
        raise MachineError(
            f"a whole image of {sides[0]} x {sides[1]} pixels needs about {gib(int(needed))} of "
            f"memory for this network, and {gib(int(free))} are free: leave --whole, it then goes "
            "in tiles"
        )


def choose_tiles(predictor: Predictor, tiling: Tiling) -> tuple[int, int]:
    """Pixels a side of a tile, and from one to the next.

    Raises ConfigError when they are no multiples of what the network needs, or leave gaps.
    """
    multiple = predictor.multiple
    tile = tiling.tile or _round_up(predictor.tile, multiple)
    step = tiling.step or max(tile // OVERLAP // multiple, 1) * multiple
    for name, pixels in (("tile", tile), ("step", step)):
        if pixels % multiple:
            raise ConfigError(
                f"{name} of {pixels} pixels: this network takes multiples of {multiple}, such as "
                f"{_round_up(pixels, multiple)}"
            )
    if step > tile:
        raise ConfigError(f"step of {step} pixels is more than the tile's {tile}: gaps would stay")
    return tile, step


def taper(side: int) -> np.ndarray:
    """How much the pixels of a tile count: float32 (side, side), 1 in its middle, above 0.

    The product of two squared Hann windows sin^4(pi (u + 1/2) / side): four tiles, each a quarter
    of its side after the last, add up to the same everywhere, and the border of a tile, where it
    lacks its surroundings, counts next to nothing wherever another tile knows better.
    """
    line = np.sin(np.pi * (np.arange(side) + 0.5) / side) ** 4
    return (line[:, None] * line).astype(np.float32)


def place_tiles(length: int, tile: int, step: int) -> list[int]:
    """Where along `length` pixels tiles begin: every `step` pixels, the last one at the end."""
    return [*range(0, length - tile, step), length - tile]


def blend_tiles(
    compute: Callable[[np.ndarray], np.ndarray],
    image: np.ndarray,
    tile: int,
    step: int,
    tell: Tell | None = None,
) -> np.ndarray:
    """What a function of tiles gives for a whole image, without seams: float32 (h, w, channels).

    compute  float32 (n, tile, tile) -> float32 (n, tile, tile, channels)
    image    float32 (h, w), at least a tile a side
    tell     called with the number of tiles that are done and that there are
    """
    places = [
        (top, left)
        for top in place_tiles(image.shape[0], tile, step)
        for left in place_tiles(image.shape[1], tile, step)
    ]
    weight = taper(tile)[..., None]
    sums: np.ndarray | None = None
    weights = np.zeros((*image.shape, 1), np.float32)
    at_once = max(1, PIXELS_AT_ONCE // tile**2)
    for first in range(0, len(places), at_once):
        some = places[first : first + at_once]
        results = compute(np.stack([image[y : y + tile, x : x + tile] for y, x in some]))
        if sums is None:
            sums = np.zeros((*image.shape, results.shape[-1]), np.float32)
        for (y, x), result in zip(some, results, strict=True):
            sums[y : y + tile, x : x + tile] += weight * result
            weights[y : y + tile, x : x + tile] += weight
        if tell is not None:
            tell(first + len(some), len(places))
    assert sums is not None  # there is at least one tile
    return sums / weights


def _run_turned(predictor: Predictor, images: np.ndarray, symmetries: bool) -> np.ndarray:
    """Probabilities (n, h, w, classes + 1) of images (n, h, w), over all their symmetries."""
    chosen = SYMMETRIES if symmetries else SYMMETRIES[:1]
    total = np.zeros((*images.shape, len(predictor.classes) + 1), np.float32)
    for turns, mirrored in chosen:
        turned = np.rot90(images[:, :, ::-1] if mirrored else images, turns, axes=(1, 2))
        found = predictor.compute(np.ascontiguousarray(turned, dtype=np.float32))
        back = np.rot90(found, -turns, axes=(1, 2))
        total += back[:, :, ::-1] if mirrored else back
    return total / np.float32(len(chosen))


def _continue(image: np.ndarray, sides: list[int]) -> np.ndarray:
    """The image continued by its mirror image to the right and below, to (h, w)."""
    wide = [(0, side - n) for side, n in zip(sides, image.shape, strict=True)]
    return np.pad(image, wide, mode="symmetric") if any(map(any, wide)) else image


def _round_up(pixels: int, multiple: int) -> int:
    return -(-pixels // multiple) * multiple
