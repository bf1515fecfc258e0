"""A small STEM database in queries, pictures, report and export."""

from __future__ import annotations

import json
import re
from html import unescape
from pathlib import Path

import h5py
import numpy as np
import pytest

from hpctem.collection.collection import open_collection
from hpctem.page.defects import Found
from hpctem.page.document import survey_databases

SMALL_STEM = Path(__file__).parents[1] / "small_stem.yaml"
KINDS = ("chalcogen_vacancy", "chalcogen_vacancy2", "Mo_on_metal", "C_hollow_adatom")
EACH = 4  # images of a structure


def test_info_lists_labels_and_tables(call, small_stem) -> None:
    text = call("info", small_stem).stdout
    assert f"labels: atoms (metal, chalcogen), {', '.join(KINDS)}, distance\n" in text
    assert re.search(r"tables: \d+ defects, \d+ columns, \d+ atoms\n", text)
    told = json.loads(call("info", small_stem, "--json").stdout)["databases"][0]
    arrays = {item["path"]: item for item in told["arrays"]}
    assert arrays["/entry/labels/atoms"]["classes"] == ["metal", "chalcogen"]
    assert arrays["/entry/labels/distance"]["units"] == "angstrom"
    assert "/entry/images/intensity" not in arrays


def test_conditions_see_defects_columns_and_materials(call, small_stem) -> None:
    images = open_collection([small_stem])
    with h5py.File(small_stem) as file:
        wanted = np.flatnonzero(file["entry/metadata/n_chalcogen_vacancy"][:] > 3)
        bravais = h5py.check_enum_dtype(file["entry/structures/bravais"].dtype)
    assert 0 < len(wanted) < 24 and "hexagonal" in bravais
    done = call("query", small_stem, "--where", "n_chalcogen_vacancy > 3", "--csv",
                "--columns", "row")  # fmt: skip
    assert [int(line) for line in done.stdout.splitlines()[1:]] == wanted.tolist()
    shown = call("query", small_stem, "--limit", "2").stdout
    assert "material" in shown and "1H-WSe2" in shown and "n_defects" in shown
    for condition in (
        "bravais = 'hexagonal' AND material = '1H-WSe2' AND elements LIKE '%Se%'",
        "(SELECT count(*) FROM defects WHERE kind = 'chalcogen_vacancy') = n_chalcogen_vacancy",
        "(SELECT count(*) FROM columns) = n_columns",
        "current < '0.05 nA' AND dwell_time = '0.002 ms' AND drift_x = '0.02 nm/s'",
    ):
        assert len(images.where(condition)) == 24, condition
    done = call("query", small_stem, "--where", "kind = 'chalcogen_vacancy'")
    assert done.returncode == 2 and "write defects.kind" in done.stderr
    done = call("query", small_stem, "--where", "defects.kind = 'chalcogen_vacency'")
    assert done.returncode == 2 and "nearest: 'chalcogen_vacancy" in done.stderr


def test_a_subset_of_scans_is_exported_with_the_labels_that_are_named(call, small_stem) -> None:
    done = call("subset", small_stem, "-o", "s.json", "--stratify", "dose_index",
                "--sample", "8", "--split", "train=0.5,test=0.5")  # fmt: skip
    assert done.returncode == 0, done.stderr
    done = call("export", "s.json", "-o", "x", "--format", "png",
               "--labels", "atoms,chalcogen_vacancy")  # fmt: skip
    assert done.returncode == 0 and "labels: atoms, chalcogen_vacancy" in done.stdout, done.stderr
    done = call("export", "s.json", "-o", "y", "--format", "hdf5", "--detectors", "bf")
    assert done.returncode == 2 and "holds no detectors, so no detector 'bf'" in done.stderr


def test_label_and_table_agree(small_stem) -> None:
    """Each listed defect lies in the map of its kind."""
    images = open_collection([small_stem])
    found = images.objects("defects").to_pylist()
    assert len(found) == sum(images.column(f"n_{kind}").sum() for kind in KINDS)
    inside = 0
    for row in found:
        label = images[row["row"]].labels[row["kind"]]
        inside += label[round(row["pixel_y"]), round(row["pixel_x"])]
    assert inside > 0.97 * len(found) > 100


def test_a_preview_is_drawn(call, tmp_path) -> None:
    done = call("preview", SMALL_STEM, "-n", "1", "-o", "b.png")
    assert done.returncode == 0 and (tmp_path / "b.png").stat().st_size > 20_000, done.stderr


def test_the_report_compares_what_was_asked_with_what_came(call, small_stem, tmp_path) -> None:
    done = call("report", small_stem, "-o", "r.html")
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "r.html").read_text()
    text = " ".join(unescape(re.sub(r"<[^>]+>", " ", page)).split())
    assert "Point defects" in text and "Power spectra" in text and "Nothing is drawn" not in text
    for key in ("defects · chalcogen vacancy · rate", "rotation", "sampling", "beam · current"):
        assert key in text, key
    assert "departs" not in text.replace("A distribution departs", "")
    assert text.count("background: #e69f00") == 0 and "background: #e69f00" in page

    [found] = survey_databases([small_stem], False)
    images = open_collection([small_stem])
    kinds = {item.kind: item for item in found.defects}
    assert tuple(kinds) == KINDS
    for kind, item in kinds.items():
        assert isinstance(item, Found)
        counts = images.column(f"n_{kind}")
        assert item.total == counts.sum() and item.defects == counts[::EACH].sum()
        assert item.low < item.rate < item.high and item.asked is not None
        # Three standard deviations of what chance gives.
        assert abs(item.rate - item.asked) < 3 * np.sqrt(item.asked / item.columns)
    assert kinds["Mo_on_metal"].asked == pytest.approx(0.05)
    # The columns that can bear it are those that the images show, and those that are gone.
    assert kinds["Mo_on_metal"].columns == pytest.approx(count_metal_columns(small_stem), rel=0.03)


def count_metal_columns(path: Path) -> int:
    """Columns of class 1 in the first image of each structure."""
    with h5py.File(path) as file:
        group, used = file["entry/columns"], file["entry/structures/columns_listed"][:]
        metal = (group["site_class"][:] == 1) & (group["image"][:] == 0)
    listed = np.arange(len(metal) // len(used)) < used[:, None]
    return int((metal.reshape(listed.shape) & listed).sum())
