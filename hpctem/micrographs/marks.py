"""Reference labels of an experimental image by a rule written down beforehand.

Of the sites of one class those dimmer than usual ones are marked 'dim', those brighter 'bright'.
Each mark has two thresholds of the ratio that `columns` measures: beyond the farther one a column
is surely marked, between the two it is uncertain, and counts neither for nor against a network.
"""

from __future__ import annotations

import csv
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hpctem.errors import ConfigError
from hpctem.micrographs.columns import ImagedColumns
from hpctem.report import scale_grey
from hpctem.sections.common import nearest

USUAL = "usual"
HEADER = ("class", "pixel_x", "pixel_y", "ambiguous", "ratio", "error")
COLOURS = ("#56b4e9", "#e69f00")  # dim, bright


@dataclass(frozen=True)
class Rule:
    """Which columns are marked, by their ratio.

    site: name of the class of sites that is judged. dim, bright: (surely beyond, perhaps beyond),
    of dim ones the lower first; None judges none. names: what dim and bright ones are called.
    """

    site: str
    dim: tuple[float, float] | None
    bright: tuple[float, float] | None
    names: tuple[str, str] = ("dim", "bright")


@dataclass(frozen=True)
class Marks:
    """Every whole column of the class: its name by the rule, and whether that is certain.

    places: (n, 2) x and y in pixels of the whole image. ratio, error: (n,).
    """

    places: np.ndarray
    ratio: np.ndarray
    error: np.ndarray
    names: np.ndarray
    certain: np.ndarray


def mark_columns(columns: ImagedColumns, rule: Rule, first_row: int = 0) -> Marks:
    """Apply a rule; first_row: the image's row at which the measured part began.

    Raises ConfigError where there is no such class of sites, or thresholds are out of order.
    """
    if rule.site not in columns.names:
        raise ConfigError(
            f"there are no sites {rule.site!r}{nearest(rule.site, columns.names)}; the cell has "
            f"{', '.join(columns.names)}"
        )
    _check(rule)
    of = columns.whole & (columns.site == columns.names.index(rule.site))
    ratio = columns.ratio[of]
    names = np.full(len(ratio), USUAL, dtype=object)
    certain = np.ones(len(ratio), dtype=bool)
    for limits, sign, name in ((rule.dim, -1, rule.names[0]), (rule.bright, 1, rule.names[1])):
        if limits is None:
            continue
        perhaps, surely = sorted(sign * np.array(limits))
        marked = sign * ratio > perhaps
        names[marked] = name
        certain[marked] = sign * ratio[marked] > surely
    places = np.stack([columns.x[of], columns.y[of] + first_row], axis=1)
    error = columns.error[of] * np.abs(ratio / columns.height[of])
    return Marks(places, ratio, error, names, certain)


def _check(rule: Rule) -> None:
    for name, limits, usual_is in (("dim", rule.dim, "above"), ("bright", rule.bright, "below")):
        if limits is None:
            continue
        low, high = min(limits), max(limits)
        if not (high < 1 if name == "dim" else low > 1):
            raise ConfigError(
                f"--{name} {limits[0]:g}:{limits[1]:g}: usual columns have the ratio 1, which must "
                f"lie {usual_is} both"
            )


def write_marks(marks: Marks, path: Path, everything: bool = False) -> None:
    """Write the marked columns as CSV, or `everything`, usual columns too.

    class, pixel_x, pixel_y and ambiguous (0 or 1) are what `hpctem evaluate --truth` reads; ratio
    and error follow.
    """
    temporary = path.with_name(path.name + ".part")
    with open(temporary, "w", newline="", encoding="utf-8") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(HEADER)
        for (x, y), ratio, error, name, certain in zip(
            marks.places, marks.ratio, marks.error, marks.names, marks.certain, strict=True
        ):
            if everything or name != USUAL:
                ambiguous = int(not certain)
                table.writerow(
                    [name, f"{x:.3f}", f"{y:.3f}", ambiguous, f"{ratio:.4f}", f"{error:.4f}"]
                )
    os.replace(temporary, path)


def describe_marks(marks: Marks, rule: Rule) -> list[str]:
    """Lines of text: how many are marked, how many of them surely, how the usual ones spread."""
    usual = marks.ratio[marks.names == USUAL]
    lines = [f"{len(marks.ratio)} whole columns of {rule.site}, {len(usual)} of them usual"]
    for name in rule.names:
        of = marks.names == name
        if of.any():
            sure = int(marks.certain[of].sum())
            lines.append(f"{of.sum()} {name}: {sure} certain, {of.sum() - sure} uncertain")
    width = 1.4826 * float(np.median(np.abs(usual - np.median(usual)))) if len(usual) else 0.0
    lines.append(f"ratios of usual columns spread by {width:.2f}")
    return lines


def draw_marks(image: np.ndarray, marks: Marks, rule: Rule, first_row: int, title: str) -> Any:
    """Draw an image (ny, nx) with circles, dashed where uncertain, and the histogram of ratios."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    ny, nx = image.shape
    figure = Figure(
        figsize=(14, 3.4 + 14 * ny / nx), facecolor="white", layout="constrained", dpi=110
    )
    FigureCanvasAgg(figure)
    figure.suptitle(title, x=0.01, ha="left", fontsize=13, fontweight="bold")
    above, below = figure.subplots(2, 1, height_ratios=(14 * ny / nx, 3))
    extent = (-0.5, nx - 0.5, first_row + ny - 0.5, first_row - 0.5)
    above.imshow(scale_grey(image), cmap="gray", vmin=0, vmax=1, extent=extent)
    bins = np.arange(np.floor(marks.ratio.min() * 20) / 20, marks.ratio.max() + 0.1, 0.05)
    below.hist(marks.ratio, bins, color="#bbbbbb")
    for name, limits, colour in zip(rule.names, (rule.dim, rule.bright), COLOURS, strict=True):
        for certain, dashes in ((True, "-"), (False, ":")):
            of = (marks.names == name) & (marks.certain == certain)
            above.scatter(
                *marks.places[of].T,
                s=115,
                facecolors="none",
                edgecolors=colour,
                linestyle=dashes,
                linewidths=1.5,
                label=f"{of.sum()} {name}" + ("" if certain else ", uncertain"),
            )
        for limit in limits or ():
            below.axvline(limit, color=colour, lw=1.2, ls="--")
    above.set(xticks=[], xlabel="", ylabel="row")
    above.legend(loc="upper right", fontsize=9, framealpha=0.9)
    below.set(
        xlabel=f"height of a column of {rule.site} over the usual one nearby", ylabel="columns"
    )
    below.spines[["top", "right"]].set_visible(False)
    return figure
