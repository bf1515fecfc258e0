"""The folder of a trained model: weights and all that is needed to use and to judge it.

model.json      kind, config, preparation of images, classes, pixel sizes, digests of the rows that
                were learnt from and of the weights, metrics, licence, versions; where it is, the
                training is over
weights.npz     the weights of its networks
learnt.json     which images it has learnt from, and which were held out
card.md         the model described for people
training.yaml   the training file as it was
history.csv, steps.csv, samples/, checkpoints/, tensorboard/    what the training has been
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import hpctem
from hpctem.database.journal import write_durably
from hpctem.errors import ConfigError
from hpctem.learning.data.preparation import Prepare, from_dict
from hpctem.learning.training.checkpoints import DAMAGE, read_archive, restore, write_archive
from hpctem.learning.training.history import read_history
from hpctem.learning.training.learnt import LEARNT, Learnt, read_learnt, write_learnt
from hpctem.learning.training.lesson import Kept
from hpctem.learning.training.model_card import write_card
from hpctem.learning.training.run_folder import RUN, TRAINING
from hpctem.learning.training_file import MODELS, TrainingFile
from hpctem.sections.training import CycleganConfig, SegmentationConfig, TrainingConfig

if TYPE_CHECKING:
    import keras

FORMAT = "hpctem-model-1"
MODEL = "model.json"
WEIGHTS = "weights.npz"
CARD = "card.md"
NETWORK = "network"


@dataclass(frozen=True)
class Model:
    """A trained model, checked, its networks not yet built.

    kind          'segmentation', 'defects' or 'cyclegan'
    classes       names of the classes 1, 2, ... of pixels; () for a CycleGAN
    prepares      what images go through before a network sees them, by what they are: 'image', or
                  'simulation' and 'experiment'
    pixel_sizes   least and largest of the images learnt from, A; None where they are not known
    shape         (ny, nx) of what a network saw at once in training
    config        the sections of the training file
    constants     numbers that use needs beside these
    digest        BLAKE2b-128 of the weights file, in hexadecimal
    facts         all of model.json
    """

    folder: Path
    name: str
    kind: str
    classes: tuple[str, ...]
    prepares: Mapping[str, Prepare]
    pixel_sizes: tuple[float, float] | None
    shape: tuple[int, int]
    config: TrainingConfig
    constants: Mapping[str, Any]
    digest: str
    facts: Mapping[str, Any]

    @property
    def prepare(self) -> Prepare:
        """What an image goes through before a segmentation network sees it.

        Raises ConfigError for a CycleGAN, which has two kinds of images.
        """
        if "image" not in self.prepares:
            raise ConfigError(
                f"{self.folder} holds a {self.kind}: it changes images and names no classes of "
                "pixels; use 'hpctem translate' or 'hpctem denoise'"
            )
        return self.prepares["image"]

    @property
    def learnt(self) -> Learnt | None:
        """What it has learnt from; None where its folder does not say, as older ones do not."""
        return read_learnt(self.folder / LEARNT) if self.facts.get("learnt") else None

    def network(self, name: str | None = None) -> keras.Model:
        """A network of the model with its trained weights; without a name its only one.

        Batch normalisation is Keras' own: what is used is not trained. Raises ConfigError when
        there is no such network, or the weights do not fit it.
        """
        names = list(self.facts["networks"])
        if name is None and len(names) == 1:
            name = names[0]
        if name is None or name not in names:
            raise ConfigError(f"{self.folder} has no network {name!r}: {', '.join(names)}")
        arrays = {
            key: array
            for key, array in _read_weights(self.folder / WEIGHTS).items()
            if key.startswith(f"{name}/")
        }
        network = _build(self.config, len(self.classes))
        restore(name_weights(name, network), arrays)
        return network


def _build(config: TrainingConfig, classes: int) -> keras.Model:
    import keras

    if isinstance(config, CycleganConfig):
        from hpctem.learning.networks.generator import generator

        return generator(width=config.generator.width, levels=config.generator.levels)
    from hpctem.learning.networks.build import build_network

    return build_network(config.network, classes, keras.layers.BatchNormalization)


def name_weights(name: str, network: keras.Model) -> dict[str, Any]:
    """The weights of a network by name: its own, their place in it, what each is."""
    return {f"{name}/{k:04d}/{w.name}": w for k, w in enumerate(network.weights)}


def save_model(
    folder: Path,
    file: TrainingFile,
    kept: Kept,
    rows: Mapping[str, str],
    metrics: Mapping[str, float],
    trained: Mapping[str, Any] | None = None,
) -> Path:
    """Write the model into its folder: weights, training file, card, and model.json last.

    rows      name -> digest of what was learnt from
    metrics   of the weights that are kept
    trained   how: epochs, ranks, transport ...

    Raises MachineError when it cannot be written. Returns the folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    weights: dict[str, Any] = {}
    for name, network in kept.networks.items():
        weights |= name_weights(name, network)
    write_archive(folder / WEIGHTS, None, weights)
    if not (folder / TRAINING).exists():
        write_durably(folder / TRAINING, file.text.encode())
    training = file.config.training
    learnt = write_learnt(folder, kept.images) if kept.images else None
    facts = {
        "format": FORMAT,
        "name": training.name,
        "kind": training.kind,
        "description": training.description,
        "licence": training.licence,
        "classes": list(kept.classes),
        "prepares": {name: prepare.as_dict() for name, prepare in kept.prepares.items()},
        "pixel_sizes": kept.pixel_sizes and list(map(float, kept.pixel_sizes)),
        "shape": list(map(int, kept.shape)),
        "constants": dict(kept.constants),
        "networks": {name: int(net.count_params()) for name, net in kept.networks.items()},
        "weights": {"file": WEIGHTS, "digest": digest_file(folder / WEIGHTS)},
        "rows": dict(rows),
        "learnt": learnt and {"file": LEARNT, "digest": digest_file(learnt)},
        "metrics": dict(metrics),
        "trained": dict(trained or {}),
        "config": file.resolved,
        "config_hash": file.hash,
        "versions": name_versions(),
    }
    card = write_card(facts, read_history(folder), folder.resolve().name)
    write_durably(folder / CARD, card.encode())
    write_durably(folder / MODEL, (json.dumps(facts, indent=1) + "\n").encode())
    return folder


