"""Pictures for people: the contact sheet of a campaign.

Takes arrays and numbers, not a database, so that a preview draws with it before one exists.
"""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hpctem.errors import ConfigError

MOST_IMAGES = 64
# Share of the pixels at which a row of the mask changes, above which outlines are not drawn.
MOST_OUTLINE = 0.05
TILE_INCHES = 2.6
TILE_QUALITY = 80
LINE_INCHES = 0.155
LETTER_INCHES = 0.062
LEGEND_INCHES, KEY_INCHES = 0.17, 0.32
KEY_ORDER = 6  # above all that is drawn of images
THUMBNAIL_INCHES = 0.72
# Grey values of an image run between these percentiles: a few bright pixels do not darken it.
DARKEST, BRIGHTEST = 0.5, 99.5
# One colour per particle or kind of defect, told apart by colour-blind readers (Okabe & Ito 2008),
# on grey; those beyond them are dashed.
OUTLINES = ("#e69f00", "#56b4e9", "#009e73", "#cc79a7", "#f0e442", "#d55e00", "#0072b2")
BACKGROUND = "#262626"
SHOWN_AS = {
    "1/A": (10.0, "1/nm"),
    "rad": (1e3, "mrad"),
    "eV": (1e-3, "keV"),
    "electron/angstrom^2": (1.0, "e/Å²"),
    "angstrom/s": (1.0, "Å/s"),
    "us": (1.0, "µs"),
    "pA": (1.0, "pA"),
    "electron": (1.0, "e"),
}
# Lengths in A from each of these on are shown in that unit.
LENGTHS = ((1e7, 1e-7, "mm"), (1e4, 1e-4, "µm"), (0.0, 0.1, "nm"))
SCALE_BARS = (1, 2, 5)

Caption = Mapping[str, Any]


