"""The training loop, on a task small enough to be computed by hand: it goes on as if never left."""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from hpctem.collection.collection import open_collection
from hpctem.errors import DatabaseError, HpctemError, MachineError
from hpctem.learning.data.feed import feed_validation
from hpctem.learning.data.preparation import Prepare
from hpctem.learning.data.samples import Samples
from hpctem.learning.ranks.transport import Transport, open_transport
from hpctem.learning.training.checkpoints import (
    Place,
    list_checkpoints,
    load_best,
    load_checkpoint,
    read_archive,
    save_checkpoint,
)
from hpctem.learning.training.history import StepLog, read_history, write_history
from hpctem.learning.training.loop import Loop, Outcome, Plan, fit
from hpctem.learning.training.progress import Moment, describe_moment
from hpctem.parallel import Communicator

sys.path += [str(Path(__file__).parent), str(Path(__file__).parents[1] / "unit")]

import ranks_fit
from drawn_images import Drawn, make_images
from ranks_fit import (
    BATCH,
    EPOCHS,
    STEPS,
    TARGET,
    Fit,
    far,
    feed_of,
    make_batch,
    of_the_network,
    stop_after,
)


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


def test_weights_that_overflow_end_the_training_with_the_batch_that_did_it(
    train: Callable[..., tuple[Outcome, Fit]], tmp_path: Path
) -> None:
    """A rate of 3e38 takes them out of float32 in a step whose own loss is a number."""
    folder = tmp_path / "model"
    with pytest.raises(HpctemError, match=r"weights are not finite .* epoch 2, step 2, whose"):
        train(plan=far(STEPS + 1, 3e38), checkpoint_seconds=0.0)
    with np.load(folder / "nan-epoch-2-step-2" / "rank-0.npz") as saved:
        x, y = make_batch(1, 1)
        assert np.array_equal(saved["batch_0"], x) and np.array_equal(saved["batch_1"], y)
    for path in list_checkpoints(folder):
        assert all(np.isfinite(values).all() for values in read_archive(path)[1].values())
    assert (folder / "steps.csv").read_text().splitlines()[-1].startswith("2,2,")
    # With a better rate it goes on where the numbers were sound.
    outcome, task = train(plan=far(-1, 0.0))
    assert outcome.complete and len(task.rates) == EPOCHS * STEPS - (STEPS + 1)
    assert np.isfinite(task.weights.numpy()).all()


def test_a_validation_that_overflows_ends_the_training_and_is_not_kept(
    train: Callable[..., tuple[Outcome, Fit]], tmp_path: Path
) -> None:
    """After the last step of the second epoch the weights are near 1e25, and their squares inf."""
    with pytest.raises(HpctemError, match="val_loss is not a finite number after epoch 2"):
        train(plan=far(2 * STEPS - 1, 1e25))
    found = load_checkpoint(tmp_path / "model")
    assert found is not None and (found[0].epoch, found[0].step) == (1, 0)
    assert len(read_history(tmp_path / "model")) == 1


def test_a_held_out_row_that_cannot_be_read_ends_in_one_sentence(
    train: Callable[..., tuple[Outcome, Fit]], alone: Transport, tmp_path: Path
) -> None:
    """The file of a real database is cut before the epoch is validated with it."""
    path = make_images(tmp_path / "cut.hdf5", Drawn(shape=(16, 16)))
    samples = Samples(open_collection(path), None, Prepare(False, "image"), None, 1, 9)

    class Reading(Fit):
        def validate(self) -> dict[str, float]:
            means = [float(tf.reduce_mean(images)) for images in feed_validation(samples, 4)]
            return {"loss": float(np.mean(means))}

    def cut(moment: Moment) -> None:
        if (moment.epoch, moment.step) == (2, STEPS):
            with path.open("r+b") as stream:
                stream.truncate(4096)

    with pytest.raises(DatabaseError, match=r"^\S*cut\.hdf5 ends before byte \d+: truncated$"):
        train(task=Reading(alone), display=cut)
    assert len(read_history(tmp_path / "model")) == 1


def test_a_checkpoint_that_holds_no_numbers_is_passed_over(
    train: Callable[..., tuple[Outcome, Fit]], tmp_path: Path
) -> None:
    """As an earlier version may have left one behind."""
    whole, task = train("whole")
    train("lost", stop=stop_after(STEPS + 2))
    lost = {"weights": np.full(3, np.nan, np.float32), "momentum": np.zeros(3, np.float32)}
    path = save_checkpoint(tmp_path / "lost", Place(1, 3, STEPS, sums={"loss": 1.0}), lost)
    told: list[str] = []
    rest, resumed = train("lost", note=told.append)
    assert (
        len(told) == 1 and path.name in told[0] and "weights holds values that are not" in told[0]
    )
    assert of_the_network(rest.history) == of_the_network(whole.history)
    assert resumed.weights.numpy().tobytes() == task.weights.numpy().tobytes()
    for number in range(3):
        save_checkpoint(tmp_path / "all", Place(number), lost)
    with pytest.raises(MachineError, match=r"no checkpoint in .*/all/checkpoints can be read and"):
        train("all")


