"""How sharp the columns are, against an ideal probe: the heights of the spots of a known crystal.

An incoherent image of a thin crystal has the Fourier coefficients

    A_g = u F_g H(|g|, d) exp(-2 pi^2 s^2 g^2)
    F_g = sum_j sigma_j O_j(|g|) exp(-2 pi i g . r_j) / area of the cell

as a campaign's pictures have them: with the cross sections sigma of the atoms, what atoms behind
each other gain included, the transforms O of their object functions, the transfer H of a probe of
defocus d without other aberrations, and a Gaussian of standard deviation s for all else: source,
thermal motion. H does not depend on the sign of d. It bends the fall of log |A_g / F_g| with g^2,
which a Gaussian leaves straight, so that spots at four distances tell the two apart.
The image's units for the whole beam, u, are those that give the spots together the power that
they have.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from hpctem.backend import select_backend
from hpctem.micrographs.geometry import Distortion
from hpctem.micrographs.pattern import Pattern
from hpctem.optics.columns import correct_pairs
from hpctem.optics.cross_sections import annular_cross_section
from hpctem.optics.electron import wavelength
from hpctem.optics.object_functions import object_transfer
from hpctem.optics.probe import FWHM, Probe, probe_transfer
from hpctem.structures.unit_cells import Material

# What the model of independent atoms is good for, of each amplitude.
MODEL_ERROR = 0.05
FAINTEST = 0.03  # of F_0: weaker coefficients are differences of large numbers
STANDS_OUT = 4.0  # standard deviations of a ring's power by noise alone
DEPTHS = np.arange(0, 6, 0.02)  # defocus over lambda / alpha^2
# Defocus is followed until a spot is left with so much of its height in focus: beyond, the contrast
# turns and one height fits several defoci.
LEAST_TRANSFER = 0.02
TOLD = 6.0  # chi^2 by which a defocus has to be better than none
DRAWS = 200


@dataclass(frozen=True)
class Blur:
    """Sharpness and scale of an image of a known crystal.

    source_size: full width at half maximum in A of the Gaussian beside the probe's, with its error;
    0 where the columns are not wider. defocus: its magnitude in A, of either sign, with its error;
    0 where the rings do not tell it from the source, which then holds what there is of it.
    unseen: the defocus in A that would not be told. along_x, along_y: the Gaussian along each axis
    of the image alone, A. scale: the image's units for the whole beam, with its error. share: part
    of the beam that the perfect crystal scatters into the detector. frequencies (n,) 1/A, heights
    and fitted (n,): root mean square amplitudes of the rings of spots and those of the model, over
    those of the first. spots: how many were used.
    """

    source_size: float
    source_error: float
    defocus: float
    defocus_error: float
    unseen: float
    along_x: float
    along_y: float
    scale: float
    scale_error: float
    share: float
    frequencies: np.ndarray
    heights: np.ndarray
    fitted: np.ndarray
    spots: int


class Decay(NamedTuple):
    """Fits to m sets of rings: defocus (A), variance (A^2, >= 0) and scale, (m,) each; curve (m,
    n) transfer of the probe at each ring; chi (m, defoci)."""

    defocus: np.ndarray
    variance: np.ndarray
    scale: np.ndarray
    curve: np.ndarray
    chi: np.ndarray


def measure_blur(
    pattern: Pattern,
    distortion: Distortion,
    material: Material,
    probe: Probe,
    collection: tuple[float, float],
    generator: np.random.Generator,
) -> Blur | None:
    """Compare the amplitudes of a pattern with those of one cell of a material under a probe.

    pattern: with all spots that the probe transfers, the faint ones too: rings of equal spots are
    averaged. probe: of which energy and convergence semiangle count. collection: inner and outer
    angle of the detector, rad. generator: for the bootstrap over the spots of each ring. Returns
    None where fewer than three spots at two distances can be compared.
    """
    indices = np.rint(pattern.places @ distortion.cell.T).astype(np.int64)
    lengths = np.linalg.norm(indices @ np.linalg.inv(material.cell[:2, :2]).T, axis=1)
    model, share = structure_amplitudes(material, indices, lengths, probe, collection)
    power = np.abs(pattern.amplitudes) ** 2 - pattern.noise
    use = (model > FAINTEST * share) & (lengths < 0.9 * 2 * probe.cutoff)
    g, ring = np.unique(np.round(lengths, 4), return_inverse=True)
    rings = np.arange(len(g))[:, None]
    member = ((ring == rings) & use).astype(float)
    stands = member @ power > STANDS_OUT * pattern.noise * np.sqrt(member.sum(axis=1))
    g, member = g[stands], member[stands]
    used = member.sum(axis=0) > 0
    if used.sum() < 3 or len(g) < 2:
        return None
    defoci, curves = tabulate_defoci(probe, g)
    sums, ideal = member @ power, member @ model**2
    relative = np.sqrt(pattern.noise / sums / 2 + MODEL_ERROR**2)
    whole = _fit_decay(g, sums[None], ideal[None], relative, defoci, curves)
    in_focus = _fit_decay(g, sums[None], ideal[None], relative, defoci[:1], curves[:1])
    best = float(whole.chi.min())
    needed = TOLD * max(1.0, best / max(len(g) - 3, 1))
    told = len(g) >= 4 and float(in_focus.chi.min()) - best > needed
    if not told:
        whole = in_focus
    found = slice(None) if told else slice(1)
    drawn, models = _resample(member, power, model**2, generator)
    drawn = np.maximum(drawn * np.exp(2 * MODEL_ERROR * generator.standard_normal(drawn.shape)),
        0.1 * sums)  # fmt: skip
    draws = _fit_decay(g, drawn, models, relative, defoci[found], curves[found])
    variance, curve = float(whole.variance[0]), whole.curve[0]
    width = FWHM * math.sqrt(variance)
    # Of a width near zero the square is what is measured.
    error = FWHM * math.sqrt(variance + float(draws.variance.std())) - width
    strong = used & (power > 9 * pattern.noise)
    along = variance, variance
    if strong.sum() >= 6:
        ratio = np.sqrt(power[strong]) / (model * (curve @ member))[strong]
        spread = np.sqrt(pattern.noise / power[strong] / 2 + MODEL_ERROR**2)
        places = pattern.places[strong] @ np.linalg.inv(distortion.step)
        along = _fit_axes(places, ratio, spread)
    along_x, along_y = (FWHM * math.sqrt(max(part, 0.0)) for part in along)
    heights = np.sqrt(sums / member.sum(axis=1))
    fitted = np.sqrt(ideal / member.sum(axis=1)) * curve * np.exp(_slope_of(g) * variance)
    return Blur(
        width,
        error,
        float(whole.defocus[0]),
        float(draws.defocus.std()) if told else 0.0,
        _find_unseen(g, ideal, relative, variance, defoci, curves),
        along_x,
        along_y,
        float(whole.scale[0]),
        float(draws.scale.std()),
        share,
        g,
        heights / heights[0],
        fitted / fitted[0],
        int(used.sum()),
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

    collection: inner and outer angle, rad. A bulk crystal counts as one cell thick, its atoms as
    alone; those of a layer are corrected for pairs, as a campaign's are.
    """
    cell = material.cell[:2, :2]
    area = abs(float(np.linalg.det(cell)))
    cpu = select_backend("cpu")
    angles = probe.energy, *collection
    sigma = np.array(
        [
            annular_cross_section(int(z), *angles, semiangle_cutoff=probe.semiangle_cutoff)
            for z in material.numbers
        ]
    )
    if material.periodic == 2:
        # Atoms of a pair may lie on either side of the cell's border.
        moves = [h * material.cell[0] + k * material.cell[1] for h in _NEAR for k in _NEAR]
        block = np.concatenate([material.positions + move for move in moves])
        weights, numbers = (np.tile(a, len(moves)) for a in (sigma, material.numbers))
        paired = correct_pairs(block, numbers, weights, probe, *collection, cpu)
        middle = len(moves) // 2 * len(sigma)
        sigma = paired[middle : middle + len(sigma)]
    fractions = material.positions[:, :2] @ np.linalg.inv(cell)
    waves = np.exp(-2j * np.pi * indices @ fractions.T)
    shapes = {
        z: object_transfer(int(z), probe.energy, probe.semiangle_cutoff, *collection)
        .fill(np.zeros(1), lengths, cpu)[0]
        .real
        for z in set(material.numbers.tolist())
    }
    shape = np.stack([shapes[z] for z in material.numbers.tolist()], axis=1)
    return np.abs((waves * shape) @ sigma) / area, float(sigma.sum()) / area


