"""Charts as SVG within the page: small, sharp on paper, readable without colour.

Every chart has a title and a description for readers who cannot see it; colours are classes of the
page's style sheet.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

import numpy as np

from hpctem.page.histogram import Histogram
from hpctem.page.spectra import Group, Spectra

LETTER = 5.6  # width of a digit at the charts' 10 px
TIME_LEFT = 52  # where the axes of all charts over time begin
MOST_LINES = 160
HIGHEST_FREQUENCY = 16.0  # 1/nm; what lies beyond 0.6 A is noise


@dataclass(frozen=True)
class Frame:
    """The inner rectangle of a chart in pixels, and the ranges of its axes."""

    left: float
    top: float
    width: float
    height: float
    x: tuple[float, float]
    y: tuple[float, float]
    log_x: bool = False
    log_y: bool = False

    def place_x(self, values: np.ndarray | float) -> np.ndarray:
        """Pixels of values on the horizontal axis."""
        return self.left + self.width * _fraction(values, self.x, self.log_x)

    def place_y(self, values: np.ndarray | float) -> np.ndarray:
        """Pixels of values on the vertical axis."""
        return self.top + self.height * (1 - _fraction(values, self.y, self.log_y))

    @property
    def bottom(self) -> float:
        """The lower edge in pixels."""
        return self.top + self.height


def _fraction(values: np.ndarray | float, ends: tuple[float, float], log: bool) -> np.ndarray:
    low, high = ends
    values = np.asarray(values, dtype=np.float64)
    if log:
        values, low, high = np.log(np.maximum(values, 1e-300)), math.log(low), math.log(high)
    return np.asarray((values - low) / (high - low))


def draw_histogram(found: Histogram, title: str, description: str, what: str = "draws") -> str:
    """Bars of what was drawn, with what was expected as a line or as marks; an SVG element.

    `what` is counted.
    """
    width, height = 340, 186
    if found.labels:
        body = _draw_classes(found, width, height)
    else:
        body = _draw_bins(found, width, height)
    body.append(write_text(2, 9, what, "start", "small"))
    return wrap_chart(body, width, height, title, description)


def _draw_bins(found: Histogram, width: float, height: float) -> list[str]:
    x = (float(found.edges[0]), float(found.edges[-1]))
    curve_x, curve_y = found.curve
    band = 2 * np.sqrt(np.maximum(curve_y * (1 - curve_y / max(found.draws, 1)), 0))
    most = max(float(found.counts.max(initial=1)), float((curve_y + band).max(initial=0)))
    ticks_y = choose_ticks(0, most, 5, whole=True)
    left = 14 + LETTER * max(len(text) for _, text in ticks_y)
    top = most * 1.04
    frame = Frame(left, 16, width - left - 12, height - 16 - 38, x, (0, top), log_x=found.log)
    bars = (
        _rectangle("bar", frame, found.edges[k], found.edges[k + 1], float(count))
        for k, count in enumerate(found.counts)
        if count
    )
    body = [*draw_grid(frame, ticks_y)]
    if curve_x.size:
        body.append(draw_area("band", frame, curve_x, curve_y - band, curve_y + band))
    body += bars
    if curve_x.size:
        ends = np.array([0.0]), np.array([0.0])
        line_x = np.concatenate([curve_x[:1], curve_x, curve_x[-1:]])
        body.append(draw_line("asked", frame, line_x, np.concatenate([ends[0], curve_y, ends[1]])))
    ticks = _choose_log_ticks(*x) if found.log else choose_ticks(*x, 6)
    return [*body, *draw_axis(frame, ticks, found.unit)]


def _draw_classes(found: Histogram, width: float, height: float) -> list[str]:
    number = len(found.labels)
    asked = found.expected if found.expected.size else np.zeros(number)
    band = 2 * np.sqrt(asked * (1 - asked / max(found.draws, 1)))
    most = max(float(found.counts.max(initial=1)), float((asked + band).max(initial=0)))
    ticks_y = choose_ticks(0, most, 5, whole=True)
    left = 14 + LETTER * max(len(text) for _, text in ticks_y)
    x = (-0.5, number - 0.5)
    frame = Frame(left, 16, width - left - 12, height - 16 - 38, x, (0, most * 1.04))
    half = 0.36 if number > 1 else 0.2
    body = list(draw_grid(frame, ticks_y))
    wide = min(half + 0.08, 0.48)
    for k, (count, expected) in enumerate(zip(found.counts, asked, strict=True)):
        ends = np.array([k - wide, k + wide])
        if found.expected.size:
            body.append(
                draw_area("band", frame, ends, expected - band[[k, k]], expected + band[[k, k]])
            )
        if count:
            body.append(_rectangle("bar", frame, k - half, k + half, float(count)))
        if found.expected.size:
            body.append(draw_line("asked", frame, ends, np.full(2, expected)))
    longest = max(len(label) for label in found.labels) * LETTER + 6
    every = max(1, math.ceil(longest * number / frame.width))
    ticks = [(k, found.labels[k]) for k in range(0, number, every)]
    return [*body, *draw_axis(frame, ticks, found.unit)]


def draw_spectra(
    spectra: Spectra,
    group: Group,
    reach: tuple[float, float],
    reflections: Iterable[tuple[str, float]],
    title: str,
) -> str:
    """Mean and 10-90 % band of a group over frequency in 1/nm, the other groups' means behind."""
    width, height = 340, 246
    ticks_y = _choose_log_ticks(*reach)
    left = 16 + LETTER * max(len(text) for _, text in ticks_y)
    shown = spectra.q * 10 <= HIGHEST_FREQUENCY
    q = spectra.q[shown] * 10
    frame = Frame(
        left, 32, width - left - 10, height - 32 - 38, (0, float(q[-1])), reach, log_y=True
    )
    body = list(draw_grid(frame, ticks_y))
    body += _mark_reflections(frame, reflections)
    for other in spectra.groups:
        if other is not group:
            body.append(draw_line("others", frame, q, other.mean[shown]))
    body.append(draw_area("spread", frame, q, group.low[shown], group.high[shown]))
    if group.floor is not None:
        body.append(draw_line("floor", frame, np.array([0, q[-1]]), np.full(2, group.floor)))
    body.append(draw_line("curve", frame, q, group.mean[shown]))
    axis = draw_axis(frame, choose_ticks(0, float(q[-1]), 6), "spatial frequency, 1/nm")
    label = write_text(2, 10, "Å²", "start", "small")
    at = f"{q[len(q) // 2]:.3g}"
    description = (
        f"Radial power spectrum, mean of {group.images} images with its 10 to 90 per cent band; "
        f"{group.mean[len(q) // 2]:.3g} square angstrom at {at} per nanometre."
    )
    return wrap_chart([*body, *axis, label], width, height, title, description)


