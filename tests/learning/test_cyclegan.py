"""A CycleGAN learns, alone, on ranks and after a stop; its generators are used as they were."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

sys.path.append(str(Path(__file__).parent))

from ranks_cycle import CONFIG, draw_batch, make_task

import hpctem
from hpctem.database.verify import verify
from hpctem.errors import ConfigError
from hpctem.export.rasters import write_tiff
from hpctem.learning.cyclegan.networks import TO_EXPERIMENT, TO_SIMULATION
from hpctem.learning.cyclegan.patches import judge_patches, take_patches
from hpctem.learning.cyclegan.picture import draw_cycle
from hpctem.learning.data.preparation import prepare
from hpctem.learning.prediction.sources import Shot
from hpctem.learning.ranks.transport import Transport
from hpctem.learning.training.checkpoints import restore
from hpctem.learning.training.model_folder import open_model
from hpctem.learning.training.runs import ALONE, Attention, Trained, open_lesson, train_model
from hpctem.learning.training.schedules import cyclegan_rate
from hpctem.learning.training_file import read_training
from hpctem.learning.translation.denoise import denoise_image, write_denoised
from hpctem.learning.translation.generators import choose_recipe, open_generator
from hpctem.learning.translation.translate import plan_translation, translate
from hpctem.micrographs.read import read_micrograph
from hpctem.parallel import Communicator
from hpctem.sampling import Streams
from hpctem.sections.training import CycleOptimiser

SINGLE = Transport("single", Communicator(), tf.identity)
SCRIPT = Path(__file__).with_name("ranks_cycle.py")
CONFIGS = Path(__file__).parents[2] / "configs"
ROUNDING = float(np.finfo(np.float32).eps)
TRAINING = """
training: {{name: gan, kind: cyclegan, seed: 5}}
simulation:
  databases: [{database}]
  patch: 32
  patches_per_image: 2
  preparation: {{scale: group}}
experiment: {{images: [experiment.npy], pixel_size: 0.2 A}}
generator: {{width: 4, levels: 3}}
discriminators: {{width: 4}}
optimiser: {{learning_rate: 5.0e-3}}
schedule: {{epochs: 2, batch: 2, steps_per_epoch: 20}}
"""


@pytest.fixture(scope="module")
def folder(small_scans: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A training file, and an 'experiment' that no database has: noisy, of other intensities."""
    folder = tmp_path_factory.mktemp("gan")
    write_files(folder, small_scans)
    return folder


def write_files(folder: Path, scans: Path) -> None:
    image = hpctem.open(scans).images[3].astype(float)
    counts = np.random.default_rng(0).poisson(20 * image.clip(0) / image.mean())
    np.save(folder / "experiment.npy", 100 + 7 * counts.astype(np.float32))
    (folder / "gan.yaml").write_text(TRAINING.format(database=scans))


def train(folder: Path, name: str, attention: Attention = ALONE) -> Trained:
    return train_model(
        read_training(folder / "gan.yaml", "cyclegan"), folder / name, SINGLE, attention
    )


@pytest.fixture(scope="module")
def trained(small_scans: Path, make_once: Callable[..., Path]) -> Path:
    def fill(folder: Path) -> None:
        write_files(folder, small_scans)
        assert train(folder, "whole").end == "trained"

    return make_once("cyclegan", fill) / "whole"


def read_steps(folder: Path) -> list[dict[str, str]]:
    with open(folder / "steps.csv") as stream:
        return list(csv.DictReader(stream))


