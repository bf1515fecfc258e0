"""What every test shares: one thread per process, markers by folder, an mpirun that works here.

Also how the processes of pytest-xdist get on: their order, what they make once, who runs alone.

Imports only what every machine has, so that tests/gpu also runs where little else is installed.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from small_campaigns import SMALL, SMALL_STEM, simulate

from hpctem.examinations import find_launcher

# Before numpy, MKL or MPI are imported by any test, and inherited by every process a test starts.
ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "NUMBA_NUM_THREADS": "1",
    "MPLBACKEND": "Agg",
    "HDF5_USE_FILE_LOCKING": "FALSE",
    # Open MPI 4 and 5: the suite runs as root in containers and starts more ranks than cores.
    "OMPI_ALLOW_RUN_AS_ROOT": "1",
    "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
    "OMPI_MCA_rmaps_base_oversubscribe": "1",
    "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe",
    # Ranks that wait leave their core to what runs beside them.
    "OMPI_MCA_mpi_yield_when_idle": "1",
}
for _name, _value in ENVIRONMENT.items():
    os.environ.setdefault(_name, _value)

TESTS = Path(__file__).parent
NEVER_SKIPPED = ("mpi", "slurm", "learning")
# Long tests first, so that short ones fill the end.
FOLDERS = ("slurm", "mpi", "faults", "cli", "physics", "unit", "gpu", "learning")
IN_CI = os.environ.get("CI", "").lower() in ("1", "true", "yes")

try:
    from hypothesis import settings
except ImportError:
    pass
else:
    # The same examples on every run: a suite that fails at random teaches nobody anything.
    settings.register_profile("hpctem", derandomize=True, deadline=None, max_examples=50)
    settings.load_profile("hpctem")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slow", action="store_true", help="also run tests that are marked slow")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark all under tests/mpi, slurm, learning and gpu, so that no file can forget to; sort."""
    slow = [item for item in items if item.get_closest_marker("slow") is not None]
    if slow and not config.getoption("--slow"):
        config.hook.pytest_deselected(items=slow)
        items[:] = [item for item in items if item not in slow]
    for item in items:
        if (folder := folder_of(item)) in (*NEVER_SKIPPED, "gpu"):
            item.add_marker(folder)
    places = {folder: place for place, folder in enumerate(FOLDERS)}
    items.sort(key=lambda item: (not is_alone(item), places.get(folder_of(item), len(FOLDERS))))


def folder_of(item: pytest.Item) -> str:
    """The folder under tests/ that holds the test; nothing for a test from elsewhere."""
    return item.path.relative_to(TESTS).parts[0] if item.path.is_relative_to(TESTS) else ""


def is_alone(item: pytest.Item) -> bool:
    return item.get_closest_marker("alone") is not None


def find_common_folder(config: pytest.Config) -> Path | None:
    """The folder that the processes of pytest-xdist share; None where one runs all tests."""
    return Path(config.option.basetemp).parent if hasattr(config, "workerinput") else None


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    with open(path, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


ROOM = pytest.StashKey[IO[str]]()
KEPT = pytest.StashKey[bool]()


def pytest_configure(config: pytest.Config) -> None:
    if (common := find_common_folder(config)) is not None:
        config.stash[ROOM] = open(common / "room.lock", "w")  # closed when the process ends
        config.stash[KEPT] = False


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item, nextitem: pytest.Item | None) -> Iterator[bool]:
    """A test marked `alone` runs while no other process runs one; all others side by side.

    Who waits for the room holds the door, so that nobody enters before; a process keeps the room
    for the next of its tests that is alone.
    """
    if (common := find_common_folder(item.config)) is None:
        return (yield)
    room, alone = item.config.stash[ROOM], is_alone(item)
    if not item.config.stash[KEPT]:
        with locked(common / "door.lock"):
            fcntl.flock(room, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
    try:
        return (yield)
    finally:
        kept = alone and nextitem is not None and is_alone(nextitem)
        item.config.stash[KEPT] = kept
        if not kept:
            fcntl.flock(room, fcntl.LOCK_UN)


@pytest.fixture(scope="session")
def make_once(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str, Callable[[Path], None]], Path]:
    """A folder that the first process to ask for it fills: `make_once("small", fill)`."""

    def make(name: str, fill: Callable[[Path], None]) -> Path:
        common = find_common_folder(request.config)
        if common is None:
            folder = tmp_path_factory.mktemp(name)
            fill(folder)
            return folder
        folder, made = common / name, common / f"{name}.made"
        with locked(common / f"{name}.lock"):
            if not made.exists():
                shutil.rmtree(folder, ignore_errors=True)
                folder.mkdir()
                fill(folder)
                made.touch()
        return folder

    return make


