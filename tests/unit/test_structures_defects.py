"""Planar defects: stacking sequences, bonds across them, and where they are drawn."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial import cKDTree
from scipy.stats import chisquare

from hpctem.errors import ConfigError, SampleError
from hpctem.structures.defects import (
    KINDS,
    NORMALS,
    PlanarDefect,
    carve_faulted_sphere,
    draw_planes,
    stack_planes,
)
from hpctem.structures.lattices import build_crystal
from hpctem.structures.volumes import carve_sphere

A = 4.08265
GOLD = build_crystal("fcc", (79,), A)
RADIUS = 22.0


def read_stacking(
    positions: np.ndarray, normal: tuple[int, int, int], layers: np.ndarray
) -> list[int]:
    """Letter (0, 1, 2 for A, B, C) of each (111) layer, from the atoms alone."""
    along = np.array(normal) / math.sqrt(3)
    # Basis of the (111) net and its reciprocal: letters differ by thirds of the net's diagonal.
    first, second = A / 2 * np.array(normal) * [1, -1, 0], A / 2 * np.array(normal) * [0, 1, -1]
    basis = np.array([first, second, along])
    heights = positions @ along
    middle = positions[np.argmin((positions**2).sum(axis=1))]
    letters = []
    for layer in layers:
        members = positions[np.abs(heights - layer) < 1e-6]
        net = (members - middle) @ np.linalg.inv(basis)
        thirds = np.round(net[:, :2] * 3)
        assert np.abs(net[:, :2] * 3 - thirds).max() < 1e-6, "atoms off the net"
        kinds = {tuple(pair) for pair in (thirds % 3).astype(int)}
        assert len(kinds) == 1, "two letters in one layer"
        letters.append(kinds.pop()[0])
    return letters


def layers_of(positions: np.ndarray, normal: tuple[int, int, int]) -> np.ndarray:
    return np.unique(np.round(positions @ np.array(normal) / math.sqrt(3), 5))


def expected_steps(defects: list[PlanarDefect], first: int, count: int) -> list[int]:
    """Stacking steps, +1 for ABC and -1 for CBA: a twin turns all above it, a fault only one."""
    steps = np.ones(first + count + 1, dtype=int)
    for defect in defects:
        if defect.kind == "twin":
            steps[defect.plane :] *= -1
        else:
            steps[defect.plane] *= -1
    return steps[first : first + count].tolist()


def carve(
    defects: list[PlanarDefect], normal: tuple[int, int, int], centre: np.ndarray
) -> tuple[np.ndarray, list[int], int]:
    """Positions, the steps read from them, and the index of the lowest layer that holds atoms."""
    positions, numbers = carve_faulted_sphere(GOLD, RADIUS, centre, normal, defects)
    assert np.all(numbers == 79)
    layers = layers_of(positions, normal)
    stack = stack_planes(GOLD, RADIUS, centre, normal)
    first = round((layers[0] - stack.lowest) / stack.spacing)
    np.testing.assert_allclose(np.diff(layers), A / math.sqrt(3), atol=2e-5)
    letters = read_stacking(
        positions, normal, stack.lowest + stack.spacing * (first + np.arange(len(layers)))
    )
    steps = [(b - a + 1) % 3 - 1 for a, b in itertools.pairwise(letters)]
    return positions, steps, first


def spell(steps: list[int], start: int, count: int) -> str:
    letters = itertools.accumulate(steps[start : start + count - 1], initial=0)
    return "".join("ABC"[letter % 3] for letter in letters)


def test_perfect_crystal_reads_abcabc() -> None:
    _, steps, _ = carve([], (1, 1, 1), np.zeros(3))
    assert set(steps) in ({1}, {-1})


def test_twin_reads_abcacba_and_fault_abcababc() -> None:
    _, perfect, _ = carve([], (1, 1, 1), np.zeros(3))
    up = perfect[0]
    for kind, word in (("twin", "ABCACBA"), ("stacking_fault", "ABCABABC")):
        plane = 9
        _, steps, first = carve([PlanarDefect(kind, plane)], (1, 1, 1), np.zeros(3))
        # The twin's mirror is the fourth letter; the fault lies after the fifth, the second B.
        start = plane - first - (3 if kind == "twin" else 4)
        assert spell([up * s for s in steps], start, len(word)) == word


centres = st.tuples(*[st.floats(-3, 3)] * 3).map(np.array)
placed = (
    st.lists(st.integers(2, 16), unique=True, max_size=4)
    .map(sorted)
    .flatmap(
        lambda planes: st.tuples(
            *[st.builds(PlanarDefect, st.sampled_from(KINDS), st.just(p)) for p in planes]
        )
    )
)


@given(placed, st.sampled_from(NORMALS), centres)
def test_stacking_and_bonds_of_any_defects(
    defects: tuple[PlanarDefect, ...], normal: tuple[int, int, int], centre: np.ndarray
) -> None:
    positions, steps, first = carve(list(defects), normal, centre)
    expected = expected_steps(list(defects), first, len(steps))
    below = carve([], normal, centre)[1][0]  # whether this normal climbs ABC or CBA
    assert steps == [below * step for step in expected]
    # Twelve neighbours at a / sqrt 2 wherever the surface is far enough, none closer anywhere.
    bond = A / math.sqrt(2)
    distances, _ = cKDTree(positions).query(positions, k=13)
    assert distances[:, 1].min() == pytest.approx(bond, abs=1e-9)
    inner = np.linalg.norm(positions, axis=1) < RADIUS - 1.01 * bond
    np.testing.assert_allclose(distances[inner, 1:], bond, atol=1e-9)
    assert np.linalg.norm(positions, axis=1).max() <= RADIUS + 1e-9


def test_crystal_under_the_lowest_defect_is_untouched() -> None:
    centre = np.array([0.3, 1.1, -0.4])
    plain, _ = carve_sphere(GOLD, RADIUS, centre)
    faulted, _ = carve_faulted_sphere(GOLD, RADIUS, centre, (1, 1, 1), [PlanarDefect("twin", 8)])
    stack = stack_planes(GOLD, RADIUS, centre, (1, 1, 1))
    mirror = stack.offset(PlanarDefect("twin", 8))
    heights = lambda p: p @ np.ones(3) / math.sqrt(3)  # noqa: E731
    below = lambda p: p[heights(p) < mirror + 1e-6]  # noqa: E731
    np.testing.assert_array_equal(below(faulted), below(plain))
    # Above, every atom that the sphere cannot have cut off is the mirror image of one below.
    above = faulted[heights(faulted) > mirror + 1e-6]
    image = above - 2 * (heights(above) - mirror)[:, None] * np.ones(3) / math.sqrt(3)
    image = image[np.linalg.norm(image, axis=1) < RADIUS - 1e-6]
    assert len(image) > 500
    assert cKDTree(below(plain)).query(image)[0].max() < 1e-9


def test_planes_are_uniform_over_all_allowed_sets() -> None:
    planes, count, separation, edge = 13, 3, 3, 2
    allowed = [
        combination
        for combination in itertools.combinations(range(edge, planes - edge), count)
        if all(b - a >= separation for a, b in itertools.pairwise(combination))
    ]
    assert len(allowed) == 10
    generator = np.random.default_rng(3)
    drawn = [
        tuple(draw_planes(generator, planes, count, separation, edge).tolist()) for _ in range(5000)
    ]
    assert set(drawn) == set(allowed)
    assert chisquare([drawn.count(a) for a in allowed]).pvalue > 1e-3


@given(
    st.integers(0, 40), st.integers(0, 6), st.integers(1, 6), st.integers(0, 6), st.integers(0, 9)
)
def test_drawn_planes_keep_their_distances_and_as_many_as_fit(
    planes: int, count: int, separation: int, edge: int, seed: int
) -> None:
    drawn = draw_planes(np.random.default_rng(seed), planes, count, separation, edge)
    assert np.all(np.diff(drawn) >= separation)
    assert np.all((drawn >= edge) & (drawn <= planes - 1 - edge))
    room = planes - 2 * edge
    most = 0 if room <= 0 else 1 + (room - 1) // separation
    assert len(drawn) == min(count, most)


def test_planes_counted_are_those_that_the_sphere_cuts() -> None:
    centre = np.array([0.2, -0.7, 1.9])
    positions, _ = carve_sphere(GOLD, RADIUS, centre)
    for normal in NORMALS:
        stack = stack_planes(GOLD, RADIUS, centre, normal)
        assert -RADIUS <= stack.lowest < -RADIUS + stack.spacing
        assert RADIUS - stack.spacing < stack.lowest + (stack.count - 1) * stack.spacing <= RADIUS
        index = (layers_of(positions, normal) - stack.lowest) / stack.spacing
        np.testing.assert_allclose(index, np.round(index), atol=1e-4)


def test_bad_defects_are_refused() -> None:
    silicon = build_crystal("diamond", (14,), 5.43)
    with pytest.raises(ConfigError, match="fcc element, not of diamond"):
        carve_faulted_sphere(silicon, 20.0, np.zeros(3), (1, 1, 1), [PlanarDefect("twin", 5)])
    with pytest.raises(ConfigError, match="unknown planar defect 'wall'"):
        carve_faulted_sphere(GOLD, 20.0, np.zeros(3), (1, 1, 1), [PlanarDefect("wall", 5)])
    for planes in ((5, 4), (5, 5), (-1,), (40,)):
        with pytest.raises(SampleError, match="must ascend within 0 to 16"):
            carve_faulted_sphere(
                GOLD, 20.0, np.zeros(3), (1, 1, 1), [PlanarDefect("twin", p) for p in planes]
            )
