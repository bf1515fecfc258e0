"""How sharp the columns are, against an ideal probe: the heights of the spots of a known crystal.

An incoherent image of a thin crystal has the Fourier coefficients

    A_g = u F_g H(|g|) exp(-2 pi^2 s^2 g^2)
    F_g = sum_j sigma_j O_j(|g|) exp(-2 pi i g . r_j) / area of the cell

with the cross sections sigma of the atoms and the transforms O of their object functions, the
transfer H of a probe in focus without aberrations, and a Gaussian of standard deviation s for all
else: source, thermal motion, residual aberrations.
log |A_g / F_g H| is a straight line in g^2 whose slope is s^2. The image's units for the whole
beam, u, are those that give the spots together the power that they have.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from hpctem.backend import select_backend
from hpctem.micrographs.geometry import Distortion
from hpctem.micrographs.pattern import Pattern
from hpctem.optics.cross_sections import annular_cross_section
from hpctem.optics.object_functions import object_transfer
from hpctem.optics.probe import FWHM, Probe, probe_transfer
from hpctem.structures.unit_cells import Material

# What the model of independent atoms is good for, of each amplitude.
MODEL_ERROR = 0.05
FAINTEST = 0.03  # of F_0: weaker coefficients are differences of large numbers


@dataclass(frozen=True)
class Blur:
    """Sharpness and scale of an image of a known crystal.

    source_size: full width at half maximum in A of the Gaussian beside the ideal probe's, with its
    error; 0 where the columns are not wider than ideal. along_x, along_y: the same, of the blur
    along each axis of the image alone, A. scale: the image's units for the whole beam, with its
    error. share: part of the beam that the perfect crystal scatters into the detector.
    frequencies (n,) 1/A, ratios (n,) of measured over ideal amplitudes times the scale. spots: how
    many were used.
    """

    source_size: float
    source_error: float
    along_x: float
    along_y: float
    scale: float
    scale_error: float
    share: float
    frequencies: np.ndarray
    ratios: np.ndarray
    spots: int


def measure_blur(
    pattern: Pattern,
    distortion: Distortion,
    material: Material,
    probe: Probe,
    collection: tuple[float, float],
    generator: np.random.Generator,
) -> Blur | None:
    """Compare the amplitudes of a pattern with those of one cell of a material under a probe.

    collection: inner and outer angle of the detector, rad. generator: for the bootstrap over
    spots. Returns None where fewer than three spots at two distances can be compared.
    """
    indices = np.rint(pattern.places @ distortion.cell.T).astype(np.int64)
    places = pattern.places @ np.linalg.inv(distortion.step)
    lengths = np.linalg.norm(places, axis=1)
    model, share = structure_amplitudes(material, indices, lengths, probe, collection)
    band = 2 * probe.cutoff
    # The probe is round, so that its transfer along one axis is that at any azimuth.
    transfer = probe_transfer(probe).fill(np.zeros(1), lengths, select_backend("cpu"))[0]
    ideal = model * transfer.real
    power = np.abs(pattern.amplitudes) ** 2 - pattern.noise
    use = (model > FAINTEST * share) & (lengths < 0.9 * band) & (power > 0) & (ideal > 0)
    if use.sum() < 3 or np.ptp(lengths[use]) < 0.2 * lengths[use].min():
        return None
    ratio = np.sqrt(power[use]) / ideal[use]
    places, lengths = places[use], lengths[use]
    relative = np.sqrt(pattern.noise / power[use] / 2 + MODEL_ERROR**2)
    spots = np.stack([lengths, ratio, relative, ideal[use]])
    slope, scale = _fit_decay(*spots)
    draws = []
    for _ in range(200):
        chosen = generator.integers(len(ratio), size=len(ratio))
        if np.ptp(lengths[chosen]) > 0.1 * lengths.min():
            draws.append(_fit_decay(*spots[:, chosen]))
    spread = np.array(draws).std(axis=0) if draws else np.array([slope, scale])
    width = FWHM * math.sqrt(max(slope, 0.0))
    # Of a width near zero the square is what is measured.
    error = FWHM * (math.sqrt(max(slope, 0.0) + float(spread[0])) - math.sqrt(max(slope, 0.0)))
    along = _fit_axes(places, ratio, relative) if len(ratio) >= 6 else (slope, slope)
    along_x, along_y = (FWHM * math.sqrt(max(part, 0.0)) for part in along)
    return Blur(
        width,
        error,
        along_x,
        along_y,
        scale,
        float(spread[1]),
        share,
        lengths,
        ratio / scale,
        int(use.sum()),
    )


def structure_amplitudes(
    material: Material,
    indices: np.ndarray,
    lengths: np.ndarray,
    probe: Probe,
    collection: tuple[float, float],
) -> tuple[np.ndarray, float]:
    """|F_g| of a cell projected along its normal, for whole h, k (n, 2), and F_0: shares of a beam.

    lengths: |g| (n,) in 1/A, at which the transform of each element's object function is taken.

    collection: inner and outer angle, rad. A bulk crystal counts as one cell thick.
    """
    cell = material.cell[:2, :2]
    area = abs(float(np.linalg.det(cell)))
    sigma = np.array(
        [
            annular_cross_section(
                int(z), probe.energy, *collection, semiangle_cutoff=probe.semiangle_cutoff
            )
            for z in material.numbers
        ]
    )
    fractions = material.positions[:, :2] @ np.linalg.inv(cell)
    waves = np.exp(-2j * np.pi * indices @ fractions.T)
    shapes = {
        z: object_transfer(int(z), probe.energy, probe.semiangle_cutoff, *collection)
        .fill(np.zeros(1), lengths, select_backend("cpu"))[0]
        .real
        for z in set(material.numbers.tolist())
    }
    shape = np.stack([shapes[z] for z in material.numbers.tolist()], axis=1)
    return np.abs((waves * shape) @ sigma) / area, float(sigma.sum()) / area


def _fit_decay(
    lengths: np.ndarray, ratio: np.ndarray, relative: np.ndarray, ideal: np.ndarray
) -> tuple[float, float]:
    """s^2 of ratio = u exp(-2 pi^2 s^2 g^2), and the u of the amplitudes' whole power."""
    slope, _ = np.polyfit(-2 * math.pi**2 * lengths**2, np.log(ratio), 1, w=1 / relative)
    blurred = ideal * np.exp(-2 * math.pi**2 * max(float(slope), 0.0) * lengths**2)
    return float(slope), math.sqrt(float(((ratio * ideal) ** 2).sum() / (blurred**2).sum()))


def _fit_axes(places: np.ndarray, ratio: np.ndarray, relative: np.ndarray) -> tuple[float, float]:
    """Variances along x and y of a Gaussian that may be longer in one direction."""
    x, y = places.T
    columns = np.stack([np.ones_like(x), *(-2 * math.pi**2 * np.stack([x * x, y * y, 2 * x * y]))])
    found = np.linalg.lstsq((columns / relative).T, np.log(ratio) / relative, rcond=None)[0]
    return float(found[1]), float(found[2])
