"""Multislice in float64 with direct sums over atoms: no spreading, no kernels, no shared code.

Slow and plain on purpose. Only the scattering factors come from the package; they have tests of
their own.
"""

from __future__ import annotations

import numpy as np
from scipy.constants import c, e, h, m_e

from hpctem.optics.scattering_factors import potential_below, scattering_factor

BAND = 0.45  # of the sampling frequency, along each axis: the potential's own band


def wavelength(energy: float) -> float:
    return h / np.sqrt(2 * m_e * e * energy * (1 + e * energy / (2 * m_e * c**2))) * 1e10


def interaction_constant(energy: float) -> float:
    gamma = 1 + e * energy / (m_e * c**2)
    return 2 * np.pi * gamma * m_e * e * wavelength(energy) * 1e-10 / h**2 * 1e-10


def frequencies(shape, extent):
    ky = np.fft.fftfreq(shape[0], extent[0] / shape[0])[:, None]
    kx = np.fft.fftfreq(shape[1], extent[1] / shape[1])[None, :]
    return ky, kx


def aperture(shape, extent, taper=0.01):
    ky, kx = frequencies(shape, extent)
    k = np.sqrt(ky**2 + kx**2)
    coarse = max(extent[0] / shape[0], extent[1] / shape[1])
    radius, width = 1 / (3 * coarse), taper / coarse
    edge = 0.5 * (1 + np.cos(np.pi * (k - radius + width) / width))
    return np.where(k <= radius - width, 1.0, np.where(k <= radius, edge, 0.0))


def structure_factors(positions, shape, extent):
    ky, kx = frequencies(shape, extent)
    along_y = np.exp(-2j * np.pi * ky * positions[:, 1])
    return along_y @ np.exp(-2j * np.pi * kx.T * positions[:, 0]).T


def potential(positions, numbers, shape, extent, parametrization="lobato", slab=None, rms=None):
    """Projected potential in V A; of the slab (lower, upper) alone if one is given."""
    ky, kx = frequencies(shape, extent)
    k = np.sqrt(ky**2 + kx**2)
    transform = np.zeros(shape, complex)
    for number in np.unique(numbers):
        chosen = positions[numbers == number]
        smear = np.exp(-2 * np.pi**2 * (rms or {}).get(int(number), 0.0) ** 2 * k**2)
        if slab is None:
            f = scattering_factor(int(number), k, parametrization)
            transform += f * smear * structure_factors(chosen, shape, extent)
            continue
        for atom in chosen:
            edges = np.array(slab) - atom[2]
            below = potential_below(int(number), k.ravel(), edges, parametrization)
            part = (below[:, 1] - below[:, 0]).reshape(shape)
            transform += part * smear * structure_factors(atom[None], shape, extent)
    band = (np.abs(ky) <= BAND * shape[0] / extent[0]) & (np.abs(kx) <= BAND * shape[1] / extent[1])
    volts = h**2 / (2 * np.pi * m_e * e) * 1e20 / (extent[0] * extent[1])
    return np.fft.ifft2(transform * band).real * transform.size * volts


def exit_wave(positions, numbers, shape, extent, energy, edges, planes, tilt=(0, 0), finite=False,
              parametrization="lobato"):  # fmt: skip
    """Exit wave at edges[-1]; slices between `edges` act at `planes`."""
    ky, kx = frequencies(shape, extent)
    lam, sigma = wavelength(energy), interaction_constant(energy)
    limit = aperture(shape, extent)

    def carry(wave, distance):
        phase = lam * (ky**2 + kx**2) + 2 * (kx * np.tan(tilt[0]) + ky * np.tan(tilt[1]))
        return np.fft.ifft2(np.fft.fft2(wave) * np.exp(-1j * np.pi * distance * phase) * limit)

    wave, here = np.ones(shape, complex), None
    for lower, upper, plane in zip(edges[:-1], edges[1:], planes, strict=True):
        if finite:
            slab = [-1e3 if lower == edges[0] else lower, 1e3 if upper == edges[-1] else upper]
            v = potential(positions, numbers, shape, extent, parametrization, slab)
        else:
            inside = (positions[:, 2] >= lower) & (positions[:, 2] < upper)
            if not inside.any():
                continue
            v = potential(positions[inside], numbers[inside], shape, extent, parametrization)
        if here is not None:
            wave = carry(wave, plane - here)
        t = np.fft.ifft2(np.fft.fft2(np.exp(1j * sigma * v)) * limit)
        wave, here = wave * t, plane
    return carry(wave, edges[-1] - here)


def deviation(found, expected) -> float:
    """Norm of the difference over the norm of what scattering changed (for waves)."""
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected - 1))


def image_error(found, expected) -> float:
    """Norm of the difference over that of the contrast (for images and potentials)."""
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected - expected.mean()))
