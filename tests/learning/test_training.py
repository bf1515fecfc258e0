"""The training loop, on a task small enough to be computed by hand: it goes on as if never left."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from hpctem.errors import HpctemError
from hpctem.learning.ranks.transport import Transport, open_transport
from hpctem.learning.training.checkpoints import Place, list_checkpoints, load_best, load_checkpoint
from hpctem.learning.training.history import OF_THE_MACHINE, StepLog, read_history, write_history
from hpctem.learning.training.loop import Loop, Outcome, Plan, fit
from hpctem.learning.training.progress import Moment, describe_moment
from hpctem.parallel import Communicator

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
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean((tf.linalg.matvec(batch[0], self.weights) - batch[1]) ** 2)
        gradient = self.transport.average([tape.gradient(loss, self.weights)])[0]
        self.momentum.assign(0.5 * self.momentum + gradient)
        self.weights.assign_sub(self.rate * self.momentum)
        return {"loss": loss, "first": self.weights[0]}

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


def feed_of(epoch: int, first_step: int) -> Iterator[Any]:
    return (make_batch(epoch, step) for step in range(first_step, STEPS))


@pytest.fixture(scope="module")
def alone() -> Transport:
    return open_transport(Communicator(), "single")


@pytest.fixture
def train(alone: Transport, tmp_path: Path) -> Callable[..., tuple[Outcome, Fit]]:
    """Train in a folder; options are those of `Loop`, and `task`."""

    def run(folder: str = "model", task: Fit | None = None, **options: Any) -> tuple[Outcome, Fit]:
        task = task or Fit(alone)
        path = tmp_path / folder
        path.mkdir(exist_ok=True)
        plan = Plan(EPOCHS, STEPS, BATCH, lambda epoch: 0.1 / (1 + epoch))
        loop = Loop(task, feed_of, plan, path, alone.communicator, alone)
        for name, value in options.items():
            setattr(loop, name, value)
        return fit(loop), task

    return run


def stop_after(steps: int) -> Callable[[], bool]:
    """A request that comes during step number `steps` of a job."""
    asked = iter(range(1, 10**6))
    return lambda: next(asked) >= steps


def of_the_network(history: list[dict[str, float]]) -> list[dict[str, float]]:
    return [{k: v for k, v in row.items() if k not in OF_THE_MACHINE} for row in history]


def test_history_is_what_plain_gradient_descent_gives(
    train: Callable[..., tuple[Outcome, Fit]], tmp_path: Path
) -> None:
    """Against the same descent written down in NumPy, rates and means over steps included."""
    outcome, task = train()
    w, m = np.zeros(3), np.zeros(3)
    expected = []
    for epoch in range(EPOCHS):
        losses = []
        for step in range(STEPS):
            x, y = (part.numpy().astype(float) for part in make_batch(epoch, step))
            losses.append(np.mean((x @ w - y) ** 2))
            m = 0.5 * m + 2 * x.T @ (x @ w - y) / BATCH
            w = w - 0.1 / (1 + epoch + step / STEPS) * m
        expected.append((np.mean(losses), np.sum((w - TARGET) ** 2)))
    assert outcome.complete and [row["epoch"] for row in outcome.history] == [1, 2, 3]
    found = [(row["loss"], row["val_loss"]) for row in outcome.history]
    assert np.allclose(found, expected, rtol=1e-4, atol=1e-6)
    assert np.allclose(task.weights.numpy(), w, rtol=1e-5)
    assert task.rates == [0.1 / (1 + e + s / STEPS) for e in range(EPOCHS) for s in range(STEPS)]
    assert read_history(tmp_path / "model") == outcome.history
    assert [path.name for path in task.drawn] == [f"epoch-000{k}.png" for k in (1, 2, 3)]


@pytest.mark.parametrize("steps", [1, 4, 5, 6, 10, 14])
def test_stopped_at_any_step_and_resumed_nothing_has_happened(
    train: Callable[..., tuple[Outcome, Fit]], tmp_path: Path, steps: int
) -> None:
    whole, task = train("whole")
    part, _ = train("parts", stop=stop_after(steps))
    epoch, step = divmod(steps - 1, STEPS)
    assert not part.complete and (part.place.epoch, part.place.step) == (epoch, step + 1)
    rest, resumed = train("parts")
    assert rest.complete and len(resumed.rates) == EPOCHS * STEPS - steps
    assert of_the_network(rest.history) == of_the_network(whole.history)
    assert resumed.weights.numpy().tobytes() == task.weights.numpy().tobytes()
    assert resumed.momentum.numpy().tobytes() == task.momentum.numpy().tobytes()
    steps_of = [(tmp_path / name / "steps.csv").read_text() for name in ("whole", "parts")]
    assert steps_of[0] == steps_of[1] and len(steps_of[0].splitlines()) == 1 + EPOCHS * STEPS


def test_an_older_checkpoint_gives_the_same_end(
    train: Callable[..., tuple[Outcome, Fit]], tmp_path: Path
) -> None:
    """As after a death: what was recorded beyond the last whole checkpoint is done again."""
    whole, _ = train("whole")
    train("killed", checkpoint_seconds=0.0, stop=stop_after(9))
    kept = list_checkpoints(tmp_path / "killed")
    assert len(kept) == 3
    for path in kept[1:]:
        path.write_bytes(path.read_bytes()[:100])
    told: list[str] = []
    rest, resumed = train("killed", note=told.append)
    assert len(told) == 2 and len(resumed.rates) == EPOCHS * STEPS - 7
    assert of_the_network(rest.history) == of_the_network(whole.history)
    texts = [(tmp_path / name / "steps.csv").read_text() for name in ("whole", "killed")]
    assert texts[0] == texts[1]


def test_a_finished_training_takes_no_step(train: Callable[..., tuple[Outcome, Fit]]) -> None:
    first, _ = train()
    again, task = train()
    assert again.complete and not task.rates and again.history == first.history


def test_the_least_validation_loss_is_kept(
    train: Callable[..., tuple[Outcome, Fit]], alone: Transport, tmp_path: Path
) -> None:
    outcome, task = train(task=Fit(alone, held_out=[0.5, 0.2, 0.3]))
    best, last = load_best(tmp_path / "model"), load_checkpoint(tmp_path / "model")
    assert best is not None and last is not None
    assert (best[0].epoch, best[0].best, outcome.place.best_epoch) == (2, 0.2, 2)
    assert np.array_equal(last[1]["weights"], task.weights.numpy())
    assert not np.array_equal(best[1]["weights"], last[1]["weights"])


def test_checkpoints_within_an_epoch_come_by_time(
    train: Callable[..., tuple[Outcome, Fit]], tmp_path: Path
) -> None:
    train("never", checkpoint_seconds=1e9, stop=stop_after(3))
    assert len(list_checkpoints(tmp_path / "never")) == 1  # that of the stop
    train("always", checkpoint_seconds=0.0, stop=stop_after(3))
    assert [path.stem for path in list_checkpoints(tmp_path / "always")] == [
        f"0000000{k}" for k in (1, 2, 3)
    ]


def test_a_lost_loss_ends_the_training_with_its_batch(
    train: Callable[..., tuple[Outcome, Fit]], alone: Transport, tmp_path: Path
) -> None:
    class Lost(Fit):
        def train_step(self, batch: Any) -> dict[str, tf.Tensor]:
            told = super().train_step(batch)
            lost = len(self.rates) == 7
            return told | ({"loss": tf.constant(float("nan"))} if lost else {})

    def explain(epoch: int, step: int) -> dict[str, np.ndarray]:
        return {"rows": np.array([epoch, step])}

    with pytest.raises(HpctemError, match="loss is not a finite number in epoch 2, step 2"):
        train(task=Lost(alone), explain=explain)
    with np.load(tmp_path / "model" / "nan-epoch-2-step-2" / "rank-0.npz") as saved:
        x, y = make_batch(1, 1)
        assert np.array_equal(saved["batch_0"], x) and np.array_equal(saved["batch_1"], y)
        assert saved["rows"].tolist() == [1, 1]
    found = load_checkpoint(tmp_path / "model")
    assert found is not None and (found[0].epoch, found[0].step) == (1, 0)
    assert len(read_history(tmp_path / "model")) == 1
    steps = (tmp_path / "model" / "steps.csv").read_text().splitlines()
    assert steps[-1].startswith("2,2,nan")


def test_another_number_of_ranks_goes_on_and_says_so(
    train: Callable[..., tuple[Outcome, Fit]], tmp_path: Path
) -> None:
    from hpctem.learning.training.checkpoints import save_checkpoint

    variables = {"weights": tf.zeros(3), "momentum": tf.zeros(3)}
    (tmp_path / "model").mkdir()
    # 6 of 10 steps of a rank alone are 3 of the 5 steps that an epoch has here.
    place = Place(epoch=1, step=6, steps=10, ranks=2, sums={"loss": 6.0, "first": 12.0})
    save_checkpoint(tmp_path / "model", place, variables)
    told: list[str] = []
    moments: list[Moment] = []
    outcome, task = train(note=told.append, display=moments.append)
    assert outcome.complete and len(task.rates) == 2 + STEPS
    assert "begun on 2 ranks and goes on on 1" in told[0]
    # The mean loss so far, 1, counts for the three steps that it stands for.
    first = moments[0]
    steps = (tmp_path / "model" / "steps.csv").read_text().splitlines()
    assert first.loss == pytest.approx((3 * 1.0 + float(steps[1].split(",")[2])) / 4)


def test_tensorboard_shows_the_history(
    train: Callable[..., tuple[Outcome, Fit]], tmp_path: Path
) -> None:
    outcome, _ = train()
    [file] = (tmp_path / "model" / "tensorboard").iterdir()
    shown = {}
    for event in tf.compat.v1.train.summary_iterator(str(file)):
        for value in event.summary.value:
            shown[event.step, value.tag] = float(tf.make_ndarray(value.tensor))
    for row in outcome.history:
        assert shown[row["epoch"], "train/loss"] == pytest.approx(row["loss"], rel=1e-6)
        assert shown[row["epoch"], "validation/loss"] == pytest.approx(row["val_loss"], rel=1e-6)


def test_moments_count_all_but_the_step_that_compiles(
    train: Callable[..., tuple[Outcome, Fit]],
) -> None:
    moments: list[Moment] = []
    train(display=moments.append)
    assert [m.done for m in moments] == list(range(EPOCHS * STEPS))
    assert [m.last for m in moments] == [False] * (EPOCHS * STEPS - 1) + [True]
    assert all(0 < m.waited < m.seconds for m in moments[1:])


def test_a_moment_in_words() -> None:
    moment = Moment(3, 25, 40, 120, 0.123456, 32, done=20, seconds=10.0, waited=0.15)
    # 22 epochs of 120 steps and 80 steps more at two steps a second: 1360 s; 64 images a second.
    assert describe_moment(moment) == (
        "epoch 3/25, step 40/120, loss 0.1235, 64 images/s, 23 min left, 1.5 % waiting for data"
    )
    first = Moment(1, 2, 1, 10, 1.0, 32, done=0, seconds=0.0, waited=0.0)
    assert describe_moment(first) == "epoch 1/2, step 1/10, loss 1"


def test_history_files_read_back_exactly(tmp_path: Path) -> None:
    rows = [
        {"epoch": 1, "loss": 0.1 + 0.2, "val_f1": float("nan")},
        {"epoch": 2, "loss": 1e-300},
    ]
    write_history(tmp_path, rows)
    found = read_history(tmp_path)
    assert found[0]["loss"] == rows[0]["loss"] and np.isnan(found[0]["val_f1"])
    assert found[1] == rows[1]


def test_a_torn_line_of_steps_is_done_again(tmp_path: Path) -> None:
    log = StepLog(tmp_path, 0, 0)
    for step in (1, 2, 3):
        log.add({"epoch": 1, "step": step, "loss": step / 3})
    log.close()
    path = tmp_path / "steps.csv"
    path.write_text(path.read_text()[:-4])
    StepLog(tmp_path, 0, 3).close()
    assert path.read_text().splitlines() == ["epoch,step,loss", f"1,1,{1 / 3}", f"1,2,{2 / 3}"]


RANKS = """
import json, sys
from pathlib import Path
sys.path.insert(0, {tests!r})
import test_training as t
from hpctem.errors import MachineError
from hpctem.learning.training.loop import Loop, Plan, fit
from hpctem.learning.ranks.transport import open_transport
from hpctem.parallel import world

