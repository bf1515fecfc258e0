"""What the CPU does to a field on its way to a transform and back, in passes over the field.

Fields that have been transformed along y lie as `hpctem.optics.panels` says. Passes along y go
panel by panel; passes along x take eight rows out of all panels, turn them by 90 degrees, work on
them and put them back. So a step reads and writes a field twice, and what lies outside the band is
neither transformed nor moved.
"""

from __future__ import annotations

import numpy as np

from hpctem.compiling import compile_lanes, inline_lanes
from hpctem.optics.lanes import LANES, LINE, load, nearest, splat, store
from hpctem.optics.line_transforms import invert, transform
from hpctem.optics.panels import (
    gather_factors,
    gather_rows,
    keep_band,
    line_blocks,
    put_lines,
    scatter_rows,
    spread_band,
)
from hpctem.optics.spreading_cpu import spread_atom


@compile_lanes
def transform_atoms(panels, slices, first, atoms, table, nx, band, plan):
    """Spread the atoms of two slices, the real and the imaginary part, and transform along y.

    `slices`: their indices, -1 for none; `atoms`: row, column, row_phase, column_phase and weight
    of `Deposits`, sorted by slice and panel, and `first`, where those of each begin; `table`: the
    window, float32 (T + 1, 8). One panel is spread at a time, and what hangs over into the next, so
    that no plane of atoms is ever written.
    """
    ny, count = band[2], panels.shape[0]
    block, following = np.zeros(ny * LINE, np.float32), np.zeros(ny * LINE, np.float32)
    work, shifted = np.empty(ny * LINE, np.float32), np.zeros(3 * LANES, np.float32)
    windows, along_y = table.reshape(table.size), np.empty(LANES, np.float32)
    reached = 0  # atoms that reach into the block before it has its own
    for part in range(2):  # what hangs over the last column comes back in the first panel
        begin, end = _find_atoms(first, slices[part], max(count - 2, 0), count, count)
        for a in range(begin, end):
            column = atoms[1][a] - (nx - LANES)
            if column > 0:
                spread_atom(following, block, part, column, atoms, a, windows, along_y, shifted)
                reached += 1
    following[:] = 0
    for p in range(count):
        own = 0
        for part in range(2):
            begin, end = _find_atoms(first, slices[part], p, p + 1, count)
            for a in range(begin, end):
                column = atoms[1][a] - p * LANES
                spread_atom(block, following, part, column, atoms, a, windows, along_y, shifted)
            own += end - begin
        if own + reached:
            transform(block, plan, work)
            keep_band(panels[p], block, band)
            block[:] = 0
            block, following = following, block
        else:  # as where there is vacuum beside a particle
            panels[p] = 0
        reached = own


@inline_lanes
def _find_atoms(first, s, panel, end, count):
    """Where the atoms of some panels of slice `s` begin and end."""
    if s < 0:
        return first[0], first[0]
    return first[s * count + panel], first[s * count + end]


@compile_lanes
def weigh(total, panels, factor, plan, add):
    """Transform along x and multiply by `factor`; set `total`, (R / 8, nx x 16), or add to it."""
    nx = total.shape[1] // LINE
    block, work = line_blocks(panels, nx)
    line = block[: nx * LINE]
    for b in range(total.shape[0]):
        gather_rows(block, panels, b, nx)
        transform(line, plan, work)
        for j in range(nx):
            i = j * LINE
            f = load(factor[b], j * LANES)
            re, im = load(line, i) * f, load(line, i + LANES) * f
            if add:
                re, im = re + load(total[b], i), im + load(total[b], i + LANES)
            store(total[b], i, re)
            store(total[b], i + LANES, im)


@compile_lanes
def invert_lines(panels, total, plan):
    """Undo the transform along x of `total`, which is used up, but for the factor nx."""
    nx = total.shape[1] // LINE
    block, work = line_blocks(panels, nx)
    for b in range(total.shape[0]):
        block[: nx * LINE] = total[b]
        invert(block[: nx * LINE], plan, work)
        scatter_rows(panels, block, b)