def _mark_reflections(frame: Frame, reflections: Iterable[tuple[str, float]]) -> Iterable[str]:
    """Dotted lines with their indices above, in two rows so that close ones are told apart."""
    free = [-math.inf, -math.inf]  # where the last name of each row ends
    for name, q in reflections:
        x = float(frame.place_x(q * 10))
        if x > frame.left + frame.width:
            return
        half = (LETTER * sum(letter != "\u0305" for letter in name) + 3) / 2
        row = next((k for k, end in enumerate(free) if x - half >= end), None)
        top = frame.top - (8 if row else 0)
        yield f'<path class="mark" d="M{x:.1f} {top:.1f}V{frame.bottom:.1f}"/>'
        if row is not None:
            yield write_text(x, frame.top - 4 - 10 * row, name, "middle", "small")
            free[row] = x + half


def draw_steps(
    edges: np.ndarray, values: np.ndarray, marks: Sequence[tuple[float, str]], unit: str, title: str
) -> str:
    """Values over intervals of time as steps, in images/s; `marks` are named moments."""
    width, height = 860, 200
    most = max(float(values.max(initial=0)), 1e-9)
    ticks_y = choose_ticks(0, most, 6)
    x = (float(edges[0]), float(edges[-1]))
    frame = Frame(TIME_LEFT, 22, width - TIME_LEFT - 16, height - 22 - 38, x, (0, most * 1.06))
    steps_x, steps_y = np.repeat(edges, 2)[1:-1], np.repeat(values, 2)
    body = [*draw_grid(frame, ticks_y), draw_area("spread", frame, steps_x, 0 * steps_y, steps_y)]
    body.append(draw_line("curve", frame, steps_x, steps_y))
    last = -math.inf
    for moment, name in marks:
        at = float(frame.place_x(moment))
        body.append(f'<path class="mark" d="M{at:.1f} {frame.top:.1f}V{frame.bottom:.1f}"/>')
        if at - last > LETTER * (len(name) + 1):
            body.append(write_text(at + 2, frame.top - 5, name, "start", "small"))
            last = at
    body += draw_axis(frame, choose_ticks(*x, 10), f"time of computing, {unit}")
    description = f"{values.mean():.3g} images per second on average, at most {most:.3g}."
    label = write_text(2, 10, "images/s", "start", "small")
    return wrap_chart([*body, label], width, height, title, description)


