"""Values with their intervals over a condition: a line and a band, or marks for names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hpctem.page.charts import (
    LETTER,
    Frame,
    choose_ticks,
    draw_area,
    draw_axis,
    draw_grid,
    draw_line,
    wrap_chart,
    write_text,
)

WIDTH, HEIGHT = 340, 200


@dataclass(frozen=True)
class Curve:
    """Values between 0 and 1, NaN where there is none; arrays (n,).

    x       where they are; () where `names` say it
    names   of the points, for what is no number
    whole   the value of all together
    """

    x: np.ndarray
    names: tuple[str, ...]
    values: np.ndarray
    low: np.ndarray
    high: np.ndarray
    whole: float | None = None


def draw_curve(curve: Curve, label: str, what: str, title: str) -> str:
    """A curve with its intervals as SVG; label: of the horizontal axis; what: of the vertical."""
    places = curve.x if not curve.names else np.arange(len(curve.names), dtype=float)
    span = float(np.ptp(places)) or 1.0
    reach = (float(places.min()) - 0.05 * span, float(places.max()) + 0.05 * span)
    frame = Frame(34, 16, WIDTH - 34 - 12, HEIGHT - 16 - 38, reach, (0.0, 1.0))
    body = list(draw_grid(frame, choose_ticks(0, 1, 5)))
    if curve.whole is not None:
        body.append(draw_line("floor", frame, np.array(reach), np.full(2, curve.whole)))
    known = np.isfinite(curve.values)
    sure = known & np.isfinite(curve.low) & np.isfinite(curve.high)
    x, values = places[known], curve.values[known]
    if not curve.names and sure.sum() > 1:
        body.append(draw_area("spread", frame, places[sure], curve.low[sure], curve.high[sure]))
    else:
        body += _draw_whiskers(frame, places[sure], curve.low[sure], curve.high[sure])
    if not curve.names and len(x) > 1:
        body.append(draw_line("curve", frame, x, values))
    for px, py in zip(frame.place_x(x).tolist(), frame.place_y(values).tolist(), strict=True):
        body.append(f'<circle class="point" cx="{px:.1f}" cy="{py:.1f}" r="2.6"/>')
    body.append(write_text(2, 9, what, "start", "small"))
    described = "; ".join(
        f"{_name(curve, k)}: {curve.values[k]:.3f}" for k in np.flatnonzero(known)
    )
    axis = draw_axis(frame, _choose_marks(curve, frame, reach), label)
    return wrap_chart([*body, *axis], WIDTH, HEIGHT, title, f"{what} {described}.")


def _name(curve: Curve, k: int) -> str:
    return curve.names[k] if curve.names else f"{curve.x[k]:.4g}"


def _choose_marks(
    curve: Curve, frame: Frame, reach: tuple[float, float]
) -> Sequence[tuple[float, str]]:
    if not curve.names:
        return choose_ticks(*reach, 6)
    longest = max(map(len, curve.names)) * LETTER + 6
    every = max(1, int(-(-longest * len(curve.names) // frame.width)))
    return [(k, curve.names[k]) for k in range(0, len(curve.names), every)]


def _draw_whiskers(frame: Frame, x: np.ndarray, low: np.ndarray, high: np.ndarray) -> list[str]:
    ends = zip(frame.place_x(x), frame.place_y(low), frame.place_y(high), strict=True)
    return [
        f'<path class="whisker" d="M{px:.1f} {bottom:.1f}V{top:.1f}"/>' for px, bottom, top in ends
    ]
