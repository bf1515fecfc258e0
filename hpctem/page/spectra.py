"""Radial power spectra of a database's images, grouped by dose and by focus."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hpctem import tables
from hpctem.config import Config
from hpctem.database.reader import Database
from hpctem.page.settings import choose_common_unit
from hpctem.pictures.spectra import power_spectrum, radial_average
from hpctem.structures import recipes
from hpctem.structures.lattices import Crystal

MOST_IMAGES = 240
# At most so many pixels are transformed: 240 images of 512 pixels, 15 of 2048.
MOST_PIXELS = 64_000_000
LEAST_IMAGES = 8
LEAST_SIDE = 16
MOST_GROUPS = 6


@dataclass(frozen=True)
class Group:
    """The spectra of images taken alike.

    mean, low, high   (n,) in A^2: mean, 10th and 90th percentile over the images
    floor             shot noise alone, 1 / (dose x efficiency), in A^2; None where not only counted
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
    """
    ny, nx = databases[0].field(tables.IMAGES).shape
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
    q = np.zeros(0)
    for source, database in enumerate(databases):
        mine = chosen[(chosen >= ends[source]) & (chosen < ends[source + 1])] - ends[source]
        rows = good[source][mine]
        if not len(rows):
            continue
        names = ("dose", "defocus", "quantum_efficiency", "pixel_size", "offset")
        columns = [
            database.column(f"/entry/metadata/{name}", rows=rows).astype(np.float64)
            for name in names
        ]
        values.append(np.stack(columns))
        images = database.stored(tables.IMAGES, rows)
        for k in range(len(rows)):
            pixel, offset = columns[3][k], columns[4][k]
            power = power_spectrum(images[k] - np.float32(offset), pixel)
            q, curve = radial_average(power, nx, pixel)
            curves.append(curve)
    table = np.concatenate(values, axis=1)
    known = np.isfinite(curves).all(axis=1)
    if not known.any():
        return None
    table, stack = table[:, known], np.array(curves)[known]
    floors = 1 / (table[0] * table[2]) if _only_counts(config) else None
    spectra = [
        Spectra(name, q, _group(stack, values, unit, floors))
        for name, values, unit in (("dose", table[0], "e/A^2"), ("defocus", table[1], "A"))
        if len(np.unique(values)) > 1
    ]
    if not spectra:
        both = Spectra("", q, (_measure("all images", stack, floors),))
        spectra = [both]
    reflections = _list_reflections(config, float(q[-1]))
    return Measured(tuple(spectra), len(stack), total, reflections)


def _only_counts(config: Config) -> bool:
    """The stored numbers are electrons, with no noise but that of their counting."""
    detector = config.imaging.detector
    return (
        detector.mtf is None
        and detector.gain == 1
        and detector.readout_noise.support == (0.0, 0.0)
        and config.imaging.median != "stored"
    )


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


def _list_reflections(config: Config, edge: float) -> tuple[tuple[str, float], ...]:
    """The first reflections of the particles' crystal below `edge` (1/A)."""
    particles = config.structure.particles
    if particles is None:
        return ()
    return tuple(list_reflections(recipes.load_crystal(particles.crystal), edge)[:5])


def list_reflections(crystal: Crystal, edge: float) -> list[tuple[str, float]]:
    """(indices, spatial frequency in 1/A) of a crystal's reflections up to `edge`, rising.

    Those that the basis extinguishes are left out; of several of one frequency the first in
    descending order of indices names them.
    """
    reciprocal = np.linalg.inv(crystal.cell).T
    most = np.ceil(edge * np.linalg.norm(crystal.cell, axis=1)).astype(int).clip(0, 12)
    hkl = np.array([index for index in np.ndindex(*(2 * most + 1))]) - most
    g = hkl @ reciprocal
    length = np.linalg.norm(g, axis=1)
    phases = np.exp(2j * np.pi * (hkl @ crystal.fractional.T))
    strength = np.abs(phases @ crystal.numbers.astype(float))
    seen = (length > 0) & (length <= edge) & (strength > 1e-3 * crystal.numbers.sum())
    found: dict[float, tuple[list[int], float]] = {}
    for indices, q in zip(hkl[seen].tolist(), length[seen].tolist(), strict=True):
        found[round(q, 6)] = max(found.get(round(q, 6), (indices, q)), (indices, q))
    return [("".join(map(_write_index, indices)), q) for _, (indices, q) in sorted(found.items())]


def _write_index(index: int) -> str:
    return f"{-index}\u0305" if index < 0 else str(index)