_NEAR = (-1, 0, 1)


def tabulate_defoci(probe: Probe, lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Defoci (d,) in A from 0 on, and the transfer of the probe at each, (d, n), at |g| (n,).

    They end where the contrast of a ring is about to turn.
    """
    depth = wavelength(probe.energy) / probe.semiangle_cutoff**2
    curves: list[np.ndarray] = []
    cpu = select_backend("cpu")
    for place in DEPTHS:
        transfer = probe_transfer(replace(probe, defocus=float(place * depth)))
        # The probe is round, so that its transfer along one axis is that at any azimuth.
        curve = transfer.fill(np.zeros(1), lengths, cpu)[0].real.astype(np.float64)
        if curves and (curve < LEAST_TRANSFER * curves[0]).any():
            break
        curves.append(curve)
    return DEPTHS[: len(curves)] * depth, np.array(curves)


def _slope_of(lengths: np.ndarray) -> np.ndarray:
    """What the variance of a Gaussian takes from the logarithm at |g|, over that variance."""
    return -2 * math.pi**2 * lengths**2


def _fit_decay(
    lengths: np.ndarray,
    sums: np.ndarray,
    ideal: np.ndarray,
    relative: np.ndarray,
    defoci: np.ndarray,
    curves: np.ndarray,
) -> Decay:
    """Fit sums |A|^2 of rings, (m, n), by u^2 ideal curve^2 exp(-4 pi^2 s^2 g^2), s^2 >= 0.

    ideal: sums of |F|^2, (m, n). relative: error of each ring's amplitude, (n,). curves: (d, n) of
    the defoci (d,), of which the best is taken. u: of the rings' whole power.
    """
    slope, weights = _slope_of(lengths), relative**-2.0
    logs = np.log(sums / ideal)[:, None] / 2 - np.log(curves)
    middle = float(weights @ slope / weights.sum())
    away = weights * (slope - middle)
    variance = np.maximum(logs @ away / (away @ slope), 0.0)
    level = logs @ weights / weights.sum() - variance * middle
    rest = logs - level[..., None] - variance[..., None] * slope
    chi = (weights * rest**2).sum(axis=-1)
    best = chi.argmin(axis=1)
    variance = np.take_along_axis(variance, best[:, None], axis=1)[:, 0]
    seen = ideal * (curves[best] * np.exp(variance[:, None] * slope)) ** 2
    scale = np.sqrt(sums.sum(axis=1) / seen.sum(axis=1))
    return Decay(defoci[best], variance, scale, curves[best], chi)


def _find_unseen(
    lengths: np.ndarray,
    ideal: np.ndarray,
    relative: np.ndarray,
    variance: float,
    defoci: np.ndarray,
    curves: np.ndarray,
) -> float:
    """The largest defocus that a Gaussian alone would pass for; infinite if all would."""
    if len(lengths) < 4:
        return math.inf
    sums = ideal * (curves * np.exp(_slope_of(lengths) * variance)) ** 2
    alone = _fit_decay(
        lengths, sums, np.broadcast_to(ideal, sums.shape), relative, defoci[:1], curves[:1]
    )
    seen = np.flatnonzero(alone.chi[:, 0] > TOLD)
    return float(defoci[seen[0]]) if len(seen) else math.inf


def _resample(
    member: np.ndarray, power: np.ndarray, squares: np.ndarray, generator: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Sums of power and squares over spots drawn anew from each ring: (draws, rings) each."""
    parts = []
    for row in member:
        own = np.flatnonzero(row)
        counts = generator.multinomial(len(own), np.full(len(own), 1 / len(own)), size=DRAWS)
        parts.append((counts @ power[own], counts @ squares[own]))
    sums, ideal = np.array(parts).transpose(1, 2, 0)
    return sums, ideal


def _fit_axes(places: np.ndarray, ratio: np.ndarray, relative: np.ndarray) -> tuple[float, float]:
    """Variances along x and y of a Gaussian that may be longer in one direction."""
    x, y = places.T
    columns = np.stack([np.ones_like(x), *(-2 * math.pi**2 * np.stack([x * x, y * y, 2 * x * y]))])
    found = np.linalg.lstsq((columns / relative).T, np.log(ratio) / relative, rcond=None)[0]
    return float(found[1]), float(found[2])
