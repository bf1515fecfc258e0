"""A small STEM campaign from simulation to query, pictures, report and export."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from html import unescape
from pathlib import Path

import h5py
import numpy as np
import pytest

from hpctem.collection.collection import open_collection
from hpctem.page.defects import Found
from hpctem.page.document import survey_databases

SCANS = """
campaign: {name: scans, technique: stem, seed: 3, structures: 16}
structure:
  material: {prototype: 1H, elements: [W, Se]}
  defects:
    - {kind: vacancy, site: chalcogen, rate: {uniform: [0.05, 0.15]}, name: Se_vacancy}
    - {kind: substitution, site: metal, element: Mo, rate: 0.05}
simulation: {energy: 80 keV}
imaging:
  pixels: 96
  sampling: {uniform: [0.2 A, 0.25 A]}
  images_per_focus: 2
  probe: {semiangle_cutoff: 25 mrad, source_size: 1 A}
  detectors: {adf: {inner: 63 mrad, outer: 200 mrad}}
  beam: {current: 35 pA, dwell_time: 20 us}
  scan: {jitter: {uniform: [0 A, 0.3 A], per: image}, contraction: 0.05}
labels: {distance: true, columns: true}
"""


@pytest.fixture(scope="module")
def scans(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scans")
    (folder / "scans.yaml").write_text(SCANS)
    command = [sys.executable, "-m", "hpctem", "simulate", "scans.yaml"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    return folder / "scans.hdf5"


def test_info_lists_labels_and_tables(run, scans) -> None:
    text = run("info", scans).stdout
    assert "labels: atoms (metal, chalcogen), Se_vacancy, Mo_on_metal, distance\n" in text
    assert re.search(r"tables: \d+ defects, \d+ columns\n", text)
    told = json.loads(run("info", scans, "--json").stdout)["databases"][0]
    arrays = {item["path"]: item for item in told["arrays"]}
    assert arrays["/entry/labels/atoms"]["classes"] == ["metal", "chalcogen"]
    assert arrays["/entry/labels/distance"]["units"] == "angstrom"
    assert "/entry/images/intensity" not in arrays


def test_conditions_see_defects_columns_and_materials(run, scans) -> None:
    images = open_collection([scans])
    with h5py.File(scans) as file:
        wanted = np.flatnonzero(file["entry/metadata/n_Se_vacancy"][:] > 8)
        bravais = h5py.check_enum_dtype(file["entry/structures/bravais"].dtype)
    assert 0 < len(wanted) < 32 and "hexagonal" in bravais
    done = run("query", scans, "--where", "n_Se_vacancy > 8", "--csv", "--columns", "row")
    assert [int(line) for line in done.stdout.splitlines()[1:]] == wanted.tolist()
    shown = run("query", scans, "--limit", "2").stdout
    assert "material" in shown and "1H-WSe2" in shown and "n_defects" in shown
    for condition in (
        "bravais = 'hexagonal' AND material = '1H-WSe2' AND elements LIKE '%Se%'",
        "(SELECT count(*) FROM defects WHERE kind = 'Se_vacancy') = n_Se_vacancy",
        "(SELECT count(*) FROM columns) = n_columns",
    ):
        assert len(images.where(condition)) == 32, condition
    done = run("query", scans, "--where", "kind = 'Se_vacancy'")
    assert done.returncode == 2 and "write defects.kind" in done.stderr
    done = run("query", scans, "--where", "defects.kind = 'Se_vacency'")
    assert done.returncode == 2 and "nearest: 'Se_vacancy'" in done.stderr
    done = run("subset", scans, "-o", "s.json", "--stratify", "pixel_size:0.2,0.22,0.25",
               "--sample", "8", "--split", "train=0.5,test=0.5")  # fmt: skip
    assert done.returncode == 0, done.stderr
    done = run("export", "s.json", "-o", "x", "--format", "png", "--labels", "atoms,Se_vacancy")
    assert done.returncode == 0 and "labels: atoms, Se_vacancy" in done.stdout, done.stderr


def test_label_and_table_agree(scans) -> None:
    """Each listed defect lies in the map of its kind."""
    images = open_collection([scans])
    found = images.objects("defects").to_pylist()
    assert len(found) == images.column("n_Se_vacancy").sum() + images.column("n_Mo_on_metal").sum()
    inside = 0
    for row in found:
        label = images[row["row"]].labels[row["kind"]]
        inside += label[round(row["pixel_y"]), round(row["pixel_x"])]
    assert inside > 0.97 * len(found)


def test_pictures_and_preview_are_drawn(run, scans, tmp_path) -> None:
    assert run("show", scans, "0", "5", "-o", "a.png").returncode == 0
    assert (tmp_path / "a.png").stat().st_size > 50_000
    assert scans.with_name("scans.hdf5.png").is_file() or list(scans.parent.glob("*.png"))
    (tmp_path / "scans.yaml").write_text(SCANS)
    done = run("preview", "scans.yaml", "-n", "3", "-o", "b.png")
    assert done.returncode == 0 and (tmp_path / "b.png").is_file(), done.stderr


def test_the_report_compares_what_was_asked_with_what_came(run, scans, tmp_path) -> None:
    done = run("report", scans, "-o", "r.html")
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "r.html").read_text()
    text = " ".join(unescape(re.sub(r"<[^>]+>", " ", page)).split())
    assert "Point defects" in text and "Power spectra" in text and "Nothing is drawn" not in text
    for key in ("defects · Se vacancy · rate", "rotation", "sampling", "scan · jitter"):
        assert key in text, key
    assert "departs" not in text.replace("A distribution departs", "")
    assert text.count("background: #e69f00") == 0 and "background: #e69f00" in page

    [found] = survey_databases([scans], False)
    images = open_collection([scans])
    kinds = {item.kind: item for item in found.defects}
    assert list(kinds) == ["Se_vacancy", "Mo_on_metal"]
    for kind, item in kinds.items():
        assert isinstance(item, Found)
        counts = images.column(f"n_{kind}")
        assert item.total == counts.sum() and item.defects == counts[::2].sum()
        assert item.low < item.rate < item.high and item.asked is not None
        # Three standard deviations of what chance gives.
        assert abs(item.rate - item.asked) < 3 * np.sqrt(item.asked / item.columns)
    assert kinds["Mo_on_metal"].asked == pytest.approx(0.05)
    # The columns that can bear it are those that the images show, and those that are gone.
    with h5py.File(scans) as file:
        group = file["entry/columns"]
        metal = (group["site_class"][:] == 1) & (group["image"][:] == 0)
        used = np.repeat(file["entry/structures/columns_listed"][:], 1)
        each = len(metal) // len(used)
        metal &= np.tile(np.arange(each), len(used)) < np.repeat(used, each)
    assert kinds["Mo_on_metal"].columns == pytest.approx(metal.sum(), rel=0.01)
