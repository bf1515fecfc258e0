"""hpctem doctor tells what works from what is missing and what is broken.

Broken libraries are stood in for by modules put before the real ones on the path: they crash, hang
or lie in processes of their own, as real ones do.
"""

from __future__ import annotations

import dataclasses
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hpctem.doctor import Check, can_simulate, diagnose, examine, format_report
from hpctem.examinations import EXAMINATIONS


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Put a module of the given name and source before the real one."""

    def install(name: str, source: str) -> None:
        path = tmp_path / "modules" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source)
        monkeypatch.setenv("PYTHONPATH", str(tmp_path / "modules"))

    return install


def test_this_machine_can_simulate(tmp_path: Path) -> None:
    checks = diagnose(tmp_path)
    assert [check.name for check in checks] == list(EXAMINATIONS)
    assert can_simulate(checks), format_report(checks)
    assert list(tmp_path.iterdir()) == [], "the examinations leave nothing behind"


@pytest.mark.mpi
def test_mpi_and_parallel_hdf5_are_met(tmp_path: Path) -> None:
    checks = {name: examine(EXAMINATIONS[name], tmp_path) for name in ("mpi", "parallel HDF5")}
    for name, check in checks.items():
        if check.state == "missing":
            pytest.skip(f"{name}: {check.detail}")
        assert check.state == "ok", check
    assert "two ranks met" in checks["mpi"].detail
    assert checks["parallel HDF5"].detail.count("two ranks wrote one file") == 1


@pytest.mark.mpi
def test_inside_a_job_the_examination_is_a_job_of_its_own(run_mpi, tmp_path: Path) -> None:
    code = """
from pathlib import Path
from mpi4py import MPI
from hpctem.doctor import EXAMINATIONS, examine
print("found:", examine(EXAMINATIONS["mpi"], Path(".")).state)
"""
    answer = run_mpi(1, sys.executable, "-c", code, cwd=tmp_path)
    assert "found: ok" in answer.stdout, answer.stdout + answer.stderr


@pytest.mark.parametrize(
    ("source", "detail"),
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "ended without a word"),
        ("raise ImportError('libLLVM.so: cannot open')", "ImportError: libLLVM.so: cannot open"),
        ("__version__ = '0'\ndef njit(f): return lambda n: 1", "RuntimeError: numba 0 adds wrong"),
    ],
    ids=["crashes", "cannot be imported", "computes wrongly"],
)
def test_a_broken_library_is_reported(install, tmp_path: Path, source: str, detail: str) -> None:
    install("numba.py", source)
    check = examine(EXAMINATIONS["compiler"], tmp_path)
    assert check.state == "broken"
    assert check.detail.startswith(detail)
    assert check.advice
    assert not can_simulate([check])


def test_a_hanging_library_is_ended(install, tmp_path: Path) -> None:
    install("numba.py", "import time; time.sleep(600)")
    start = time.monotonic()
    check = examine(dataclasses.replace(EXAMINATIONS["compiler"], timeout=1), tmp_path)
    assert (check.state, check.detail) == ("broken", "no answer in 1 s")
    assert time.monotonic() - start < 20


def test_a_missing_package_is_named(install, tmp_path: Path) -> None:
    install("pydantic.py", "raise ModuleNotFoundError(\"No module named 'pydantic'\")")
    check = examine(EXAMINATIONS["packages"], tmp_path)
    assert check.state == "missing"
    assert "pydantic" in check.detail
    assert "pip install" in check.advice
    assert not can_simulate([check])


def test_a_launcher_of_another_mpi_is_reported(install, tmp_path: Path) -> None:
    """Such a launcher starts two ranks that each believe they are alone."""
    install("mpi4py/__init__.py", "")
    install(
        "mpi4py/MPI.py",
        "class COMM_WORLD:\n    size, rank = 1, 0\n"
        "def Get_library_version(): return 'Other MPI v1.0, package'\n",
    )
    check = examine(EXAMINATIONS["mpi"], tmp_path)
    if check.state == "missing":
        pytest.skip(check.detail)
    assert check.state == "broken"
    assert "Other MPI v1.0 are of different MPIs" in check.detail
    assert not check.needed, "a campaign also runs in one process"


def test_h5py_without_mpi_is_no_fault(install, tmp_path: Path) -> None:
    install(
        "h5py.py",
        "__version__ = '3'\nclass get_config:\n    mpi = False\n",
    )
    check = examine(EXAMINATIONS["parallel HDF5"], tmp_path)
    assert check.state == "missing"
    assert not check.needed


def test_a_folder_that_cannot_be_written_is_reported(tmp_path: Path) -> None:
    for folder in (Path("/proc"), tmp_path / "nowhere"):
        check = examine(EXAMINATIONS["disk"], folder)
        assert check.state == "broken"
        assert str(folder) in check.detail or "No such file" in check.detail
        assert not can_simulate([check])


def test_the_report_says_what_to_do() -> None:
    fine = Check("python", "ok", "3.11", needed=True)
    optional = Check("gpu", "missing", "no driver", "use the CPU")
    fatal = Check("disk", "broken", "full", "delete something", needed=True)
    assert "can run here" in format_report([fine, optional])
    assert "use the CPU" in format_report([fine, optional])
    assert "cannot run here: see disk" in format_report([fine, optional, fatal])


def test_the_command_prints_the_report(tmp_path: Path) -> None:
    answer = subprocess.run(
        [Path(sys.executable).with_name("hpctem"), "doctor"],
        text=True,
        capture_output=True,
        cwd=tmp_path,
        check=False,
    )
    assert answer.returncode == 0, answer.stdout + answer.stderr
    assert "The main job, `hpctem simulate`, can run here." in answer.stdout