def test_each_network_learns_from_its_own_equation() -> None:
    """Gradients against those of equations 1 to 4 taken one by one, each for its own network."""
    task = make_task(SINGLE)
    simulated, experimental = draw_batch(2)
    found, _ = task.find_gradients(simulated, experimental)
    net = {name: lambda x, n=n: n(x, training=True) for name, n in task.networks.items()}
    to_x, to_y = net[TO_EXPERIMENT], net[TO_SIMULATION]

    def power(images: tf.Tensor) -> tf.Tensor:
        f = tf.signal.fftshift(tf.signal.fft2d(tf.cast(images[..., 0], tf.complex64)), (1, 2))
        square = tf.math.real(f) ** 2 + tf.math.imag(f) ** 2
        return ((tf.math.log(square / 32**2 + 1e-6) + 3.0) / 2.0)[..., None]

    def fool(kind: str, made: tf.Tensor) -> tf.Tensor:
        image, spectrum = net[f"{kind}_image"], net[f"{kind}_power"]
        return sum(
            tf.reduce_mean((1 - judged) ** 2) for judged in (image(made), spectrum(power(made)))
        )

    def cycle() -> tf.Tensor:
        return tf.reduce_mean(tf.abs(to_x(to_y(experimental)) - experimental)) + tf.reduce_mean(
            tf.abs(to_y(to_x(simulated)) - simulated)
        )

    def catch(name: str, real: tf.Tensor, made: tf.Tensor) -> tf.Tensor:
        view = power if name.endswith("power") else tf.identity
        judge = net[name]
        return tf.reduce_mean(judge(view(made)) ** 2) + tf.reduce_mean((1 - judge(view(real))) ** 2)

    losses: dict[str, Callable[[], tf.Tensor]] = {
        TO_EXPERIMENT: lambda: (
            fool("experiment", to_x(simulated))
            + 10 * cycle()
            + 5 * tf.reduce_mean((to_x(experimental) - experimental) ** 2)
        ),
        TO_SIMULATION: lambda: (
            fool("simulation", to_y(experimental))
            + 10 * cycle()
            + 5 * tf.reduce_mean((to_y(simulated) - simulated) ** 2)
        ),
        "experiment_image": lambda: catch("experiment_image", experimental, to_x(simulated)),
        "experiment_power": lambda: catch("experiment_power", experimental, to_x(simulated)),
        "simulation_image": lambda: catch("simulation_image", simulated, to_y(experimental)),
        "simulation_power": lambda: catch("simulation_power", simulated, to_y(experimental)),
    }
    assert set(losses) == set(task.networks)
    place = 0
    for name, loss in losses.items():
        weights = [w.value for w in task.networks[name].trainable_variables]
        with tf.GradientTape() as tape:
            value = loss()
        for expected in tape.gradient(value, weights):
            scale = max(float(tf.reduce_max(tf.abs(expected))), 1e-3)
            assert np.allclose(found[place], expected, rtol=0, atol=1000 * ROUNDING * scale), name
            place += 1
    assert place == len(found)


def test_two_ranks_learn_alike_from_the_gradients_of_the_double_batch(run_mpi: Callable) -> None:
    pytest.importorskip("mpi4py")
    done = run_mpi(2, sys.executable, SCRIPT, timeout=300)
    assert done.returncode == 0, done.stderr
    answers = json.loads(done.stdout.strip().splitlines()[-1])
    if "horovod" not in answers:
        pytest.skip("Horovod is not installed: jobs/install_horovod")
    assert list(answers) == ["horovod", "mpi4py"]
    for told in answers.values():
        assert told["tensors"] > 60
        assert len(told["apart"]) == 6
        # Length of the difference over that of the gradient, of each network.
        assert max(told["apart"].values()) < 50 * ROUNDING, told


def test_the_cycle_closes_with_training(trained: Path) -> None:
    """What comes back, and what was of its kind already, is closer to what was given."""
    steps = read_steps(trained)
    for name in ("cycle", "identity"):
        values = [float(step[name]) for step in steps]
        assert np.mean(values[-5:]) < 0.8 * np.mean(values[:5]), name


def test_power_spectra_can_be_left_unjudged() -> None:
    from hpctem.learning.cyclegan.networks import build_networks

    plain = CONFIG.discriminators.model_copy(update={"fourier": False})
    names = set(build_networks(CONFIG.model_copy(update={"discriminators": plain})))
    assert names == {TO_EXPERIMENT, TO_SIMULATION, "experiment_image", "simulation_image"}


def test_stopped_in_an_epoch_it_goes_on_as_if_it_had_not_been(folder: Path, trained: Path) -> None:
    asked = 0

    def stop() -> bool:
        nonlocal asked
        asked += 1
        return asked == 27

    assert train(folder, "halved", replace(ALONE, stop=stop)).end == "stopped"
    assert len(read_steps(folder / "halved")) == 27
    assert train(folder, "halved").end == "trained"
    assert read_steps(folder / "halved") == read_steps(trained)
    assert (folder / "halved" / "weights.npz").read_bytes() == (
        trained / "weights.npz"
    ).read_bytes()


def test_dropout_follows_from_what_a_checkpoint_keeps() -> None:
    """Only generators of more than five levels have dropout; these have six."""
    batch = [tf.concat([tf.concat([part, part], 1)] * 2, 2) for part in draw_batch(1)]
    tasks = [make_task(SINGLE, levels=6) for _ in range(2)]
    for task in tasks:
        task.set_rate(1e-3)
    tasks[0]._learn_batch(*batch)
    restore(tasks[1].variables(), {k: v.numpy() for k, v in tasks[0].variables().items()})
    losses = [float(task._learn_batch(*batch)["loss"]) for task in tasks]
    assert losses[0] == losses[1]
    tasks[1]._steps.assign(7)
    assert float(tasks[1]._learn_batch(*batch)["loss"]) != float(
        tasks[0]._learn_batch(*batch)["loss"]
    )


