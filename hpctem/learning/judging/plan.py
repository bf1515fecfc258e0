"""What is judged, by what truth: everything that can be checked before any work."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from hpctem.collection.collection import Collection
from hpctem.database.journal import write_durably
from hpctem.errors import ConfigError
from hpctem.learning.data.accepted import ACCEPTED
from hpctem.learning.data.targets import find_classes
from hpctem.learning.judging.judge import Rules, find_reach
from hpctem.learning.judging.metrics import choose_blocks
from hpctem.learning.judging.truths import Labels, find_located, read_truth
from hpctem.learning.prediction import predict
from hpctem.learning.prediction.resampling import find_mean_size
from hpctem.learning.prediction.sources import ImageRow, Source, list_sources
from hpctem.learning.training.model_folder import Model, open_model
from hpctem.report import format_quantity
from hpctem.sections.training import SegmentationConfig
from hpctem.subsets.pool import identify_structures, make_strata
from hpctem.subsets.request import parse_stratum
from hpctem.subsets.strata import Edges, Strata, cut

FORMAT = "hpctem-evaluation-1"
SUMMARY = "evaluation.json"
BINS = 8
MOST_VALUES = 12


@dataclass(frozen=True)
class Request:
    """What is judged.

    looked   model, images, and how it looks at them, as `hpctem predict` does
    truths   files of labels, one for each image file, in their order; none for databases
    rules    how positions are judged
    by       'COLUMN' or 'COLUMN:EDGES', whose curves are drawn
    seed     of the bootstrap
    learnt   judge also images of structures that the model has learnt from
    """

    looked: predict.Request
    truths: tuple[str, ...] = ()
    rules: Rules = field(default_factory=Rules)
    by: tuple[str, ...] = ()
    seed: int = 0
    learnt: bool = False


@dataclass(frozen=True)
class Plan:
    """What all ranks know before they begin.

    familiar  images asked for that show structures which the model has learnt from; None where
              nobody knows. They are among the sources if the request says so, and else left out
    labels    of databases; None for image files
    groups    (n,) int64, the structure of each image: images of one structure show the same
    blocks    a side, into which each image is cut for the bootstrap
    located   the classes, from 1, whose positions are judged
    strata    by column, in the order asked for
    """

    model: Model
    sources: list[Source]
    familiar: int | None
    labels: Labels | None
    groups: np.ndarray
    blocks: int
    located: tuple[int, ...]
    strata: tuple[Strata, ...]


def prepare_evaluation(request: Request) -> Plan:
    """Check everything that can be before any work, and make the folder."""
    looked = request.looked
    model = open_model(looked.model)
    _ = model.prepare  # a CycleGAN names no classes
    # The labels of a translated image that failed its check may be wrong; who asks for such
    # images by their column is given them.
    asked = ACCEPTED in (looked.choice.where or "")
    sources = list_sources(looked.sources, looked.choice, accepted=not asked)
    rows = [source for source in sources if isinstance(source, ImageRow)]
    if rows and (len(rows) < len(sources) or request.truths):
        raise ConfigError(
            "databases hold their labels themselves: judge them without --truth, and apart from "
            "image files"
        )
    folder = looked.output
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"{folder} is a file; name a new folder")
    if folder.is_dir() and any(folder.iterdir()) and not _is_evaluation(folder):
        raise ConfigError(f"{folder} already holds other files; name a new folder, or remove it")
    plan = _plan_rows(request, model, rows) if rows else _plan_files(request, model, sources)
    folder.mkdir(parents=True, exist_ok=True)
    write_durably(folder / SUMMARY, (json.dumps({"format": FORMAT}) + "\n").encode())
    return plan


def _is_evaluation(folder: Path) -> bool:
    try:
        return json.loads((folder / SUMMARY).read_text())["format"] == FORMAT
    except (OSError, ValueError, LookupError, TypeError):
        return False


def _plan_rows(request: Request, model: Model, rows: list[ImageRow]) -> Plan:
    collection = rows[0].collection
    if any(row.collection is not collection for row in rows):
        raise ConfigError("judge one subset file alone: it names its databases itself")
    assert isinstance(model.config, SegmentationConfig)
    rows, familiar = _leave_out(rows, model, request.learnt)
    collection = rows[0].collection
    classes = find_classes(model.config.target, collection)
    located = find_located(classes, collection) if model.kind == "defects" else {}
    if located:
        shot = rows[0].read()
        find_reach(shot.image.shape, find_mean_size(shot.pixel_size), request.rules)
    groups = identify_structures(collection).codes
    return Plan(
        model,
        list(rows),
        familiar,
        Labels(classes, located),
        groups,
        choose_blocks(len(np.unique(groups))),
        tuple(located),
        tuple(choose_strata(collection, text) for text in request.by),
    )


def _leave_out(
    rows: list[ImageRow], model: Model, learnt: bool
) -> tuple[list[ImageRow], int | None]:
    """The images to judge, and how many of those asked for show what was learnt from.

    learnt   judge these too

    Raises ConfigError where no other is left.
    """
    known, images = model.learnt, rows[0].collection
    if known is None:
        return rows, None
    seen = known.find(images)
    familiar = int(seen.sum())
    if learnt or not familiar:
        return rows, familiar
    if familiar == len(rows):
        raise ConfigError(
            f"{model.folder} has learnt from the structures of all {familiar} images that it shall "
            "be judged on: none was held out. Judge it on others; --all judges it on these, and "
            "says nothing of images that it has not seen"
        )
    kept = images.take(np.flatnonzero(~seen))
    names = [row.name for row in rows if not seen[row.place]]
    return [ImageRow(kept, place, name) for place, name in enumerate(names)], familiar


def _plan_files(request: Request, model: Model, sources: list[Source]) -> Plan:
    if len(request.truths) != len(sources):
        raise ConfigError(
            f"{len(sources)} image files and {len(request.truths)} files of labels: give --truth "
            "FILE for each image, in their order"
        )
    if request.by:
        raise ConfigError(f"--by {request.by[0]}: image files have no columns; databases do")
    if request.learnt:
        raise ConfigError("--all is for databases: of image files nothing is left out")
    for source, path in zip(sources, request.truths, strict=True):
        shot = source.read()
        shape = shot.image.shape
        if read_truth(path, model.classes, shape, shot.first_row).points is not None:
            find_reach(shape, find_mean_size(shot.pixel_size), request.rules)
    return Plan(
        model,
        sources,
        None,
        None,
        np.arange(len(sources)),
        choose_blocks(len(sources)),
        tuple(range(1, len(model.classes) + 1)),
        (),
    )


def choose_strata(collection: Collection, text: str) -> Strata:
    """The strata of 'COLUMN' or 'COLUMN:EDGES' as subsets have them.

    A column of numbers without edges that has more than 12 values is cut into eight bins of
    about as many images each. Raises ConfigError for a column that is unknown or does not fit.
    """
    name, edges = parse_stratum(text)
    column = collection.find(name)
    if edges is None and column.numeric and not column.shape:
        values = collection.column(name)
        known = np.unique(values[np.isfinite(values)])
        if len(known) > MOST_VALUES:
            ends = np.unique(np.quantile(values[np.isfinite(values)], np.linspace(0, 1, BINS + 1)))
            texts = tuple(format_quantity(float(end), column.units) for end in ends)
            return cut(values, Edges(tuple(ends.tolist()), texts), name)
    return make_strata(collection, name, edges)
