"""Checkpoints of a training: all variables and the place in the training, in one file each.

A checkpoint is an NPZ archive of the variables by name, whose parts carry checksums, and a JSON
text of the place. It is written under another name, brought to disk and renamed: whatever dies, the
folder holds whole checkpoints. The last three are kept, so that one damaged later does not lose the
training, and the one with the best validation.
"""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from hpctem.database.create import sync_folder
from hpctem.errors import ConfigError, MachineError

FOLDER = "checkpoints"
BEST = "best.npz"
KEPT = 3
PLACE = "place.json"
# What damaged archives raise when they are read.
DAMAGE = (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, NotImplementedError)


@dataclass(frozen=True)
class Place:
    """How far a training is, and what of its running epoch is not in the variables.

    epoch        whole epochs done
    step         steps done of the epoch after them
    steps        that an epoch has
    ranks        that it ran on
    sums         of each metric over the steps done of the running epoch
    seconds      spent on these steps, and `waited` of them for data
    best         least value of the metric that says which weights are kept; infinite before
    best_epoch   whole epochs after which that was, 0 before
    """

    epoch: int = 0
    step: int = 0
    steps: int = 0
    ranks: int = 1
    sums: Mapping[str, float] = field(default_factory=dict)
    seconds: float = 0.0
    waited: float = 0.0
    best: float = float("inf")
    best_epoch: int = 0


def move_place(place: Place, steps: int, ranks: int) -> Place:
    """The place that, with other steps in an epoch on another number of ranks, is no further."""
    if (place.steps, place.ranks) == (steps, ranks):
        return place
    # A whole epoch that waits for its validation stays whole.
    step = steps if place.step == place.steps else place.step * steps // max(place.steps, 1)
    share = step / max(place.step, 1)
    sums = {name: value * share for name, value in place.sums.items()}
    return replace(place, step=step, steps=steps, ranks=ranks, sums=sums)


def save_checkpoint(folder: Path, place: Place, variables: Mapping[str, Any]) -> Path:
    """Write a checkpoint into FOLDER/checkpoints and remove all but the last three.

    `variables`: Keras or TensorFlow variables, or arrays, by name. Raises MachineError when it
    cannot be written.
    """
    found = list_checkpoints(folder)
    number = _number(found[-1]) + 1 if found else 1
    path = folder / FOLDER / f"{number:08d}.npz"
    write_archive(path, place, variables)
    for old in [*found, path][:-KEPT]:
        old.unlink(missing_ok=True)
    return path


def save_best(folder: Path, place: Place, variables: Mapping[str, Any]) -> Path:
    """Write FOLDER/checkpoints/best.npz in place of the one before it."""
    return write_archive(folder / FOLDER / BEST, place, variables)


def load_checkpoint(
    folder: Path, note: Callable[[str], None] = lambda text: None
) -> tuple[Place, dict[str, np.ndarray]] | None:
    """The place and the variables of the newest sound checkpoint; None where there is none at all.

    `note` is told of those that are damaged or hold numbers that are not finite. Raises
    MachineError where there are some and none is sound.
    """
    found = list_checkpoints(folder)
    for path in reversed(found):
        try:
            place, arrays = read_archive(path)
        except DAMAGE as error:
            note(f"the checkpoint {path} is damaged ({error}) and left aside")
            continue
        lost = next((name for name, values in arrays.items() if not is_finite(values)), None)
        if lost is None:
            return place, arrays
        note(f"the checkpoint {path} is left aside: {lost} holds values that are not finite")
    if found:
        raise MachineError(
            f"no checkpoint in {folder / FOLDER} can be read and holds finite numbers alone: move "
            f"{folder} away to begin anew"
        )
    return None


def is_finite(values: np.ndarray) -> bool:
    """Whether no value is NaN or infinite; whole numbers never are."""
    return values.dtype.kind not in "fc" or bool(np.isfinite(values).all())


def load_best(folder: Path) -> tuple[Place, dict[str, np.ndarray]] | None:
    """The place and the variables of the best checkpoint; None where none has been the best.

    Raises MachineError when it is damaged.
    """
    path = folder / FOLDER / BEST
    if not path.exists():
        return None
    try:
        return read_archive(path)
    except DAMAGE as error:
        raise MachineError(f"{path} is damaged ({error})") from error


def list_checkpoints(folder: Path) -> list[Path]:
    """The checkpoints of a training, oldest first, without the best."""
    files = (folder / FOLDER).glob("*.npz") if (folder / FOLDER).is_dir() else ()
    return sorted((path for path in files if path.stem.isdigit()), key=_number)


def restore(variables: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
    """Give variables the values that a checkpoint holds.

    Raises ConfigError that names a variable which the checkpoint has not, or in another shape.
    """
    for name in (*variables, *arrays):
        if name not in arrays or name not in variables:
            where = "the network" if name in arrays else "the checkpoint"
            raise ConfigError(f"{where} has no {name}: the checkpoint is of another network")
        if tuple(variables[name].shape) != arrays[name].shape:
            raise ConfigError(
                f"{name} has the shape {arrays[name].shape} in the checkpoint and "
                f"{tuple(variables[name].shape)} in the network"
            )
    for name, variable in variables.items():
        variable.assign(arrays[name])


def write_archive(path: Path, place: Place | None, variables: Mapping[str, Any]) -> Path:
    """Write variables by name, and the place, to an NPZ file that is whole or not there.

    Raises MachineError when it cannot be written.
    """
    temporary = path.with_name(path.name + ".tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb") as stream:
            _write(stream, place, variables)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise MachineError(f"writing {path} failed: {error.strerror}") from error
    sync_folder(path.parent)
    return path


def _write(stream: BinaryIO, place: Place | None, variables: Mapping[str, Any]) -> None:
    # One array at a time: the variables of a large network are never in memory twice.
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
        for name, variable in variables.items():
            # A fixed date, so that equal variables are equal bytes.
            with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as part:
                np.lib.format.write_array(part, np.asarray(variable), allow_pickle=False)
        if place is not None:
            archive.writestr(zipfile.ZipInfo(PLACE), json.dumps(asdict(place)))


def read_archive(path: Path) -> tuple[Place, dict[str, np.ndarray]]:
    """The place and the variables of an NPZ file; its checksums are checked.

    Raises one of DAMAGE when it is not whole.
    """
    place = Place()
    arrays = {}
    with zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            with archive.open(name) as part:
                if name == PLACE:
                    place = _parse_place(part.read())
                else:
                    array = np.lib.format.read_array(part, allow_pickle=False)
                    arrays[name.removesuffix(".npy")] = array
    return place, arrays


def read_place(path: Path) -> Place:
    """The place alone of a checkpoint, without its variables; raises as `read_archive`."""
    with zipfile.ZipFile(path) as archive:
        return _parse_place(archive.read(PLACE))


def _parse_place(text: bytes) -> Place:
    said = json.loads(text)
    return Place(**{f.name: said[f.name] for f in fields(Place)})


def _number(path: Path) -> int:
    return int(path.stem)
