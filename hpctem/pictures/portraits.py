"""One image of a database with all that is known of it: image, label, spectrum, metadata."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hpctem.collection.objects import find_rows
from hpctem.collection.stacks import DETECTORS, Maps
from hpctem.database.reader import Database
from hpctem.detection.filters import MEDIAN_VIEW, RAW_VIEW, apply_view
from hpctem.errors import ConfigError
from hpctem.pictures.lines import write_lines
from hpctem.pictures.marking import list_kinds, mark_classes
from hpctem.pictures.spectra import power_spectrum, whole_spectrum
from hpctem.report import (
    LEGEND_INCHES,
    LETTER_INCHES,
    LINE_INCHES,
    choose_resolution,
    draw_image,
    draw_key,
    outline_style,
    write_caption,
)

MOST_ROWS = 12
PICTURES = ("png", "pdf", "svg")
# Highest spatial frequency shown, in 1/nm: what lies beyond 0.8 A is noise.
HIGHEST_FREQUENCY = 12.5
PANEL_INCHES, GAP_INCHES, MARGIN_INCHES, HEAD_INCHES = 3.1, 0.14, 0.2, 0.5
# A column of metadata is as wide as its longest lines need, within these.
LEAST_TEXT_INCHES, MOST_TEXT_INCHES = 2.4, 4.2
# Rings around defects, in angstrom, but no smaller than is seen.
RING, LEAST_RING_INCHES = 1.5, 0.035


@dataclass(frozen=True)
class Portrait:
    """What is drawn of one image.

    image    (ny, nx) as stored; view: how it is shown
    mask     (ny, nx), 0 background, k particle k or class k; None where there is none
    lines    name -> text, in the order in which they are written
    names    what 1, 2, ... mean in the mask; () for particles
    kinds    of defects
    defects  column and row in pixels of each defect that lies in the image, and its kind
    others   images (ny, nx) by further detectors, each segment by itself, and what they are
    """

    title: str
    image: np.ndarray
    mask: np.ndarray | None
    view: str
    pixel_size: float
    lines: Mapping[str, str]
    names: tuple[str, ...] = ()
    kinds: tuple[str, ...] = ()
    defects: tuple[tuple[float, float, str], ...] = ()
    others: tuple[tuple[str, np.ndarray], ...] = ()


def draw_rows(collection: Any, indices: Sequence[int]) -> Any:
    """Draw images of a collection, a strip for each; returns a matplotlib Figure.

    collection: rows of open databases, with `databases`, `sources` and `rows`. indices: positions
    in it, 1 to 12.

    Raises ConfigError for no or too many images, DatabaseError for a row that cannot be read.
    """
    _check_count(len(indices))
    return draw_portraits(
        [
            read_portrait(collection.databases[collection.sources[i]], int(collection.rows[i]))
            for i in indices
        ]
    )


def read_portraits(database: Database, rows: Sequence[int]) -> list[Portrait]:
    """Images of a database by their rows in the file, 1 to 12.

    Raises ConfigError for no or too many, DatabaseError that says why a row cannot be seen.
    """
    _check_count(len(rows))
    return [read_portrait(database, row) for row in rows]


def read_portrait(database: Database, row: int) -> Portrait:
    """An image of a database by its row in the file; DatabaseError says why it cannot be seen."""
    values = database.row("images", row)
    rows, marking = np.array([row]), mark_classes(database.layout.fields)
    tables_of_it = ("structures", "images")
    fields = (item for table in tables_of_it for item in database.layout.fields_of(table))
    units = {item.name: item.units for item in fields}
    return Portrait(
        title=f"{write_name(database.path)}, row {row}",
        image=database.stored(database.image_path, rows)[0],
        mask=database.stored(marking.fields[0].path, rows)[0] if marking else None,
        view=str(database.field(database.image_path).attributes.get("view", RAW_VIEW)),
        pixel_size=float(values["pixel_size"]),
        lines=write_lines(values, units),
        names=marking.names if marking else (),
        kinds=list_kinds(database.layout.fields),
        defects=_read_defects(database, row),
        others=_read_others(database, row),
    )


def _read_others(database: Database, row: int) -> tuple[tuple[str, np.ndarray], ...]:
    """The images by further detectors, and what they are."""
    found = []
    for name, image in Maps(database, row, DETECTORS).items():
        segments = image[None] if image.ndim == 2 else image
        for number, segment in enumerate(segments, 1):
            part = f", segment {number} of {len(segments)}" if image.ndim > 2 else ""
            found.append((f"detector {name}{part}", segment))
    return tuple(found)


def _read_defects(database: Database, row: int) -> tuple[tuple[float, float, str], ...]:
    """Column, row and kind of each defect that lies in an image."""
    if not list_kinds(database.layout.fields):
        return ()
    rows = find_rows(database, "defects", np.array([row]), seen=True)
    names = ("pixel_x", "pixel_y", "kind", "inside")
    columns = [database.column(f"/entry/defects/{name}", rows=rows).tolist() for name in names]
    return tuple((x, y, kind) for x, y, kind, inside in zip(*columns, strict=True) if inside)


def write_name(path: Path) -> str:
    """A file's name as text; bytes of it that are no UTF-8 become question marks."""
    return path.name.encode("utf-8", "replace").decode("utf-8")


