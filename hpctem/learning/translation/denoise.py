"""A micrograph as a simulation would show it: a generator over overlapping tiles."""

from __future__ import annotations

import io
import math
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from hpctem.database.journal import write_durably
from hpctem.errors import ConfigError
from hpctem.export.rasters import write_tiff
from hpctem.learning.cyclegan.picture import draw_cycle
from hpctem.learning.data.preparation import measure_preparation, prepare, tell_range
from hpctem.learning.prediction.inference import Tell, blend_tiles
from hpctem.learning.prediction.resampling import PixelSize, count_pixels, match_pixels, resample
from hpctem.learning.prediction.sources import Shot
from hpctem.learning.translation.fidelity import LEAST_LIKENESS, MOST_OFFSET, check_patch
from hpctem.learning.translation.rows import Recipe
from hpctem.sections.training import Preparation

OVERLAP = 4
"""Tiles that cover each pixel along each direction."""
ENDINGS = (".tif", ".tiff", ".npy")


@dataclass(frozen=True)
class Denoised:
    """A micrograph and what became of it.

    before      float32 (ny, nx), prepared
    after       float32 (ny, nx), -1...1 of the simulations' range
    pixel_size  A along (y, x); None where it is not known
    notes       what a user should know
    """

    before: np.ndarray
    after: np.ndarray
    pixel_size: tuple[float, float] | None
    notes: tuple[str, ...]


def denoise_image(
    recipe: Recipe, shot: Shot, own: Preparation | None = None, tell: Tell | None = None
) -> Denoised:
    """What a generator makes of a micrograph of any size, at its own pixels.

    own   section of the training file: the image is scaled by its own mean and standard deviation,
          not by those of the experiment that was learnt from

    Pixels that are not those of the training are resampled. The image is cut into tiles of the
    training's size that overlap by three quarters and count least at their border. Raises
    ConfigError for an image smaller than a tile, and as `match_pixels` does.
    """
    match = match_pixels(shot.pixel_size, recipe.pixel_sizes)
    ny, nx = count_pixels(shot.image.shape, match.factor)
    if min(ny, nx) < recipe.patch:
        raise ConfigError(
            f"the image has {nx} x {ny} pixels of those that were learnt, and a tile has "
            f"{recipe.patch} x {recipe.patch}: take a larger one"
        )
    if own is not None:
        recipe = replace(recipe, prepare=measure_preparation([shot.image], own))
    before = prepare(shot.image, recipe.prepare)
    generate = recipe.generate()
    blended = blend_tiles(
        lambda tiles: generate(tiles)[..., None],
        resample(before, match.factor),
        recipe.patch,
        max(1, recipe.patch // OVERLAP),
        tell,
    )[..., 0]
    back = (1 / match.factor[0], 1 / match.factor[1])
    after = np.ascontiguousarray(resample(blended, back, before.shape, order=1))
    sizes = _pair(shot.pixel_size)
    notes = [match.note, tell_range(before), _tell_fidelity(before, after, sizes)]
    return Denoised(before, after, sizes, tuple(filter(None, notes)))


def write_denoised(found: Denoised, path: Path, title: str) -> list[Path]:
    """Write the image as TIFF or NPY (float32) by the ending, and a picture beside it (PNG).

    Raises ConfigError for another ending, MachineError when it cannot be written.
    """
    require_ending(path)
    stream = io.BytesIO()
    if path.suffix.lower() == ".npy":
        np.save(stream, found.after)
    else:
        # A TIFF without a size would be read as one of some default: a pixel is then a unit.
        steps = found.pixel_size or (10.0, 10.0)
        write_tiff(stream, found.after, steps, {"denoised": title}, packed=False)
    write_durably(path, stream.getvalue())
    picture = path.with_suffix(".png")
    columns = {"micrograph": found.before[None], "denoised": found.after[None]}
    draw_cycle(columns, picture, inches=8.0)
    return [path, picture]


def require_ending(path: Path) -> None:
    """Raise ConfigError for the name of a file that images are not written to."""
    if path.suffix.lower() not in ENDINGS:
        raise ConfigError(f"{path}: images are written to one of {', '.join(ENDINGS)}")


def _pair(size: PixelSize | None) -> tuple[float, float] | None:
    if size is None:
        return None
    y, x = np.broadcast_to(np.asarray(size, dtype=float), (2,))
    return float(y), float(x)


def _tell_fidelity(before: np.ndarray, after: np.ndarray, sizes: tuple[float, float] | None) -> str:
    if sizes is None:
        return "whether it is displaced was not checked: the pixel size is not known"
    found = check_patch(before, after, math.sqrt(sizes[0] * sizes[1]), np.empty((0, 2)), None)
    offset = math.hypot(*found.offset)
    if found.likeness < LEAST_LIKENESS:
        return f"it is not like the image (correlation {found.likeness:.2f}): do not trust it"
    said = f"displaced by {offset:.2f} px against the image, correlation {found.likeness:.2f}"
    return said if offset < MOST_OFFSET else f"{said}: do not measure positions in it"
