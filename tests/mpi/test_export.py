"""Exports under mpirun: the same bytes at any number of ranks, one message on failure."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from launching import require_mpi

from hpctem.export.job import export
from hpctem.export.plan import Choice
from hpctem.export.sources import open_parts

SYNTHETIC = Path(__file__).with_name("synthetic.py")

# Small blocks and groups, so that every rank has several of them.
SCRIPT = """
import resource, sys
from hpctem.errors import HpctemError
from hpctem.export import job, stacks
from hpctem.export.plan import Choice
from hpctem.export.sources import open_parts
from hpctem.parallel import abort_on_error, world

stacks.BLOCK_BYTES, job.FILES_AT_ONCE = 6000, 3
communicator = world()
if len(sys.argv) > 3:
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[3]), -1))
try:
    with abort_on_error(communicator):
        for kind, compress in (
            ("hdf5", "gzip"), ("emd", "none"), ("tfrecord", "none"), ("webdataset", "gzip"),
            ("tiff", "none"), ("png", "gzip"),
        ):
            choice = Choice(kind, compress=compress, shard=7 if kind != "hdf5" else None)
            parts, origin = communicator.on_root(
                lambda: open_parts([sys.argv[1]], "dose > 200", None, None)
            )
            job.export(parts, f"{sys.argv[2]}/{kind}", choice, None, origin, communicator)
except HpctemError as error:
    sys.exit(f"hpctem: error: {error}")
"""


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("export") / "gold.hdf5"
    command = [sys.executable, SYNTHETIC, path, "structures=12", "bad=3"]
    subprocess.run(command, check=True, capture_output=True, timeout=240)
    return path


def digests(folder: Path) -> dict[str, str]:
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
    }


def test_any_number_of_ranks_gives_the_same_bytes(
    database: Path, tmp_path: Path, run_mpi: Callable
) -> None:
    require_mpi()
    command = [sys.executable, "-c", SCRIPT, database]
    subprocess.run([*command, tmp_path / "alone"], check=True, timeout=240)
    expected = digests(tmp_path / "alone")
    assert len(expected) > 100 and sum(name.startswith("tfrecord/images") for name in expected) > 3
    for ranks in (2, 3):
        done = run_mpi(ranks, *command, tmp_path / str(ranks), timeout=200)
        assert done.returncode == 0, done.stderr
        assert digests(tmp_path / str(ranks)) == expected


def test_a_full_disk_ends_all_ranks_with_one_message(
    database: Path, tmp_path: Path, run_mpi: Callable
) -> None:
    require_mpi()
    done = run_mpi(3, sys.executable, "-c", SCRIPT, database, tmp_path / "x", 20_000, timeout=240)
    assert done.returncode == 1
    assert done.stderr.count("no space is left") == 1 and "Traceback" not in done.stderr
    assert not list(tmp_path.rglob("hdf5")) and not list(tmp_path.rglob("*.hdf5"))


ONE_FAILS = """
import errno, os, signal, sys, time
from hpctem.export import job
from hpctem.export.plan import Choice
from hpctem.export.sources import open_parts
from hpctem.parallel import abort_on_error, world

job.FILES_AT_ONCE = 1
communicator, whole, written = world(), job._write_files, []

def write(*arguments):
    if communicator.rank == 1 and len(written) == 3:
        if sys.argv[3] == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        raise OSError(errno.ENOSPC, "full")
    written.append(1)
    time.sleep(0 if communicator.rank == 1 else 0.02)  # the others are still writing
    return whole(*arguments)

job._write_files = write
with abort_on_error(communicator):
    parts, origin = communicator.on_root(lambda: open_parts([sys.argv[1]], None, None, None))
    job.export(parts, sys.argv[2], Choice("png"), None, origin, communicator)
"""


def test_one_rank_that_fails_ends_all_with_one_message(
    database: Path, tmp_path: Path, run_mpi: Callable
) -> None:
    require_mpi()
    command = [sys.executable, "-c", ONE_FAILS, database, tmp_path / "x", "full"]
    done = run_mpi(3, *command, timeout=180)
    assert done.returncode == 1
    assert done.stderr.count("hpctem: ") == done.stderr.count("no space is left") == 1
    assert "Traceback" not in done.stderr and list(tmp_path.iterdir()) == []


def test_what_a_killed_rank_leaves_is_no_export(
    database: Path, tmp_path: Path, run_mpi: Callable
) -> None:
    require_mpi()
    command = [sys.executable, "-c", ONE_FAILS, database, tmp_path / "x", "killed"]
    assert run_mpi(2, *command, timeout=180).returncode != 0
    assert [path.name for path in tmp_path.iterdir()] == ["x.exporting"]
    parts, origin = open_parts([database], None, None, None)
    for name in ("x", "whole"):
        export(parts, tmp_path / name, Choice("png"), None, origin)
    assert digests(tmp_path / "x") == digests(tmp_path / "whole")
    assert not (tmp_path / "x.exporting").exists()


def test_a_wrong_format_is_told_once(database: Path, tmp_path: Path, run_mpi: Callable) -> None:
    require_mpi()
    command = [sys.executable, "-m", "hpctem", "export", database, "-o", tmp_path / "x"]
    done = run_mpi(2, *command, "--format", "tif", timeout=180)
    assert done.returncode == 2 and done.stderr.count("no format 'tif'") == 1
    done = run_mpi(2, *command, "--format", "png", "--where", "dose > 1e6", timeout=180)
    assert done.returncode == 2 and done.stderr.count("holds no images") == 1
    assert list(tmp_path.iterdir()) == []