@compile_lanes
def filter_lines(panels, factor, plan):
    """Transform along x, multiply by the real `factor` and go back."""
    nx = factor.shape[1] // LANES
    block, work = line_blocks(panels, nx)
    line = block[: nx * LINE]
    for b in range(factor.shape[0]):
        gather_rows(block, panels, b, nx)
        transform(line, plan, work)
        for j in range(nx):
            i = j * LINE
            f = load(factor[b], j * LANES)
            store(line, i, load(line, i) * f)
            store(line, i + LANES, load(line, i + LANES) * f)
        invert(line, plan, work)
        scatter_rows(panels, block, b)


@compile_lanes
def propagate_lines(panels, factor, along_y, along_x, plan, spectrum, band):
    """Transform along x, multiply by factor along_y along_x and go back; or, where `spectrum`,
    complex64 (ny, nx) in the FFT's order, is not empty, put the product there instead.

    `along_y`: complex64 (ny,), `along_x`: complex64 (nx,), both in the FFT's order.
    """
    nx = factor.shape[1] // LANES
    frequency, order = band[0], plan[3]
    block, work = line_blocks(panels, nx)
    line, y_parts = block[: nx * LINE], np.empty(LINE, np.float32)
    for b in range(factor.shape[0]):
        gather_rows(block, panels, b, nx)
        transform(line, plan, work)
        y = gather_factors(y_parts, along_y, frequency, b)
        for j in range(nx):
            i = j * LINE
            x = splat(along_x[order[j]].real), splat(along_x[order[j]].imag)
            f = load(factor[b], j * LANES)
            p = _multiply(y, x)
            wave = _multiply((load(line, i) * f, load(line, i + LANES) * f), p)
            store(line, i, wave[0])
            store(line, i + LANES, wave[1])
        if spectrum.size:
            put_lines(spectrum, line, frequency, b, order)
        else:
            invert(line, plan, work)
            scatter_rows(panels, block, b)


@compile_lanes
def make_phase_objects(first, second, potentials, sigma, band, wide, plan):
    """From the panels of two potentials in V A, real and imaginary part on the rows of `wide`, the
    panels of exp(i sigma V) on those of `band`; none of the second where it has no panels."""
    ny = band[2]
    block, work = np.empty(ny * LINE, np.float32), np.empty(ny * LINE, np.float32)
    phase_object = np.empty(ny * LINE, np.float32)
    scale = splat(sigma)
    for p in range(potentials.shape[0]):
        spread_band(block, potentials[p], wide)
        invert(block, plan, work)
        for part, panels in enumerate((first, second)):
            if panels.shape[0]:
                for i in range(0, ny * LINE, LINE):
                    cosine, sine = _cos_sin(load(block, i + part * LANES) * scale)
                    store(phase_object, i, cosine)
                    store(phase_object, i + LANES, sine)
                transform(phase_object, plan, work)
                keep_band(panels[p], phase_object, band)


@compile_lanes
def multiply_fields(wave, transmission, band, plan):
    """Go back along y with both, multiply `wave` by `transmission`, and transform it again."""
    ny = band[2]
    block, work = np.empty(ny * LINE, np.float32), np.empty(ny * LINE, np.float32)
    factor = np.empty(ny * LINE, np.float32)
    for p in range(wave.shape[0]):
        spread_band(factor, transmission[p], band)
        invert(factor, plan, work)
        spread_band(block, wave[p], band)
        invert(block, plan, work)
        for i in range(0, ny * LINE, LINE):
            a = load(block, i), load(block, i + LANES)
            product = _multiply(a, (load(factor, i), load(factor, i + LANES)))
            store(block, i, product[0])
            store(block, i + LANES, product[1])
        transform(block, plan, work)
        keep_band(wave[p], block, band)


