"""Ranks under mpirun that fit a line, by each transport; rank 0 writes what became of it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from hpctem.errors import HpctemError, MachineError
from hpctem.learning.ranks.transport import Transport, open_transport, why_not_horovod
from hpctem.learning.training.checkpoints import list_checkpoints, load_checkpoint
from hpctem.learning.training.history import OF_THE_MACHINE
from hpctem.learning.training.loop import Loop, Outcome, Plan, fit
from hpctem.parallel import abort_on_error, world

EPOCHS, STEPS, BATCH = 3, 5, 4
TARGET = np.array([1.0, -2.0, 0.5], np.float32)


class Fit:
    """Least squares by gradient descent with momentum: w of x.w = y."""

    better: str | None = "val_loss"

    def __init__(self, transport: Transport, held_out: list[float] | None = None) -> None:
        self.transport = transport
        self.weights = tf.Variable(tf.zeros(3), name="weights")
        self.momentum = tf.Variable(tf.zeros(3), name="momentum")
        self.rate = 0.0
        self.rates: list[float] = []
        self.held_out = held_out
        self.drawn: list[Path] = []
        self.validated = 0

    def variables(self) -> Mapping[str, Any]:
        return {"weights": self.weights, "momentum": self.momentum}

    def set_rate(self, rate: float) -> None:
        self.rate = rate
        self.rates.append(rate)

    def train_step(self, batch: tuple[tf.Tensor, tf.Tensor]) -> dict[str, tf.Tensor]:
        first = self.weights[0]
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean((tf.linalg.matvec(batch[0], self.weights) - batch[1]) ** 2)
        gradient = self.transport.average([tape.gradient(loss, self.weights)])[0]
        self.momentum.assign(0.5 * self.momentum + gradient)
        self.weights.assign_sub(self.rate * self.momentum)
        return {"loss": loss, "first": first}

    def validate(self) -> dict[str, float]:
        self.validated += 1
        if self.held_out is not None:
            return {"loss": self.held_out[self.validated - 1]}
        return {"loss": float(tf.reduce_sum((self.weights - TARGET) ** 2))}

    def draw(self, path: Path) -> None:
        self.drawn.append(path)


def make_batch(epoch: int, step: int, rank: int = 0, size: int = 1) -> tuple[tf.Tensor, tf.Tensor]:
    """Batches of a rank that together are the same at any number of ranks."""
    x = np.random.default_rng([epoch, step]).normal(size=(BATCH * size, 3)).astype(np.float32)
    mine = x[rank::size]
    return tf.constant(mine), tf.constant(mine @ TARGET)


def feed_of(epoch: int, first_step: int, ranks: tuple[int, int] = (0, 1)) -> Iterator[Any]:
    """The batches of a rank from a step on, of all epochs."""
    steps = range(epoch * STEPS + first_step, EPOCHS * STEPS)
    return (make_batch(*divmod(step, STEPS), *ranks) for step in steps)


def stop_after(steps: int) -> Callable[[], bool]:
    """A request that comes during step number `steps` of a job."""
    asked = iter(range(1, 10**6))
    return lambda: next(asked) >= steps


def of_the_network(history: list[dict[str, float]]) -> list[dict[str, float]]:
    return [{k: v for k, v in row.items() if k not in OF_THE_MACHINE} for row in history]


def far(step: int, rate: float) -> Plan:
    """Rates under which hardly anything is learnt, but for one step (from 0) of the training."""
    return Plan(EPOCHS, STEPS, BATCH, lambda at: rate if round(at * STEPS) == step else 1e-3)


PLAN = Plan(EPOCHS, STEPS, BATCH, lambda epoch: 0.1)


class Astray(Fit):
    """A task whose momentum differs on the second rank."""

    def train_step(self, batch: Any) -> dict[str, Any]:
        found = super().train_step(batch)
        if self.transport.rank == 1:
            self.momentum.assign_add([0.0, 1e-7, 0.0])
        return found


def try_all(transport: Transport, folder: Path) -> dict[str, Any]:
    """Train whole, stopped and taken up, astray and too far; what each rank saw, on rank 0."""
    c = transport.communicator

    def run(
        name: str,
        task: Fit | None = None,
        stop: Callable[[], bool] = lambda: False,
        plan: Plan = PLAN,
    ) -> tuple[Outcome, Fit]:
        c.on_root(lambda: (folder / name).mkdir(parents=True, exist_ok=True))
        task = task or Fit(transport)
        own = partial(feed_of, ranks=(c.rank, c.size))
        return fit(Loop(task, own, plan, folder / name, c, transport, stop=stop)), task

    told: dict[str, Any] = {}
    outcome, task = run("whole")
    told["weights"] = c.gather(task.weights.numpy().tolist())
    told["losses"] = [row["loss"] for row in outcome.history]
    asked = c.rank == c.size - 1
    part, _ = run("parts", stop=stop_after(7) if asked else lambda: False)
    told["stopped"] = c.gather([part.complete, part.place.epoch, part.place.step])
    rest, resumed = run("parts")
    told["resumed"] = c.gather(resumed.weights.numpy().tolist())
    told["same"] = of_the_network(rest.history) == of_the_network(outcome.history)
    told["astray"] = ""
    try:
        run("astray", Astray(transport))
    except MachineError as error:
        told["astray"] = str(error)
    said = ""
    try:
        run("far", plan=far(STEPS + 1, 3e38))
    except HpctemError as error:
        said = str(error)
    told["overflow"] = c.gather(said)
    with np.load(folder / f"far/nan-epoch-2-step-2/rank-{c.rank}.npz") as saved:
        told["saved"] = c.gather(saved["batch_0"].tolist())
    found = load_checkpoint(folder / "far")
    told["kept"] = found and [found[0].epoch, len(list_checkpoints(folder / "far"))]
    return told


def main() -> None:
    """Try Horovod, where it is, and mpi4py."""
    communicator = world()
    with abort_on_error(communicator):
        names = ["mpi4py"] if why_not_horovod(communicator.threads) else ["horovod", "mpi4py"]
        told = {name: try_all(open_transport(communicator, name), Path(name)) for name in names}
        if communicator.rank == 0:
            Path("told.json").write_text(json.dumps(told))


if __name__ == "__main__":
    main()