def open_model(folder: str | Path) -> Model:
    """Open the folder of a trained model and check that it is whole.

    Raises ConfigError that names what is missing, damaged, unfinished or of another format.
    """
    folder = Path(folder)
    facts = _read_facts(folder)
    for name in (WEIGHTS, TRAINING, *([LEARNT] if facts.get("learnt") else [])):
        if not (folder / name).exists():
            raise ConfigError(f"the model {folder} is incomplete: {name} is missing; copy it whole")
    try:
        kind = facts["kind"]
        model = Model(
            folder=folder,
            name=facts["name"],
            kind=kind,
            classes=tuple(facts["classes"]),
            prepares={name: from_dict(said) for name, said in facts["prepares"].items()},
            pixel_sizes=facts["pixel_sizes"] and tuple(facts["pixel_sizes"]),
            shape=(facts["shape"][0], facts["shape"][1]),
            config=rebuild_config(kind, facts["config"]),
            constants=facts["constants"],
            digest=facts["weights"]["digest"],
            facts=facts,
        )
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise ConfigError(f"{folder / MODEL} is damaged ({error}); copy the model again") from error
    for name, key in ((WEIGHTS, "weights"), (LEARNT, "learnt")):
        if facts.get(key) and digest_file(folder / name) != facts[key]["digest"]:
            raise ConfigError(
                f"{folder / name} is damaged, or of another training than {MODEL} beside it; copy "
                "the model again"
            )
    return model


def _read_facts(folder: Path) -> dict[str, Any]:
    path = folder / MODEL
    if not folder.is_dir():
        raise ConfigError(f"there is no model folder {folder}")
    if not path.exists():
        if (folder / RUN).exists():
            raise ConfigError(
                f"the training of {folder} is not over, {len(read_history(folder))} epochs are: "
                "run its 'hpctem train' again to go on"
            )
        raise ConfigError(f"{folder} is no model folder: it has no {MODEL}")
    try:
        facts = json.loads(path.read_bytes())
        found = facts["format"]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ConfigError(f"{path} is damaged ({error}); copy the model again") from error
    if found != FORMAT:
        raise ConfigError(f"{path} has the format {found!r}, not {FORMAT!r}")
    return facts


def _read_weights(path: Path) -> dict[str, np.ndarray]:
    try:
        return read_archive(path)[1]
    except DAMAGE as error:
        raise ConfigError(f"{path} is damaged ({error}); copy the model again") from error


def rebuild_config(kind: str, resolved: Mapping[str, Any]) -> TrainingConfig:
    """The sections whose `TrainingFile.resolved` this is.

    Raises ValueError when they are not those of this kind.
    """
    sections = json.loads(json.dumps(resolved))
    experiment = sections.get("experiment", {})
    if experiment.get("pixel_size") is not None:
        # Resolved lengths are bare numbers in A, which a training file must not hold.
        experiment["pixel_size"] = f"{experiment['pixel_size']!r} A"
    model: type[SegmentationConfig] | type[CycleganConfig] = MODELS[kind]
    return model.model_validate(sections)


def digest_file(path: Path) -> str:
    """BLAKE2b-128 of a file, in hexadecimal."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def name_versions() -> dict[str, str]:
    """Versions of what trained a model."""
    from importlib.metadata import PackageNotFoundError, version

    found = {"hpctem": hpctem.__version__}
    for package in ("tensorflow", "tensorflow-cpu", "keras", "numpy", "horovod"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
