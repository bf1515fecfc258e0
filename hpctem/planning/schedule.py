"""How long a campaign takes at so many nodes: compute, disk, journals and the end of it.

Ranks share segments cyclically and commit each while they compute the next, so a job takes as long
as the rank with the most segments, or as the disk needs for all rows, whichever is longer. Before
it the program starts and, resumed, scans the journals; after it all ranks read everything back.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Iterable
from dataclasses import dataclass, replace

from hpctem.calibration.measure import Storage
from hpctem.database.schema import Layout

# Left of a job's time when it is asked to stop.
STOP_SECONDS = 180.0
# A resumed job reads the journals, merges them, and reads what was merged at its end: measured as
# so many times the reading (tests/benchmarks/scale.py).
SCANS = 2.0


@dataclass(frozen=True)
class Pace:
    """What a rank and the disk do.

    structure   seconds of one structure on one rank, its rows digested and written
    storage     what keeping rows costs a rank
    bandwidth   bytes per second that the disk takes from all ranks together
    startup     seconds until a rank begins
    background  a GPU computes and leaves the core free: `structure` is without digests and writing,
                which are done while the next segment is computed
    """

    structure: float
    storage: Storage
    bandwidth: float
    startup: float
    background: bool = False

    @property
    def keeping(self) -> float:
        """Seconds per byte of a segment until it is on the disk, from when it is computed."""
        storage = self.storage
        beside = storage.digests + storage.writing if self.background else 0.0
        return beside + storage.syncing


@dataclass(frozen=True)
class Schedule:
    """A campaign on so many nodes.

    structures, images, bytes  per second while all ranks compute
    limit                      'compute' or 'disk'
    most, fewest               segments that a rank computes
    idle                       share of the ranks' time spent waiting for the last one
    segment                    seconds of one segment on one rank
    seconds                    of the whole campaign in one job: start, compute, read back
    overhead                   of these what every job spends again: start and scan of journals
    reading                    of these what the last job spends on reading everything back
    node_hours                 nodes x hours
    jobs                       jobs of the walltime, one after another; 0 when none can be done
    volumes                    volumes that fit one job each; 0 when none can be done
    """

    nodes: int
    ranks: int
    structures: float
    images: float
    bytes: float
    limit: str
    most: int
    fewest: int
    idle: float
    segment: float
    seconds: float
    overhead: float
    reading: float
    node_hours: float
    jobs: int
    volumes: int


def schedule(
    layout: Layout, pace: Pace, nodes: int, ranks_per_node: int, walltime: float | None = None
) -> Schedule:
    """The time of a campaign on `nodes` nodes, and in how many jobs of `walltime` seconds."""
    ranks = nodes * ranks_per_node
    each, segments = layout.structures_per_segment, layout.segments
    work = time_work(layout, pace, ranks)
    segment = each * pace.structure
    images = layout.rows_per_structure["images"]
    rate = min(ranks, segments) / max(pace.structure, layout.structure_bytes * pace.keeping)
    disk_rate = pace.bandwidth / layout.structure_bytes
    reading = time_reading(layout, pace, ranks)
    scan = SCANS * (layout.segments + 2 * layout.structures) * pace.storage.record
    overhead = pace.startup + scan
    seconds = overhead + work + reading
    jobs, volumes = 1, 1
    if walltime is not None:
        jobs = count_jobs(work, reading, overhead, segment, walltime)
        volumes = count_volumes(layout, pace, ranks, walltime) if jobs else 0
    most = -(-segments // ranks)
    return Schedule(
        nodes=nodes,
        ranks=ranks,
        structures=min(rate, disk_rate),
        images=min(rate, disk_rate) * images,
        bytes=min(rate, disk_rate) * layout.structure_bytes,
        limit="compute" if rate <= disk_rate else "disk",
        most=most,
        fewest=segments // ranks,
        idle=1 - layout.structures * pace.structure / (ranks * work),
        segment=segment,
        seconds=seconds,
        overhead=overhead,
        reading=reading,
        node_hours=nodes * seconds / 3600,
        jobs=jobs,
        volumes=volumes,
    )


def time_work(layout: Layout, pace: Pace, ranks: int) -> float:
    """Seconds until the last segment is committed, from when the ranks begin."""
    each = layout.structures_per_segment
    most = -(-layout.segments // ranks)
    compute = min(most * each, layout.structures) * pace.structure
    bytes_ = each * layout.structure_bytes
    commit = bytes_ * pace.keeping + pace.storage.commit
    # A segment is committed while the next one is computed; only the last commit is waited for.
    waiting = (most - 1) * max(commit - each * pace.structure, 0.0) + commit
    return max(compute + waiting, layout.data_bytes / pace.bandwidth)


def time_reading(layout: Layout, pace: Pace, ranks: int) -> float:
    """Seconds in which all ranks read every row back and compare its digest."""
    shared = -(-layout.segments // ranks) * layout.structures_per_segment
    own = min(shared, layout.structures) * layout.structure_bytes * pace.storage.reading
    return max(own, layout.data_bytes / pace.bandwidth)


def count_jobs(
    work: float, reading: float, overhead: float, segment: float, walltime: float
) -> int:
    """Jobs of a walltime, each resuming the one before; 0 when none gets a segment done."""
    if work + reading + overhead <= walltime:
        return 1
    usable = walltime - overhead - max(segment, STOP_SECONDS)
    if usable < segment or overhead + reading > walltime:
        return 0
    return math.ceil(work / usable) + (work % usable + reading > usable)


def count_volumes(layout: Layout, pace: Pace, ranks: int, walltime: float) -> int:
    """The fewest volumes of which each is done in one job of the walltime; 0 when none is."""

    def fits(volumes: int) -> bool:
        largest = replace(layout, structures=-(-layout.structures // volumes))
        reading = time_reading(largest, pace, ranks)
        return pace.startup + time_work(largest, pace, ranks) + reading <= walltime

    candidates = range(1, layout.structures + 1)
    found = bisect.bisect_left(candidates, True, key=fits)
    return candidates[found] if found < len(candidates) else 0


def schedules(
    layout: Layout,
    pace: Pace,
    nodes: Iterable[int],
    ranks_per_node: int,
    walltime: float | None = None,
) -> tuple[Schedule, ...]:
    """The campaign at each number of nodes."""
    return tuple(schedule(layout, pace, n, ranks_per_node, walltime) for n in nodes)
