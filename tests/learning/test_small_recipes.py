"""The small trainings that come along, run as their pages say, reach what these say.

Whole, on images simulated for it, from the files in configs/. With `--slow` the network for defects
is trained as well, and that for particles on two ranks.
"""

from __future__ import annotations

import csv
import json
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import hpctem
from hpctem.subsets.file import read_runs

ROOT = Path(__file__).parents[2]
MakeOnce = Callable[[str, Callable[[Path], None]], Path]


def run(folder: Path, command: str) -> str:
    """What a command prints, run in a folder."""
    words = shlex.split(command)
    assert words[0] == "hpctem"
    done = subprocess.run(
        [sys.executable, "-m", *words], cwd=folder, capture_output=True, text=True, timeout=1500
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def list_commands(page: str, about: str) -> list[str]:
    """The commands of a page, or of the head of a training file, with a certain word."""
    lines = (ROOT / page).read_text().splitlines()
    commands = [line.lstrip("# ") for line in lines]
    return [line for line in commands if line.startswith("hpctem ") and about in line]


def copy_configs(folder: Path) -> None:
    shutil.copytree(ROOT / "configs", folder / "configs")


def read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text())


@pytest.fixture(scope="session")
def first_network(make_once: MakeOnce) -> Path:
    """A folder in which the commands of the README's section on training have run."""

    def fill(folder: Path) -> None:
        copy_configs(folder)
        commands = list_commands("README.md", "_small")
        verbs = [command.split()[1] for command in commands]
        assert verbs == ["simulate", "train", "evaluate", "predict"]
        for verb, command in zip(verbs[:3], commands, strict=False):
            (folder / f"{verb}.txt").write_text(run(folder, command))

    return make_once("first_network", fill)


def test_the_first_network_finds_held_out_particles_and_is_above_the_baselines(
    first_network: Path,
) -> None:
    """Pixel F1 of 0.93 and 0.1 above the better baseline, by the README's own commands."""
    judged = read(first_network / "judged/evaluation.json")
    assert judged["images"]["count"] == 160 and judged["images"]["structures"] == 40
    assert judged["images"]["left_out"] == judged["images"]["learnt_from"] == 480
    f1 = judged["pixels"]["particle"]["f1"]["value"]
    baselines = {name: one["f1"]["value"] for name, one in judged["baselines"].items()}
    everything, otsu = baselines.pop("all particle"), next(iter(baselines.values()))
    assert len(baselines) == 1 and next(iter(baselines)).startswith("Otsu, blurred by")
    assert f1 >= 0.93
    assert f1 - max(everything, otsu) >= 0.1
    assert judged["above_baselines"] == pytest.approx(f1 - max(everything, otsu))
    # All that was held out, and nothing else: a share p of particles gives 2 p / (1 + p).
    [source] = read(first_network / "segmentation_small/learnt.json")["training"]["databases"]
    images = hpctem.open(first_network / "au_small.hdf5")
    others = ~np.isin(images.rows // 4, read_runs(source["images"]) // 4)
    with (first_network / "judged/images.csv").open(newline="") as stream:
        judged_rows = [int(line["row"]) for line in csv.DictReader(stream)]
    assert judged_rows == images.rows[others].tolist()
    masks = images.take(others).label("instances")
    share = np.mean([mask > 0 for mask in masks])
    assert everything == pytest.approx(2 * share / (1 + share))
    told = (first_network / "evaluate.txt").read_text()
    assert f"pixels, all particle: f1 {everything:.3f}" in told and f"f1 {otsu:.3f}" in told


def test_the_readme_looks_for_particles_where_images_are(first_network: Path) -> None:
    [command] = list_commands("README.md", "predict segmentation_small")
    condition = command.split('"')[1]
    assert len(hpctem.open(first_network / "au_small.hdf5").where(condition)) > 0


@pytest.mark.slow
def test_the_small_network_for_defects_finds_held_out_vacancies(tmp_path: Path) -> None:
    """Pixel F1 of 0.85 for either kind, and nearly every vacancy by its position."""
    copy_configs(tmp_path)
    for command in list_commands("configs/train_defects_small.yaml", "_small"):
        run(tmp_path, command)
    run(tmp_path, "hpctem evaluate defects_small wse2_small.hdf5 --no-symmetries -o judged")
    judged = read(tmp_path / "judged/evaluation.json")
    assert judged["images"]["structures"] == 16 and judged["images"]["left_out"] == 96
    for kind in ("se_vacancy", "se2_vacancy"):
        assert judged["pixels"][kind]["f1"]["value"] >= 0.85
        assert judged["positions"][kind]["f1"]["value"] >= 0.95


@pytest.mark.slow
def test_two_ranks_with_half_the_batch_reach_the_same(
    first_network: Path, run_mpi: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    """Within noise: 0.015 of F1, half the width of the interval of one network's."""
    pytest.importorskip("horovod")
    (tmp_path / "configs").mkdir()
    text = (ROOT / "configs/train_segmentation_small.yaml").read_text()
    assert text.count("batch: 4") == 1
    (tmp_path / "configs/two.yaml").write_text(text.replace("batch: 4", "batch: 2"))
    (tmp_path / "au_small.hdf5").symlink_to(first_network / "au_small.hdf5")
    (tmp_path / "au_small.hdf5.journal").symlink_to(first_network / "au_small.hdf5.journal")
    command = (sys.executable, "-m", "hpctem", "train", "segmentation", "configs/two.yaml")
    done = run_mpi(2, *command, "-o", "two", "--transport", "horovod", cwd=tmp_path, timeout=3000)
    assert done.returncode == 0, done.stdout + done.stderr
    assert read(tmp_path / "two/model.json")["trained"]["transport"] == "horovod"
    run(tmp_path, "hpctem evaluate two au_small.hdf5 -o judged")
    one, two = (
        read(folder / "judged/evaluation.json")["pixels"]["particle"]["f1"]["value"]
        for folder in (first_network, tmp_path)
    )
    assert two >= 0.93
    assert abs(two - one) <= 0.015