def test_one_pipeline_feeds_all_epochs_and_its_making_counts_as_waiting(
    train: Callable[..., tuple[Outcome, Fit]],
) -> None:
    made: list[tuple[int, int]] = []

    def slow(epoch: int, first_step: int) -> Iterator[Any]:
        made.append((epoch, first_step))
        time.sleep(0.3)
        return feed_of(epoch, first_step)

    outcome, _ = train(feed_of=slow)
    assert made == [(0, 0)]
    first, *others = outcome.history
    assert first["seconds"] * first["waiting"] >= 0.3
    assert all(row["seconds"] * row["waiting"] < 0.3 for row in others)


def test_another_number_of_ranks_goes_on_and_says_so(
    train: Callable[..., tuple[Outcome, Fit]], tmp_path: Path
) -> None:
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


def test_steps_are_not_lost_where_the_disk_is_full_at_a_resume(tmp_path: Path) -> None:
    """The limit on the size of files is a real one: what is written aside does not fit."""
    log = StepLog(tmp_path, 0, 0)
    for step in range(1, 40):
        log.add({"epoch": 1, "step": step, "loss": 1 / step})
    log.close()
    before = (tmp_path / "steps.csv").read_text()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200, limits[1]))
    try:
        with pytest.raises(MachineError, match=r"writing .*steps\.csv failed: File too large"):
            StepLog(tmp_path, 0, 30)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert (tmp_path / "steps.csv").read_text() == before
    StepLog(tmp_path, 0, 30).close()
    assert (tmp_path / "steps.csv").read_text().splitlines() == before.splitlines()[:31]


@pytest.fixture(scope="module")
def answers(run_mpi: Callable[..., Any], make_once: Callable[..., Path]) -> dict:
    """What `ranks_fit.py` tells on two ranks, by transport, and on this process alone."""

    def fill(folder: Path) -> None:
        done = run_mpi(2, sys.executable, ranks_fit.__file__, cwd=folder, timeout=240)
        assert done.returncode == 0, done.stderr
        alone = ranks_fit.try_all(open_transport(Communicator(), "single"), folder / "single")
        (folder / "single.json").write_text(json.dumps({"single": alone}))

    folder = make_once("ranks_fit", fill)
    texts = [(folder / name).read_text() for name in ("told.json", "single.json")]
    return json.loads(texts[0]) | json.loads(texts[1])


@pytest.fixture(params=["horovod", "mpi4py", "single"])
def told(request: pytest.FixtureRequest, answers: dict) -> dict:
    """What ranks tell that train by one transport."""
    if request.param not in answers:
        pytest.skip("Horovod is not installed: jobs/install_horovod")
    return answers[request.param]


def test_ranks_learn_what_one_learns_from_the_batch_of_all(told: dict) -> None:
    """In float64 by NumPy; weights are equal on all ranks, to the bit."""
    size = len(told["weights"])
    w, m = np.zeros(3), np.zeros(3)
    means = []
    for epoch in range(EPOCHS):
        found = []
        for step in range(STEPS):
            parts = [
                [p.numpy().astype(float) for p in make_batch(epoch, step, r, size)]
                for r in range(size)
            ]
            x, y = (np.concatenate(both) for both in zip(*parts, strict=True))
            found.append(np.mean((x @ w - y) ** 2))
            m = 0.5 * m + 2 * x.T @ (x @ w - y) / len(y)
            w = w - 0.1 * m
        means.append(np.mean(found))
    assert np.allclose(told["losses"], means, rtol=1e-4, atol=1e-9)
    assert np.allclose(told["weights"][0], w, rtol=1e-5)
    assert all(weights == told["weights"][0] for weights in told["weights"])


def test_ranks_stop_together_and_go_on_as_if_never_left(told: dict) -> None:
    """The last rank alone is asked, in its seventh step."""
    assert told["stopped"] == [[False, 1, 2]] * len(told["weights"])
    assert told["resumed"] == told["weights"] and told["same"]


def test_ranks_that_differ_are_found_out_after_the_epoch(told: dict) -> None:
    assert "momentum" in told["astray"] or len(told["weights"]) == 1


def test_ranks_end_together_where_weights_overflow(told: dict) -> None:
    """Each saves its own batch, and no checkpoint holds what is no number."""
    size = len(told["weights"])
    assert ["after epoch 2, step 2" in text for text in told["overflow"]] == [True] * size
    for rank, saved in enumerate(told["saved"]):
        assert np.array_equal(saved, make_batch(1, 1, rank, size)[0])
    assert told["kept"] == [1, 1]
