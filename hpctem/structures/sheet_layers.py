"""What is drawn for a sheet, and the flat specimen that comes of it: layers, islands, cuts."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from hpctem.sections import stem as configs
from hpctem.structures.distortions import (
    HeightField,
    compose,
    draw_height_field,
    ripple,
    strain_matrix,
    tilt_matrix,
    transform,
    turn_matrix,
)
from hpctem.structures.filling import Frame, Layer, Sites, Unit, fill_layer, find_places, join_sites
from hpctem.structures.flakes import Cuts, Island, covered_by, draw_edge, draw_outline
from hpctem.structures.materials import Placement, layer_distance, stack_layers
from hpctem.structures.recipes import Draw
from hpctem.structures.sheet_crystals import SheetCrystal, adatoms_of

SIDES = {"triangle": 3, "hexagon": 6, "rough": 0}
ISLAND_ROUGHNESS = 0.15  # rms deviation of a rough island's radius, as a fraction of it
TAIL = 6.0  # standard deviations of a displacement that still bring a site into the field
# A; one set of sites, and with it all that is drawn for them, serves every small displacement.
LEAST_MARGIN = 1.0


@dataclass(frozen=True)
class Pose:
    """How the flat specimen comes to lie in the field: bent by its ripples, then tilted."""

    frame: Frame
    ripples: HeightField | None

    def place(self, flat: np.ndarray) -> np.ndarray:
        """Positions (n, 3) A of flat ones, z from the middle of the specimen."""
        bent = flat if self.ripples is None else ripple(flat, self.ripples)
        if self.frame.tilt is None:
            return bent
        return transform(self.frame.tilt, bent - self.frame.middle) + self.frame.middle


@dataclass(frozen=True)
class Flat:
    """The flat specimen before anything is cut from it.

    sites: of all its layers. grown: (n,) bool, false in an island's layer where no island is.
    islands: of the further layer, `step` A above the uppermost. top: z in A of the uppermost atoms
    without islands. unit, linear: cell of the uppermost layer and its map into the plane. places:
    (m, 2) A, where its cells begin, for adatoms; none without. surface: (k, 3) A, uppermost atoms
    of one cell, as the unit has them.
    """

    sites: Sites
    grown: np.ndarray
    islands: tuple[Island, ...]
    step: float
    top: float
    unit: Unit
    linear: np.ndarray
    places: np.ndarray
    surface: np.ndarray


def draw_values(config: configs.Structure, crystal: SheetCrystal, draw: Draw) -> dict[str, Any]:
    """The numbers of a structure, by the names of their columns."""
    number = draw.number
    strain, ripples, edge = config.strain, config.ripples, config.edge
    if config.thickness is not None:
        layers, twist, thickness = 0, 0.0, number("thickness", config.thickness)
    else:
        layers = round(number("layers", config.layers.count))
        twist = number("twist", config.layers.twist)
        thickness = crystal.material.height
        if layers > 1:
            thickness += (layers - 1) * layer_distance(config, crystal.material)
    shows = edge is not None and draw.generator("edge_present").random() < edge.probability
    return {
        "layers": layers,
        "twist": twist,
        "thickness": thickness,
        "rotation": number("rotation", config.rotation),
        "displacement": number("displacement", config.displacement),
        "strain_xx": number("strain_xx", strain.xx),
        "strain_yy": number("strain_yy", strain.yy),
        "strain_xy": number("strain_xy", strain.xy),
        "tilt_x": number("tilt_x", config.tilt.x),
        "tilt_y": number("tilt_y", config.tilt.y),
        "ripple_amplitude": number("ripple_amplitude", ripples.amplitude) if ripples else 0.0,
        "ripple_wavelength": number("ripple_wavelength", ripples.wavelength) if ripples else 0.0,
        "edge": "yes" if shows else "no",
        **{
            f"edge_{name}": number(f"edge_{name}", getattr(edge, name)) if shows else 0.0
            for name in ("distance", "direction", "roughness")
        },
        **{
            f"rate_{defect.label}": number(f"defects/{defect.label}/rate", defect.rate)
            for defect in config.defects
        },
    }


def draw_pose(
    config: configs.Structure,
    crystal: SheetCrystal,
    values: Mapping[str, Any],
    field: tuple[float, float],
    view: tuple[float, float],
    draw: Draw,
) -> Pose:
    """Ripples, tilt, and how far beyond the field's border sites must be known for them.

    field: lx, ly in A; view: the part about its middle that is to be seen.
    """
    ripples = None
    if values["ripple_amplitude"] > 0:
        ripples = draw_height_field(
            draw.generator("ripples"), values["ripple_amplitude"], values["ripple_wavelength"]
        )
    tilt = None
    if values["tilt_x"] != 0.0 or values["tilt_y"] != 0.0:
        tilt = tilt_matrix(values["tilt_x"], values["tilt_y"])
    margin = np.full(2, max(TAIL * values["displacement"], LEAST_MARGIN))
    if ripples is not None:
        margin += reach_of_ripples(ripples, tilt, farthest_from_middle(config, crystal, values))
    frame = Frame(np.array(field, dtype=float), np.array(view, dtype=float), tilt, margin)
    return Pose(frame, ripples)


def farthest_from_middle(
    config: configs.Structure, crystal: SheetCrystal, values: Mapping[str, Any]
) -> float:
    """Greatest distance in A along z of a site or an adatom from the specimen's middle."""
    farthest = 0.5 * values["thickness"]
    if config.islands is not None:
        farthest += layer_distance(config, crystal.material)
    return farthest + max((kind.height for kind in adatoms_of(config)), default=0.0)


