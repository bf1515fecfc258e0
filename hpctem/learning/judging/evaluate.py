"""`hpctem evaluate`: a trained model on images whose truth is known, and how right it is.

Images are shared out cyclically over the ranks. Rank 0 sums up and writes evaluation.json, a table
of all images, and evaluation.html.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

import hpctem
from hpctem.database.journal import write_durably
from hpctem.learning.judging.judge import (
    Record,
    judge_baselines,
    judge_found,
    judge_image,
    judge_together,
    list_scores,
    sum_up,
    trace_curve,
)
from hpctem.learning.judging.metrics import LEVEL, REPEATS
from hpctem.learning.judging.page import Shown, tell_learnt, write_evaluation_page
from hpctem.learning.judging.plan import FORMAT, SUMMARY, Plan, Request, prepare_evaluation
from hpctem.learning.judging.truths import Truth, read_truth
from hpctem.learning.prediction import predict
from hpctem.learning.prediction.display import PredictionDisplay
from hpctem.learning.prediction.inference import open_predictor
from hpctem.learning.prediction.resampling import find_mean_size
from hpctem.learning.prediction.sources import ImageRow
from hpctem.parallel import Communicator, share_cyclically
from hpctem.subsets.request import parse_stratum
from hpctem.subsets.strata import Strata

TABLE, PAGE = "images.csv", "evaluation.html"
WORST = 6


# Names of the classes, groups of images, classes whose positions are judged, seed.
Common = tuple[tuple[str, ...], np.ndarray, tuple[int, ...], int]


def evaluate(request: Request, communicator: Communicator) -> dict[str, Any] | None:
    """Judge a model on images with their truth and write how right it is into a folder.

    To be called by all ranks; what evaluation.json holds on rank 0, None elsewhere. Raises
    ConfigError for a folder that holds other files, databases beside image files, labels that are
    missing or do not fit, conditions that are no columns; else as `predict.predict`.
    """
    from hpctem.learning.ranks.transport import take_gpu

    plan = communicator.on_root(lambda: prepare_evaluation(request))
    take_gpu(communicator.local_rank)
    looked = request.looked
    way = looked.finding.way or ("peaks" if plan.model.kind == "defects" else "components")
    job = predict.Job(looked, plan.model, open_predictor(plan.model), way)
    records = judge_images(request, plan, job, communicator)
    if records is None:
        return None
    report = draw_up(request, plan, records)
    write_evaluation(request, plan, job, records, report)
    return report


def judge_images(
    request: Request, plan: Plan, job: predict.Job, communicator: Communicator
) -> list[Record] | None:
    """Every image judged, each by one of the ranks: all in their order on rank 0, None elsewhere.

    Errors as `judge_one` and `predict.look`.
    """
    mine = share_cyclically(list(enumerate(plan.sources)), communicator)
    display = PredictionDisplay(len(mine), len(plan.sources))
    speaks = communicator.rank == 0
    judged = []
    for number, source in mine:
        seen = predict.look(job, source.read(), display.show_tiles if speaks else None)
        if speaks:
            display.warn(source.name, seen.note)
            display.count()
        judged.append((number, judge_one(request, plan, number, seen)))
    gathered = communicator.gather(judged)
    if gathered is None:
        return None
    ordered = dict(pair for part in gathered for pair in part)
    return [ordered[number] for number in range(len(plan.sources))]


def read_truth_of(request: Request, plan: Plan, number: int, seen: predict.Seen) -> Truth:
    """What is true of an image by its number."""
    source = plan.sources[number]
    if isinstance(source, ImageRow):
        assert plan.labels is not None
        return plan.labels.read(source.collection, source.place)
    shape, first = seen.mask.shape, seen.shot.first_row
    return read_truth(request.truths[number], plan.model.classes, shape, first)


def judge_one(request: Request, plan: Plan, number: int, seen: predict.Seen) -> Record:
    """What was right and wrong in an image; errors as `judge_found`."""
    truth = read_truth_of(request, plan, number, seen)
    source, classes, blocks = plan.sources[number], len(plan.model.classes), plan.blocks
    pixel = find_mean_size(seen.shot.pixel_size)
    pixels = confusion = baselines = positions = mistaken = None
    if truth.mask is not None:
        pixels, confusion = judge_image(seen.mask, truth, classes, blocks)
        if plan.model.kind == "segmentation":
            baselines = judge_baselines(seen.shot.image, truth, pixel, blocks)
    if truth.points is not None:
        found = seen.found.take(np.isin(seen.found.kind, plan.located))
        shape = seen.mask.shape
        positions, mistaken = judge_found(
            found, truth, shape, pixel, request.rules, classes, blocks
        )
    return Record(source.path, source.row, pixels, confusion, baselines, positions, mistaken)


def draw_up(request: Request, plan: Plan, records: Sequence[Record]) -> dict[str, Any]:
    """All that evaluation.json says, as plain data."""
    model, looked = plan.model, request.looked
    common: Common = (model.classes, plan.groups, plan.located, request.seed)
    curves = {}
    for text, strata in zip(request.by, plan.strata, strict=True):
        name = parse_stratum(text)[0]
        curves[name] = _trace(records, common, plan, name, strata)
    units = len(np.unique(plan.groups))
    scores = sum_up(records, *common)
    if "baselines" in scores:
        best = max(one["f1"]["value"] or 0.0 for one in scores["baselines"].values())
        any_class = list(scores["pixels"].values())[-1]
        gain = (any_class["f1"]["value"] or 0.0) - best
        scores["above_baselines"] = gain
    return {
        "format": FORMAT,
        "hpctem": hpctem.__version__,
        "model": {
            "folder": str(looked.model),
            "name": model.name,
            "kind": model.kind,
            "classes": list(model.classes),
            "weights": model.digest,
        },
        "images": {
            "count": len(records),
            "structures": units,
            "files": list(dict.fromkeys(record.name for record in records)),
            "sources": list(looked.sources),
            "truths": list(request.truths),
            "learnt_from": plan.familiar,
            "left_out": 0 if request.learnt else plan.familiar or 0,
            **asdict(looked.choice),
        },
        "settings": {
            "preparation": {"own_scale": looked.own_scale},
            "tiling": asdict(looked.tiling),
            "finding": asdict(looked.finding),
            "matching": asdict(request.rules),
            "intervals": {
                "level": LEVEL,
                "repeats": REPEATS,
                "seed": request.seed,
                "drawn": _tell_units(plan),
            },
        },
        **scores,
        "curves": curves,
    }


def _tell_units(plan: Plan) -> str:
    units = len(np.unique(plan.groups))
    what = "structures" if plan.labels is not None else "images"
    if plan.blocks == 1:
        return f"{units} {what}"
    blocks = f"{plan.blocks} x {plan.blocks} of each of {units} {what}"
    return f"{units * plan.blocks**2} blocks ({blocks})"


def _trace(
    records: Sequence[Record], common: Common, plan: Plan, name: str, strata: Strata
) -> dict[str, Any]:
    source = plan.sources[0]
    assert isinstance(source, ImageRow)
    column = source.collection.find(name)
    values = source.collection.column(name) if column.numeric else None
    points = trace_curve(records, *common, strata, values)
    return {"units": column.units, "description": column.description, "points": points}


def write_evaluation(
    request: Request,
    plan: Plan,
    job: predict.Job,
    records: Sequence[Record],
    report: dict[str, Any],
) -> None:
    """Write the table of images, the page with the worst of them, and the JSON last."""
    folder = request.looked.output
    _write_table(folder / TABLE, records, plan.model.classes)
    shown = []
    for number in find_worst(records):
        seen = predict.look(job, plan.sources[number].read())
        truth = read_truth_of(request, plan, number, seen)
        judged = None
        pixel = find_mean_size(seen.shot.pixel_size)
        if truth.points is not None:
            found = seen.found.take(np.isin(seen.found.kind, plan.located))
            judged = judge_together(found, truth, seen.mask.shape, pixel, request.rules)
            seen = replace(seen, found=found)
        shown.append(Shown(records[number], seen, truth, judged, pixel))
    page = write_evaluation_page(report, shown, request.rules.radius)
    write_durably(folder / PAGE, page.encode("utf-8", errors="replace"))
    write_durably(folder / SUMMARY, (json.dumps(report, indent=1) + "\n").encode())


def find_worst(records: Sequence[Record]) -> list[int]:
    """Numbers of the six images of the lowest F1, the worst first."""
    worth = np.array([record.worth for record in records])
    order = np.argsort(np.where(np.isfinite(worth), worth, np.inf), kind="stable")
    return [int(k) for k in order[:WORST] if np.isfinite(worth[k])]


def _write_table(path: Path, records: Sequence[Record], classes: Sequence[str]) -> None:
    lines = [
        {"image": record.name, "row": record.row, **list_scores(record, classes)}
        for record in records
    ]
    names = list(dict.fromkeys(name for line in lines for name in line))
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, names, lineterminator="\r\n", restval="")
        writer.writeheader()
        for line in lines:
            writer.writerow({name: "" if value is None else value for name, value in line.items()})


def format_evaluation(report: dict[str, Any], folder: Path) -> str:
    """The scores as text for people."""
    count, structures = report["images"]["count"], report["images"]["structures"]
    lines = [f"{count} images of {structures} structures: {folder / PAGE}"]
    if note := tell_learnt(report):
        lines.append(f"  {note}")
    for part, title in (("pixels", "pixels"), ("baselines", "pixels"), ("positions", "positions")):
        for name, one in report.get(part, {}).items():
            told = ", ".join(f"{word} {format_score(one[word])}" for word in _WORDS[part])
            lines.append(f"  {title}, {name}: {told}")
    if "above_baselines" in report:
        lines.append(f"  F1 above the better baseline: {report['above_baselines']:+.3f}")
    return "\n".join(lines)


_WORDS = {
    "pixels": ("f1", "precision", "recall", "iou"),
    "baselines": ("f1",),
    "positions": ("f1", "precision", "recall"),
}


def format_score(one: dict[str, float | None]) -> str:
    """'0.931 (0.912 ... 0.948)', or a dash where it does not apply."""
    value, low, high = one["value"], one["low"], one["high"]
    if value is None:
        return "-"
    interval = f" ({low:.3f} ... {high:.3f})" if low is not None and high is not None else ""
    return f"{value:.3f}{interval}"
