"""What tests of learning share: TensorFlow on few threads, a small database of each technique."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from hpctem.learning.training_file import TrainingFile

# Before TensorFlow is imported by any test, and inherited by every process a test starts.
for _name, _value in {
    "TF_NUM_INTRAOP_THREADS": "1",
    "TF_NUM_INTEROP_THREADS": "2",
    "TF_CPP_MIN_LOG_LEVEL": "2",
    "KERAS_BACKEND": "tensorflow",
}.items():
    os.environ.setdefault(_name, _value)

TESTS = Path(__file__).parents[1]
MakeOnce = Callable[[str, Callable[[Path], Any]], Path]


def simulate_variant(folder: Path, small: str, name: str, *changes: tuple[str, str]) -> Path:
    """The database of a small campaign with texts replaced, simulated in a process of its own."""
    text = (TESTS / small).read_text()
    for old, new in (("campaign:\n  name: ", f"campaign:\n  name: {name}_of_"), *changes):
        assert text.count(old) == 1, f"{old!r} stands {text.count(old)} times in {small}"
        text = text.replace(old, new)
    config = folder / f"{name}.yaml"
    config.write_text(text)
    command = [sys.executable, "-m", "hpctem", "simulate", config.name, "-o", f"{name}.hdf5"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    return folder / f"{name}.hdf5"


@pytest.fixture(scope="session")
def small_database(make_once: MakeOnce) -> Path:
    """HRTEM of Au particles on carbon: 8 structures, 4 images each of 64 x 64 px; label
    'instances'. Tests do not change it."""
    changes = (
        ("structures: 6", "structures: 8"),
        ("crop: 96", "crop: 64"),
        ("phonons: {configurations: 2}", "phonons: {configurations: 1}"),
        ("storage: {exit_waves: true, store_atoms: true}\n", ""),
    )
    folder = make_once(
        "particles", lambda folder: simulate_variant(folder, "small.yaml", "particles", *changes)
    )
    return folder / "particles.hdf5"


@pytest.fixture(scope="session")
def small_scans(make_once: MakeOnce) -> Path:
    """STEM of WSe2 with defects: 8 structures, 4 images each of 64 x 64 px with maps of defects
    and of classes of columns ('atoms'). Tests do not change it."""
    changes = (
        ("structures: 6", "structures: 8"),
        ("pixels: 96", "pixels: 64"),
        (
            "labels: {distance: true, columns: true}\nstorage: {store_atoms: true}\n",
            "labels: {columns: true}\n",
        ),
    )
    folder = make_once(
        "scans", lambda folder: simulate_variant(folder, "small_stem.yaml", "scans", *changes)
    )
    return folder / "scans.hdf5"


def make_training(folder: Path, kind: str = "segmentation", **sections: Any) -> TrainingFile:
    """A training file of a kind, written to a folder and read; sections replace these."""
    from hpctem.learning.training_file import read_training

    content: dict[str, Any] = {
        "training": {"name": "small", "kind": kind, "seed": 5},
        "schedule": {"epochs": 2, "batch": 2},
    }
    if kind != "cyclegan":
        content["target"] = {"classes": {"particle": "instances"}}
        content["network"] = {"name": "unet_resnet18", "width": 4}
    path = folder / f"{kind}.yaml"
    path.write_text(json.dumps(content | sections))
    return read_training(path, kind)


@pytest.fixture
def follow_card(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    """Run the commands on the card of a model as they stand, where its folder lies.

    `follow_card(model, **files)`: files by the names that the commands have for them, without
    their endings. Returns the commands.
    """
    from click.testing import CliRunner

    from hpctem.cli import commands

    def follow(model: Path, **files: Path) -> list[str]:
        folder = tmp_path / "beside"
        folder.mkdir()
        monkeypatch.chdir(folder)
        (folder / model.name).symlink_to(model)
        for name, path in files.items():
            (folder / f"{name}{path.suffix}").symlink_to(path)
        text = (model / "card.md").read_text()
        lines = text.partition("```bash\n")[2].partition("```")[0].splitlines()
        for line in lines:
            program, *words = shlex.split(line)
            assert program == "hpctem"
            done = CliRunner().invoke(commands, words)
            assert done.exit_code == 0, f"{line}: {done.output}{done.exception!r}"
        return lines

    return follow


@pytest.fixture
def write_training(tmp_path: Path) -> Callable[..., TrainingFile]:
    """`write_training("segmentation", data={...})`: see `make_training`; in an empty folder."""
    return lambda kind="segmentation", **sections: make_training(tmp_path, kind, **sections)
