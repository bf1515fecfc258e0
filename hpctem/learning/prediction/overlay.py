"""The picture of a prediction: the image, and on it what a network has found."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hpctem.learning.prediction.positions import Found
from hpctem.pictures import save_figure
from hpctem.report import LETTER_INCHES, draw_image, draw_key, outline_style

# Dots along the longer side of the image: about so many, a whole number for each pixel or of pixels
# for each dot, so that noise makes no pattern with the dots.
DOTS, DOTS_PER_INCH = 2048, 200
MARGIN_INCHES, HEAD_INCHES, KEY_LINE_INCHES = 0.12, 0.32, 0.2
# Rings are as wide as the radius within which there is one thing, but no smaller than is seen.
LEAST_RING_INCHES = 0.05
BELOW_BAR = 0.5  # drawn on the image and beneath its bar of scale


def draw_overlay(
    image: np.ndarray,
    mask: np.ndarray,
    found: Found,
    classes: Sequence[str],
    path: Path,
    *,
    title: str,
    pixel_size: float | None,
    radius: float | None,
) -> Path:
    """Draw an image with rings around positions or outlines of areas; writes PNG, returns the path.

    image       (ny, nx), any real dtype
    mask        uint8 (ny, nx), 0 background, k class k
    pixel_size  A, for the bar of scale; None draws none
    radius      pixels, of the rings; None: areas are outlined, and their centres marked

    A legend says the classes and how many of each were found.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    ny, nx = image.shape
    pixel = _dots_per_pixel(max(ny, nx)) / DOTS_PER_INCH
    width = max(nx * pixel, 3.0) + 2 * MARGIN_INCHES
    texts = [
        f"{name}: {np.count_nonzero(found.kind == number)}"
        for number, name in enumerate(classes, 1)
    ]
    places = _place_keys(texts, width - 2 * MARGIN_INCHES)
    lines = 1 + max(line for line, _ in places)
    top = MARGIN_INCHES + HEAD_INCHES + lines * KEY_LINE_INCHES
    height = top + ny * pixel + MARGIN_INCHES
    figure = Figure(figsize=(width, height), dpi=DOTS_PER_INCH, facecolor="white")
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0, 0, 1, 1), frame_on=False, xticks=[], yticks=[])
    letters = int((width - 2 * MARGIN_INCHES) / (1.35 * LETTER_INCHES))
    shown = title if len(title) <= letters else title[: letters - 1] + "…"
    axes.text(MARGIN_INCHES, MARGIN_INCHES + 0.12, shown, fontsize=9, weight="bold", va="center")
    for number, ((line, left), text) in enumerate(zip(places, texts, strict=True), 1):
        down = MARGIN_INCHES + HEAD_INCHES + (line + 0.35) * KEY_LINE_INCHES
        draw_key(axes, MARGIN_INCHES + left, down, number, text)
    box = ((width - nx * pixel) / 2, top, nx * pixel, ny * pixel)
    draw_image(axes, box, image, mask if radius is None else None, pixel_size or 0.0)
    _mark(axes, box, pixel, found, radius)
    axes.set(xlim=(0, width), ylim=(height, 0))
    return save_figure(figure, path)


def _dots_per_pixel(side: int) -> float:
    """A whole number, or one over a whole number."""
    return float(DOTS // side) if side <= DOTS else 1.0 / -(-side // DOTS)


def _place_keys(texts: Sequence[str], room: float) -> list[tuple[int, float]]:
    """Line and place along it, in inches, of each entry of the legend."""
    places, line, left = [], 0, 0.0
    for text in texts:
        wide = 0.55 + len(text) * LETTER_INCHES * 1.15
        if left and left + wide > room:
            line, left = line + 1, 0.0
        places.append((line, left))
        left += wide
    return places


def _mark(
    axes: Any,
    box: tuple[float, float, float, float],
    pixel: float,
    found: Found,
    radius: float | None,
) -> None:
    """Rings of `radius` pixels around positions, or crosses at them."""
    from matplotlib.patches import Circle, Rectangle
    from matplotlib.patheffects import withStroke

    left, top, wide, high = box
    frame = Rectangle((left, top), wide, high, transform=axes.transData)
    for x, y, kind in zip(found.x, found.y, found.kind, strict=True):
        style = outline_style(int(kind))
        place = left + (x + 0.5) * pixel, top + (y + 0.5) * pixel
        if radius is None:
            (cross,) = axes.plot(*place, marker="+", ms=8, mew=1.6, color=style["color"])
            cross.set_path_effects([withStroke(linewidth=3.5, foreground="black")])
        else:
            reach = max(radius * pixel, LEAST_RING_INCHES)
            ring = axes.add_patch(
                Circle(place, reach, fill=False, lw=1.2, zorder=BELOW_BAR, **style)
            )
            ring.set_clip_path(frame)
