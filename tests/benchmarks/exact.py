"""The same wave and images in float64 with direct sums over the atoms: right, and slow.

Nothing is shared with the kernels but the scattering factors, which have tests of their own.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from hpctem.optics.electron import wavelength
from hpctem.optics.grid import Grid
from hpctem.optics.multislice import Multislice, Slices
from hpctem.optics.transfer import Imaging, asked_planes

sys.path.insert(0, str(Path(__file__).parents[1] / "physics"))

from direct_sums import deviation, exit_wave, image_error

__all__ = ["deviation", "exact_exit_wave", "exact_images", "image_error"]


def exact_exit_wave(
    positions: np.ndarray, numbers: np.ndarray, grid: Grid, slices: Slices, multislice: Multislice
) -> np.ndarray:
    """Exit wave in infinite projection, complex128 (ny, nx): minutes for 10^5 atoms."""
    edges = np.linspace(0, slices.height, slices.count + 1)
    return exit_wave(
        positions, numbers, grid.shape, grid.extent, multislice.energy, edges, slices.planes,
        parametrization=multislice.parametrization,
    )  # fmt: skip


def exact_images(
    wave: np.ndarray, extent: tuple[float, float], imaging: Imaging, nodes: int | str
) -> np.ndarray:
    """Image of a wave without aberrations, every plane that is asked for by itself; float64."""
    lam = wavelength(imaging.energy)
    ky, kx = Grid(wave.shape, extent).frequencies()
    square = ky[:, None] ** 2 + kx[None, :] ** 2
    spectrum = np.fft.fft2(wave)
    image = np.zeros(wave.shape)
    for offset, weight in zip(*asked_planes(imaging.focal_spread, nodes), strict=True):
        phase = np.pi * lam * (imaging.defocus + offset) * square
        image += weight * np.abs(np.fft.ifft2(spectrum * np.exp(1j * phase))) ** 2
    return image
