"""The training loop: epochs of equal steps on all ranks, recorded, kept, resumable at any step.

What is learnt is a `Task`; the loop knows nothing of networks or losses. All ranks take the same
steps; after each of them they agree, by one small sum, on the metrics and on whether to stop. The
variables of a task are equal on all ranks after every step, so that rank 0 alone writes them down.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import tensorflow as tf

from hpctem.learning.data.feed import reading
from hpctem.learning.ranks.transport import Transport, require_equal
from hpctem.learning.training.board import HELD_OUT, open_board, show_on_board
from hpctem.learning.training.checkpoints import (
    Place,
    load_checkpoint,
    move_place,
    restore,
    save_best,
    save_checkpoint,
)
from hpctem.learning.training.history import StepLog, read_history, write_history
from hpctem.learning.training.progress import Moment
from hpctem.learning.training.soundness import (
    end_on_loss,
    require_sound_scores,
    watch_variables,
)
from hpctem.parallel import Communicator

SAMPLES = "samples"
CHECKPOINT_SECONDS = 600.0


class Task(Protocol):
    """What is learnt: networks, their losses, their optimisers, what they are validated with."""

    @property
    def better(self) -> str | None:
        """Column of the history whose least value says which weights are kept; None: the last."""

    def variables(self) -> Mapping[str, Any]:
        """All that must be kept to go on as if nothing had happened, by names fixed for a config.

        Keras or TensorFlow variables, equal on all ranks after every step.
        """

    def set_rate(self, rate: float) -> None:
        """The learning rate of the next step."""

    def train_step(self, batch: Any) -> Mapping[str, tf.Tensor]:
        """Learn from this rank's batch; scalar metrics of it, `loss` among them, on every rank.

        Gradients are averaged over the ranks by the transport.
        """

    def validate(self) -> Mapping[str, float]:
        """Metrics of what is held out, over all ranks and equal on each; {} without such data."""

    def draw(self, path: Path) -> None:
        """Write a picture (PNG) of what the networks do to some samples; called on rank 0 alone."""


@dataclass(frozen=True)
class Plan:
    """How long is trained.

    epochs   in all
    steps    of an epoch, on every rank
    batch    images of a step, on every rank
    rate     learning rate at a time in epochs, 0 at the beginning, 0.5 in the middle of the first
    """

    epochs: int
    steps: int
    batch: int
    rate: Callable[[float], float]


@dataclass(frozen=True)
class Outcome:
    """How a training ended: where, whether at its end, and the rows of its history."""

    place: Place
    complete: bool
    history: list[dict[str, float]]


Feed = Callable[[int, int], Any]
Explain = Callable[[int, int], Mapping[str, np.ndarray]]


@dataclass
class Loop:
    """A training as `fit` runs it, and what it has seen of it; arguments as there."""

    task: Task
    feed_of: Feed
    plan: Plan
    folder: Path
    communicator: Communicator
    transport: Transport
    stop: Callable[[], bool] = lambda: False
    display: Callable[[Moment], None] = lambda moment: None
    explain: Explain = lambda epoch, step: {}
    note: Callable[[str], None] = lambda text: None
    checkpoint_seconds: float = CHECKPOINT_SECONDS
    history: list[dict[str, float]] = field(default_factory=list)
    log: StepLog | None = None
    board: Any = None
    batches: Iterator[Any] | None = None
    sound: Callable[[], bool] = lambda: True
    saved: float = 0.0
    done: int = -1  # the first step of a job compiles; its time says nothing of the others
    seconds: float = 0.0
    waited: float = 0.0

    @property
    def speaks(self) -> bool:
        """Whether this rank writes and tells."""
        return self.communicator.rank == 0


def fit(loop: Loop) -> Outcome:
    """Train to the end of the plan, or until `stop`, from the last checkpoint of the folder on.

    task                 what is learnt, its networks and optimisers built
    feed_of              feed_of(epoch, first_step) -> batches of this rank from that step (from 0)
                         of that epoch (from 0) on to the end of the training: one pipeline, so
                         that an epoch's first batches are read while the one before it ends
    plan                 how long
    folder               of the model: history.csv, steps.csv, samples/, checkpoints/, tensorboard/
    communicator, transport
    stop                 asked after every step; when it is true on any rank all of them stop, and
                         the checkpoint is written
    display              shown every step's `Moment` on rank 0
    explain              explain(epoch, step) -> arrays that say what this rank's batch of that step
                         is made of; saved beside a batch that ends the training
    note                 told on rank 0 what a user should know
    checkpoint_seconds   between checkpoints within an epoch; there is one after every epoch

    At the same number of ranks a training that was interrupted gives the same history as one that
    was not. Raises HpctemError when loss or weights are not finite numbers after a step, its batch
    saved, or what validates an epoch is not; MachineError when the ranks' variables differ.
    """
    place = _begin(loop)
    complete = place.epoch == loop.plan.epochs
    try:
        while not complete:
            place, stopped = _train_epoch(loop, place)
            if stopped:
                break
            place = _end_epoch(loop, place)
            complete = place.epoch == loop.plan.epochs
    finally:
        if loop.log is not None:
            loop.log.close()
        if loop.board is not None:
            loop.board.close()
    return Outcome(place, complete, loop.history)


def _begin(loop: Loop) -> Place:
    """Every rank at the place of the last checkpoint, or at the beginning, with rank 0's values."""
    variables = loop.task.variables()

    def take_up() -> Place:
        found = load_checkpoint(loop.folder, loop.note)
        if found is None:
            return Place(steps=loop.plan.steps, ranks=loop.communicator.size)
        restore(variables, found[1])
        return found[0]

    place = loop.communicator.on_root(take_up)
    loop.transport.broadcast(list(variables.values()))
    size = loop.communicator.size
    if place.ranks != size and loop.speaks:
        loop.note(
            f"the training was begun on {place.ranks} ranks and goes on on {size}: its loss curve "
            "will not be that of an uninterrupted training"
        )
    place = move_place(place, loop.plan.steps, size)
    if loop.speaks and place.epoch < loop.plan.epochs:
        loop.history = [row for row in read_history(loop.folder) if row["epoch"] <= place.epoch]
        loop.log = StepLog(loop.folder, place.epoch, place.step)
        loop.board = open_board(loop.folder)
    elif loop.speaks:
        loop.history = read_history(loop.folder)
    loop.sound = watch_variables(variables.values())
    loop.saved = time.monotonic()
    return place


