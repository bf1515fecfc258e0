"""jobs/cyclegan_mos2 from simulation to table, its small networks briefly trained on a micrograph
made here."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

sys.path.append(str(Path(__file__).parents[1] / "unit"))

from phantoms import Truth, make_phantom

from hpctem.marked_yaml import parse_yaml, read_yaml

pytestmark = pytest.mark.learning

ROOT = Path(__file__).parents[2]
JOB = ROOT / "jobs/cyclegan_mos2"
# The job's own small trainings, for seconds instead of minutes: fewer steps, and a share that
# leaves one of two structures to learn from.
GAN = (
    "train_cyclegan_small",
    {
        "validation: 0.25": "validation: 0.5",
        "epochs: 12, batch: 1, steps_per_epoch: 150": "epochs: 1, batch: 1, steps_per_epoch: 80",
    },
)
DEFECTS = (
    "train_defects_mos2_small",
    {
        "validation: 0.17": "validation: 0.5",
        "patches_per_image: 64": "patches_per_image: 4",
        "epochs: 16, batch: 4, steps_per_epoch: 150": "epochs: 1, batch: 4, steps_per_epoch: 2",
    },
)


def shorten(name: str, changes: Mapping[str, str]) -> str:
    """The text of a training file that comes along, with parts replaced."""
    text = (ROOT / f"configs/{name}.yaml").read_text()
    for old, new in changes.items():
        assert text.count(old) == 1, f"{old!r} stands {text.count(old)} times in {name}"
        text = text.replace(old, new)
    return text


def start(folder: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHON": sys.executable}
    environment.pop("HPCTEM_MICROGRAPHS", None)
    return subprocess.run(
        [JOB, *map(str, arguments)],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
    )


def run_job(folder: Path) -> subprocess.CompletedProcess[str]:
    files = ("--micrograph", "phantom.npy", "--gan", "gan.yaml", "--defects", "defects.yaml")
    return start(folder, "--seeds", 7, "--output", "done", "--images", 2, *files)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the job has run; its table is what it printed last."""
    folder = tmp_path_factory.mktemp("cyclegan_mos2")
    (folder / "gan.yaml").write_text(shorten(*GAN))
    # In the flow style of YAML, which users write too.
    (folder / "defects.yaml").write_text(json.dumps(parse_yaml(shorten(*DEFECTS)).data))
    truth = Truth(
        shape=(1024, 256), pixel=0.13428, shear=-0.0636, contraction=-0.004, turn=0.035,
        vacancies=0.1,
    )  # fmt: skip
    np.save(folder / "phantom.npy", make_phantom(truth, 1)[0].image)
    done = run_job(folder)
    assert done.returncode == 0, done.stdout + done.stderr
    table = (folder / "done/table.txt").read_text()
    assert done.stdout.endswith(table)
    return folder / "done"


def read(path: Path) -> dict:
    return json.loads(path.read_text())


def test_each_set_is_judged_on_the_rows_that_nothing_learnt_from(folder: Path) -> None:
    with open(folder / "reference.csv", newline="") as stream:
        marked = list(csv.DictReader(line for line in stream if not line.startswith("#")))
    assert len(marked) > 10 and all(float(one["pixel_y"]) >= 528 for one in marked)
    seed = folder / "seed-7"
    gan = read(seed / "gan/model.json")
    assert read_yaml(seed / "gan/training.yaml").data["experiment"]["rows"] == [0, 496]
    assert gan["kind"] == "cyclegan"
    sources = {"clean": "mos2_cyclegan", "manual": "mos2_se_implanted", "translated": "translated"}
    for name, source in sources.items():
        training = read_yaml(seed / name / "training.yaml").data
        assert [Path(one).name for one in training["data"]["databases"]] == [f"{source}.hdf5"]
        assert training["training"]["seed"] == 7
        found, judged = read(seed / f"{name}-found/prediction.json"), seed / f"{name}-judged"
        assert [one["first_row"] for one in found["images"]] == [528]
        assert found["preparation"]["own_scale"]
        said = read(judged / "evaluation.json")
        assert said["images"]["rows"] == [528, 1024]
        assert {"s_vacancy", "se_on_s"} <= set(said["positions"])
        assert (seed / f"{name}-found/phantom.overlay.png").stat().st_size > 10_000
    settings = read(seed / "realism.json")["settings"]
    assert (settings["rows"], settings["floor"]) == ([528, 1024], [0, 496])
    settings = read(seed / "copies.json")["settings"]
    assert settings["rows"] == [0, 496]