def contact_sheet(
    images: Sequence[np.ndarray],
    masks: Sequence[np.ndarray],
    captions: Sequence[Caption],
    path: str | Path,
    title: str = "",
    pixel_sizes: float | Sequence[float] = 0.0,
    names: Sequence[str] = (),
) -> Path:
    """Draw images side by side, the outlines of their masks on them, conditions below.

    images: 1 to 64 arrays (ny, nx), any real dtype, each of any size; grey values are scaled per
    image between its 0.5th and 99.5th percentile. masks: one integer or bool array per image and
    of its shape (0 background, k particle k), or an empty sequence for none. captions: one mapping
    per image, name to text, number or (number, unit); 'A', 'rad' and 'eV' are shown as nm, mrad
    and keV. pixel_sizes: A per pixel for the scale bar, one for all or one per image; 0 draws none.
    names: what 1, 2, ... mean in all masks, such as kinds of defects, for a legend; none without.
    Writes a PNG to `path` and returns the path.

    Raises ConfigError when there is no image, more than 64, or the sequences do not match.
    """
    count = len(images)
    _check_sheet(images, masks, captions)
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    sizes = np.broadcast_to(np.asarray(pixel_sizes, dtype=float), (count,))
    columns = _count_columns(count)
    rows = -(-count // columns)
    tallest = max(image.shape[0] / image.shape[1] for image in images)
    tile = TILE_INCHES, TILE_INCHES * min(tallest, 2.0)
    gap, margin = 0.16, 0.2
    lines = max(len(caption) for caption in captions)
    below = max(lines * LINE_INCHES, THUMBNAIL_INCHES if len(masks) else 0.0) + 0.12
    width = columns * tile[0] + (columns - 1) * gap + 2 * margin
    legend = _place_legend(names, width - 2 * margin)
    head = (0.34 if title else 0.0) + (0.08 if legend else 0.0)
    head += LEGEND_INCHES * (1 + max((line for line, _ in legend), default=-1))
    height = head + rows * (tile[1] + below + gap) + 2 * margin - gap
    figure = Figure(figsize=(width, height), facecolor="white")
    FigureCanvasAgg(figure)
    # One pair of axes in inches from the upper left corner: a pair per tile is slow.
    axes = figure.add_axes((0, 0, 1, 1), frame_on=False, xticks=[], yticks=[])
    if title:
        letters = (width - 2 * margin) / (1.85 * LETTER_INCHES)
        size = max(12 * min(1.0, letters / len(title)), 6)
        axes.text(margin, margin, title, va="top", fontsize=size, fontweight="bold")
    for (line, left), (number, name) in zip(legend, enumerate(names, 1), strict=True):
        top = margin + (0.34 if title else 0.0) + (line + 0.4) * LEGEND_INCHES
        draw_key(axes, margin + left, top, number, name)
    for k in range(count):
        left = margin + (k % columns) * (tile[0] + gap)
        top = margin + head + (k // columns) * (tile[1] + below + gap)
        mask = masks[k] if len(masks) else None
        draw_image(axes, (left, top, *tile), images[k], mask, float(sizes[k]))
        top += tile[1] + 0.08
        room = tile[0]
        if mask is not None:
            room -= THUMBNAIL_INCHES + 0.08
            _draw_mask(axes, left + tile[0], top, mask)
        write_caption(axes, left, top, captions[k], room)
    axes.set(xlim=(0, width), ylim=(height, 0))
    path = Path(path)
    # No creation date in the file: the same sheet is the same bytes.
    figure.savefig(path, dpi=choose_resolution(images), format="png", metadata={"Software": None})
    return path


def _place_legend(names: Sequence[str], room: float) -> list[tuple[int, float]]:
    """Line and place along it, in inches, of each entry of a legend `room` inches wide."""
    places, line, left = [], 0, 0.0
    for name in names:
        wide = KEY_INCHES + (len(name) + 3) * LETTER_INCHES
        if left and left + wide > room:
            line, left = line + 1, 0.0
        places.append((line, left))
        left += wide
    return places


def draw_key(axes: Any, left: float, top: float, number: int, name: str, **style: Any) -> None:
    """An entry of a legend: the line that outlines `number` in masks, and what it means."""
    ends = [left, left + KEY_INCHES - 0.1]
    axes.plot(ends, [top, top], lw=2.2, zorder=KEY_ORDER, **outline_style(number))
    text = {"va": "center", "fontsize": 7.5, "color": "black", "zorder": KEY_ORDER} | style
    axes.text(left + KEY_INCHES - 0.03, top, name, **text)


def outline_style(number: int) -> dict[str, Any]:
    """Colour and dashes of the line around `number` in a mask."""
    dashed = (number - 1) // len(OUTLINES) % 2
    return {
        "color": OUTLINES[(number - 1) % len(OUTLINES)],
        "linestyle": (0, (2.5, 1.5)) if dashed else "solid",
    }


def draw_tile(
    image: np.ndarray, mask: np.ndarray | None, pixel_size: float
) -> tuple[bytes, tuple[int, int]]:
    """One image with its masks' outlines and scale bar alone: WebP, and its size (ny, nx).

    Arguments as for `draw_image`. It is compressed with loss, for pages.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    high = TILE_INCHES * min(image.shape[0] / image.shape[1], 2.0)
    figure = Figure(figsize=(TILE_INCHES, high), dpi=choose_resolution([image]))
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0, 0, 1, 1), frame_on=False, xticks=[], yticks=[])
    draw_image(axes, (0, 0, TILE_INCHES, high), image, mask, pixel_size)
    axes.set(xlim=(0, TILE_INCHES), ylim=(high, 0))
    stream = io.BytesIO()
    figure.savefig(stream, format="webp", dpi=figure.dpi, pil_kwargs={"quality": TILE_QUALITY})
    width, height = (round(inches * figure.dpi) for inches in (TILE_INCHES, high))
    return stream.getvalue(), (height, width)


def scale_grey(image: np.ndarray) -> np.ndarray:
    """Map an image to grey values 0..1 between its 0.5th and 99.5th percentile: float32, (ny, nx).

    A flat image becomes mid grey; values that are not finite become black.
    """
    values = np.asarray(image, dtype=np.float32)
    finite = values[np.isfinite(values)]
    if finite.size == 0:
        return np.zeros_like(values)
    low, high = np.percentile(finite, (DARKEST, BRIGHTEST))
    if high <= low:
        return np.where(np.isfinite(values), np.float32(0.5), np.float32(0))
    grey = np.clip((values - low) / (high - low), 0, 1)
    return np.nan_to_num(grey, nan=0.0).astype(np.float32)


def format_quantity(value: Any, unit: str = "") -> str:
    """A value for a reader: three significant digits, in the unit a microscopist uses.

    'A' becomes nm, µm or mm, 'rad' mrad, 'eV' keV; integers and texts stay as they are.
    """
    if isinstance(value, str):
        return value
    if isinstance(value, bool | np.bool_):
        return "yes" if value else "no"
    factor, shown = choose_unit(value, unit)
    if isinstance(value, int | np.integer) and factor == 1.0:
        text = str(int(value))
    else:
        text = _round(float(value) * factor)
    return f"{text} {shown}".strip()


def choose_unit(size: float, unit: str) -> tuple[float, str]:
    """Factor and name of the unit in which a microscopist reads numbers of about `size` in `unit`.

    Units as internally ('A', 'rad', 'eV', '1/A') or as in the database ('angstrom').
    """
    if unit in ("A", "angstrom"):
        _, factor, shown = next(row for row in LENGTHS if not abs(size) < row[0])
        return factor, shown
    return SHOWN_AS.get(unit, (1.0, unit.replace("A", "Å").replace("^2", "²").replace("^3", "³")))


def choose_scale_bar(width: float) -> float:
    """The round length in nm (1, 2 or 5 times a power of ten) nearest a fifth of `width` (A)."""
    target = width * 0.1 / 5
    power = 10.0 ** math.floor(math.log10(target))
    choices = [digit * power for digit in (*SCALE_BARS, 10)]
    return min(choices, key=lambda length: abs(math.log(length / target)))


def _check_sheet(images: Sequence, masks: Sequence, captions: Sequence) -> None:
    if not 0 < len(images) <= MOST_IMAGES:
        raise ConfigError(
            f"a contact sheet shows 1 to {MOST_IMAGES} images; {len(images)} were given"
        )
    if len(captions) != len(images) or len(masks) not in (0, len(images)):
        raise ConfigError(
            f"a contact sheet needs one caption and one mask per image; there are {len(images)} "
            f"images, {len(captions)} captions and {len(masks)} masks"
        )
    for k, mask in enumerate(masks):
        if mask.shape != images[k].shape:
            raise ConfigError(f"image {k} is {images[k].shape} but its mask is {mask.shape}")


def _count_columns(count: int) -> int:
    """A sheet a little wider than tall, without a nearly empty last row where that is possible."""
    start = max(1, math.ceil(math.sqrt(count)))
    return min(range(start, min(start + 2, count) + 1), key=lambda n: (-count) % n, default=1)


def choose_resolution(images: Sequence[np.ndarray]) -> float:
    """Dots per inch at which a whole number of pixels meets a whole number of dots.

    Otherwise the noise of single pixels beats with the dots. About 500 dots per tile, fewer where
    there are many.
    """
    target = 560 if len(images) <= 16 else 330
    wide = max(image.shape[1] for image in images)
    dots = wide / -(-wide // target) if wide > target else wide * (target // wide)
    return dots / TILE_INCHES


def draw_image(
    axes: Any,
    box: tuple[float, float, float, float],
    image: np.ndarray,
    mask: np.ndarray | None,
    pixel_size: float,
    filled: bool = False,
) -> None:
    """Draw an image as large as fits in `box` (left, top, width, height in inches), at its top.

    image: (ny, nx) of any real dtype. mask: (ny, nx), 0 background, k particle k, outlined and with
    `filled` also tinted; None for none. Outlines as close as those of atom columns would hide what
    they outline and are left out unless `filled`. pixel_size: A per pixel for the scale bar; 0 for
    none. `axes` count inches from the upper left corner of their figure.
    """
    ny, nx = image.shape
    left, top, wide, high = box
    pixel = min(wide / nx, high / ny)
    left += (wide - nx * pixel) / 2
    extent = (left, left + nx * pixel, top + ny * pixel, top)
    grey = scale_grey(image)
    if mask is not None and filled:
        tint = np.where((mask > 0)[..., None], colour_mask(mask), 1.0)
        axes.imshow(grey[..., None] * (0.35 + 0.65 * tint), extent=extent)
    else:
        axes.imshow(grey, cmap="gray", vmin=0, vmax=1, extent=extent)
    if mask is not None and (filled or not _is_crowded(mask)):
        x = left + (np.arange(nx) + 0.5) * pixel
        y = top + (np.arange(ny) + 0.5) * pixel
        for particle in np.unique(mask[mask > 0]):
            inside = mask == particle
            style = outline_style(int(particle))
            lines = {"colors": style["color"], "linestyles": [style["linestyle"]]}
            # No line is drawn along the image's border, nor around one that fills the image.
            if min(nx, ny) > 1 and not inside.all():
                axes.contour(x, y, inside, levels=[0.5], linewidths=0.9, **lines)
    if pixel_size > 0:
        _draw_scale_bar(axes, extent, nx * pixel_size)


def _is_crowded(mask: np.ndarray) -> bool:
    """Whether outlines would take a good part of the picture's pixels."""
    crossed = np.count_nonzero(mask[:, 1:] != mask[:, :-1])
    return crossed > MOST_OUTLINE * mask.size


def _draw_scale_bar(axes: Any, extent: tuple[float, float, float, float], width: float) -> None:
    """A bar of a round length in the lower left corner of an image `width` A wide."""
    from matplotlib.patches import Rectangle

    left, right, bottom, _ = extent
    length = choose_scale_bar(width)
    bar = length * 10 / width * (right - left)
    plate = Rectangle((left + 0.05, bottom - 0.3), bar + 0.1, 0.25, color="black", alpha=0.55, lw=0)
    axes.add_patch(plate)
    axes.add_patch(Rectangle((left + 0.1, bottom - 0.13), bar, 0.035, color="white", lw=0))
    style: dict[str, Any] = {"color": "white", "fontsize": 6.5, "ha": "center", "va": "bottom"}
    axes.text(left + 0.1 + bar / 2, bottom - 0.15, f"{length:g} nm", **style)


def _draw_mask(axes: Any, right: float, top: float, mask: np.ndarray) -> None:
    """The mask itself, small: each particle filled with the colour of its outline."""
    ny, nx = mask.shape
    pixel = THUMBNAIL_INCHES / max(ny, nx)
    axes.imshow(colour_mask(mask), extent=(right - nx * pixel, right, top + ny * pixel, top))


def colour_mask(mask: np.ndarray) -> np.ndarray:
    """Each particle of a mask (ny, nx) in the colour of its outline: (ny, nx, 3) float32, 0..1."""
    from matplotlib.colors import to_rgb

    palette = np.array([to_rgb(BACKGROUND), *map(to_rgb, OUTLINES)], dtype=np.float32)
    labels = mask.astype(int)
    return palette[np.where(labels > 0, (labels - 1) % len(OUTLINES) + 1, 0)]


def write_caption(axes: Any, left: float, top: float, caption: Caption, room: float) -> None:
    """Names in grey, values beside them in black, a line each; what does not fit is cut."""
    names = max((len(name) for name in caption), default=0) * LETTER_INCHES + 0.1
    names = min(names, 0.6 * room)
    letters = max(1, int((room - names) / LETTER_INCHES))
    style: dict[str, Any] = {"va": "center", "fontsize": 7.5}
    for line, (name, value) in enumerate(caption.items()):
        text = format_quantity(*value) if isinstance(value, tuple) else format_quantity(value)
        y = top + (line + 0.5) * LINE_INCHES
        axes.text(left, y, _cut(name, int(names / LETTER_INCHES)), color="#777777", **style)
        axes.text(left + names, y, _cut(text, letters), color="black", **style)


def _cut(text: str, letters: int) -> str:
    return text if len(text) <= letters else text[: max(letters - 1, 0)] + "…"


def _round(value: float) -> str:
    """Three significant digits with their zeros, no more than are there above a thousand."""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    value = float(f"{value:.3g}")
    power = math.floor(math.log10(abs(value)))
    if not -3 <= power < 6:
        return f"{value:.3g}".replace("e-0", "e-").replace("e+0", "e")
    return f"{value:.{max(0, 2 - power)}f}"
