"""The check of translated patches: displacements and defects known by construction."""

from __future__ import annotations

import math

import numpy as np
import pytest

from hpctem.learning.translation.fidelity import (
    IS_KEPT,
    IS_LOST,
    NOT_JUDGED,
    Fidelity,
    check_patch,
    find_vectors,
    measure_offset,
    select_columns,
)

SIDE, PIXEL = 160, 0.2  # pixels, A
LENGTH, TURN = 16.0, 0.2  # of the lattice vectors in pixels, and their azimuth
WIDTH = 2.6  # standard deviation of a column in pixels
HEIGHTS = (1.0, 0.6)  # of the two columns of a cell
VACANCIES = ((1, 2), (4, 3), (2, 6), (6, 5))


def lattice_vectors() -> np.ndarray:
    turn = np.array([[math.cos(TURN), math.sin(TURN)], [-math.sin(TURN), math.cos(TURN)]])
    return LENGTH * np.array([[1.0, 0.0], [0.5, math.sqrt(0.75)]]) @ turn


def draw(left: float = 0.5, shift: tuple[float, float] = (0.0, 0.0)) -> np.ndarray:
    """A honeycomb of Gaussians, moved by (x, y) pixels; of vacancies the part `left` remains."""
    along = np.arange(SIDE, dtype=float)
    image = np.zeros((SIDE, SIDE))
    for i in range(-12, 24):
        for j in range(-12, 24):
            for k, height in enumerate(HEIGHTS):
                place = (i + k / 3, j + k / 3) @ lattice_vectors() + shift
                if (np.abs(place - SIDE / 2) > SIDE / 2 + 12).any():
                    continue
                part = left if k == 1 and (i, j) in VACANCIES else 1.0
                x, y = (np.exp(-((along - u) ** 2) / (2 * WIDTH**2)) for u in place)
                image += part * height * np.outer(y, x)
    return image


def places() -> np.ndarray:
    return (np.array(VACANCIES) + 1 / 3) @ lattice_vectors()


@pytest.fixture(scope="module")
def damaged() -> np.ndarray:
    return draw()


@pytest.fixture(scope="module")
def vectors(damaged: np.ndarray) -> np.ndarray:
    found = find_vectors(damaged)
    assert found is not None
    return found


def check(before: np.ndarray, after: np.ndarray, vectors: np.ndarray | None) -> Fidelity:
    return check_patch(before, after, PIXEL, places(), vectors)


def noise(level: float, seed: int = 0) -> np.ndarray:
    return level * np.random.default_rng(seed).standard_normal((SIDE, SIDE))


def test_the_vectors_found_span_the_lattice(vectors: np.ndarray) -> None:
    numbers = vectors @ np.linalg.inv(lattice_vectors())
    assert numbers == pytest.approx(np.rint(numbers), abs=0.02)
    assert abs(np.linalg.det(np.rint(numbers))) == 1


def test_without_a_lattice_there_are_no_vectors() -> None:
    assert find_vectors(np.ones((64, 64))) is None
    assert find_vectors(noise(1.0)) is None


@pytest.mark.parametrize(
    "shift", [(0.2, 0.0), (0.0, -0.37), (0.48, 0.1), (-0.9, 0.6), (3.0, -2.0)], ids=str
)
def test_displacements_are_found_between_pixels(
    damaged: np.ndarray, shift: tuple[float, float]
) -> None:
    moved = draw(shift=shift)
    offset, likeness = measure_offset(*(select_columns(one, PIXEL) for one in (damaged, moved)))
    assert offset == pytest.approx(shift, abs=0.03)
    assert likeness > 0.9


@pytest.mark.parametrize(("distance", "accepted"), [(0.4, True), (0.6, False)])
def test_half_a_pixel_is_the_limit_along_any_direction(
    damaged: np.ndarray, vectors: np.ndarray, distance: float, accepted: bool
) -> None:
    for direction in (0.3, 2.0):
        shift = (distance * math.cos(direction), distance * math.sin(direction))
        found = check(damaged, draw(shift=shift), vectors)
        assert found.reasons == (() if accepted else ("offset",))


