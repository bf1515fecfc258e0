"""The training file as read: its text, its checked sections, where the files that it names lie."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from hpctem.config import check_sections, finish_keys
from hpctem.errors import ConfigError
from hpctem.marked_yaml import read_yaml
from hpctem.sections.training import CycleganConfig, SegmentationConfig, TrainingConfig

MODELS: dict[str, type[SegmentationConfig] | type[CycleganConfig]] = {
    "segmentation": SegmentationConfig,
    "defects": SegmentationConfig,
    "cyclegan": CycleganConfig,
}


@dataclass(frozen=True)
class TrainingFile:
    """A training file: its text, its sections, and the folder that its file names start from."""

    text: str
    config: TrainingConfig
    folder: Path

    @cached_property
    def resolved(self) -> dict[str, Any]:
        """Every key with its value, as plain data in the units of the internals."""
        return json.loads(self.config.model_dump_json())

    @cached_property
    def hash(self) -> str:
        """BLAKE2b-128 of all keys, in hexadecimal."""
        text = json.dumps(self.resolved, sort_keys=True)
        return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()

    def locate(self, name: str) -> Path:
        """Where a file named in the training file lies."""
        return self.folder / name


def training_schema(kind: str) -> dict[str, Any]:
    """The JSON schema (2020-12) of the training file of a kind of network, for editors."""
    described = MODELS[kind].model_json_schema()
    named = {"properties": {"kind": {"const": kind}}}
    described["properties"]["training"] = {**described["properties"]["training"], **named}
    finish_keys(described)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **described}


def read_training(path: str | Path, kind: str) -> TrainingFile:
    """Read the training file of a kind of network.

    Raises ConfigError that points at the line, also for a file of another kind.
    """
    path = Path(path)
    document = read_yaml(path)
    if not isinstance(document.data, dict):
        raise ConfigError(document.error((), "a training file is a mapping of sections"))
    training = document.data.get("training")
    named = training.get("kind", kind) if isinstance(training, dict) else kind
    if named != kind and named in MODELS:
        place = ("training", "kind")
        raise ConfigError(
            document.error(place, f"this file trains {named}: 'hpctem train {named} {path}'")
        )
    return TrainingFile(document.text, check_sections(document, MODELS[kind]), path.parent)
