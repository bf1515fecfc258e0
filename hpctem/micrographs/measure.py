"""Everything that one image says: lattice, distortion of the scan, noise, lines, sharpness."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from hpctem.errors import ConfigError
from hpctem.micrographs.background import Background, measure_background
from hpctem.micrographs.blur import Blur, measure_blur
from hpctem.micrographs.geometry import Distortion, ideal_lattice, measure_distortion
from hpctem.micrographs.known import KnownLattice
from hpctem.micrographs.lattice import Lattice, find_lattice, fit_patch
from hpctem.micrographs.lines import LineMotion, measure_lines
from hpctem.micrographs.noise import Noise, Streaks, measure_noise, measure_streaks
from hpctem.micrographs.pattern import (
    Pattern,
    edges,
    evaluate,
    find_period,
    fit_amplitudes,
    fit_pattern,
    series_of,
)
from hpctem.micrographs.read import Micrograph
from hpctem.optics.electron import wavelength
from hpctem.optics.probe import Probe
from hpctem.sampling import Streams

WIDEST_SEMIANGLE = 0.04  # rad, for the frequencies to look at where the file does not say
USUAL_LIMIT = 0.3  # cycles per pixel, the same where not even the energy is known
PATCH_PERIODS = 8
SLOW = 0.6  # standard deviation, in periods, of the Gaussian that tells slow from lattice
SEED = 1729  # of the bootstraps: the same image gives the same numbers


@dataclass(frozen=True)
class Optics:
    """What is known or assumed of the microscope: energy (eV), semiangle and collection (rad)."""

    energy: float
    semiangle: float
    collection: tuple[float, float]


@dataclass(frozen=True)
class Measured:
    """What was measured in an image; parts that could not be are None.

    size: (ny, nx) of what was used. symmetry: name of the lattice that the distortion is measured
    against. distortion: its pixel_size is in A where `scaled`, else in units of header pixels.
    distortion_errors: of the pixel size (relative), contraction and shear. spread: their standard
    deviations from one part of the image to another.
    """

    size: tuple[int, int]
    mean: float
    noise: Noise
    lattice: Lattice | None = None
    symmetry: str | None = None
    distortion: Distortion | None = None
    distortion_errors: tuple[float, float, float] = (0.0, 0.0, 0.0)
    spread: tuple[float, float, float] = (0.0, 0.0, 0.0)
    pattern: Pattern | None = None
    lines: LineMotion | None = None
    blur: Blur | None = None
    background: Background | None = None
    streaks: Streaks | None = None

    @property
    def signal_to_noise(self) -> float | None:
        """Standard deviation of the lattice image over that of the noise of a pixel."""
        if self.pattern is None or self.noise.variance <= 0:
            return None
        return math.sqrt(self.pattern.variance / self.noise.variance)


def cut_rows(image: np.ndarray, rows: tuple[int, int] | None) -> np.ndarray:
    """Rows first to last, the last not included, of an image (ny, nx).

    Raises ConfigError where they are not rows of the image, or fewer than 32.
    """
    if rows is None:
        return image
    first, last = rows
    if not 0 <= first < last <= len(image):
        raise ConfigError(f"rows {first}:{last} are not within the image's 0:{len(image)}")
    if last - first < 32:
        raise ConfigError(f"rows {first}:{last} are {last - first}; at least 32 are needed")
    return image[first:last]


def find_limit(pixel: float | None, energy: float | None, semiangle: float | None) -> float:
    """The largest frequency that a probe transfers, 2 alpha / lambda, in cycles per pixel.

    pixel in A, energy in eV, semiangle in rad; what is not known is taken wide.
    """
    if pixel is None or energy is None:
        return USUAL_LIMIT
    band = 2 * (semiangle or WIDEST_SEMIANGLE) / wavelength(energy)
    return min(max(band * pixel, 0.05), 0.45)


def measure(
    micrograph: Micrograph,
    known: KnownLattice | None = None,
    rows: tuple[int, int] | None = None,
    optics: Optics | None = None,
) -> Measured:
    """Measure an image, or some of its rows.

    known: the crystal's lattice, which gives the pixel size; without it that of the file is used
    and a lattice that is nearly hexagonal or square is taken to be so. optics: for the sharpness,
    which needs the atoms of `known` too.
    """
    image = np.asarray(cut_rows(micrograph.image, rows), dtype=np.float64)
    streams = Streams(SEED)
    pixel = micrograph.pixel_size[1] if micrograph.pixel_size else None
    semiangle = optics.semiangle if optics else micrograph.source.get("semiangle")
    energy = optics.energy if optics else micrograph.energy
    limit = find_limit(pixel, energy, semiangle)
    lattice = find_lattice(image, limit)
    if lattice is None:
        noise = measure_noise(image, limit, streams("micrographs/noise", 0))
        return Measured(_shape(image), float(image.mean()), noise)
    distortion, symmetry, errors, spread = _measure_geometry(image, lattice, known, micrograph)
    if distortion is not None and (known is not None or pixel is not None):
        limit = find_limit(distortion.pixel_size, energy, semiangle)
    noise = measure_noise(image, limit, streams("micrographs/noise", 0))
    period = find_period(lattice)
    rapid = image - _slow_part(image, period)
    pattern = fit_pattern(rapid, lattice, noise.variance, limit)
    lines, pattern = measure_lines(
        rapid, pattern, period, noise.variance, streams("micrographs/lines", 0)
    )
    whole = _see_faint(rapid, pattern, lines, lattice, noise.variance, limit)
    rest = rapid - evaluate(whole.places, whole.amplitudes, whole.warp)[0]
    streaks = measure_streaks(rest, noise.variance, streams("micrographs/streaks", 0))
    blur = None
    if known is not None and known.material is not None and distortion and optics is not None:
        blur = measure_blur(
            whole,
            distortion,
            known.material,
            Probe(optics.energy, optics.semiangle),
            optics.collection,
            streams("micrographs/blur", 0),
        )
    first = float(np.linalg.norm(lattice.reciprocal, axis=1).min())
    background = measure_background(
        image, first, noise.variance, streams("micrographs/background", 0)
    )
    return Measured(
        _shape(image),
        float(image.mean()),
        noise,
        lattice,
        symmetry,
        distortion,
        errors,
        spread,
        pattern,
        lines,
        blur,
        background,
        streaks,
    )


Triple = tuple[float, float, float]


def _measure_geometry(
    image: np.ndarray, lattice: Lattice, known: KnownLattice | None, micrograph: Micrograph
) -> tuple[Distortion | None, str | None, Triple, Triple]:
    """Distortion of the whole image; its errors and spread from those of its parts."""
    nothing = (0.0, 0.0, 0.0)
    if known is not None:
        name, vectors = known.name, known.vectors
    else:
        # With no known constant the shape alone is measured; the header's pixel gives the size.
        aspect, size = 1.0, 1.0
        if micrograph.pixel_size is not None:
            size = micrograph.pixel_size[1]
            aspect = micrograph.pixel_size[0] / size
        found = ideal_lattice(lattice.vectors * size * np.array([1.0, aspect]))
        if found is None:
            return None, None, nothing, nothing
        name, vectors = found
    distortion = measure_distortion(lattice.vectors, vectors)
    if known is None and micrograph.pixel_size is not None:
        scale = micrograph.pixel_size[1] / distortion.pixel_size
        vectors = vectors * scale
        distortion = measure_distortion(lattice.vectors, vectors)
    parts = []
    for patch in _cut_patches(image, PATCH_PERIODS * find_period(lattice)):
        there = np.linalg.inv(fit_patch(patch, lattice)).T
        local = measure_distortion(there, vectors)
        parts.append((local.pixel_size / distortion.pixel_size, local.contraction, local.shear))
    if len(parts) < 2:
        return distortion, name, nothing, nothing
    generator = Streams(SEED)("micrographs/geometry", 0)
    chosen = generator.integers(len(parts), size=(200, len(parts)))
    errors = np.array(parts)[chosen].mean(axis=1).std(axis=0)
    spread = np.array(parts).std(axis=0, ddof=1)
    return distortion, name, _triple(errors), _triple(spread)


def _cut_patches(image: np.ndarray, least: float) -> list[np.ndarray]:
    """Parts of an image at least so many pixels a side, at most 4 x 4 of them."""
    ny, nx = image.shape
    rows, columns = (max(1, min(4, int(n / least))) for n in (ny, nx))
    across = [*edges(ny, rows), ny], [*edges(nx, columns), nx]
    return [
        image[across[0][i] : across[0][i + 1], across[1][j] : across[1][j + 1]]
        for i in range(rows)
        for j in range(columns)
    ]


def _see_faint(
    rapid: np.ndarray,
    pattern: Pattern,
    lines: LineMotion,
    lattice: Lattice,
    noise: float,
    limit: float,
) -> Pattern:
    """The pattern with all spots up to a frequency, those too that do not stand out of the noise.

    Its warp has the lines' displacements. Of a ring of faint spots those that stand out are the
    ones that noise has raised.
    """
    places = series_of(lattice, limit)
    warp = pattern.warp.copy()
    warp[0] += lines.displacements[:, None].astype(np.float32)
    amplitudes, error = fit_amplitudes(rapid, places, warp, pattern.usual, noise)
    return Pattern(places, amplitudes, error, warp, pattern.usual)


def _slow_part(image: np.ndarray, period: float) -> np.ndarray:
    from scipy.ndimage import gaussian_filter

    return gaussian_filter(image, SLOW * period, mode="mirror")


def _shape(image: np.ndarray) -> tuple[int, int]:
    return int(image.shape[0]), int(image.shape[1])


def _triple(values: np.ndarray) -> Triple:
    first, second, third = (float(value) for value in values)
    return first, second, third
