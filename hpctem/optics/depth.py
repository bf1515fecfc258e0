"""Finite projection: how each atom's potential divides over the slices it reaches into.

The part of an atom's transform that lies in a slice of thickness d, for an atom at height z above
the slice's lower edge, is known exactly: P(k, z) = B(k, d - z) - B(k, -z) with B =
`potential_below`. A slice's potential is then a sum over atoms of P(k, z_a) exp(-2 pi i k r_a).
P is a smooth function of two variables, so a short sum P(k, z) = sum_n U_n(k) W_n(z) has any
wanted accuracy (about eight terms for 1e-4); each term is one spreading with the weights W_n(z_a)
and one transform times U_n(k). The terms are found by Gram-Schmidt with pivoting: each U_n is the
profile that the terms before it describe worst. (Plain sums, no BLAS, whose bytes would depend on
its threads.)
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from hpctem.optics.scattering_factors import potential_below, scattering_factor

TOLERANCE = 1e-4
"""Error of a slice's potential over the norm of an atom's whole projected potential."""

DEPTH_STEP = 0.0025
"""Spacing in A of the tables W_n(z); the narrowest profile at 0.05 A sampling is 0.024 A wide."""

FREQUENCIES = 256
LONGEST_REACH = 12.0


@dataclass(frozen=True, eq=False)
class DepthExpansion:
    """P(k, z) = sum_n factors[n](k) weights[n](z) for one element and slice thickness.

    `k` (K,) in 1/A and `factors` (n, K) in A; `z` (M,) in A above the slice's lower edge and
    `weights` (n, M); `thickness` and `reach` in A: an atom is felt to `reach` beyond a slice.
    """

    k: np.ndarray
    factors: np.ndarray
    z: np.ndarray
    weights: np.ndarray
    thickness: float
    reach: float

    def evaluate_factors(self, k: np.ndarray) -> Iterator[np.ndarray]:
        """One factor after the other at frequencies `k` in 1/A (any shape), in A: cubic splines."""
        from scipy.interpolate import CubicSpline

        for factor in self.factors:
            yield CubicSpline(self.k, factor)(k)

    def evaluate_weights(self, z: np.ndarray) -> np.ndarray:
        """The weights (n, A) of atoms at height z (A,) above a slice's lower edge; 0 far away."""
        return np.stack([np.interp(z, self.z, w, left=0.0, right=0.0) for w in self.weights])


@lru_cache(maxsize=16)
def expand_depth(
    number: int, parametrization: str, thickness: float, largest_k: float
) -> DepthExpansion:
    """Expand an element's depth profile for slices of `thickness` A and k to `largest_k` in 1/A.

    The error of every P(., z), in the norm of the plane of frequencies, is below `TOLERANCE` of
    the norm of f.
    """
    k = np.linspace(0, largest_k, FREQUENCIES)
    measure = np.sqrt(k + 0.25 * k[1])  # area of rings in the plane of frequencies, and its centre
    norm = np.linalg.norm(measure * scattering_factor(number, k, parametrization))
    distances = np.arange(0.25, LONGEST_REACH, 0.25)
    tails = np.linalg.norm(
        measure[:, None] * potential_below(number, k, -distances, parametrization), axis=0
    )
    reach = float(distances[min(np.searchsorted(-tails, -0.3 * TOLERANCE * norm), tails.size - 1)])
    count = int(np.ceil((thickness + 2 * reach) / DEPTH_STEP)) + 1
    z = np.linspace(-reach, thickness + reach, count)
    inside = potential_below(number, k, thickness - z, parametrization)
    inside -= potential_below(number, k, -z, parametrization)
    residual = (measure[:, None] * inside).T.copy()  # one profile per row
    shapes: list[np.ndarray] = []
    weights: list[np.ndarray] = []
    while len(shapes) < FREQUENCIES:
        size = np.sqrt((residual**2).sum(axis=1))
        worst = int(np.argmax(size))
        if size[worst] < 0.5 * TOLERANCE * norm:
            break
        shape = residual[worst] / size[worst]
        weight = (residual * shape).sum(axis=1)
        residual -= weight[:, None] * shape
        shapes.append(shape / measure)
        weights.append(weight)
    return DepthExpansion(k, np.array(shapes), z, np.array(weights), thickness, reach)


def divide_over_slices(
    expansion: DepthExpansion, z: np.ndarray, slices: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """List every slice that an atom reaches, with the atom's weights there.

    `z`: float64 (A,) in A, slice s spans [s, s + 1) times the thickness. What reaches beyond the
    first or last slice is added to it, so that the sum over slices is the whole atom. Returns
    the atom's index (M,), the slice (M,) and the weights (n, M).
    """
    d = expansion.thickness
    lowest = np.floor((z - expansion.reach) / d).astype(np.int64)
    highest = np.floor((z + expansion.reach) / d).astype(np.int64)
    count = highest - lowest + 1
    atom = np.repeat(np.arange(z.size), count)
    step = np.arange(atom.size) - np.repeat(np.cumsum(count) - count, count)
    virtual = lowest[atom] + step
    weights = expansion.evaluate_weights(z[atom] - virtual * d)
    real = np.clip(virtual, 0, slices - 1)
    key = atom * slices + real  # sorted: an atom's slices follow one another
    begin = np.flatnonzero(np.diff(key, prepend=-1))
    return atom[begin], real[begin], np.add.reduceat(weights, begin, axis=1)
