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
from hpctem.optics.cross_sections import tabulate_amplitude
from hpctem.optics.electron import wavelength
from hpctem.optics.gathering import gathering_for
from hpctem.optics.point_spread import Transfer
from hpctem.optics.quadrature import legendre_nodes

FREQUENCIES = 12
"""Frequencies between 0 and the band at which a transform is computed, Chebyshev's."""

STEPS = 512
"""Steps of its table."""

ANGLES = 0.0025
"""Convergence semiangles in rad at which transforms are computed; between them they are
interpolated, so that a campaign that draws the semiangle needs few."""
