"""The pixel grids of a campaign: the one the wave passes on and the one images are taken on."""

from __future__ import annotations

from dataclasses import dataclass

from hpctem.config import Config
from hpctem.errors import ConfigError
from hpctem.optics.electron import wavelength


@dataclass(frozen=True)
class Grids:
    """Shapes (rows, columns) and extents of one campaign.

    `extent` is (ly, lx) in A; `wave` the pixels of potential and multislice, `image` those of the
    images before the crop, `stored` those of a stored image.
    """

    extent: tuple[float, float]
    wave: tuple[int, int]
    image: tuple[int, int]
    stored: tuple[int, int]

    @property
    def pixel_area(self) -> float:
        """Area of an image pixel in A^2."""
        return self.extent[0] * self.extent[1] / (self.image[0] * self.image[1])


def choose_grids(config: Config) -> Grids:
    """The grids that a campaign asks for.

    The wave's grid is the next larger size that factorises into 2, 3, 5 and 7, so its sampling is
    the one asked for or slightly finer; image pixels must divide the cell exactly.

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
    wave = max(wave[0], image[0]), max(wave[1], image[1])
    if imaging.crop is not None and imaging.crop > min(image):
        raise ConfigError(
            f"imaging.crop: {imaging.crop} pixels do not fit the image of {image[1]} x {image[0]} "
            f"pixels ({lx:g} x {ly:g} A at {imaging.sampling:g} A); at most {min(image)}"
        )
    crop = imaging.crop
    grids = Grids((ly, lx), wave, image, image if crop is None else (crop, crop))
    if imaging.objective_aperture is not None:
        limit = wavelength(simulation.energy) * _band_limit(grids)
        if imaging.objective_aperture > limit:
            needed = wavelength(simulation.energy) / (3 * imaging.objective_aperture)
            raise ConfigError(
                f"imaging.objective_aperture: {imaging.objective_aperture * 1e3:g} mrad lies "
                f"beyond the {limit * 1e3:.4g} mrad that the sampling can hold; choose "
                f"simulation.sampling of {needed:.3g} A and imaging.sampling of "
                f"{needed * 1.5:.3g} A or finer"
            )
    return grids


def _band_limit(grids: Grids) -> float:
    """Largest spatial frequency in 1/A that wave and image both hold."""
    nyquist = [
        (n / (2 * length), m / (2 * length))
        for n, m, length in zip(grids.wave, grids.image, grids.extent, strict=True)
    ]
    return min(min(2 / 3 * wave, image) for wave, image in nyquist)


def _whole_pixels(length: float, sampling: float) -> int:
    count = round(length / sampling)
    if abs(count * sampling - length) > 1e-6 * length:
        raise ConfigError(
            f"imaging.sampling: pixels of {sampling:g} A do not divide the cell of {length:g} A; "
            f"nearest that does: {length / max(count, 1):.6g} A"
        )
    return count


def fast_size(length: float) -> int:
    """The smallest even integer of at least `length` that factorises into 2, 3, 5 and 7."""
    size = max(2, int(-(-(length - 1e-6) // 1)))
    while True:
        rest = size
        for factor in (2, 3, 5, 7):
            while rest % factor == 0:
                rest //= factor
        if rest == 1 and size % 2 == 0:
            return size
        size += 1
