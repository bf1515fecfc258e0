"""The same training several times, with independent draws and beginnings, and how far they differ.

One number from one network says little: Rangel DaCosta et al. (2024) train five for each set of
images and give minimum, median and maximum.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

from hpctem.aligned import align_columns
from hpctem.database.journal import write_durably
from hpctem.errors import ConfigError
from hpctem.learning.ranks.transport import Transport
from hpctem.learning.training.run_folder import RUN
from hpctem.learning.training.runs import ALONE, Attention, Trained, train_model
from hpctem.learning.training_file import TrainingFile
from hpctem.sampling import Streams
from hpctem.sections.training import CycleganConfig
from hpctem.subsets.file import read_subset

REPEATS = "repeats.json"


def train_repeats(
    file: TrainingFile,
    folder: Path,
    repeats: int,
    transport: Transport,
    attention: Attention = ALONE,
    tell: Callable[[Trained], None] = lambda trained: None,
) -> list[Trained]:
    """Train `repeats` models into FOLDER/repeat-1, repeat-2 ... and write FOLDER/repeats.json.

    Taken up where it was left; ends after the model in whose training `attention.stop` became true.
    `tell` is called with each model on rank 0.

    Raises ConfigError when the folder is that of a single training, or the subset has fewer draws.
    """
    communicator = transport.communicator
    communicator.on_root(lambda: _require_place(folder, file, repeats))
    done = []
    for number in range(1, repeats + 1):
        varied = vary(file, number)
        heading = f"repeat {number} of {repeats}: {_describe(varied)} instead of what stands below"
        trained = train_model(varied, folder / f"repeat-{number}", transport, attention, heading)
        done.append(trained)
        if communicator.rank == 0:
            tell(trained)
        if trained.end == "stopped":
            return done
    communicator.on_root(lambda: _write(folder, file, done))
    return done


def vary(file: TrainingFile, number: int) -> TrainingFile:
    """The training file of repeat `number`, from 1: its own seed, and its own draw of a subset.

    The seed decides the split where there is no subset, the weights at the beginning, the order
    and the augmentation of images.
    """
    training = file.config.training
    seed = int(Streams(training.seed)("repeat", number).integers(2**63))
    update: dict[str, Any] = {"training": training.model_copy(update={"seed": seed})}
    name, source = _source_of(file)
    if source.subset is not None:
        update[name] = source.model_copy(update={"draw": source.draw + number - 1})
    return replace(file, config=file.config.model_copy(update=update))


def _source_of(file: TrainingFile) -> tuple[str, Any]:
    """Name and content of the section that names the databases."""
    if isinstance(file.config, CycleganConfig):
        return "simulation", file.config.simulation
    return "data", file.config.data


def _describe(file: TrainingFile) -> str:
    name, source = _source_of(file)
    draw = f", {name}.draw {source.draw}" if source.subset is not None else ""
    return f"training.seed {file.config.training.seed}{draw}"


def _require_place(folder: Path, file: TrainingFile, repeats: int) -> None:
    if (folder / RUN).exists():
        raise ConfigError(
            f"{folder} holds a single training; give another folder for its repeats (-o)"
        )
    source = _source_of(file)[1]
    if source.subset is None:
        return
    path = file.locate(source.subset)
    databases = [file.locate(database) for database in source.databases]
    draws = len(read_subset(path, databases or None))
    if source.draw + repeats > draws:
        raise ConfigError(
            f"{repeats} repeats need draws {source.draw} to {source.draw + repeats - 1} of the "
            f"subset {path}, which has draws 0 to {draws - 1}: draw it with 'hpctem subset "
            f"--draws {source.draw + repeats}', or repeat less often"
        )


def summarise(metrics: Sequence[Mapping[str, float]]) -> dict[str, dict[str, float]]:
    """Minimum, median and maximum of each metric that all networks have, of those that are finite.

    A metric that is finite for none is left out.
    """
    summary = {}
    for name in metrics[0] if metrics else ():
        values = [float(one[name]) for one in metrics if name in one]
        finite = [value for value in values if math.isfinite(value)]
        if len(values) == len(metrics) and finite:
            summary[name] = {"min": min(finite), "median": median(finite), "max": max(finite)}
    return summary


def write_table(summary: Mapping[str, Mapping[str, float]]) -> list[str]:
    """The summary as lines of text."""
    rows = [("metric", "min", "median", "max")]
    for name, found in summary.items():
        rows.append((name, f"{found['min']:.4f}", f"{found['median']:.4f}", f"{found['max']:.4f}"))
    return align_columns(rows, left=(0,))


def _write(folder: Path, file: TrainingFile, done: Sequence[Trained]) -> None:
    repeats = [
        {
            "folder": trained.folder.name,
            "seed": vary(file, number).config.training.seed,
            "draw": _source_of(vary(file, number))[1].draw,
            "metrics": dict(trained.metrics),
        }
        for number, trained in enumerate(done, 1)
    ]
    content = {"repeats": repeats, "summary": summarise([one.metrics for one in done])}
    write_durably(folder / REPEATS, (json.dumps(content, indent=1) + "\n").encode())