def draw_ranks(edges: np.ndarray, rates: np.ndarray, unit: str, title: str) -> str:
    """Rates (ranks, intervals) as fields, the darker the faster, with a scale below.

    Of more than 160 ranks neighbours share a line, which shows their mean.
    """
    ranks = len(rates)
    each = -(-ranks // MOST_LINES)
    starts = np.arange(0, ranks, each)
    rates = np.add.reduceat(rates, starts, axis=0) / np.diff(starts, append=ranks)[:, None]
    row = min(18.0, 260 / len(rates))
    width, height = 860, 14 + len(rates) * row + 66
    time, lines = (float(edges[0]), float(edges[-1])), (float(len(rates)), 0.0)
    frame = Frame(TIME_LEFT, 14, width - TIME_LEFT - 16, len(rates) * row, time, lines)
    most = max(float(rates.max(initial=0)), 1e-9)
    x = frame.place_x(edges)
    body = [f'<rect class="sheet" {_box(frame.left, frame.top, frame.width, frame.height)}/>']
    for line, values in enumerate(rates):
        top = float(frame.place_y(line))
        shades = np.rint(values / most * 20).astype(int)
        changes = np.flatnonzero(np.diff(shades, prepend=-1))
        for start, stop in zip(changes, [*changes[1:], len(shades)], strict=True):
            if shades[start]:
                box = _box(float(x[start]), top, float(x[stop] - x[start]), row)
                body.append(f'<rect fill="{shade(shades[start] / 20)}" {box}/>')
    step = next(n for n in _ROUND if n * row / each >= 14)
    for rank in range(0, ranks, step):
        middle = float(frame.place_y((rank + 0.5) / each))
        body.append(write_text(frame.left - 5, middle + 3.5, str(rank), "end"))
    label = "rank" if each == 1 else f"rank; a line is the mean of {each}"
    body.append(write_text(2, 10, label, "start", "small"))
    body += draw_axis(frame, choose_ticks(*frame.x, 10), f"time of computing, {unit}")
    key = frame.bottom + 52
    body.append(write_text(frame.left, key, "0", "start"))
    for k in range(21):
        body.append(
            f'<rect fill="{shade(k / 20)}" {_box(frame.left + 12 + 8 * k, key - 9, 8, 10)}/>'
        )
    body.append(write_text(frame.left + 186, key, f"{most:.3g} images/s", "start"))
    description = (
        f"Images per second of {ranks} ranks over time, from {rates.mean(axis=1).min():.3g} to "
        f"{rates.mean(axis=1).max():.3g} of a rank on average."
    )
    return wrap_chart(body, width, height, title, description)


_ROUND = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000, 20000, 50000)


def shade(value: float) -> str:
    """White to dark blue with falling lightness, so that it also reads in grey: '#rrggbb'."""
    stops = np.array(
        [[255, 255, 255], [190, 211, 230], [98, 146, 190], [38, 84, 140], [13, 36, 76]]
    )
    place = min(max(value, 0.0), 1.0) * (len(stops) - 1)
    k = min(int(place), len(stops) - 2)
    colour = stops[k] + (place - k) * (stops[k + 1] - stops[k])
    return "#" + "".join(f"{round(part):02x}" for part in colour)


