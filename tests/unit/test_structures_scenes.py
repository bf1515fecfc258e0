"""Scenes: places of particles, room made in the substrate, cell, digest and files."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial import cKDTree
from scipy.stats import kstest

from hpctem.errors import SampleError
from hpctem.structures.amorphous import amorphous
from hpctem.structures.lattices import build_crystal
from hpctem.structures.scenes import (
    MARGIN,
    Sphere,
    assemble,
    digest,
    find_place,
    make_room,
    write_atoms,
)
from hpctem.structures.volumes import carve_sphere

CELL = (60.0, 50.0)
CONTACT = 2.14


@pytest.fixture(scope="module")
def film() -> np.ndarray:
    return amorphous((*CELL, 20.0), 0.11, 1.4, np.random.default_rng(0))


def gold_sphere(x: float, y: float, z: float, radius: float) -> Sphere:
    gold = build_crystal("fcc", (79,), 4.08265)
    positions, numbers = carve_sphere(gold, radius, (0.4, 0.1, 0.9))
    return Sphere(np.array([x, y, z]), radius, positions, numbers)


def test_places_are_uniform_within_the_edges() -> None:
    generator = np.random.default_rng(5)
    places = [find_place(generator, CELL, 8.0, (), 3.0, 0.0, 1) for _ in range(3000)]
    x, y, attempts = np.array([p for p in places if p is not None]).T
    assert set(attempts) == {1}
    assert kstest(x, "uniform", args=(11.0, CELL[0] - 22.0)).pvalue > 1e-3
    assert kstest(y, "uniform", args=(11.0, CELL[1] - 22.0)).pvalue > 1e-3


def test_gap_holds_across_the_periodic_boundary() -> None:
    # The other particle sits at the left edge: the right edge is its neighbour too.
    other = (0.0, 25.0, 8.0)
    generator = np.random.default_rng(1)
    found = 0
    for _ in range(500):
        place = find_place(generator, CELL, 8.0, [other], 0.0, 5.0, 3)
        if place is None:
            continue
        found += 1
        dx = min(place[0], CELL[0] - place[0])
        dy = abs(place[1] - 25.0)
        assert math.hypot(dx, min(dy, CELL[1] - dy)) >= 8.0 + 8.0 + 5.0
        assert place[2] <= 3
    assert found > 100


def test_no_place_is_told_from_too_large() -> None:
    generator = np.random.default_rng(1)
    assert find_place(generator, CELL, 20.0, [(30.0, 25.0, 20.0)], 0.0, 5.0, 50) is None
    with pytest.raises(SampleError, match=r"radius 24 A with 2 A to the edges does not fit"):
        find_place(generator, CELL, 24.0, (), 2.0, 0.0, 50)
    assert find_place(generator, CELL, 23.0, (), 2.0, 0.0, 50) is not None  # exactly fits


@pytest.mark.parametrize("centre", [(30.0, 25.0, 18.0), (1.0, 49.0, 14.0), (59.9, 0.1, 25.0)])
def test_substrate_gives_way_also_across_the_boundary(
    film: np.ndarray, centre: tuple[float, float, float]
) -> None:
    sphere = gold_sphere(*centre, 12.0)
    kept = make_room(film, [sphere], CELL, CONTACT)
    # All periodic images of the particle, by brute force.
    images = np.array([(i * CELL[0], j * CELL[1], 0) for i in (-1, 0, 1) for j in (-1, 0, 1)])
    atoms = (sphere.positions + sphere.centre + images[:, None]).reshape(-1, 3)
    to_atom = cKDTree(atoms).query(film)[0]
    to_centre = cKDTree(sphere.centre + images).query(film)[0]
    wanted = (to_atom >= CONTACT) & (to_centre > 12.0)
    np.testing.assert_array_equal(kept, wanted)
    assert 50 < (~kept).sum() < 0.6 * len(film)


def test_cell_ends_a_margin_beyond_the_atoms_and_tags_tell_particles(film: np.ndarray) -> None:
    spheres = [gold_sphere(15.0, 12.0, 26.0, 9.0), gold_sphere(45.0, 35.0, 24.0, 6.0)]
    numbers = np.full(len(film), 6, dtype=np.uint8)
    structure, shift = assemble(CELL, film, numbers, spheres, CONTACT)
    z = structure.positions[:, 2]
    assert z.min() == MARGIN
    assert structure.cell == (*CELL, pytest.approx(z.max() + MARGIN))
    assert set(structure.tags) == {0, 1, 2}
    for k, sphere in enumerate(spheres, start=1):
        own = structure.tags == k
        assert own.sum() == len(sphere.positions)
        assert set(structure.numbers[own]) == {79}
        away = structure.positions[own] - sphere.centre - [0, 0, shift]
        assert np.linalg.norm(away, axis=1).max() <= sphere.radius + 1e-9
    substrate = structure.positions[structure.tags == 0]
    gold = structure.positions[structure.tags > 0]
    assert cKDTree(gold).query(substrate)[0].min() >= CONTACT
    assert structure.positions.dtype == np.float64 and structure.tags.dtype == np.uint8


def test_a_particle_below_the_substrate_still_gets_its_margin(film: np.ndarray) -> None:
    numbers = np.full(len(film), 6, dtype=np.uint8)
    structure, _ = assemble(CELL, film, numbers, [gold_sphere(30.0, 25.0, 5.0, 12.0)], CONTACT)
    lowest = np.argmin(structure.positions[:, 2])
    assert structure.tags[lowest] == 1
    assert structure.positions[lowest, 2] == MARGIN


def test_nothing_at_all_is_a_bad_sample() -> None:
    with pytest.raises(SampleError, match="holds no atoms"):
        assemble(CELL, np.zeros((0, 3)), np.zeros(0, np.uint8), [], 0.0)


def test_digest_sees_every_change(film: np.ndarray) -> None:
    numbers = np.full(len(film), 6, dtype=np.uint8)
    structure, _ = assemble(CELL, film, numbers, [], 0.0)
    seen = {digest(structure)}
    positions = structure.positions.copy()
    positions[17, 1] = np.nextafter(positions[17, 1], 100.0)
    seen.add(digest(dataclasses.replace(structure, positions=positions)))
    for name in ("numbers", "tags"):
        changed = getattr(structure, name).copy()
        changed[-1] += 1
        seen.add(digest(dataclasses.replace(structure, **{name: changed})))
    assert len(seen) == 4
    assert {len(d) for d in seen} == {16}
    assert digest(dataclasses.replace(structure, positions=structure.positions.copy())) in seen


def test_written_atoms_are_read_back(tmp_path: Path, film: np.ndarray) -> None:
    from ase.io import read

    numbers = np.full(len(film), 6, dtype=np.uint8)
    structure, _ = assemble(CELL, film, numbers, [gold_sphere(30.0, 25.0, 25.0, 9.0)], CONTACT)
    write_atoms(structure, tmp_path / "x.xyz")
    atoms = read(tmp_path / "x.xyz")
    np.testing.assert_allclose(atoms.positions, structure.positions, atol=1e-7)
    np.testing.assert_array_equal(atoms.numbers, structure.numbers)
    np.testing.assert_array_equal(atoms.get_tags(), structure.tags)
    np.testing.assert_allclose(np.diag(atoms.cell), structure.cell)
