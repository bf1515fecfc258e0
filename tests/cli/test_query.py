"""`hpctem query` shows the images that are asked for, to people and to programs."""

from __future__ import annotations

import csv
import importlib.util
import io
import json
import os
import pty
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

import hpctem
from hpctem.cli.listing import find_bins
from hpctem.collection.columns import Column
from hpctem.errors import ConfigError

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def doses(small: Path) -> np.ndarray:
    with h5py.File(small) as file:
        return file["entry/metadata/dose"][()]


def show(call: Run, *arguments: object) -> str:
    done = call("query", *arguments)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout


def on_terminal(*arguments: object) -> str:
    """What a person sees on a terminal."""
    leader, follower = pty.openpty()
    command = [sys.executable, "-m", "hpctem", "query", *map(str, arguments)]
    with subprocess.Popen(command, stdout=follower, stderr=follower):
        os.close(follower)
        text = b""
        try:
            while part := os.read(leader, 4096):
                text += part
        except OSError:  # Linux says so when the other end has closed.
            pass
    os.close(leader)
    return text.decode()


def test_count_is_a_number(call: Run, small: Path, doses: np.ndarray) -> None:
    assert show(call, small, "--count") == "24\n"
    found = show(call, small, "--where", "dose > 500", "--count")
    assert int(found) == np.count_nonzero(doses > 500) > 0


def test_the_table_is_aligned_and_has_units(call: Run, small: Path, doses: np.ndarray) -> None:
    lines = show(call, small, "--where", "dose > 500 AND energy > '100 keV'").splitlines()
    names, units, *rows, last = lines
    assert names.split()[:3] == ["row", "dose", "energy"]
    assert units.split()[:2] == ["[electron/angstrom^2]", "[eV]"]
    chosen = np.flatnonzero(doses > 500)
    assert [int(row.split()[0]) for row in rows] == chosen.tolist()
    assert [float(row.split()[1]) for row in rows] == doses[chosen].tolist()
    assert len({len(row) for row in rows}) == 1
    assert last == f"{len(chosen)} images"


def test_order_columns_and_limit(call: Run, small: Path) -> None:
    text = show(call, small, "--order", "mean DESC", "--limit", 5, "--columns", "row, mean")
    rows = [line.split() for line in text.splitlines()[1:-1]]
    assert text.splitlines()[-1] == "the first 5 of 24 images"
    with h5py.File(small) as file:
        mean = file["entry/metadata/mean"][()]
    assert [int(row) for row, _ in rows] == np.argsort(-mean, kind="stable")[:5].tolist()


def test_a_terminal_gets_the_first_twenty(small: Path) -> None:
    lines = on_terminal(small).splitlines()
    assert len(lines) == 2 + 20 + 1
    assert lines[-1] == "the first 20 of 24 images; --limit shows more"
    assert len(on_terminal(small, "--limit", 22).splitlines()) == 2 + 22 + 1


def test_csv_is_read_back_equal(call: Run, small: Path) -> None:
    text = show(call, small, "--csv", "--where", "dose > 500")
    with hpctem.open(small) as collection:
        found = collection.where("dose > 500")
        table = list(csv.DictReader(io.StringIO(text)))
        assert list(table[0]) == list(collection.columns)
        for name in ("dose", "defocus", "mean", "substrate_thickness"):
            assert [float(row[name]) for row in table] == found.column(name).tolist()
        assert [int(row["row"]) for row in table] == found.rows.tolist()
        digests = [bytes(digest).hex() for digest in found.column("atoms_digest")]
        assert [row["atoms_digest"] for row in table] == digests
        assert {row["status"] for row in table} == {"good"}
    command = [sys.executable, "-m", "hpctem", "query", small, "--csv", "--columns", "row,dose"]
    environment = os.environ | {"LC_ALL": "C", "PYTHONIOENCODING": "ascii"}
    raw = subprocess.run(command, capture_output=True, check=True, env=environment).stdout
    assert raw.startswith(b"row,dose\r\n0,400.0\r\n1,1600.0\r\n") and raw.count(b"\n") == 25


def test_json_is_an_array_of_objects(call: Run, small: Path) -> None:
    table = json.loads(show(call, small, "--json", "--where", "dose > 500"))
    with hpctem.open(small) as collection:
        found = collection.where("dose > 500")
        assert set(table[0]) == set(collection.columns)
        assert [row["defocus"] for row in table] == found.column("defocus").tolist()
    few = show(call, small, "--json", "--limit", 2, "--columns", "row,dose")
    assert few == '[\n{"row": 0, "dose": 400.0},\n{"row": 1, "dose": 1600.0}\n]\n'
    assert show(call, small, "--json", "--where", "dose < 0") == "[]\n"


def test_histograms_count_every_image(call: Run, small: Path) -> None:
    def counts(name: str) -> tuple[str, list[tuple[str, int]]]:
        head, *lines = show(call, small, "--hist", name).splitlines()
        cells = [line.rstrip("█ ").rsplit(None, 1) for line in lines]
        return head, [(label.strip(), int(count)) for label, count in cells]

    head, bins = counts("dose")
    assert head == "dose [electron/angstrom^2] of 24 images"
    assert bins == [("400", 12), ("1600", 12)]
    head, bins = counts("defocus")
    assert head == "defocus [angstrom] of 24 images" and sum(count for _, count in bins) == 24
    with h5py.File(small) as file:
        defocus = file["entry/metadata/defocus"][()]
    for label, count in bins:
        low, high = map(float, label.split(" to "))
        inside = (defocus >= low) & ((defocus < high) | (label == bins[-1][0]))
        assert count == np.count_nonzero(inside)
    assert counts("status")[1] == [("good", 24)]
    assert counts("structure_id")[1] == [(str(index), 4) for index in range(6)]