def test_the_table_holds_what_the_commands_found(folder: Path) -> None:
    table, text = read(folder / "table.json"), (folder / "table.txt").read_text()
    realism = read(folder / "seed-7/realism.json")
    distances = table["distances"]
    assert {"KL divergence", "sliced Wasserstein", "power, low frequencies"} <= set(distances)
    assert {"power, Bragg shell 1", "power, Bragg spots"} <= set(distances)
    for name, one in distances.items():
        translated = realism["sets"]["translated"]
        assert one["translated"] == [translated["distances"][name]]
        assert one["gap_closed"] == [translated["gap_closed"][name]]
        assert one["floor"] == realism["floor"]["distances"][name]
        short = one["gap_closed"][0] is not None and one["gap_closed"][0] < 0.7
        assert (name in table["short_of_70_percent"]) == short
        assert f"\n{name}  " in text
    tiles = table["translation"]["7"]
    assert tiles["tiles"] == 2 * 64 and 0 < tiles["accepted"] <= tiles["tiles"]
    assert tiles["defects"]["s_vacancy"]["all"] > 10
    copies = table["highest_correlation_with_training_rows"]["7"]
    assert -1 <= copies["translated"]["highest"] <= 1
    for name, scores in table["positions"].items():
        said = read(folder / f"seed-7/{name}-judged/evaluation.json")
        assert scores["7"] == said["positions"]
        assert f"s_vacancy, learnt from {name}" in text


def test_a_trained_generator_keeps_at_least_95_percent_of_the_vacancies(folder: Path) -> None:
    """Where it has learnt to make other images of its input: nearer to the micrograph."""
    table = read(folder / "table.json")
    listed, judged, kept = (
        sum(table["translation"]["7"]["defects"][kind][k] for kind in ("s_vacancy", "s2_vacancy"))
        for k in ("all", "judged", "kept")
    )
    assert judged >= 0.5 * listed > 50
    assert kept >= 0.95 * judged
    for name, most in (("KL divergence", 0.5), ("sliced Wasserstein", 0.9)):
        one = table["distances"][name]
        assert one["translated"][0] < most * one["clean"]


def test_what_is_done_stays_done(folder: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("weights.npz")}
    table = (folder / "table.txt").read_text()
    judged = folder / "seed-7/manual-judged/evaluation.json"
    judged.write_text('{"format": "hpctem-evaluation-1"}\n')  # as of one that was interrupted
    (folder / "table.txt").unlink()
    done = run_job(folder.parent)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "a network for defects" not in done.stdout and "translating" not in done.stdout
    assert len(before) == 4
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("weights.npz")} == before
    assert (folder / "table.txt").read_text() == table and "positions" in read(judged)


def test_a_folder_goes_on_with_the_settings_it_was_begun_with(folder: Path) -> None:
    files = ("--micrograph", "phantom.npy", "--gan", "gan.yaml", "--defects", "gan.yaml")
    done = start(folder.parent, "--seeds", 7, "--output", "done", "--images", 3, *files)
    assert done.returncode == 1 and "was begun with other settings" in done.stderr
    assert "< images: 2\n" in done.stderr and "> images: 3\n" in done.stderr
    assert "< defects.yaml: " in done.stderr and "phantom" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--size", "large"], "--size large: small or paper"),
        (["--seeds", "1 2"], "--seeds 1 2: whole numbers with commas"),
        (["--gan", "gone.yaml"], "there is no file gone.yaml"),
        (["--output"], "--output needs a value"),
        (["--epochs", "3"], "unknown argument '--epochs'"),
    ],
)
def test_mistakes_are_told_in_a_sentence(arguments: list[str], told: str, tmp_path: Path) -> None:
    done = start(tmp_path, *arguments)
    assert done.returncode == 1 and done.stderr.startswith(f"\nerror: {told}")
    assert list(tmp_path.iterdir()) == []
