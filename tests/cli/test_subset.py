"""`hpctem subset` as users call it."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

sys.path.append(str(Path(__file__).parents[1] / "unit"))


from series_of_structures import make_series

import hpctem

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def series(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_series(tmp_path_factory.mktemp("series") / "gold.hdf5", 48)


def test_a_simulated_database_is_split_and_opened(call: Run, small: Path, tmp_path: Path) -> None:
    done = call("subset", small, "-o", "half.json", "--split", "train=2/3,validation=1/3")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0] == "half.json: one draw of 24 images of small.hdf5"
    parts = {
        part: hpctem.open(subset=tmp_path / "half.json", part=part)
        for part in ("train", "validation")
    }
    assert [len(part) for part in parts.values()] == [16, 8]
    ids = [set(part.column("structure_id").tolist()) for part in parts.values()]
    assert not ids[0] & ids[1] and len(ids[0] | ids[1]) == 6
    assert parts["train"].images[0].shape == (96, 96)
    assert set(parts["train"].column("elements")) == {"Au C"}


def test_the_elements_of_a_structure_are_those_of_its_atoms(call: Run, small: Path) -> None:
    with hpctem.open(small) as collection:
        database = collection.databases[0]
        numbers = database.column("numbers", "atoms")
        assert set(np.unique(numbers)) == {6, 79}
        assert set(collection.column("elements")) == {"Au C"}


def test_every_combination_of_bins_in_one_command(call: Run, series: Path, tmp_path: Path) -> None:
    done = call(
        *("subset", series, "-o", "bins.json", "--combinations", "substrate_thickness"),
        *("--stratify", "substrate_thickness:2,3.5,5,6.5,8 nm", "--sample", 120, "--draws", 2),
        *("--split", "train=0.75,validation=0.25", "--seed", 4),
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == "bins.json: draws 0 to 29 of 1056 images of gold.hdf5"
    assert "sample 120: evenly over substrate_thickness" in lines
    assert "draw 0 to 1: substrate_thickness 2 nm to 3.5 nm" in lines
    assert lines[-60].split()[:2] == ["0", "train"]
    train, validation = (line.split() for line in lines[-2:])
    assert train[:2] == ["29", "train"] and validation[:2] == ["29", "validation"]
    counts = np.array([train[-4:], validation[-4:]], int)
    assert counts.sum(axis=0).tolist() == [30] * 4
    assert counts.sum(axis=1).tolist() == [int(train[4]), int(validation[4])]
    assert abs(counts[0].sum() - 90) <= 2
    content = json.loads((tmp_path / "bins.json").read_text())
    assert len(content["draws"]) == 30
    assert [sum(p["count"] for p in d["pieces"]) for d in content["draws"]] == [120] * 30


def test_bytes_depend_on_the_request_alone(call: Run, series: Path, tmp_path: Path) -> None:
    for name in ("a.json", "b.json"):
        options = ("--per", "structure_id:3:focus_index", "--folds", 4, "--seed", 9)
        assert call("subset", series, "-o", name, *options).returncode == 0
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--sample", "many"), "sample: 'many' is neither N rows nor N:COLUMN"),
        (("--sample", "99:structure_id"), "has 48 structures, 99 are wanted"),
        (("--stratify", "thickness:1,2 nm"), "nearest: substrate_thickness"),
        (("--split", "train=0.9"), "sum to 0.9, not to 1"),
        (("--folds", "2", "--split", "a=0.5,b=0.5"), "either a split or folds"),
        (("--where", "COPY images TO 'x'"), ""),
        (("--folds", "1"), "1 is not in the range"),
    ],
)
def test_bad_requests_are_one_clear_sentence(
    call: Run, series: Path, options: tuple[str, ...], message: str, tmp_path: Path
) -> None:
    done = call("subset", series, "-o", "s.json", *options)
    assert done.returncode == 2
    assert message in done.stderr and "Traceback" not in done.stderr
    assert not list(tmp_path.iterdir())


def test_nothing_else_is_replaced(call: Run, series: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("precious")
    done = call("subset", series, "-o", "notes.txt", "--sample", 3)
    assert done.returncode == 2 and "is no subset file; it is not replaced" in done.stderr
    assert (tmp_path / "notes.txt").read_text() == "precious"
    for _ in range(2):
        assert call("subset", series, "-o", "s.json", "--sample", 3).returncode == 0


def shown_commands() -> list[list[str]]:
    """The words of every `hpctem subset` that the documentation shows, but for those of STEM.

    The databases of those are small enough to be simulated: test_docs runs them.
    """
    text = (Path(__file__).parents[2] / "docs/subsets.md").read_text()
    blocks = re.findall(r"^```bash\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    commands = [shlex.split(line)[2:] for line in lines if line.startswith("hpctem subset ")]
    scanned = {"mos2.hdf5", "atomvision_2d.hdf5"}
    return [words for words in commands if not scanned & set(words)]


@pytest.fixture(scope="module")
def campaigns(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All databases of the documentation, each with structures of its own."""
    folder = tmp_path_factory.mktemp("campaigns")
    sizes = {
        "gold": 160,
        "varying_substrate": 400,
        "smaller_particles": 300,
        "optimal_au": 200,
        "optimal_cdse": 190,
        "materials": 60,
    }
    for seed, (name, structures) in enumerate(sizes.items()):
        make_series(folder / f"{name}.hdf5", structures, seed=seed, name=name)
    return folder


@pytest.mark.parametrize("words", shown_commands(), ids=lambda words: words[words.index("-o") + 1])
def test_every_draw_of_the_documentation_is_made(
    words: list[str], campaigns: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As shown, on databases of that name: exact numbers, and nothing shared by parts."""
    from hpctem.cli import commands
    from hpctem.subsets.file import read_subset

    monkeypatch.chdir(campaigns)
    assert commands.main(["subset", *words], standalone_mode=False) is None
    subset = read_subset(words[words.index("-o") + 1])
    given = {name: [b for a, b in pairwise(words) if a == name] for name in words if name[0] == "-"}
    repeats = int(given.get("--draws", ["1"])[0]) * int(given.get("--folds", ["1"])[0])
    assert len(subset) == repeats * (15 if "--combinations" in given else 1)
    for draw in range(len(subset)):
        chosen = subset.select(draw=draw)
        for text in given.get("--sample", []):
            count, _, column = text.partition(":")
            if not column:
                assert len(chosen) == int(count)
            elif column == "structure_id":
                assert len(set(chosen.column(column))) <= int(count)
            elif column == "focus_index":
                assert len(set(chosen.column(column))) == int(count)
        sides = [set(subset.select(p, draw).column("structure_id")) for p in subset.parts]
        if "--balance" in given:
            counts = np.unique(chosen.column("campaign"), return_counts=True)[1]
            assert counts.tolist() == [len(chosen) // 2] * 2
        elif len(subset.collection.databases) == 1 and len(sides) == 2:
            assert not sides[0] & sides[1]
        if "--split" in given and "elements" not in words:
            share = len(subset.select("train", draw)) / len(chosen)
            assert share == pytest.approx(0.75, abs=0.01)
