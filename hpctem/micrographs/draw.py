"""One picture of a micrograph: image, power spectrum with its spots, histogram, noise, lines."""

from __future__ import annotations

from typing import Any

import numpy as np

from hpctem.micrographs.lines import LineMotion
from hpctem.micrographs.measure import Measured
from hpctem.micrographs.spectra import find_spots, frequencies, power_spectrum, ring_medians
from hpctem.report import choose_scale_bar, scale_grey

MOST_DRAWN = 1024  # pixels a side of an image in the picture
CELLS_ACROSS = 9  # of the close-up
BLUE, ORANGE, GREEN, GREY = "#0072b2", "#d55e00", "#009e73", "#777777"


def draw_inspection(
    image: np.ndarray, measured: Measured, title: str, pixel: float | None, limit: float
) -> Any:
    """Draw an image (ny, nx) and what was measured in it: a matplotlib Figure.

    pixel: A, for scale bars and frequencies; None draws in pixels. limit: the largest frequency
    that holds signal, cycles per pixel.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(16, 10.4), facecolor="white", layout="constrained", dpi=110)
    FigureCanvasAgg(figure)
    figure.suptitle(title, x=0.01, ha="left", fontsize=13, fontweight="bold")
    grid = figure.add_gridspec(2, 12, height_ratios=(1.25, 1))
    box = _choose_box(image, measured, limit)
    _draw_whole(figure.add_subplot(grid[0, :4]), image, box, pixel)
    _draw_detail(figure.add_subplot(grid[0, 4:8]), image, measured, box, pixel)
    _draw_spectrum(figure.add_subplot(grid[0, 8:]), image, measured, pixel, limit)
    _draw_histogram(figure.add_subplot(grid[1, :3]), image)
    _draw_noise(figure.add_subplot(grid[1, 3:6]), measured)
    _draw_radial(figure.add_subplot(grid[1, 6:9]), image, measured, pixel, limit)
    last = figure.add_subplot(grid[1, 9:])
    if measured.lines is not None:
        _draw_lines(last, measured.lines, pixel)
    else:
        _draw_correlation(last, image, limit)
    for axes in figure.axes[3:]:
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=8)
    return figure


def _show(axes: Any, grey: np.ndarray, width: float, pixel: float | None) -> None:
    """An image in grey, `width` pixels wide, with a bar for scale."""
    high = width * grey.shape[0] / grey.shape[1]
    axes.imshow(grey, cmap="gray", vmin=0, vmax=1, extent=(0, width, high, 0), interpolation="none")
    axes.set(xticks=[], yticks=[])
    if pixel is None:
        length, text = 10 * choose_scale_bar(width), ""
        text = f"{length:g} pixels"
    else:
        length = choose_scale_bar(width * pixel) * 10 / pixel
        text = f"{length * pixel / 10:g} nm"
    left, low = 0.04 * width, high - 0.045 * width
    axes.plot([left, left + length], [low, low], color="black", lw=6, solid_capstyle="butt")
    axes.plot([left, left + length], [low, low], color="white", lw=3.5, solid_capstyle="butt")
    label = axes.text(
        left + length / 2, low - 0.015 * width, text, color="white", ha="center", fontsize=9
    )
    _outline(label)


def _draw_whole(
    axes: Any, image: np.ndarray, box: tuple[int, int, int], pixel: float | None
) -> None:
    ny, nx = image.shape
    times = -(-max(ny, nx) // MOST_DRAWN)
    cut = image[: ny // times * times, : nx // times * times]
    mean = cut.reshape(ny // times, times, nx // times, times).mean(axis=(1, 3))
    _show(axes, scale_grey(mean), nx, pixel)
    top, left, side = box
    axes.plot(
        [left, left + side, left + side, left, left],
        [top, top, top + side, top + side, top],
        color=ORANGE,
        lw=1.2,
    )
    axes.set_title(f"image, {nx} x {ny} pixels", fontsize=10)


def _choose_box(image: np.ndarray, measured: Measured, limit: float) -> tuple[int, int, int]:
    """What the close-up shows, (top, left, side): the middle, or where fringes are strongest."""
    from scipy.ndimage import gaussian_filter

    ny, nx = image.shape
    if measured.lattice is not None:
        period = float(np.linalg.norm(measured.lattice.vectors, axis=1).mean())
        side = min(ny, nx, max(32, round(CELLS_ACROSS * period)))
        return (ny - side) // 2, (nx - side) // 2, side
    side = min(ny, nx, max(64, max(ny, nx) // 5))
    places, _ = find_spots(image, limit)
    strength = np.zeros((ny, nx))
    for fx, fy in places[:4]:
        wave = np.exp(-2j * np.pi * fy * np.arange(ny))[:, None]
        wave = wave * np.exp(-2j * np.pi * fx * np.arange(nx)) * (image - image.mean())
        # Wide enough against the fringes that only they are left.
        strength += sum(gaussian_filter(part, side / 4) ** 2 for part in (wave.real, wave.imag))
    if not strength.any():
        return (ny - side) // 2, (nx - side) // 2, side
    row, column = np.unravel_index(int(np.argmax(strength)), strength.shape)
    top, left = (min(max(int(at) - side // 2, 0), n - side) for at, n in ((row, ny), (column, nx)))
    return top, left, side


def _draw_detail(
    axes: Any, image: np.ndarray, measured: Measured, box: tuple[int, int, int], pixel: float | None
) -> None:
    """A part of the image, with the lattice's cell."""
    top, left, side = box
    _show(axes, scale_grey(image[top : top + side, left : left + side]), side, pixel)
    axes.set_title("the part in the frame", fontsize=10)
    if measured.lattice is None or measured.pattern is None:
        return
    first, second = measured.lattice.vectors
    start = _find_column(measured, box)
    corners = np.array([start + first, start + first + second, start + second])
    axes.plot(corners[:, 0], corners[:, 1], color=ORANGE, lw=1.2, ls=":")
    for name, vector, other in (("a₁", first, second), ("a₂", second, first)):
        arrow = {"arrowstyle": "-|>", "color": ORANGE, "lw": 1.8, "shrinkA": 0, "shrinkB": 0}
        axes.annotate("", start + vector, start, arrowprops=arrow)
        place = start + 0.55 * vector - 0.28 * other
        label = axes.text(*place, name, color=ORANGE, fontsize=12, ha="center", va="center")
        _outline(label)
    axes.set(xlim=(0, side), ylim=(side, 0))
    axes.set_title("the part in the frame, with the cell of the lattice", fontsize=10)


