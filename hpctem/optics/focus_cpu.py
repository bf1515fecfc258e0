"""Intensities of focal planes on a CPU: two passes over each wave (`hpctem.optics.passes`).

Eight rows of the transform at a time are multiplied by the Fresnel factors and taken back along x;
panel by panel the field is taken back along y and its square added to the intensity. Rows where
the lens or the wave let nothing through are left out.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from hpctem.backend import Backend
from hpctem.optics import passes
from hpctem.optics.grid import Grid
from hpctem.optics.lanes import LANES, LINE
from hpctem.optics.line_transforms import plan_lines
from hpctem.optics.panels import count_panels, empty_lines, keep_rows
from hpctem.optics.passage import fresnel_factors


class FocusByPanels:
    """One configuration at a time; see `hpctem.optics.focus.Focus`."""

    def __init__(
        self, spectra: Any, transfer: Any, grid: Grid, wavelength: float, backend: Backend
    ) -> None:
        self.grid, self.wavelength = grid, wavelength
        ny, nx = grid.shape
        self.along_y, self.along_x = plan_lines(ny), plan_lines(nx)
        self.band = keep_rows(transfer.any(axis=1))
        rows, panels = self.band.place.size, count_panels(nx)
        self.lines = empty_lines(spectra.shape[0], rows // LANES, nx * LINE)
        for lines, spectrum in zip(self.lines, spectra, strict=True):
            passes.arrange_spectrum(lines, spectrum, transfer, self.band, self.along_x)
        self.wave = empty_lines(panels, rows * LINE)
        self.intensity = empty_lines(ny, panels * LANES)

    def add_planes(
        self, images: Any, defoci: np.ndarray, weights: np.ndarray, shares: np.ndarray
    ) -> None:
        """See `hpctem.optics.focus.Focus.add_planes`."""
        # underfocus looks at a plane before the exit plane: back by the defocus
        legs = fresnel_factors(self.grid, self.wavelength, -defoci)
        for leg_y, leg_x, of_images in zip(*legs, weights, strict=True):
            self.intensity.fill(0)
            for lines, share in zip(self.lines, shares, strict=True):
                passes.focus_lines(self.wave, lines, leg_y, leg_x, self.along_x, self.band)
                passes.add_intensity(self.intensity, self.wave, share, self.band, self.along_y)
            for image, weight in zip(images, of_images, strict=True):
                if weight:
                    passes.add_scaled(image, self.intensity, weight)
