"""Whether a translated patch still shows what its input shows: same places, same defects.

Neither the discriminators of images nor those of power spectra see a translation, so a generator
may learn to shift the lattice, and one that has seen few defects may learn to heal them. Both are
measured here against the input, whose labels the translated patch inherits.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np

from hpctem.micrographs.lattice import find_lattice

MOST_OFFSET = 0.5
"""Pixels that a patch may be displaced."""
LEAST_LIKENESS = 0.3
"""Correlation with the input below which a patch shows something else."""
KEPT = 0.3
"""Share of the contrast that a defect would have if it were translated as the lattice is: with
less, or with the other sign, it is lost."""
MEASURABLE = 3.0
"""Standard deviations of undamaged sites by which a defect must stand out of them, in the input and
by expectation also in the output; a fainter one is not judged."""

# What is compared are columns: Gaussians of these standard deviations, in A, cut off the noise of
# pixels and the contamination.
COLUMN, SURROUNDINGS = 0.4, 1.5
# Of several peaks of the correlation nearly as high as the highest, which the lattice makes, the
# nearest counts: a patch moved by a lattice vector shows the same lattice.
NEARLY = 0.9
REACH = 2  # lattice vectors along which undamaged sites are looked for
FEWEST_SITES = 4
FATES = ("not judged", "kept", "lost")
NOT_JUDGED, IS_KEPT, IS_LOST = range(3)


@dataclass(frozen=True)
class Fidelity:
    """What has become of a patch.

    offset     (x, y) in pixels by which it lies off its input; NaN where it is unlike it
    likeness   correlation with the input at that offset, of what has the size of columns
    contrasts  float64 (n,): of each defect, over that expected of it; NaN where not judged
    fates      uint8 (n,): place in FATES
    together   contrast of all defects, over that expected of them; NaN where even that cannot be
               told from the scatter of undamaged sites
    """

    offset: tuple[float, float]
    likeness: float
    contrasts: np.ndarray
    fates: np.ndarray
    together: float

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why the patch is rejected: 'unlike', 'offset', 'defects'; () where it is accepted."""
        found = []
        if not self.likeness >= LEAST_LIKENESS:
            found.append("unlike")
        elif not math.hypot(*self.offset) < MOST_OFFSET:
            found.append("offset")
        if (self.fates == IS_LOST).any() or self.together <= KEPT:
            found.append("defects")
        return tuple(found)


def check_patch(
    before: np.ndarray,
    after: np.ndarray,
    pixel_size: float,
    defects: np.ndarray,
    vectors: np.ndarray | None,
) -> Fidelity:
    """Compare a translated patch with its input.

    before, after: (ny, nx), finite, in any units of their own. pixel_size: A. defects: (n, 2) their
    (x, y) in pixels, 0 is a pixel's centre. vectors: (2, 2) of `find_vectors`, or None where there
    is no lattice: then no defect is judged.
    """
    one, two = (select_columns(image, pixel_size) for image in (before, after))
    offset, likeness = measure_offset(one, two)
    return Fidelity(offset, likeness, *judge_defects(one, two, pixel_size, defects, vectors))


def find_vectors(image: np.ndarray) -> np.ndarray | None:
    """Two lattice vectors of an image (ny, nx) in pixels, rows (x, y); None where none are found.

    Sites that lie whole vectors apart are of the same class.
    """
    if not np.ptp(image) > 0:
        return None
    lattice = find_lattice(image)
    if lattice is None or np.linalg.norm(lattice.vectors, axis=1).min() < 2.0:
        return None
    return lattice.vectors


def select_columns(image: np.ndarray, pixel_size: float) -> np.ndarray:
    """What of an image (ny, nx) has the size of atom columns: float64, mean about 0."""
    from scipy.ndimage import gaussian_filter

    values = np.asarray(image, np.float64)
    narrow = max(0.7, COLUMN / pixel_size)
    wide = max(3 * narrow, SURROUNDINGS / pixel_size)
    return gaussian_filter(values, narrow) - gaussian_filter(values, wide)


def measure_offset(before: np.ndarray, after: np.ndarray) -> tuple[tuple[float, float], float]:
    """How far the content of one image lies from that of the other: ((x, y) in pixels, likeness).

    Both (ny, nx) of `select_columns`. The peak of their cross correlation under a Hann window,
    divided by that of the window, up to a quarter of the side; between pixels by a parabola.
    Likeness is the correlation at that peak, -1 to 1. Images without content give NaN and 0.
    """
    ny, nx = before.shape
    window = np.outer(*(np.sin(np.pi * (np.arange(n) + 0.5) / n) for n in (ny, nx)))
    weight = window.sum()
    centred = [image - (image * window).sum() / weight for image in (before, after)]
    powers = [float((image**2 * window**2).sum()) for image in centred]
    if not min(powers) > 0:
        return (math.nan, math.nan), 0.0
    padded = (2 * ny, 2 * nx)  # so that no edge meets the opposite one
    one, two, frame = (
        np.fft.rfft2(values * window, padded) for values in (*centred, np.ones((ny, nx)))
    )
    crossed = np.fft.irfft2(one.conj() * two, padded)
    framed = np.fft.irfft2(np.abs(frame) ** 2, padded)
    ry, rx = ny // 4, nx // 4
    rows, columns = np.arange(-ry, ry + 1), np.arange(-rx, rx + 1)
    crossed, framed = (values[np.ix_(rows, columns)] for values in (crossed, framed))
    likeness = crossed / framed * (window**2).sum() / math.sqrt(powers[0] * powers[1])
    inner = likeness[1:-1, 1:-1]
    around = [
        likeness[1 + dy : likeness.shape[0] - 1 + dy, 1 + dx : likeness.shape[1] - 1 + dx]
        for dy, dx in itertools.product((-1, 0, 1), repeat=2)
        if dy or dx
    ]
    peaks = inner >= np.maximum.reduce(around)
    if not peaks.any() or not inner[peaks].max() > 0:
        return (math.nan, math.nan), float(max(likeness.max(), -1.0))
    peaks &= inner >= NEARLY * inner[peaks].max()
    places = np.argwhere(peaks) + 1
    distance = np.hypot(rows[places[:, 0]], columns[places[:, 1]])
    row, column = places[int(np.argmin(distance))]
    shift, height = _top(likeness[row - 1 : row + 2, column - 1 : column + 2])
    return (float(columns[column] + shift[0]), float(rows[row] + shift[1])), min(height, 1.0)