def choose_kind(path: Path) -> str:
    """The kind of picture that a file's name asks for: 'png', 'pdf' or 'svg'.

    Raises ConfigError for another, so that no other file is ever written over.
    """
    kind = path.suffix.lower().removeprefix(".")
    if kind not in PICTURES:
        raise ConfigError(
            f"{path.name}: a picture is one of {', '.join(PICTURES)}, not {kind!r}; end its name "
            "with one of these"
        )
    return kind


def save_figure(figure: Any, path: Path) -> Path:
    """Write a figure as PNG, PDF or SVG, told by the file's name; returns the path.

    Raises ConfigError for another kind of file.
    """
    kind = choose_kind(path)
    # No creation date in the file: the same picture is the same bytes.
    undated = {"png": {"Software": None}, "pdf": {"CreationDate": None}, "svg": {"Date": None}}
    figure.savefig(path, format=kind, metadata=undated[kind])
    return path


def draw_portraits(shown: Sequence[Portrait]) -> Any:
    """Draw a strip for each: image, label, spectrum, further detectors, metadata; a Figure.

    Raises ConfigError when there is none or more than 12.
    """
    _check_count(len(shown))
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    aspects = [portrait.image.shape[0] / portrait.image.shape[1] for portrait in shown]
    panel = PANEL_INCHES * min(max(aspects), 2.0)
    lines = max(len(portrait.lines) for portrait in shown)
    texts = -(-lines * LINE_INCHES // panel)
    high = HEAD_INCHES + max(panel, LINE_INCHES * -(-lines // texts)) + 0.1
    room = _measure_text(shown)
    panels = 3 + max(len(portrait.others) for portrait in shown)
    width = 2 * MARGIN_INCHES + panels * (PANEL_INCHES + GAP_INCHES) + texts * room
    size = (width, len(shown) * high + MARGIN_INCHES)
    dots = choose_resolution([portrait.image for portrait in shown])
    figure = Figure(figsize=size, dpi=dots, facecolor="white")
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0, 0, 1, 1), frame_on=False, xticks=[], yticks=[])
    for k, portrait in enumerate(shown):
        top = k * high + MARGIN_INCHES / 2
        _draw_strip(axes, top, panel, panels, int(texts), room, portrait)
    axes.set(xlim=(0, figure.get_figwidth()), ylim=(figure.get_figheight(), 0))
    return figure


def _check_count(count: int) -> None:
    if not 0 < count <= MOST_ROWS:
        raise ConfigError(f"a picture shows 1 to {MOST_ROWS} rows; {count} were given")


def _measure_text(shown: Sequence[Portrait]) -> float:
    """Width of a column of metadata in inches."""
    lines = [line for portrait in shown for line in portrait.lines.items()]
    names = max((len(name) for name, _ in lines), default=0)
    texts = max((len(text) for _, text in lines), default=0)
    needed = (names + texts + 2) * LETTER_INCHES + 0.3
    return min(max(needed, LEAST_TEXT_INCHES), MOST_TEXT_INCHES)


def _draw_strip(
    axes: Any, top: float, panel: float, panels: int, texts: int, room: float, portrait: Portrait
) -> None:
    boxes = [
        (MARGIN_INCHES + k * (PANEL_INCHES + GAP_INCHES), top + HEAD_INCHES, PANEL_INCHES, panel)
        for k in range(panels)
    ]
    axes.text(
        MARGIN_INCHES, top + 0.16, portrait.title, fontsize=10, fontweight="bold", va="center"
    )
    shown = apply_view(portrait.image, portrait.view)
    median = ", 3 × 3 median" if portrait.view == MEDIAN_VIEW else ""
    titles = (f"image{median}", _tell_label(portrait), "power spectrum, log scale")
    for title, box in zip((*titles, *(name for name, _ in portrait.others)), boxes, strict=False):
        style: dict[str, Any] = {"fontsize": 8, "va": "center", "color": "#555555"}
        axes.text(box[0], top + HEAD_INCHES - 0.1, title, **style)
    draw_image(axes, boxes[0], shown, None, portrait.pixel_size)
    draw_image(axes, boxes[1], shown, portrait.mask, 0.0, filled=True)
    _draw_defects(axes, boxes[1], portrait)
    _draw_spectrum(axes, boxes[2], portrait)
    for box, (_, image) in zip(boxes[3:], portrait.others, strict=False):
        draw_image(axes, box, image, None, 0.0)
    left = boxes[-1][0] + PANEL_INCHES + GAP_INCHES + 0.05
    items = list(portrait.lines.items())
    each = -(-len(items) // texts)
    for k in range(texts):
        part = dict(items[k * each : (k + 1) * each])
        write_caption(axes, left + k * room, top + HEAD_INCHES, part, room - 0.15)


def _tell_label(portrait: Portrait) -> str:
    """What the second picture of a strip shows."""
    parts = []
    if portrait.names:
        parts.append("atom columns")
    elif portrait.mask is not None:
        particles = len(np.unique(portrait.mask[portrait.mask > 0]))
        parts.append(f"{particles} particle{'s' * (particles != 1)}")
    if portrait.kinds:
        count = len(portrait.defects)
        parts.append(f"{count} defect{'s' * (count != 1)}")
    return f"label: {', '.join(parts)}" if parts else "no label"


def _draw_defects(axes: Any, box: tuple[float, float, float, float], portrait: Portrait) -> None:
    """Rings around the defects, coloured by kind after the classes of the mask, and a legend."""
    from matplotlib.patches import Circle, Rectangle

    left, top, wide, high = box
    ny, nx = portrait.image.shape
    pixel = min(wide / nx, high / ny)
    left += (wide - nx * pixel) / 2
    frame = Rectangle((left, top), nx * pixel, ny * pixel, transform=axes.transData)
    radius = max(RING / portrait.pixel_size * pixel, LEAST_RING_INCHES)
    for x, y, kind in portrait.defects:
        style = outline_style(len(portrait.names) + portrait.kinds.index(kind) + 1)
        place = left + (x + 0.5) * pixel, top + (y + 0.5) * pixel
        ring = axes.add_patch(Circle(place, radius, fill=False, lw=1.3, zorder=4, **style))
        ring.set_clip_path(frame)
    found = [kind for *_, kind in portrait.defects]
    texts = [*portrait.names, *(f"{kind}: {found.count(kind)}" for kind in portrait.kinds)]
    if texts:
        room = 0.42 + max(map(len, texts)) * LETTER_INCHES
        plate: dict[str, Any] = {"color": "black", "alpha": 0.65, "lw": 0, "zorder": 5}
        size = room, LEGEND_INCHES * len(texts) + 0.05
        axes.add_patch(Rectangle((left + 0.05, top + 0.05), *size, **plate))
    for line, text in enumerate(texts):
        down = top + 0.16 + line * LEGEND_INCHES
        draw_key(axes, left + 0.1, down, line + 1, text, color="white")


def _draw_spectrum(axes: Any, box: tuple[float, float, float, float], portrait: Portrait) -> None:
    """The spectrum as a square, zero frequency in its middle, with rings of round frequencies."""
    from matplotlib.patches import Circle, Rectangle
    from matplotlib.patheffects import withStroke

    left, top, wide, high = box
    side = min(wide, high)
    ny, nx = portrait.image.shape
    power = whole_spectrum(power_spectrum(portrait.image, portrait.pixel_size), nx)
    nyquist = 5.0 / portrait.pixel_size  # 1/nm
    edge = min(HIGHEST_FREQUENCY, nyquist)
    inches = side / (2 * edge)
    x, y = left + side / 2, top + side / 2
    rows, columns = (_within(n, edge / nyquist) for n in (ny, nx))
    part = np.log10(np.maximum(power[rows, columns], np.finfo(np.float32).tiny))
    seen = part[np.isfinite(part)]
    low, most = np.percentile(seen, (2, 99.95)) if seen.size else (0.0, 1.0)

    def place(index: float, count: int) -> float:
        """Inches from the middle of the lower edge of a sample of the spectrum."""
        return (index - 0.5 - count // 2) * 2 * nyquist / count * inches

    x0, x1 = place(columns.start, nx), place(columns.stop, nx)
    y0, y1 = place(rows.start, ny), place(rows.stop, ny)
    axes.add_patch(Rectangle((left, top), side, side, color="black", lw=0, zorder=-1))
    picture = axes.imshow(
        part,
        cmap="magma",
        vmin=low,
        vmax=max(most, low + 1e-6),
        extent=(x + x0, x + x1, y + y1, y + y0),
    )
    picture.set_clip_path(Rectangle((left, top), side, side, transform=axes.transData))
    for frequency in choose_rings(edge):
        radius = frequency * inches
        ring: dict[str, Any] = {"fill": False, "color": "white", "lw": 0.6, "ls": (0, (4, 3))}
        axes.add_patch(Circle((x, y), radius, **ring))
        style: dict[str, Any] = {"color": "white", "fontsize": 6.5, "ha": "center", "va": "bottom"}
        text = axes.text(
            x, y - radius - 0.02, f"{frequency:g} nm⁻¹ · {10 / frequency:.3g} Å", **style
        )
        text.set_path_effects([withStroke(linewidth=1.5, foreground="black", alpha=0.7)])


def choose_rings(edge: float) -> list[float]:
    """Two to four round frequencies below `edge`, in its unit: multiples of 1, 2 or 5."""
    power = 10.0 ** np.floor(np.log10(edge))
    steps = [factor * power for factor in (0.1, 0.2, 0.5, 1.0, 2.0, 5.0)]
    step = next(s for s in steps if edge / s <= 5)
    return [float(step * k) for k in range(1, 5) if step * k < 0.93 * edge]


def _within(count: int, share: float) -> slice:
    """The middle samples of a spectrum that reach a share of Nyquist on both sides."""
    half = min(int(np.ceil(count / 2 * share)) + 1, count // 2)
    return slice(count // 2 - half, min(count // 2 + half + 1, count))