def _train_epoch(loop: Loop, place: Place) -> tuple[Place, bool]:
    """Take the remaining steps of an epoch; the place after them, and whether to stop there."""
    # An epoch that was left after its last step waits for its validation alone.
    while place.step < place.steps:
        loop.task.set_rate(loop.plan.rate(place.epoch + place.step / place.steps))
        began = time.perf_counter()
        batch = _take(loop, place)
        waited = time.perf_counter() - began
        metrics = loop.task.train_step(batch)
        names = list(metrics)
        values, stopped, sound = _agree(loop, [float(metrics[name]) for name in names])
        told = dict(zip(names, values, strict=True))
        if not sound:
            _end_on_loss(loop, place, batch, told)
        seconds = time.perf_counter() - began
        place = _advance(place, told, seconds, waited)
        if loop.speaks:
            _record_step(loop, place, told, seconds, waited, stopped)
            now = time.monotonic()
            if stopped or now - loop.saved >= loop.checkpoint_seconds:
                _save(loop, place)
        if stopped:
            return place, True
    return place, False


def _take(loop: Loop, place: Place) -> Any:
    """The batch of a place; the pipeline is made for the first one, which waits for that too."""
    with reading():
        if loop.batches is None:
            loop.batches = iter(loop.feed_of(place.epoch, place.step))
        return next(loop.batches)


