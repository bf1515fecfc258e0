"""The keys of an import file: where the images and labels of a published set lie, what they mean.

Files are named relative to the folder that the set was downloaded to, which the command names; a
name may be a pattern, such as `*_Images.h5`.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from hpctem.distributions import Quantity
from hpctem.sections.common import Section

# What SQL conditions and training files call a label map.
MapName = Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_]{0,40}$")]


class ImportedSet(Section):
    """What the set is called, where it comes from, how it was taken."""

    name: str = Field(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,99}$", description="name of the database"
    )
    technique: Literal["hrtem", "stem"]
    """What took the images."""
    source: str = Field(max_length=500, description="where the set is published, as a DOI")
    licence: str = Field(max_length=200, description="under which the set is published")
    cite: str = Field("", max_length=1000, description="what to cite")
    description: str = Field("", max_length=2000, description="title of the database")
    pixel_size: Annotated[float, Quantity("length", 1e-3, 1e3)] | None = Field(
        None, description="side of a pixel; needed where the files do not say it"
    )
    median: Literal["none", "stored", "view"] = "none"
    """'stored': the images are 3 x 3 medians already; 'view': networks are to see medians."""
    tile: int | None = Field(
        None, ge=16, le=16384, description="side of the squares that images are cut into"
    )


class Dataset(Section):
    """A dataset of an HDF5 file."""

    file: str = Field(min_length=1, max_length=1000, description="file or pattern")
    dataset: str = Field(min_length=1, max_length=1000, description="path in the file")


class StackLabels(Dataset):
    """Labels in an HDF5 file: a value for each pixel, or a channel for each class."""

    maps: dict[MapName, Annotated[int, Field(ge=0, le=65535)]] = Field(
        min_length=1, max_length=250, description="label map: its value, or its channel from 0"
    )


class Stack(Section):
    """A set that is an array of images, and an array of labels in the same order."""

    images: Dataset
    labels: StackLabels | None = None
    """None: the set has images alone."""


class Folders(Section):
    """A set of image files, with files of labels beside each."""

    images: str = Field(min_length=1, max_length=1000, description="pattern, as */input.tif")
    frame: int | Literal["mean"] | None = Field(None, description="of stacks, which image")
    labels: dict[MapName, str] = Field(
        default_factory=dict, max_length=250, description="label map: file or pattern beside each"
    )
    threshold: Annotated[float, Quantity(None, 0.0, 0.999)] = 0.25
    """Of a label file's own range, above which a pixel is marked."""
    positions: bool = Field(False, description="label maps show defects: list where they are")


class ImportConfig(Section):
    """An import file: a set, and how its files are laid out."""

    set: ImportedSet
    stack: Stack | None = None
    folders: Folders | None = None

    @model_validator(mode="after")
    def _one_layout(self) -> ImportConfig:
        if (self.stack is None) == (self.folders is None):
            raise ValueError(
                "an import file has either the section 'stack' (arrays in HDF5 files) or the "
                "section 'folders' (image files)"
            )
        if self.stack is not None and self.set.pixel_size is None:
            raise ValueError("set.pixel_size is needed: arrays do not say how large pixels are")
        if self.folders is not None and self.folders.positions and not self.folders.labels:
            raise ValueError("folders.positions: there are no labels whose positions to list")
        return self