def test_the_model_keeps_what_its_use_needs(folder: Path, trained: Path, small_scans: Path) -> None:
    model = open_model(trained)
    assert set(model.facts["networks"]) == {TO_EXPERIMENT, TO_SIMULATION}
    assert set(model.prepares) == {"simulation", "experiment"}
    assert model.shape == (32, 32)
    assert model.constants["noise"] == pytest.approx(0.1)
    assert set(model.constants["spectra"]) == {"simulation", "experiment"}
    lesson = open_lesson(read_training(folder / "gan.yaml", "cyclegan"), SINGLE)
    recipe = choose_recipe(model, "translate")
    assert recipe.noise == pytest.approx(0.1) and choose_recipe(model, "denoise").noise == 0
    image = np.load(folder / "experiment.npy")
    seen = prepare(image, model.prepares["experiment"])
    low, high = image.mean() - 3.5 * image.std(), image.mean() + 3.5 * image.std()
    expected = np.clip(2 * (image - low) / (high - low) - 1, -1, 1)
    assert seen == pytest.approx(expected, abs=1e-4)
    assert lesson.kept.constants["spectra"] == model.constants["spectra"]
    assert sorted(path.name for path in (trained / "samples").iterdir()) == [
        "epoch-0001.png",
        "epoch-0002.png",
    ]


def test_the_commands_on_the_card_can_be_run(
    folder: Path, trained: Path, small_scans: Path, tmp_path: Path, follow_card: Callable
) -> None:
    with open(tmp_path / "shot.tif", "wb") as stream:
        write_tiff(stream, np.load(folder / "experiment.npy"), (0.2, 0.2), {}, packed=False)
    lines = follow_card(trained, image=tmp_path / "shot.tif", simulated=small_scans)
    assert [line.split()[1] for line in lines] == ["translate", "denoise"]


def test_warm_up_and_constant_epochs_shape_the_rate() -> None:
    """Linearly up in two epochs, constant to the fourth, linearly to zero at the tenth."""
    section = CycleOptimiser(learning_rate=0.5, warm_up=2.0, constant_epochs=4)
    rate = cyclegan_rate(section, 10, 1)
    at = [0.0, 0.5, 1.0, 2.0, 3.5, 4.0, 7.0, 10.0]
    assert [rate(epoch) for epoch in at] == [0.0, 0.125, 0.25, 0.5, 0.5, 0.5, 0.25, 0.0]
    assert cyclegan_rate(section.model_copy(update={"scale_with_ranks": True}), 10, 4)(1.0) == 1.0


def test_a_cyclegan_has_no_batch_normalisation_to_leave_apart(folder: Path) -> None:
    text = (folder / "gan.yaml").read_text()
    (folder / "apart.yaml").write_text(text.replace("batch: 2,", "batch: 2, synchronise: false,"))
    with pytest.raises(ConfigError, match=r"schedule\.synchronise: false changes nothing here"):
        read_training(folder / "apart.yaml", "cyclegan")


def test_both_kinds_of_patches_have_orders_of_their_own(folder: Path) -> None:
    lesson = open_lesson(read_training(folder / "gan.yaml", "cyclegan"), SINGLE)
    whole, again = list(lesson.feed_of(0, 0)), list(lesson.feed_of(0, 18))
    epochs = whole[:20], whole[20:]
    assert len(whole) == 40 and len(again) == 22
    for part in (0, 1):
        assert epochs[0][0][part].shape == (2, 32, 32, 1)
        assert not np.array_equal(epochs[0][0][part], epochs[1][0][part])
        assert np.array_equal(epochs[0][18][part], again[0][part])
    # Simulated patches have noise of 0.1 beyond the range of their group; experimental ones none.
    assert max(float(tf.reduce_max(tf.abs(batch[1]))) for batch in epochs[0]) <= 1.0


def test_noise_is_that_of_the_training(folder: Path) -> None:
    task = open_lesson(read_training(folder / "gan.yaml", "cyclegan"), SINGLE).task
    assert task.better == "val_distance"
    from hpctem.learning.data.samples import open_sources

    samples = open_sources(read_training(folder / "gan.yaml", "cyclegan"))[0]
    pure, noisy = (take_patches(samples, 20, "shown", noise) for noise in (0.0, 0.1))
    assert (noisy - pure).std() == pytest.approx(0.1, rel=0.03)


def test_patches_that_fail_make_the_distance_worse(folder: Path) -> None:
    task = open_lesson(read_training(folder / "gan.yaml", "cyclegan"), SINGLE).task
    seen = task._samplers
    clear = replace(seen, experimental=seen.simulated)
    perfect = judge_patches(clear, seen.simulated)
    assert perfect["rejected"] == 0 and perfect["offset"] < 1e-6
    assert perfect["divergence"] == pytest.approx(0, abs=1e-12)
    moved = judge_patches(clear, np.roll(seen.simulated, 2, axis=2))
    assert moved["rejected"] == 1 and moved["offset"] == pytest.approx(2, abs=0.2)
    assert moved["distance"] > 5 * perfect["distance"]


