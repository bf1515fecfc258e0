"""Segmentation as it is trained: batches alike on one rank and two, validation counted right."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

import hpctem
from hpctem.campaign_file import read_campaign
from hpctem.errors import ConfigError
from hpctem.export.rasters import write_tiff
from hpctem.learning.networks.build import stride_of
from hpctem.learning.ranks.transport import Transport, open_transport
from hpctem.learning.training.checkpoints import load_best, save_best
from hpctem.learning.training.history import read_history
from hpctem.learning.training.model_folder import NETWORK, name_weights, open_model
from hpctem.learning.training.runs import Trained, open_lesson, train_model
from hpctem.learning.training.segmentation import HALF, Segmentation, _build_optimiser, score_pixels
from hpctem.learning.training_file import TrainingFile, read_training
from hpctem.parallel import Communicator

CONFIGS = Path(__file__).parents[2] / "configs"
TEXT = """
training: {{name: model, kind: segmentation, seed: 7, description: A test, licence: CC0}}
data: {{databases: [{database}], validation: 0.25}}
target:
  classes: {{particle: instances}}
network: {{name: unet_resnet18, width: 2, dropout: {dropout}}}
optimiser: {{learning_rate: 1e-2}}
schedule: {{epochs: 2, batch: 4{schedule}}}
"""


@pytest.fixture(scope="module")
def alone() -> Transport:
    return open_transport(Communicator(), "single")


def write_training(
    folder: Path, database: Path, dropout: float = 0.1, schedule: str = "", text: str = TEXT
) -> TrainingFile:
    path = folder / "training.yaml"
    path.write_text(text.format(database=database, dropout=dropout, schedule=schedule))
    return read_training(path, "segmentation")


@pytest.fixture(scope="module")
def trained(
    small_database: Path, alone: Transport, make_once: Callable[..., Path]
) -> tuple[TrainingFile, Trained]:
    def fill(folder: Path) -> None:
        done = train_model(write_training(folder, small_database), folder / "model", alone)
        assert done.end == "trained"

    folder = make_once("segmentation", fill)
    file = read_training(folder / "training.yaml", "segmentation")
    return file, train_model(file, folder / "model", alone)


def test_a_training_leaves_a_model_that_predicts_as_it_did(
    trained: tuple[TrainingFile, Trained], alone: Transport
) -> None:
    """The opened model reaches the validation scores that were recorded."""
    file, done = trained
    history = read_history(done.folder)
    assert [row["epoch"] for row in history] == [1, 2]
    assert history[1]["loss"] < history[0]["loss"]
    best = min(history, key=lambda row: row["val_loss"])
    assert {name: best[name] for name in done.metrics} == dict(done.metrics)
    model = open_model(done.folder)
    assert (model.kind, model.classes, model.shape) == ("segmentation", ("particle",), (64, 64))
    assert model.facts["licence"] == "CC0" and model.config == file.config
    assert model.pixel_sizes == pytest.approx((0.25, 0.25))
    network = model.network()
    lesson = open_lesson(file, alone)
    task: Any = lesson.task
    for weight, value in zip(task.network.weights, network.weights, strict=True):
        weight.assign(value)
    assert task.validate()["loss"] == pytest.approx(best["val_loss"], rel=1e-6)
    assert model.facts["rows"] == dict(lesson.rows)
    for name in ("card.md", "training.yaml", "steps.csv", "samples/epoch-0002.png"):
        assert (done.folder / name).stat().st_size > 0
    assert (done.folder / "samples/epoch-0001.png").read_bytes().startswith(b"\x89PNG")


def test_the_commands_on_the_card_can_be_run(
    trained: tuple[TrainingFile, Trained],
    small_database: Path,
    tmp_path: Path,
    follow_card: Callable[..., list[str]],
) -> None:
    with open(tmp_path / "shot.tif", "wb") as stream:
        write_tiff(stream, hpctem.open(small_database).images[0], (0.25, 0.25), {}, packed=False)
    model = trained[1].folder
    lines = follow_card(model, image=tmp_path / "shot.tif", images=small_database)
    assert [line.split()[1] for line in lines] == ["predict", "evaluate"]
    assert (tmp_path / "beside/judged/evaluation.json").exists()


def test_a_finished_model_is_left_alone(
    trained: tuple[TrainingFile, Trained], alone: Transport
) -> None:
    file, done = trained
    before = {path: path.stat().st_mtime_ns for path in done.folder.rglob("*")}
    again = train_model(file, done.folder, alone)
    assert (again.end, again.metrics, again.epochs) == ("found", done.metrics, 2)
    assert {path: path.stat().st_mtime_ns for path in done.folder.rglob("*")} == before


def test_another_config_is_refused_with_the_difference(
    trained: tuple[TrainingFile, Trained], alone: Transport, small_database: Path, tmp_path: Path
) -> None:
    _, done = trained
    text = TEXT.replace("1e-2", "2e-2").replace("A test", "Other words")
    other = write_training(tmp_path, small_database, text=text)
    with pytest.raises(ConfigError, match=r"optimiser.learning_rate: 0.01 then, 0.02 now") as told:
        train_model(other, done.folder, alone)
    assert "description" not in str(told.value)


def test_other_rows_are_refused(
    trained: tuple[TrainingFile, Trained], alone: Transport, small_database: Path, tmp_path: Path
) -> None:
    """The digests of the rows decide, where the training file is the same."""
    file, done = trained
    folder = tmp_path / "model"
    shutil.copytree(done.folder, folder)
    (folder / "model.json").unlink()
    run = json.loads((folder / "run.json").read_text())
    run["rows"]["training rows"] = "0" * 32
    (folder / "run.json").write_text(json.dumps(run))
    with pytest.raises(ConfigError, match=r"rows.training rows: 0{32} then, [0-9a-f]{32} now"):
        train_model(file, folder, alone)


def test_the_best_weights_become_the_model_not_the_last(
    trained: tuple[TrainingFile, Trained], alone: Transport, tmp_path: Path
) -> None:
    """As if it had been left between the last epoch and the model, the first having been best."""
    file, done = trained
    folder = tmp_path / "model"
    shutil.copytree(done.folder, folder)
    (folder / "model.json").unlink()
    found = load_best(folder)
    assert found is not None
    place, arrays = found
    other = {name: 2 * a if name.startswith(NETWORK) else a for name, a in arrays.items()}
    save_best(folder, replace(place, best_epoch=1), other)
    again = train_model(file, folder, alone)
    first = read_history(folder)[0]
    assert again.end == "trained" and again.metrics["val_loss"] == first["val_loss"]
    model = open_model(folder)
    assert model.facts["trained"]["kept epoch"] == 1
    for name, weight in name_weights(NETWORK, model.network()).items():
        assert np.array_equal(weight.numpy(), 2 * arrays[name]), name


def test_a_folder_of_something_else_is_not_touched(
    trained: tuple[TrainingFile, Trained], alone: Transport, tmp_path: Path
) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ConfigError, match="is not the folder of a training"):
        train_model(trained[0], tmp_path, alone)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_validation_is_that_of_all_pixels_together(
    small_database: Path, alone: Transport, tmp_path: Path
) -> None:
    """Against sums over every held-out pixel in NumPy: no mean of means, whatever the batch."""
    file = write_training(tmp_path, small_database)
    task: Any = open_lesson(file, alone).task
    images, truth = (np.concatenate(p) for p in zip(*task._validation, strict=True))
    assert len(images) == 8
    logits = task.network(images, training=False).numpy().astype(float)
    p = np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)
    entropy = -np.log(np.take_along_axis(p, truth[..., None].astype(int), axis=-1)).mean()
    ratios = []
    for k in (0, 1):
        hit, false, missed = p[truth == k, k].sum(), p[truth != k, k].sum(), 0.0
        missed = (1 - p[truth == k, k]).sum()
        ratios.append(hit / (hit + (false + missed) / 2))
    found = (p[..., 1] > p[..., 0]).astype(int)
    tp, fp, fn = (int(x.sum()) for x in (found & truth, found & (1 - truth), (1 - found) & truth))
    told = task.validate()
    assert told["loss"] == pytest.approx(entropy + 1 - np.mean(ratios), rel=1e-5)
    assert told["f1"] == pytest.approx(2 * tp / (2 * tp + fp + fn), rel=1e-12)
    assert told["iou"] == pytest.approx(tp / (tp + fp + fn), rel=1e-12)
    assert told["precision"] == pytest.approx(tp / (tp + fp), rel=1e-12)
    assert told["recall"] == pytest.approx(tp / (tp + fn), rel=1e-12)


def test_scores_of_several_classes_have_their_names() -> None:
    confusion = np.array([[50, 2, 0], [3, 20, 1], [4, 5, 15]])
    told = score_pixels(confusion, ("metal", "vacancy"))
    assert told["recall_metal"] == 20 / 24 and told["precision_vacancy"] == 15 / 16
    # A pixel of any class found as any class is right in the score of all.
    assert told["recall"] == 41 / 48 and told["precision"] == 41 / 43


def make_task(alone: Transport, network: keras.Model, loss: str = "cross_entropy") -> Segmentation:
    optimiser = keras.optimizers.Adam()
    optimiser.build(network.trainable_variables)
    return Segmentation(network, optimiser, alone, ("particle",), loss, seed=5)


def make_batch(seed: int = 0) -> tuple[tf.Tensor, tf.Tensor]:
    generator = np.random.default_rng(seed)
    images = generator.normal(size=(2, 16, 16, 1)).astype(np.float32)
    return tf.constant(images), tf.constant((images[..., 0] > 0.5).astype(np.uint8))


def make_dropping() -> keras.Model:
    images = keras.Input((None, None, 1))
    x = keras.layers.Conv2D(4, 1, kernel_initializer=keras.initializers.GlorotUniform(1))(images)
    x = keras.layers.Dropout(0.5, seed=3)(x)
    start = keras.initializers.GlorotUniform(2)
    return keras.Model(images, keras.layers.Conv2D(2, 1, kernel_initializer=start)(x))


def test_dropout_follows_from_the_step_alone(alone: Transport) -> None:
    """So that a resumed training leaves out what the uninterrupted one did."""
    losses = {}
    for name, drawn in (("whole", 0), ("resumed", 11)):
        task = make_task(alone, make_dropping())
        task.set_rate(0.0)
        for state in task._draws:
            state.assign(np.array([1, drawn], np.uint32))  # as if something else had drawn
        losses[name] = [float(task.train_step(make_batch())["loss"]) for _ in range(4)]
    assert losses["whole"] == losses["resumed"]
    assert len(set(losses["whole"])) == 4  # every step leaves out something else
    # Taken up at step 2 it draws as in step 2.
    task = make_task(alone, make_dropping())
    task.set_rate(0.0)
    task.variables()["steps"].assign(2)
    assert float(task.train_step(make_batch())["loss"]) == losses["whole"][2]


def test_the_first_step_is_that_of_adam(alone: Transport) -> None:
    """Each weight moves by the rate against the sign of its gradient (Kingma and Ba 2015)."""
    images = keras.Input((None, None, 1))
    network = keras.Model(images, keras.layers.Conv2D(2, 1)(images))
    task = make_task(alone, network)
    before = [weight.numpy() for weight in network.weights]
    batch = make_batch()
    with tf.GradientTape() as tape:
        logits = network(batch[0])
        one_hot = tf.one_hot(tf.cast(batch[1], tf.int32), 2)
        loss = -tf.reduce_mean(tf.reduce_sum(one_hot * tf.nn.log_softmax(logits), axis=-1))
    gradients = tape.gradient(loss, [weight.value for weight in network.weights])
    task.set_rate(0.125)
    told = task.train_step(batch)
    assert float(told["loss"]) == pytest.approx(float(loss), rel=1e-6)
    for weight, old, gradient in zip(network.weights, before, gradients, strict=True):
        step = (weight.numpy() - old) / -0.125
        assert np.allclose(step, np.sign(gradient), atol=1e-4)


def test_mixed_precision_is_that_of_layers_alone(
    small_database: Path, alone: Transport, tmp_path: Path
) -> None:
    file = write_training(tmp_path, small_database, schedule=", mixed_precision: true")
    task: Any = open_lesson(file, alone).task
    assert keras.config.dtype_policy().name == "float32"  # as it was before
    layers = {layer.compute_dtype for layer in task.network.layers}
    assert layers == {"float16", "float32"}
    assert {weight.dtype for weight in task.network.weights} == {"float32"}
    assert task.network.output.dtype == "float32"
    # The scale of the losses is among what checkpoints keep.
    scalars = [v for v in task.variables().values() if len(v.shape) == 0]
    scales = [v for v in scalars if float(v) == 2**15]
    assert len(scales) == 1


def test_mixed_precision_learns_as_float32_does(alone: Transport) -> None:
    losses = []
    for mixed in (True, False):
        dtype = HALF if mixed else "float32"
        images = keras.Input((None, None, 1))
        x = images
        for filters, kind in ((4, dtype), (2, "float32")):
            start = keras.initializers.GlorotUniform(filters)
            x = keras.layers.Conv2D(filters, 1, kernel_initializer=start, dtype=kind)(x)
        network = keras.Model(images, x)
        optimiser = _build_optimiser(network, mixed)
        task = Segmentation(network, optimiser, alone, ("particle",), "cross_entropy", seed=5)
        task.set_rate(0.05)
        losses.append([float(task.train_step(make_batch())["loss"]) for _ in range(6)])
    # 16 bit keep three digits; the loss falls with them as it does without.
    assert losses[0] == pytest.approx(losses[1], rel=5e-3)
    assert losses[0] != losses[1] and losses[0][5] < 0.9 * losses[0][0]


def test_what_a_batch_is_made_of_can_be_told(
    small_database: Path, alone: Transport, tmp_path: Path
) -> None:
    """The rows saved beside a batch that ends in NaN are those of its images."""
    text = TEXT + "augmentation: {{rotations: false, flips: false}}\n"
    file = write_training(tmp_path, small_database, text=text)
    lesson = open_lesson(file, alone)
    batches = list(lesson.feed_of(1, 3))
    told = lesson.explain(1, 3)
    assert told["positions"].tolist() == [12, 13, 14, 15]
    from hpctem.collection.collection import open_collection
    from hpctem.learning.data.preparation import prepare_row

    images = open_collection(small_database)
    for image, row, database in zip(batches[0][0], told["rows"], told["databases"], strict=True):
        assert Path(database) == small_database
        [place] = np.flatnonzero(images.rows == row)
        expected = prepare_row(images, int(place), lesson.kept.prepares["image"])
        assert np.allclose(image[..., 0], expected, atol=1e-6)


def test_sides_that_the_network_cannot_halve_are_refused(
    small_database: Path, alone: Transport, tmp_path: Path
) -> None:
    text = TEXT.replace("validation: 0.25", "validation: 0.25, patch: 36")
    file = write_training(tmp_path, small_database, text=text)
    with pytest.raises(ConfigError, match=r"multiples of 8 pixels.* 36 x 36: give data.patch, at"):
        open_lesson(file, alone)


RANKS = """
import sys
from pathlib import Path
import keras
import numpy as np
keras.config.set_dtype_policy("float64")
from hpctem.learning.training.runs import open_lesson
from hpctem.learning.training_file import read_training
from hpctem.learning.ranks.transport import open_transport, why_not_horovod
from hpctem.parallel import world