def reach_of_ripples(ripples: HeightField, tilt: np.ndarray | None, farthest: float) -> np.ndarray:
    """By how much (2,) A ripples can move a site in the tilted plane, at z up to `farthest` A.

    Along the plane by z sin(slope) at most, along z by the field's bound and what that turn takes
    from z; the tilt shows both.
    """
    slope = ripples.steepest
    along_plane = farthest * slope / math.sqrt(1.0 + slope * slope)
    along_z = ripples.highest + farthest * (1.0 - 1.0 / math.sqrt(1.0 + slope * slope))
    leaning = np.zeros(2) if tilt is None else np.abs(tilt[:2, 2])
    return along_plane + leaning * along_z


def lay_down(
    config: configs.Structure,
    crystal: SheetCrystal,
    values: Mapping[str, Any],
    pose: Pose,
    draw: Draw,
) -> Flat:
    """Fill the field with the flat crystal, its layers one upon the other, and islands on them."""
    unit, frame = crystal.unit, pose.frame
    linear = compose(
        turn_matrix(values["rotation"]),
        strain_matrix(values["strain_xx"], values["strain_yy"], values["strain_xy"]),
    )
    vectors = transform(linear, unit.vectors)
    shares = draw.generator("offset").random(3)[: len(vectors), None]
    origin = frame.middle + (shares * vectors).sum(axis=0)
    half = 0.5 * values["thickness"]
    if config.thickness is not None:
        film = Layer(unit, linear, origin, (-half, half))
        sites = fill_layer(film, frame)
        surface = unit.basis.copy()
        period = unit.vectors[2, 2]
        surface[:, 2] += origin[2] + period * np.floor((half - origin[2] - surface[:, 2]) / period)
        grown = np.ones(len(sites.numbers), dtype=bool)
        places = _find_places(config, film, frame, half)
        return Flat(sites, grown, (), 0.0, half, unit, linear, places, surface)

    number, step = values["layers"], 0.0
    if number == 1 and config.islands is None:
        placed = [Layer(unit, linear, origin - np.array([0.0, 0.0, half]))]
    else:
        step = layer_distance(config, crystal.material)
        centre = np.append(draw.generator("twist_centre").random(2) * frame.field, 0.0)
        placements = stack_layers(
            crystal.material, number + 1, step, config.layers.stacking, values["twist"]
        )
        placed = [_turn(unit, linear, origin, centre, half, one) for one in placements]
    layers = [fill_layer(layer, frame) for layer in placed[:number]]
    islands = _draw_islands(config, placed[-1], frame, draw)
    covered = np.zeros(0, dtype=bool)
    if islands:
        island_layer = fill_layer(placed[-1], frame)
        covered = covered_by(islands, island_layer.positions[:, :2])
        layers.append(island_layer)
    sites = join_sites(layers)
    grown = np.ones(len(sites.numbers), dtype=bool)
    grown[len(grown) - len(covered) :] = covered
    top = placed[number - 1]
    places = _find_places(config, top, frame, half + step)
    return Flat(sites, grown, islands, step, half, unit, top.linear, places, unit.basis)


