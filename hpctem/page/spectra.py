"""Radial power spectra of a database's images, grouped by dose and by focus."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hpctem.config import Config, StemConfig
from hpctem.database.reader import Database
from hpctem.page.reflections import list_reflections
from hpctem.page.settings import choose_common_unit
from hpctem.pictures.spectra import power_spectrum, radial_average

MOST_IMAGES = 240
# At most so many pixels are transformed: 240 images of 512 pixels, 15 of 2048.
MOST_PIXELS = 64_000_000
LEAST_IMAGES = 8
LEAST_SIDE = 16
MOST_REFLECTIONS = 5
MOST_GROUPS = 6


@dataclass(frozen=True)
class Group:
    """The spectra of images taken alike.

    mean, low, high   (n,) in A^2: mean, 10th and 90th percentile over the images
    floor             shot noise alone, one over the counted dose, in A^2; None where there is more
    """

    label: str
    images: int
    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray
    floor: float | None


@dataclass(frozen=True)
class Spectra:
    """Spectra over the spatial frequency q (n,) in 1/A, by a column; groups in its order."""

    column: str
    q: np.ndarray
    groups: tuple[Group, ...]


@dataclass(frozen=True)
class Measured:
    """All that was measured: spectra by one or two columns, of how many of how many images.

    reflections   (hkl, frequency in 1/A) of the crystal
    """

    spectra: tuple[Spectra, ...]
    images: int
    total: int
    reflections: tuple[tuple[str, float], ...]


def measure_spectra(databases: Sequence[Database], config: Config) -> Measured | None:
    """Mean spectra of some images of a campaign; None where images are too small or there are none.

    Images are drawn alike from all good rows, always the same ones; at most 240, fewer large ones.
    Where pixels differ the spectra end at the lowest of the Nyquist frequencies.
    """
    ny, nx = databases[0].field(databases[0].image_path).shape
    good = [database.rows("images") for database in databases]
    total = sum(map(len, good))
    if min(ny, nx) < LEAST_SIDE or total == 0:
        return None
    count = int(np.clip(MOST_PIXELS // (ny * nx), LEAST_IMAGES, MOST_IMAGES))
    chosen = np.arange(total)
    if total > count:
        chosen = np.sort(np.random.default_rng(0).choice(total, count, replace=False))
    ends = np.cumsum([0, *map(len, good)])
    curves, values = [], []
    frequencies = []
    for source, database in enumerate(databases):
        mine = chosen[(chosen >= ends[source]) & (chosen < ends[source + 1])] - ends[source]
        rows = good[source][mine]
        if not len(rows):
            continue
        names = ("dose", "defocus", "quantum_efficiency", "pixel_size", "offset", "mean")
        columns = [
            database.column(f"/entry/metadata/{name}", rows=rows).astype(np.float64)
            for name in names
        ]
        values.append(np.stack(columns))
        images = database.stored(database.image_path, rows)
        for k in range(len(rows)):
            pixel, offset = columns[3][k], columns[4][k]
            power = power_spectrum(images[k] - np.float32(offset), pixel)
            q, curve = radial_average(power, nx, pixel)
            frequencies.append(q)
            curves.append(curve)
    table = np.concatenate(values, axis=1)
    known = np.isfinite(curves).all(axis=1)
    if not known.any():
        return None
    q = min(frequencies, key=lambda q: q[-1])
    table, stack = table[:, known], _resample(frequencies, curves, q)[known]
    floors = _find_floors(config, *table)
    spectra = [
        Spectra(name, q, _group(stack, values, unit, floors))
        for name, values, unit in (("dose", table[0], "e/A^2"), ("defocus", table[1], "A"))
        if len(np.unique(values)) > 1
    ]
    if not spectra:
        both = Spectra("", q, (_measure("all images", stack, floors),))
        spectra = [both]
    reflections = tuple(list_reflections(config, float(q[-1]))[:MOST_REFLECTIONS])
    return Measured(tuple(spectra), len(stack), total, reflections)


def _resample(
    frequencies: Sequence[np.ndarray], curves: Sequence[np.ndarray], q: np.ndarray
) -> np.ndarray:
    """All curves (n, len(q)) at the frequencies q; as they are where they have these."""
    return np.array(
        [
            curve if np.array_equal(own, q) else np.interp(q, own, curve)
            for own, curve in zip(frequencies, curves, strict=True)
        ]
    )


def _find_floors(
    config: Config,
    dose: np.ndarray,
    defocus: np.ndarray,
    efficiency: np.ndarray,
    pixel: np.ndarray,
    offset: np.ndarray,
    mean: np.ndarray,
) -> np.ndarray | None:
    """Shot noise alone for each image; None where there is more noise, or none."""
    detector = config.imaging.detector
    if detector.mtf is not None or detector.gain != 1 or detector.readout_noise.support != (0, 0):
        return None
    if isinstance(config, StemConfig):
        # What is counted is what the detector collects, a part of the dose.
        return pixel**2 / (mean - offset) if config.imaging.beam is not None else None
    return 1 / (dose * efficiency) if config.imaging.median != "stored" else None


def _group(
    curves: np.ndarray, values: np.ndarray, unit: str, floors: np.ndarray | None
) -> tuple[Group, ...]:
    """One group for each value where they are few, else groups of alike many images."""
    distinct = np.unique(values)
    factor, shown = choose_common_unit(distinct.tolist(), unit)
    if len(distinct) <= MOST_GROUPS:
        parts = [(values == value, f"{value * factor:.6g} {shown}".strip()) for value in distinct]
    else:
        number = min(len(values), 3 if len(values) < 96 else MOST_GROUPS)
        order = np.argsort(values, kind="stable")
        parts = []
        for members in np.array_split(order, number):
            inside = np.zeros(len(values), bool)
            inside[members] = True
            ends = (float(f"{values[k] * factor:.3g}") for k in members[[0, -1]])
            parts.append((inside, f"{' … '.join(f'{end:.6g}' for end in ends)} {shown}".strip()))
    return tuple(
        _measure(label, curves[inside], floors[inside] if floors is not None else None)
        for inside, label in parts
    )


def _measure(label: str, curves: np.ndarray, floors: np.ndarray | None) -> Group:
    low, high = np.percentile(curves, (10, 90), axis=0)
    floor = float(floors.mean()) if floors is not None else None
    return Group(label, len(curves), curves.mean(axis=0), low, high, floor)
