"""Repeats: networks that share nothing but their training file, and how far they differ."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hpctem.collection.collection import open_collection
from hpctem.errors import ConfigError
from hpctem.learning.data.samples import open_sources
from hpctem.learning.ranks.transport import Transport, open_transport
from hpctem.learning.training.repeats import summarise, train_repeats, vary, write_table
from hpctem.learning.training.runs import Attention, Trained
from hpctem.learning.training_file import TrainingFile, read_training
from hpctem.parallel import Communicator
from hpctem.subsets.subset import draw_subset

TEXT = """
training: {{name: many, kind: segmentation, seed: 7}}
data: {{{source}}}
target:
  classes: {{particle: instances}}
network: {{name: unet_resnet18, width: 1}}
schedule: {{epochs: 1, batch: 4, steps_per_epoch: 2}}
"""


@pytest.fixture(scope="module")
def alone() -> Transport:
    return open_transport(Communicator(), "single")


def write_training(folder: Path, source: str) -> TrainingFile:
    path = folder / "training.yaml"
    path.write_text(TEXT.format(source=source))
    return read_training(path, "segmentation")


@pytest.fixture
def drawn(small_database: Path, tmp_path: Path) -> TrainingFile:
    """A training of the second of three draws of a subset."""
    subset = draw_subset(
        open_collection(small_database),
        sample=16,
        draws=3,
        split={"train": "1/2", "validation": "1/2"},
        seed=3,
    )
    subset.write(tmp_path / "subset.json")
    return write_training(tmp_path, "subset: subset.json, draw: 1")


def test_each_repeat_has_its_seed_and_its_draw(drawn: TrainingFile, small_database: Path) -> None:
    files = [vary(drawn, number) for number in (1, 2, 1)]
    seeds = [file.config.training.seed for file in files]
    assert len({7, *seeds}) == 3 and seeds[0] == seeds[2]
    assert [file.config.data.draw for file in files] == [1, 2, 1]
    rows = [open_sources(file)[0].digest for file in files]
    assert rows[0] == rows[2] != rows[1]
    assert drawn.config.data.draw == 1  # what was read is as it was
    # Without a subset the seed decides which structures are held out.
    plain = write_training(drawn.folder, f"databases: [{small_database}]")
    digests = {open_sources(vary(plain, number))[0].digest for number in (1, 2, 3, 4)}
    assert len(digests) == 4


def test_more_repeats_than_draws_are_refused(
    drawn: TrainingFile, alone: Transport, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=r"need draws 1 to 3 .* has draws 0 to 2: .*--draws 4"):
        train_repeats(drawn, tmp_path / "many", 3, alone)
    assert not (tmp_path / "many").exists()


def test_repeats_are_trained_taken_up_and_summarised(
    drawn: TrainingFile, alone: Transport, tmp_path: Path
) -> None:
    folder = tmp_path / "many"
    asked = iter([False, False, True])  # during the first step of the second network
    stopped = train_repeats(drawn, folder, 2, alone, Attention(stop=lambda: next(asked)))
    assert [trained.end for trained in stopped] == ["trained", "stopped"]
    assert not (folder / "repeats.json").exists()
    told: list[Trained] = []
    done = train_repeats(drawn, folder, 2, alone, tell=told.append)
    assert [trained.end for trained in done] == ["found", "trained"] and told == done
    said = json.loads((folder / "repeats.json").read_text())
    assert [one["draw"] for one in said["repeats"]] == [1, 2]
    losses = [one["metrics"]["val_loss"] for one in said["repeats"]]
    assert losses == [trained.metrics["val_loss"] for trained in done]
    assert losses[0] != losses[1]
    assert said["summary"]["val_loss"]["median"] == pytest.approx(sum(losses) / 2)
    assert said["summary"]["val_loss"]["max"] == max(losses)
    first = (folder / "repeat-2" / "training.yaml").read_text().splitlines()[0]
    assert first.startswith("# repeat 2 of 2: training.seed ") and "data.draw 2" in first
    with pytest.raises(ConfigError, match="holds a single training"):
        train_repeats(drawn, folder / "repeat-1", 2, alone)


def test_summaries_are_of_all_networks() -> None:
    nan = float("nan")
    metrics = [
        {"f1": 0.9, "loss": 3.0, "some": 1.0, "never": nan},
        {"f1": 0.7, "loss": nan, "never": nan},
        {"f1": 0.8, "loss": 1.0, "some": 2.0, "never": nan},
    ]
    summary = summarise(metrics)
    assert summary == {
        "f1": {"min": 0.7, "median": 0.8, "max": 0.9},
        "loss": {"min": 1.0, "median": 2.0, "max": 3.0},
    }
    assert write_table(summary)[1].split() == ["f1", "0.7000", "0.8000", "0.9000"]
    assert summarise([]) == {}
