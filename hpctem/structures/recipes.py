"""The recipe of a structure: what is drawn, from which stream, in which order it is built.

Every value has a stream of its own, so that two campaigns with the same seed which differ in one
setting agree in all others: `structure/<name>` for thickness, substrate and particle_count, and
`particle/<k>/<name>` for radius, orientation, in_plane, lattice_offset, embedding, place,
defect_count, defect_normal, defect_planes and defect_kinds of the k-th particle (from 1), each at
the structure's index.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from hpctem.errors import ConfigError, SampleError
from hpctem.sampling import Distribution, Streams, Value
from hpctem.sections import hrtem as configs
from hpctem.structures import amorphous, defects, lattices, scenes, tiles, transforms, volumes
from hpctem.structures.lattices import Crystal
from hpctem.structures.scenes import Sphere, Structure


@dataclass(frozen=True)
class Draw:
    """Draws the values of one structure, or with a prefix of one of its particles."""

    streams: Streams
    index: int
    prefix: str

    def generator(self, name: str) -> np.random.Generator:
        """The stream of a value, at this structure's index."""
        return self.streams(f"{self.prefix}/{name}", self.index)

    def number(self, name: str, distribution: Distribution) -> float:
        """One number of a distribution, from the stream of that name."""
        return float(self._draw(name, distribution))

    def count(self, name: str, distribution: Distribution) -> int:
        """One whole number of a distribution, from the stream of that name."""
        return int(self._draw(name, distribution))

    def _draw(self, name: str, distribution: Distribution) -> Value:
        # A constant needs no stream, and streams are what a small structure costs most.
        if distribution.kind == "constant":
            return distribution.values[0]
        return distribution.draw(self.generator(name), self.index)


def sample_structure(config: configs.Structure, streams: Streams, index: int) -> Structure:
    """Build structure `index` of a campaign: a pure function of (config, seed, index).

    Raises SampleError when this sample cannot be built (a particle too large, an amorphous slab too
    dense), ConfigError for what is wrong with all of them (see `check_recipe`).
    """
    draw = Draw(streams, index, "structure")
    thickness, film, film_numbers = _make_substrate(config, draw)
    made, requested = _make_particles(config, streams, index, thickness, draw)
    spheres = [sphere for sphere, _, _ in made]
    structure, shift = scenes.assemble(
        config.cell, film, film_numbers, spheres, contact_distance(config)
    )

    particles = [
        {"particle": k, **row, "z": row["z"] + shift} for k, (_, row, _) in enumerate(made, start=1)
    ]
    planar_defects = [
        {"particle": k, **row} for k, (_, _, rows) in enumerate(made, start=1) for row in rows
    ]
    in_substrate = int(np.count_nonzero(structure.tags == 0))
    values = {
        "cell_x": structure.cell[0],
        "cell_y": structure.cell[1],
        "height": structure.cell[2],
        "n_atoms": len(structure.positions),
        "n_substrate_atoms": in_substrate,
        "n_particle_atoms": len(structure.positions) - in_substrate,
        "n_displaced_atoms": len(film) - in_substrate,
        "elements": name_elements(structure.numbers),
        "substrate_thickness": thickness,
        "surface_z": thickness + shift,
        "particles_requested": requested,
        "particles_placed": len(made),
        "mean_radius": float(np.mean([s.radius for s in spheres])) if spheres else 0.0,
        "planar_defects_requested": sum(p["planar_defects_requested"] for p in particles),
        "planar_defects_placed": len(planar_defects),
    }
    return Structure(
        structure.positions,
        structure.numbers,
        structure.tags,
        structure.cell,
        values,
        particles,
        planar_defects,
    )


def check_recipe(config: configs.Structure) -> None:
    """Check before any work what no sample could mend; raises ConfigError.

    Reads the crystal and the tile, and tests: planar defects on a crystal that has them, a density
    within reach, a tile thick enough, and gaps that keep atoms of neighbouring particles (and of a
    particle and its periodic images) a bond apart.
    """
    if config.substrate is not None:
        substrate = config.substrate
        atomic_number(substrate.element)
        if substrate.tile is None:
            amorphous.require_reachable(substrate.density, substrate.minimum_bond)
        else:
            tile = load_tile(substrate.tile, substrate.minimum_bond)
            thickest = substrate.thickness.support[1]
            if not tile.stacks and thickest > tile.period[2]:
                raise ConfigError(
                    f"substrate: thickness reaches {thickest:g} A but tile {tile.name} is only "
                    f"{tile.period[2]:g} A high; give a higher tile or one that is periodic in z"
                )
    particles = config.particles
    if particles is None:
        return
    crystal = load_crystal(particles.crystal)
    if particles.planar_defects is not None and particles.planar_defects.count.support[1] > 0:
        defects.require_fcc(crystal)
    bond = lattices.nearest_neighbour_distance(crystal)
    if particles.count.support[1] > 1 and particles.gap < bond:
        raise ConfigError(
            f"particles: gap {particles.gap:g} A is under the shortest bond of {crystal.name}, "
            f"{bond:.4g} A; atoms of two particles could meet"
        )
    if min(config.cell) - 2.0 * particles.radius.support[1] < bond:
        raise ConfigError(
            f"particles: a particle of radius {particles.radius.support[1]:g} A meets its own "
            f"periodic image in a cell of {min(config.cell):g} A; enlarge the cell"
        )


