"""The trained generators of a CycleGAN, ready to be used on prepared tiles."""

from __future__ import annotations

from contextlib import suppress
from functools import partial
from pathlib import Path

import numpy as np
import tensorflow as tf

from hpctem.errors import ConfigError
from hpctem.learning.cyclegan.networks import TO_EXPERIMENT, TO_SIMULATION
from hpctem.learning.data.preparation import Prepare
from hpctem.learning.training.model_folder import Model, open_model
from hpctem.learning.translation.rows import Generate, Recipe
from hpctem.sections.training import CycleganConfig, Preparation

TILES_AT_ONCE = 8
"""Tiles of a batch; a smaller one is filled up, so that every tile is computed alike."""
TRANSLATE, DENOISE = "translate", "denoise"


def choose_recipe(model: Model, command: str, prepare: Prepare | None = None) -> Recipe:
    """What makes images of one kind from those of the other.

    command  'translate': experimental from simulated ones, with the noise of the training;
             'denoise': simulated from experimental ones
    prepare  instead of the model's own, for images whose intensities mean something else

    Raises ConfigError for a model of another kind.
    """
    if model.kind != "cyclegan":
        raise ConfigError(
            f"{model.folder} holds a network for {model.kind}, which changes no images: "
            "'hpctem train cyclegan' trains one that does"
        )
    source, target, network = {
        TRANSLATE: ("simulation", "experiment", TO_EXPERIMENT),
        DENOISE: ("experiment", "simulation", TO_SIMULATION),
    }[command]
    return Recipe(
        model=model.digest,
        name=model.name,
        command=command,
        patch=model.shape[0],
        pixel_sizes=model.pixel_sizes,
        prepare=prepare or model.prepares[source],
        result=model.prepares[target],
        noise=float(model.constants["noise"]) if command == TRANSLATE else 0.0,
        seed=model.config.training.seed,
        generate=partial(open_generator, model.folder.absolute(), network),
    )


def choose_section(model: Model, command: str) -> Preparation:
    """How the training file has the images prepared that a command begins with."""
    assert isinstance(model.config, CycleganConfig)
    own = model.config.simulation if command == TRANSLATE else model.config.experiment
    return own.preparation


def open_generator(folder: Path, network: str) -> Generate:
    """Load a generator: float32 (n, y, x), prepared, to float32 (n, y, x)."""
    # How many threads compute decides in which order they sum; ranks share the work instead.
    with suppress(RuntimeError):
        tf.config.threading.set_intra_op_parallelism_threads(1)
    if tf.config.list_physical_devices("GPU"):
        # A GPU's library picks its convolutions by timing them, on each start anew: ranks and
        # resumed jobs must take the same.
        tf.config.experimental.enable_op_determinism()
    generator = open_model(folder).network(network)
    run = tf.function(lambda images: generator(images, training=False))

    def generate(tiles: np.ndarray) -> np.ndarray:
        made = np.empty(tiles.shape, np.float32)
        for first in range(0, len(tiles), TILES_AT_ONCE):
            some = tiles[first : first + TILES_AT_ONCE]
            batch = np.zeros((TILES_AT_ONCE, *tiles.shape[1:], 1), np.float32)
            batch[: len(some), ..., 0] = some
            made[first : first + len(some)] = run(tf.constant(batch)).numpy()[: len(some), ..., 0]
        return made

    return generate