def test_translating_on_two_ranks_gives_the_same_file(
    folder: Path, trained: Path, small_scans: Path, run_mpi: Callable
) -> None:
    pytest.importorskip("mpi4py")
    recipe = choose_recipe(open_model(trained), "translate")
    planned = plan_translation(recipe, small_scans, folder / "alone.hdf5", Communicator(), 3)
    assert translate(planned, folder / "alone.hdf5", Communicator()).complete
    command = [sys.executable, "-m", "hpctem", "translate", str(trained), str(small_scans)]
    done = run_mpi(2, *command, "-o", str(folder / "ranks.hdf5"), "--limit", "3", timeout=300)
    assert done.returncode == 0, done.stderr
    assert "of 48 tiles accepted" in done.stdout
    assert (folder / "alone.hdf5").read_bytes() == (folder / "ranks.hdf5").read_bytes()
    assert not verify(folder / "alone.hdf5").bad
    # What is in the file is what the generator gives, of the image as the training saw it.
    tiles = hpctem.open(folder / "alone.hdf5")
    image = prepare(hpctem.open(small_scans).images[0], recipe.prepare)[:32, 32:]
    noise = Streams(recipe.seed)("translate/noise", 1).normal(0.0, 0.1, (32, 32))
    made = open_generator(trained, TO_EXPERIMENT)((image + noise.astype(np.float32))[None])
    assert tiles.images[1] == pytest.approx(made[0], abs=1e-5)


def test_a_micrograph_is_denoised_at_its_own_size(folder: Path, trained: Path) -> None:
    image = np.load(folder / "experiment.npy")[:50, :61]
    recipe = choose_recipe(open_model(trained), "denoise")
    found = denoise_image(recipe, Shot(image, 0.2))
    assert found.after.shape == image.shape and np.abs(found.after).max() <= 1
    tile = recipe.generate()(prepare(image, recipe.prepare)[None, :32, :32])[0]
    # The first pixels are of the first tile alone.
    assert found.after[:8, :8] == pytest.approx(tile[:8, :8], abs=1e-5)
    paths = write_denoised(found, folder / "clean.tif", "test")
    assert [path.name for path in paths] == ["clean.tif", "clean.png"]
    read = read_micrograph(folder / "clean.tif")
    assert read.image == pytest.approx(found.after)
    assert read.pixel_size == pytest.approx((0.2, 0.2))
    with pytest.raises(ConfigError, match="take a larger one"):
        denoise_image(recipe, Shot(image[:31], 0.2))
    resampled = denoise_image(recipe, Shot(image, 0.3))
    assert resampled.after.shape == image.shape
    assert "resampled" in resampled.notes[0]


def test_pixels_of_another_size_are_refused(folder: Path) -> None:
    text = (folder / "gan.yaml").read_text()
    (folder / "coarse.yaml").write_text(text.replace("pixel_size: 0.2 A", "pixel_size: 0.3 A"))
    with pytest.raises(ConfigError, match="lattices would not be alike"):
        open_lesson(read_training(folder / "coarse.yaml", "cyclegan"), SINGLE)


@pytest.mark.parametrize("name", ["train_cyclegan_mos2", "train_cyclegan_small"])
def test_the_configs_that_come_along_are_of_the_paper(name: str) -> None:
    """Khan et al. 2023, Methods; the small one differs in widths, patches and steps alone."""
    config = read_training(CONFIGS / f"{name}.yaml", "cyclegan").config
    preparations = config.simulation.preparation, config.experiment.preparation
    assert {(how.scale, how.saturation) for how in preparations} == {("group", 3.5)}
    assert (config.simulation_noise, config.losses.cycle, config.losses.identity) == (0.1, 10, 5)
    assert config.augmentation.rotations and config.augmentation.flips
    assert config.experiment.rows == (0, 496) and config.discriminators.fourier
    if name == "train_cyclegan_mos2":
        assert config.simulation.patch == 256 and config.schedule.batch == 42
        assert (config.schedule.epochs, config.optimiser.constant_epochs) == (297, 148)
        assert (config.generator.width, config.generator.levels) == (64, 8)


def test_the_picture_shows_patches_and_spectra(tmp_path: Path) -> None:
    from PIL import Image

    patches = np.random.default_rng(0).normal(size=(2, 32, 32))
    draw_cycle({"one": patches, "two": 0 * patches}, tmp_path / "cycle.png")
    with Image.open(tmp_path / "cycle.png") as opened:
        pixels = np.asarray(opened.convert("L"))
    assert pixels.shape[0] > 1.5 * pixels.shape[1]
    assert len(np.unique(pixels)) > 100
