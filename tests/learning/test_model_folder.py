"""Model folders: what was saved is opened again, and what is missing or damaged is named."""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import h5py
import keras
import numpy as np
import pytest

sys.path.append(str(Path(__file__).parents[1] / "unit"))

from drawn_images import Drawn, make_images

import hpctem
from hpctem.errors import ConfigError
from hpctem.learning.data.preparation import Prepare
from hpctem.learning.networks.build import build_network
from hpctem.learning.networks.generator import generator
from hpctem.learning.training.lesson import Kept
from hpctem.learning.training.model_folder import NETWORK, open_model, rebuild_config, save_model
from hpctem.learning.training_file import TrainingFile, read_training

SEGMENTATION = """
training: {name: gold, kind: segmentation, licence: CC-BY-4.0, description: Finds gold.}
data: {databases: [none.hdf5]}
target:
  classes: {metal: instances, edge: instances}
network: {name: residual_unet, width: 2}
schedule: {epochs: 3, batch: 4}
"""
CYCLEGAN = """
training: {name: cycle, kind: cyclegan}
simulation: {databases: [none.hdf5], patch: 16}
experiment: {images: [none.dm3], rows: [0, 496], pixel_size: 12.7 pm}
generator: {width: 2, levels: 3}
schedule: {epochs: 3, batch: 4}
"""
ROWS = {"training rows": "ab" * 16}
LEARNT = {"training": [7, 0, 1, 2, 6], "validation": [4, 12]}  # structures 0, 2; 1, 4


def write_file(folder: Path, text: str, kind: str) -> TrainingFile:
    path = folder / "training.yaml"
    path.write_text(text)
    return read_training(path, kind)


def make_network(file: TrainingFile, seed: int) -> keras.Model:
    network = build_network(file.config.network, 2, seed=seed)
    # Moving statistics too must come back: none is what a fresh network has.
    generator = np.random.default_rng(seed)
    for weight in network.weights:
        weight.assign(generator.uniform(0.1, 0.5, size=weight.shape))
    return network


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, keras.Model]:
    folder = tmp_path_factory.mktemp("saved")
    file = write_file(folder, SEGMENTATION, "segmentation")
    network = make_network(file, 1)
    prepare = Prepare(True, "group", low=3.5, high=17.25)
    make_images(folder / "drawn.hdf5", Drawn(structures=6, each=3))
    everything = hpctem.open(folder / "drawn.hdf5")
    images = {name: everything.take(rows) for name, rows in LEARNT.items()}
    kept = Kept(
        {NETWORK: network}, {"image": prepare}, ("metal", "edge"), (0.2, 0.25), (32, 48), {"a": 1},
        images,
    )  # fmt: skip
    save_model(folder / "gold", file, kept, ROWS, {"val_f1": 0.93}, {"ranks": 2})
    return folder / "gold", network


@pytest.fixture
def copy(saved: tuple[Path, keras.Model], tmp_path: Path) -> Path:
    return Path(shutil.copytree(saved[0], tmp_path / "gold"))


def test_a_model_comes_back_with_its_weights(saved: tuple[Path, keras.Model]) -> None:
    folder, network = saved
    model = open_model(folder)
    assert (model.name, model.kind, model.classes) == ("gold", "segmentation", ("metal", "edge"))
    assert model.prepare == Prepare(True, "group", low=3.5, high=17.25)
    assert (model.pixel_sizes, model.shape, model.constants) == ((0.2, 0.25), (32, 48), {"a": 1})
    assert model.facts["metrics"] == {"val_f1": 0.93} and model.facts["rows"] == ROWS
    assert model.facts["licence"] == "CC-BY-4.0" and "keras" in model.facts["versions"]
    opened = model.network()
    for mine, theirs in zip(network.weights, opened.weights, strict=True):
        assert mine.numpy().tobytes() == theirs.numpy().tobytes()
    images = np.random.default_rng(0).normal(size=(1, 32, 48, 1)).astype(np.float32)
    assert np.array_equal(network(images, training=False), opened(images, training=False))


