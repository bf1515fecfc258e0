"""Training as a user runs it: killed and taken up, on two ranks, with mistakes."""

from __future__ import annotations

import csv
import json
import os
import random
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from hpctem.examinations import find_launcher

pytestmark = pytest.mark.learning

TEXT = """
training: {{name: model, kind: segmentation, seed: 11}}
data: {{databases: [{database}], validation: 0.33}}
target:
  classes: {{particle: instances}}
augmentation: {{noise: 0.05, brightness: 0.1}}
network: {{name: unet_resnet18, width: 2}}
optimiser: {{learning_rate: 5e-3, decay: 0.9}}
schedule: {{epochs: 3, batch: {batch}}}
"""
MakeOnce = Callable[[str, Callable[[Path], None]], Path]
TRAIN = (sys.executable, "-m", "hpctem", "train", "segmentation")


def write_training(folder: Path, database: Path, batch: int) -> Path:
    path = folder / f"batch{batch}.yaml"
    path.write_text(TEXT.format(database=database, batch=batch))
    return path


def read_table(path: Path) -> list[dict[str, str]]:
    with open(path, newline="") as stream:
        return list(csv.DictReader(stream))


def of_the_network(rows: list[dict[str, str]]) -> list[dict[str, str]]:
    machine = ("seconds", "images_per_second", "waiting")
    return [{k: v for k, v in row.items() if k not in machine} for row in rows]


