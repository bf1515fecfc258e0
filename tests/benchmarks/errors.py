"""How exact hpctem's and abTEM's waves and images are, on the work that is timed."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from exact import (
    deviation,
    finite_slices,
    image_error,
    image_exactly,
    infinite_slices,
    pass_exactly,
)
from steps import ENERGY, EXTENT, MULTISLICE, SPREAD, pass_abtem
from targets import Figure

from hpctem.backend import Backend
from hpctem.optics.grid import Grid
from hpctem.optics.multislice import exit_waves, plan_slices
from hpctem.optics.transfer import Imaging, form_images
from hpctem.structures.scenes import Structure


def measure_errors(
    structure: Structure, pixels: int, backend: Backend, finite: bool, with_abtem: bool
) -> list[Figure]:
    """Errors of waves and images against float64 with direct sums on the same grid and slices.

    abTEM's slices act at the edge where the beam enters, so its waves are held against exact ones
    of such slices. Images are those of the wave in infinite projection.
    """
    grid, height = Grid((pixels, pixels), EXTENT), structure.cell[2]
    numbers, positions = structure.numbers, structure.positions
    slices = plan_slices(positions, numbers, height, MULTISLICE)
    edges = np.linspace(0, height, slices.count + 1)
    kinds = {"infinite": infinite_slices} | ({"finite": finite_slices} if finite else {})
    figures = []
    for projection, cut in kinds.items():
        multislice = replace(MULTISLICE, projection=projection)
        found = exit_waves(positions[None], numbers, height, grid, multislice, backend)
        potentials = cut(positions, numbers, grid.shape, EXTENT, edges, multislice.parametrization)
        planes = [slices.planes, edges[:-1]]
        exact, at_edge = pass_exactly(potentials, planes, height, grid.shape, EXTENT, ENERGY)
        theirs = None
        if with_abtem:
            wave = np.asarray(pass_abtem(structure, pixels, projection).array).squeeze().T
            theirs = deviation(wave, at_edge)
        ours = deviation(found[0], exact)
        what = f"error, exit wave, {projection} projection"
        figures.append(Figure(what, f"{pixels} px", ours, ours, theirs))
        if projection == "infinite":
            figures += _image_errors(found, exact, pixels, backend)
    return figures


def _image_errors(
    found: np.ndarray, exact: np.ndarray, pixels: int, backend: Backend
) -> list[Figure]:
    focus = Imaging(ENERGY, 35.0, focal_spread=SPREAD)
    figures = []
    for name, nodes in (("default", "auto"), ("25", 25)):
        image = form_images(found, EXTENT, [replace(focus, spread_nodes=nodes)], backend)[0]
        error = image_error(image, image_exactly(exact, EXTENT, focus, nodes))
        figures.append(Figure(f"error, image, {name} planes", f"{pixels} px", error, error))
    return figures
