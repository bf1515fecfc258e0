"""Learning to say of every pixel what it is: particles, other areas, defects."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from hpctem.errors import ConfigError
from hpctem.learning.data.feed import count_readers, feed, feed_validation
from hpctem.learning.data.order import number_positions, steps_per_epoch
from hpctem.learning.data.samples import Samples, open_sources
from hpctem.learning.judging.metrics import SCORES, count_confusion, score, tally_pixels
from hpctem.learning.networks.build import build_network, stride_of
from hpctem.learning.ranks.batch_norm import SynchronisedBatchNormalization
from hpctem.learning.ranks.transport import Transport
from hpctem.learning.training.adam import name_state, seed_dropout, set_learning_rate
from hpctem.learning.training.learnt import take_parts
from hpctem.learning.training.lesson import Kept, Lesson
from hpctem.learning.training.loop import Plan
from hpctem.learning.training.losses import (
    cross_entropy,
    f1_of_counts,
    segmentation_loss,
    soft_counts,
)
from hpctem.learning.training.model_folder import NETWORK, name_weights
from hpctem.learning.training.schedules import segmentation_rate
from hpctem.learning.training_file import TrainingFile
from hpctem.parallel import Communicator
from hpctem.report import contact_sheet
from hpctem.sampling import Streams
from hpctem.sections.training import SegmentationConfig

SHOWN = 4
HALF = "mixed_float16"
# Of moving statistics from step to step. With Keras' 0.99 an epoch of 20 steps would be validated
# with what the network's features were like before it had learnt anything.
MOMENTUM = 0.9


class Segmentation:
    """The task of a segmentation; see `training.Task`.

    network      images (batch, y, x, 1) to logits (batch, y, x, 1 + classes)
    optimiser    of Keras, its variables built
    loss         'cross_entropy' or 'cross_entropy_f1'
    validation   dataset of what this rank validates; None without
    shown        images (n, y, x, 1) and classes (n, y, x) of the picture; None on all but one rank
    """

    def __init__(
        self,
        network: keras.Model,
        optimiser: keras.optimizers.Optimizer,
        transport: Transport,
        classes: tuple[str, ...],
        loss: str,
        seed: int,
        validation: tf.data.Dataset | None = None,
        shown: tuple[np.ndarray, np.ndarray] | None = None,
    ) -> None:
        self.network, self.optimiser, self.transport = network, optimiser, transport
        self._classes, self._loss = classes, loss
        self._validation, self._shown = validation, shown
        self._steps = tf.Variable(0, dtype=tf.int64, name="steps")
        weights = {id(weight) for weight in network.weights}
        self._draws = [v for v in network.variables if id(v) not in weights]
        key = Streams(seed)("dropout", transport.rank)
        self._keys = key.integers(2**32, size=len(self._draws), dtype=np.uint32)
        self._learn = tf.function(self._learn_batch)
        self._judge = tf.function(self._judge_batch, reduce_retracing=True)

    @property
    def better(self) -> str | None:
        return "val_loss" if self._validation is not None else None

    def variables(self) -> Mapping[str, Any]:
        kept = name_weights(NETWORK, self.network)
        return {**kept, **name_state(self.optimiser, self._steps)}

    def set_rate(self, rate: float) -> None:
        set_learning_rate(self.optimiser, rate)

    def train_step(self, batch: tuple[tf.Tensor, tf.Tensor]) -> Mapping[str, tf.Tensor]:
        return self._learn(*batch)

    def _learn_batch(self, images: tf.Tensor, classes: tf.Tensor) -> dict[str, tf.Tensor]:
        loss, right, gradients = self.differentiate(images, classes)
        self.optimiser.apply(gradients, self.network.trainable_variables)
        self._steps.assign_add(1)
        return {"loss": loss, "accuracy": right}

    def differentiate(
        self, images: tf.Tensor, classes: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor, list[tf.Tensor]]:
        """Loss and share of right pixels of a batch, and the gradients of the loss over all ranks.

        images (batch, y, x, 1), classes (batch, y, x) of this rank. The gradients are those of one
        batch of all images, scaled as the optimiser wants them; the moving statistics have moved.
        """
        seed_dropout(self._draws, self._keys, self._steps)
        with tf.GradientTape() as tape:
            logits = self.network(images, training=True)
            loss = segmentation_loss(self._loss, logits, classes, self.transport.total)
            scaled = self.optimiser.scale_loss(loss)
        weights = self.network.trainable_variables
        gradients = tape.gradient(scaled, [w.value for w in weights])
        # Moving statistics travel along: alike already where batch normalisation is synchronised,
        # and else their mean is that of all images.
        moving = self.network.non_trainable_weights
        means = self.transport.average([*gradients, *(w.value for w in moving)])
        for weight, mean in zip(moving, means[len(weights) :], strict=True):
            weight.assign(mean)
        right = tf.equal(tf.argmax(logits, axis=-1), tf.cast(classes, tf.int64))
        return loss, tf.reduce_mean(tf.cast(right, tf.float32)), means[: len(weights)]

    def validate(self) -> Mapping[str, float]:
        """Loss and pixel scores of all that is held out, counted over all ranks as one batch."""
        if self._validation is None:
            return {}
        channels = 1 + len(self._classes)
        entropy, soft = np.zeros(2), np.zeros((3, channels))
        confusion = np.zeros((channels, channels), np.int64)
        for images, classes in self._validation:
            sums = [part.numpy() for part in self._judge(images, classes)]
            entropy += [sums[0] * sums[2].sum(), sums[2].sum()]
            soft += sums[1]
            confusion += sums[2]
        parts = self.transport.communicator.allgather((entropy, soft, confusion))
        entropy, soft, confusion = (sum(part) for part in zip(*parts, strict=True))
        loss = entropy[0] / entropy[1]
        if self._loss == "cross_entropy_f1":
            loss += 1 - f1_of_counts(tf.constant(soft))
        return {"loss": float(loss), **score_pixels(confusion, self._classes)}

    def _judge_batch(
        self, images: tf.Tensor, classes: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """Mean cross entropy, soft counts (3, channels), confusion of a batch."""
        logits = self.network(images, training=False)
        channels = 1 + len(self._classes)
        pairs = tf.cast(classes, tf.int64) * channels + tf.argmax(logits, axis=-1)
        confusion = tf.math.bincount(
            tf.cast(tf.reshape(pairs, [-1]), tf.int32),
            minlength=channels**2,
            maxlength=channels**2,
            dtype=tf.int64,
        )
        return (
            cross_entropy(logits, classes),
            soft_counts(logits, classes),
            tf.reshape(confusion, (channels, channels)),
        )

    def draw(self, path: Path) -> None:
        """Some images twice: with the outlines of what is there, and of what the network says."""
        if self._shown is None:
            return
        images, truths = self._shown
        tiles, masks = [], []
        captions: list[dict[str, Any]] = []
        for number, (image, truth) in enumerate(zip(images, truths, strict=True), 1):
            logits = self.network(image[None], training=False)
            found = np.argmax(logits[0], axis=-1).astype(np.uint8)
            tiles += [image[..., 0]] * 2
            masks += [truth, found]
            confusion = count_confusion(truth, found, len(self._classes))[0]
            scores = score_pixels(confusion, self._classes)
            captions += [
                {"sample": number, "shows": "truth"},
                {"shows": "prediction", "F1": f"{scores['f1']:.3f}"},
            ]
        names = self._classes if len(self._classes) > 1 else ()
        contact_sheet(tiles, masks, captions, path, names=names)


def score_pixels(confusion: np.ndarray, classes: tuple[str, ...]) -> dict[str, float]:
    """Precision, recall, F1 and IoU of a confusion (1 + classes, 1 + classes), by name.

    'f1' is of all classes as one, 'f1_NAME' of a class where there are several; see
    `metrics.score`.
    """
    of_classes = score(tally_pixels(confusion))
    found = dict(zip(SCORES, of_classes[-1].tolist(), strict=True))
    if len(classes) > 1:
        for name, values in zip(classes, of_classes[:-1].tolist(), strict=True):
            found |= {f"{key}_{name}": value for key, value in zip(SCORES, values, strict=True)}
    return found


def open_segmentation(
    file: TrainingFile, communicator: Communicator, transport: Transport
) -> Lesson:
    """The lesson of a training file of segmentation or defects.

    Raises ConfigError, DatabaseError and MachineError as `samples.open_sources` does, and
    ConfigError for images or squares whose sides the network cannot take.
    """
    config = file.config
    assert isinstance(config, SegmentationConfig)
    training, validation = open_sources(file)
    assert training.classes is not None
    _check_sides(training.shape, config)
    schedule, names, seed = config.schedule, training.classes.names, config.training.seed
    batch, size, readers = schedule.batch, transport.size, count_readers(communicator)
    steps = schedule.steps_per_epoch or steps_per_epoch(training, batch, size)
    network = _build(config, len(names), transport)
    task = Segmentation(
        network,
        _build_optimiser(network, schedule.mixed_precision),
        transport,
        names,
        config.loss,
        seed,
        _feed_held_out(validation, batch, transport, readers),
        _choose_shown(validation or training) if transport.rank == 0 else None,
    )

    def feed_of(epoch: int, first_step: int) -> tf.data.Dataset:
        return feed(
            training,
            config.augmentation,
            epoch=epoch,
            first_step=first_step,
            steps=steps,
            batch=batch,
            rank=transport.rank,
            size=size,
            epochs=schedule.epochs - epoch,
            readers=readers,
        )

    rows = {"training rows": training.digest}
    if validation is not None:
        rows["validation rows"] = validation.digest
    return Lesson(
        task=task,
        feed_of=feed_of,
        plan=Plan(schedule.epochs, steps, batch, segmentation_rate(config.optimiser, size)),
        rows=rows,
        kept=Kept(
            networks={NETWORK: network},
            prepares={"image": training.prepare},
            classes=names,
            pixel_sizes=training.pixel_sizes,
            shape=training.shape,
            images=take_parts(training, validation),
        ),
        explain=lambda epoch, step: _name_samples(training, epoch, step, batch, transport),
        counts={
            "training samples": len(training),
            "validation samples": len(validation) if validation is not None else 0,
            "rejected translations left out": training.rejected,
        },
    )


def _check_sides(shape: tuple[int, int], config: SegmentationConfig) -> None:
    stride = stride_of(config.network)
    if any(side % stride for side in shape):
        largest = min(shape) // stride * stride
        advice = f"give data.patch, at most {largest}" if largest else "they are too small for it"
        raise ConfigError(
            f"network.name: {config.network.name} takes images whose sides are multiples of "
            f"{stride} pixels, and these have {shape[0]} x {shape[1]}: {advice}"
        )


def _build(config: SegmentationConfig, classes: int, transport: Transport) -> keras.Model:
    """The network with its weights at the beginning, in 16 bit where that is asked for."""

    def normalise() -> keras.layers.Layer:
        if transport.size > 1 and config.schedule.synchronise:
            return SynchronisedBatchNormalization(transport, momentum=MOMENTUM)
        return keras.layers.BatchNormalization(momentum=MOMENTUM)

    before = keras.config.dtype_policy()
    if config.schedule.mixed_precision:
        keras.config.set_dtype_policy(HALF)
    try:
        return build_network(config.network, classes, normalise, seed=config.training.seed)
    finally:
        keras.config.set_dtype_policy(before)


def _build_optimiser(network: keras.Model, mixed: bool) -> keras.optimizers.Optimizer:
    """Adam, its variables made; in mixed precision with losses scaled so that gradients last."""
    optimiser = keras.optimizers.Adam()
    if mixed:
        optimiser = keras.optimizers.LossScaleOptimizer(optimiser)
    optimiser.build(network.trainable_variables)
    return optimiser


def _feed_held_out(
    validation: Samples | None, batch: int, transport: Transport, readers: int
) -> tf.data.Dataset | None:
    if validation is None:
        return None
    return feed_validation(validation, batch, transport.rank, transport.size, readers=readers)


def _choose_shown(samples: Samples) -> tuple[np.ndarray, np.ndarray]:
    """Samples spread evenly over all: images (n, y, x, 1) and classes (n, y, x)."""
    numbers = np.unique(np.linspace(0, len(samples) - 1, SHOWN).astype(np.int64))
    bits = np.stack(
        [Streams(samples.seed)("shown", int(k)).integers(2**63, size=2) for k in numbers]
    )
    images, classes = samples.cut(numbers, bits.astype(np.uint64), samples.shape)
    assert classes is not None
    return images[..., None], classes


def _name_samples(
    samples: Samples, epoch: int, step: int, batch: int, transport: Transport
) -> dict[str, np.ndarray]:
    """Which images a rank's batch is made of: their positions, databases, rows in the file."""
    first = (step * transport.size + transport.rank) * batch
    positions = np.arange(first, first + batch)
    numbers = number_positions(positions, len(samples), samples.seed, epoch)
    places = numbers // samples.patches_per_image
    databases = np.array([str(database.path) for database in samples.collection.databases])
    return {
        "positions": positions,
        "samples": numbers,
        "rows": samples.collection.rows[places],
        "databases": databases[samples.collection.sources[places]],
    }
