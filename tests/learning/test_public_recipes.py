"""The recipes for published sets, from files as they are published to scores.

Networks are small and hardly trained: that every step takes what the one before gives is shown, and
that scores are those of the set's labels.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from click.testing import CliRunner
from PIL import Image
from published_sets import write_groschner, write_khan

import hpctem
from hpctem.cli import commands
from hpctem.errors import ConfigError
from hpctem.learning.data.patches import read_experiment
from hpctem.learning.data.samples import open_sources
from hpctem.learning.training_file import read_training
from hpctem.sections.training import Experiment

CONFIGS = Path(__file__).parents[2] / "configs"
SMALL: dict[str, dict[str, Any]] = {
    "segmentation": {"network": {"name": "unet_resnet18", "width": 4}},
    "defects": {"network": {"name": "residual_unet", "width": 4}},
    "cyclegan": {"generator": {"width": 2, "levels": 3}, "discriminators": {"width": 2}},
}


def run(*words: Any) -> str:
    done = CliRunner().invoke(commands, [str(word) for word in words])
    assert done.exit_code == 0, f"{done.output}{done.exception!r}"
    return done.output


def shrink(name: str, folder: Path, **sections: dict[str, Any]) -> Path:
    """A training file of configs/ beside its databases, with a network for small images."""
    content = yaml.safe_load((CONFIGS / name).read_text())
    kind = content["training"]["kind"]
    changes = {"schedule": {"epochs": 1, "batch": 2}, **SMALL[kind], **sections}
    content |= {key: content.get(key, {}) | value for key, value in changes.items()}
    content["schedule"].pop("steps_per_epoch", None)
    path = folder / "files" / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(yaml.safe_dump(content))
    return path


def judge(folder: Path, *words: Any) -> dict[str, Any]:
    run("evaluate", *words, "-o", folder / "judged", "--no-symmetries")
    return json.loads((folder / "judged/evaluation.json").read_text())


def test_gold_is_learnt_from_its_first_squares_and_judged_on_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    _, masks = write_groschner(tmp_path, count=8)
    run("import", CONFIGS / "public_au_5nm.yaml", tmp_path)
    training = shrink("train_public_au.yaml", tmp_path, data={"where": "row < 6"})
    learnt, held = open_sources(read_training(training, "segmentation"))
    assert held is not None and len(learnt) + len(held) == 6
    assert max(learnt.collection.rows.max(), held.collection.rows.max()) < 6
    run("train", "segmentation", training)
    told = judge(tmp_path, "public_au", "au_5nm.hdf5", "--where", "row >= 6")
    assert told["images"]["count"] == 2
    counts = told["pixels"]["particle"]
    assert counts["true_positives"] + counts["false_negatives"] == int(masks[6:].sum())


def test_vacancies_are_learnt_from_published_images_and_counted_in_test_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_khan(tmp_path / "simulated", ["0", "1", "2", "3"], ending="tiff")
    truth = write_khan(tmp_path / "tests", ["107_day/RR_1750", "107_day/RR_1840"], seed=9)
    run("import", CONFIGS / "public_wse2_simulated.yaml", "simulated")
    run("import", CONFIGS / "public_wse2_day_a.yaml", "tests")
    training = shrink(
        "train_public_wse2.yaml",
        tmp_path,
        data={"patch": 64, "patches_per_image": 2, "validation": 0.25},
    )
    run("train", "defects", training)
    told = judge(tmp_path, "public_wse2", "wse2_day_a.hdf5", "--border", "10px", "--own-scale")
    counts = told["positions"]["se_vacancy"]
    inside = [9.5 <= x < 85.5 and 9.5 <= y < 85.5 for places in truth for x, y in places]
    assert counts["true_positives"] + counts["false_negatives"] == sum(inside) > 0


def test_recorded_images_are_named_by_a_pattern(tmp_path: Path) -> None:
    """As a training of a CycleGAN reads them, beside simulations without labels."""
    (tmp_path / "day_a").mkdir()
    rng = np.random.default_rng(0)
    frames = [rng.poisson(50, (3, 96, 96)).astype(np.uint16) for _ in range(2)]
    for number, stack in enumerate(frames):
        first, *rest = [Image.fromarray(frame) for frame in stack]
        path = tmp_path / f"day_a/RR_{number} HAADF Raw_Stack_16bit.tif"
        first.save(path, save_all=True, append_images=rest)
    (tmp_path / "pristine").mkdir()
    for number in range(4):
        image = Image.fromarray(rng.random((96, 96)).astype(np.float32))
        image.save(tmp_path / f"pristine/{number}.tif")
    run(
        *("import", CONFIGS / "public_wse2_pristine.yaml", tmp_path / "pristine"),
        *("-o", tmp_path / "wse2_pristine.hdf5"),
    )
    assert hpctem.open(tmp_path / "wse2_pristine.hdf5").label_names == ()
    simulation = {"patch": 32, "patches_per_image": 2}
    file = read_training(
        shrink("train_public_cyclegan_wse2.yaml", tmp_path, simulation=simulation), "cyclegan"
    )
    simulated, _ = open_sources(file)
    assert simulated.shape == (32, 32) and simulated.pixel_sizes == (0.2074, 0.2074)
    recorded = read_experiment(file.config.experiment, file.locate, 32)
    assert [Path(name).name[:4] for name in recorded.names] == ["RR_0", "RR_1"]
    means = np.stack([stack.mean(axis=0) for stack in frames])
    low, high = recorded.prepare.low, recorded.prepare.high
    assert low == pytest.approx(means.mean() - 3.5 * means.std(), rel=1e-6)
    scaled = np.clip(2 * (means - low) / (high - low) - 1, -1, 1)
    assert np.allclose(np.stack(recorded.images), scaled, atol=1e-5)
    training = file.folder / "train_public_cyclegan_wse2.yaml"
    run("train", "cyclegan", training, "-o", tmp_path / "gan")
    # These have no labels; any database whose images hold a square can be translated.
    run(
        *("translate", tmp_path / "gan", tmp_path / "wse2_pristine.hdf5"),
        *("-o", tmp_path / "realistic.hdf5"),
    )
    tiles = hpctem.open(tmp_path / "realistic.hdf5")
    assert tiles.images.shape == (4 * 9, 32, 32) and np.isfinite(tiles.images[:]).all()
    none = Experiment(images=("../day_b/*.tif",))
    with pytest.raises(ConfigError, match=r"experiment.images: no file is called .*day_b/\*.tif"):
        read_experiment(none, file.locate, 32)