@pytest.fixture(scope="session")
def small(make_once: Callable[[str, Callable[[Path], None]], Path]) -> Path:
    """The finished database of the small campaign; tests only read it, all processes at once."""
    return make_once("small", lambda folder: simulate(SMALL, folder)) / "small.hdf5"


@pytest.fixture(scope="session")
def small_stem(make_once: Callable[[str, Callable[[Path], None]], Path]) -> Path:
    """The same of the small STEM campaign."""
    folder = make_once("small_stem", lambda folder: simulate(SMALL_STEM, folder))
    return folder / "small_stem.hdf5"


@functools.cache
def find_gpu() -> str:
    """Say why no GPU can be used here, or nothing when one can."""
    try:
        import cupy
    except ImportError:
        return "CuPy is not installed"
    try:
        count = cupy.cuda.runtime.getDeviceCount()
    except cupy.cuda.runtime.CUDARuntimeError as error:
        return f"no CUDA device: {error}"
    return "" if count else "no CUDA device"


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("gpu") is not None and (reason := find_gpu()):
        pytest.skip(reason)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """Under CI=true a skipped MPI, Slurm or Horovod test fails: there the machine must have all."""
    report = yield
    if IN_CI and report.skipped and not hasattr(report, "wasxfail"):
        if any(item.get_closest_marker(name) is not None for name in NEVER_SKIPPED):
            fail_skipped(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector: pytest.Collector) -> Iterator[None]:
    """The same for a whole module that skips itself, as `pytest.importorskip` does."""
    report = yield
    if IN_CI and report.skipped:
        if any(collector.path.is_relative_to(TESTS / name) for name in NEVER_SKIPPED):
            fail_skipped(report)
    return report


def fail_skipped(report: pytest.TestReport | pytest.CollectReport) -> None:
    reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
    report.outcome = "failed"
    report.longrepr = f"CI=true and a test of MPI, Slurm or learning was skipped: {reason}"


@pytest.fixture(scope="session")
def run_mpi() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run a command at n ranks: `run_mpi(2, sys.executable, "script.py", timeout=60)`.

    Returns the CompletedProcess with its output as text and does not check the exit status. After
    `timeout` seconds the job is ended and subprocess.TimeoutExpired raised with what it printed.
    """
    launcher = find_launcher()
    if launcher is None:
        pytest.skip("no mpirun on this machine")

    def run(
        ranks: int, *command: str | Path, timeout: float = 120, **options
    ) -> subprocess.CompletedProcess[str]:
        line = [launcher, "-n", str(ranks), *map(str, command)]
        # Python's own view of the environment: without what an MPI in this process put into C's.
        options.setdefault("env", dict(os.environ))
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        with subprocess.Popen(line, text=True, **pipes, **options) as job:
            try:
                out, err = job.communicate(timeout=timeout)
            except subprocess.TimeoutExpired as error:
                job.terminate()  # SIGTERM, for mpirun takes its ranks along only when it can act
                try:
                    out, err = job.communicate(timeout=10)
                except subprocess.TimeoutExpired:
                    job.kill()
                    out, err = job.communicate()
                raise subprocess.TimeoutExpired(line, timeout, out, err) from error
        return subprocess.CompletedProcess(line, job.returncode, out, err)

    return run