def _find_column(measured: Measured, box: tuple[int, int, int]) -> np.ndarray:
    """Where, within the close-up, a column is brightest near its middle, (x, y)."""
    pattern = measured.pattern
    assert pattern is not None
    top, left, side = box
    half = side // 3
    y, x = np.mgrid[half : 2 * half, half : 2 * half]
    here = np.stack([x, y]) + np.array([left, top])[:, None, None]
    bent = here + pattern.warp[:, top + half : top + 2 * half, left + half : left + 2 * half]
    waves = np.exp(2j * np.pi * np.tensordot(pattern.places, bent, axes=1))
    value = np.tensordot(pattern.amplitudes, waves, axes=1).real
    row, column = np.unravel_index(int(np.argmax(value)), value.shape)
    # The middle of a pixel is half a pixel from its edge.
    return np.array([half + column + 0.5, half + row + 0.5], dtype=float)


def _outline(text: Any) -> None:
    from matplotlib.patheffects import withStroke

    text.set_path_effects([withStroke(linewidth=2, foreground="black")])


def _draw_spectrum(
    axes: Any, image: np.ndarray, measured: Measured, pixel: float | None, limit: float
) -> None:
    """Logarithm of the power, with the spots found and their indices."""
    power = power_spectrum(image)
    fx, fy = frequencies(power.shape)
    seen = limit
    places, names = _spots(image, measured, pixel, limit)
    if len(places):
        seen = min(limit, 1.35 * float(np.linalg.norm(places, axis=1).max()))
    shown = power[np.abs(fy[:, 0]) <= seen][:, np.abs(fx[0]) <= seen]
    grey = np.log(np.maximum(shown, 1e-12 * shown.max()))
    low, high = np.percentile(grey, (30, 99.9))
    unit = 1 / pixel if pixel else 1.0
    extent = tuple(unit * seen * sign for sign in (-1, 1, 1, -1))
    axes.imshow(grey, cmap="gray", vmin=low, vmax=high, extent=extent, interpolation="none")
    for place, name in zip(places, names, strict=True):
        for sign in (1, -1):
            x, y = sign * place * unit
            axes.plot(x, y, "o", mfc="none", mec=ORANGE, ms=11, mew=1)
            if sign == 1:
                side = 0.04 * seen * unit * (1 if x < 0.6 * seen * unit else -1)
                align = "left" if side > 0 else "right"
                _outline(
                    axes.text(x + side, y, name, color=ORANGE, fontsize=9, ha=align, va="center")
                )
    axes.set_xlabel("frequency (1/Å)" if pixel else "frequency (cycles per pixel)", fontsize=8)
    axes.set(xlim=extent[:2], ylim=extent[2:])
    axes.tick_params(labelsize=8)
    axes.set_title("power spectrum (logarithm), with the spots found", fontsize=10)


