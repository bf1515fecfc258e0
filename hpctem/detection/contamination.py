"""Amorphous carbon on the specimen: a smooth random thickness with a given spectrum.

The film is a cubic B-spline on a coarse periodic grid, six nodes to its shortest wavelength, which
can be evaluated anywhere: at the positions of a scan, where it is distorted as the atoms are, or on
a grid. It lives on the host; the maps are small and are moved to a GPU once.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hpctem.detection.film_images import spline_of_image
from hpctem.detection.film_spline import NODES, ROLL_OFF, evaluate_spline, fit_spline
from hpctem.detection.scan import ScanPath
from hpctem.errors import SampleError
from hpctem.optics.grid import fast_size

CARBON_DENSITY = 0.11
"""Atoms per A^3 of amorphous carbon, 2.2 g/cm^3."""

MOST_NODES = 4096
"""Along a side of the film's grid; more would take longer than the picture itself."""


@dataclass(frozen=True)
class FilmSettings:
    """What the film is like, as plain numbers.

    thickness: its mean, A. variation: standard deviation over mean, before it is cut at zero. The
    power spectrum (per area of frequencies) is flat for wavelengths above `longest` A, falls as
    frequency^-exponent down to `shortest` A and ends there, smoothly between 0.8 and 1.2 times that
    frequency.
    """

    thickness: float
    variation: float = 0.5
    exponent: float = 3.0
    shortest: float = 8.0
    longest: float = 100.0


@dataclass(frozen=True)
class Film:
    """A film over the specimen frame: thickness = max(0, mean (1 + variation s)) at each point.

    s is the periodic cubic B-spline of `coefficients` (my, mx) float32, at the grid coordinates
    (column, row) = origin + transform @ (x, y), with x and y in A; its standard deviation is 1.
    transform: (2, 2) float64, 1/A. mean: A.
    """

    coefficients: np.ndarray
    origin: tuple[float, float]
    transform: np.ndarray
    mean: float
    variation: float


def draw_film(
    extent: tuple[float, float],
    settings: FilmSettings,
    generator: np.random.Generator,
    images: Sequence[str] = (),
) -> Film:
    """Draw a film: normal noise of the asked spectrum, or the low frequencies of an image.

    extent: (ly, lx) A of the specimen frame. Without images, s is a stationary normal field. Mean,
    deviation and spectrum are those of the ensemble: what varies on a scale beyond the frame makes
    whole frames thicker or thinner. It does not repeat within the frame.

    images: texts of `film_images.extract_contamination`. One of them is chosen, turned by a
    multiple of 90 degrees, mirrored or not, and laid with a random offset; beyond its edges it
    goes on as in a mirror. Wavelengths below `shortest` are taken away; exponent and longest are
    not used.

    Raises SampleError where the frame holds so many of the shortest wavelengths that its grid would
    exceed 4096 nodes a side.
    """
    if images:
        coefficients, origin, transform = _place_image(extent, settings.shortest, generator, images)
    else:
        coefficients, origin, transform = _synthesise(extent, settings, generator)
    return Film(coefficients, origin, transform, settings.thickness, settings.variation)


def scan_film(film: Film, path: ScanPath) -> np.ndarray:
    """Thickness in A at each pixel of a scan, (ny, nx) float32, the mean over its frames.

    Where the frames lie closer together than a twelfth of the shortest wavelength (rms, x and y
    together), which is what jitter and alignment leave, the film is taken at the mean position.
    Waves of that length would at most be (2 pi / 12)^2 / 4 = 7 % weaker in the mean over frames
    that scatter along x and y alike, waves of twice that length 2 %. Else every frame is looked up.
    """
    lines = film.origin + path.lines @ film.transform.T
    columns = path.columns @ film.transform.T
    spread = math.sqrt(float(lines.var(axis=0).sum(axis=-1).mean()))
    if spread < NODES / 12:
        lines = lines.mean(axis=0, keepdims=True)
    seen = [
        evaluate_spline(film.coefficients, frame, columns, film.mean, film.variation)
        for frame in lines
    ]
    return seen[0] if len(seen) == 1 else np.mean(seen, axis=0)


def map_film(film: Film, shape: tuple[int, int], sampling: tuple[float, float]) -> np.ndarray:
    """Thickness in A on a grid from (0, 0) on: (ny, nx) float32; sampling: (dy, dx) A."""
    along_y = np.arange(shape[0])[:, None] * np.array([0.0, sampling[0]])
    along_x = np.arange(shape[1])[:, None] * np.array([sampling[1], 0.0])
    lines = film.origin + along_y @ film.transform.T
    return evaluate_spline(
        film.coefficients, lines, along_x @ film.transform.T, film.mean, film.variation
    )