def _find_places(
    config: configs.Structure, layer: Layer, frame: Frame, height: float
) -> np.ndarray:
    """Where the cells begin on which adatoms settle; none without adatoms."""
    highest = max((kind.height for kind in adatoms_of(config)), default=None)
    if highest is None:
        return np.zeros((0, 2))
    return find_places(layer, frame, height + highest)


def _turn(
    unit: Unit,
    linear: np.ndarray,
    origin: np.ndarray,
    centre: np.ndarray,
    half: float,
    placement: Placement,
) -> Layer:
    """A layer of a stack: turned about a point of the field and raised, z from the middle."""
    sign = -1.0 if placement.turned else 1.0
    turn = turn_matrix(placement.angle)
    shift = transform(linear, np.array([[*placement.shift, 0.0]]))[0]
    turned = centre + transform(turn, (origin + shift - centre)[None])[0]
    turned[2] = placement.z - half
    return Layer(unit, compose(turn, linear) * np.array([sign, sign, 1.0]), turned)


def _draw_islands(
    config: configs.Structure, layer: Layer, frame: Frame, draw: Draw
) -> tuple[Island, ...]:
    """Islands at random places of the view; polygons have a side along a lattice vector."""
    wish = config.islands
    if wish is None:
        return ()
    count = draw.count("island_count", wish.count)
    radii, places = draw.generator("island_radii"), draw.generator("island_places")
    outlines = draw.generator("islands")
    x, y = transform(layer.linear, layer.unit.vectors[:1])[0, :2]
    islands = []
    for k in range(count):
        radius = float(wish.radius.draw(radii, k))
        centre = frame.pick(places)
        outline = draw_outline(outlines, centre, radius, ISLAND_ROUGHNESS)
        # A triangle may point either way; to a hexagon it is the same.
        azimuth = math.atan2(y, x) + math.copysign(0.5 * math.pi, outlines.random() - 0.5)
        islands.append(Island(outline, SIDES[wish.shape], azimuth))
    return tuple(islands)


def draw_cuts(config: configs.Structure, values: Mapping[str, Any], pose: Pose, draw: Draw) -> Cuts:
    """The edge of the flake, if it shows one, and holes at random places of the view."""
    frame, edge, holes = pose.frame, None, []
    if values["edge"] == "yes":
        distance, direction, roughness = (
            values[f"edge_{name}"] for name in ("distance", "direction", "roughness")
        )
        edge = draw_edge(draw.generator("edge"), frame.middle[:2], distance, direction, roughness)
    wish = config.holes
    if wish is not None:
        count = draw.count("hole_count", wish.count)
        radii, places = draw.generator("hole_radii"), draw.generator("hole_places")
        outlines = draw.generator("holes")
        for k in range(count):
            radius = float(wish.radius.draw(radii, k))
            centre = frame.pick(places)
            holes.append(draw_outline(outlines, centre, radius, wish.roughness))
    return Cuts(edge, tuple(holes))