def _spots(
    image: np.ndarray, measured: Measured, pixel: float | None, limit: float
) -> tuple[np.ndarray, list[str]]:
    """Frequencies (n, 2) of the lattice's spots and their indices; without, spacings of fringes."""
    if measured.lattice is not None:
        indices = measured.lattice.indices
        return measured.lattice.places, [f"{_index(h)}{_index(k)}" for h, k in indices]
    apart: list[np.ndarray] = []
    for place in find_spots(image, limit)[0]:
        if all(np.hypot(*(place - other)) > 0.08 * limit for other in apart):
            apart.append(place)
    apart = apart[:8]
    lengths = [1 / float(np.hypot(*place)) for place in apart]
    return np.array(apart).reshape(-1, 2), [
        f"{length * pixel:.2f} Å" if pixel else f"{length:.1f} px" for length in lengths
    ]


def _index(number: int) -> str:
    return f"{number}" if number >= 0 else f"{-number}\u0305"


def _draw_histogram(axes: Any, image: np.ndarray) -> None:
    low, high = np.percentile(image, (0.05, 99.95))
    axes.hist(image.ravel(), bins=np.linspace(low, high, 121), color=BLUE, histtype="stepfilled")
    axes.axvline(float(image.mean()), color=ORANGE, lw=1.2, label="mean")
    axes.legend(fontsize=8, frameon=False)
    axes.set(yticks=[])
    axes.spines["left"].set_visible(False)
    axes.set_xlabel("intensity", fontsize=8)
    axes.set_title("histogram", fontsize=10)
    axes.locator_params(axis="x", nbins=5)


def _draw_noise(axes: Any, measured: Measured) -> None:
    noise = measured.noise
    axes.plot(noise.means, noise.variances, "o", color=BLUE, ms=4)
    if noise.grows:
        span = np.array([min(noise.zero, noise.means.min()), noise.means.max()])
        axes.plot(span, noise.gain * (span - noise.zero), color=ORANGE, lw=1.2)
        text = f"{noise.gain:.4g} ± {noise.gain_error:.2g} units an electron,\nif all is counting"
        axes.text(0.04, 0.96, text, transform=axes.transAxes, va="top", fontsize=8)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("intensity", fontsize=8)
    axes.set_ylabel("variance of the noise", fontsize=8)
    axes.set_title("noise against intensity", fontsize=10)
    axes.locator_params(axis="x", nbins=5)