def _top(values: np.ndarray) -> tuple[tuple[float, float], float]:
    """Where (x, y) the parabola through 3 x 3 values is highest, from their middle, and how high.

    Least squares: f + gx x + gy y + axx x^2 + ayy y^2 + axy x y.
    """
    y, x = (part.ravel() for part in np.mgrid[-1:2, -1:2].astype(np.float64))
    terms = np.stack([np.ones(9), x, y, x * x, y * y, x * y], axis=1)
    f, gx, gy, axx, ayy, axy = np.linalg.lstsq(terms, values.ravel(), rcond=None)[0]
    bend = np.array([[2 * axx, axy], [axy, 2 * ayy]])
    if np.linalg.eigvalsh(bend).max() >= 0:
        return (0.0, 0.0), float(values[1, 1])
    move = np.clip(-np.linalg.solve(bend, [gx, gy]), -1, 1)
    return (float(move[0]), float(move[1])), float(f + 0.5 * move @ [gx, gy])


def judge_defects(
    before: np.ndarray,
    after: np.ndarray,
    pixel_size: float,
    defects: np.ndarray,
    vectors: np.ndarray | None,
) -> tuple[np.ndarray, np.ndarray, float]:
    """Contrast of each defect against undamaged sites of its class, over that expected; its fate.

    before, after: (ny, nx) of `select_columns`. A defect's contrast is the value at its place less
    the median of undamaged sites, which lie up to two lattice vectors away and not beside another
    defect. Expected in `after` is that in `before` times the slope of `after` on `before` over all
    pixels. Judged is what stands out of the scatter of undamaged sites by three standard deviations
    in `before`, and by expectation in `after`. Where noise hides each single defect in `after`,
    all of them together may still stand out: least squares of contrast on expected contrast.

    Returns the contrasts (n,) float64 with NaN, the fates (n,) uint8, and the contrast together.
    """
    places = np.asarray(defects, np.float64).reshape(-1, 2)
    contrasts = np.full(len(places), np.nan)
    fates = np.full(len(places), NOT_JUDGED, np.uint8)
    power = float((before**2).sum())
    margin = COLUMN / pixel_size
    sites: dict[int, np.ndarray] = {}
    if vectors is not None and power > 0:
        found = (_find_sites(place, places, vectors, before.shape, margin) for place in places)
        sites = {k: around for k, around in enumerate(found) if around is not None}
    if not sites:
        return contrasts, fates, math.nan
    at, around = np.array(list(sites)), list(sites.values())
    first, scatter_before = _measure_contrasts(before, places[at], around)
    second, scatter_after = _measure_contrasts(after, places[at], around)
    expected = first * max(0.0, float((before * after).sum()) / power)
    seen = np.abs(first) > MEASURABLE * scatter_before
    judged = seen & (np.abs(expected) > MEASURABLE * scatter_after)
    contrasts[at[judged]] = second[judged] / expected[judged]
    fates[at[judged]] = np.where(contrasts[at[judged]] > KEPT, IS_KEPT, IS_LOST)
    strength = float((expected[seen] ** 2).sum())
    together = math.nan
    if strength > (MEASURABLE * scatter_after) ** 2:
        together = float((second[seen] * expected[seen]).sum()) / strength
    return contrasts, fates, together


def _find_sites(
    place: np.ndarray,
    defects: np.ndarray,
    vectors: np.ndarray,
    shape: tuple[int, ...],
    margin: float,
) -> np.ndarray | None:
    """Undamaged sites (m, 2) like that at `place`; None where it or too few lie in the image."""
    if not _inside(place[None], shape, margin)[0]:
        return None
    steps = np.array(list(itertools.product(range(-REACH, REACH + 1), repeat=2)))
    sites = place + steps[(steps != 0).any(axis=1)] @ vectors
    sites = sites[_inside(sites, shape, margin)]
    distance = np.linalg.norm(sites[:, None] - defects[None], axis=2).min(axis=1)
    sites = sites[distance > 0.5 * np.linalg.norm(vectors, axis=1).min()]
    return sites if len(sites) >= FEWEST_SITES else None


def _inside(places: np.ndarray, shape: tuple[int, ...], margin: float) -> np.ndarray:
    return ((places >= margin) & (places <= np.array(shape[::-1]) - 1 - margin)).all(axis=1)


def _measure_contrasts(
    image: np.ndarray, places: np.ndarray, sites: list[np.ndarray]
) -> tuple[np.ndarray, float]:
    """Contrast of each place against its sites (n,), and the scatter of sites about their median.

    The scatter is 1.4826 times the median absolute deviation, which is the standard deviation of a
    normal distribution.
    """
    from scipy.ndimage import map_coordinates

    def values(at: np.ndarray) -> np.ndarray:
        return map_coordinates(image, at[:, ::-1].T, order=3, mode="nearest")

    around = [values(found) for found in sites]
    middles = np.array([np.median(found) for found in around])
    rests = np.concatenate([found - m for found, m in zip(around, middles, strict=True)])
    return values(places) - middles, 1.4826 * float(np.median(np.abs(rests)))
