"""One training from its file to its model folder: opened, begun or taken up, trained, kept."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from hpctem.database.lock import hold_lock
from hpctem.errors import ConfigError
from hpctem.learning.ranks.transport import Transport
from hpctem.learning.training.checkpoints import load_best, restore
from hpctem.learning.training.history import OF_THE_MACHINE, Row, read_history
from hpctem.learning.training.lesson import Lesson
from hpctem.learning.training.loop import CHECKPOINT_SECONDS, Loop, Outcome, fit
from hpctem.learning.training.model_folder import MODEL, save_model
from hpctem.learning.training.progress import Moment
from hpctem.learning.training.run_folder import begin_run, compare_config, refuse_other
from hpctem.learning.training_file import TrainingFile

End = Literal["found", "trained", "stopped"]


@dataclass(frozen=True)
class Attention:
    """What a training listens to and whom it tells; see `training.fit`."""

    stop: Callable[[], bool] = lambda: False
    display: Callable[[Moment], None] = lambda moment: None
    note: Callable[[str], None] = lambda text: None
    checkpoint_seconds: float = CHECKPOINT_SECONDS


ALONE = Attention()
"""Nobody is told, nothing stops it."""


@dataclass(frozen=True)
class Trained:
    """What became of a training.

    end       'found': it was over before; 'trained': it is over; 'stopped': it was asked to stop
    metrics   of the weights that are kept, or of the last epoch; the same on all ranks
    epochs    that are done
    """

    folder: Path
    end: End
    metrics: Mapping[str, float]
    epochs: int


def train_model(
    file: TrainingFile,
    folder: Path,
    transport: Transport,
    attention: Attention = ALONE,
    heading: str = "",
) -> Trained:
    """Train the model of a training file in a folder, from its beginning or from where it was left.

    A model that is finished is left alone. `heading` goes above the text of its training.yaml.

    Raises ConfigError when the folder is something else, or was begun with another config or other
    rows; DatabaseError when another job trains in it, and what reading the rows raises.
    """
    communicator = transport.communicator
    if communicator.on_root(lambda: _is_finished(folder, file)):
        return communicator.on_root(lambda: _tell_end(folder, "found"))
    lesson = open_lesson(file, transport)
    with ExitStack() as held:

        def claim() -> bool:
            begun = begin_run(folder, file, lesson.rows, heading)
            held.enter_context(hold_lock(folder))
            return begun

        if communicator.on_root(claim) and communicator.rank == 0:
            attention.note(f"{folder} was begun before and goes on where it was")
        loop = Loop(
            task=lesson.task,
            feed_of=lesson.feed_of,
            plan=lesson.plan,
            folder=folder,
            communicator=communicator,
            transport=transport,
            stop=attention.stop,
            display=attention.display,
            explain=lesson.explain,
            note=attention.note,
            checkpoint_seconds=attention.checkpoint_seconds,
        )
        outcome = fit(loop)
        if not outcome.complete:
            return communicator.on_root(lambda: _tell_end(folder, "stopped"))
        communicator.on_root(lambda: _keep(file, folder, lesson, outcome, transport))
    return communicator.on_root(lambda: _tell_end(folder, "trained"))


def open_lesson(file: TrainingFile, transport: Transport) -> Lesson:
    """All that a training file comes to, on this rank; errors of its kind of network."""
    if file.config.training.kind == "cyclegan":
        from hpctem.learning.cyclegan.task import open_cyclegan

        return open_cyclegan(file, transport.communicator, transport)
    from hpctem.learning.training.segmentation import open_segmentation

    return open_segmentation(file, transport.communicator, transport)


def _is_finished(folder: Path, file: TrainingFile) -> bool:
    """Whether the folder holds this model already."""
    differences = compare_config(folder, file)
    if differences:
        raise refuse_other(folder, differences)
    return (folder / MODEL).exists()


def _keep(
    file: TrainingFile, folder: Path, lesson: Lesson, outcome: Outcome, transport: Transport
) -> None:
    """Write the model, with the best weights where there is a best."""
    best = load_best(folder) if lesson.task.better else None
    if best is not None:
        restore(lesson.task.variables(), best[1])
    history = outcome.history or read_history(folder)
    if not history:
        raise ConfigError(f"{folder} has no history: move it away to begin anew")
    row = history[(best[0].best_epoch if best else len(history)) - 1]
    trained = {
        **lesson.counts,
        "kept epoch": int(row["epoch"]),
        "steps of an epoch": lesson.plan.steps,
        "images of a step": lesson.plan.batch * transport.size,
        "ranks": transport.size,
        "transport": transport.name,
        "seconds": round(sum(row["seconds"] for row in history), 1),
    }
    save_model(folder, file, lesson.kept, lesson.rows, _score(row), trained)


def _tell_end(folder: Path, end: End) -> Trained:
    history = read_history(folder)
    if end == "stopped":
        return Trained(folder, end, _score(history[-1]) if history else {}, len(history))
    metrics = json.loads((folder / MODEL).read_bytes())["metrics"]
    return Trained(folder, end, metrics, len(history))


def _score(row: Row) -> dict[str, float]:
    """What a row of the history says of the network."""
    apart = ("epoch", "steps", "rate", *OF_THE_MACHINE)
    return {name: value for name, value in row.items() if name not in apart}
