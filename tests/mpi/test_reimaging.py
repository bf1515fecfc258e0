"""Imaging and repairing under mpirun: the same bytes at any number of ranks, and after kills."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from os import killpg
from pathlib import Path

import pytest
from launching import find_mpirun, require_mpi, sha256
from small_campaigns import SMALL, write_campaign
from test_campaign import _committed, _kill_ranks

from hpctem.database.reader import open_database
from hpctem.database.verify import verify
from hpctem.database.writer import read_offsets

HPCTEM = (sys.executable, "-m", "hpctem")


@pytest.fixture(scope="module")
def folder(small: Path, make_once: Callable[..., Path]) -> Path:
    """The small campaign, simulated and imaged again with a camera that blurs, by one process."""

    def fill(folder: Path) -> None:
        old = "  defocus_reference: cell_centre\n"
        new = old + "  detector: {mtf: {c1: 0.1, c2: 0.2, c3: 1.5}, readout_noise: 2}\n"
        write_campaign(folder, (old, new), name="camera.yaml")
        copy_of(small, folder / "small.hdf5")
        for command in (
            ("simulate", "camera.yaml", "-o", "camera.hdf5"),
            ("image", "small.hdf5", str(SMALL), "-o", "child.hdf5"),
            ("image", "small.hdf5", "camera.yaml", "-o", "blurred.hdf5"),
        ):
            subprocess.run((*HPCTEM, *command), check=True, cwd=folder, timeout=240)

    return make_once("imaged", fill)


def rows_of(path: Path) -> list[bytes]:
    with open_database(path) as database:
        return [database.images[:].tobytes(), database.labels[:].tobytes()] + [
            database.column(item.path).tobytes() for item in database.layout.fields_of("images")[2:]
        ]


@pytest.mark.parametrize("ranks", [1, 2, 3])
@pytest.mark.parametrize(
    "parent, campaign, child",
    [("small", SMALL, "child"), ("small", Path("camera.yaml"), "blurred")],
)
def test_images_do_not_depend_on_the_number_of_ranks(
    ranks: int,
    parent: str,
    campaign: Path,
    child: str,
    folder: Path,
    tmp_path: Path,
    run_mpi: Callable,
) -> None:
    """Those of counting and other cameras, and both are what a simulation gives."""
    require_mpi()
    path = tmp_path / "child.hdf5"
    command = (*HPCTEM, "image", f"{parent}.hdf5", campaign, "-o", path)
    done = run_mpi(ranks, *command, cwd=folder, timeout=240)
    assert done.returncode == 0, done.stderr
    assert sha256(path) == sha256(folder / f"{child}.hdf5")
    simulated = "small" if child == "child" else "camera"
    assert rows_of(path) == rows_of(folder / f"{simulated}.hdf5")


def copy_of(path: Path, target: Path) -> Path:
    shutil.copytree(f"{path}.journal", f"{target}.journal")
    return Path(shutil.copy(path, target))


def damage(path: Path) -> None:
    """A bit in the images of structures 0, 2 and 4, and the beginning of the file."""
    with open_database(path) as database:
        offset = read_offsets(path, database.layout)["/entry/images/intensity"]
    with open(path, "r+b") as stream:
        stream.write(b"\0\0\0\0")
        for row in (1, 9, 16):
            stream.seek(offset + row * 96 * 96 * 2)
            stream.write(b"\xff\xff")


@pytest.mark.parametrize("ranks", [2, 3])
def test_repair_on_several_ranks_gives_the_same_bytes(
    ranks: int, folder: Path, tmp_path: Path, run_mpi: Callable
) -> None:
    require_mpi()
    path = copy_of(folder / "small.hdf5", tmp_path / "small.hdf5")
    damage(path)
    found = run_mpi(ranks, *HPCTEM, "verify", path, folder / "child.hdf5", timeout=180)
    assert found.returncode == 1
    assert found.stdout.count("3 bad") == 1 and found.stdout.count(" 0 bad") == 1
    assert f"hpctem simulate CONFIG -o {path} --repair" in found.stdout
    done = run_mpi(ranks, *HPCTEM, "simulate", SMALL, "-o", path, "--repair", timeout=240)
    assert done.returncode == 0, done.stderr
    assert "3 rows are damaged; the 3 segments" in done.stderr
    assert sha256(path) == sha256(folder / "small.hdf5")
    assert run_mpi(ranks, *HPCTEM, "verify", path, timeout=180).returncode == 0


def strike(command: tuple[str | Path, ...], path: Path, reached: Callable[[], bool]) -> bool:
    """Start the job at two ranks and SIGKILL all of it once `reached`; whether it was alive."""
    line = [*find_mpirun(), "-n", "2", *map(str, command)]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(line, start_new_session=True, **quiet) as job:
        deadline = time.monotonic() + 60
        while job.poll() is None and time.monotonic() < deadline:
            if reached():
                killpg(job.pid, signal.SIGKILL)
                _kill_ranks(path)
                return True
            time.sleep(0.002)
    return False


def test_killed_imaging_goes_on_and_ends_in_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    require_mpi()
    path = tmp_path / "child.hdf5"
    command = (*HPCTEM, "image", folder / "small.hdf5", SMALL, "-o", path)
    kills = 0
    for wanted in (0, 1, 3):
        kills += strike(command, path, lambda: path.exists() and _committed(path) >= wanted)  # noqa: B023
        if path.exists():
            assert not verify(path).damaged
    line = [*find_mpirun(), "-n", "2", *map(str, command)]
    done = subprocess.run(line, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    assert kills >= 1 and sha256(path) == sha256(folder / "child.hdf5")


def test_killed_repair_goes_on_and_ends_in_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    """What it has found bad is known as such; what it has not, the next repair finds."""
    require_mpi()
    path = copy_of(folder / "child.hdf5", tmp_path / "child.hdf5")
    damage(path)
    marker = Path(f"{path}.journal", "COMPLETE")
    journal = Path(f"{path}.journal")
    runs = len(list(journal.glob("*[0-9].journal")))
    command = (
        *(*HPCTEM, "image", folder / "small.hdf5", SMALL),
        *("-o", path, "--repair"),
    )
    kills = strike(command, path, lambda: (journal / "lock").exists())
    kills += strike(command, path, lambda: not marker.exists())
    kills += strike(
        command, path, lambda: len(list(journal.glob("*.0000[01].journal"))) not in (0, runs)
    )
    found = verify(path)
    assert found.damaged or not found.complete or sha256(path) == sha256(folder / "child.hdf5")
    line = [*find_mpirun(), "-n", "2", *map(str, command)]
    done = subprocess.run(line, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    assert kills >= 1 and sha256(path) == sha256(folder / "child.hdf5")
    assert verify(path).intact


def test_a_damaged_parent_ends_all_ranks_with_one_message(
    folder: Path, tmp_path: Path, run_mpi: Callable
) -> None:
    require_mpi()
    parent = copy_of(folder / "small.hdf5", tmp_path / "parent.hdf5")
    with open_database(parent) as database:
        item = database.field("/entry/waves/exit_wave")
        place = read_offsets(parent, database.layout)[item.path] + 4 * item.row_bytes
    with open(parent, "r+b") as stream:
        stream.seek(place)
        stream.write(b"\xff\xff\xff\xff")
    done = run_mpi(2, *HPCTEM, "image", parent, SMALL, "-o", tmp_path / "c.hdf5", timeout=180)
    assert done.returncode == 1
    assert done.stderr.count("row 4 of waves is not what was computed") == 1, done.stderr
    assert done.stderr.count("hpctem: error") == 1 and "Traceback" not in done.stderr
