"""How far the files of a stage are, by what they hold; `python -m hpctem.slurm.progress FILE...`
prints it for the job scripts, which count the starts that brought nothing.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hpctem.database.journal import journal_folder
from hpctem.database.pace import read_pace
from hpctem.database.reader import open_database
from hpctem.database.schema import find_files
from hpctem.errors import HpctemError
from hpctem.marked_yaml import read_yaml


@dataclass(frozen=True)
class Done:
    """What a stage has done.

    done, total   structures, or steps of a training; total 0 where it is not known yet
    unit          'structures' or 'steps'
    rate          per second while it last computed, None where nothing tells
    quarantined   structures
    images        good ones
    note          what else is to be said
    """

    done: int
    total: int
    unit: str
    rate: float | None = None
    quarantined: int = 0
    images: int = 0
    note: str = ""

    @property
    def left(self) -> float | None:
        """Seconds until it is done at this rate."""
        return (self.total - self.done) / self.rate if self.rate and self.total else None


def look_at_databases(
    paths: Sequence[Path], structures: int = 0, at_work: Sequence[bool] | None = None
) -> Done:
    """What databases hold, by their journals; one that is not there yet holds nothing.

    structures   of all of them, where not all may be begun; 0 where that is not known
    at_work      by database: whether its rate counts; all by default

    The rate is that of the latest run of each, added up.
    """
    done = total = quarantined = images = 0
    rate, notes = 0.0, []
    for n, path in enumerate(paths):
        if not path.exists():
            notes.append(f"{path.name} is not begun")
            continue
        try:
            with open_database(path) as database:
                counts = database.counts
        except HpctemError as error:
            notes.append(str(error))
            continue
        total += counts["structures"]
        done += counts["structures"] - counts["pending"]
        quarantined += counts["quarantined"]
        images += counts.get("images", 0)
        looks = read_pace(journal_folder(path))
        working = at_work is None or at_work[n]
        if working and looks and counts["pending"] and looks[-1].seconds > 0:
            rate += sum(looks[-1].computed) / looks[-1].seconds
    # What is not begun has an unknown number of structures.
    return Done(
        done,
        structures or (0 if notes else total),
        "structures",
        rate or None,
        quarantined,
        images,
        "; ".join(notes[:3]),
    )


def look_at_model(folder: Path, epochs: int = 0) -> Done:
    """What the training in a model folder has done, by its history and its last steps."""
    from hpctem.learning.training.history import STEPS, read_history

    history = read_history(folder)
    each = int(history[-1]["steps"]) if history else 0
    seconds = sum(row.get("seconds", 0.0) for row in history[-3:])
    steps = sum(int(row["steps"]) for row in history)
    epoch, step = _last_step(folder / STEPS)
    steps += step if epoch > len(history) else 0
    rate = sum(int(row["steps"]) for row in history[-3:]) / seconds if seconds > 0 else None
    note = f"epoch {len(history)}" + (f" of {epochs}" if epochs else "")
    return Done(steps, each * epochs, "steps", rate, note=note)


def _last_step(path: Path) -> tuple[int, int]:
    """Epoch and step of the last whole line of steps.csv; zeros where there is none."""
    try:
        lines = [line for line in path.read_text().splitlines(True) if line.endswith("\n")]
        last = dict(zip(lines[0].strip().split(","), lines[-1].strip().split(","), strict=True))
        return int(last["epoch"]), int(last["step"])
    except (OSError, LookupError, ValueError):
        return 0, 0


def fingerprint(argument: str) -> str:
    """A text that changes when something is done that a death cannot take back; mostly empty.

    Of a database, or of one that a campaign file names, the number of committed structures, of a
    training the place of its last checkpoint.
    """
    from hpctem.learning.training.checkpoints import DAMAGE, list_checkpoints, read_place

    path = Path(argument)
    if path.suffix in (".yaml", ".yml"):
        path = _named_by(path)
    if path.suffix == ".hdf5":
        return "+".join(map(_count_committed, find_files(path)))
    for checkpoint in reversed(list_checkpoints(path)):
        try:
            place = read_place(checkpoint)
        except DAMAGE:
            continue
        return f"{place.epoch}.{place.step}"
    return ""


def _named_by(path: Path) -> Path:
    """What a campaign or training file makes where nothing else is said."""
    try:
        sections = read_yaml(path).data
        if "training" in sections:
            return Path(sections["training"]["name"])
        return Path(f"{sections['campaign']['name']}.hdf5")
    except (HpctemError, LookupError, TypeError):
        return Path("nothing")


def _count_committed(path: Path) -> str:
    try:
        with open_database(path) as database:
            return str(database.counts["structures"] - database.counts["pending"])
    except HpctemError:
        return "0"


if __name__ == "__main__":
    print(",".join(map(fingerprint, sys.argv[1:])))