c = world()
carrier = open_transport(c, "mpi4py")
feed = lambda e, f: (t.make_batch(e, s, c.rank, c.size) for s in range(f, t.STEPS))
plan = Plan(t.EPOCHS, t.STEPS, t.BATCH, lambda epoch: 0.1)


def run(name, task=None, stop=lambda: False):
    folder = Path(name)
    c.on_root(lambda: folder.mkdir(exist_ok=True))
    task = task or t.Fit(carrier)
    return fit(Loop(task, feed, plan, folder, c, carrier, stop=stop)), task


told = {{}}
outcome, task = run("whole")
told["weights"] = c.gather(task.weights.numpy().tolist())
told["losses"] = [row["loss"] for row in outcome.history]
# The last rank alone is asked to stop, in its seventh step.
part, _ = run("parts", stop=t.stop_after(7) if c.rank else lambda: False)
told["stopped"] = c.gather((part.complete, part.place.epoch, part.place.step))
rest, resumed = run("parts")
told["resumed"] = c.gather(resumed.weights.numpy().tolist())
told["same"] = t.of_the_network(rest.history) == t.of_the_network(outcome.history)


class Astray(t.Fit):
    def train_step(self, batch):
        found = super().train_step(batch)
        if self.transport.rank == 1:
            self.momentum.assign_add([0.0, 1e-7, 0.0])
        return found


