"""How far one database goes: laying out and resuming a million, and a model of a thousand GPUs.

    python tests/benchmarks/scale.py [--structures 1000000] [--segments 1000000] [--json FILE]

Files are sparse: a terabyte takes no more of the disk here than its headers. The resume is that of
the main job, from its lock to its stop before the first segment, with the journals that so many
segments of one structure leave; on a busy machine only the processor's time means something. The
model (`hpctem.planning.schedule`) takes what a structure, digests, reading back and journal records
cost a CPU core from measurements here; what GPUs and the filesystem do is assumed, and told.
"""

from __future__ import annotations

import argparse
import json
import os
import pickle
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from hpctem.backend import select_backend
from hpctem.calibration.measure import Storage, time_storage
from hpctem.campaign_file import limit_structures, read_campaign
from hpctem.database.create import write_empty
from hpctem.database.fill import fill
from hpctem.database.journal import (
    BEGIN,
    COMMIT,
    COMPUTED,
    RUN,
    journal_folder,
    merge_journals,
    pack_record,
    read_journals,
)
from hpctem.database.plan import plan_key, write_plan
from hpctem.database.schema import Field, Layout, volume_range
from hpctem.hrtem.campaign import compute_structure
from hpctem.hrtem.experiment import Experiment
from hpctem.planning.schedule import Pace, schedule
from hpctem.planning.show import format_table
from hpctem.simulate import lay_out

CONFIGS = Path(__file__).parents[2] / "configs"
# The journals of a run lie in as many files as it had ranks.
RANKS = 256
# Assumed, not measured: what an H100 images by 1.6 times the exit waves' and twice the images' bare
# transforms (8 phonons, 11 foci, 640 pixels), what a parallel filesystem takes, how a job starts.
GPU_IMAGES, BANDWIDTH, STARTUP = 350.0, 50e9, 60.0
LARGEST_FILE = 16 * 2**40
IMAGES, GPUS, CORES = (10**6, 10**7, 10**8), (8, 64, 256, 1024), (1024, 16384)
MODELLED = "au_on_carbon_varying_substrate"


def lay_out_campaign(name: str, structures: range) -> Layout:
    """The layout of a part of one of the published campaigns with so many more structures."""
    campaign = read_campaign(CONFIGS / f"{name}.yaml")
    larger = campaign.config.campaign.model_copy(update={"structures": structures.stop})
    config = campaign.config.model_copy(update={"campaign": larger})
    campaign = replace(campaign, config=limit_structures(config, structures.stop))
    return lay_out(campaign, Experiment(campaign.config, select_backend("cpu")), structures)


def measure_layout(folder: Path, structures: int) -> dict[str, float]:
    """Lay out the quickstart with so many structures."""
    layout = lay_out_campaign("quickstart", range(structures))
    path = folder / "layout.hdf5"
    begin = time.perf_counter()
    write_empty(path, layout, write_plan(layout, {}))
    seconds = time.perf_counter() - begin
    status = path.stat()
    path.unlink()
    return {
        "structures": structures,
        "images": layout.rows("images"),
        "seconds": seconds,
        "bytes": status.st_size,
        "bytes on disk": status.st_blocks * 512,
    }


def write_journals(folder: Path, key: bytes, segments: int) -> int:
    """What `RANKS` ranks leave that were killed when all but one segment was committed."""
    folder.mkdir()
    (folder / "00000001.merged.journal").write_bytes(pack_record(key, RUN, 1))
    size = 0
    for rank in range(RANKS):
        with open(folder / f"00000001.{rank:05d}.journal", "wb") as stream:
            for segment in range(rank, segments - 1, RANKS):
                stream.write(pack_record(key, BEGIN, segment))
                stream.write(pack_record(key, COMPUTED, segment))
                stream.write(pack_record(key, COMMIT, segment, 0, bytes(16)))
            size += stream.tell()
    return size


def measure_resume(folder: Path, segments: int) -> dict[str, float]:
    """Take up a database of so many segments, one short of its end, and stop at once."""
    fields = (Field("/entry/images/intensity", "images", np.dtype("u2"), (512, 512)),)
    layout = Layout(segments, {"images": 1}, 1, fields)
    plan, path = write_plan(layout, {}), folder / "resume.hdf5"
    write_empty(path, layout, plan)
    size = write_journals(journal_folder(path), plan_key(plan), segments)
    found: dict[str, float] = {"segments": segments, "journal bytes": size}
    found |= _in_child("resume", path, segments)
    # What it consists of: the first reads everything, later ones what was merged.
    found |= _in_child("parts", path, segments)
    return found


