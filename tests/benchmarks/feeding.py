"""How fast images and labels come from a database to a network, and whether it ever waits.

    python tests/benchmarks/feeding.py FOLDER [--rows 600] [--pixels 512] [--json FILE]

makes FOLDER/feeding_<pixels>.hdf5 (once: see generated.py) and measures, warm from the page cache:
rows per second of raw reads (HDF5 by h5py, and hpctem's own), of the feed with and without
variation, whole images and squares of them, beside each other in turns, the best of several (the
first turn reads images whole for their limits, the best only what is seen); then the share of
training steps that a small network spends waiting for its batch, which is to stay under 5 %, over
several epochs, how long the very first batch takes, and what steps take when the batch is there.
On a busy machine the rows per second of processor time mean more than those by the clock.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np
import tensorflow as tf
from generated import generate

from hpctem.collection.collection import Collection, open_collection
from hpctem.learning.data.feed import feed
from hpctem.learning.data.preparation import Prepare
from hpctem.learning.data.samples import Samples
from hpctem.learning.data.targets import Classes
from hpctem.learning.networks.build import build_network
from hpctem.learning.training.losses import segmentation_loss
from hpctem.sections.training import Augmentation, Network

SECTIONS = {
    "as they are": Augmentation(rotations=False, flips=False),
    "turned and mirrored": Augmentation(),
    "varied in every way": Augmentation(scaling=0.2, brightness=0.1, contrast=0.1, noise=0.05),
}
BATCH, WARM, EPOCHS = 8, 4, 4
Figures = dict[str, Any]


def make_samples(images: Collection, patch: int | None, median: bool = True) -> Samples:
    """Images of a particle through the median, scaled one by one, as S2 prepares them."""
    classes = Classes(("particle",), (("instances",),))
    return Samples(images, classes, Prepare(median, "image"), patch, 1, seed=1)


def read_raw(path: Path, rows: np.ndarray) -> None:
    """Images and labels in random order by h5py, into one array each."""
    with h5py.File(path, "r") as file:
        sets = file["/entry/images/intensity"], file["/entry/labels/instances"]
        arrays = [np.empty(one.shape[1:], one.dtype) for one in sets]
        for row in rows.tolist():
            for one, values in zip(sets, arrays, strict=True):
                one.read_direct(values, np.s_[row])


def read_stored(images: Collection, order: np.ndarray) -> None:
    """The same through the collection."""
    stored, labels = images.images, images.label("instances")
    for place in order.tolist():
        stored[place], labels[place]


def drain(batches: tf.data.Dataset) -> None:
    for _ in batches:
        pass


def measure_rows(path: Path, images: Collection, patch: int, repeats: int = 5) -> Figures:
    """Rows per second, by the clock and of the processor, each the best of several turns."""
    order = np.random.default_rng(1).permutation(len(images))
    steps = len(images) // BATCH
    ways: dict[str, Callable[[], None]] = {
        "raw reads, h5py": lambda: read_raw(path, images.rows[order]),
        "raw reads, hpctem": lambda: read_stored(images, order),
    }
    for name, section in SECTIONS.items():
        # Made once: TensorFlow builds its graph then, which is no part of the rate.
        batches = feed(make_samples(images, None), section, epoch=0, steps=steps, batch=BATCH)
        ways[f"fed {name}"] = lambda batches=batches: drain(batches)
    batches = feed(
        make_samples(images, None, median=False), SECTIONS["as they are"],
        epoch=0, steps=steps, batch=BATCH,
    )  # fmt: skip
    ways["fed as they are, no median"] = lambda: drain(batches)
    for name, median in (("squares", True), ("squares, no median", False)):
        cut = feed(
            make_samples(images, patch, median), SECTIONS["as they are"],
            epoch=0, steps=steps, batch=BATCH,
        )  # fmt: skip
        ways[f"fed {name}, {patch} px"] = lambda cut=cut: drain(cut)
    walls, cpus = dict.fromkeys(ways, np.inf), dict.fromkeys(ways, np.inf)
    for _ in range(repeats + 1):
        for name, work in ways.items():
            wall, cpu = time.perf_counter(), time.process_time()
            work()
            walls[name] = min(walls[name], time.perf_counter() - wall)
            cpus[name] = min(cpus[name], time.process_time() - cpu)
    count = steps * BATCH
    found = {}
    for name in ways:
        whole = len(images) if name.startswith("raw") else count
        found[name] = {"rows_per_s": whole / walls[name], "rows_per_cpu_s": whole / cpus[name]}
        share = found[name]["rows_per_s"] / found["raw reads, h5py"]["rows_per_s"]
        print(
            f"  {name:30} {found[name]['rows_per_s']:8.0f} rows/s {share:6.0%} of raw, "
            f"{found[name]['rows_per_cpu_s']:8.0f} rows/s of processor",
            flush=True,
        )
    return found


def make_step(network: keras.Model) -> Callable[..., tf.Tensor]:
    """One step of training on this process."""
    optimiser = keras.optimizers.Adam(1e-3)
    optimiser.build(network.trainable_variables)

    @tf.function(jit_compile=False)
    def step(images: tf.Tensor, classes: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape() as tape:
            logits = network(images, training=True)
            loss = segmentation_loss("cross_entropy_f1", logits, classes, tf.identity)
        gradients = tape.gradient(loss, network.trainable_variables)
        optimiser.apply(gradients, network.trainable_variables)
        return loss

    return step


def measure_waiting(images: Collection, patch: int, width: int, steps: int) -> Figures:
    """Seconds of steps, and the share of them spent waiting for the batch, for each variation."""
    network = build_network(
        Network(name="unet_resnet18", width=width), 1, keras.layers.BatchNormalization
    )
    step, samples = make_step(network), make_samples(images, patch)
    found: Figures = {"parameters": network.count_params()}
    for name, section in SECTIONS.items():
        # Several epochs: an epoch's first batches are among what is waited for.
        each = -(-(steps + WARM) // EPOCHS)
        begun = time.perf_counter()
        batches = iter(feed(samples, section, epoch=0, steps=each, batch=BATCH, epochs=EPOCHS))
        made = time.perf_counter() - begun
        waited, worked = run_steps(step, batches)
        batch = next(iter(feed(samples, section, epoch=0, steps=1, batch=BATCH)))
        alone = run_steps(step, iter([batch] * (steps // 2 + WARM)))[1][WARM:]
        first, waited, worked = made + waited[0], waited[WARM:], worked[WARM:]
        share = sum(waited) / (sum(waited) + sum(worked))
        found[name] = {
            "waiting": share,
            "first_batch_s": first,
            "longest_wait_s": max(waited),
            "step_s": float(np.median(worked)),
            "step_alone_s": float(np.median(alone)),
        }
        print(
            f"  {name:24} {share:6.2%} of {len(waited)} steps of {EPOCHS} epochs waiting (longest "
            f"{max(waited) * 1e3:.1f} ms, for the very first batch {first:.1f} s); a step takes "
            f"{np.median(worked) * 1e3:.0f} ms, without a feed "
            f"{np.median(alone) * 1e3:.0f} ms",
            flush=True,
        )
    return found


def run_steps(
    step: Callable[..., tf.Tensor], batches: Iterator[Any]
) -> tuple[list[float], list[float]]:
    """Seconds of each step spent waiting for its batch, and with it."""
    waited, worked = [], []
    while True:
        begun = time.perf_counter()
        batch = next(batches, None)
        there = time.perf_counter()
        if batch is None:
            return waited, worked
        float(step(*batch))
        waited.append(there - begun)
        worked.append(time.perf_counter() - there)


def main() -> None:
    """Make what is missing, measure, print; with --json also write it."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rows", type=int, default=600)
    parser.add_argument("--pixels", type=int, default=512)
    parser.add_argument("--patch", type=int, default=256, help="Side of the network's squares.")
    parser.add_argument("--width", type=int, default=4, help="Of the network; the paper's is 64.")
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    path = options.folder / f"feeding_{options.pixels}.hdf5"
    if not path.exists():
        generate(path, options.rows, max(1, options.rows // 20), options.pixels)
    with open_collection(path) as images:
        size = path.stat().st_size / 2**20
        print(f"{path}: {len(images)} images of {options.pixels} px, {size:.0f} MiB")
        print("rows: image and label")
        found: Figures = {"rows": len(images), "pixels": options.pixels}
        patch = min(options.patch, options.pixels)
        found["rates"] = measure_rows(path, images, patch)
        print(f"training: U-Net of width {options.width}, {BATCH} squares of {patch} px a step")
        found["waiting"] = measure_waiting(images, patch, options.width, options.steps)
    if options.json:
        options.json.write_text(json.dumps(found, indent=1))
    least = min(part["waiting"] for part in found["waiting"].values() if isinstance(part, dict))
    most = max(part["waiting"] for part in found["waiting"].values() if isinstance(part, dict))
    print(f"waiting: {least:.2%} to {most:.2%} of the steps' time; the aim is under 5 %")
    sys.exit(most >= 0.05)


if __name__ == "__main__":
    main()
