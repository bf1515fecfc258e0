"""How far one database goes: laying out and resuming a million, and a model of a thousand GPUs.

    jobs/benchmark --scale [--structures 1000000] [--segments 1000000] [--computed 3] [--json FILE]

Files are sparse: a terabyte takes no more of the disk here than its headers. The resume is that of
the main job, from its lock to its stop before the first segment, with the journals that so many
segments of one structure leave; on a busy machine only the processor's time means something. The
model (`model.py`) takes what a structure, the work of the host beside a GPU, digests, reading back
and journal records cost a CPU core from measurements here, on the campaign that is modelled; what
GPUs and the filesystem do is assumed, and told.
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
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from model import ASSUMED, Costs, model, show_limits, show_model, time_gpu
from provenance import describe, introduce
from targets import SCALE, Figure, conclude

from hpctem import tables
from hpctem.backend import Backend, select_backend
from hpctem.calibration.measure import Storage, time_storage
from hpctem.calibration.workload import describe_work
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
from hpctem.database.schema import Field, Layout
from hpctem.hrtem.campaign import compute_structure, displace_atoms, tabulate_structure
from hpctem.hrtem.experiment import Experiment
from hpctem.optics.grid import Grid
from hpctem.optics.multislice import FIELDS, plan_slices
from hpctem.optics.potential import Atomic, make_channels
from hpctem.simulate import lay_out

CONFIGS = Path(__file__).parents[2] / "configs"
H100_CACHE = 50 * 2**20
# The journals of a run lie in as many files as it had ranks.
RANKS = 256
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


def measure_host(experiment: Experiment, structures: Sequence[int]) -> dict[str, float]:
    """Processor seconds of a structure on the core beside a GPU, step by step, their mean.

    What the main job does on the host before and between the GPU's kernels, by the functions that
    it calls; atoms are sorted as for the kernels of a GPU.
    """
    config, grids = experiment.config, experiment.grids
    # sorts on the host, and is asked for nothing else
    gpu = Backend("cupy", np, "cufft", "", H100_CACHE)
    grid = Grid(grids.wave, grids.extent)
    image = np.random.default_rng(0).integers(0, 60, grids.stored).astype(np.uint16)
    spent: dict[str, float] = {}

    def note(step: str, work: Callable[..., Any], *given: Any) -> Any:
        begin = time.process_time()
        result = work(*given)
        spent[step] = spent.get(step, 0.0) + (time.process_time() - begin) / len(structures)
        return result

    def work_beside(index: int) -> None:
        structure = note("sampling", experiment.structure, index)
        note("tables", tabulate_structure, structure)
        displaced = note("displacing", displace_atoms, experiment, structure, index, 0)
        multislice, height = experiment.multislice((0.0, 0.0)), structure.cell[2]
        numbers, atomic = structure.numbers, Atomic(multislice.parametrization)
        slices = plan_slices(structure.positions, numbers, height, multislice)
        cut = slices.count, slices.thickness, False
        count = gpu.planes_at_once(len(displaced), grid.pixels, FIELDS)
        for begin in range(0, len(displaced), count):
            batch = displaced[begin : begin + count]
            note("sorting atoms", make_channels, batch, numbers, grid, atomic, *cut, gpu)
        note("statistics", lambda: [tables.measure_image(image) for _ in range(config.images)])

    work_beside(0)  # compiles, and makes what all structures share
    spent.clear()
    for index in structures:
        work_beside(index)
    return spent


def measure_compute(experiment: Experiment, structures: Sequence[int]) -> float:
    """Processor seconds of a structure on one core, without its rows: the mean of several."""
    compute_structure(experiment, 0)  # compiles
    begin = time.process_time()
    for index in structures:
        compute_structure(experiment, index)
    return (time.process_time() - begin) / len(structures)


def judge(found: dict[str, Any]) -> list[Figure]:
    """What is asked of layout and resume."""
    layout, resume = found["layout"], found["resume"]
    scan = resume["scan, processor"]
    return [
        Figure("layout, s", f"{layout['structures']:.0e} structures", layout["seconds"]),
        Figure("scan of the journals, CPU s", f"{resume['segments']:.0e} segments", scan),
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--structures", type=int, default=10**6)
    parser.add_argument("--segments", type=int, default=10**6)
    parser.add_argument("--computed", type=int, default=3, help="structures that are computed")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.child:
        what, path, segments = asked.child
        print(json.dumps(child(what, Path(path), int(segments))))
        return 0
    backend = select_backend("cpu")
    provenance = describe(backend)
    print(introduce(provenance), flush=True)
    with tempfile.TemporaryDirectory(prefix="hpctem-scale-") as place:
        folder = Path(place)
        found: dict[str, Any] = {"layout": measure_layout(folder, asked.structures)}
        found["resume"] = measure_resume(folder, asked.segments)
        storage = measure_storage(folder)
    campaign = read_campaign(CONFIGS / f"{MODELLED}.yaml")
    experiment = Experiment(campaign.config, backend)
    structures = range(1, 1 + asked.computed)
    host = measure_host(experiment, structures)
    whole = range(campaign.config.campaign.structures)
    work = describe_work(experiment, lay_out(campaign, experiment, whole), whole)
    costs = Costs(measure_compute(experiment, structures), sum(host.values()), time_gpu(work))
    found |= {"storage": asdict(storage), "beside a GPU": host, "costs": asdict(costs)}
    found["model"] = model(partial(lay_out_campaign, MODELLED), storage, costs)
    for name in ("layout", "resume", "storage", "beside a GPU", "costs"):
        print(f"{name}: " + ", ".join(f"{key} {value:.4g}" for key, value in found[name].items()))
    print(f"assumed, not measured: {ASSUMED}\n\n{show_model(found['model'])}\n")
    print(show_limits(lay_out_campaign(MODELLED, range(10**6)), storage, costs))
    return conclude(judge(found), SCALE, provenance, asked.json, **found)


if __name__ == "__main__":
    sys.exit(main())