@pytest.fixture(scope="module")
def whole(small: Path, make_once: MakeOnce) -> Path:
    """An uninterrupted training of one process: three epochs of four steps of four images."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    from hpctem.learning.ranks.transport import open_transport
    from hpctem.learning.training.runs import train_model
    from hpctem.learning.training_file import read_training
    from hpctem.parallel import Communicator

    def fill(folder: Path) -> None:
        file = read_training(write_training(folder, small, 4), "segmentation")
        train_model(file, folder / "model", open_transport(Communicator(), "single"))

    return make_once("train_whole", fill)


@pytest.fixture(scope="module")
def pair(
    small: Path, make_once: MakeOnce, run_mpi: Callable[..., subprocess.CompletedProcess[str]]
) -> Path:
    """The same of two ranks with half the batch each, whose gradients travel by mpi4py."""

    def fill(folder: Path) -> None:
        config = write_training(folder, small, 2)
        command = (*TRAIN, config, "-o", folder / "model", "--transport", "mpi4py")
        both = run_mpi(2, *command, timeout=600)
        assert both.returncode == 0, both.stderr
        assert both.stdout.count("trained, 3 epochs") == 1

    return make_once("train_pair", fill)


def start(command: Sequence[object], folder: Path, checkpoints: int) -> subprocess.Popen[str]:
    """A training in FOLDER/model that has just written so many checkpoints, one after each step."""
    words = [*map(str, command), "-o", "model", "--checkpoint-every", "0"]
    job = subprocess.Popen(
        words, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    end = time.monotonic() + 600
    while not (folder / f"model/checkpoints/{checkpoints:08d}.npz").exists():
        assert job.poll() is None and time.monotonic() < end, job.communicate()
        time.sleep(0.01)
    return job


def require_same(whole: Path, other: Path) -> None:
    """Two trainings that have the same loss curve and the same weights, bit for bit."""
    steps = [(folder / "model/steps.csv").read_text() for folder in (whole, other)]
    assert steps[0] == steps[1] and len(steps[0].splitlines()) == 13
    histories = [read_table(folder / "model/history.csv") for folder in (whole, other)]
    assert len(histories[0]) == 3
    assert of_the_network(histories[0]) == of_the_network(histories[1])
    weights = [(folder / "model/weights.npz").read_bytes() for folder in (whole, other)]
    assert weights[0] == weights[1]


def test_stopped_at_any_step_the_loss_curve_is_the_same(whole: Path, tmp_path: Path) -> None:
    config = whole / "batch4.yaml"
    stopped = start((*TRAIN, config), tmp_path, 3)
    stopped.send_signal(signal.SIGUSR1)
    _, told = stopped.communicate(timeout=120)
    assert stopped.returncode == 1 and "Traceback" not in told
    assert "run the same command to go on" in told
    assert 3 <= len(read_table(tmp_path / "model/steps.csv")) < 12
    assert not (tmp_path / "model/model.json").exists()
    command = [*TRAIN, config, "-o", "model"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert "model was begun before and goes on where it was" in done.stderr
    assert "trained, 3 epochs: loss " in done.stdout and "val_f1" in done.stdout
    assert "epoch 3/3, step 4/4, loss" in done.stderr
    require_same(whole, tmp_path)


def test_a_rank_killed_at_a_random_step_changes_nothing_and_horovodrun_goes_on(
    pair: Path, tmp_path: Path
) -> None:
    """Which rank, after which step and how soon after it comes from a seed that is printed.

    What was never interrupted went by mpi4py, this goes by Horovod: sums of two have the same bits.
    """
    launcher = find_launcher()
    horovodrun = shutil.which("horovodrun", path=f"{Path(sys.executable).parent}:{os.defpath}")
    if launcher is None or horovodrun is None:
        pytest.skip("no mpirun or no horovodrun here: jobs/install_horovod")
    seed = secrets.randbits(32)
    print(f"seed {seed}")
    draws = random.Random(seed)
    # After an epoch's last step there is a second checkpoint, of the epoch.
    number, victim, later = draws.randint(1, 9), draws.randrange(2), draws.uniform(0, 0.05)
    train = (*TRAIN, pair / "batch2.yaml", "--transport", "horovod")
    job = start((launcher, "-n", 2, *train), tmp_path, number)
    ranks = Path(f"/proc/{job.pid}/task/{job.pid}/children").read_text().split()
    assert len(ranks) == 2
    time.sleep(later)
    os.kill(int(ranks[victim]), signal.SIGKILL)
    job.communicate(timeout=60)
    assert job.returncode != 0 and not (tmp_path / "model/model.json").exists()
    reached = len(read_table(tmp_path / "model/steps.csv"))
    print(f"rank {victim} killed after checkpoint {number}, in step {reached + 1}")
    assert number - number // 5 <= reached < 12
    command = [horovodrun, "-np", "2", *map(str, train), "-o", "model"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "model was begun before and goes on where it was" in done.stdout + done.stderr
    require_same(pair, tmp_path)
    facts = json.loads((tmp_path / "model/model.json").read_text())
    assert (facts["trained"]["transport"], facts["trained"]["ranks"]) == ("horovod", 2)


def test_two_ranks_learn_what_one_learns_from_the_double_batch(whole: Path, pair: Path) -> None:
    """Same images, same variations, batch normalisation and F1 counts over both ranks."""
    losses = [
        np.array([float(row["loss"]) for row in read_table(folder / "model/steps.csv")])
        for folder in (whole, pair)
    ]
    assert losses[1][0] == pytest.approx(losses[0][0], rel=1e-5)
    # Adam moves a weight whose gradient is nothing but rounding as far as any other: from the
    # second step on the curves part, slowly beside the way that they go.
    assert len(losses[0]) == 12
    assert losses[1] == pytest.approx(losses[0], rel=0.1)
    assert np.abs(losses[1] - losses[0])[:4].max() < 0.1 * np.ptp(losses[0])


@pytest.mark.parametrize(
    ("arguments", "change", "told"),
    [
        (("train", "defects"), None, "this file trains segmentation: 'hpctem train segmentation"),
        (("train", "segmentation"), ("learning_rate", "learn_rate"), "learning_rate"),
        (("train", "segmentation"), ("instances", "nothing"), "holds no label 'nothing'"),
        (("train", "segmentation"), ("batch: 4", "batch: 100"), "do not fill one step of 100"),
    ],
)
def test_mistakes_are_told_in_a_sentence(
    call: Callable[..., subprocess.CompletedProcess[str]],
    small: Path,
    tmp_path: Path,
    arguments: tuple[str, ...],
    change: tuple[str, str] | None,
    told: str,
) -> None:
    path = write_training(tmp_path, small, 4)
    if change is not None:
        path.write_text(path.read_text().replace(*change))
    done = call(*arguments, path)
    assert done.returncode == 2 and told in done.stderr and "Traceback" not in done.stderr
    assert not (tmp_path / "model").exists()
