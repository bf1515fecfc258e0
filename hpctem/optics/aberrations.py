"""Geometrical aberrations to fifth order, in the notation of Krivanek, and two others' names.

    chi(alpha, phi) = 2 pi / lambda sum_nm C_nm alpha^(n+1) / (n+1) cos(m (phi - phi_nm))

(Krivanek, Dellby & Lupini 1999, Ultramicroscopy 78, 1, doi:10.1016/S0304-3991(99)00013-3);
a wave in the back focal plane is multiplied by exp(-i chi). Coefficients in A, angles in rad,
azimuths from +x to +y. C10 = -defocus, C30 is the spherical aberration.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from hpctem.errors import ConfigError


@dataclass(frozen=True)
class Aberrations:
    """Every aberration to fifth order: `Cnm` in A and, for m > 0, the azimuth `phinm` in rad."""

    C10: float = 0.0
    C12: float = 0.0
    phi12: float = 0.0
    C21: float = 0.0
    phi21: float = 0.0
    C23: float = 0.0
    phi23: float = 0.0
    C30: float = 0.0
    C32: float = 0.0
    phi32: float = 0.0
    C34: float = 0.0
    phi34: float = 0.0
    C41: float = 0.0
    phi41: float = 0.0
    C43: float = 0.0
    phi43: float = 0.0
    C45: float = 0.0
    phi45: float = 0.0
    C50: float = 0.0
    C52: float = 0.0
    phi52: float = 0.0
    C54: float = 0.0
    phi54: float = 0.0
    C56: float = 0.0
    phi56: float = 0.0

    def terms(self) -> Iterator[tuple[int, int, float, float]]:
        """Yield (n, m, C_nm in A, phi_nm in rad) of the coefficients that are not zero."""
        for name in NAMES:
            coefficient = getattr(self, name)
            if coefficient:
                n, m = int(name[1]), int(name[2])
                yield n, m, coefficient, getattr(self, f"phi{n}{m}") if m else 0.0


NAMES = tuple(field.name for field in fields(Aberrations) if field.name.startswith("C"))
"""C10, C12, C21, ..., C56."""


def chi(alpha: Any, phi: Any, wavelength: float, aberrations: Aberrations, xp: Any = np) -> Any:
    """Aberration phase in rad, float64.

    `alpha`: scattering angles in rad, `phi`: azimuths in rad from +x to +y, of shapes that
    broadcast, arrays of `xp` as what is returned; `wavelength` in A. The wave is multiplied by
    exp(-i chi).
    """
    alpha = xp.asarray(alpha, dtype=np.float64)
    phase = xp.zeros(np.broadcast_shapes(alpha.shape, np.shape(phi)))
    for n, m, coefficient, azimuth in aberrations.terms():
        radial = coefficient * alpha ** (n + 1) / (n + 1)
        phase += radial * xp.cos(m * (phi - azimuth)) if m else radial
    return 2 * np.pi / wavelength * phase


def chi_gradient(
    alpha: Any, phi: Any, wavelength: float, aberrations: Aberrations, xp: Any = np
) -> tuple[Any, Any]:
    """Gradient of chi over the angle: d chi / d alpha and (1 / alpha) d chi / d phi, in rad / rad.

    Arguments as for `chi`; float64. lambda / (2 pi) times it is the ray's shift in the image.
    """
    alpha = xp.asarray(alpha, dtype=np.float64)
    shape = np.broadcast_shapes(alpha.shape, np.shape(phi))
    radial, azimuthal = xp.zeros(shape), xp.zeros(shape)
    for n, m, coefficient, azimuth in aberrations.terms():
        power = coefficient * alpha**n
        radial += power * xp.cos(m * (phi - azimuth))
        azimuthal -= power * m / (n + 1) * xp.sin(m * (phi - azimuth))
    scale = 2 * np.pi / wavelength
    return scale * radial, scale * azimuthal


def scherzer_defocus(c30: float, wavelength: float) -> float:
    """Underfocus sqrt(1.5 Cs lambda) in A that widens the band of even phase contrast.

    `c30` and `wavelength` in A; the sign is that of Cs. See Kirkland (2010), after
    Scherzer 1949, J. Appl. Phys. 20, 20.
    """
    return float(np.sign(c30) * np.sqrt(1.5 * abs(c30) * wavelength))


HAIDER = {
    "C1": ("C10", 1), "A1": ("C12", 1),
    "B2": ("C21", 3), "A2": ("C23", 1),
    "C3": ("C30", 1), "S3": ("C32", 4), "A3": ("C34", 1),
    "B4": ("C41", 5), "D4": ("C43", 5), "A4": ("C45", 1),
    "C5": ("C50", 1), "S5": ("C52", 6), "D5": ("C54", 6), "A5": ("C56", 1),
}  # fmt: skip
"""Haider's name: Krivanek's, and its value over Haider's (Uhlemann & Haider 1998, Ultramicroscopy
72, 109: no prefactor 1/(n+1) before B2, S3, B4, D4, S5 and D5)."""


def from_haider(coefficients: Mapping[str, tuple[float, float]]) -> Aberrations:
    """Translate Haider's coefficients {name: (magnitude in A, azimuth in rad)}, e.g. C21 = 3 B2.

    The azimuth is that of the largest phase, as Krivanek's phi_nm (not the argument of the
    complex coefficient, which is m times as large). Raises ConfigError for an unknown name.
    """
    values = {}
    for name, (magnitude, azimuth) in coefficients.items():
        if name not in HAIDER:
            raise ConfigError(f"aberration '{name}' is unknown; Haider's are {', '.join(HAIDER)}.")
        krivanek, factor = HAIDER[name]
        values[krivanek] = factor * magnitude
        if krivanek[2] != "0":
            values[f"phi{krivanek[1:]}"] = azimuth
    return Aberrations(**values)


def from_power_notation(coefficients: Mapping[str, tuple[float, float]]) -> Aberrations:
    """Translate {name: (value in A, azimuth in rad)} whose first index is the power of the angle.

    There chi = 2 pi / lambda sum C_mn alpha^m cos(n (phi - phi_mn)), so Krivanek's C_(m-1)n is m
    times as large: C22 there is C12 / 2, C40 is C30 / 4, C55 is C45 / 5. It is table S1 of Rangel
    DaCosta et al. (2024, npj Comput. Mater.) as printed; that the prefactor 1/m is absent there is
    our reading. Raises ConfigError for a name that has no counterpart.
    """
    values = {}
    for name, (value, azimuth) in coefficients.items():
        digits = name.removeprefix("C").replace(",", "")
        two_digits = len(digits) == 2 and digits.isdecimal() and name.startswith("C")
        krivanek = f"C{int(digits[0]) - 1}{digits[1]}" if two_digits else ""
        if krivanek not in NAMES:
            known = ", ".join(f"C{int(n[1]) + 1}{n[2]}" for n in NAMES)
            raise ConfigError(f"aberration '{name}' is unknown; in power notation: {known}.")
        values[krivanek] = int(digits[0]) * value
        if krivanek[2] != "0":
            values[f"phi{krivanek[1:]}"] = azimuth
    return Aberrations(**values)
