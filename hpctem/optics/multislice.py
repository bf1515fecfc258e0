"""Multislice: the wave function of a fast electron behind a sample (Cowley & Moodie 1957).

Slice by slice, psi <- F^-1 [ P F ( t psi ) ] with the transmission function t = exp(i sigma V)
and the Fresnel propagator P = exp(-i pi lambda dz k^2) (see Kirkland 2010),
both limited to 2/3 of Nyquist.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from hpctem.backend import Backend
from hpctem.errors import ConfigError
from hpctem.optics.electron import interaction_constant, wavelength
from hpctem.optics.grid import Grid, antialias_aperture, copy_frequencies, nyquist_circle
from hpctem.optics.passage import Path, fresnel_factors, passage_for
from hpctem.optics.potential import Atomic, check_positions, make_channels, slice_of
from hpctem.optics.scattering_factors import scattering_factor

CENTROID_FREQUENCY = 0.5
"""Frequency in 1/A at which scattering is weighed for the centroid, amid what images transfer."""

FIELDS = 3
"""Fields that a GPU's cache should hold of the configurations it takes at once: psi, t and V."""


@dataclass(frozen=True)
class Multislice:
    """How exit waves are computed.

    `energy` in eV; `slice_thickness` in A: the height is cut into equal slices no thicker than
    this; `parametrization`: lobato, kirkland or peng; `projection`: 'infinite' (each atom wholly
    in one slice) or 'finite' (divided over the slices it reaches into); `slice_plane`: where in
    its slice the potential acts: 'centroid' of the scattering (half the slices for the same
    accuracy), 'centre', or the 'edge' that the beam meets first (as in abTEM); `tilt`: direction
    of the beam (towards x, towards y) from the cell's z axis in rad; `debye_waller`: rms
    displacement in A per atomic number, instead of frozen phonons; `taper`: edge of the
    antialiasing aperture in units of 1 / pixel size.

    With a tilt the exit wave is given without its carrier exp(2 pi i k_t r), that is in the frame
    of the tilted beam, as on a microscope whose axis follows the beam; tilting the sample by the
    opposite angle gives the same wave to first order in the angle.
    """

    energy: float
    slice_thickness: float = 2.0
    parametrization: str = "lobato"
    projection: str = "infinite"
    slice_plane: str = "centroid"
    tilt: tuple[float, float] = (0.0, 0.0)
    debye_waller: Mapping[int, float] | None = None
    taper: float = 0.01

    def __post_init__(self) -> None:
        wavelength(self.energy)
        if not self.slice_thickness > 0:
            raise ConfigError(f"slice thickness {self.slice_thickness} A must be positive.")
        if self.projection not in ("infinite", "finite"):
            raise ConfigError(f"projection '{self.projection}' is unknown: infinite or finite.")
        if self.slice_plane not in ("centroid", "centre", "edge"):
            raise ConfigError(
                f"slice plane '{self.slice_plane}' is unknown: centroid, centre or edge."
            )
        if max(abs(angle) for angle in self.tilt) > 0.2:
            raise ConfigError(
                f"a beam tilt of {self.tilt} rad is beyond the small-angle approximation "
                f"(0.2 rad); rotate the structure instead."
            )


@dataclass(frozen=True, eq=False)
class Slices:
    """Equal slices of a cell of `height` A and the heights `planes` (S,) where they act, in A."""

    height: float
    planes: np.ndarray

    @property
    def count(self) -> int:
        """Number of slices, S."""
        return self.planes.size

    @property
    def thickness(self) -> float:
        """Thickness of every slice in A."""
        return self.height / self.count


def plan_slices(
    positions: np.ndarray, numbers: np.ndarray, height: float, multislice: Multislice
) -> Slices:
    """Cut a cell of `height` A into slices; `positions` (N, 3) in A are the atoms at rest.

    With `slice_plane='centroid'` a slice acts at the mean height of its atoms, weighted with the
    square of their scattering factors at 0.5 1/A, which makes the mean square of the phase errors
    pi lambda (z_a - z) k^2 f smallest. Pass the result to several runs that must share slices.
    """
    if not (math.isfinite(height) and height > 0):
        raise ConfigError(f"the cell's height {height} A must be positive.")
    count = max(1, math.ceil(height / multislice.slice_thickness - 1e-9))
    thickness = height / count
    offset = 0.0 if multislice.slice_plane == "edge" else 0.5
    planes = (np.arange(count) + offset) * thickness
    if multislice.slice_plane == "centroid" and len(numbers):
        weight = np.zeros(len(numbers))
        for number in np.unique(numbers).tolist():
            f = scattering_factor(number, CENTROID_FREQUENCY, multislice.parametrization)
            weight[numbers == number] = float(f) ** 2
        index = slice_of(positions[:, 2], thickness, count)
        moment = np.bincount(index, weight * positions[:, 2], minlength=count)
        total = np.bincount(index, weight, minlength=count)
        np.divide(moment, total, out=planes, where=total > 0)
        lower = np.arange(count) * thickness
        planes = np.clip(planes, lower, lower + thickness)
    return Slices(height, planes)


