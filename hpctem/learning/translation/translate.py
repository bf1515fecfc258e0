"""A database translated by a trained generator: every image in tiles, with its labels and columns.

What fills the database is the machinery of `hpctem simulate`: committed piece by piece, resumed
after any death, the same bytes at any number of ranks. Every tile is checked against its input
(`fidelity`); one that fails stays in the database, so that all rows keep their places, with
`accepted` = 0 and the reason, and is left out of training.
"""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

import hpctem
from hpctem.collection.collection import open_collection
from hpctem.database.fill import Summary, fill
from hpctem.database.finish import require_intact_outside
from hpctem.database.plan import identify_code
from hpctem.database.reader import Database, open_database
from hpctem.database.schema import PENDING, Field, Layout
from hpctem.detection.filters import RAW_VIEW
from hpctem.errors import ConfigError, DatabaseError, MachineError
from hpctem.learning.data.preparation import Prepare, filter_row, is_median, measure_preparation
from hpctem.learning.data.samples import MOST_MEASURED
from hpctem.learning.translation.rows import (
    DEFECT_COLUMNS,
    MAY_BE_NAN,
    PIXEL_SIZE,
    VERDICT_COLUMNS,
    Generate,
    Recipe,
    TranslateRows,
)
from hpctem.learning.translation.tiles import Cut, plan_tiles
from hpctem.parallel import Communicator, Progress
from hpctem.sampling import Streams
from hpctem.sections.training import Preparation
from hpctem.tables import column_fields

APART = 0.1
"""Share by which pixels may be smaller or larger than those of the training."""
# The modules that decide the rows.
DECIDING = (
    "data/preparation",
    "networks/generator",
    "networks/instance_norm",
    "translation/fidelity",
    "translation/generators",
    "translation/rows",
    "translation/tiles",
    "translation/translate",
)


@dataclass(frozen=True)
class Job:
    """A translation as planned: what is filled, what must not change, what fills it."""

    layout: Layout
    identity: Mapping[str, str]
    compute: TranslateRows

    @property
    def tiles(self) -> int:
        """Tiles of each structure."""
        return self.layout.rows_per_structure["images"]


def plan_translation(
    recipe: Recipe, parent: Path, path: Path, communicator: Communicator, limit: int | None = None
) -> Job:
    """What makes the database `path` of the tiles of the database `parent`; all ranks call it.

    limit   only the first so many structures

    The images of `path` are float32 (patch, patch), -1...1 of the range that the attributes `low`
    and `high` of their dataset tell in the units of the images that were imitated.

    Raises ConfigError when the images do not suit the model, DatabaseError when the parent is
    damaged or unfinished, MachineError when the ranks differ.
    """
    job = communicator.on_root(lambda: _plan(recipe, parent, path, limit))
    identity = {**job.identity, **identify(job.compute.generate, recipe.patch)}
    everyone = communicator.allgather(identity)
    for name, value in everyone[0].items():
        rank = next((k for k, other in enumerate(everyone) if other[name] != value), None)
        if rank is not None:
            error = MachineError(
                f"rank {rank} has {name} {everyone[rank][name]}, rank 0 has {value}: all ranks "
                "need the same libraries and devices"
            )
            error.shared = True
            raise error
    return replace(job, identity=identity)


def translate(
    job: Job,
    path: Path,
    communicator: Communicator,
    *,
    repair: bool = False,
    stop: Callable[[], bool] = lambda: False,
    progress: Callable[[Progress], None] | None = None,
    interval: float = 30.0,
) -> Summary:
    """Fill the database `path`, or what of it is not committed yet; all ranks call it.

    repair   first read back what is there and compute again what is damaged

    Raises DatabaseError when `path` belongs to another job or the parent is damaged, MachineError
    when the machine fails.
    """
    return fill(
        path,
        job.layout,
        job.identity,
        job.compute,
        communicator,
        stop=stop,
        progress=progress,
        interval=interval,
        repair=repair,
    )


def measure_own(path: Path, section: Preparation) -> Prepare:
    """How images of a database are prepared when their own limits count, as a group of its own."""
    images = open_collection([path])
    places = np.unique(np.linspace(0, len(images) - 1, MOST_MEASURED).astype(np.int64))
    how = Prepare(section.median, section.scale)
    recorded = (filter_row(images, place, how) for place in places.tolist())
    measured = measure_preparation(recorded, section.model_copy(update={"median": False}))
    return replace(measured, median=section.median)


def _plan(recipe: Recipe, parent: Path, path: Path, limit: int | None) -> Job:
    """Open the parent, check that the recipe suits it, and lay out the database of its tiles."""
    if path.exists() and parent.exists() and path.samefile(parent):
        raise ConfigError(f"{path} is the parent itself: name another database with -o")
    require_intact_outside(parent)
    with open_database(parent) as database:
        cut = Cut(database.layout, recipe.patch)
        _require_images(database, cut, recipe)
        held = database.layout
        count = held.structures if limit is None else min(limit, held.structures)
        pending = np.count_nonzero(database.status[:count] == PENDING)
        if pending:
            raise DatabaseError(
                f"{parent} is unfinished: {pending} of the {count} structures are not committed; "
                "run the command that makes it to its end, or take fewer (--limit)"
            )
        digest = _digest_rows(database, count)
        texts = _write_texts(database, recipe, digest, count)
        layout = plan_tiles(
            cut,
            _signal(cut, recipe),
            tuple(_further_fields(cut)),
            range(held.first_structure, held.first_structure + count),
            texts,
        )
        offsets, median = dict(database.offsets), is_median(database)
        identity = {"parent": f"plan {database.key.hex()} rows {digest}"}
    identity |= {f"config.translation.{k}": json.dumps(v) for k, v in recipe.description.items()}
    compute = TranslateRows(recipe, parent.resolve(), cut, offsets, median)
    return Job(layout, identity, compute)


