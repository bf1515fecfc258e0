"""Sets of images that are compared: patches of micrographs, databases and subset files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import hpctem
from hpctem.collection.collection import Collection
from hpctem.errors import ConfigError
from hpctem.learning.data.accepted import take_accepted
from hpctem.learning.data.preparation import measure_preparation, prepare
from hpctem.learning.prediction.sources import DATABASES, SUBSETS
from hpctem.micrographs.measure import cut_rows
from hpctem.micrographs.read import read_micrograph
from hpctem.sampling import Streams
from hpctem.sections.training import Preparation

Rows = tuple[int, int | None] | None
PER_IMAGE = 8  # patches that are cut at most from one image of a database, if there are more images


@dataclass(frozen=True)
class ImageSet:
    """Images under one name, prepared as a group.

    patches     (n, side, side) float32, -1...1
    regions     the images they are cut from, prepared alike, (ny, nx) float32; () of databases
    pixel_size  A, of the first image; None where it is unknown
    images      number of images that gave patches
    """

    name: str
    patches: np.ndarray
    regions: tuple[np.ndarray, ...]
    pixel_size: float | None
    images: int


@dataclass(frozen=True)
class Cutting:
    """How patches are cut: their side in pixels, how many of each set, the seed of their places."""

    side: int
    count: int
    seed: int = 0


@dataclass(frozen=True)
class Choice:
    """Which images of a source: SQL condition, part of a subset, rows and frame of image files."""

    where: str | None = None
    part: str | None = None
    rows: Rows = None
    frame: int | str | None = None


def parse_set(text: str) -> tuple[str, tuple[str, ...]]:
    """Name and files of 'NAME=FILE,FILE...' or 'FILE', which is called by the file's name.

    Raises ConfigError for an empty name or no file.
    """
    name, equals, files = text.partition("=")
    if not equals:
        name, files = Path(text.partition("::")[0]).stem, text
    paths = tuple(filter(None, (part.strip() for part in files.split(","))))
    if not name.strip() or not paths:
        raise ConfigError(f"{text!r} is no set of images: write FILE, or NAME=FILE,FILE...")
    return name.strip(), paths


def read_regions(
    paths: Sequence[str], choice: Choice, pixel_size: float | None = None
) -> tuple[list[np.ndarray], float | None]:
    """The images of files, or their rows, as recorded, and the pixel size (A) of the first.

    Errors as `read_micrograph` and `cut_rows`.
    """
    found = []
    for path in paths:
        micrograph = read_micrograph(path, choice.frame)
        if pixel_size is None and micrograph.pixel_size is not None:
            pixel_size = float(np.sqrt(micrograph.pixel_size[0] * micrograph.pixel_size[1]))
        image = micrograph.image
        if choice.rows is not None:
            first, last = choice.rows
            image = cut_rows(image, (first, len(image) if last is None else last))
        found.append(image)
    return found, pixel_size


def read_set(text: str, choice: Choice, cutting: Cutting, median: bool = False) -> ImageSet:
    """A set of 'NAME=FILES' or 'FILE': databases, one subset file, or image files.

    Images of databases that were rejected (their column `accepted` is 0) are left out. Of image
    files patches are cut anywhere, of databases from images drawn at random, each at most 8 times
    where there are images enough; places depend on seed and number alone.

    Raises ConfigError for sources that are mixed, no images, and images smaller than a patch.
    """
    name, paths = parse_set(text)
    endings = {Path(path).suffix.lower() for path in paths}
    if endings <= set(DATABASES):
        return _cut_collection(name, hpctem.open(list(paths)), choice, cutting, median)
    if endings <= set(SUBSETS) and len(paths) == 1:
        collection = hpctem.open(subset=paths[0], part=choice.part)
        return _cut_collection(name, collection, choice, cutting, median)
    if endings & {*DATABASES, *SUBSETS}:
        raise ConfigError(f"the set {name} mixes kinds of files: databases, one subset, or images")
    regions, pixel_size = read_regions(paths, choice)
    return cut_regions(name, regions, pixel_size, cutting, median)


def cut_regions(
    name: str,
    regions: Sequence[np.ndarray],
    pixel_size: float | None,
    cutting: Cutting,
    median: bool = False,
) -> ImageSet:
    """A set of images (ny, nx), as recorded, with patches cut at random places.

    Images give patches by their areas. Raises ConfigError for an image smaller than a patch.
    """
    side = cutting.side
    for region in regions:
        if min(region.shape) < side:
            raise ConfigError(
                f"{name}: an image of {region.shape[0]} x {region.shape[1]} pixels has no room for "
                f"patches of {side}: give a smaller --patch"
            )
    how = measure_preparation(regions, Preparation(median=median, scale="group"))
    prepared = tuple(prepare(region, how) for region in regions)
    rooms = np.array([np.prod(np.array(region.shape) - side + 1) for region in prepared], float)
    generator = Streams(cutting.seed)(f"realism/{name}", 0)
    chosen = generator.choice(len(prepared), cutting.count, p=rooms / rooms.sum())
    patches = [_cut(prepared[k], side, generator) for k in chosen]
    return ImageSet(name, np.stack(patches), prepared, pixel_size, len(prepared))


def _cut_collection(
    name: str, collection: Collection, choice: Choice, cutting: Cutting, median: bool
) -> ImageSet:
    with collection:
        chosen = collection if choice.where is None else collection.where(choice.where)
        if not len(chosen):
            raise ConfigError(f"{name}: there is no image")
        try:
            chosen = take_accepted(chosen)
        except ConfigError as error:
            raise ConfigError(f"{name}: {error}") from error
        side = cutting.side
        generator = Streams(cutting.seed)(f"realism/{name}", 0)
        images = min(len(chosen), max(-(-cutting.count // PER_IMAGE), 1))
        places = np.sort(generator.permutation(len(chosen))[:images])
        raw = []
        for k in range(cutting.count):
            image = np.asarray(chosen.images[int(places[k % images])])
            if image.ndim != 2 or min(image.shape) < side:
                raise ConfigError(
                    f"{name}: images of {' x '.join(map(str, image.shape))} pixels have no room "
                    f"for patches of {side}: give a smaller --patch"
                )
            raw.append(spread_counts(_cut(image, side, generator), cutting.seed, name, k))
        sizes = chosen.column("pixel_size") if "pixel_size" in chosen.columns else np.array([])
        sizes = sizes[np.isfinite(sizes)]
        pixel_size = float(np.median(sizes)) if len(sizes) else None
    how = measure_preparation(raw, Preparation(median=median, scale="group"))
    patches = np.stack([prepare(patch, how) for patch in raw])
    return ImageSet(name, patches, (), pixel_size, images)


def spread_counts(patch: np.ndarray, seed: int, name: str, number: int) -> np.ndarray:
    """Whole counts (side, side) spread evenly over their steps, float32; others as they are.

    A count stands for all intensities half a step about it. Left whole, a few dozen counts would
    fill a few dozen of the 256 bins of a histogram, and nothing could be compared with it.
    """
    if patch.dtype.kind not in "iu":
        return patch
    steps = Streams(seed)(f"realism/{name}/steps", number).uniform(-0.5, 0.5, patch.shape)
    return (patch + steps).astype(np.float32)


def _cut(image: np.ndarray, side: int, generator: np.random.Generator) -> np.ndarray:
    top, left = (int(generator.integers(0, n - side + 1)) for n in image.shape)
    return image[top : top + side, left : left + side]


def halve(region: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The two halves of an image (ny, nx), across its longer side."""
    ny, nx = region.shape
    if ny > nx:
        return region[: ny // 2], region[ny - ny // 2 :]
    return region[:, : nx // 2], region[:, nx - nx // 2 :]
