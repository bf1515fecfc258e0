"""What every test shares: one thread per process, markers by folder, an mpirun that works here.

Imports only what every machine has, so that tests/gpu also runs where little else is installed.
"""

from __future__ import annotations

import functools
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

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
}
for _name, _value in ENVIRONMENT.items():
    os.environ.setdefault(_name, _value)

TESTS = Path(__file__).parent
NEVER_SKIPPED = ("mpi", "learning")
IN_CI = os.environ.get("CI", "").lower() in ("1", "true", "yes")

try:
    from hypothesis import settings
except ImportError:
    pass
else:
    # The same examples on every run: a suite that fails at random teaches nobody anything.
    settings.register_profile("hpctem", derandomize=True, deadline=None, max_examples=50)
    settings.load_profile("hpctem")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark everything under tests/mpi, learning and gpu, so that no file can forget to."""
    for item in items:
        folder = item.path.relative_to(TESTS).parts[0] if item.path.is_relative_to(TESTS) else ""
        if folder in ("mpi", "learning", "gpu"):
            item.add_marker(folder)


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
    """Under CI=true a skipped MPI or Horovod test fails: there the machine must have both."""
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
    report.longrepr = f"CI=true and a test of MPI or learning was skipped: {reason}"


@pytest.fixture
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
