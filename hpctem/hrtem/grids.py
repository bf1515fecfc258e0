"""The pixel grids of a campaign: the one the wave passes on and the one images are taken on."""

from __future__ import annotations

import math
from dataclasses import dataclass

from hpctem.config import HrtemConfig
from hpctem.errors import ConfigError
from hpctem.optics.electron import wavelength
from hpctem.optics.grid import fast_size

# Frequencies in 1/A beyond this carry no detail of an image: 49 mrad at 300 keV.
LARGEST_FREQUENCY = 2.5


@dataclass(frozen=True)
class Grids:
    """Shapes (rows, columns) and extents of one campaign.

    `extent` is (ly, lx) in A; `wave` the pixels of potential and multislice; `image` those of the
    images before the crop, `stored` those of a stored image. An image pixel is `binning` x
    `binning` pixels of the exit wave.
    """

    extent: tuple[float, float]
    wave: tuple[int, int]
    image: tuple[int, int]
    stored: tuple[int, int]
    binning: int

    @property
    def exit(self) -> tuple[int, int]:
        """Pixels of the exit wave, of its intensity and of the masks."""
        return self.image[0] * self.binning, self.image[1] * self.binning

    @property
    def pixel_area(self) -> float:
        """Area of an image pixel in A^2."""
        return self.extent[0] * self.extent[1] / (self.image[0] * self.image[1])


def choose_grids(config: HrtemConfig) -> Grids:
    """The grids that a campaign asks for.

    The wave's grid is the next larger size that factorises into 2, 3 and 5, so its sampling is the
    one asked for or slightly finer; image pixels must divide the cell exactly. The exit wave is
    kept to the smallest of 2/3 of its grid's Nyquist frequency, the objective aperture and 2.5 1/A
    (half of Nyquist at 0.1 A, to which Rangel DaCosta et al. kept it), on as many pixels for each
    image pixel as that needs.

    Raises ConfigError when they do not, when the crop or the wave is too small for the image, or
    when the sampling cannot hold the objective aperture (the wave keeps 2/3 of its Nyquist
    frequency).
    """
    lx, ly = config.structure.cell
    simulation, imaging = config.simulation, config.imaging
    image = _whole_pixels(ly, imaging.sampling), _whole_pixels(lx, imaging.sampling)
    if imaging.sampling < simulation.sampling * (1 - 1e-9):
        raise ConfigError(
            f"imaging.sampling: {imaging.sampling:g} A is finer than simulation.sampling, "
            f"{simulation.sampling:g} A: an image cannot show more than the wave holds"
        )
    wave = fast_size(ly / simulation.sampling), fast_size(lx / simulation.sampling)
    band = min(n / (3 * length) for n, length in zip(wave, (ly, lx), strict=True))
    if imaging.objective_aperture is not None:
        _require_band(imaging.objective_aperture, wavelength(simulation.energy), band)
        band = min(band, imaging.objective_aperture / wavelength(simulation.energy))
    band = min(band, LARGEST_FREQUENCY)
    pixels = min(n / length for n, length in zip(image, (ly, lx), strict=True))
    binning = math.ceil(2 * band / pixels - 1e-6)
    wave = max(wave[0], image[0] * binning), max(wave[1], image[1] * binning)
    if imaging.crop is not None and imaging.crop > min(image):
        raise ConfigError(
            f"imaging.crop: {imaging.crop} pixels do not fit the image of {image[1]} x {image[0]} "
            f"pixels ({lx:g} x {ly:g} A at {imaging.sampling:g} A); at most {min(image)}"
        )
    crop = imaging.crop
    stored = image if crop is None else (crop, crop)
    return Grids((ly, lx), wave, image, stored, max(binning, 1))


def _require_band(aperture: float, wavelength: float, band: float) -> None:
    limit = wavelength * min(band, LARGEST_FREQUENCY)
    if aperture <= limit:
        return
    if band > LARGEST_FREQUENCY:
        raise ConfigError(
            f"imaging.objective_aperture: {aperture * 1e3:g} mrad is wider than the "
            f"{limit * 1e3:.4g} mrad ({LARGEST_FREQUENCY} 1/A) to which waves are kept; "
            "leave it out"
        )
    raise ConfigError(
        f"imaging.objective_aperture: {aperture * 1e3:g} mrad lies beyond the {limit * 1e3:.4g} "
        f"mrad that the sampling can hold; choose simulation.sampling of "
        f"{wavelength / (3 * aperture):.3g} A or finer"
    )


def _whole_pixels(length: float, sampling: float) -> int:
    count = round(length / sampling)
    if abs(count * sampling - length) > 1e-6 * length:
        raise ConfigError(
            f"imaging.sampling: pixels of {sampling:g} A do not divide the cell of {length:g} A; "
            f"nearest that does: {length / max(count, 1):.6g} A"
        )
    return count
