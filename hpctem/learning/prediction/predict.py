"""`hpctem predict`: a trained model on images, and what it finds in them as files.

Images are shared out cyclically over the ranks. Each rank writes the files of its images, rank 0
the tables of all and, last, `prediction.json`, which says what was done and that it is complete.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np

import hpctem
from hpctem.database.journal import write_durably
from hpctem.errors import ConfigError
from hpctem.learning.data.preparation import (
    filter_recorded,
    measure_preparation,
    prepare,
    tell_range,
)
from hpctem.learning.prediction.display import PredictionDisplay
from hpctem.learning.prediction.files import (
    WRITTEN,
    WRITTEN_OF_ROWS,
    Predicted,
    describe_predicted,
    make_mask,
    write_features,
    write_maps,
    write_mask,
    write_table,
)
from hpctem.learning.prediction.inference import (
    Predictor,
    Tell,
    Tiling,
    choose_tiles,
    open_predictor,
    predict_probabilities,
)
from hpctem.learning.prediction.overlay import draw_overlay
from hpctem.learning.prediction.positions import (
    RADIUS,
    THRESHOLD,
    Found,
    Way,
    find_positions,
    radius_in_pixels,
)
from hpctem.learning.prediction.resampling import find_mean_size, find_sizes, match_pixels
from hpctem.learning.prediction.sources import Choice, Shot, Source, list_sources
from hpctem.learning.training.model_folder import Model, open_model
from hpctem.parallel import Communicator, share_cyclically
from hpctem.sections.training import SegmentationConfig

FORMAT = "hpctem-prediction-1"
SUMMARY, TABLE, FEATURES = "prediction.json", "positions.csv", "positions.json"
MOST_LINES = 20


@dataclass(frozen=True)
class Finding:
    """How positions are found; see `find_positions`.

    threshold   probability from which pixels count; also of masks where it is given. None: 0.5 for
                positions, the most probable class for masks
    border      length and its unit, 'px' or 'A'
    way         None: peaks for models of defects, components for others
    """

    threshold: float | None = None
    radius: float = RADIUS
    border: tuple[float, str] = (0.0, "px")
    least_area: int = 1
    way: Way | None = None


@dataclass(frozen=True)
class Request:
    """What is predicted, and what of it is written.

    written    of `WRITTEN`; None: by the source
    own_scale  of a model that scales images by the limits of its training's: each image by its own
               mean and deviation instead
    """

    model: Path
    sources: tuple[str, ...]
    output: Path
    choice: Choice = field(default_factory=Choice)
    tiling: Tiling = field(default_factory=Tiling)
    finding: Finding = field(default_factory=Finding)
    written: tuple[str, ...] | None = None
    own_scale: bool = False


@dataclass(frozen=True)
class Job:
    """A request with all that it names open."""

    request: Request
    model: Model
    predictor: Predictor
    way: Way

    @property
    def finding(self) -> Finding:
        """How positions are found."""
        return self.request.finding


@dataclass(frozen=True)
class Seen:
    """An image, what the network says of it, and what that comes to."""

    shot: Shot
    probabilities: np.ndarray
    mask: np.ndarray
    found: Found
    note: str

    @property
    def pixel_size(self) -> tuple[float, float] | None:
        """A along (y, x)."""
        return find_sizes(self.shot.pixel_size)


def predict(request: Request, communicator: Communicator) -> list[Predicted] | None:
    """Use a model on images and write what it finds; on rank 0 what was found, elsewhere None.

    To be called by all ranks. Raises ConfigError for a folder that holds other files, a model that
    is incomplete or names no classes, options or images that do not fit; DatabaseError for
    databases that cannot be read.
    """
    from hpctem.learning.ranks.transport import take_gpu

    model, sources = communicator.on_root(lambda: _prepare(request))
    take_gpu(communicator.local_rank)
    way = request.finding.way or ("peaks" if model.kind == "defects" else "components")
    job = Job(request, model, open_predictor(model), way)
    mine = share_cyclically(list(enumerate(sources)), communicator)
    display = PredictionDisplay(len(mine), len(sources))
    speaks = communicator.rank == 0
    found = []
    for number, source in mine:
        seen = look(job, source.read(), display.show_tiles if speaks else None)
        if speaks:
            display.warn(source.name, seen.note)
            display.count()
        found.append((number, _write_files(job, source, seen)))
    gathered = communicator.gather(found)
    if gathered is None:
        return None
    together = [pair for part in gathered for pair in part]
    predicted = [one for _, one in sorted(together, key=lambda pair: pair[0])]
    for one in predicted:
        display.warn(one.image, one.note)  # of the other ranks
    _write_summary(job, predicted)
    return predicted


def look(job: Job, shot: Shot, tell: Tell | None = None) -> Seen:
    """What a network says of one image, and where it finds what."""
    finding = job.finding
    predictor = choose_predictor(job, shot)
    probabilities = predict_probabilities(
        predictor,
        shot.image,
        shot.pixel_size,
        filtered=shot.filtered,
        tiling=job.request.tiling,
        tell=tell,
    )
    pixel = find_mean_size(shot.pixel_size)
    found = find_positions(
        probabilities,
        pixel_size=pixel,
        radius=finding.radius,
        threshold=THRESHOLD if finding.threshold is None else finding.threshold,
        border=border_in_pixels(finding.border, pixel),
        least_area=finding.least_area,
        way=job.way,
    )
    mask = make_mask(probabilities, finding.threshold)
    notes = [match_pixels(shot.pixel_size, job.predictor.pixel_sizes).note]
    how = predictor.prepares(shot.filtered)
    if how.scale == "group" and not job.request.own_scale:
        notes.append(tell_range(prepare(shot.image, how)))
    return Seen(shot, probabilities, mask, found, "; ".join(filter(None, notes)))


def choose_predictor(job: Job, shot: Shot) -> Predictor:
    """The job's predictor, or with `own_scale` one whose limits are those of this image.

    Raises ConfigError for an image whose pixels are all equal or not finite.
    """
    predictor, config = job.predictor, job.model.config
    if not job.request.own_scale or predictor.prepare.scale != "group":
        return predictor  # by its own range every image is scaled already
    assert isinstance(config, SegmentationConfig)
    how = predictor.prepares(shot.filtered)
    section = config.data.preparation.model_copy(update={"median": how.median})
    return replace(predictor, prepare=measure_preparation([shot.image], section))


def border_in_pixels(border: tuple[float, str], pixel_size: float | None) -> float:
    """A border, a length and its unit ('px' or 'A'), in pixels of so many A.

    Raises ConfigError for one in A where the pixel size is unknown.
    """
    length, unit = border
    if unit == "px" or length == 0:
        return length
    if pixel_size is None:
        raise ConfigError(
            f"a border of {length:g} A needs a pixel size, and the image does not say its own: "
            "give --pixel-size, or the border in pixels, as 32px"
        )
    return length / pixel_size


def _prepare(request: Request) -> tuple[Model, list[Source]]:
    """Check everything that can be before any work, and make the folder."""
    model = open_model(request.model)
    _ = model.prepare  # a CycleGAN names no classes
    sources = list_sources(request.sources, request.choice)
    folder = request.output
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"{folder} is a file; name a new folder")
    if folder.is_dir() and any(folder.iterdir()) and not _is_begun(folder):
        raise ConfigError(f"{folder} already holds files; name a new folder, or remove it")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / SUMMARY).write_text(json.dumps({"format": FORMAT, "complete": False}) + "\n")
    return model, sources


def _is_begun(folder: Path) -> bool:
    """Whether it is the folder of a prediction that came to no end."""
    try:
        said = json.loads((folder / SUMMARY).read_text())
        return said["format"] == FORMAT and said["complete"] is False
    except (OSError, ValueError, LookupError, TypeError):
        return False


def _write_files(job: Job, source: Source, seen: Seen) -> Predicted:
    """The files of one image, and what is said of it in those of all."""
    request, shot = job.request, seen.shot
    usual = tuple(WRITTEN) if source.row is None else WRITTEN_OF_ROWS
    written = usual if request.written is None else request.written
    files = {name: f"{source.name}{ending}" for name, ending in WRITTEN.items() if name in written}
    paths = {name: request.output / file for name, file in files.items()}
    if "masks" in paths:
        write_mask(paths["masks"], seen.mask)
    if "maps" in paths:
        facts = {
            "image": source.path,
            "row": -1 if source.row is None else source.row,
            "first_row": shot.first_row,
            "pixel_size": (np.nan, np.nan) if seen.pixel_size is None else seen.pixel_size,
        }
        write_maps(paths["maps"], seen.probabilities, job.model.classes, facts)
    if "overlays" in paths:
        pixel = find_mean_size(shot.pixel_size)
        draw_overlay(
            filter_recorded(shot.image, job.predictor.prepares(shot.filtered)),
            seen.mask,
            seen.found,
            job.model.classes,
            paths["overlays"],
            title=f"{source.name}, found by {job.model.name}",
            pixel_size=pixel,
            radius=radius_in_pixels(job.finding.radius, pixel) if job.way == "peaks" else None,
        )
    pixels = np.bincount(seen.mask.ravel(), minlength=len(job.model.classes) + 1)[1:]
    return Predicted(
        image=source.path,
        row=source.row,
        shape=(seen.mask.shape[0], seen.mask.shape[1]),
        first_row=shot.first_row,
        pixel_size=seen.pixel_size,
        classes=job.model.classes,
        found=seen.found,
        shares=tuple((pixels / seen.mask.size).tolist()),
        note=seen.note,
        files=tuple(files.values()),
    )


def _write_summary(job: Job, predicted: Sequence[Predicted]) -> None:
    """The tables of all images, and last what says that all is there."""
    request, model = job.request, job.model
    write_table(request.output / TABLE, predicted)
    write_features(request.output / FEATURES, predicted, model.name)
    tile, step = choose_tiles(job.predictor, request.tiling)
    said = {
        "format": FORMAT,
        "complete": True,
        "hpctem": hpctem.__version__,
        "model": {"name": model.name, "kind": model.kind, "digest": model.digest},
        "classes": list(model.classes),
        "preparation": {"own_scale": request.own_scale},
        "tiling": {**asdict(request.tiling), "tile": tile, "step": step},
        "finding": {**asdict(job.finding), "way": job.way},
        "images": [describe_predicted(one) for one in predicted],
    }
    write_durably(request.output / SUMMARY, (json.dumps(said, indent=1) + "\n").encode())


def format_predicted(predicted: Sequence[Predicted], folder: Path) -> str:
    """What was found, as lines for a terminal: one for each image, the last for all."""
    lines = []
    for one in predicted[:MOST_LINES]:
        row = "" if one.row is None else f" row {one.row}"
        said = describe_predicted(one)
        counts = [
            f"{name} {said['found'][name]} ({100 * said['shares'][name]:.1f} % of the area)"
            for name in one.classes
        ]
        lines.append(f"{one.image}{row}: {', '.join(counts)}")
    if len(predicted) > MOST_LINES:
        lines.append(f"... and {len(predicted) - MOST_LINES} images more")
    total = sum(len(one.found) for one in predicted)
    lines.append(f"{folder}: {total} positions in {len(predicted)} images")
    return "\n".join(lines)
