"""Ranks under mpirun that share one batch of a CycleGAN; rank 0 prints how gradients compare."""

from __future__ import annotations

import json

import keras
import numpy as np
import tensorflow as tf

from hpctem.learning.cyclegan.networks import build_networks, build_optimiser
from hpctem.learning.cyclegan.patches import DOMAINS, Samplers
from hpctem.learning.cyclegan.task import CycleGan
from hpctem.learning.ranks.transport import (
    Transport,
    open_transport,
    require_equal,
    why_not_horovod,
)
from hpctem.learning.training.losses import SpectrumScale
from hpctem.parallel import Communicator, abort_on_error, world
from hpctem.sections.training import CycleganConfig

SIDE, BATCH = 32, 2
CONFIG = CycleganConfig.model_validate(
    {
        "training": {"name": "tiny", "kind": "cyclegan", "seed": 5},
        "simulation": {"databases": ["none.hdf5"], "patch": SIDE},
        "experiment": {"images": ["none.tif"]},
        "generator": {"width": 4, "levels": 3},
        "discriminators": {"width": 4},
        "schedule": {"epochs": 1, "batch": BATCH},
    }
)


def make_task(transport: Transport, levels: int = 3) -> CycleGan:
    """A small CycleGAN as it begins."""
    section = CONFIG.generator.model_copy(update={"levels": levels})
    networks = build_networks(CONFIG.model_copy(update={"generator": section}))
    none = np.zeros((1, SIDE, SIDE, 1), np.float32)
    scales = dict.fromkeys(DOMAINS, SpectrumScale(-3.0, 2.0))
    optimiser = build_optimiser(CONFIG, networks)
    shown = Samplers(none, none, 0.2)
    return CycleGan(networks, optimiser, transport, CONFIG.losses, scales, 5, shown)


def draw_batch(count: int, rank: int = 0) -> tuple[tf.Tensor, tf.Tensor]:
    """Simulated and experimental patches: waves, and noise; those of all ranks are one row."""
    draws = np.random.default_rng(1)
    phases, noise = draws.uniform(0, 2 * np.pi, (2, 8, 2, 1)), draws.normal(size=(2, 8, SIDE, SIDE))
    along = 2 * np.pi * np.arange(SIDE) / 8
    y, x = np.moveaxis(np.sin(along + phases), 2, 0)
    images = (
        0.4 * (y[..., :, None] + x[..., None, :])
        + noise * np.array([0.05, 0.3])[:, None, None, None]
    )
    own = images[:, rank * count : (rank + 1) * count, ..., None].astype(np.float32)
    return tf.constant(own[0]), tf.constant(own[1])


def compare(transport: Transport, whole: list[tf.Tensor]) -> dict[str, object]:
    """How far averaged gradients are from those of the whole batch, after a step equal weights."""
    communicator = transport.communicator
    keras.utils.set_random_seed(communicator.rank)  # what ranks begin with must not matter
    task = make_task(transport)
    own = transport.average(task.find_gradients(*draw_batch(BATCH, communicator.rank))[0])
    task.set_rate(1e-3)
    task._learn_batch(*draw_batch(BATCH, communicator.rank))
    require_equal(transport, communicator, list(task.variables().values()))
    sums: dict[str, np.ndarray] = {}
    names = [name for name, net in task.networks.items() for _ in net.trainable_variables]
    for name, mine, theirs in zip(names, own, whole, strict=True):
        parts = [float(tf.reduce_sum(part**2)) for part in (mine - theirs, theirs)]
        sums[name] = sums.get(name, np.zeros(2)) + parts
    worst = {name: float(np.sqrt(off / all_)) for name, (off, all_) in sums.items()}
    return {"apart": worst, "tensors": len(own)}


def main() -> None:
    """Compare averaged gradients with those of the whole batch on one process."""
    communicator = world()
    with abort_on_error(communicator):
        names = ["mpi4py"] if why_not_horovod(communicator.threads) else ["horovod", "mpi4py"]
        alone = make_task(Transport("single", Communicator(), tf.identity))
        whole = alone.find_gradients(*draw_batch(BATCH * communicator.size))[0]
        told = {name: compare(open_transport(communicator, name), whole) for name in names}
        if communicator.rank == 0:
            print(json.dumps(told))


if __name__ == "__main__":
    main()
