"""Learning to make simulated images look as if a microscope had recorded them, and back.

The CycleGAN of Khan et al. 2023: two generators, to_experiment (F of the paper) and to_simulation
(G), and for each kind of image two discriminators, of images and of their power spectra. There are
no pairs: simulated and experimental patches come in orders of their own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from hpctem.learning.cyclegan.networks import (
    TO_EXPERIMENT,
    TO_SIMULATION,
    build_networks,
    build_optimiser,
)
from hpctem.learning.cyclegan.patches import (
    DOMAINS,
    Samplers,
    choose_samplers,
    judge_patches,
    measure_noise,
    measure_scales,
    require_one_scale,
)
from hpctem.learning.cyclegan.picture import draw_cycle
from hpctem.learning.data.feed import count_readers, feed
from hpctem.learning.data.order import steps_per_epoch
from hpctem.learning.data.patches import read_experiment
from hpctem.learning.data.samples import open_sources
from hpctem.learning.ranks.transport import Transport
from hpctem.learning.training.adam import name_state, seed_dropout, set_learning_rate
from hpctem.learning.training.learnt import take_parts
from hpctem.learning.training.lesson import Kept, Lesson
from hpctem.learning.training.loop import Plan
from hpctem.learning.training.losses import (
    SpectrumScale,
    adversarial_loss,
    cycle_loss,
    discriminator_loss,
    identity_loss,
    scale_log_power,
)
from hpctem.learning.training.model_folder import name_weights
from hpctem.learning.training.schedules import cyclegan_rate
from hpctem.learning.training_file import TrainingFile
from hpctem.parallel import Communicator, share_cyclically
from hpctem.sampling import Streams
from hpctem.sections.training import CycleganConfig, Losses

SHOWN = 3


class CycleGan:
    """The task of a CycleGAN; see `training.Task`.

    networks    by name: both generators and the discriminators 'experiment_image' ...
    optimiser   of Keras, its variables built for all of them
    losses      their weights
    scales      'experiment' and 'simulation' -> what discriminators of power see is scaled by
    samplers    what is looked at after every epoch
    """

    def __init__(
        self,
        networks: Mapping[str, keras.Model],
        optimiser: keras.optimizers.Optimizer,
        transport: Transport,
        losses: Losses,
        scales: Mapping[str, SpectrumScale],
        seed: int,
        samplers: Samplers,
    ) -> None:
        self.networks, self.optimiser, self.transport = networks, optimiser, transport
        self._losses, self._scales, self._samplers = losses, scales, samplers
        self._steps = tf.Variable(0, dtype=tf.int64, name="steps")
        self._draws = list(_find_draws(networks))
        key = Streams(seed)("dropout", transport.rank)
        self._keys = key.integers(2**32, size=len(self._draws), dtype=np.uint32)
        self._learn = tf.function(self._learn_batch)
        self._generate = tf.function(
            lambda name, images: self.networks[name](images, training=False)
        )

    @property
    def better(self) -> str:
        """How far translated patches are from experiment, those that fail the check counted."""
        return "val_distance"

    def variables(self) -> Mapping[str, Any]:
        kept: dict[str, Any] = {}
        for name, network in self.networks.items():
            kept |= name_weights(name, network)
        return {**kept, **name_state(self.optimiser, self._steps)}

    def set_rate(self, rate: float) -> None:
        set_learning_rate(self.optimiser, rate)

    def train_step(self, batch: tuple[tf.Tensor, tf.Tensor]) -> Mapping[str, tf.Tensor]:
        """Learn from simulated and experimental patches (batch, y, x, 1)."""
        return self._learn(*batch)

    def _learn_batch(self, simulated: tf.Tensor, experimental: tf.Tensor) -> dict[str, tf.Tensor]:
        seed_dropout(self._draws, self._keys, self._steps)
        gradients, told = self.find_gradients(simulated, experimental)
        self.optimiser.apply(self.transport.average(gradients), self.weights)
        self._steps.assign_add(1)
        return told

    def find_gradients(
        self, simulated: tf.Tensor, experimental: tf.Tensor
    ) -> tuple[list[tf.Tensor], dict[str, tf.Tensor]]:
        """Gradients for `weights` from this rank's patches, and the losses by name.

        A loss of one network depends on no other network of its side but through the cycle, which
        both generators share: so the gradients of the sums of each side are those of the equations,
        each for its own network.
        """
        with tf.GradientTape(persistent=True) as tape:
            making, judging, told = self._compute_losses(simulated, experimental)
            scaled = [self.optimiser.scale_loss(loss) for loss in (making, judging)]
        gradients = [
            tape.gradient(loss, [w.value for w in self._weights_of(names)])
            for loss, names in zip(scaled, self._sides, strict=True)
        ]
        return [*gradients[0], *gradients[1]], told

    @property
    def weights(self) -> list[Any]:
        """All that is learnt: of the generators, then of the discriminators."""
        return [weight for names in self._sides for weight in self._weights_of(names)]

    @property
    def _sides(self) -> tuple[list[str], list[str]]:
        makers = [TO_EXPERIMENT, TO_SIMULATION]
        return makers, [name for name in self.networks if name not in makers]

    def _weights_of(self, names: list[str]) -> list[Any]:
        return [w for name in names for w in self.networks[name].trainable_variables]

    def _compute_losses(
        self, simulated: tf.Tensor, experimental: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor, dict[str, tf.Tensor]]:
        """Loss of both generators, of all discriminators, and each part by name.

        Equations 1 to 7 of Khan et al. 2023; x is experimental, y simulated. The sum of equations 3
        and 4 has the cycle once: each generator's gradient is that of its own equation.
        """
        real = {"experiment": experimental, "simulation": simulated}
        to = {
            "experiment": partial(self.networks[TO_EXPERIMENT], training=True),
            "simulation": partial(self.networks[TO_SIMULATION], training=True),
        }
        # Networks treat each image by itself, so that two batches can go through them as one.
        made, same = {}, []
        for domain, other in zip(DOMAINS, reversed(DOMAINS), strict=True):
            both = to[domain](tf.concat([real[other], real[domain]], 0))
            made[domain], alike = tf.split(both, 2)
            same.append(identity_loss(real[domain], alike))
        cycle = cycle_loss(
            experimental,
            to["experiment"](made["simulation"]),
            simulated,
            to["simulation"](made["experiment"]),
        )
        told: dict[str, tf.Tensor] = {}
        fooled, judging = [], []
        for domain in DOMAINS:
            judged = self._judge(domain, tf.concat([made[domain], real[domain]], 0))
            pairs = {name: tf.split(both, 2) for name, both in judged.items()}
            fooled.append(adversarial_loss(*(of_made for of_made, _ in pairs.values())))
            told[f"made_{domain}"] = fooled[-1]
            for name, (of_made, of_real) in pairs.items():
                judging.append(discriminator_loss(of_real, of_made))
                told[f"judged_{name}"] = judging[-1]
        by = self._losses
        making = tf.add_n(fooled) + by.cycle * cycle + by.identity * tf.add_n(same)
        told |= {"cycle": cycle, "identity": tf.add_n(same)}
        return making, tf.add_n(judging), {"loss": making, **told}

    def _judge(self, domain: str, images: tf.Tensor) -> dict[str, tf.Tensor]:
        """What the discriminators of a kind of image say of some."""
        judged = {f"{domain}_image": self.networks[f"{domain}_image"](images, training=True)}
        if f"{domain}_power" in self.networks:
            power = scale_log_power(images, self._scales[domain])
            judged[f"{domain}_power"] = self.networks[f"{domain}_power"](power, training=True)
        return judged

    def generate(self, name: str, images: np.ndarray) -> np.ndarray:
        """What a generator makes of images (n, y, x, 1): float32, one at a time."""
        return np.concatenate([self._generate(name, image[None]).numpy() for image in images])

    def validate(self) -> Mapping[str, float]:
        """How patches that are always the same come out; see `judge_patches`. Ranks share them."""
        communicator, seen = self.transport.communicator, self._samplers
        mine = share_cyclically(range(len(seen.simulated)), communicator)
        made = {k: self.generate(TO_EXPERIMENT, seen.simulated[k : k + 1])[0] for k in mine}
        parts = communicator.gather(made)

        def judge() -> dict[str, float]:
            of = {k: patch for part in parts or () for k, patch in part.items()}
            return judge_patches(seen, np.stack([of[k] for k in range(len(of))]))

        return communicator.on_root(judge)

    def draw(self, path: Path) -> None:
        """Simulated patches translated and back, experimental ones, and all their spectra."""
        seen = self._samplers
        simulated, experimental = seen.simulated[:SHOWN], seen.experimental[:SHOWN]
        made = self.generate(TO_EXPERIMENT, simulated)
        cleaned = self.generate(TO_SIMULATION, experimental)
        columns = {
            "simulation": simulated,
            "translated": made,
            "and back": self.generate(TO_SIMULATION, made),
            "experiment": experimental,
            "denoised": cleaned,
            "and back ": self.generate(TO_EXPERIMENT, cleaned),
        }
        draw_cycle({name: images[..., 0] for name, images in columns.items()}, path)


def _find_draws(networks: Mapping[str, keras.Model]) -> Iterator[Any]:
    """The variables that say what dropout leaves out."""
    for network in networks.values():
        weights = {id(weight) for weight in network.weights}
        yield from (v for v in network.variables if id(v) not in weights)


def open_cyclegan(file: TrainingFile, communicator: Communicator, transport: Transport) -> Lesson:
    """The lesson of a training file of a CycleGAN.

    Raises ConfigError, DatabaseError and MachineError as `samples.open_sources` and
    `patches.read_experiment` do, and ConfigError where pixels of both kinds are of different size.
    """
    config = file.config
    assert isinstance(config, CycleganConfig) and config.simulation.patch is not None
    training, validation = open_sources(file)
    seed, patch = config.training.seed, config.simulation.patch
    experiment = read_experiment(config.experiment, file.locate, patch, seed)
    require_one_scale(training, experiment)
    schedule, size, readers = config.schedule, transport.size, count_readers(communicator)
    batch = schedule.batch
    steps = schedule.steps_per_epoch or steps_per_epoch(training, batch, size)
    noise = measure_noise(config)
    scales = communicator.on_root(lambda: measure_scales(training, experiment, noise))
    networks = build_networks(config)
    task = CycleGan(
        networks,
        build_optimiser(config, networks),
        transport,
        config.losses,
        scales,
        seed,
        choose_samplers(validation or training, experiment, noise),
    )
    variations = {
        "simulation": config.augmentation.model_copy(update={"noise": noise}),
        "experiment": config.augmentation,
    }

    def feed_of(epoch: int, first_step: int) -> tf.data.Dataset:
        feeds = [
            feed(
                samples,
                variations[domain],
                epoch=epoch,
                first_step=first_step,
                steps=steps,
                batch=batch,
                rank=transport.rank,
                size=size,
                epochs=schedule.epochs - epoch,
                readers=readers,
            )
            for domain, samples in (("simulation", training), ("experiment", experiment))
        ]
        return tf.data.Dataset.zip(tuple(feeds))

    rows = {"simulated rows": training.digest, "experimental pixels": experiment.digest}
    if validation is not None:
        rows["validation rows"] = validation.digest
    return Lesson(
        task=task,
        feed_of=feed_of,
        plan=Plan(
            schedule.epochs, steps, batch, cyclegan_rate(config.optimiser, schedule.epochs, size)
        ),
        rows=rows,
        kept=Kept(
            networks={name: networks[name] for name in (TO_EXPERIMENT, TO_SIMULATION)},
            prepares={"simulation": training.prepare, "experiment": experiment.prepare},
            classes=(),
            pixel_sizes=training.pixel_sizes,
            shape=(patch, patch),
            constants={
                "noise": noise,
                "spectra": {domain: asdict(scale) for domain, scale in scales.items()},
            },
            images=take_parts(training, validation),
        ),
        counts={
            "simulated samples": len(training),
            "experimental patches side by side": len(experiment),
        },
    )