@compile_lanes
def arrange_spectrum(lines, spectrum, transfer, band, plan):
    """Set `lines`, (R / 8, nx x 16), to the rows of spectrum transfer, complex64 (ny, nx) both."""
    order = plan[3]
    for r in range(band[0].size):
        values, factors = spectrum[band[0][r]], transfer[band[0][r]]
        line, lane = lines[r // LANES], r % LANES
        for j in range(order.size):
            value = values[order[j]] * factors[order[j]]
            line[j * LINE + lane], line[j * LINE + LANES + lane] = value.real, value.imag


@compile_lanes
def focus_lines(panels, lines, along_y, along_x, plan, band):
    """Multiply `lines` by along_y along_x (`propagate_lines`) and go back along x."""
    nx = lines.shape[1] // LINE
    frequency, order = band[0], plan[3]
    block, work = line_blocks(panels, nx)
    line, y_parts = block[: nx * LINE], np.empty(LINE, np.float32)
    for b in range(lines.shape[0]):
        y = gather_factors(y_parts, along_y, frequency, b)
        for j in range(nx):
            i = j * LINE
            x = splat(along_x[order[j]].real), splat(along_x[order[j]].imag)
            wave = load(lines[b], i), load(lines[b], i + LANES)
            wave = _multiply(wave, _multiply(y, x))
            store(line, i, wave[0])
            store(line, i + LANES, wave[1])
        invert(line, plan, work)
        scatter_rows(panels, block, b)


@compile_lanes
def add_intensity(intensity, panels, share, band, plan):
    """Go back along y and add share |psi|^2 to `intensity`, float32 (ny, 8 x panels)."""
    ny, width = intensity.shape
    flat = intensity.reshape(intensity.size)
    block, work = np.empty(ny * LINE, np.float32), np.empty(ny * LINE, np.float32)
    factor = splat(share)
    for p in range(panels.shape[0]):
        spread_band(block, panels[p], band)
        invert(block, plan, work)
        for i in range(ny):
            re, im = load(block, i * LINE), load(block, i * LINE + LANES)
            place = i * width + p * LANES
            store(flat, place, load(flat, place) + factor * (re * re + im * im))


@compile_lanes
def add_scaled(image, intensity, weight):
    """Add weight times the first columns of `intensity` to `image`, float32 (ny, nx)."""
    for i in range(image.shape[0]):
        for j in range(image.shape[1]):
            image[i, j] += weight * intensity[i, j]


@inline_lanes
def _multiply(a, b):
    return a[0] * b[0] - a[1] * b[1], a[0] * b[1] + a[1] * b[0]


_PI_1 = np.float32(3.140625)  # pi in three parts (Cody & Waite), the first two short
_PI_2 = np.float32(9.67502593994140625e-4)
_PI_3 = np.float32(1.509957990978376e-7)
_SINE = tuple(np.float32(x) for x in (-1 / 6, 1 / 120, -1 / 5040, 1 / 362880, -1 / 39916800))
_COSINE = tuple(
    np.float32(x) for x in (-1 / 2, 1 / 24, -1 / 720, 1 / 40320, -1 / 3628800, 1 / 479001600)
)


@inline_lanes
def _cos_sin(x):
    """Cosine and sine to 2e-7 for |x| < 8000: x less n pi, then Taylor's series up to pi / 2."""
    one = splat(np.float32(1))
    n = nearest(x * splat(np.float32(1 / np.pi)))
    r = ((x - n * splat(_PI_1)) - n * splat(_PI_2)) - n * splat(_PI_3)
    odd = n - splat(np.float32(2)) * nearest(n * splat(np.float32(0.5)))  # 0, or 1 or -1
    sign = one - splat(np.float32(2)) * odd * odd
    square = r * r
    s = splat(_SINE[4]) * square + splat(_SINE[3])
    s = (s * square + splat(_SINE[2])) * square + splat(_SINE[1])
    s = (s * square + splat(_SINE[0])) * square * r + r
    c = splat(_COSINE[5]) * square + splat(_COSINE[4])
    c = (c * square + splat(_COSINE[3])) * square + splat(_COSINE[2])
    c = (c * square + splat(_COSINE[1])) * square + splat(_COSINE[0])
    c = c * square + one
    return c * sign, s * sign