ranks = world()
names = ["mpi4py"] if why_not_horovod(ranks.threads) else ["mpi4py", "horovod"]
for name in names:
    lesson = open_lesson(read_training(sys.argv[1], "segmentation"), open_transport(ranks, name))
    batch = next(iter(lesson.feed_of(0, 0)))
    loss, right, gradients = lesson.task.differentiate(*batch)
    told = lesson.task.validate()
    losses = ranks.gather(float(loss))
    if ranks.rank == 0:
        moving = [weight.numpy() for weight in lesson.task.network.non_trainable_weights]
        parts = {f"gradient_{k:03d}": part.numpy() for k, part in enumerate(gradients)}
        parts |= {f"moving_{k:03d}": part for k, part in enumerate(moving)}
        np.savez(f"{name}.npz", losses=losses, val_loss=told["loss"], val_f1=told["f1"], **parts)
"""


@pytest.fixture(scope="module")
def doubled(
    run_mpi: Any,
    small_database: Path,
    alone: Transport,
    make_once: Callable[..., Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Path, Any, float, list[np.ndarray]]:
    """What two ranks told by each transport, and one with the double batch."""
    text = TEXT + "augmentation: {{noise: 0.05, scaling: 0.1}}\n"

    def fill(folder: Path) -> None:
        half = text.replace("batch: 4", "batch: 2")
        write_training(folder, small_database, dropout=0.0, text=half)
        (folder / "ranks.py").write_text(RANKS)
        done = run_mpi(2, sys.executable, "ranks.py", "training.yaml", cwd=folder, timeout=400)
        assert done.returncode == 0, done.stderr

    folder = make_once("doubled", fill)
    double = write_training(
        tmp_path_factory.mktemp("double"), small_database, dropout=0.0, text=text
    )
    keras.config.set_dtype_policy("float64")
    try:
        lesson = open_lesson(double, alone)
    finally:
        keras.config.set_dtype_policy("float32")
    task: Any = lesson.task
    loss, _, gradients = task.differentiate(*next(iter(lesson.feed_of(0, 0))))
    return folder, task, float(loss), [part.numpy() for part in gradients]


@pytest.mark.parametrize("transport", ["horovod", "mpi4py"])
def test_two_ranks_differentiate_as_one_with_the_double_batch(
    doubled: tuple[Path, Any, float, list[np.ndarray]], transport: str
) -> None:
    """Through network, synchronised normalisation, summed F1 counts, feed and augmentation.

    In float64, but for logits and losses: at the beginning of a training, 17 layers of batch
    normalisation one after the other make of the rounding of float32 a difference of 1e-4 in the
    logits, and rectifiers, that are on in one sum and off in the other, of 3 % in the gradients,
    also when the images of one batch are taken in another order.
    """
    folder, task, loss, gradients = doubled
    if transport == "horovod" and not (folder / "horovod.npz").exists():
        pytest.skip("Horovod is not installed: jobs/install_horovod")
    with np.load(folder / f"{transport}.npz") as told:
        # Each rank has the mean cross entropy of its own half, and the F1 of both.
        assert told["losses"].mean() == pytest.approx(loss, rel=1e-6)
        assert len(set(told["losses"])) == 2
        largest = max(float(np.abs(part).max()) for part in gradients)
        for k, part in enumerate(gradients):
            # Sums over pixels of what the float32 of the logits rounds.
            assert np.allclose(told[f"gradient_{k:03d}"], part, rtol=1e-5, atol=1e-6 * largest)
        for k, weight in enumerate(task.network.non_trainable_weights):
            assert np.allclose(told[f"moving_{k:03d}"], weight.numpy(), rtol=1e-5, atol=1e-7)
        # What is held out is counted over both ranks, each image once.
        scores = task.validate()
        assert told["val_loss"] == pytest.approx(scores["loss"], rel=1e-5)
        assert told["val_f1"] == pytest.approx(scores["f1"], rel=1e-3)


@pytest.mark.parametrize(
    "path", sorted(CONFIGS.glob("train_[sd]*.yaml")), ids=lambda path: path.stem
)
def test_the_training_files_that_come_along_name_campaigns_that_come_along(path: Path) -> None:
    file = read_training(path, path.stem.split("_")[1])
    [name] = file.config.data.databases
    database = file.locate(name).resolve()
    campaign = read_campaign(CONFIGS / f"{database.stem}.yaml").config
    assert campaign.campaign.name == database.stem and database.parent == CONFIGS.parent
    scanned = campaign.campaign.technique == "stem"
    defects = campaign.structure.defects if scanned else ()
    known = {"particles", *(defect.name for defect in defects)}
    maps = file.config.target.classes.values()
    assert {name for one in maps for name in ([one] if isinstance(one, str) else one)} <= known
    side = file.config.data.patch
    side = side or (campaign.imaging.pixels if scanned else campaign.imaging.crop)
    assert side % stride_of(file.config.network) == 0