def _draw_radial(
    axes: Any, image: np.ndarray, measured: Measured, pixel: float | None, limit: float
) -> None:
    """Power between the spots, and what the noise alone would give."""
    power = power_spectrum(image)
    radii, medians, rings = ring_medians(power)
    peaks = np.zeros(len(radii))
    np.maximum.at(peaks, rings.ravel(), power.ravel())
    unit = 1 / pixel if pixel else 1.0
    axes.semilogy(radii[:-1] * unit, peaks[:-1], color=GREY, lw=0.8, label="strongest of each ring")
    axes.semilogy(radii[:-1] * unit, medians[:-1], color=BLUE, lw=1.4, label="between the spots")
    axes.axhline(measured.noise.variance, color=ORANGE, lw=1, ls="--", label="noise")
    if measured.lattice is not None:
        for length in np.linalg.norm(measured.lattice.places, axis=1):
            axes.axvline(length * unit, color=GREEN, lw=0.6, alpha=0.6)
    axes.set_xlim(0, min(0.5, 1.6 * limit) * unit)
    axes.set_xlabel("frequency (1/Å)" if pixel else "frequency (cycles per pixel)", fontsize=8)
    axes.set_ylabel("power", fontsize=8)
    axes.legend(fontsize=8, frameon=False, loc="upper right")
    axes.set_title("power by frequency", fontsize=10)


def _draw_correlation(axes: Any, image: np.ndarray, limit: float) -> None:
    """How alike neighbouring lines are: a jump or a disturbed line stands out."""
    from scipy.ndimage import gaussian_filter1d

    lines = gaussian_filter1d(np.asarray(image, dtype=np.float64), 0.2 / limit, axis=1)
    lines = lines - lines.mean(axis=1, keepdims=True)
    powers = (lines**2).sum(axis=1)
    products = (lines[1:] * lines[:-1]).sum(axis=1)
    alike = products / np.maximum(np.sqrt(powers[1:] * powers[:-1]), 1e-300)
    axes.plot(alike, np.arange(len(alike)) + 0.5, color=BLUE, lw=0.6)
    axes.invert_yaxis()
    axes.set_xlabel("correlation of each line with the next", fontsize=8)
    axes.set_ylabel("line", fontsize=8)
    axes.set_title("likeness of neighbouring lines", fontsize=10)


def _draw_lines(axes: Any, lines: LineMotion, pixel: float | None) -> None:
    axes.set_title("displacement of the lines", fontsize=10)
    unit, name = (100 * pixel, "pm") if pixel else (1.0, "pixels")
    axes.plot(lines.displacements * unit, np.arange(len(lines.displacements)), color=BLUE, lw=0.6)
    axes.axvline(0, color=GREY, lw=0.6)
    axes.invert_yaxis()
    axes.set_xlabel(f"displacement along the line ({name})", fontsize=8)
    axes.set_ylabel("line", fontsize=8)
    reach = 1.05 * float(np.abs(lines.displacements).max()) * unit or 1.0
    axes.set_xlim(-reach, 3.2 * reach)
    inset = axes.inset_axes((0.62, 0.12, 0.36, 0.36))
    count = min(40, len(lines.covariance))
    inset.plot(np.arange(count), lines.covariance[:count] * unit**2, ".-", color=BLUE, ms=3, lw=0.7)
    inset.axhline(0, color=GREY, lw=0.5)
    inset.tick_params(labelsize=7)
    inset.spines[["top", "right"]].set_visible(False)
    inset.set_title(f"covariance ({name}²)\nagainst lines apart", fontsize=7)
    text = f"jitter {lines.jitter * unit:.2g} {name}"
    if lines.flagging > 0:
        text += (
            f"\nflagging {lines.flagging * unit:.2g} {name}\nover {lines.flagging_lines:.0f} lines"
        )
    axes.text(0.62, 0.97, text, transform=axes.transAxes, va="top", fontsize=8)