def test_a_model_says_which_images_it_has_learnt_from(
    saved: tuple[Path, keras.Model], tmp_path: Path
) -> None:
    folder, _ = saved
    said = json.loads((folder / "learnt.json").read_text())
    runs = {"training": "0-2,6-7", "validation": "4,12"}
    for part, rows in LEARNT.items():
        [database] = said[part]["databases"]
        with h5py.File(folder.parent / "drawn.hdf5") as file:
            stored = file["/entry/digests/images"][sorted(rows)]
            atoms = file["/entry/structures/atoms_digest"][sorted({row // 3 for row in rows})]
        digest = hashlib.blake2b(stored.tobytes(), digest_size=16).hexdigest()
        assert (database["images"], database["digest"]) == (runs[part], digest)
        assert (database["path"], database["rows"]) == ("../drawn.hdf5", len(rows))
        assert said[part]["images"] == len(rows)
        assert sorted(said[part]["structures"]) == sorted(name.tobytes().hex() for name in atoms)
    # Other images of its structures too, wherever they are; and of no other structure.
    learnt = open_model(folder).learnt
    assert learnt is not None
    make_images(tmp_path / "more.hdf5", Drawn(shape=(32, 32), structures=8, each=2, first=9))
    found = learnt.find(hpctem.open(tmp_path / "more.hdf5"))
    assert np.flatnonzero(found).tolist() == [0, 1, 4, 5]
    make_images(tmp_path / "other.hdf5", Drawn(seed=2))
    both = hpctem.open([tmp_path / "other.hdf5", folder.parent / "drawn.hdf5"])
    assert np.flatnonzero(learnt.find(both)).tolist() == [18 + k for k in (0, 1, 2, 6, 7, 8)]


def test_an_older_model_does_not_say_what_it_has_learnt_from(copy: Path) -> None:
    facts = json.loads((copy / "model.json").read_text())
    del facts["learnt"]
    (copy / "model.json").write_text(json.dumps(facts))
    (copy / "learnt.json").unlink()
    assert open_model(copy).learnt is None


def test_the_card_tells_people_what_the_model_is(saved: tuple[Path, keras.Model]) -> None:
    card = (saved[0] / "card.md").read_text()
    for told in ("# gold", "Finds gold.", "metal, edge", "CC-BY-4.0", "val_f1 | 0.93", "ab" * 16):
        assert told in card
    assert "48 x 32 pixels of 0.2 to 0.25" in card and "hpctem predict gold" in card


def test_both_generators_of_a_cyclegan_come_back(tmp_path: Path) -> None:
    file = write_file(tmp_path, CYCLEGAN, "cyclegan")
    names = ("to_experiment", "to_simulation")
    networks = {name: generator(width=2, levels=3, seed=k) for k, name in enumerate(names)}
    prepares = {name: Prepare(False, "group", -1.0, k) for k, name in enumerate(names)}
    kept = Kept(networks, prepares, (), None, (16, 16))
    model = open_model(save_model(tmp_path / "cycle", file, kept, {}, {}))
    assert model.config == file.config and model.pixel_sizes is None
    for name, network in networks.items():
        for mine, theirs in zip(network.weights, model.network(name).weights, strict=True):
            assert np.array_equal(mine.numpy(), theirs.numpy())
    with pytest.raises(ConfigError, match="no network 'other': to_experiment, to_simulation"):
        model.network("other")
    with pytest.raises(ConfigError, match="no network None"):
        model.network()
    with pytest.raises(ConfigError, match="changes images and names no classes"):
        print(model.prepare)


def test_sections_are_rebuilt_from_plain_numbers(tmp_path: Path) -> None:
    for text, kind in ((SEGMENTATION, "segmentation"), (CYCLEGAN, "cyclegan")):
        file = write_file(tmp_path, text, kind)
        assert rebuild_config(kind, file.resolved) == file.config


def remove_weights(folder: Path) -> None:
    (folder / "weights.npz").unlink()


def remove_training(folder: Path) -> None:
    (folder / "training.yaml").unlink()


def change_weights(folder: Path) -> None:
    raw = bytearray((folder / "weights.npz").read_bytes())
    raw[len(raw) // 2] ^= 1
    (folder / "weights.npz").write_bytes(raw)


def remove_learnt(folder: Path) -> None:
    (folder / "learnt.json").unlink()


def change_learnt(folder: Path) -> None:
    text = (folder / "learnt.json").read_text()
    (folder / "learnt.json").write_text(text.replace('"0-2,6-7"', '"0-2,7"'))


def cut_facts(folder: Path) -> None:
    text = (folder / "model.json").read_text()
    (folder / "model.json").write_text(text[: len(text) // 2])


def lose_a_fact(folder: Path) -> None:
    facts = json.loads((folder / "model.json").read_text())
    del facts["classes"]
    (folder / "model.json").write_text(json.dumps(facts))


def change_format(folder: Path) -> None:
    facts = json.loads((folder / "model.json").read_text())
    (folder / "model.json").write_text(json.dumps(facts | {"format": "hpctem-model-9"}))


def change_prepare(folder: Path) -> None:
    facts = json.loads((folder / "model.json").read_text())
    facts["prepares"]["image"]["high"] = 0.0
    (folder / "model.json").write_text(json.dumps(facts))


def leave_unfinished(folder: Path) -> None:
    (folder / "model.json").unlink()
    (folder / "run.json").write_text("{}")
    (folder / "history.csv").write_text("epoch,loss\n1,0.5\n2,0.4\n")


def remove_facts(folder: Path) -> None:
    (folder / "model.json").unlink()


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (remove_weights, r"incomplete: weights\.npz is missing"),
        (remove_training, r"incomplete: training\.yaml is missing"),
        (change_weights, r"weights\.npz is damaged, or of another training"),
        (remove_learnt, r"incomplete: learnt\.json is missing"),
        (change_learnt, r"learnt\.json is damaged, or of another training"),
        (cut_facts, r"model\.json is damaged"),
        (lose_a_fact, r"model\.json is damaged \('classes'\)"),
        (change_format, "has the format 'hpctem-model-9', not 'hpctem-model-1'"),
        (change_prepare, "preparation of images is damaged"),
        (leave_unfinished, "is not over, 2 epochs are: run its 'hpctem train' again"),
        (remove_facts, r"is no model folder: it has no model\.json"),
        (shutil.rmtree, "there is no model folder"),
    ],
)
def test_what_is_wrong_with_a_folder_is_named(
    copy: Path, damage: Callable[[Path], None], told: str
) -> None:
    damage(copy)
    with pytest.raises(ConfigError, match=told):
        open_model(copy)


def test_weights_of_another_width_are_refused(copy: Path) -> None:
    facts = json.loads((copy / "model.json").read_text())
    facts["config"]["network"]["width"] = 3
    (copy / "model.json").write_text(json.dumps(facts))
    with pytest.raises(ConfigError, match="has the shape"):
        open_model(copy).network()
