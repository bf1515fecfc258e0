"""Micrographs of a known truth: a crystal seen by a distorted, jittering, counting scan.

The image is a direct Fourier sum over the crystal's reciprocal lattice at the position of every
pixel: it knows nothing of how pictures are simulated, nor of how micrographs are measured. Only
what an atom or a pair scatters, the path of the scan and the film of contamination are hpctem's
own, so that signs and amplitudes are those that a campaign's keys have.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from hpctem.backend import select_backend
from hpctem.detection.contamination import CARBON_DENSITY, FilmSettings, draw_film, scan_film
from hpctem.detection.scan import ScanPath, ScanSettings, draw_path, scan_positions
from hpctem.micrographs.read import Micrograph
from hpctem.optics.columns import correct_pairs
from hpctem.optics.cross_sections import annular_cross_section
from hpctem.optics.electron import wavelength
from hpctem.optics.object_functions import object_transfer
from hpctem.optics.probe import Probe

ENERGY, SEMIANGLE, COLLECTION = 6e4, 0.030, (0.080, 0.200)
A = 3.16  # A, of MoS2


@dataclass(frozen=True)
class Truth:
    """What a phantom is made of; lengths in A, electrons a pixel."""

    shape: tuple[int, int] = (480, 480)
    pixel: float = 0.134
    shear: float = -0.03
    contraction: float = 0.02
    jitter: float = 0.05
    flagging: float = 0.0
    flagging_lines: float = 20.0
    turn: float = 0.4
    source_size: float = 0.8
    defocus: float = 0.0
    electrons: float = 3000.0
    film: FilmSettings | None = None
    vacancies: float = 0.0
    gain: float = 37.0
    offset: float = 1000.0
    readout: float = 0.0


def make_phantom(truth: Truth, seed: int) -> tuple[Micrograph, ScanPath, np.ndarray]:
    """The micrograph, the path of its scan, and the share of the beam at each pixel, (ny, nx)."""
    generators = [np.random.default_rng([seed, k]) for k in range(6)]
    settings = ScanSettings(
        jitter=truth.jitter,
        flagging=truth.flagging,
        flagging_lines=truth.flagging_lines,
        shear=truth.shear,
        contraction=truth.contraction,
    )
    middle = tuple(truth.pixel * (n / 2 + 60) for n in truth.shape[::-1])
    path = draw_path(truth.shape, truth.pixel, middle, settings, *generators[:3])
    share = see_crystal(path.lines[0], path.columns, truth)
    if truth.vacancies > 0:
        share += remove_columns(scan_positions(path, 0), truth, generators[3])
    if truth.film is not None:
        extent = tuple(truth.pixel * (n + 240) for n in truth.shape)
        thickness = scan_film(draw_film(extent, truth.film, generators[4]), path)
        share = share + CARBON_DENSITY * scatter(6) * thickness
    counts = generators[5].poisson(np.maximum(share, 0) * truth.electrons).astype(float)
    counts += truth.readout * generators[5].standard_normal(truth.shape)
    image = (truth.offset + truth.gain * counts).astype(np.float32)
    return Micrograph(image, (0.127, 0.127), ENERGY, "phantom", {"dwell time": 20.0}), path, share


def see_crystal(lines: np.ndarray, columns: np.ndarray, truth: Truth) -> np.ndarray:
    """Share of the beam that a sheet of MoS2 scatters at lines (ny, 2) + columns (nx, 2), A."""
    cell, sites = crystal(truth)
    area = abs(float(np.linalg.det(cell)))
    reciprocal = np.linalg.inv(cell).T
    share = np.full((len(lines), len(columns)), sum(weight for _, weight, _ in sites) / area)
    for h in range(-6, 7):
        for k in range(-6, 7):
            g = h * reciprocal[0] + k * reciprocal[1]
            size = float(np.hypot(*g))
            transfer = see_frequency(size, truth.source_size, truth.defocus)
            if (h, k) <= (0, 0) or abs(transfer) < 1e-5:
                continue
            atoms = sum(w * widen(z, size) * np.exp(-2j * np.pi * (g @ r)) for r, w, z in sites)
            factor = atoms * transfer / area
            along_y = 2 * factor * np.exp(2j * np.pi * (lines @ g))
            along_x = np.exp(2j * np.pi * (columns @ g))
            share += np.outer(along_y.real, along_x.real) - np.outer(along_y.imag, along_x.imag)
    return share


Column = tuple[np.ndarray, float, int]


def crystal(truth: Truth) -> tuple[np.ndarray, tuple[Column, Column]]:
    """Cell of MoS2 (rows, A), turned, and its columns: place, cross section in A^2, element."""
    cos, sin = math.cos(truth.turn), math.sin(truth.turn)
    turn = np.array([[cos, sin], [-sin, cos]])
    cell = A * np.array([[1.0, 0.0], [-0.5, math.sqrt(0.75)]]) @ turn
    return cell, (
        (np.array([1, 2]) / 3 @ cell, scatter(42), 42),
        (np.array([2, 1]) / 3 @ cell, scatter_pair(16), 16),
    )


def scatter(number: int) -> float:
    """Cross section of an atom in A^2, under the phantoms' probe and detector."""
    return annular_cross_section(number, ENERGY, *COLLECTION, semiangle_cutoff=SEMIANGLE)


