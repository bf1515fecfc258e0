"""A published set brought into a database by several ranks."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from launching import find_mpirun, require_mpi
from published_sets import write_groschner

CONFIG = Path(__file__).parents[2] / "configs/public_au_5nm.yaml"


def test_two_ranks_give_the_file_of_one_and_one_message(tmp_path: Path) -> None:
    require_mpi()
    write_groschner(tmp_path)
    words = [sys.executable, "-m", "hpctem", "import", str(CONFIG), str(tmp_path)]
    launcher = [*find_mpirun(), "-n", "2"]
    for launched, name in (([], "one.hdf5"), (launcher, "two.hdf5")):
        command = [*launched, *words, "-o", str(tmp_path / name)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=240)
        assert done.returncode == 0, done.stderr
    assert (tmp_path / "one.hdf5").read_bytes() == (tmp_path / "two.hdf5").read_bytes()
    (tmp_path / "Au_Bal_unFilt_cutimages_20190423_maps.h5").unlink()
    command = [*launcher, *words, "-o", str(tmp_path / "three.hdf5")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert done.returncode == 2 and done.stderr.count("stack.labels.file") == 1
    assert not (tmp_path / "three.hdf5").exists()