def list_elements(config: configs.Structure) -> tuple[int, ...]:
    """Atomic numbers that structures of this recipe can hold, ascending."""
    found: set[int] = set()
    if config.substrate is not None and config.substrate.tile is None:
        found.add(atomic_number(config.substrate.element))
    elif config.substrate is not None:
        tile = load_tile(config.substrate.tile, config.substrate.minimum_bond)
        found.update(tile.numbers.tolist())
    if config.particles is not None:
        found.update(load_crystal(config.particles.crystal).numbers.tolist())
    return tuple(sorted(found))


def count_rows(config: configs.Structure) -> dict[str, int]:
    """Most rows a structure can have in the tables `particles` and `planar_defects`."""
    particles = config.particles
    if particles is None:
        return {"particles": 0, "planar_defects": 0}
    most = round(particles.count.support[1])
    each = 0 if particles.planar_defects is None else particles.planar_defects.count.support[1]
    return {"particles": most, "planar_defects": most * round(each)}


def count_atoms(config: configs.Structure) -> int:
    """Most atoms a structure can have, from the largest volumes that can be drawn."""
    count = 0.0
    if config.substrate is not None:
        substrate = config.substrate
        density = substrate.density
        if substrate.tile is not None:
            tile = load_tile(substrate.tile, substrate.minimum_bond)
            # A cut may hold denser parts of the tile than its mean.
            density = 1.1 * len(tile.numbers) / math.prod(tile.period)
        count += math.prod(config.cell) * substrate.thickness.support[1] * density
    if config.particles is not None:
        crystal = load_crystal(config.particles.crystal)
        density = len(crystal.numbers) / abs(float(np.linalg.det(crystal.cell)))
        # A shell of an interplanar distance covers what the lattice's origin can add.
        radius = config.particles.radius.support[1] + 3.0
        count += config.particles.count.support[1] * 4 / 3 * math.pi * radius**3 * density
    return math.ceil(count) + 8


def contact_distance(config: configs.Structure) -> float:
    """Shortest distance in A between atoms of particle and substrate.

    The mean of the crystal's shortest bond and the substrate's (Lorentz's rule for the diameters of
    unlike atoms): 2.14 A for gold on carbon.
    """
    if config.particles is None or config.substrate is None:
        return 0.0
    bond = lattices.nearest_neighbour_distance(load_crystal(config.particles.crystal))
    return 0.5 * (bond + config.substrate.minimum_bond)


@functools.lru_cache(maxsize=8)
def load_crystal(config: configs.Crystal) -> Crystal:
    """The crystal of a config, by name or from its file; raises ConfigError."""
    if config.file is not None:
        return lattices.read_crystal(config.file)
    if config.lattice is None or config.a is None:
        raise ConfigError("crystal: give either 'lattice' (with 'elements' and 'a') or 'file'")
    numbers = [atomic_number(symbol) for symbol in config.elements]
    u = 0.375 if config.u is None else config.u
    return lattices.build_crystal(config.lattice, numbers, config.a, config.c, u)


@functools.lru_cache(maxsize=8)
def load_tile(path: str, minimum_bond: float) -> tiles.Tile:
    """The amorphous tile of a config; raises ConfigError."""
    return tiles.read_tile(path, minimum_bond)


def atomic_number(symbol: str) -> int:
    """Atomic number of a chemical symbol; raises ConfigError for an unknown one."""
    from ase.data import atomic_numbers

    if symbol not in atomic_numbers or atomic_numbers[symbol] < 1:
        raise ConfigError(f"{symbol!r} is not the symbol of an element")
    return int(atomic_numbers[symbol])


def name_elements(numbers: np.ndarray) -> str:
    """Symbols of the elements among atomic numbers, alphabetical, with a blank between: 'Au C'.

    Two structures of the same set of elements have the same text.
    """
    from ase.data import chemical_symbols

    return " ".join(sorted(chemical_symbols[number] for number in np.unique(numbers)))


def _make_substrate(config: configs.Structure, draw: Draw) -> tuple[float, np.ndarray, np.ndarray]:
    """Thickness, positions and numbers of the substrate, its upper surface at z = thickness."""
    substrate = config.substrate
    if substrate is None:
        return 0.0, np.zeros((0, 3)), np.zeros(0, dtype=np.uint8)
    thickness = draw.number("thickness", substrate.thickness)
    extent = (*config.cell, thickness)
    generator = draw.generator("substrate")
    if substrate.tile is not None:
        tile = load_tile(substrate.tile, substrate.minimum_bond)
        return thickness, *tiles.cut_tile(tile, extent, substrate.minimum_bond, generator)
    film = amorphous.amorphous(extent, substrate.density, substrate.minimum_bond, generator)
    numbers = np.full(len(film), atomic_number(substrate.element), dtype=np.uint8)
    return thickness, film, numbers


