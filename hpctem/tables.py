"""What the tables of every campaign share: the paths of datasets, statistics of images."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from operator import itemgetter
from typing import Any

import numpy as np

from hpctem.database.schema import ATOMS_DIGEST, Field
from hpctem.errors import SampleError
from hpctem.structures.scenes import Column, Structure, digest

# The structure tables use the short unit, the file the one that NeXus viewers know.
UNITS = {"A": "angstrom", "A^2": "angstrom^2"}
IMAGES = "/entry/images/intensity"
INSTANCES = "/entry/labels/instances"
POSITIONS, NUMBERS, TAGS = (f"/entry/atoms/{name}" for name in ("positions", "numbers", "tags"))

IMAGE_STATISTICS: tuple[Column, ...] = (
    Column("mean", "float64", "", "mean of the stored image"),
    Column("standard_deviation", "float64", "", "standard deviation of the stored image"),
    Column("minimum", "float64", "", "smallest pixel of the stored image"),
    Column("maximum", "float64", "", "largest pixel of the stored image"),
    Column("saturated", "float64", "", "share of the pixels that exceeded 16 bits"),
)


def column_fields(group: str, table: str, columns: Iterable[Column]) -> Iterator[Field]:
    """The datasets of the columns of a table, in a group under /entry."""
    for column in columns:
        yield Field(
            f"/entry/{group}/{column.name}",
            table,
            np.dtype(column.dtype),
            (),
            UNITS.get(column.units, column.units),
            column.description,
            tuple(column.categories),
        )


def digest_field() -> Field:
    """The dataset of the structures' digests."""
    meaning = "BLAKE2b-128 of positions, numbers and tags of the atoms"
    return Field(ATOMS_DIGEST, "structures", np.dtype("u1"), (16,), "", meaning)


def atom_fields(tags: str) -> Iterator[Field]:
    """The datasets of stored atoms; `tags` says what their tags mean."""
    places = "x, y, z of the atoms at rest"
    yield Field(POSITIONS, "atoms", np.dtype("f8"), (3,), "angstrom", places)
    yield Field(NUMBERS, "atoms", np.dtype("u1"), (), "", "atomic numbers")
    yield Field(TAGS, "atoms", np.dtype("u1"), (), "", tags)


def digest_row(structure: Structure) -> np.ndarray:
    """The digest of a structure as its row: (1, 16) uint8."""
    return np.frombuffer(digest(structure), np.uint8)[None]


def atom_rows(structure: Structure) -> dict[str, np.ndarray]:
    """The rows of stored atoms."""
    return {
        POSITIONS: structure.positions,
        NUMBERS: structure.numbers,
        TAGS: structure.tags,
    }


def stack(arrays: Sequence[np.ndarray]) -> np.ndarray:
    """Arrays of one shape one upon the other; of a single one no copy is made."""
    return arrays[0][None] if len(arrays) == 1 else np.stack(arrays)


def measure_image(image: np.ndarray) -> dict[str, float]:
    """Mean, standard deviation, minimum and maximum of a stored image (ny, nx).

    Raises SampleError when it holds NaN or infinity.
    """
    mean = image.mean(dtype=np.float64)
    deviations = image - mean
    np.multiply(deviations, deviations, out=deviations)
    values = {
        "mean": float(mean),
        "standard_deviation": math.sqrt(deviations.mean()),
        "minimum": float(image.min()),
        "maximum": float(image.max()),
    }
    if not np.isfinite(values["standard_deviation"]):
        raise SampleError("the image holds NaN or infinity")
    return values


def metadata_rows(
    images: Sequence[Mapping[str, Any]], columns: Iterable[Column]
) -> dict[str, np.ndarray]:
    """The rows of images in their table: dataset path -> values of the column's dtype."""
    named: dict[str, list[str]] = {}
    for column in columns:
        named.setdefault(column.dtype, []).append(column.name)
    rows: dict[str, np.ndarray] = {}
    for dtype, names in named.items():  # one array for each type, as there are scores of columns
        values = np.array([itemgetter(*names)(image) for image in images], dtype)
        of_columns = np.ascontiguousarray(values.reshape(len(images), len(names)).T)
        rows |= {f"/entry/metadata/{n}": row for n, row in zip(names, of_columns, strict=True)}
    return rows