def _require_images(database: Database, cut: Cut, recipe: Recipe) -> None:
    """Raise ConfigError where the images are none, too small, or of other pixels than learnt."""
    signal = database.image_path
    if len(database.field(signal).shape) != 2:
        raise ConfigError(f"{database.path}: {signal} holds images of several segments, no images")
    if not cut.tiles:
        ny, nx = cut.signal.shape
        raise ConfigError(
            f"{database.path}: images of {nx} x {ny} pixels are smaller than the {cut.patch} x "
            f"{cut.patch} that the model was trained on; translate larger ones, or train with a "
            "smaller simulation.patch"
        )
    if PIXEL_SIZE not in {item.path for item in database.layout.fields}:
        raise ConfigError(f"{database.path} has no column pixel_size, which the check needs")
    sizes = database.column(PIXEL_SIZE)
    if recipe.pixel_sizes is None or not len(sizes):
        return
    least, most = recipe.pixel_sizes
    if sizes.min() < least * (1 - APART) or sizes.max() > most * (1 + APART):
        raise ConfigError(
            f"{database.path}: pixels of {sizes.min():.4g} to {sizes.max():.4g} A, and "
            f"{recipe.name} has learnt {least:.4g} to {most:.4g} A: lattices would not be alike; "
            f"take images within {APART:.0%} of them, or train with such as these"
        )


def _signal(cut: Cut, recipe: Recipe) -> Field:
    """The dataset of the translated images."""
    return Field(
        cut.signal.path,
        "images",
        np.dtype("f4"),
        (cut.patch, cut.patch),
        "",
        f"tiles of the images of the parent, made by {recipe.command} with {recipe.name}",
        attributes={
            "chunks": [1, cut.patch, cut.patch],
            "view": RAW_VIEW,
            "low": recipe.result.low,
            "high": recipe.result.high,
        },
    )


def _further_fields(cut: Cut) -> list[Field]:
    fields = list(column_fields("metadata", "images", VERDICT_COLUMNS))
    if "defects" in {item.table for item in cut.fields}:
        fields += column_fields("defects", "defects", DEFECT_COLUMNS)
    return [replace(item, nan=item.name in MAY_BE_NAN) for item in fields]


def _digest_rows(database: Database, structures: int) -> str:
    """BLAKE2b-128, in hexadecimal, of the stored digests of all rows of the first structures."""
    state = hashlib.blake2b(digest_size=16)
    for column in database.layout.digests:
        rows = database.layout.row_range(column.table, range(structures))
        state.update(np.ascontiguousarray(database.mapped(column.path)[: rows.stop]).data)
    return state.hexdigest()


def _write_texts(
    database: Database, recipe: Recipe, digest: str, structures: int
) -> dict[str, str]:
    """The campaign's texts, with the parent and what translated it.

    The resolved config gains the keys of the translation, and so another hash: tiles are other
    images of the same structures.
    """
    texts = database.campaign
    parent = {
        "file": database.path.name,
        "campaign": database.name,
        "config_hash": texts.get("config_hash", ""),
        "code": database.identity.get("code", ""),
        "plan": database.key.hex(),
        "digest": digest,
    }
    if "parent" in texts:
        parent["parent"] = json.loads(texts["parent"])
    resolved = json.loads(texts.get("resolved_config", "{}"))
    resolved |= {f"translation.{key}": json.dumps(v) for key, v in recipe.description.items()}
    resolved["campaign.structures"] = json.dumps(structures)
    resolved["translation.parent"] = json.dumps(f"{parent['plan']} {digest}")
    text = json.dumps(resolved, sort_keys=True)
    return {
        **texts,
        "resolved_config": json.dumps(resolved, sort_keys=True, indent=1),
        "config_hash": hashlib.blake2b(text.encode(), digest_size=16).hexdigest(),
        "hpctem_version": hpctem.__version__,
        "parent": json.dumps(parent, sort_keys=True),
        "translation": json.dumps(recipe.description, sort_keys=True),
    }


def identify(generate: Generate, patch: int) -> dict[str, str]:
    """Everything else that may change the bytes of a result: what computes here.

    `generator_digest` is a digest of what the generator makes of fixed numbers, so that a library
    or a processor that takes another way is seen.
    """
    fixed = Streams(0)("translation/identity", 0).uniform(-1, 1, (1, patch, patch))
    made = generate(fixed.astype(np.float32))
    learning = Path(__file__).parents[1]
    return {
        "code": identify_code(learning / f"{name}.py" for name in DECIDING),
        "numpy": np.__version__,
        "python": platform.python_version(),
        "machine": platform.machine(),
        "generator_digest": hashlib.blake2b(made.tobytes(), digest_size=8).hexdigest(),
    }