try:
    run("astray", Astray(carrier))
except MachineError as error:
    told["astray"] = str(error)
if c.rank == 0:
    Path("told.json").write_text(json.dumps(told))
"""


def test_two_ranks_stop_together_and_are_found_out_when_they_differ(
    run_mpi: Callable[..., Any], tmp_path: Path
) -> None:
    script = tmp_path / "ranks.py"
    script.write_text(RANKS.format(tests=str(Path(__file__).parent)))
    done = run_mpi(2, sys.executable, script, cwd=tmp_path, timeout=240)
    assert done.returncode == 0, done.stderr
    told = json.loads((tmp_path / "told.json").read_text())
    assert told["weights"][0] == told["weights"][1]
    assert told["stopped"] == [[False, 1, 2]] * 2
    assert told["resumed"] == told["weights"] and told["same"]
    assert "momentum" in told["astray"]
    # The double batch on one rank, in float64.
    w, m = np.zeros(3), np.zeros(3)
    means = []
    for epoch in range(EPOCHS):
        found = []
        for step in range(STEPS):
            parts = [
                [p.numpy().astype(float) for p in make_batch(epoch, step, r, 2)] for r in (0, 1)
            ]
            x, y = (np.concatenate(both).astype(float) for both in zip(*parts, strict=True))
            found.append(np.mean((x @ w - y) ** 2))
            m = 0.5 * m + 2 * x.T @ (x @ w - y) / len(y)
            w = w - 0.1 * m
        means.append(np.mean(found))
    assert np.allclose(told["losses"], means, rtol=1e-4, atol=1e-9)
    assert np.allclose(told["weights"][0], w, rtol=1e-5)