def _in_child(what: str, path: Path, segments: int) -> dict[str, float]:
    """Measured in a process of its own, for its peak memory."""
    words = [sys.executable, __file__, "--child", what, str(path), str(segments)]
    with subprocess.Popen(words, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        said = child.stdout.read()
        _, status, used = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise SystemExit(f"measuring {what} ended with {child.returncode}")
    return {**json.loads(said), f"{what}, peak bytes": used.ru_maxrss * 1024.0}


def child(what: str, path: Path, segments: int) -> dict[str, float]:
    """One measurement: the whole resume, or the scan of its journals in parts."""
    fields = (Field("/entry/images/intensity", "images", np.dtype("u2"), (512, 512)),)
    layout = Layout(segments, {"images": 1}, 1, fields)
    folder, key = journal_folder(path), plan_key(write_plan(layout, {}))
    if what == "resume":
        begin = time.perf_counter(), time.process_time()

        def compute(index: int) -> Any:
            raise AssertionError(index)

        summary = fill(path, layout, {}, compute, writer="pwrite", stop=lambda: True)
        assert (summary.good, summary.remaining) == (segments - 1, 1), summary
        return {
            "resume": time.perf_counter() - begin[0],
            "resume, processor": time.process_time() - begin[1],
        }
    # The resume before has merged them; as they were they are read again.
    for journal in folder.glob("*.journal"):
        journal.unlink()
    folder.rename(folder.with_suffix(".merged"))
    write_journals(folder, key, segments)
    marks = [time.process_time()]
    journals = read_journals(folder, key)
    marks.append(time.process_time())
    merge_journals(folder, key, journals)
    marks.append(time.process_time())
    read_journals(folder, key)
    marks.append(time.process_time())
    pickle.loads(pickle.dumps(journals))
    marks.append(time.process_time())
    names = ("scan", "merge", "scan of the merged journal", "send to a rank")
    taken = np.diff(marks).tolist()
    return {f"{name}, processor": s for name, s in zip(names, taken, strict=True)}


def measure_storage(folder: Path) -> Storage:
    """What digests, writing, reading back and records cost here, of 11 images and their masks."""
    pixels = (512, 512)
    fields = (
        Field("/entry/images/intensity", "images", np.dtype("u2"), pixels),
        Field("/entry/labels/instances", "images", np.dtype("u1"), pixels),
    )
    random = np.random.default_rng(0)
    rows = {f.path: random.integers(0, 200, (11, *pixels)).astype(f.dtype) for f in fields}
    return time_storage(rows, Layout(64, {"images": 11}, 1, fields), folder)


def measure_compute() -> float:
    """Processor seconds of one structure of the modelled campaign on one core, without its rows."""
    config = read_campaign(CONFIGS / f"{MODELLED}.yaml").config
    experiment = Experiment(config, select_backend("cpu"))
    compute_structure(experiment, 0)  # compiles
    begin = time.process_time()
    compute_structure(experiment, 1)
    return time.process_time() - begin


def model(storage: Storage, compute: float) -> list[dict[str, Any]]:
    """Campaigns of the model at every number of devices, in volumes that files can hold.

    compute: seconds of a structure on a CPU core.
    """
    told = []
    for images in IMAGES:
        structures = -(-images // 11)
        whole = lay_out_campaign(MODELLED, range(structures))
        volumes = -(-whole.data_bytes // LARGEST_FILE)
        part = lay_out_campaign(MODELLED, volume_range(structures, 1, volumes))
        kept = (storage.digests + storage.writing) * whole.structure_bytes
        gpu = Pace(11 / GPU_IMAGES, storage, BANDWIDTH, STARTUP, background=True)
        core = Pace(compute + kept, storage, BANDWIDTH, STARTUP)
        devices = [(n, "GPUs", gpu) for n in GPUS] + [(n, "cores", core) for n in CORES]
        for count, kind, pace in devices:
            one = schedule(part, pace, 1, count)  # volumes one after the other
            told.append(
                {
                    "images": images,
                    "devices": f"{count} {kind}",
                    "bytes": whole.data_bytes,
                    "volumes": volumes,
                    "segments": part.segments * volumes,
                    "seconds": one.seconds * volumes,
                    "images per second": one.images,
                    "commits per second": one.structures / part.structures_per_segment,
                    "limit": one.limit,
                    "idle": one.idle,
                    "reading": one.reading * volumes,
                    "scan": one.overhead - STARTUP,
                }
            )
    return told


def show_model(rows: list[dict[str, Any]]) -> str:
    """The model as a table."""
    head = ["images", "on", "TB", "volumes", "segments", "hours", "images/s", "commits/s"]
    head += ["limit", "idle", "reading back, s", "resume, s"]
    lines = [
        [
            *(f"{row['images']:.0e}".replace("+0", ""), row["devices"]),
            *(f"{row['bytes'] / 1e12:.3g}", str(row["volumes"]), str(row["segments"])),
            *(f"{row['seconds'] / 3600:.3g}", f"{row['images per second']:.0f}"),
            *(f"{row['commits per second']:.3g}", row["limit"], f"{row['idle']:.0%}"),
            *(f"{row['reading']:.0f}", f"{row['scan']:.2g}"),
        ]
        for row in rows
    ]
    return format_table(head, lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--structures", type=int, default=10**6)
    parser.add_argument("--segments", type=int, default=10**6)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.child:
        what, path, segments = asked.child
        print(json.dumps(child(what, Path(path), int(segments))))
        return
    with tempfile.TemporaryDirectory(prefix="hpctem-scale-") as place:
        folder = Path(place)
        found: dict[str, Any] = {"layout": measure_layout(folder, asked.structures)}
        found["resume"] = measure_resume(folder, asked.segments)
        storage = measure_storage(folder)
    compute = measure_compute()
    found |= {"storage": asdict(storage), "compute": {"a structure, processor": compute}}
    found["model"] = model(storage, compute)
    for name in ("layout", "resume", "storage", "compute"):
        print(f"{name}: " + ", ".join(f"{key} {value:.4g}" for key, value in found[name].items()))
    print(f"assumed: {GPU_IMAGES:.0f} images/s of a GPU, {BANDWIDTH / 1e9:.0f} GB/s of all disks")
    print(show_model(found["model"]))
    if asked.json:
        asked.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
