"""Time on this machine what every technique does, and what is needed to time its steps."""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hpctem.backend import Backend
from hpctem.database.create import create
from hpctem.database.digest import digest_rows, digest_segment
from hpctem.database.finish import find_bad_rows
from hpctem.database.journal import COMMIT, Journal, pack_record, unpack_records
from hpctem.database.plan import plan_key, write_plan
from hpctem.database.schema import Layout
from hpctem.database.segment import StructureRows, empty_block, place_rows
from hpctem.database.writer import open_writer, read_offsets
from hpctem.parallel import Communicator
from hpctem.techniques import Rows

# Images of a structure that are recorded at most; the others cost the same.
MOST_IMAGES = 24
SEGMENTS, SEGMENT_BYTES = 3, 64 * 2**20


@dataclass(frozen=True)
class Storage:
    """What it takes to keep rows: seconds per byte, and per commit beside its bytes.

    digests, writing, syncing  of a segment's rows; `syncing` until they are on the disk
    reading                    back from the page cache, with their digests
    commit                     seconds of the two waits for the disk of each segment
    record                     seconds to check one record of a journal when a job resumes
    """

    digests: float
    writing: float
    syncing: float
    reading: float
    commit: float
    record: float


class Stopwatch:
    """Adds up the seconds of steps."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self.seconds: dict[str, float] = {}

    @contextmanager
    def step(self, name: str, times: float = 1.0) -> Iterator[None]:
        """Time what is inside, which stands for `times` as much, as a part of step `name`."""
        self._backend.synchronize()
        begin = time.perf_counter()
        yield
        self._backend.synchronize()
        self.add(name, (time.perf_counter() - begin) * times)

    def add(self, name: str, seconds: float) -> None:
        """Add seconds to a step."""
        self.seconds[name] = self.seconds.get(name, 0.0) + seconds

    def time(self, work: Callable[[], Any]) -> tuple[float, Any]:
        """Seconds of one call, of no step yet, and what it returns."""
        self._backend.synchronize()
        begin = time.perf_counter()
        result = work()
        self._backend.synchronize()
        return time.perf_counter() - begin, result


def time_storage(rows: Rows, layout: Layout, folder: Path) -> Storage:
    """Time digests, writing, syncing and reading back of such rows in a folder of `folder`.

    At most 64 MiB at once and three times that in all; the folder is removed. Raises MachineError
    when they cannot be written.
    """
    each = min(layout.structures_per_segment, max(1, SEGMENT_BYTES // layout.structure_bytes))
    small = replace(layout, structures=SEGMENTS * each, structures_per_segment=each)
    block = empty_block(small, range(each))
    for position in range(each):
        place_rows(small, block, position, StructureRows(rows))
    size = each * layout.structure_bytes
    times: dict[str, list[float]] = {"digests": [], "writing": [], "syncing": [], "commit": []}
    with tempfile.TemporaryDirectory(dir=folder, prefix=".hpctem-calibration-") as place:
        path = Path(place, "rows.hdf5")
        create(path, small, {})
        journal = Journal(path.parent, 1, 0, plan_key(write_plan(small, {})))
        writer = open_writer(path, small, Communicator(), "pwrite")
        commits = {}
        for segment in range(SEGMENTS):
            marks = [time.perf_counter()]
            digests = digest_rows(small, block)
            marks.append(time.perf_counter())
            for item in small.datasets:
                first = small.row_range(item.table, small.segment(segment)).start
                writer.write(item.path, first, (block | digests)[item.path])
            marks.append(time.perf_counter())
            writer.sync()
            marks.append(time.perf_counter())
            commits[segment] = digest_segment(small, digests), 0
            journal.commit(segment, *commits[segment])
            marks.append(time.perf_counter())
            for name, begin, end in zip(times, marks[:-1], marks[1:], strict=True):
                times[name].append(end - begin)
        offsets = read_offsets(path, small)
        begin = time.perf_counter()
        find_bad_rows(path, small, offsets, range(SEGMENTS), commits)
        reading = (time.perf_counter() - begin) / (SEGMENTS * size)
        writer.close()
        journal.close()
    median = {name: statistics.median(values) for name, values in times.items()}
    return Storage(
        digests=median["digests"] / size,
        writing=median["writing"] / size,
        syncing=max(median["syncing"] - median["commit"], 0.0) / size,
        reading=reading,
        commit=2 * median["commit"],
        record=_time_records(),
    )


def _time_records() -> float:
    """Seconds to check one journal record."""
    records, times = 4096, []
    raw = pack_record(bytes(32), COMMIT, 0) * records
    for _ in range(3):
        begin = time.perf_counter()
        unpack_records(bytes(32), raw)
        times.append(time.perf_counter() - begin)
    return min(times) / records


def process_age() -> float:
    """Seconds since this process began: what starting Python and importing hpctem takes."""
    try:
        started = float(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
        uptime = float(Path("/proc/uptime").read_text().split()[0])
    except (OSError, ValueError, IndexError):
        return 0.0
    return max(uptime - started / os.sysconf("SC_CLK_TCK"), 0.0)
