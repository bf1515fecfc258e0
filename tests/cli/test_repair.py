"""`hpctem verify`, `simulate --repair` and `image` as commands: what they say and how they end."""

from __future__ import annotations

import hashlib
import shlex
from collections.abc import Callable
from pathlib import Path

from hpctem.database.reader import open_database

SMALL = Path(__file__).parents[1] / "small.yaml"


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def damage(path: Path, row: int) -> None:
    """Other pixels in an image row."""
    with open_database(path) as database:
        offset = database.offsets["/entry/images/intensity"]
    with open(path, "r+b") as stream:
        stream.seek(offset + row * 96 * 96 * 2)
        stream.write(b"\xff\xff")


def find_command(output: str, config: Path) -> list[str]:
    """The words after `hpctem` of the command that `verify` printed, for this campaign file."""
    [line] = [line for line in output.splitlines() if line.endswith("--repair")]
    words = shlex.split(line[line.index("hpctem ") :])[1:]
    return [str(config) if word == "CONFIG" else word for word in words]


def test_the_command_that_verify_prints_repairs(run: Callable, copy: Path, small: Path) -> None:
    damage(copy, 5)
    found = run("verify", copy)
    assert found.returncode == 1
    assert "1 bad\n  images row 5\nbytes outside the rows: intact" in found.stdout
    done = run(*find_command(found.stdout, SMALL))
    assert done.returncode == 0, done.stderr
    assert "1 rows are damaged; the 1 segments that hold them are computed again" in done.stderr
    assert "complete and verified, good structures: 6" in done.stdout
    assert sha256(copy) == sha256(small) and run("verify", copy).returncode == 0


def test_volumes_limits_and_children_are_repaired_by_the_printed_commands(
    run: Callable, copy: Path, tmp_path: Path
) -> None:
    for command in (
        ("simulate", SMALL, "-o", "a b.hdf5", "--volume", "2/3", "--limit", "4"),
        ("image", "copy.hdf5", SMALL, "-o", "child.hdf5", "--limit", "2"),
    ):
        assert run(*command).returncode == 0
    paths = (tmp_path / "a b.v2of3.hdf5", tmp_path / "child.hdf5")
    whole = [sha256(path) for path in paths]
    for path in paths:
        damage(path, 3)
        with open(path, "r+b") as stream:
            stream.write(b"\0\0")
        found = run("verify", path.name)
        assert "images row 3\nbytes outside the rows: DAMAGED" in found.stdout
        done = run(*find_command(found.stdout, SMALL))
        assert done.returncode == 0, done.stderr
    assert [sha256(path) for path in paths] == whole


def test_one_unreadable_file_does_not_hide_the_others(
    run: Callable, copy: Path, small: Path, tmp_path: Path
) -> None:
    damage(copy, 0)
    (tmp_path / "text.hdf5").write_text("no database")
    found = run("verify", "none.hdf5", "text.hdf5", "copy.hdf5", small)
    assert found.returncode == 1 and "Traceback" not in found.stderr
    assert "cannot open the database none.hdf5" in found.stderr
    assert "text.hdf5 is no HDF5 file" in found.stderr
    assert "copy.hdf5: " in found.stdout and "images row 0" in found.stdout
    assert f"{small}: " in found.stdout and found.stdout.count("--repair") == 1
    assert run("verify", small, small).returncode == 0


def test_repair_with_another_campaign_is_refused_and_changes_nothing(
    run: Callable, variant: Callable, copy: Path
) -> None:
    damage(copy, 5)
    before = sha256(copy)
    other = variant(("200 keV", "300 keV"))
    done = run("simulate", other, "-o", copy, "--repair")
    assert done.returncode == 1
    assert "config.simulation.energy: 200000.0 then, 300000.0 now" in done.stderr
    assert sha256(copy) == before
    done = run("simulate", SMALL, "-o", "none.hdf5", "--repair")
    assert done.returncode == 1 and "there is no database none.hdf5 to repair" in done.stderr


def test_what_cannot_be_imaged_is_bad_usage_without_a_traceback(
    run: Callable, variant: Callable, small: Path, tmp_path: Path
) -> None:
    other = variant(("radius: {uniform: [5 A, 7 A]}", "radius: 6 A"))
    done = run("image", small, other, "-o", "child.hdf5")
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert "structure.particles.radius" in done.stderr and "'hpctem simulate'" in done.stderr
    assert run("image", small, SMALL, "-o", small).returncode == 2
    done = run("image", "none.hdf5", SMALL)
    assert done.returncode == 1 and "cannot open the database none.hdf5" in done.stderr
    (tmp_path / "text.hdf5").write_text("no database")
    done = run("image", "text.hdf5", SMALL)
    assert done.returncode == 1 and "is no HDF5 file" in done.stderr
    assert not list(tmp_path.glob("child*")) and not list(tmp_path.glob("small*"))


def test_atoms_of_a_child_are_rebuilt(run: Callable, small: Path, tmp_path: Path) -> None:
    assert run("image", small, SMALL, "-o", "child.hdf5", "--limit", "2").returncode == 0
    for path in (small, "child.hdf5"):
        done = run("atoms", path, 5, "-o", tmp_path / f"{Path(path).stem}.xyz")
        assert done.returncode == 0, done.stderr
    assert (tmp_path / "small.xyz").read_text() == (tmp_path / "child.xyz").read_text()
