"""The image of one atom beyond its cross section: it is wider than a point.

A probe with the aperture A has at the detector's k the amplitude sum_q A(q) F(k - q) of one atom
that scatters by F, so its image has at the spatial frequency K, with q - q' = K,

    sum_q A(q) A*(q - K) G(q, K),    G = integral over the detector of F(k - q) F*(k - q + K) d^2k.

With G constant that is the probe's transfer times the cross section: an image of a point. G falls
with K: what is scattered by the edges of the aperture is not the same, and less the nearer to the
probe the detector begins (see Jesson & Pennycook 1993, Proc. R. Soc. Lond. A 441, 261, for the
picture in real space). The mean of G over the overlap of both apertures, over that at K = 0, is
the object function's transform; for a probe without aberrations it is exact for an atom in one
slice.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import numpy as np

from hpctem.backend import Backend
from hpctem.optics.cross_sections import legendre_nodes, tabulate_amplitude
from hpctem.optics.electron import wavelength
from hpctem.optics.gathering import gathering_for
from hpctem.optics.point_spread import Transfer

FREQUENCIES = 10
"""Intervals between the frequencies, from 0 to the band, at which a transform is computed."""

STEPS = 512
"""Steps of its table."""

NODE_ANGLE = 0.0025
"""Convergence semiangles are multiples of this, in rad, where something is computed once for many
of them: a campaign may draw them."""


def object_transfer(
    number: int,
    energy: float,
    semiangle_cutoff: float,
    inner: float,
    outer: float,
    parametrization: str = "lobato",
) -> Transfer:
    """Transform of an atom's object function, 1 at frequency 0, to be multiplied by the probe's.

    It ends at the probe's band. Arguments, scale and errors as for
    `cross_sections.annular_cross_section`; `semiangle_cutoff` > 0.
    """
    band = 2 * semiangle_cutoff / wavelength(energy)
    table = sum(
        share * tabulate_object(number, energy, angle, inner, outer, parametrization)
        for angle, share in neighbouring_angles(semiangle_cutoff)
    )
    radial = np.append(table, 0).astype(np.float32)

    def fill(ky: np.ndarray, kx: np.ndarray, backend: Backend) -> Any:
        values = backend.xp.empty((ky.size, kx.size), dtype=np.float32)
        legs = (backend.asarray(ky), backend.asarray(kx))
        gathering_for(backend).fill_round(values, *legs, backend.asarray(radial), band)
        return values

    return Transfer(band, fill)


def neighbouring_angles(semiangle_cutoff: float) -> list[tuple[float, float]]:
    """The multiples of `NODE_ANGLE` about an angle in rad, and their shares in it.

    One alone where the angle is one, or is less than the first.
    """
    place = max(semiangle_cutoff / NODE_ANGLE, 1.0)
    low = math.floor(place + 1e-6)
    above = place - low
    if above < 1e-6:
        return [(low * NODE_ANGLE, 1.0)]
    return [(low * NODE_ANGLE, 1 - above), ((low + 1) * NODE_ANGLE, above)]


@lru_cache(maxsize=512)
def tabulate_object(
    number: int,
    energy: float,
    semiangle_cutoff: float,
    inner: float,
    outer: float,
    parametrization: str = "lobato",
) -> np.ndarray:
    """The transform at `STEPS` + 1 frequencies from 0 to the probe's band: float64.

    Arguments as for `object_transfer`.
    """
    lam = wavelength(energy)
    pieces = [inner, *sorted(outer / 2**n for n in range(8) if outer / 2**n > 1.2 * inner)]
    k, weight = legendre_nodes(np.array(pieces) / lam, 8)
    azimuth = np.pi * (np.arange(24) + 0.5) / 24  # the other half is its mirror image
    ky, kx = (np.multiply.outer(k, leg(azimuth)).ravel() for leg in (np.sin, np.cos))
    weight = np.repeat(weight * k, azimuth.size)
    amplitude = tabulate_amplitude(
        number, energy, parametrization, (outer + semiangle_cutoff) / lam
    )
    places = (1 - np.cos(np.pi * np.arange(FREQUENCIES + 1) / FREQUENCIES)) / 2
    values = []
    for shift in np.minimum(places, 1 - 1e-6) * 2 * semiangle_cutoff / lam:
        qy, qx, share = _overlap_nodes(semiangle_cutoff / lam, shift, 8)
        y, x = ky[:, None] - qy, kx[:, None] - qx
        one, other = (amplitude(np.hypot(y, x + side * shift / 2)) for side in (-1, 1))
        values.append(weight @ (one * other.conj()).real @ share)
    fit = np.polynomial.chebyshev.chebfit(2 * places - 1, values, FREQUENCIES)
    return np.polynomial.chebyshev.chebval(np.linspace(-1, 1, STEPS + 1), fit) / values[0]


def _overlap_nodes(
    radius: float, shift: float, count: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Points (y, x) in the overlap of two disks about (0, +-`shift` / 2), and shares of its area.

    `count` Gauss-Legendre nodes along each axis.
    """
    nodes, weights = np.polynomial.legendre.leggauss(count)
    tallest = math.sqrt(radius**2 - shift**2 / 4)
    y = tallest * nodes
    widest = np.sqrt(radius**2 - y**2) - shift / 2
    area = np.multiply.outer(weights * widest, weights).ravel()
    x = np.multiply.outer(widest, nodes).ravel()
    return np.repeat(y, count), x, area / area.sum()
