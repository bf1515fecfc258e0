"""What a prediction leaves behind: a table and a map of positions, masks, maps of probabilities.

Positions are those of the file's image: pixel_x is the column, pixel_y the row, 0 the centre of the
first pixel; x and y are the same in angstrom.
"""

from __future__ import annotations

import csv
import difflib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hpctem.errors import ConfigError
from hpctem.learning.prediction.positions import Found
from hpctem.report import BACKGROUND, OUTLINES

COLUMNS = ("image", "row", "class", "pixel_x", "pixel_y", "x", "y", "score", "area")
# What is written of each image, how these files end; of rows of databases, which are many.
WRITTEN = {"masks": ".mask.png", "maps": ".maps.npz", "overlays": ".overlay.png"}
WRITTEN_OF_ROWS = ("masks",)
AXES = (
    "coordinates in the unit given: x to the right, y downwards, from the centre of the image's "
    "first pixel; 'pixel' is the same in pixels (column, row)"
)


@dataclass(frozen=True)
class Predicted:
    """What was found in one image.

    image       file that holds it; row: of a database, else None
    shape       (ny, nx) of what was looked at; first_row: where that begins in the file's image
    pixel_size  A along (y, x), None where it is unknown
    classes     names of the classes 1, 2 ...
    found       positions in that part
    shares      of the pixels that the mask gives to each class
    note        what a user should know, or nothing
    files       that were written for it
    """

    image: str
    row: int | None
    shape: tuple[int, int]
    first_row: int
    pixel_size: tuple[float, float] | None
    classes: tuple[str, ...]
    found: Found
    shares: tuple[float, ...]
    note: str
    files: tuple[str, ...]


def parse_written(text: str | None) -> tuple[str, ...] | None:
    """Which files of each image are asked for, of 'masks,overlays' or 'none'; None by the source.

    Raises ConfigError for others.
    """
    if text is None or text.strip() == "none":
        return None if text is None else ()
    names = tuple(dict.fromkeys(name.strip() for name in text.split(",")))
    for name in names:
        if name not in WRITTEN:
            near = difflib.get_close_matches(name, WRITTEN, n=1)
            hint = f", perhaps {near[0]} is meant" if near else ""
            raise ConfigError(f"--write {name!r}: {', '.join(WRITTEN)} or none{hint}")
    return names


def describe_predicted(one: Predicted) -> dict[str, Any]:
    """What is known of an image as plain data for JSON, but for its positions: counts of them."""
    counts = [np.count_nonzero(one.found.kind == k) for k in range(1, len(one.classes) + 1)]
    return {
        "image": one.image,
        "row": one.row,
        "shape": list(one.shape),
        "first_row": one.first_row,
        "pixel_size": None if one.pixel_size is None else list(one.pixel_size),
        "found": dict(zip(one.classes, counts, strict=True)),
        "shares": dict(zip(one.classes, one.shares, strict=True)),
        "note": one.note,
        "files": list(one.files),
    }


def write_table(path: Path, predicted: Sequence[Predicted]) -> None:
    """Write all positions as comma-separated values in UTF-8; `COLUMNS` are its columns.

    x, y and area are in A and A^2 and stay empty where the pixel size is unknown; row is empty for
    image files.
    """
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\r\n")
        writer.writeheader()
        for one in predicted:
            for place in _list_positions(one):
                writer.writerow({name: "" if v is None else v for name, v in place.items()})


def write_features(path: Path, predicted: Sequence[Predicted], model: str) -> None:
    """Write all positions as JSON laid out like GeoJSON: a feature with a point for each.

    The coordinates are in angstrom, or in pixels where any image's pixel size is unknown: `unit`
    says which. A feature's properties are those of the table.
    """
    known = all(one.pixel_size is not None for one in predicted)
    head = {
        "type": "FeatureCollection",
        "unit": "angstrom" if known else "pixel",
        "axes": AXES,
        "model": model,
        "classes": list(predicted[0].classes),
    }
    with path.open("w", encoding="utf-8") as file:
        file.write(json.dumps(head, ensure_ascii=False)[:-1] + ', "features": [')
        between = "\n"
        for one in predicted:
            for place in _list_positions(one):
                names = ("x", "y") if known else ("pixel_x", "pixel_y")
                feature = {
                    "type": "Feature",
                    "geometry": {"type": "Point", "coordinates": [place[name] for name in names]},
                    "properties": {
                        **{name: place[name] for name in ("image", "row", "class")},
                        "pixel": [place["pixel_x"], place["pixel_y"]],
                        **{name: place[name] for name in ("score", "area")},
                    },
                }
                file.write(between + json.dumps(feature, ensure_ascii=False))
                between = ",\n"
        file.write("\n]}\n")


def make_mask(probabilities: np.ndarray, threshold: float | None = None) -> np.ndarray:
    """The class of every pixel: uint8 (ny, nx), 0 background, from (classes + 1, ny, nx).

    The most probable one; with a threshold the most probable one but for the background, where it
    reaches the threshold.
    """
    if threshold is None:
        return probabilities.argmax(axis=0).astype(np.uint8)
    best = probabilities[1:].argmax(axis=0)
    return np.where(probabilities[1:].max(axis=0) >= threshold, best + 1, 0).astype(np.uint8)


def write_mask(path: Path, mask: np.ndarray) -> None:
    """Write a mask (ny, nx) of uint8 as PNG whose values are the classes, shown in colours."""
    from PIL import Image

    picture = Image.frombytes(
        "P", (mask.shape[1], mask.shape[0]), np.ascontiguousarray(mask).tobytes()
    )
    colours = [BACKGROUND, *(OUTLINES[k % len(OUTLINES)] for k in range(255))]
    picture.putpalette([int(text[at : at + 2], 16) for text in colours for at in (1, 3, 5)])
    picture.save(path, format="PNG", optimize=True)


def write_maps(
    path: Path, probabilities: np.ndarray, classes: Sequence[str], one: Mapping[str, Any]
) -> None:
    """Write maps of probabilities (classes + 1, ny, nx) as a file of NumPy, .npz.

    It holds `probabilities` of float32, `classes` with their names, the background first, and what
    else is named. A picture of 8 bit would round them, a TIFF has no place for the names.
    """
    np.savez_compressed(
        path,
        probabilities=probabilities,
        classes=np.array(["background", *classes]),
        **{name: np.asarray(value) for name, value in one.items()},
    )


def _list_positions(one: Predicted) -> Iterator[dict[str, Any]]:
    """What the table says of each position of an image."""
    found = one.found.shift(0.0, one.first_row)
    sy, sx = one.pixel_size or (None, None)
    for x, y, kind, score, area in zip(
        *(getattr(found, name).tolist() for name in ("x", "y", "kind", "score", "area")),
        strict=True,
    ):
        yield {
            "image": one.image,
            "row": one.row,
            "class": one.classes[kind - 1],
            "pixel_x": round(x, 4),
            "pixel_y": round(y, 4),
            "x": None if sx is None else round(x * sx, 5),
            "y": None if sy is None else round(y * sy, 5),
            "score": round(score, 6),
            "area": None if sx is None or sy is None else round(area * sx * sy, 6),
        }
