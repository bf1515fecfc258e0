"""Training as a user runs it: killed and taken up, on two ranks, with mistakes."""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

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
def whole(small: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An uninterrupted training: three epochs of four steps of four images."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    from hpctem.learning.ranks.transport import open_transport
    from hpctem.learning.training.runs import train_model
    from hpctem.learning.training_file import read_training
    from hpctem.parallel import Communicator

    folder = tmp_path_factory.mktemp("whole")
    file = read_training(write_training(folder, small, 4), "segmentation")
    train_model(file, folder / "model", open_transport(Communicator(), "single"))
    return folder


def start(config: Path, folder: Path, checkpoints: int) -> subprocess.Popen[str]:
    """A training in FOLDER/model that has just written so many checkpoints, one after each step."""
    command = [*TRAIN, config, "-o", "model", "--checkpoint-every", "0"]
    job = subprocess.Popen(
        command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    end = time.monotonic() + 300
    while not (folder / f"model/checkpoints/{checkpoints:08d}.npz").exists():
        assert job.poll() is None and time.monotonic() < end, job.communicate()
        time.sleep(0.01)
    return job


def test_killed_and_stopped_at_any_step_the_loss_curve_is_the_same(
    whole: Path, tmp_path: Path
) -> None:
    config, steps = whole / "batch4.yaml", tmp_path / "model/steps.csv"
    killed = start(config, tmp_path, 2)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    assert not (tmp_path / "model/model.json").exists()
    reached = len(read_table(steps))
    stopped = start(config, tmp_path, reached + 2)
    stopped.send_signal(signal.SIGUSR1)
    _, told = stopped.communicate(timeout=120)
    assert stopped.returncode == 1 and "Traceback" not in told
    assert "model was begun before and goes on where it was" in told
    assert "run the same command to go on" in told
    assert reached < len(read_table(steps)) < 12
    command = [*TRAIN, config, "-o", "model"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "trained, 3 epochs: loss " in done.stdout and "val_f1" in done.stdout
    assert "epoch 3/3, step 4/4, loss" in done.stderr
    assert steps.read_text() == (whole / "model/steps.csv").read_text()
    histories = [read_table(folder / "model/history.csv") for folder in (whole, tmp_path)]
    assert len(histories[0]) == 3
    assert of_the_network(histories[0]) == of_the_network(histories[1])
    weights = [(folder / "model/weights.npz").read_bytes() for folder in (whole, tmp_path)]
    assert weights[0] == weights[1]


def test_two_ranks_learn_what_one_learns_from_the_double_batch(
    whole: Path,
    small: Path,
    run_mpi: Callable[..., subprocess.CompletedProcess[str]],
    tmp_path: Path,
) -> None:
    """Same images, same variations, batch normalisation and F1 counts over both ranks."""
    config = write_training(tmp_path, small, 2)
    command = (*TRAIN, config, "-o", tmp_path / "model", "--transport", "horovod")
    both = run_mpi(2, *command, timeout=400)
    assert both.returncode == 0, both.stderr
    assert both.stdout.count("trained, 3 epochs") == 1
    losses = [
        np.array([float(row["loss"]) for row in read_table(folder / "model/steps.csv")])
        for folder in (whole, tmp_path)
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