Made = tuple[Sphere, dict[str, Any], list[dict[str, Any]]]


def _make_particles(
    config: configs.Structure, streams: Streams, index: int, surface: float, draw: Draw
) -> tuple[list[Made], int]:
    """The particles that found a place, each with its rows, and the number requested."""
    particles = config.particles
    if particles is None:
        return [], 0
    requested = draw.count("particle_count", particles.count)
    made: list[Made] = []
    for k in range(1, requested + 1):
        own = Draw(streams, index, f"particle/{k}")
        radius = own.number("radius", particles.radius)
        place = scenes.find_place(
            own.generator("place"),
            config.cell,
            radius,
            [(s.centre[0], s.centre[1], s.radius) for s, _, _ in made],
            particles.edge_distance,
            particles.gap,
            particles.attempts,
        )
        if place is None:
            continue
        x, y, attempts = place
        embedding = own.number("embedding", particles.embedding)
        centre = np.array([x, y, surface + radius * (1.0 - embedding)])
        positions, numbers, row, planar_defects = _make_crystallite(particles, own, radius)
        row = {
            "draw": k,
            "radius": radius,
            **dict(zip("xyz", centre.tolist(), strict=True)),
            **row,
            "embedding": embedding,
            "attempts": attempts,
        }
        made.append((Sphere(centre, radius, positions, numbers), row, planar_defects))
    return made, requested


def _make_crystallite(
    particles: configs.Particles, draw: Draw, radius: float
) -> tuple[np.ndarray, np.ndarray, dict[str, Any], list[dict[str, Any]]]:
    """Atoms of one particle about its centre, turned into the image, and its rows."""
    crystal = load_crystal(particles.crystal)
    quaternion, in_plane = _draw_orientation(particles, crystal, draw)
    offset = draw.generator("lattice_offset").random(3)
    centre = volumes.to_cartesian(offset[None], crystal.cell)[0]
    faults, normal, requested = _draw_defects(particles, crystal, draw, radius, centre)
    rows: list[dict[str, Any]] = []
    if faults:
        positions, numbers = defects.carve_faulted_sphere(crystal, radius, centre, normal, faults)
        stack = defects.stack_planes(crystal, radius, centre, normal)
        along = transforms.rotate(np.array([normal]) / np.sqrt(3.0), quaternion)[0]
        rows = [
            {
                "kind": fault.kind,
                "plane": fault.plane,
                "offset": stack.offset(fault),
                **dict(zip(("normal_h", "normal_k", "normal_l"), normal, strict=True)),
                **dict(zip(("normal_x", "normal_y", "normal_z"), along.tolist(), strict=True)),
            }
            for fault in faults
        ]
    else:
        positions, numbers = volumes.carve_sphere(crystal, radius, centre)
    if len(positions) == 0:
        raise SampleError(f"a particle of radius {radius:g} A holds no atom of {crystal.name}")
    names = ("quaternion_w", "quaternion_x", "quaternion_y", "quaternion_z")
    row = {
        **dict(zip(names, quaternion.tolist(), strict=True)),
        "in_plane": in_plane,
        **dict(zip(("offset_a", "offset_b", "offset_c"), offset.tolist(), strict=True)),
        "n_atoms": len(positions),
        "planar_defects_requested": requested,
        "planar_defects_placed": len(faults),
    }
    return transforms.rotate(positions, quaternion), numbers, row, rows


def _draw_orientation(
    particles: configs.Particles, crystal: Crystal, draw: Draw
) -> tuple[np.ndarray, float]:
    """Quaternion of the orientation, and the azimuth where a zone axis is fixed."""
    orientation = particles.orientation
    if isinstance(orientation, str):
        return transforms.draw_uniform_quaternion(draw.generator("orientation")), 0.0
    angle = draw.number("in_plane", orientation.in_plane)
    return transforms.align_zone_axis(crystal, orientation.zone_axis, angle), angle


def _draw_defects(
    particles: configs.Particles, crystal: Crystal, draw: Draw, radius: float, centre: np.ndarray
) -> tuple[list[defects.PlanarDefect], tuple[int, int, int], int]:
    """The planar defects of a particle, the normal of their planes, and the number requested."""
    wish = particles.planar_defects
    requested = 0 if wish is None else draw.count("defect_count", wish.count)
    if wish is None or requested == 0:
        return [], defects.NORMALS[0], 0
    normal = defects.NORMALS[int(draw.generator("defect_normal").integers(len(defects.NORMALS)))]
    stack = defects.stack_planes(crystal, radius, centre, normal)
    planes = defects.draw_planes(
        draw.generator("defect_planes"),
        stack.count,
        requested,
        wish.minimum_separation,
        wish.edge_distance,
    )
    kinds = draw.generator("defect_kinds")
    faults = [
        defects.PlanarDefect(str(wish.kind.draw(kinds, draw.index)), int(plane)) for plane in planes
    ]
    return faults, normal, requested
