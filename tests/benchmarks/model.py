"""A model of campaigns of 10^6 to 10^8 images on GPUs and cores: what they take, what breaks first.

The times of a structure on a core, and of what the host does beside a GPU, are measured
(`scale.py`); those of the GPU are not. They are what its transforms take if nothing but its memory
limits them, times what is asked of hpctem beside the transforms. `hpctem.planning.schedule` makes
times of campaigns of these, as `hpctem plan` does.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from hpctem.calibration.measure import Storage
from hpctem.calibration.workload import Work
from hpctem.database.schema import Layout, volume_range
from hpctem.planning.schedule import Pace, Schedule, schedule
from hpctem.planning.show import format_table

# Assumed, not measured. Bytes a second of an H100's memory, how often a transform of a field reads
# or writes each of its numbers, and how many times their transforms steps are asked to take.
GPU_MEMORY, PASSES = 3.0e12, 4
OVER = {"exit waves": 1.6, "labels": 1.6, "imaging": 2.0}
# Bytes a second of a parallel filesystem, seconds of a job's start.
BANDWIDTH, STARTUP = 50e9, 60.0
ASSUMED = (
    f"{GPU_MEMORY / 1e12:g} TB/s of a GPU's memory, of which a transform takes {PASSES} passes, "
    "1.6 times the transforms for waves and twice for images; "
    f"{BANDWIDTH / 1e9:g} GB/s of all disks; {STARTUP:g} s to start"
)
LARGEST_FILE = 16 * 2**40
IMAGES, GPUS, CORES = (10**6, 10**7, 10**8), (8, 64, 256, 1024), (1024, 16384)
SHARING = (1, 8)
"""Ranks that share a GPU, each with a core of its own."""


@dataclass(frozen=True)
class Costs:
    """Seconds of a structure, without its rows: `core` on a CPU core alone, `host` on the core
    beside a GPU, `gpu` on the GPU."""

    core: float
    host: float
    gpu: float


@dataclass(frozen=True)
class Devices:
    """So many GPUs (or cores, `sharing` 0) with so many ranks on each."""

    count: int
    sharing: int

    @property
    def ranks(self) -> int:
        return self.count * max(self.sharing, 1)

    @property
    def name(self) -> str:
        if not self.sharing:
            return f"{self.count} cores"
        return f"{self.count} GPUs" + (f" x {self.sharing}" if self.sharing > 1 else "")


def time_gpu(work: Work) -> float:
    """Seconds of a structure on a GPU, by the bytes that its transforms move."""
    moved = {
        step: sum(8.0 * PASSES * math.prod(shape) * number for shape, number in counts.items())
        for step, counts in work.transforms(by_lines=False).items()
    }
    return sum(OVER[step] * bytes_ / GPU_MEMORY for step, bytes_ in moved.items())


def pace_of(devices: Devices, storage: Storage, costs: Costs, layout: Layout) -> Pace:
    """What a rank does. Ranks that share a GPU wait for each other where it is busy.

    A rank's own host and GPU take turns: of one structure nothing is computed before its atoms are
    there, and the next one is begun when it is done.
    """
    if not devices.sharing:
        kept = (storage.digests + storage.writing) * layout.structure_bytes
        return Pace(costs.core + kept, storage, BANDWIDTH, STARTUP)
    seconds = max(costs.host + costs.gpu, devices.sharing * costs.gpu)
    return Pace(seconds, storage, BANDWIDTH, STARTUP, background=True)


def divide_time(
    layout: Layout, pace: Pace, one: Schedule, devices: Devices, costs: Costs
) -> dict[str, float]:
    """Where the seconds of a campaign go, as a rank sees them; their sum is all of it.

    Where ranks fill a GPU, whatever they do beside it hides behind it.
    """
    own = layout.structures * pace.structure / one.ranks
    work = one.seconds - one.overhead - one.reading
    filled = 1.001 * layout.data_bytes / BANDWIDTH  # what takes no longer is held up by the disk
    parts = {"core": own}
    if devices.sharing:
        filled_gpu = pace.structure > costs.host + costs.gpu
        host = 0.0 if filled_gpu else own * costs.host / pace.structure
        parts = {"host": host, "GPU": own - host}
    parts["start"] = one.overhead
    parts["waiting" if work > filled else "disk"] = work - own
    read = "reading back" if one.reading > filled else "disk"
    parts[read] = parts.get(read, 0.0) + one.reading
    return parts


def list_devices() -> Iterable[Devices]:
    """All rows of the model."""
    yield from (Devices(count, sharing) for count in GPUS for sharing in SHARING)
    yield from (Devices(count, 0) for count in CORES)


def model(
    lay_out: Callable[[range], Layout], storage: Storage, costs: Costs
) -> list[dict[str, Any]]:
    """Campaigns at every size on all devices, in volumes that files can hold, one after another.

    `lay_out`: the layout of a range of structures.
    """
    told = []
    for images in IMAGES:
        each = lay_out(range(1)).rows_per_structure["images"]
        structures = -(-images // each)
        whole = lay_out(range(structures))
        volumes = -(-whole.data_bytes // LARGEST_FILE)
        part = lay_out(volume_range(structures, 1, volumes))
        for devices in list_devices():
            pace = pace_of(devices, storage, costs, part)
            one = schedule(part, pace, 1, devices.ranks)
            parts = divide_time(part, pace, one, devices, costs)
            most = max(parts, key=lambda name: parts[name])
            told.append(
                {
                    "images": images,
                    "devices": devices.name,
                    "bytes": whole.data_bytes,
                    "volumes": volumes,
                    "segments": part.segments * volumes,
                    "seconds": one.seconds * volumes,
                    "images per second": images / (one.seconds * volumes),
                    "parts": {name: seconds * volumes for name, seconds in parts.items()},
                    "most": most,
                    "share": parts[most] / one.seconds,
                }
            )
    return told


def show_model(rows: list[dict[str, Any]]) -> str:
    """The model as a table: images a second of the whole campaign, and what takes most of it."""
    head = ["images", "on", "TB", "volumes", "segments", "hours", "images/s", "most of it"]
    lines = [
        [
            *(f"{row['images']:.0e}".replace("+0", ""), row["devices"]),
            *(f"{row['bytes'] / 1e12:.3g}", str(row["volumes"]), str(row["segments"])),
            *(f"{row['seconds'] / 3600:.3g}", f"{row['images per second']:.0f}"),
            f"{row['most']} {row['share']:.0%}",
        ]
        for row in rows
    ]
    return format_table(head, lines)


def show_limits(layout: Layout, storage: Storage, costs: Costs) -> str:
    """How many images a second each thing allows, and from how many GPUs on another one limits."""
    each, bytes_ = layout.rows_per_structure["images"], layout.structure_bytes
    kept = (storage.digests + storage.writing) * bytes_
    alone = costs.host + costs.gpu
    lines = [
        f"{each / costs.gpu:.0f} images/s of a GPU's kernels alone, {each / costs.host:.0f} of the "
        f"host core alone, {each / alone:.0f} of one rank on a GPU",
        f"a GPU is filled by {math.ceil(alone / costs.gpu)} ranks",
        f"digests and writing take {kept:.3g} s of a structure beside it",
        f"the disks are filled by {math.ceil(BANDWIDTH / bytes_ * alone)} GPUs of one rank, by "
        f"{math.ceil(BANDWIDTH / bytes_ * costs.gpu)} that are filled",
    ]
    return "\n".join(lines)