def wrap_chart(
    body: Iterable[str], width: float, height: float, title: str, description: str
) -> str:
    """An SVG element of that size, which scales with its place on the page."""
    return (
        f'<svg class="chart" role="img" viewBox="0 0 {width:g} {height:g}" '
        f'aria-label="{escape(f"{title}. {description}")}">{"".join(body)}</svg>'
    )


def draw_grid(frame: Frame, ticks: Sequence[tuple[float, str]]) -> Iterable[str]:
    """Horizontal lines at the ticks (value, text) of the vertical axis."""
    for value, text in ticks:
        y = float(frame.place_y(value))
        yield f'<path class="grid" d="M{frame.left:.1f} {y:.1f}h{frame.width:.1f}"/>'
        yield write_text(frame.left - 5, y + 3.5, text, "end")


def draw_axis(frame: Frame, ticks: Sequence[tuple[float, str]], label: str) -> list[str]:
    """The horizontal axis with its ticks (value, text) and what it shows."""
    body = [f'<path class="axis" d="M{frame.left:.1f} {frame.bottom:.1f}h{frame.width:.1f}"/>']
    for value, text in ticks:
        x = float(frame.place_x(value))
        body.append(f'<path class="axis" d="M{x:.1f} {frame.bottom:.1f}v4"/>')
        body.append(write_text(x, frame.bottom + 15, text, "middle"))
    if label:
        body.append(
            write_text(frame.left + frame.width / 2, frame.bottom + 31, label, "middle", "unit")
        )
    return body


def write_text(x: float, y: float, text: str, anchor: str, kind: str = "tick") -> str:
    """A text whose anchor is 'start', 'middle' or 'end'; kind: its class in the style sheet."""
    return (
        f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'
    )


def _box(x: float, y: float, width: float, height: float) -> str:
    return f'x="{x:.2f}" y="{y:.2f}" width="{width:.2f}" height="{height:.2f}"'


def _rectangle(kind: str, frame: Frame, start: float, stop: float, value: float) -> str:
    x0, x1 = float(frame.place_x(start)), float(frame.place_x(stop))
    y = float(frame.place_y(value))
    return f'<rect class="{kind}" {_box(x0, y, x1 - x0, frame.bottom - y)}/>'


def _points(frame: Frame, x: np.ndarray, y: np.ndarray) -> str:
    low, high = sorted(frame.y)
    pixels_x, pixels_y = frame.place_x(x), frame.place_y(np.clip(y, low, high))
    pairs = zip(pixels_x.tolist(), pixels_y.tolist(), strict=True)
    return " ".join(f"{px:.1f},{py:.1f}" for px, py in pairs)


def draw_line(kind: str, frame: Frame, x: np.ndarray, y: np.ndarray) -> str:
    """A line through points (n,), cut at the frame's lower and upper edge."""
    return f'<polyline class="{kind}" points="{_points(frame, x, y)}"/>'


def draw_area(kind: str, frame: Frame, x: np.ndarray, low: np.ndarray, high: np.ndarray) -> str:
    """The area between two lines over x (n,)."""
    outline = np.concatenate([x, x[::-1]]), np.concatenate([high, low[::-1]])
    return f'<polygon class="{kind}" points="{_points(frame, *outline)}"/>'


def choose_ticks(
    low: float, high: float, most: int, whole: bool = False
) -> list[tuple[float, str]]:
    """Round values within the range, at most so many, and how they are written; whole numbers."""
    span = high - low
    power = 10.0 ** math.floor(math.log10(span / most))
    step = next(f * power for f in (1, 2, 5, 10, 20) if span / (f * power) <= most)
    step = max(step, 1.0) if whole else step
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [(k * step, f"{k * step:,.6g}") for k in range(first, last + 1)]


def _choose_log_ticks(low: float, high: float) -> list[tuple[float, str]]:
    """Powers of ten, with 2 and 5 between where there are few of them."""
    powers = range(math.floor(math.log10(low)) - 1, math.ceil(math.log10(high)) + 1)
    digits = (1, 2, 5) if math.log10(high / low) < 3 else (1,)
    values = [digit * 10.0**power for power in powers for digit in digits]
    ticks = [value for value in values if low * 0.9999 <= value <= high * 1.0001]
    return [(value, f"{value:g}") for value in ticks]
