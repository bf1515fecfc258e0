"""Incoherent images: atoms as weighted points under a point spread function.

With the probe at r a detector collects the share sum_a sigma_a |psi(r_a - r)|^2 of the beam: the
cross section of each atom under the probe's intensity (see Pennycook & Jesson 1991,
Ultramicroscopy 37, 14). Atoms are spread on a grid by a compact window, transformed, multiplied by
the transfer function and transformed back; the same window then gathers the picture at any point.
Both windows are divided out, so atoms and points may lie anywhere between the grid's points.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from hpctem.backend import Backend
from hpctem.errors import SampleError
from hpctem.optics.gathering import gathering_for
from hpctem.optics.grid import SMALLEST_SIDE, Grid, fast_size
from hpctem.optics.point_spread import Transfer
from hpctem.optics.spreading import BAND, make_deposits, window_table, window_transform

DENSITY = 0.43
"""Cycles per pixel of the grid to which the transfer's band may reach; the window allows 0.45. The
aliases of both windows together stay below 1e-5 of a point's peak."""

LARGEST = 2**27
"""Pixels of a grid: half a gigabyte in float32."""


@dataclass(frozen=True)
class Picture:
    """The noise-free image of a whole specimen frame, ready to be looked at by `gather_points`.

    `values`: float32 (ny, nx) on the backend, coefficients of the window about the points of a
    grid over `extent` (ly, lx) A whose pixel (0, 0) lies at (0, 0); the picture is periodic.
    """

    values: Any
    extent: tuple[float, float]

    @property
    def sampling(self) -> tuple[float, float]:
        """Pixel sizes (dy, dx) in A."""
        ny, nx = self.values.shape
        return self.extent[0] / ny, self.extent[1] / nx


def choose_grid(extent: tuple[float, float], band: float) -> Grid:
    """The grid of a picture over `extent` (ly, lx) in A that holds `band` (1/A) within `DENSITY`.

    Raises SampleError if it has more than `LARGEST` pixels.
    """
    ly, lx = (float(length) for length in extent)
    ny, nx = (fast_size(max(SMALLEST_SIDE, length * band / DENSITY)) for length in (ly, lx))
    if ny * nx > LARGEST:
        raise SampleError(
            f"an image of {lx:.0f} x {ly:.0f} A with details of {1 / band:.2g} A needs a grid of "
            f"{nx} x {ny} pixels, and at most {LARGEST} are handled: a smaller field or a wider "
            f"probe needs fewer."
        )
    return Grid((ny, nx), (ly, lx))


def form_picture(
    positions: np.ndarray,
    weights: np.ndarray,
    extent: tuple[float, float],
    transfer: Transfer,
    backend: Backend,
    blurs: np.ndarray | None = None,
    objects: tuple[np.ndarray, Sequence[Transfer]] | None = None,
) -> Picture:
    """Image of atoms over a frame: sum_a weights[a] P(r - r_a), at any r.

    `positions`: float64 (n, 2), x and y in A; atoms outside the frame come in on its other side;
    `weights`: float (n,), cross sections in A^2 for the share of the beam, of either sign;
    `extent`: (ly, lx) of the frame in A; `transfer`: that of the point spread function P;
    `blurs`: None or float (n,), one-dimensional rms displacement of each atom in A, which widens
    its P by that Gaussian; `objects`: None or the kind of each atom, integer (n,), and every kind's
    transform of its object function, by which P's is multiplied. Points without. The picture's
    mean is the sum of the weights over the frame's area.
    """
    grid = choose_grid(extent, transfer.band)
    kernels = gathering_for(backend)
    ky, kx = (k[: grid.shape[1] // 2 + 1] if a else k for a, k in enumerate(grid.frequencies()))
    kx = np.abs(kx)
    of_atoms, transfers = objects or (None, ())
    widths, kinds, layer = _sort_atoms(blurs, of_atoms, len(positions))
    row, column = grid.wrap(np.asarray(positions, dtype=np.float64).reshape(-1, 2))
    deposits, order = make_deposits(row, column, layer, (1, widths.size), grid, backend)
    weight = np.asarray(weights, dtype=np.float32)[order]
    deposits = deposits._replace(weight=backend.asarray(weight))
    table = _table_on(backend)
    half: Any = None
    shapes = [one.fill(ky, kx, backend) for one in transfers]
    for n, (width, kind) in enumerate(zip(widths, kinds, strict=True)):
        part = backend.rfft2(kernels.deposit(deposits, n, grid.shape, table))
        if width:
            legs = (np.exp(-2 * (np.pi * width * k) ** 2) for k in (ky, kx))
            along_y, along_x = (backend.asarray(leg, dtype=np.float32) for leg in legs)
            part *= along_y[:, None]
            part *= along_x
        if shapes:
            part *= shapes[kind]
        half = part if half is None else half + part
    area = grid.extent[0] * grid.extent[1]
    along_y, along_x = (
        backend.asarray(_undo_windows(n)[: k.size] * scale, dtype=np.float32)
        for n, k, scale in zip(grid.shape, (ky, kx), (1 / area, 1.0), strict=True)
    )
    kernels.weigh(half, along_y, along_x, transfer.fill(ky, kx, backend))
    return Picture(backend.irfft2(half, grid.shape, scaled=False), grid.extent)


def gather_points(
    picture: Picture, lines: np.ndarray, columns: np.ndarray, backend: Backend
) -> Any:
    """The picture at the points of a scan, mean over its frames: float32 (ny, nx).

    Point c of line r in frame f lies at `lines`[f, r] + `columns`[c], each (x, y) in A: float64
    (frames, ny, 2) and (nx, 2). The picture is periodic.
    """
    scale = 1 / np.array(picture.sampling)
    in_pixels = (
        backend.asarray(np.ascontiguousarray(places[..., ::-1] * scale))
        for places in (lines, columns)
    )
    out = backend.xp.empty((lines.shape[1], len(columns)), dtype=np.float32)
    gathering_for(backend).gather(out, picture.values, *in_pixels, _table_on(backend))
    return out


def _sort_atoms(
    blurs: np.ndarray | None, kinds: np.ndarray | None, atoms: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The different pairs of blur and kind, and which of them each atom has."""
    if atoms == 0 or (blurs is None and kinds is None):
        return np.zeros(1), np.zeros(1, dtype=np.int64), np.zeros(atoms, dtype=np.int64)
    widths, which = np.zeros(1), np.zeros(atoms, dtype=np.int64)
    if blurs is not None:
        widths, which = np.unique(np.asarray(blurs, dtype=np.float64), return_inverse=True)
    own = np.zeros(atoms, dtype=np.int64) if kinds is None else np.asarray(kinds, dtype=np.int64)
    many = int(own.max()) + 1
    pair = which * many + own
    present = np.bincount(pair) > 0
    pairs = np.flatnonzero(present)
    return widths[pairs // many], pairs % many, (np.cumsum(present) - 1)[pair]


@lru_cache(maxsize=64)
def _undo_windows(n: int) -> np.ndarray:
    """One over the square of the window's transform, 0 beyond its band: float64 (n,)."""
    k = np.abs(np.fft.fftfreq(n))
    return np.where(k <= BAND, window_transform(np.minimum(k, BAND)) ** -2.0, 0.0)


def _table_on(backend: Backend) -> Any:
    return backend.asarray(window_table())
