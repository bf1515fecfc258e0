"""A STEM campaign on the command line: from the file to its tables, and what beginners do wrong."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import hpctem

Run = Callable[..., subprocess.CompletedProcess[str]]
SMALL = Path(__file__).parents[1] / "small_stem.yaml"
TINY = """
campaign: {name: tiny, technique: stem, seed: 3, structures: 6, quarantine_limit: 1}
structure:
  material: {database: sheets.json}
  defects:
    - {kind: vacancy, site: atom, rate: 0.05}
simulation: {method: convolution, energy: 60 keV, convolution: {width: 0.5 A}}
imaging: {pixels: 64, sampling: 0.2 A}
"""


def run(*words: object, folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "hpctem", *map(str, words)]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=240)


@pytest.fixture
def folder(small_stem: Path) -> Path:
    """The folder of the small STEM campaign, simulated."""
    assert small_stem.with_name("small_stem.hdf5.png").stat().st_size > 1e5
    return small_stem.parent


def test_the_database_is_read_by_every_command(folder: Path, small_stem: Path, call: Run) -> None:
    """What queries, pictures and reports show of it stands in test_scans.py."""
    for words, told in (
        (("info", small_stem), "chalcogen_vacancy"),
        (("query", small_stem, "--where", "n_chalcogen_vacancy > 0"), "1H-WSe2"),
        (("show", small_stem, "0", "5", "-o", "show.png"), "picture"),
        (("atoms", small_stem, "5", "-o", "atoms.xyz"), "as digested"),
        (("verify", small_stem), "0 bad"),
    ):
        done = call(*words)
        assert done.returncode == 0, done.stderr
        assert told in done.stdout, words


def test_a_stopped_campaign_is_resumed_in_volumes(folder: Path, tmp_path: Path) -> None:
    """Two volumes hold the structures of the whole, image by image."""
    for volume in ("1/2", "2/2"):
        done = run("simulate", SMALL, "--volume", volume, folder=tmp_path)
        assert done.returncode == 0, done.stderr
    parts = sorted(tmp_path.glob("*.hdf5"))
    with hpctem.open(folder / "small_stem.hdf5") as whole, hpctem.open(parts) as both:
        assert len(whole) == len(both) == 24
        assert all(np.array_equal(whole.images[k], both.images[k]) for k in (0, 11, 12, 23))
        assert np.array_equal(whole.column("pixel_size"), both.column("pixel_size"))


def test_every_defect_in_an_image_is_a_row_with_its_place(folder: Path) -> None:
    with hpctem.open(folder / "small_stem.hdf5") as images:
        counted = images.column("n_chalcogen_vacancy")
        for k in (0, 13):
            defects = images[k].defects
            kinds = np.array(defects["kind"].to_pylist())
            assert (kinds == "chalcogen_vacancy").sum() == counted[k]
            assert set(kinds) <= {
                *("chalcogen_vacancy", "chalcogen_vacancy2", "Mo_on_metal", "C_hollow_adatom"),
            }


def write_sheets(folder: Path) -> None:
    """A database of three materials: MoS2, one without atoms, one that is no sheet."""
    from ase import Atoms
    from ase.build import bulk, mx2
    from ase.db import connect

    with connect(folder / "sheets.json") as database:
        database.write(mx2("MoS2", a=3.16, thickness=3.13, vacuum=8.0))
        database.write(Atoms())
        database.write(bulk("Cu", cubic=True))


def test_bad_rows_of_a_database_are_quarantined_with_the_reason(tmp_path: Path) -> None:
    write_sheets(tmp_path)
    (tmp_path / "tiny.yaml").write_text(TINY)
    done = run("simulate", "tiny.yaml", folder=tmp_path)
    assert done.returncode == 3, done.stderr
    with hpctem.open(tmp_path / "tiny.hdf5") as images:
        assert len(images) == 2 and set(images.column("material").tolist()) == {"MoS2"}
        assert len(set(images.column("structure_id").tolist())) == 2
        reasons = [reason for _, reason in images.databases[0].quarantined]
    assert len(reasons) == 4
    assert sum("material 2" in reason for reason in reasons) == 2
    assert sum("material 3" in reason for reason in reasons) == 2
    # The database of materials is no longer needed: its rows are kept.
    (tmp_path / "sheets.json").unlink()
    row = json.loads(run("query", "tiny.hdf5", "--json", folder=tmp_path).stdout)[0]["row"]
    done = run("atoms", "tiny.hdf5", row, "-o", "x.xyz", folder=tmp_path)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("database: sheets.json", "database: other.db", "other.db"),
        ("database: sheets.json", "database: sheets.json, filter: Au", "filter"),
        ("site: atom", "site: metal", "atom"),
        ("pixels: 64", "pixels: 64, detector: {readout_noise: 1}", "noise-free"),
        ("rate: 0.05", "rate: 0.05, elemnt: C", "element"),
        ("kind: vacancy", "kind: substitution, element: Xx", "'Xx' is not the symbol"),
        ("convolution: {width", "convolution: {psf: tiny.yaml, width", "no point spread function"),
        ("technique: stem", "technique: stme", "stem"),
        ("sampling: 0.2 A", "sampling: 0.2", "unit"),
    ],
)
def test_mistakes_are_told_in_one_sentence(
    old: str, new: str, told: str, tmp_path: Path, call: Run
) -> None:
    write_sheets(tmp_path)
    assert TINY.count(old) == 1
    (tmp_path / "tiny.yaml").write_text(TINY.replace(old, new))
    done = call("simulate", "tiny.yaml")
    assert done.returncode == 2, done.stdout + done.stderr
    assert told in done.stderr and "Traceback" not in done.stderr
    assert not list(tmp_path.glob("*.hdf5"))


def test_images_are_not_formed_anew_from_waves_that_are_not_there(folder: Path) -> None:
    done = run("image", "small_stem.hdf5", SMALL, "-o", "again.hdf5", folder=folder)
    assert done.returncode == 2 and "hpctem simulate" in done.stderr
