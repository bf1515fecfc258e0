"""Sides of the images that a network takes."""

from __future__ import annotations

from collections.abc import Sequence

import keras

from hpctem.errors import ConfigError


def require_sides(sides: Sequence[int | None], multiple: int, least: int = 1) -> None:
    """Raise ConfigError unless the sides, in pixels, are multiples of a number and large enough.

    A side of None is not known yet and passes.
    """
    known = [side for side in sides if side is not None]
    if any(side % multiple or side < least for side in known):
        size = " x ".join("?" if side is None else str(side) for side in sides)
        wanted = f"multiples of {multiple}" if multiple > 1 else "as long"
        if least > multiple:
            wanted += f", at least {least}" if multiple > 1 else f" as {least} or longer"
        raise ConfigError(
            f"an image of {size} pixels does not fit the network: its sides must be {wanted}; "
            "cut, fill up or resample it"
        )


class Sides(keras.layers.Layer):
    """Passes images (batch, y, x, channels) on whose sides a network can take.

    Raises ConfigError for others; without it, layers further down fail on shapes that no user has
    ever seen.
    """

    def __init__(self, multiple: int, least: int = 1, **kwargs: object) -> None:
        super().__init__(**kwargs)
        self.multiple = multiple
        self.least = least

    def call(self, images: object) -> object:
        require_sides(tuple(images.shape[1:3]), self.multiple, self.least)  # type: ignore[attr-defined]
        return images

    def compute_output_shape(self, shape: tuple) -> tuple:
        return shape
