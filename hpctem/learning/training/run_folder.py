"""The folder of a training as it is begun and taken up again: what must not change in between."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from hpctem.database.journal import write_durably
from hpctem.database.plan import compare_plans
from hpctem.errors import ConfigError, MachineError
from hpctem.learning.training_file import TrainingFile

RUN = "run.json"
TRAINING = "training.yaml"
# What says nothing of the weights may be put into other words.
FREE = ("name", "description", "licence")


def describe_run(file: TrainingFile, rows: Mapping[str, str]) -> str:
    """What two jobs of one training share, as JSON: sections that decide, digests of the rows."""
    sections = json.loads(json.dumps(file.resolved))
    for name in FREE:
        del sections["training"][name]
    return json.dumps({**sections, "rows": dict(rows)}, sort_keys=True)


def begin_run(folder: Path, file: TrainingFile, rows: Mapping[str, str], heading: str = "") -> bool:
    """Make the folder of a training, or find it begun; True when it had been begun before.

    rows      name -> digest of what is learnt from
    heading   a line put before the text of training.yaml

    Raises ConfigError when the folder is something else, or was begun with another config or other
    rows, with the difference; MachineError when it cannot be written.
    """
    wanted = describe_run(file, rows)
    begun = read_run(folder)
    if begun is not None:
        differences = compare_plans(begun, wanted)
        if differences:
            raise refuse_other(folder, differences)
        return True
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise MachineError(f"cannot make the folder {folder}: {error.strerror}") from error
    text = f"# {heading}\n{file.text}" if heading else file.text
    write_durably(folder / TRAINING, text.encode())
    write_durably(folder / RUN, wanted.encode())
    return False


def refuse_other(folder: Path, differences: Sequence[str]) -> ConfigError:
    """The error for a folder that was begun with another training, with the difference."""
    return ConfigError(
        f"{folder} was begun with another training and cannot be continued with this one; give "
        "another folder (-o), or the training file that it was begun with:\n  "
        + "\n  ".join(differences)
    )


def compare_config(folder: Path, file: TrainingFile) -> list[str]:
    """Lines that tell in which keys a training that was begun differs from a training file."""
    begun = read_run(folder)
    if begun is None:
        return []
    rows = json.loads(begun).get("rows", {})
    return compare_plans(begun, describe_run(file, rows))


def read_run(folder: Path) -> str | None:
    """What `describe_run` said when the training was begun; None where the folder is new.

    Raises ConfigError when the folder is not that of a training.
    """
    if not folder.exists():
        return None
    if not folder.is_dir():
        raise ConfigError(f"{folder} is a file; give a folder for the model")
    path = folder / RUN
    if not path.exists():
        if {item.name for item in folder.iterdir()} - {TRAINING, "lock", RUN + ".tmp"}:
            raise ConfigError(
                f"{folder} exists and is not the folder of a training; it is not touched: choose "
                "another (-o)"
            )
        return None
    text = path.read_text(encoding="utf-8", errors="replace")
    try:
        json.loads(text)
    except ValueError as error:
        raise ConfigError(f"{path} is damaged ({error}); move {folder} away") from error
    return text
