"""One image judged, and many of them summed up: tables of scores, curves over conditions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hpctem.errors import ConfigError
from hpctem.learning.judging.baselines import choose_baselines, tally_baselines
from hpctem.learning.judging.matching import Judged, count_kinds, judge_positions, tally_positions
from hpctem.learning.judging.metrics import count_confusion, plain, score, summarise, tally_pixels
from hpctem.learning.judging.truths import Truth
from hpctem.learning.prediction.positions import RADIUS, RADIUS_PIXELS, Found
from hpctem.subsets.strata import Strata

MATCH_RADIUS = 1.5  # A
BORDER = 32.0  # pixels (Khan et al. 2023), but no more than an eighth of the image
EACH, ANY = "all classes", "any class"


@dataclass(frozen=True)
class Rules:
    """How positions are judged.

    radius   A, within which a found position can be a true one
    border   width and unit ('px' or 'A') of the strip along the edges that does not count; None:
             32 px, or an eighth of the shorter side where that is less
    """

    radius: float = MATCH_RADIUS
    border: tuple[float, str] | None = None


@dataclass(frozen=True)
class Record:
    """What was right and wrong in one image, in parts: the image is cut into b blocks.

    name        of the image; row: of its database
    pixels      (b, K + 1, 3) int64, tallies of the classes and of any class
    confusion   (K + 1, K + 1) int64 pixels, true class by class found
    baselines   (n, b, 3) int64, of any class
    positions   (b, K + 1, 3) int64, of the classes and of positions whatever their class
    mistaken    (K + 1, K + 1) int64 positions, true class by class found

    None: nobody knows the truth of it, or it was not asked for.
    """

    name: str
    row: int | None
    pixels: np.ndarray | None = None
    confusion: np.ndarray | None = None
    baselines: np.ndarray | None = None
    positions: np.ndarray | None = None
    mistaken: np.ndarray | None = None

    @property
    def worth(self) -> float:
        """F1 by which images are ranked: of positions, else of pixels; NaN where none applies."""
        for tallies, one in ((self.positions, slice(0, -1)), (self.pixels, slice(-1, None))):
            if tallies is not None:
                return float(score(tallies[:, one].sum(axis=(0, 1)))[2])
        return float("nan")


def judge_image(
    mask: np.ndarray, truth: Truth, classes: int, blocks: int
) -> tuple[np.ndarray, np.ndarray]:
    """Pixels of a mask (ny, nx) against the truth: tallies (b, K + 1, 3), confusion."""
    assert truth.mask is not None
    confusion = count_confusion(truth.mask, mask, classes, blocks)
    return tally_pixels(confusion), confusion.sum(axis=0)


def judge_found(
    found: Found,
    truth: Truth,
    shape: tuple[int, ...],
    pixel_size: float | None,
    rules: Rules,
    classes: int,
    blocks: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Positions against the truth: tallies (b, K + 1, 3), and which class was taken for which.

    Each class is matched by itself, the last tally is of all, whatever their class. pixel_size: A.
    Errors as `find_reach`.
    """
    assert truth.points is not None and truth.kinds is not None and truth.counted is not None
    reach, border = find_reach(shape, pixel_size, rules)
    places = np.stack([found.x, found.y], axis=1)
    tallies = np.zeros((blocks**2, classes + 1, 3), np.int64)
    for kind in range(1, classes + 1):
        true, mine = truth.kinds == kind, found.kind == kind
        points = truth.points[true], places[mine]
        judged = judge_positions(*points, shape, reach, border, truth.counted[true])
        tallies[:, kind - 1] = tally_positions(judged, *points, shape, blocks)
    judged = judge_together(found, truth, shape, pixel_size, rules)
    tallies[:, classes] = tally_positions(judged, truth.points, places, shape, blocks)
    mistaken = count_kinds(truth.points, truth.kinds, places, found.kind, judged, classes)
    return tallies, mistaken


def judge_together(
    found: Found, truth: Truth, shape: tuple[int, ...], pixel_size: float | None, rules: Rules
) -> Judged:
    """Positions against the truth whatever their class; errors as `find_reach`."""
    assert truth.points is not None
    reach, border = find_reach(shape, pixel_size, rules)
    places = np.stack([found.x, found.y], axis=1)
    return judge_positions(truth.points, places, shape, reach, border, truth.counted)


def find_reach(
    shape: tuple[int, ...], pixel_size: float | None, rules: Rules
) -> tuple[float, float]:
    """Radius of matching and border, in pixels.

    Raises ConfigError for an unknown pixel size, and for a border that leaves nothing.
    """
    if pixel_size is None:
        raise ConfigError(
            f"positions are matched within {rules.radius:g} A, and the image does not say its "
            "pixel size: give --pixel-size"
        )
    if rules.border is None:
        return rules.radius / pixel_size, min(BORDER, min(shape) / 8)
    width, unit = rules.border
    border = width if unit == "px" else width / pixel_size
    if 2 * border >= min(shape):
        raise ConfigError(
            f"a border of {width:g} {unit} leaves nothing of an image of {shape[0]} x {shape[1]} "
            f"pixels: give less than {min(shape) // 2}px"
        )
    return rules.radius / pixel_size, border


