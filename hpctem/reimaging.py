"""Form new images from the exit waves that a database holds, without passing waves again.

The parent gives the waves, the campaign file everything that comes after them. Structures are
sampled again from the seed, for their labels, and must have the digests that the parent stored.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hpctem.campaign_file import CampaignFile, limit_structures
from hpctem.config import Config, HrtemConfig
from hpctem.database.fill import Summary
from hpctem.database.finish import compare_digests, read_rows, require_intact_outside
from hpctem.database.reader import Database, open_database
from hpctem.database.rows import StoredRows
from hpctem.database.schema import (
    ATOMS_DIGEST,
    ERROR_PATH,
    PENDING,
    QUARANTINED,
    STATUS_PATH,
    Layout,
    volume_path,
)
from hpctem.errors import ConfigError, DatabaseError, SampleError
from hpctem.hrtem.campaign import StoredWaves
from hpctem.hrtem.grids import choose_grids
from hpctem.hrtem.tables import EXIT_WAVES
from hpctem.parallel import Communicator, Progress
from hpctem.simulate import Options, Parent, choose_structures, simulate

# What the waves depend on; all else of a campaign file may differ from the parent's.
SHARED = ("structure.", "simulation.", "campaign.seed")
READ = ("waves", "structures")


def image(
    campaign: CampaignFile,
    parent: Path,
    path: Path,
    options: Options,
    communicator: Communicator,
    stop: Callable[[], bool] = lambda: False,
    progress: Callable[[Progress], None] | None = None,
    interval: float = 30.0,
) -> tuple[Path, Summary]:
    """Fill a database with images of the exit waves in `parent`; all ranks call it.

    On the parent's grid of exit waves it gives the same images, labels and columns as `simulate`
    with the same campaign file. Resumes what is there, as `simulate` does. Returns the path of
    the database and what it holds.

    Raises what `open_parent` and `simulate` raise.
    """

    def begin() -> tuple[CampaignFile, Parent]:
        target = volume_path(path, *options.volume) if options.volume is not None else path
        if target.exists() and parent.exists() and target.samefile(parent):
            raise ConfigError(f"{target} is the parent itself: name another database with -o")
        return open_parent(parent, campaign, options.volume)

    reached, opened = communicator.on_root(begin)
    return simulate(reached, path, options, communicator, stop, progress, interval, opened)


def open_parent(
    path: Path, campaign: CampaignFile, volume: tuple[int, int] | None = None
) -> tuple[CampaignFile, Parent]:
    """The parent database for a campaign, and the campaign as far as the parent reaches.

    volume   (k, n): only the structures of that volume of the campaign

    Raises ConfigError when the campaign is one of STEM or asks for other waves than the parent
    holds (with every difference), DatabaseError when the parent is damaged, lacks waves or is not
    finished there.
    """
    if not isinstance(campaign.config, HrtemConfig):
        raise ConfigError(
            "campaign.technique: images are formed anew from the exit waves of HRTEM; those of "
            "scanning TEM are quick to simulate: use 'hpctem simulate'"
        )
    require_intact_outside(path)
    with open_database(path) as database:
        if EXIT_WAVES not in {item.path for item in database.layout.fields}:
            raise DatabaseError(
                f"{path} holds no exit waves: simulate it with 'storage: {{exit_waves: true}}'"
            )
        wanted = json.loads(database.campaign["resolved_config"])
        _require_same_waves(path, wanted, campaign.description)
        _require_grid(path, database, campaign.config)
        most = json.loads(wanted["campaign.structures"])
        config = limit_structures(campaign.config, most)
        structures = _choose_structures(database, config, volume)
        places = range(
            structures.start - database.layout.first_structure,
            structures.stop - database.layout.first_structure,
        )
        pending = np.count_nonzero(database.status[places.start : places.stop] == PENDING)
        if pending:
            raise DatabaseError(
                f"{path} is unfinished: {pending} of the {len(structures)} structures are not "
                "committed; run the command that makes it to its end, or take fewer (--limit)"
            )
        digest = _digest_rows(database, places)
        text = {
            "file": path.name,
            "campaign": database.name,
            "config_hash": database.campaign["config_hash"],
            "code": database.identity.get("code", ""),
            "plan": database.key.hex(),
            "digest": digest,
        }
        if "parent" in database.campaign:
            text["parent"] = json.loads(database.campaign["parent"])
        reader = ReadWaves(path.resolve(), database.layout, database.offsets)
    reached = CampaignFile(campaign.text, config, campaign.inputs)
    identity = f"plan {text['plan']} rows {digest}"
    return reached, Parent(structures, json.dumps(text, sort_keys=True), identity, reader)


@dataclass(frozen=True)
class ReadWaves:
    """Campaign index of a structure -> its exit waves, each row proved by its digest."""

    path: Path
    layout: Layout
    offsets: Mapping[str, int]

    def __call__(self, index: int) -> StoredWaves:
        """Read and check; SampleError for a quarantined structure, DatabaseError for damage."""
        place = index - self.layout.first_structure
        structure = range(place, place + 1)
        descriptor = os.open(self.path, os.O_RDONLY)
        try:
            block = read_rows(descriptor, self.layout, self.offsets, structure, READ)
        finally:
            os.close(descriptor)
        bad, _ = compare_digests(self.layout, block, structure)
        if bad:
            table, row = bad[0]
            raise DatabaseError(
                f"{self.path} is damaged: row {row} of {table} is not what was computed; 'hpctem "
                f"verify {self.path}' names all such rows and how to have them computed again"
            )
        if block[STATUS_PATH][0] == QUARANTINED:
            reason = bytes(block[ERROR_PATH][0]).rstrip(b"\0").decode("utf-8", "replace")
            raise SampleError(f"quarantined in the parent: {reason}")
        return StoredWaves(block[EXIT_WAVES], block[ATOMS_DIGEST][0].tobytes())


def _require_same_waves(path: Path, stored: Mapping[str, str], given: Mapping[str, str]) -> None:
    """Raise ConfigError unless both campaigns have the same structures and exit waves."""
    lines = list(_differences(path, stored, given))
    if lines:
        raise ConfigError(
            f"the exit waves of {path} are not those that this campaign file asks for:\n  "
            + "\n  ".join(lines)
            + "\nImages can differ from the parent's in 'imaging', 'labels', 'storage' and "
            "'campaign' (but for its seed); what differs above needs 'hpctem simulate'"
        )


def _differences(path: Path, stored: Mapping[str, str], given: Mapping[str, str]) -> Iterator[str]:
    for key in sorted(set(stored) | set(given)):
        if key.startswith(SHARED) and stored.get(key) != given.get(key):
            one, other = stored.get(key, "absent"), given.get(key, "absent")
            yield f"{key}: {one:.120} in {path.name}, {other:.120} in the campaign file"


def _require_grid(path: Path, database: Database, config: HrtemConfig) -> None:
    """Raise ConfigError when the images need finer exit waves than the parent holds."""
    ny, nx = database.field(EXIT_WAVES).shape[-2:]
    grids = choose_grids(config)
    if grids.exit[0] <= ny and grids.exit[1] <= nx:
        return
    step = grids.extent[1] / nx
    raise ConfigError(
        f"imaging.sampling: {config.imaging.sampling:g} A needs exit waves of {grids.exit[1]} x "
        f"{grids.exit[0]} pixels, {path} holds {nx} x {ny} of {step:.6g} A: take that or a "
        "multiple of it that divides the cell, or simulate anew"
    )


def _choose_structures(database: Database, config: Config, volume: tuple[int, int] | None) -> range:
    """Campaign indices that are imaged: what the campaign asks for and the parent holds."""
    layout = database.layout
    held = range(layout.first_structure, layout.first_structure + layout.structures)
    wanted = choose_structures(config, volume)
    if volume is not None and not (wanted.start >= held.start and wanted.stop <= held.stop):
        raise ConfigError(
            f"volume {volume[0]}/{volume[1]} is structures {wanted.start} to {wanted.stop - 1}, "
            f"but {database.path} holds {held.start} to {held.stop - 1}"
        )
    both = range(max(held.start, wanted.start), min(held.stop, wanted.stop))
    if not both:
        raise ConfigError(
            f"the campaign has {len(wanted)} structures, but {database.path} holds {held.start} "
            f"to {held.stop - 1}: none of them"
        )
    return both


def _digest_rows(database: Database, places: range) -> str:
    """BLAKE2b-128, in hexadecimal, of the stored digests of all rows that are read."""
    state = hashlib.blake2b(digest_size=16)
    for column in database.layout.digests:
        if column.table in READ:
            rows = np.array(database.layout.row_range(column.table, places))
            offset = database.offsets[column.path]
            stored = StoredRows(database.path, offset, column.dtype, column.shape, rows)
            state.update(stored[:].tobytes())
    return state.hexdigest()
