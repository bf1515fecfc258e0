"""The page of an evaluation: scores, baselines, curves over conditions, the worst images."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hpctem.learning.judging.judge import Record
from hpctem.learning.judging.matching import Judged
from hpctem.learning.judging.truths import Truth
from hpctem.learning.prediction.positions import is_inside
from hpctem.learning.prediction.predict import Seen
from hpctem.page.curves import Curve, draw_curve
from hpctem.page.document import write_page
from hpctem.page.markup import Html, embed, join, table, tag
from hpctem.report import (
    TILE_INCHES,
    TILE_QUALITY,
    choose_resolution,
    choose_unit,
    draw_image,
    draw_tile,
    outline_style,
)

VERDICTS = ("right", "missed", "false", "does not count")
LEAST_RING = 0.03  # inches
MOST_INTERVALS = 4  # columns of a table that has room for them
NOTHING: Mapping[str, float | None] = {"value": None, "low": None, "high": None}


@dataclass(frozen=True)
class Shown:
    """An image of the page: what was found and what is true; judged: its positions."""

    record: Record
    seen: Seen
    truth: Truth
    judged: Judged | None
    pixel_size: float | None


def write_evaluation_page(report: Mapping[str, Any], shown: Sequence[Shown], radius: float) -> str:
    """The page as HTML that needs nothing else.

    report: what evaluation.json holds; shown: the worst images; radius: A, of matching.
    """
    model, images = report["model"], report["images"]
    facts = (
        ("model", model["name"], f"{model['kind']}: {', '.join(model['classes'])}"),
        ("images", f"{images['count']:,}", f"of {images['structures']:,} structures"),
        *_list_headlines(report),
    )
    head = tag(
        "header",
        tag("p", "Evaluation", class_="kicker"),
        tag("h1", model["name"]),
        tag(
            "dl",
            (
                tag("div", tag("dt", name), tag("dd", tag("b", value), " ", note))
                for name, value, note in facts
            ),
            class_="facts",
        ),
    )
    sections = (
        ("Scores", _write_scores(report)),
        *((f"By {name}", _write_curves(name, one, report)) for name, one in _list_curves(report)),
        ("What was taken for what", _write_confusions(report)),
        ("Worst images", _write_worst(shown, model["classes"], radius)),
        ("How it was judged", _write_settings(report)),
    )
    body = (tag("section", tag("h2", title), part) for title, part in sections if part)
    return write_page([(model["name"], tag("main", head, body))], "evaluation")


def _list_headlines(report: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    for part, name in (("positions", "F1 of positions"), ("pixels", "F1 of pixels")):
        if part in report:
            of, one = list(report[part].items())[-1]
            yield name, *_split(one["f1"], of)
    if "above_baselines" in report:
        yield "above baselines", f"{report['above_baselines']:+.3f}", "F1, over the better of both"


def _split(one: Mapping[str, float | None], of: str) -> tuple[str, str]:
    value, _, interval = tell(one).partition(" ")
    return value, f"{of}; {interval.strip('()')}" if interval else of


def tell(one: Mapping[str, float | None]) -> str:
    """'0.931 (0.912 … 0.948)', or a dash where it does not apply."""
    if one["value"] is None:
        return "–"
    if one["low"] is None or one["high"] is None:
        return f"{one['value']:.3f}"
    return f"{one['value']:.3f} ({one['low']:.3f} … {one['high']:.3f})"


def tell_learnt(report: Mapping[str, Any]) -> str:
    """Whether the model had seen what it was judged on; nothing for image files."""
    name, images = report["model"]["name"], report["images"]
    if images["truths"]:
        return ""
    known, left = images["learnt_from"], images["left_out"]
    if known is None:
        return (
            f"{name} does not say which images it has learnt from, as it was trained by an older "
            "hpctem: if these are among them, the scores are too good"
        )
    if left:
        return (
            f"{name} has learnt from the structures of {left:,} more: these are left out, --all "
            "judges them too"
        )
    if known:
        return (
            f"{name} has learnt from the structures of {known:,} of these: scores of images that "
            "it has not seen are in general lower"
        )
    return f"{name} has learnt from the structures of none of these"


def _write_scores(report: Mapping[str, Any]) -> Html:
    text = (
        "F1 = TP / (TP + (FP + FN) / 2) of everything in all images together; beside it the mean "
        "over images of each image's own. In parentheses the interval that holds 95 % of the "
        f"scores when {report['settings']['intervals']['drawn']} are drawn anew, with replacement."
    )
    parts = [tag("p", text, class_="note")]
    if note := tell_learnt(report):
        parts.append(tag("p", f"{note}.", class_="note"))
    for part, caption in (("pixels", "Pixels"), ("positions", "Positions")):
        if part not in report:
            continue
        rows = [
            (
                name,
                *(tell(one[word]) for word in ("f1", "precision", "recall")),
                tell(one["iou"]) if part == "pixels" else f"{one['true_positives']:,}",
                tell(one["images"]["f1"])
                if part == "pixels"
                else f"{one['false_positives']:,} / {one['false_negatives']:,}",
            )
            for name, one in (*report[part].items(), *_list_baselines(report, part))
        ]
        last = ("IoU", "F1, mean of images") if part == "pixels" else ("right", "false / missed")
        head = (caption.lower(), "F1", "precision", "recall", *last)
        parts += [tag("h3", caption), table(head, rows, caption, (1, 2, 3, 4, 5))]
    return join(*parts)


def _list_baselines(report: Mapping[str, Any], part: str) -> list[tuple[str, Any]]:
    if part != "pixels":
        return []
    return [
        (f"without a network: {name}", one) for name, one in report.get("baselines", {}).items()
    ]


def _list_curves(report: Mapping[str, Any]) -> list[tuple[str, Any]]:
    return list(report["curves"].items())


def _write_curves(name: str, one: Mapping[str, Any], report: Mapping[str, Any]) -> Html:
    points = [point for point in one["points"] if point["images"]]
    if not points:
        return tag("p", "No image is in any of these strata.")
    numbers = all(point["mean"] is not None for point in points) and len(points) > 1
    largest = max((abs(point["mean"] or 0.0) for point in points), default=0.0)
    factor, unit = choose_unit(largest, one["units"]) if numbers else (1.0, "")
    label = f"{name}, {unit}" if unit else name
    short = [point["stratum"].removeprefix(name).strip() for point in points]
    part = "positions" if "positions" in report else "pixels"
    cards = []
    for of in report[part]:
        scores = [point.get(part, {}).get(of, {}).get("f1") for point in points]
        curve = Curve(
            np.array([factor * (point["mean"] or 0.0) for point in points]),
            () if numbers else tuple(short),
            _gather(scores, "value"),
            _gather(scores, "low"),
            _gather(scores, "high"),
            report[part][of]["f1"]["value"],
        )
        title = f"F1 of {part}, {of}"
        chart = Html(draw_curve(curve, label, "F1", f"{title}, by {name}"))
        cards.append(tag("article", tag("h4", title), chart, class_="card"))
    text = (
        f"{one['description'][:1].upper()}{one['description'][1:]}. Each point stands at the mean "
        "of its images; band and lines: 95 % intervals; dashed: all images."
    )
    wide = len(report[part]) > MOST_INTERVALS
    rows = []
    for k, point in enumerate(points):
        scores = [point.get(part, {}).get(of, {}).get("f1", NOTHING) for of in report[part]]
        told = [tell({**NOTHING, "value": one["value"]} if wide else one) for one in scores]
        rows.append((short[k], f"{point['images']:,}", *told))
    head = (name, "images", *(f"F1, {of}" for of in report[part]))
    return join(
        tag("p", text, class_="note"),
        tag("div", cards, class_="cards"),
        table(head, rows, f"F1 of {part} by {name}", tuple(range(1, len(head)))),
    )


def _gather(scores: Sequence[Mapping[str, float | None] | None], end: str) -> np.ndarray:
    values = [None if score is None else score[end] for score in scores]
    return np.array([np.nan if value is None else value for value in values], float)


def _write_confusions(report: Mapping[str, Any]) -> Html | None:
    names = report["model"]["classes"]
    parts = []
    for key, caption, nothing in (
        ("position_confusion", "Positions", ("missed", "nothing")),
        ("pixel_confusion", "Pixels", ("background", "background")),
    ):
        if key not in report or (key == "position_confusion" and len(names) < 2):
            continue
        counts = np.array(report[key])
        rows = []
        for k, name in enumerate((nothing[1], *names)):
            total = max(int(counts[k].sum()), 1)
            cells = [f"{int(n):,} ({100 * n / total:.1f} %)" for n in counts[k]]
            if key == "position_confusion" and k == 0:
                cells[0] = ""
            rows.append((f"true: {name}", *cells))
        head = ("", *(f"found: {name}" for name in (nothing[0], *names)))
        shown = table(head, rows, caption, tuple(range(1, len(head))))
        parts += [tag("h3", caption), shown]
    return join(*parts) if parts else None


def _write_worst(shown: Sequence[Shown], classes: Sequence[str], radius: float) -> Html | None:
    if not shown:
        return None
    verdicts = any(one.judged is not None for one in shown)
    names = VERDICTS if verdicts else tuple(classes)
    keys = (
        tag("span", tag("i", style=f"background: {outline_style(k)['color']}"), f" {name}")
        for k, name in enumerate(names, 1)
    )
    text = (
        "The images of the lowest F1, the lowest first. "
        + ("Rings: positions, where they truly are, false ones where they were found."
           if verdicts
           else "First what is true, then what was found.")
    )  # fmt: skip
    tiles = [tile for one in shown for tile in _draw_shown(one, radius)]
    return join(
        tag("p", text, class_="note"),
        tag("p", keys, class_="legend"),
        tag("div", tiles, class_="tiles"),
    )


def _draw_shown(one: Shown, radius: float) -> Iterator[Html]:
    row = "" if one.record.row is None else f", row {one.record.row}"
    name = f"{Path(one.record.name).name}{row}"
    image, pixel = one.seen.shot.image, one.pixel_size or 0.0
    if one.judged is not None:
        pictures = [("", draw_verdicts(one, radius / pixel / 2))]
    else:
        assert one.truth.mask is not None
        masks = (("true", one.truth.mask), ("found", one.seen.mask))
        pictures = [(word, draw_tile(image, mask, pixel)) for word, mask in masks]
    for word, (raw, (height, width)) in pictures:
        about = f"{name}{': ' + word if word else ''}"
        picture = embed(raw, "webp", about, width, height, "tile")
        lines = [("image", name), ("F1", f"{one.record.worth:.3f}")]
        lines += [("shown", word)] if word else []
        pairs = (join(tag("dt", key), tag("dd", value)) for key, value in lines)
        yield tag("figure", picture, tag("figcaption", tag("dl", pairs)))


def draw_verdicts(one: Shown, reach: float) -> tuple[bytes, tuple[int, int]]:
    """The image with a ring of `reach` pixels around each position, coloured by what it is.

    WebP, and its size (ny, nx). Right and missed ones are drawn where they truly are.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.patches import Circle

    image = one.seen.shot.image
    high = TILE_INCHES * min(image.shape[0] / image.shape[1], 2.0)
    figure = Figure(figsize=(TILE_INCHES, high), dpi=choose_resolution([image]))
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0, 0, 1, 1), frame_on=False, xticks=[], yticks=[])
    draw_image(axes, (0, 0, TILE_INCHES, high), image, None, one.pixel_size or 0.0)
    pixel = min(TILE_INCHES / image.shape[1], high / image.shape[0])
    left = (TILE_INCHES - pixel * image.shape[1]) / 2
    for number, points in enumerate(list_verdicts(one), 1):
        for x, y in points:
            place = left + (x + 0.5) * pixel, (y + 0.5) * pixel
            style = outline_style(number)
            axes.add_patch(
                Circle(place, max(reach * pixel, LEAST_RING), fill=False, lw=0.9, **style)
            )
    axes.set(xlim=(0, TILE_INCHES), ylim=(high, 0))
    stream = io.BytesIO()
    figure.savefig(stream, format="webp", dpi=figure.dpi, pil_kwargs={"quality": TILE_QUALITY})
    width, height = (round(inches * figure.dpi) for inches in (TILE_INCHES, high))
    return stream.getvalue(), (height, width)


def list_verdicts(one: Shown) -> tuple[np.ndarray, ...]:
    """Positions (n, 2) of each of VERDICTS: true ones where they are, false where they were found.

    Left out are those that lie beyond the image.
    """
    assert one.judged is not None and one.truth.points is not None
    found = np.stack([one.seen.found.x, one.seen.found.y], axis=1)
    truth, judged = one.truth.points, one.judged
    shown = is_inside(truth[:, 0], truth[:, 1], one.seen.mask.shape)
    rest = ~(judged.right | judged.missed) & shown
    return truth[judged.right], truth[judged.missed], found[judged.false], truth[rest]


def _write_settings(report: Mapping[str, Any]) -> Html:
    rows = [
        (tag("code", f"{part}.{key}"), str(value))
        for part, values in (*report["settings"].items(), ("images", report["images"]))
        for key, value in values.items()
        if value not in (None, [], ()) and key != "files"
    ]
    rows.append((tag("code", "images.files"), ", ".join(report["images"]["files"][:20])))
    rows.append((tag("code", "model.weights"), report["model"]["weights"]))
    return table(("setting", "value"), rows, "Settings")
