"""How fast a database of a million images is curated, beside other ways to store the same tables.

    python tests/benchmarks/million.py FOLDER [--rows 1000000] [--json FILE] [--no-others]

makes FOLDER/million.hdf5 (once, in a minute or two: see generated.py) and measures it. Commands are
timed as commands, from the start of Python to its end; their peak memory is that of the process.
Everything is read warm, from the page cache. Each figure is the best of several runs, by the clock
and by the processor's time: on a busy machine only the latter means something. Ten million rows
(--rows 10000000) take ten minutes and 5 GiB to make.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from hpctem.database.reader import Database, open_database

STRUCTURES = 50_000
CONDITION = (
    "dose >= 600 AND defocus_exit BETWEEN -300 AND 300 "
    "AND substrate_thickness < 50 AND mean_radius > 25"
)
NAMES = ("dose", "defocus_exit", "substrate_thickness", "mean_radius")
STRATA = "substrate_thickness:20,35,50,65,80"
DRAWN = 10_000
SAMPLE = 1000
PIXELS, PIXEL_STRUCTURES, PIXEL_ROWS = 512, 30, 600
Times = dict[str, dict[str, Any]]


def make(path: Path, rows: int, structures: int, pixels: int) -> None:
    """Make a database that is missing, in a process of its own."""
    if path.exists():
        return
    started = time.perf_counter()
    code = f"from generated import *; generate(Path({str(path)!r}), {rows}, {structures}, {pixels})"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parent)
    print(f"{path} made in {time.perf_counter() - started:.0f} s", flush=True)


@dataclass(frozen=True)
class Cost:
    """Seconds by the clock and of the processor, best of several; peak memory in MiB or 0."""

    wall: float
    cpu: float
    peak: float = 0.0


def best(work: Callable[[], Any], repeats: int = 7) -> Cost:
    """What some work costs in this process; a first run warms."""
    work()
    walls, cpus = [], []
    for _ in range(repeats):
        wall, cpu = time.perf_counter(), time.process_time()
        work()
        walls.append(time.perf_counter() - wall)
        cpus.append(time.process_time() - cpu)
    return Cost(min(walls), min(cpus))


def run(*words: object, repeats: int = 5) -> tuple[Cost, str]:
    """What a command costs from the start of Python to its end, and what it printed."""
    costs, said = [], ""
    for _ in range(repeats):
        started = time.perf_counter()
        with subprocess.Popen([sys.executable, *map(str, words)], stdout=subprocess.PIPE) as child:
            assert child.stdout is not None
            said = child.stdout.read().decode()
            _, status, used = os.wait4(child.pid, 0)
            child.returncode = os.waitstatus_to_exitcode(status)
        if child.returncode:
            raise SystemExit(f"{words} ended with {child.returncode}")
        wall = time.perf_counter() - started
        costs.append(Cost(wall, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024))
    return Cost(
        min(c.wall for c in costs), min(c.cpu for c in costs), max(c.peak for c in costs)
    ), said


def hpctem(*words: object) -> tuple[Cost, str]:
    return run("-m", "hpctem", *words)


def expect_rows(database: Database) -> np.ndarray:
    """The file rows that the condition chooses, by NumPy."""
    dose, defocus, thickness, radius = (database.column(name, "images") for name in NAMES)
    chosen = (dose >= 600) & (defocus >= -300) & (defocus <= 300)
    return database.rows("images")[chosen & (thickness < 50) & (radius > 25)]


def measure_curation(path: Path) -> Times:
    """The commands, and the same from Python."""
    found: Times = {}

    def tell(name: str, cost: Cost) -> None:
        found[name] = asdict(cost)
        peak = f" {cost.peak:8.0f} MiB" if cost.peak else ""
        print(f"  {name:36} {cost.wall:8.3f} s, CPU {cost.cpu:6.3f} s{peak}", flush=True)

    # Commands first: a process counts the memory of the one that started it as its own.
    tell("hpctem info", hpctem("info", path)[0])
    cost, said = hpctem("query", path, "--where", CONDITION, "--count")
    tell("hpctem query --count", cost)
    target = path.with_suffix(".subset.json")
    options = ["--where", "dose = 600", "--stratify", STRATA, "--sample", DRAWN]
    options += ["--split", "train=0.75,validation=0.25"]
    tell("hpctem subset, stratified", hpctem("subset", path, "-o", target, *options)[0])
    import hpctem as package

    with open_database(path) as database:
        expected = expect_rows(database)
    if int(said) != len(expected):
        raise SystemExit("the command does not count the rows that NumPy does")
    tell("open_database", best(lambda: open_database(path)))
    tell("hpctem.open", best(lambda: package.open(path)))
    opened = package.open(path)
    chosen = opened.where(CONDITION)
    if not np.array_equal(np.sort(chosen.rows), expected):
        raise SystemExit("the query does not choose the rows that NumPy does")
    tell("four-condition query", best(lambda: opened.where(CONDITION)))
    check_subset(path, target)
    random = np.random.default_rng(1)
    sample = random.choice(len(opened.rows), SAMPLE, replace=False)
    with open_database(path) as database:
        rows = database.rows("images")[sample]
        fields = [f for f in database.layout.fields_of("images") if not f.shape]
        tell(
            f"{SAMPLE} random rows of {len(fields)} columns",
            best(lambda: [database.column(f.path, rows=rows) for f in fields]),
        )
        pixels = database.images.shape[-1]
        tell(f"{SAMPLE} random images of {pixels} px", best(lambda: database.images[sample]))
    return found


def check_subset(path: Path, target: Path) -> None:
    """Raise SystemExit unless the subset is what was asked for."""
    import hpctem as package

    parts = [package.open(path, subset=target, part=part) for part in ("train", "validation")]
    thickness = np.concatenate([part.column("substrate_thickness") for part in parts])
    counts = np.histogram(thickness, [20, 35, 50, 65, 80])[0]
    dose = np.concatenate([part.column("dose") for part in parts])
    structures = [set(part.column("structure_id").tolist()) for part in parts]
    if (counts != DRAWN // 4).any() or (dose != 600).any() or structures[0] & structures[1]:
        raise SystemExit("the subset is not what was asked for")


def measure_reads(folder: Path) -> Times:
    """Images of 512 px: rows read at random and one after the other, against the raw calls."""
    path = folder / "pixels.hdf5"
    make(path, PIXEL_ROWS, PIXEL_STRUCTURES, PIXELS)
    with open_database(path) as database:
        images = database.images
        size = images.dtype.itemsize * PIXELS**2
        start = database.offsets["/entry/images/intensity"]
    order = np.random.default_rng(2).permutation(len(images))
    places = [start + int(row) * size for row in images.rows[order]]
    batches = np.array_split(order, len(order) // 32)
    descriptor = os.open(path, os.O_RDONLY)
    file = h5py.File(path, "r")
    dataset = file["/entry/images/intensity"]
    starts = range(0, len(images), 32)

    def fill_batch(batch: np.ndarray) -> np.ndarray:
        """Rows into new memory, which costs more than the reading: what any batch must do."""
        values = np.empty((len(batch), PIXELS, PIXELS), images.dtype)
        for value, row in zip(values, images.rows[batch], strict=True):
            os.preadv(descriptor, [value], start + int(row) * size)
        return values

    # Nothing is kept, as in training: memory is used again.
    runs = {
        "pread, random": lambda: [os.pread(descriptor, size, p) and None for p in places],
        "hpctem, random": lambda: [images[i].size for i in order],
        "hpctem, random batches of 32": lambda: [images[batch].size for batch in batches],
        "preadv, the same batches": lambda: [fill_batch(batch).size for batch in batches],
        "h5py, random": lambda: [dataset[row].size for row in images.rows[order]],
        "pread, in order": lambda: [os.pread(descriptor, size, p) and None for p in sorted(places)],
        "hpctem, in order": lambda: [images[i].size for i in range(len(images))],
        "hpctem, in order by 32": lambda: [images[i : i + 32].size for i in starts],
    }
    # Warm reads cost the processor, not the disk; its time does not count what else runs.
    seconds = dict.fromkeys(runs, float("inf"))
    for _ in range(9):
        for name, work in runs.items():
            started = time.process_time()
            work()
            seconds[name] = min(seconds[name], time.process_time() - started)
    os.close(descriptor)
    file.close()
    found: Times = {}
    for name, value in seconds.items():
        share = seconds["pread, " + ("in order" if "in order" in name else "random")] / value
        found[name] = {
            "gib_per_s": len(images) * size / value / 2**30,
            "of_pread": share,
        }
        print(f"  {name:44} {found[name]['gib_per_s']:8.2f} GiB/s {share:8.0%} of pread")
    return found


def measure_others(path: Path, folder: Path) -> Times:
    """The same query and the same random rows from flat tables of the same columns."""
    import duckdb
    import pandas
    import pyarrow
    import pyarrow.dataset
    import pyarrow.parquet
    import tables

    with open_database(path) as database:
        expected = expect_rows(database)
        columns = {"row": database.rows("images")}
        for item in database.layout.fields_of("images"):
            if not item.shape:
                columns[item.name] = database.column(item.path)
        for name in NAMES[2:]:
            columns[name] = database.column(name, "images")
    count = len(columns["row"])
    sample = np.sort(np.random.default_rng(1).choice(count, SAMPLE, replace=False))
    found: Times = {}

    def tell(name: str, file: Path, query: Callable[[], Any], take: Callable[[], Any]) -> None:
        if not np.array_equal(np.sort(np.asarray(query())), expected):
            raise SystemExit(f"{name} does not choose the rows that NumPy does")
        times = best(query, 3), best(take, 3)
        found[name] = {
            "query": asdict(times[0]),
            "rows": asdict(times[1]),
            "mib": file.stat().st_size / 2**20,
        }
        print(
            f"  {name:18} query {times[0].wall:6.3f} s, CPU {times[0].cpu:6.3f} s; "
            f"{SAMPLE} rows {times[1].wall:6.3f} s, CPU {times[1].cpu:6.3f} s; "
            f"file {found[name]['mib']:4.0f} MiB",
            flush=True,
        )

    frame = pandas.DataFrame(columns)
    numbers = (
        "dose >= 600 & defocus_exit >= -300 & defocus_exit <= 300"
        " & substrate_thickness < 50 & mean_radius > 25"
    )
    stored = folder / "pandas.h5"
    frame.to_hdf(stored, key="t", format="table", data_columns=["row", *NAMES], index=False)
    with pandas.HDFStore(stored, "r") as store:
        tell(
            "pandas HDFStore",
            stored,
            lambda: store.select("t", numbers, columns=["row"])["row"],
            lambda: store.select("t", where=sample),
        )
    plain = folder / "pytables.h5"
    kinds = np.dtype([(name, values.dtype) for name, values in columns.items()])
    with tables.open_file(str(plain), "w") as file:
        table = file.create_table("/", "t", kinds, expectedrows=count)
        records = np.empty(count, kinds)
        for name, values in columns.items():
            records[name] = values
        table.append(records)
        del records
    written = numbers.replace(" & ", ") & (")
    with tables.open_file(str(plain), "r") as file:
        table = file.root.t
        tell(
            "PyTables",
            plain,
            lambda: table.read_where(f"({written})", field="row"),
            lambda: table.read_coordinates(sample),
        )
    parquet = folder / "table.parquet"
    pyarrow.parquet.write_table(pyarrow.table(columns), parquet)
    del frame, columns
    data = pyarrow.dataset.dataset(parquet)
    field = pyarrow.dataset.field
    chosen = (
        (field("dose") >= 600)
        & (field("defocus_exit") >= -300)
        & (field("defocus_exit") <= 300)
        & (field("substrate_thickness") < 50)
        & (field("mean_radius") > 25)
    )
    tell(
        "Parquet, pyarrow",
        parquet,
        lambda: data.to_table(["row"], chosen)["row"],
        lambda: data.take(sample),
    )
    connection = duckdb.connect(config={"threads": 1})
    connection.register("wanted", pyarrow.table({"place": sample}))
    tell(
        "Parquet, DuckDB",
        parquet,
        lambda: connection.sql(f"SELECT row FROM '{parquet}' WHERE {CONDITION}").fetchnumpy()[
            "row"
        ],
        lambda: connection.sql(
            f"SELECT * FROM '{parquet}' JOIN wanted ON file_row_number = place"
        ).fetchnumpy(),
    )
    return found


def main() -> None:
    """Make what is missing, measure, print; with --json also write it."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rows", type=int, default=10**6)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--no-others", action="store_true", help="Only hpctem.")
    options = parser.parse_args()
    million = options.rows <= 10**6
    path = options.folder / ("million.hdf5" if options.rows == 10**6 else f"{options.rows}.hdf5")
    make(path, options.rows, STRUCTURES, 8 if million else 2)
    print(f"{path}: {options.rows} rows, {path.stat().st_size / 2**20:.0f} MiB")
    found = {"curation": measure_curation(path)}
    if million:
        print(f"images of {PIXELS} px:")
        found["reads"] = measure_reads(options.folder)
    if million and not options.no_others:
        print("the same columns in other stores:")
        found["others"] = measure_others(path, options.folder)
    if options.json:
        options.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