def _agree(loop: Loop, values: list[float]) -> tuple[list[float], bool, bool]:
    """Means of the values over the ranks, whether any rank has been asked to stop, and whether
    all values and all variables are finite on all of them."""
    sound = bool(np.isfinite(values).all()) and loop.sound()
    mine = np.array([float(bool(loop.stop())), float(not sound), *values])
    if loop.communicator.mpi is not None:
        from mpi4py import MPI

        loop.communicator.mpi.Allreduce(MPI.IN_PLACE, mine, MPI.SUM)
    return (mine[2:] / loop.communicator.size).tolist(), bool(mine[0]), not mine[1]


def _advance(place: Place, told: Mapping[str, float], seconds: float, waited: float) -> Place:
    sums = {name: place.sums.get(name, 0.0) + value for name, value in told.items()}
    return replace(
        place,
        step=place.step + 1,
        sums=sums,
        seconds=place.seconds + seconds,
        waited=place.waited + waited,
    )


def _record_step(
    loop: Loop,
    place: Place,
    told: Mapping[str, float],
    seconds: float,
    waited: float,
    stopped: bool,
) -> None:
    if loop.log is not None:
        loop.log.add({"epoch": place.epoch + 1, "step": place.step, **told})
    loop.done += 1
    if loop.done:
        loop.seconds += seconds
        loop.waited += waited
    plan = loop.plan
    last = stopped or (place.epoch + 1, place.step) == (plan.epochs, plan.steps)
    loop.display(
        Moment(
            epoch=place.epoch + 1,
            epochs=plan.epochs,
            step=place.step,
            steps=place.steps,
            loss=place.sums["loss"] / place.step,
            images=plan.batch * loop.communicator.size,
            done=loop.done,
            seconds=loop.seconds,
            waited=loop.waited,
            last=last,
        )
    )


def _save(loop: Loop, place: Place) -> None:
    """Write the checkpoint of a place."""
    save_checkpoint(loop.folder, place, loop.task.variables())
    loop.saved = time.monotonic()


def _end_on_loss(loop: Loop, place: Place, batch: Any, told: Mapping[str, float]) -> None:
    """End where loss or weights were lost, the batch saved and the step written down."""
    at = place.epoch + 1, place.step + 1
    about = loop.explain(place.epoch, place.step)
    error = end_on_loss(loop.folder, loop.communicator, at, batch, about, told)
    if loop.speaks and loop.log is not None:
        loop.log.add({"epoch": at[0], "step": at[1], **told})
    raise error


def _end_epoch(loop: Loop, place: Place) -> Place:
    """Validate, record and keep an epoch whose steps are done."""
    variables = loop.task.variables()
    require_equal(loop.transport, loop.communicator, list(variables.values()))
    plan, epoch = loop.plan, place.epoch + 1
    with reading():
        scores = loop.task.validate()
    held_out = {HELD_OUT + name: float(value) for name, value in scores.items()}
    require_sound_scores(held_out, (HELD_OUT + "loss", loop.task.better or ""), epoch)
    row: dict[str, float] = {
        "epoch": epoch,
        "steps": place.steps,
        "rate": plan.rate(place.epoch + (place.steps - 1) / place.steps),
        **{name: total / place.steps for name, total in place.sums.items()},
        **held_out,
        "seconds": place.seconds,
        "images_per_second": place.steps * plan.batch * place.ranks / max(place.seconds, 1e-9),
        "waiting": place.waited / max(place.seconds, 1e-9),
    }
    value = row.get(loop.task.better or "", float("nan"))
    is_best = value < place.best
    if is_best:
        place = replace(place, best=value, best_epoch=epoch)
    place = replace(place, epoch=epoch, step=0, sums={}, seconds=0.0, waited=0.0)
    loop.history.append(row)
    if loop.speaks:
        picture = loop.folder / SAMPLES / f"epoch-{epoch:04d}.png"
        picture.parent.mkdir(exist_ok=True)
        loop.task.draw(picture)
        show_on_board(loop.board, row, picture)
        write_history(loop.folder, loop.history)
        if is_best:
            save_best(loop.folder, place, variables)
        _save(loop, place)
    return place