def test_intensities_may_change(damaged: np.ndarray, vectors: np.ndarray) -> None:
    found = check(damaged, 40 * damaged + 1000, vectors)
    assert found.reasons == ()
    assert math.hypot(*found.offset) < 1e-6
    assert (found.fates == IS_KEPT).all()
    assert found.contrasts == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize(("left", "expected"), [(0.0, 2.0), (0.5, 1.0), (0.7, 0.6), (0.8, 0.4)])
def test_contrasts_are_those_of_the_columns(
    damaged: np.ndarray, vectors: np.ndarray, left: float, expected: float
) -> None:
    """Half of a column is missing in the input: what is missing after it, over that."""
    found = check(damaged, draw(left), vectors)
    # The slope between both images is 1 but for the few columns that differ.
    assert found.contrasts == pytest.approx(expected, rel=0.03)
    assert found.together == pytest.approx(expected, rel=0.03)
    assert (found.fates == IS_KEPT).all()


@pytest.mark.parametrize("left", [1.0, 0.95, 1.3])
def test_healed_and_inverted_defects_are_lost(
    damaged: np.ndarray, vectors: np.ndarray, left: float
) -> None:
    found = check(damaged, draw(left), vectors)
    assert (found.fates == IS_LOST).all()
    assert found.reasons == ("defects",)


def test_a_lattice_vector_is_no_offset_but_its_defects_are_gone(
    damaged: np.ndarray, vectors: np.ndarray
) -> None:
    x, y = lattice_vectors()[0]
    found = check(damaged, draw(shift=(x, y)), vectors)
    assert math.hypot(*found.offset) < 0.1
    assert found.reasons == ("defects",)


@pytest.mark.parametrize(("level", "judged"), [(0.3, range(40, 41)), (0.6, range(12))])
def test_good_patches_are_seldom_rejected_and_healed_ones_seldom_accepted(
    damaged: np.ndarray, vectors: np.ndarray, level: float, judged: range
) -> None:
    """Noise of 0.6 hides most single vacancies, but not that all of them are healed."""
    healed, rejected, accepted, seen = draw(1.0), 0, 0, 0
    for seed in range(10):
        before, grain = damaged + noise(0.05, 100 + seed), noise(level, 200 + seed)
        good, bad = (check(before, image + grain, vectors) for image in (damaged, healed))
        rejected += bool(good.reasons)
        accepted += bad.reasons != ("defects",)
        seen += np.count_nonzero(good.fates)
    assert seen in judged
    assert rejected <= 1
    assert accepted <= 2


def test_what_shows_something_else_is_unlike(damaged: np.ndarray, vectors: np.ndarray) -> None:
    assert "unlike" in check(damaged, noise(1.0), vectors).reasons
    flat = check(damaged, np.full_like(damaged, 3.0), vectors)
    assert "unlike" in flat.reasons
    assert all(math.isnan(part) for part in flat.offset)
    # Upside down in grey: dark columns are elsewhere.
    assert check(damaged, -damaged, vectors).reasons


def test_contamination_and_slopes_do_not_matter(damaged: np.ndarray, vectors: np.ndarray) -> None:
    y, x = np.mgrid[:SIDE, :SIDE] / SIDE
    found = check(damaged, damaged + x - 0.5 * y + 0.5 * np.sin(2 * np.pi * x), vectors)
    assert found.reasons == ()
    assert (found.fates == IS_KEPT).all()


def test_defects_at_the_edge_and_without_lattice_are_not_judged(
    damaged: np.ndarray, vectors: np.ndarray
) -> None:
    corner = check_patch(damaged, damaged, PIXEL, np.array([[0.5, 80.0], [80.0, 159.4]]), vectors)
    assert (corner.fates == NOT_JUDGED).all() and np.isnan(corner.contrasts).all()
    without = check(damaged, damaged, None)
    assert (without.fates == NOT_JUDGED).all() and math.isnan(without.together)
    assert without.reasons == ()
    none = check_patch(damaged, damaged, PIXEL, np.empty((0, 2)), vectors)
    assert none.fates.shape == (0,) and none.reasons == ()