def judge_baselines(
    image: np.ndarray, truth: Truth, pixel_size: float | None, blocks: int
) -> np.ndarray:
    """Tallies (n, b, 3) of what needs no learning; errors as `tally_baselines`."""
    assert truth.mask is not None
    return tally_baselines(image, truth.mask, pixel_size or RADIUS / RADIUS_PIXELS, blocks)


def sum_up(
    records: Sequence[Record],
    classes: Sequence[str],
    groups: np.ndarray,
    located: Iterable[int],
    seed: int,
) -> dict[str, Any]:
    """Scores with their intervals of many images: 'pixels', 'baselines', 'positions', tables.

    groups    (n,) int, images that show the same are of one group and drawn together
    located   numbers of the classes, from 1, whose positions were judged

    Of pixels, 'any class' is right where any class was found on a pixel of any; of positions it
    leaves the class aside, and 'all classes' are the sums over the classes. Of a single class there
    is that one alone.
    """
    report: dict[str, Any] = {}
    names = (*classes, *([ANY] if len(classes) > 1 else []))
    known = [k for k, record in enumerate(records) if record.pixels is not None]
    if known:
        tallies = np.stack([_require(records[k].pixels) for k in known])
        report["pixels"] = {
            name: _summarise(tallies[:, :, k], groups[known], seed) for k, name in enumerate(names)
        }
        confusion = sum(_require(records[k].confusion) for k in known)
        report["pixel_confusion"] = np.asarray(confusion).tolist()
    plain_ones = [k for k, record in enumerate(records) if record.baselines is not None]
    if plain_ones:
        tallies = np.stack([_require(records[k].baselines) for k in plain_ones], axis=1)
        chosen = choose_baselines(tallies.sum(axis=2))
        report["baselines"] = {
            name: _summarise(tallies[number], groups[plain_ones], seed)
            for name, number in chosen.items()
        }
    placed = [k for k, record in enumerate(records) if record.positions is not None]
    if placed:
        tallies = np.stack([_require(records[k].positions) for k in placed])
        numbers = sorted(located)
        parts = {classes[number - 1]: tallies[:, :, number - 1] for number in numbers}
        if len(numbers) > 1:
            parts[EACH] = tallies[:, :, [number - 1 for number in numbers]].sum(axis=2)
            parts[ANY] = tallies[:, :, -1]
        report["positions"] = {
            name: _summarise(part, groups[placed], seed) for name, part in parts.items()
        }
        mistaken = sum(_require(records[k].mistaken) for k in placed)
        report["position_confusion"] = np.asarray(mistaken).tolist()
    return report


def _require(array: np.ndarray | None) -> np.ndarray:
    assert array is not None
    return array


def _summarise(tallies: np.ndarray, groups: np.ndarray, seed: int) -> dict[str, Any]:
    """Of tallies (images, b, 3); blocks of the same place in images of a group are one unit."""
    images, blocks = tallies.shape[:2]
    units = groups[:, None] * blocks + np.arange(blocks)
    of = np.repeat(np.arange(images), blocks)
    return summarise(tallies.reshape(-1, 3), units.ravel(), of, seed)


def trace_curve(
    records: Sequence[Record],
    classes: Sequence[str],
    groups: np.ndarray,
    located: Iterable[int],
    seed: int,
    strata: Strata,
    values: np.ndarray | None,
) -> list[dict[str, Any]]:
    """Scores of the images of each stratum: what `sum_up` gives, with its name and mean value.

    strata  of the n images
    values  (n,) of the column, None where it is no number
    """
    curve: list[dict[str, Any]] = []
    for number, name in enumerate(strata.names):
        inside = np.flatnonzero(strata.codes == number)
        if not len(inside):
            curve.append({"stratum": name, "images": 0, "mean": None})
            continue
        found = sum_up([records[k] for k in inside], classes, groups[inside], located, seed)
        point: dict[str, Any] = {
            "stratum": name,
            "images": len(inside),
            "mean": None if values is None else plain(values[inside].mean()),
        }
        kept = ("pixels", "positions", "baselines")
        curve.append(point | {key: found[key] for key in kept if key in found})
    return curve


def list_scores(record: Record, classes: Sequence[str]) -> dict[str, float | None]:
    """Precision, recall, F1 of one image by 'what class score', for tables."""
    found: dict[str, float | None] = {}
    several = len(classes) > 1
    kinds: Mapping[str, np.ndarray | None] = {
        "pixel": record.pixels,
        "position": record.positions,
    }
    for what, tallies in kinds.items():
        if tallies is None:
            continue
        sums = tallies.sum(axis=0)
        for k, name in enumerate((*classes, *([ANY] if several else []))):
            for column, told in zip(score(sums[k]), ("precision", "recall", "f1"), strict=False):
                found[f"{what} {told} {name}"] = plain(column)
    return found