def contamination_map(
    extent: tuple[float, float],
    shape: tuple[int, int],
    settings: FilmSettings,
    generator: np.random.Generator,
    images: Sequence[str] = (),
) -> np.ndarray:
    """Thickness in A of a film drawn by `draw_film` on `shape` (ny, nx) points over its extent.

    Returns (ny, nx) float32 at x = column lx / nx, y = row ly / ny.
    """
    film = draw_film(extent, settings, generator, images)
    return map_film(film, shape, (extent[0] / shape[0], extent[1] / shape[1]))


def power_density(frequency: np.ndarray, settings: FilmSettings) -> np.ndarray:
    """The film's power spectrum at |f| in 1/A, any shape, float64, 1 on its flat part.

    min(1, (f longest)^-exponent), times a half cosine from 1 at 0.8 / shortest to 0 at
    1.2 / shortest.
    """
    falling = np.maximum(frequency * settings.longest, 1.0) ** -settings.exponent
    beyond = np.clip((frequency * settings.shortest - 1) / ROLL_OFF, -1, 1)
    return falling * 0.5 * (1 - np.sin(0.5 * np.pi * beyond))


def _synthesise(
    extent: tuple[float, float], settings: FilmSettings, generator: np.random.Generator
) -> tuple[np.ndarray, tuple[float, float], np.ndarray]:
    """Fourier synthesis on a period longer than the frame, so that its two edges are strangers."""
    correlated = max(settings.longest, settings.shortest)
    period = [side + min(correlated, max(side, 4 * settings.shortest)) for side in extent]
    nodes = [fast_size(NODES * side / settings.shortest) for side in period]
    if max(nodes) > MOST_NODES:
        raise SampleError(
            f"contamination down to {settings.shortest:g} A over {max(extent):g} A takes "
            f"{max(nodes)} nodes a side, at most {MOST_NODES} can be: raise "
            "imaging.contamination.shortest"
        )
    # White noise on the fewest points that hold the band; the transform is that of real numbers.
    few = [fast_size(2 * (1 + ROLL_OFF) * side / settings.shortest + 1) for side in period]
    spectrum = np.fft.rfft2(generator.standard_normal(few)) / np.sqrt(few[0] * few[1])
    power = _mode_powers(few, period, settings)
    # Modes of column 0 stand for themselves, all others also for their complex conjugates.
    total = 2 * power.sum() - power[:, 0].sum()
    coefficients = fit_spline(spectrum * np.sqrt(power / total), few, nodes)
    transform = np.diag([nodes[1] / period[1], nodes[0] / period[0]])
    return coefficients, (0.0, 0.0), transform


def _mode_powers(
    shape: Sequence[int], period: Sequence[float], settings: FilmSettings
) -> np.ndarray:
    """Power of each mode of the real transform, float64 (ny, nx // 2 + 1).

    Each stands for the rectangle of frequencies about it. Near zero, where the spectrum bends
    within one rectangle, it is averaged over it; about zero itself on points that crowd there,
    because the spectrum may rise far below the lowest frequency of the period.
    """
    steps = [1 / side for side in period]
    ky = np.fft.fftfreq(shape[0], 1 / shape[0])
    kx = np.arange(shape[1] // 2 + 1)
    power = power_density(np.hypot(ky[:, None] * steps[0], kx * steps[1]), settings)
    even = (np.arange(8) + 0.5) / 8 - 0.5, np.full(8, 1 / 8)
    edges = np.concatenate([[0.0], np.geomspace(0.5**20, 0.5, 96)])
    crowded = (edges[1:] + edges[:-1]) / 2, 2 * np.diff(edges)
    for i in range(-2, 3):
        for j in range(3):
            within, weights = crowded if i == j == 0 else even
            fy, fx = (i + within[:, None]) * steps[0], (j + within) * steps[1]
            density = power_density(np.hypot(fy, fx), settings)
            power[i, j] = (density * weights[:, None] * weights).sum()
    return power


def _place_image(
    extent: tuple[float, float],
    shortest: float,
    generator: np.random.Generator,
    images: Sequence[str],
) -> tuple[np.ndarray, tuple[float, float], np.ndarray]:
    """Choose an image, its orientation and where the frame begins in it, in grid coordinates."""
    coefficients, spacing, first = spline_of_image(
        images[int(generator.integers(len(images)))], shortest
    )
    my, mx = coefficients.shape
    swapped = bool(generator.integers(2))
    origin, rows = [], []
    # Column and row of the image's grid; an image fills one half of its period, from `first` on.
    for axis, (period, node, start) in enumerate(
        ((mx, spacing[1], first[1]), (my, spacing[0], first[0]))
    ):
        along = axis if not swapped else 1 - axis
        side = extent[1 - along] / node
        room = period / 2 - side
        # Either within the image, or, where the frame is larger, anywhere in its mirrored period.
        offset = generator.random() * (room if room > 0 else period)
        mirrored = bool(generator.integers(2))
        origin.append(start + offset + (side if mirrored else 0.0))
        row = np.zeros(2)
        row[along] = (-1 if mirrored else 1) / node
        rows.append(row)
    return coefficients, (origin[0], origin[1]), np.array(rows)
