"""Sets that are image files, each with files of labels beside it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hpctem.errors import ConfigError
from hpctem.importing.import_file import find_file, find_files
from hpctem.importing.pictures import Picture
from hpctem.micrographs.read import Micrograph, read_micrograph
from hpctem.sections.importing import Folders

COUNTED = ("uint8", "uint16", "bool")


@dataclass(frozen=True)
class FolderPictures:
    """The images of a folder; see `pictures.Pictures`.

    paths   of the images
    beside  for each image its label files, by map
    sizes   for each image the side of its pixels in A; None where its file does not say it
    """

    folder: Path
    section: Folders
    paths: tuple[Path, ...]
    beside: tuple[Mapping[str, Path], ...]
    shape: tuple[int, int]
    counts: bool
    sizes: tuple[float | None, ...]

    @property
    def maps(self) -> tuple[str, ...]:
        """Names of the label maps."""
        return tuple(self.section.labels)

    @property
    def files(self) -> tuple[Path, ...]:
        """All files that are read."""
        labels = [path for files in self.beside for path in files.values()]
        return tuple(dict.fromkeys([*self.paths, *labels]))

    def __len__(self) -> int:
        return len(self.paths)

    def name(self, index: int) -> str:
        """The file, relative to the folder."""
        return str(self.paths[index].relative_to(self.folder))

    def find_size(self, index: int) -> float | None:
        """The side in A of a pixel of image `index`, where its file says it."""
        return self.sizes[index]

    def read(self, index: int) -> Picture:
        """Image `index` and its labels."""
        image = read_micrograph(self.paths[index], self.section.frame).image
        return Picture(image, self.read_labels(index), self.find_size(index))

    def read_labels(self, index: int) -> np.ndarray:
        """uint8 (maps, ny, nx). Raises ConfigError for a label of another size than its image."""
        marked = np.zeros((len(self.maps), *self.shape), np.uint8)
        for place, path in enumerate(self.beside[index].values()):
            values = read_values(path)
            if values.shape != self.shape:
                told = [f"{ny} x {nx} px" for ny, nx in (values.shape, self.shape)]
                raise ConfigError(
                    f"{path} is {told[0]}, its image {self.paths[index].name} {told[1]}: labels "
                    "must be as large as images"
                )
            marked[place] = mark(values, self.section.threshold)
        return marked


def open_folders(folder: Path, section: Folders) -> FolderPictures:
    """The images that an import file means in a folder, each looked at.

    Raises ConfigError for patterns that mean no file, labels that are missing beside an image,
    files that are no images, and images that differ in size.
    """
    paths = find_files(folder, section.images, "folders.images")
    beside = [
        {
            name: find_file(path.parent, pattern, f"folders.labels.{name}")
            for name, pattern in section.labels.items()
        }
        for path in paths
    ]
    taken = [path for path, files in zip(paths, beside, strict=True) if path in files.values()]
    if taken:
        raise ConfigError(
            f"folders.images: {section.images!r} means {taken[0]}, which folders.labels means too: "
            "write a pattern that leaves the labels out, as */input.tif"
        )
    counted = section.frame != "mean"
    shape: tuple[int, ...] = ()
    sizes = []
    for path in paths:
        found = read_micrograph(path, section.frame)
        counted &= found.source["dtype"] in COUNTED
        sizes.append(_measure_pixel(found))
        shape = shape or found.image.shape
        if found.image.shape != shape:
            other = " x ".join(map(str, found.image.shape))
            raise ConfigError(
                f"folders.images: {paths[0]} is {shape[0]} x {shape[1]} px, {path} {other}: a "
                "database holds images of one size; import each size by itself, with patterns of "
                "their own"
            )
    ny, nx = shape
    return FolderPictures(
        folder, section, tuple(paths), tuple(beside), (ny, nx), counted, tuple(sizes)
    )


def _measure_pixel(found: Micrograph) -> float | None:
    """The side in A of a square pixel of the same area; None where the file does not say it."""
    if found.pixel_size is None:
        return None
    return math.sqrt(found.pixel_size[0] * found.pixel_size[1])


def read_values(path: Path) -> np.ndarray:
    """A file of labels: float32 (ny, nx); colours are added up.

    Raises ConfigError for a file that is no image.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        if path.suffix.lower() == ".npy":
            values = np.load(path, allow_pickle=False)
        else:
            with Image.open(path) as opened:
                values = np.asarray(opened.convert("RGB") if opened.mode == "P" else opened)
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError, EOFError) as error:
        raise ConfigError(f"{path} cannot be read as labels: {error}") from None
    if values.ndim == 3 and values.shape[-1] in (3, 4):
        values = values[..., :3].sum(axis=-1, dtype=np.float32)
    if values.ndim != 2 or values.dtype.kind not in "biuf":
        raise ConfigError(
            f"{path} holds {values.dtype} of {values.shape}: labels are one number for each pixel"
        )
    return values.astype(np.float32)


def mark(values: np.ndarray, threshold: float) -> np.ndarray:
    """Where values (ny, nx) exceed a threshold of their own range, 0 its least and 1 its largest.

    So Khan et al. take labels from images of the defects alone; one in which all is equal has no
    defect and marks nothing. Returns bool (ny, nx).
    """
    low, high = float(values.min()), float(values.max())
    if not high > low:
        return np.zeros(values.shape, bool)
    return (values - low) / (high - low) > threshold
