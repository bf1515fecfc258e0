"""The focused probe of a STEM: its wave on a grid, the transfer of its intensity, its reach.

The lens fills a disk of the back focal plane with exp(-i chi); the probe is its transform (see
Kirkland 2010, Advanced Computing in Electron Microscopy, ch. 5). Focal spread and source size add
intensities, not waves: `probe_transfer` holds them, a wave is that of one defocus. The transfer is
the autocorrelation of the lens (see `lens_means`), tabulated over the length and the azimuth of
the frequency, so that it is the same whatever the grid.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

import numpy as np

from hpctem.backend import Backend
from hpctem.errors import ConfigError, SampleError
from hpctem.optics.aberrations import Aberrations, chi, chi_gradient
from hpctem.optics.electron import REST_ENERGY, relativistic_mass, wavelength
from hpctem.optics.gathering import gathering_for
from hpctem.optics.grid import Grid
from hpctem.optics.lens_means import lens_means, scale_terms
from hpctem.optics.point_spread import Transfer

FWHM = 2 * math.sqrt(2 * math.log(2))
"""Full width at half maximum of a Gaussian over its standard deviation."""

CLOSE = 3e-6
"""Up to which the table of a transfer is refined."""

RADII = 4096
"""Steps of the table over the length of the frequency alone."""

COSTLIEST = 4e8
"""Points of the lens that may be evaluated for one probe: some ten seconds."""


@dataclass(frozen=True)
class Probe:
    """The conditions of one probe.

    `energy` in eV; `semiangle_cutoff`: convergence semiangle in rad; `defocus` in A, > 0 is
    underfocus; `aberrations`: their C10 must be 0, since `defocus` is -C10; `focal_spread`:
    standard deviation of the defocus in A, that of the chromatic aberration included;
    `source_size`: full width at half maximum of the source's Gaussian image in A.
    Raises ConfigError for a value out of range.
    """

    energy: float
    semiangle_cutoff: float
    defocus: float = 0.0
    aberrations: Aberrations = field(default_factory=Aberrations)
    focal_spread: float = 0.0
    source_size: float = 0.0

    def __post_init__(self) -> None:
        wavelength(self.energy)
        if not 0 < self.semiangle_cutoff < 0.5:
            raise ConfigError(
                f"the convergence semiangle {1e3 * self.semiangle_cutoff:g} mrad must lie above 0 "
                f"and below 500 mrad."
            )
        if self.aberrations.C10:
            raise ConfigError("give the defocus (-C10) as defocus, not as aberration C10.")
        if not math.isfinite(self.defocus):
            raise ConfigError(f"the defocus {self.defocus} A must be finite.")
        for name, value in (("focal spread", self.focal_spread), ("source size", self.source_size)):
            if not 0 <= value < math.inf:
                raise ConfigError(f"the {name} {value} A must be finite and not negative.")

    @property
    def cutoff(self) -> float:
        """Radius of the aperture in 1/A: the largest frequency of the wave."""
        return self.semiangle_cutoff / wavelength(self.energy)

    @property
    def lens(self) -> Aberrations:
        """All aberrations, C10 among them."""
        return replace(self.aberrations, C10=-self.defocus)


def defocus_of_chromatic(chromatic: float, energy_spread: float, energy: float) -> float:
    """Standard deviation of the defocus in A that chromatic aberration makes of an energy spread.

    Cc dE / E (1 + E / E0) / (1 + E / 2 E0) with the rest energy E0 (see Reimer & Kohl 2008,
    Transmission Electron Microscopy, section 2.3): `chromatic` Cc in A, `energy_spread`
    standard deviation dE and `energy` E in eV.
    """
    relativistic = relativistic_mass(energy) / (1 + energy / (2 * REST_ENERGY))
    return chromatic * energy_spread / energy * relativistic


def probe_wave(probe: Probe, grid: Grid, defocus_offset: float = 0.0) -> np.ndarray:
    """Wave of the probe at the origin (pixel (0, 0)), complex128 (ny, nx).

    `defocus_offset` in A is added to the defocus. Normalised so that the sum of the intensity
    times the pixel's area is 1. The aperture's edge is a ramp one pixel of the reciprocal grid
    wide: more than that a periodic cell does not resolve. Raises ConfigError where the aperture
    reaches beyond the grid's Nyquist frequency.
    """
    spectrum = probe_spectrum(probe, grid, defocus_offset)
    return np.fft.ifft2(spectrum) * grid.pixels


def probe_spectrum(probe: Probe, grid: Grid, defocus_offset: float = 0.0) -> np.ndarray:
    """Transform of `probe_wave`, times 1 / (ny nx), complex128 (ny, nx) in the FFT's order.

    exp(-i chi) in the aperture; see `probe_wave` for arguments, scale and errors. A probe at
    (x, y) is this times exp(-2 pi i (kx x + ky y)).
    """
    if probe.cutoff > grid.nyquist:
        raise ConfigError(
            f"the probe's aperture of {1e3 * probe.semiangle_cutoff:.3g} mrad needs a sampling of "
            f"at most {0.5 / probe.cutoff:.3g} A; the grid has {max(grid.sampling):.3g} A."
        )
    ky, kx = (k[:, None] if axis == 0 else k[None, :] for axis, k in enumerate(grid.frequencies()))
    lam, k = wavelength(probe.energy), np.hypot(ky, kx)
    with np.errstate(invalid="ignore"):
        # width of a reciprocal pixel across the edge, by the direction in which it is met
        step = np.where(k > 0, np.hypot(kx / grid.extent[1], ky / grid.extent[0]) / k, 0.0)
    ramp = (probe.cutoff - k) / np.where(k > 0, step, 1.0) + 0.5
    lens = replace(probe.lens, C10=-(probe.defocus + defocus_offset))
    lit = ramp > 0
    spectrum = np.zeros(grid.shape, dtype=np.complex128)
    azimuth = np.arctan2(*(np.broadcast_to(a, grid.shape)[lit] for a in (ky, kx)))
    phase = chi(lam * k[lit], azimuth, lam, lens)
    spectrum[lit] = np.minimum(ramp[lit], 1.0) * np.exp(-1j * phase)
    area = grid.extent[0] * grid.extent[1]
    spectrum /= math.sqrt(np.sum(np.abs(spectrum) ** 2) * area)
    return spectrum


def probe_transfer(probe: Probe) -> Transfer:
    """Transfer of the image that a probe forms of a point, to 1e-5; its band is 2 alpha / lambda.

    With the probe at r an atom at 0 sees |psi(-r)|^2, so the point spread function is the probe's
    intensity turned by 180 degrees, which matters for coma and three-fold astigmatism: the complex
    conjugate of the autocorrelation of exp(-i chi) in the aperture. Averaged over a Gaussian of
    defoci and multiplied by the transform of a Gaussian source. Raises SampleError for a probe that
    is spread so far that its table would not end.
    """
    table = tabulate_probe(probe)
    band = 2 * probe.cutoff

    def fill(ky: np.ndarray, kx: np.ndarray, backend: Backend) -> Any:
        kernels = gathering_for(backend)
        shape = (ky.size, kx.size)
        legs = (backend.asarray(ky), backend.asarray(kx))
        radial = backend.asarray(table.radial)
        if table.means is None:
            values = backend.xp.empty(shape, dtype=np.float32)
            kernels.fill_round(values, *legs, radial, band)
        else:
            values = backend.xp.empty(shape, dtype=np.complex64)
            kernels.fill_polar(values, *legs, radial, backend.asarray(table.means), band)
        return values

    return Transfer(band, fill)


@dataclass(frozen=True)
class ProbeTable:
    """A probe's transfer as the product of two tables.

    `radial`: float32 (RADII + 2,), over 0 to the band: all that depends on the length alone, then
    a zero; `means`: complex64 (S + 3, A + 3) or None, the rest, over the length from one step
    below 0 to one above the band and the azimuth from one step below -pi/2 to one above pi/2;
    `round`: float64 (RADII + 1,), the mean of the transfer over the azimuth.
    """

    radial: np.ndarray
    means: np.ndarray | None
    round: np.ndarray


@lru_cache(maxsize=8)
def tabulate_probe(probe: Probe) -> ProbeTable:
    """Tabulate the transfer of a probe; see `ProbeTable`.

    Raises SampleError as `probe_transfer` does.
    """
    harmonics = _expand_means(probe)
    s = np.linspace(0, 2, RADII + 1)
    half = s / 2
    hat = 2 / np.pi * (np.arccos(half) - half * np.sqrt(1 - half**2))
    source = probe.source_size / FWHM
    hat *= np.exp(-2 * (np.pi * source * probe.cutoff * s) ** 2)
    orders, lengths = harmonics.shape
    level = hat * (_chebyshev(s, lengths) @ harmonics[0].real)
    if orders == 1:
        return ProbeTable(np.append(level, 0).astype(np.float32), None, level)
    steps, turns = 8 * lengths, 6 * orders
    # the polynomials go on smoothly for the one step that interpolation reaches beyond both ends
    along = _chebyshev(np.arange(-1, steps + 2) * 2 / steps, lengths) @ harmonics.T
    azimuths = -np.pi / 2 + np.arange(-1, turns + 2) * np.pi / turns
    means = along @ np.exp(1j * np.outer(np.fft.fftfreq(orders, 1 / orders), azimuths))
    return ProbeTable(np.append(hat, 0).astype(np.float32), means.astype(np.complex64), level)


def _expand_means(probe: Probe) -> np.ndarray:
    """Coefficients of the means over the lens: harmonics of the azimuth (in the order of the FFT)
    and Chebyshev polynomials of the shift less 1, complex128 (A, S), refined to `CLOSE`.
    """
    lam, angle = wavelength(probe.energy), probe.semiangle_cutoff
    terms = scale_terms(probe.lens, angle, lam)
    damping = math.pi / lam * probe.focal_spread * angle**2
    steepest = ray_reach(probe, 0.0) * 2 * math.pi * probe.cutoff
    nodes = 12 + math.ceil(0.6 * steepest + 0.5 * damping)
    lengths = 16 + math.ceil(steepest)
    azimuths = 24 if any(m for _, m, _, _ in terms) else 1
    while True:
        if lengths * azimuths * nodes**2 > COSTLIEST:
            raise SampleError(
                f"the probe is spread over {ray_reach(probe):.0f} A by its aberrations and "
                f"defocus, which is too far to be tabulated: keep it below some tens of A."
            )
        shifts = 1 + np.cos(np.pi * (np.arange(lengths) + 0.5) / lengths)
        around = np.pi * np.arange(max(azimuths // 2, 1)) / max(azimuths // 2, 1)
        means = lens_means(shifts, around, terms, damping, nodes).conj()  # seen from an atom
        if azimuths > 1:
            means = np.concatenate([means, means.conj()])  # a real intensity's transform
        weights = _chebyshev(shifts, lengths) * (2 / lengths)
        weights[:, 0] /= 2
        harmonics = np.fft.fft(means @ weights, axis=0) / azimuths
        power = np.abs(harmonics)
        middle = azimuths // 2
        if power[:, -2:].max() > CLOSE:
            lengths = math.ceil(1.3 * lengths)
        elif azimuths > 1 and power[middle - 1 : middle + 2].max() > CLOSE:
            azimuths = 2 * math.ceil(0.7 * azimuths)
        else:
            return harmonics


def _chebyshev(shifts: np.ndarray, count: int) -> np.ndarray:
    """The first `count` Chebyshev polynomials of `shifts` less 1: float64 (len(shifts), count)."""
    return np.polynomial.chebyshev.chebvander(shifts - 1, count - 1)


def ray_reach(probe: Probe, spreads: float = 3.0) -> float:
    """Largest distance in A of a ray from the axis, at `spreads` standard deviations of defocus."""
    lam = wavelength(probe.energy)
    alpha = np.linspace(0, probe.semiangle_cutoff, 65)[1:, None]
    phi = np.linspace(0, 2 * np.pi, 72, endpoint=False)[None, :]
    radial, azimuthal = chi_gradient(alpha, phi, lam, probe.lens)
    rays = lam / (2 * np.pi) * np.hypot(radial, azimuthal)
    return float(np.max(rays + spreads * probe.focal_spread * alpha))


def probe_reach(probe: Probe, share: float = 0.99) -> float:
    """Radius in A of a circle that holds at least `share` of the probe's intensity.

    The circle that holds it of the probe without aberrations, widened by the farthest ray (three
    standard deviations of the defocus included). Without aberrations a share e lies outside about
    1 / (pi^2 cutoff e) (see Born & Wolf, Principles of Optics, section 8.5.2). Raises
    ConfigError unless share lies between 0 and 0.999.
    """
    if not 0 < share <= 0.999:
        raise ConfigError(f"the share {share} of the intensity must lie between 0 and 0.999.")
    sharp = Probe(probe.energy, probe.semiangle_cutoff, source_size=probe.source_size)
    low, high = 0.0, 1 / probe.cutoff
    while enclosed_share(sharp, high) < share:
        low, high = high, 1.5 * high
    for _ in range(20):
        middle = (low + high) / 2
        low, high = (low, middle) if enclosed_share(sharp, middle) >= share else (middle, high)
    return high + ray_reach(probe)


def enclosed_share(probe: Probe, radius: float) -> float:
    """Share of the probe's intensity within `radius` (A) of its axis.

    2 pi R int T(k) J1(2 pi k R) dk over the transfer's mean over the azimuth, T.
    """
    from scipy.special import j1

    k, level = _mean_transfer(probe)
    return float(np.sum(level * j1(2 * np.pi * k * radius)) * k[1] * 2 * np.pi * radius)


def probe_profile(probe: Probe, radii: np.ndarray) -> np.ndarray:
    """The probe's intensity per area, mean over the azimuth, at `radii` in A: float64, 1/A^2.

    The Hankel transform of the transfer, 2 pi int T(k) J0(2 pi k r) k dk.
    """
    from scipy.special import j0

    k, level = _mean_transfer(probe)
    waves = j0(2 * np.pi * np.multiply.outer(np.asarray(radii, dtype=np.float64), k))
    return waves @ (level * k) * (2 * np.pi * k[1])


def _mean_transfer(probe: Probe) -> tuple[np.ndarray, np.ndarray]:
    """Frequencies in 1/A from 0 to the band and the mean of the transfer over the azimuth there."""
    level = tabulate_probe(probe).round
    return np.linspace(0, 2 * probe.cutoff, level.size), level


def probe_width(probe: Probe) -> float:
    """Full width at half maximum in A of `probe_profile`, where it first falls to the half."""
    farthest = max(2 * ray_reach(probe), 2 / probe.cutoff, 2 * probe.source_size)
    radii = np.linspace(0, farthest, 1001)
    profile = probe_profile(probe, radii)
    n = int(np.argmax(profile < profile[0] / 2))
    fall = (profile[n - 1] - profile[0] / 2) / (profile[n - 1] - profile[n])
    return 2 * float(radii[n - 1] + fall * (radii[n] - radii[n - 1]))
