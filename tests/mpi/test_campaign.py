"""The main job under mpirun: one database at any number of ranks, by either writer, resumed."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from launching import find_mpirun, require_mpi
from small_campaigns import SMALL, SMALL_STEM, write_campaign

from hpctem.database.journal import journal_folder
from hpctem.database.verify import verify


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize("ranks, writer", [(1, "auto"), (2, "mpio"), (2, "pwrite"), (3, "auto")])
def test_any_number_of_ranks_and_either_writer_give_the_same_bytes(
    ranks: int, writer: str, small: Path, tmp_path: Path, run_mpi: Callable
) -> None:
    """Those of one process without MPI."""
    require_mpi(parallel_hdf5=writer == "mpio")
    path = tmp_path / "ranks.hdf5"
    command = [sys.executable, "-m", "hpctem", "simulate", SMALL, "-o", path, "--writer", writer]
    done = run_mpi(ranks, *command, timeout=240)
    assert done.returncode == 0, done.stderr
    assert sha256(path) == sha256(small)


@pytest.mark.parametrize("ranks, writer", [(2, "mpio"), (3, "pwrite")])
def test_a_stem_campaign_has_the_same_bytes_at_any_number_of_ranks(
    ranks: int, writer: str, small_stem: Path, tmp_path: Path, run_mpi: Callable
) -> None:
    require_mpi(parallel_hdf5=writer == "mpio")
    path = tmp_path / "ranks.hdf5"
    job = [sys.executable, "-m", "hpctem", "simulate", SMALL_STEM, "-o", path]
    done = run_mpi(ranks, *job, "--writer", writer, timeout=240)
    assert done.returncode == 0, done.stderr
    assert sha256(path) == sha256(small_stem)
    assert verify(path).intact


def test_a_killed_campaign_goes_on_and_ends_in_the_same_bytes(small: Path, tmp_path: Path) -> None:
    """SIGKILL of every process at three moments of the run, then the same command again."""
    require_mpi()
    path = tmp_path / "small.hdf5"
    job = [sys.executable, "-m", "hpctem", "simulate", str(SMALL), "-o", str(path)]
    command = [*find_mpirun(), "-n", "2", *job]
    kills = 0
    for committed in (1, 2, 4):
        before = _committed(path)
        with subprocess.Popen(
            command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL, start_new_session=True
        ) as process:
            deadline = time.monotonic() + 90
            while process.poll() is None and time.monotonic() < deadline:
                if _committed(path) >= max(committed, before + 1):
                    os.killpg(process.pid, signal.SIGKILL)
                    _kill_ranks(path)
                    kills += 1
                    break
                time.sleep(0.01)
        if path.exists():
            assert verify(path).intact
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    assert kills >= 1 and sha256(path) == sha256(small)


def _committed(path: Path) -> int:
    """Bytes in the journals tell how far a job is: about one commit a structure here."""
    from hpctem.database.journal import read_journals
    from hpctem.database.plan import plan_key
    from hpctem.database.reader import open_file, read_plan

    if not path.exists():
        return 0
    with open_file(path) as file:
        key = plan_key(read_plan(file))
    return len(read_journals(journal_folder(path), key).commits)


def _kill_ranks(path: Path) -> None:
    """mpirun's ranks are in sessions of their own: find them by the database on their command."""
    for process in Path("/proc").glob("[0-9]*"):
        try:
            line = (process / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if str(path).encode() in line:
            os.kill(int(process.name), signal.SIGKILL)


def test_bad_input_under_mpirun_is_told_once(tmp_path: Path, run_mpi: Callable) -> None:
    broken = tmp_path / "broken.yaml"
    broken.write_text(SMALL.read_text().replace("200 keV", "200"))
    done = run_mpi(3, sys.executable, "-m", "hpctem", "simulate", broken, timeout=180)
    assert done.returncode == 2
    assert done.stderr.count("200 has no unit") == 1 and "Traceback" not in done.stderr


def test_preview_under_mpirun_draws_one_sheet(tmp_path: Path, run_mpi: Callable) -> None:
    command = [sys.executable, "-m", "hpctem", "preview", SMALL, "-n", "4", "-o", "sheet.png"]
    done = run_mpi(2, *command, cwd=tmp_path, timeout=240)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("contact sheet") == 1 and (tmp_path / "sheet.png").stat().st_size > 1e4


def test_input_files_are_read_on_every_rank(tmp_path: Path, run_mpi: Callable) -> None:
    """ASE reads on all ranks together unless told otherwise, and would wait for ranks elsewhere."""
    from ase import Atoms
    from ase.build import bulk
    from ase.io import write

    write(tmp_path / "POSCAR", bulk("Au", a=4.08265, cubic=True), format="vasp")
    film = Atoms("C45", cell=[12, 12, 20], pbc=True)
    film.positions = 4.0 * np.indices((3, 3, 5)).reshape(3, -1).T
    write(tmp_path / "film.xyz", film, format="extxyz")
    write_campaign(
        tmp_path,
        ("{lattice: fcc, elements: [Au], a: 4.08265 A}", "{file: POSCAR}"),
        ("substrate: {thickness", "substrate: {tile: film.xyz, thickness"),
        name="files.yaml",
    )
    command = [sys.executable, "-m", "hpctem", "simulate", "files.yaml", "-o"]
    shas = []
    for ranks in (1, 2):
        done = run_mpi(ranks, *command, f"{ranks}.hdf5", cwd=tmp_path, timeout=240)
        assert done.returncode == 0, done.stderr
        shas.append(sha256(tmp_path / f"{ranks}.hdf5"))
    assert shas[0] == shas[1]