def scatter_pair(number: int) -> float:
    """Cross section in A^2 of the two atoms of a chalcogen column of MoS2, 3.17 A apart."""
    places = np.array([[0.0, 0.0, 2.0], [0.0, 0.0, 5.172]])
    alone = np.full(2, scatter(number))
    probe, cpu = Probe(ENERGY, SEMIANGLE), select_backend("cpu")
    return float(correct_pairs(places, np.full(2, number), alone, probe, *COLLECTION, cpu).sum())


def widen(number: int, g: float) -> float:
    """Transform of an atom's object function."""
    shape = object_transfer(number, ENERGY, SEMIANGLE, *COLLECTION)
    return float(shape.fill(np.zeros(1), np.array([g]), select_backend("cpu"))[0, 0].real)


def see_frequency(g: float, source_size: float, defocus: float) -> float:
    """Transfer of a probe, by a sum over the overlap of two apertures, and of the source.

    In the overlap the two waves differ by the phase 2 pi lambda defocus g x.
    """
    radius = SEMIANGLE / wavelength(ENERGY)
    if g >= 2 * radius:
        return 0.0
    half = (np.arange(4000) + 0.5) / 4000 * (radius - g / 2)
    height = np.sqrt(radius**2 - (half + g / 2) ** 2)
    phase = 2 * math.pi * wavelength(ENERGY) * defocus * g * half
    probe = 4 * float((height * np.cos(phase)).sum()) * half[0] * 2 / (math.pi * radius**2)
    return probe * math.exp(-((math.pi * source_size * g) ** 2) / (4 * math.log(2)))


def remove_columns(
    positions: np.ndarray, truth: Truth, generator: np.random.Generator
) -> np.ndarray:
    """What vacancies of sulphur columns take away: a Gaussian of the probe's width each."""
    cell, (_, (place, weight, _)) = crystal(truth)
    width = math.sqrt(0.45**2 + (truth.source_size / 2.3548) ** 2)
    taken = np.zeros(positions.shape[:2])
    corners = positions.reshape(-1, 2)
    low, high = corners.min(axis=0), corners.max(axis=0)
    reach = int(np.abs(np.linalg.inv(cell)).sum() * max(np.abs(low).max(), np.abs(high).max())) + 2
    h, k = np.meshgrid(*2 * [np.arange(-reach, reach + 1)])
    columns = place + h.reshape(-1, 1) * cell[0] + k.reshape(-1, 1) * cell[1]
    inside = ((columns > low) & (columns < high)).all(axis=1)
    gone = columns[inside & (generator.random(len(columns)) < truth.vacancies)]
    step = truth.pixel
    for x, y in gone:
        row = round(float((y - positions[0, 0, 1]) / (step * (1 + truth.contraction))))
        rows = slice(max(0, row - 15), max(0, row + 16))
        near = positions[rows]
        distance = (near[..., 0] - x) ** 2 + (near[..., 1] - y) ** 2
        taken[rows] -= weight * np.exp(-distance / (2 * width**2)) / (2 * math.pi * width**2)
    return taken