@pytest.mark.parametrize(
    "values",
    [
        *([400.0], [0.0], [-0.1], [1e300, -1e300]),
        [5.4, 7.800000000000001],  # edges are 5.4, 5.6 ... 7.8
        *([0.3, np.nextafter(0.3, 0)], [0.3, np.nextafter(0.3, 1)], [7e-20, 0.1]),
        np.arange(50) / 10,
        np.arange(50) * np.nextafter(0.1, 0) + 1e6,
    ],
    ids=str,
)
def test_no_value_falls_out_of_a_histogram(values: list[float]) -> None:
    column = Column("dose", "images", np.dtype("f8"))
    bins = find_bins(column, np.array(values))
    assert sum(count for _, count in bins) == len(values)
    assert len({label for label, _ in bins}) == len(bins)


def test_bars_are_as_long_as_the_counts(call: Run, small: Path) -> None:
    lines = show(call, small, "--hist", "particles_placed").splitlines()[1:]
    found = [(int(line.split()[1]), line.count("█")) for line in lines]
    most = max(count for count, _ in found)
    assert all(bar == round(40 * count / most) for count, bar in found)


def test_several_files_are_one(call: Run, small: Path, variant, tmp_path: Path) -> None:
    """Two campaigns with the same structures and other defoci."""
    other = variant(("name: small", "name: other"), ("std: 5 nm", "std: 9 nm"))
    assert call("simulate", other, "--limit", 2).returncode == 0
    files = (small, tmp_path / "other.hdf5")
    assert show(call, *files, "--count") == "32\n"
    text = show(call, *files, "--json", "--columns", "campaign,database,row", "--where", "row = 1")
    assert json.loads(text) == [
        {"campaign": "small", "database": "small.hdf5", "row": 1},
        {"campaign": "other", "database": "other.hdf5", "row": 1},
    ]
    table = show(call, *files, "--where", "campaign = 'other'", "--limit", 1).splitlines()
    assert table[0].split()[:2] == ["database", "row"] and table[2].split()[:2] == [
        "other.hdf5",
        "0",
    ]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--where", "doze > 5"), "nearest: dose"),
        (("--where", "dose > 5; DROP TABLE images"), "semicolon"),
        (("--where", "EXISTS (FROM read_csv('/etc/passwd'))"), "only tables of the database"),
        (("--where", ""), "empty"),
        (("--where", "dose > '3 nm'"), "unit of dose"),
        (("--columns", "row,doze"), "nearest: dose"),
        (("--columns", "row,"), "no column ''"),
        (("--columns", "particles.radius"), "several"),
        (("--order", "doze"), "nearest: dose"),
        (("--hist", "doze"), "nearest: dose"),
        (("--hist", "atoms_digest"), "atoms_digest"),
        (("--limit", "-1"), "limit"),
        (("--count", "--json"), "choose one"),
        (("--hist", "dose", "--csv"), "choose one"),
    ],
)
def test_what_cannot_be_meant_ends_with_two_and_a_sentence(
    small: Path,
    arguments: tuple[str, ...],
    words: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from hpctem.cli import main

    monkeypatch.setattr(sys, "argv", ["hpctem", "query", str(small), *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    out, err = capsys.readouterr()
    assert ended.value.code == 2
    assert out == "" and words in err and "Traceback" not in err


def test_what_is_no_database_ends_with_one(call: Run, tmp_path: Path) -> None:
    (tmp_path / "text.hdf5").write_text("hello")
    for name in ("text.hdf5", "missing.hdf5"):
        done = call("query", name, "--count")
        assert done.returncode == 1 and name in done.stderr and "Traceback" not in done.stderr
    assert call("query").returncode == 2


def test_an_output_that_is_closed_early_is_no_error(small: Path) -> None:
    command = f"'{sys.executable}' -m hpctem query '{small}' --csv | head -n 1"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("database,campaign,row") and "Traceback" not in done.stderr


def test_images_are_shown_in_notebooks(small: Path, tmp_path: Path) -> None:
    with hpctem.open(small) as collection:
        figure = collection.where("dose > 500").show([0, -1])
        figure.savefig(tmp_path / "shown.png")
        assert (tmp_path / "shown.png").stat().st_size > 10_000
        with pytest.raises(ConfigError):
            collection.show(slice(None))


def documented(page: str, language: str) -> list[str]:
    text = (Path(__file__).parents[2] / "docs" / page).read_text()
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def documented_queries() -> list[str]:
    lines = "".join(documented("query.md", "bash")).replace("\\\n", " ").splitlines()
    return [line for line in lines if line.startswith("hpctem query quickstart")]


@pytest.mark.parametrize("line", documented_queries())
def test_every_documented_query_is_answered(
    line: str, small: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    from hpctem.cli import main

    words = [str(small) if "/" in word and word.endswith(".hdf5") else word
             for word in shlex.split(line)]  # fmt: skip
    monkeypatch.setattr(sys, "argv", words)
    main()
    out, err = capfd.readouterr()
    assert out and not err


@pytest.mark.parametrize("package", ["torch", "tensorflow"])
def test_documented_training_loops_run(package: str, small: Path, tmp_path: Path) -> None:
    """In a process of their own, as spawned workers and TensorFlow want it."""
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed here")
    (text,) = (t for t in documented("python.md", "py") if f"import {package}" in t)
    (tmp_path / "quickstart").mkdir()
    (tmp_path / "quickstart/quickstart.hdf5").symlink_to(small)
    done = subprocess.run(
        [sys.executable, "-c", text], cwd=tmp_path, capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("96") == 2 * 2 * 12