def exit_waves(
    positions: np.ndarray,
    numbers: np.ndarray,
    height: float,
    grid: Grid,
    multislice: Multislice,
    backend: Backend,
    output_shape: tuple[int, int] | None = None,
    slices: Slices | None = None,
    batch: int | None = None,
) -> Any:
    """Exit waves of a plane wave of mean intensity 1, at the exit plane z = `height`.

    `positions`: float64 (P, N, 3) in A, P phonon configurations of the same N atoms, x and y
    periodic, z in 0..`height`; `numbers`: integer (N,). Each atom joins the slice that holds its
    displaced z; the planes come from `slices`, by default planned from the mean positions.
    `output_shape` (my, mx): the wave is cropped in Fourier space to this coarser grid of the same
    extent, and limited to the circle of its Nyquist frequency. `batch`: configurations at once,
    part of what fixes the bytes on a GPU (by default what its cache holds; 1 on a CPU).

    Returns complex64 (P, my, mx) on the backend. Raises ConfigError for elements without
    scattering factor or an `output_shape` finer than the grid, SampleError for positions that
    are not finite.
    """
    positions = np.asarray(positions, dtype=np.float64)
    numbers = np.asarray(numbers)
    check_positions(positions)
    shape = grid.shape if output_shape is None else (output_shape[0], output_shape[1])
    if shape[0] > grid.shape[0] or shape[1] > grid.shape[1]:
        raise ConfigError(
            f"the exit wave cannot be stored on {shape[1]} x {shape[0]} pixels, finer than the "
            f"grid of the potential, {grid.shape[1]} x {grid.shape[0]}; use a finer sampling."
        )
    waves = backend.xp.ones((positions.shape[0], *shape), dtype=np.complex64)
    if len(numbers) == 0:
        return waves
    if slices is None:
        slices = plan_slices(positions.mean(axis=0), numbers, height, multislice)
    if batch is None or backend.name == "numpy":
        batch = backend.planes_at_once(positions.shape[0], grid.pixels, FIELDS)
    atomic = Atomic(multislice.parametrization, multislice.debye_waller)
    finite = multislice.projection == "finite"
    aperture = antialias_aperture(grid, multislice.taper) / grid.pixels
    passage = passage_for(backend)(
        Path(
            grid,
            wavelength(multislice.energy),
            interaction_constant(multislice.energy),
            multislice.tilt,
            slices.planes,
            slices.height,
            aperture.astype(np.float32),
        ),
        backend,
    )
    circle = None
    if shape != grid.shape:
        circle = backend.asarray(nyquist_circle(shape, grid.extent).astype(np.float32))
    occupied = np.arange(slices.count)
    if not finite:
        occupied = np.unique(slice_of(positions[..., 2], slices.thickness, slices.count))
    for begin in range(0, positions.shape[0], batch):
        block = positions[begin : begin + batch]
        channels = make_channels(
            block, numbers, grid, atomic, slices.count, slices.thickness, finite, backend
        )
        out = waves[begin : begin + block.shape[0]]
        copy_frequencies(passage.pass_through(channels, occupied.tolist()), out)
        if circle is not None:
            out *= circle
        backend.ifft2(out, out=out, scaled=False)
    return waves


def propagate_waves(
    waves: Any, extent: tuple[float, float], distance: float, wavelength: float, backend: Backend
) -> Any:
    """Carry waves through vacuum over `distance` A along the beam (negative: back).

    `waves`: complex64 (..., ny, nx); `extent` (ly, lx), `distance` and `wavelength` in A. Returns
    a new array like `waves`.
    From the exit plane to the centre of a cell is `distance = -height / 2`.
    """
    grid = Grid(tuple(waves.shape[-2:]), extent)
    along_y, along_x = fresnel_factors(grid, wavelength, distance, xp=backend.xp)
    out = backend.fft2(backend.asarray(waves))
    out *= along_y[:, None] * along_x[None, :]
    return backend.ifft2(out, out=out)
