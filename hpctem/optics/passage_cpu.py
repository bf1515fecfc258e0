"""The way of a wave through the slices on a CPU: four passes over the field for each slice.

    V    spread two slices and transform along y; along x and back with the scattering factors
    t    V back along y, exp(i sigma V), along y; along x and back with the aperture
    psi  t and psi back along y, multiply, along y; along x and back with the propagator

Between two lines every field is transformed along y alone and kept on the rows inside its band
(`hpctem.optics.panels`): 90 % of Nyquist for V, the antialiasing aperture for t and psi.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from hpctem.backend import Backend
from hpctem.optics import passes
from hpctem.optics.lanes import LANES, LINE
from hpctem.optics.line_transforms import plan_lines
from hpctem.optics.panels import arrange_half, count_panels, empty_lines, keep_rows
from hpctem.optics.passage import Path
from hpctem.optics.potential import Channel, choose_channels
from hpctem.optics.spreading import BAND, window_table

NOTHING = np.zeros((0, 0), np.complex64)


class PanelPassage:
    """One configuration at a time; see `hpctem.optics.passage.Passage`."""

    def __init__(self, path: Path, backend: Backend) -> None:
        self.path = path
        ny, nx = path.grid.shape
        self.along_y, self.along_x = plan_lines(ny), plan_lines(nx)
        row = np.minimum(np.arange(ny), ny - np.arange(ny))
        self.wide = keep_rows(row <= BAND * ny)
        self.band = keep_rows(path.half.any(axis=1)[row])
        self.aperture = arrange_half(path.half, self.band)
        self.factors: dict[int, tuple[np.ndarray, np.ndarray]] = {}
        self.table = window_table()
        panels, rows = count_panels(nx), self.band.place.size
        self.potential = empty_lines(panels, self.wide.place.size * LINE)
        self.total = empty_lines(self.wide.place.size // LANES, nx * LINE)
        self.wave, *self.transmissions = empty_lines(3, panels, rows * LINE)
        self.spectrum = np.zeros((1, ny, nx), np.complex64)

    def pass_through(self, channels: list[Channel], occupied: list[int]) -> Any:
        """Send a plane wave through the occupied slices; see `Passage`."""
        sigma = np.float32(self.path.sigma)
        legs = list(zip(*self.path.legs(occupied), strict=True))
        for n in range(0, len(occupied), 2):
            pair = occupied[n : n + 2]
            self._add_potentials(channels, pair)
            first, second = self.transmissions
            passes.make_phase_objects(
                first, second[: None if len(pair) == 2 else 0], self.potential, sigma,
                self.band, self.wide, self.along_y,
            )  # fmt: skip
            for m, transmission in enumerate(self.transmissions[: len(pair)], start=n):
                passes.filter_lines(transmission, self.aperture, self.along_x)
                if m == 0:  # a plane wave arrives unchanged, whatever lies before the first slice
                    np.multiply(transmission, np.float32(self.wide.length), out=self.wave)
                else:
                    passes.multiply_fields(self.wave, transmission, self.band, self.along_y)
                end = self.spectrum[0] if m + 1 == len(occupied) else NOTHING
                passes.propagate_lines(
                    self.wave, self.aperture, *legs[m], self.along_x, end, self.band
                )
        return self.spectrum

    def _add_potentials(self, channels: list[Channel], pair: list[int]) -> None:
        """Panels of the potentials of two slices (or one), real and imaginary part."""
        chosen = choose_channels(channels, pair)
        if not chosen:
            self.potential.fill(0)
        nx, slices = self.path.grid.shape[1], (pair[0], pair[-1] if len(pair) == 2 else -1)
        for n, channel in enumerate(chosen):
            factor, d = self._arrange(channel.half), channel.deposits
            atoms = d.row, d.column, d.row_phase, d.column_phase, d.weight
            passes.transform_atoms(
                self.potential, slices, d.first, atoms, self.table, nx, self.wide, self.along_y
            )
            if len(chosen) == 1:
                passes.filter_lines(self.potential, factor, self.along_x)
                return
            passes.weigh(self.total, self.potential, factor, self.along_x, n > 0)
        if chosen:
            passes.invert_lines(self.potential, self.total, self.along_x)

    def _arrange(self, half: np.ndarray) -> np.ndarray:
        """An element's factor in the order of the passes, kept beside the half it is made of."""
        if id(half) not in self.factors:
            self.factors[id(half)] = half, arrange_half(half, self.wide)
        return self.factors[id(half)][1]
