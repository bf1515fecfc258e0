"""Atom columns of an experimental image, against images whose every column is known."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from scipy.spatial import cKDTree

from hpctem.cli import commands
from hpctem.errors import ConfigError
from hpctem.learning.judging.truths import read_truth
from hpctem.micrographs.columns import ImagedColumns, group_columns, measure_columns
from hpctem.micrographs.known import parse_lattice
from hpctem.micrographs.marks import Rule, mark_columns
from hpctem.micrographs.measure import measure
from hpctem.micrographs.read import Micrograph

PIXEL = 0.135  # A
SHAPE = (240, 320)
WIDTH = 0.55  # A
METAL, CHALCOGEN = 1.0, 0.45
VACANCY, DOUBLE, DOPED = 0.48, 0.0, 2.4
STRANGE = 12  # of each


def make_image(
    noise: float, seed: int = 0, jitter: float = 0.05
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A layer of MoS2 on a varying background, lines displaced: image, S places, their heights.

    Summed column by column here: nothing of what is tested takes part.
    """
    generator = np.random.default_rng(seed)
    a, turn = 3.16, 0.2
    first = a * np.array([np.cos(turn), np.sin(turn)])
    second = a * np.array([np.cos(turn + 2 * np.pi / 3), np.sin(turn + 2 * np.pi / 3)])
    i, j = (one.ravel() for one in np.meshgrid(np.arange(-30, 40), np.arange(-30, 40)))
    metal = i[:, None] * first + j[:, None] * second + np.array([1.3, 0.7])
    chalcogen = metal + (first + 2 * second) / 3
    extent = np.array(SHAPE[::-1]) * PIXEL
    metal, chalcogen = (p[((p > -3) & (p < extent + 3)).all(axis=1)] for p in (metal, chalcogen))
    inner = np.flatnonzero(((chalcogen > 4) & (chalcogen < extent - 4)).all(axis=1))
    factors = np.ones(len(chalcogen))
    chosen = generator.choice(inner, 3 * STRANGE, replace=False)
    factors[chosen] = np.repeat([VACANCY, DOUBLE, DOPED], STRANGE)

    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]] * PIXEL
    x = x + generator.normal(0, jitter, SHAPE[0])[:, None]
    image = 0.3 + 0.15 * np.sin(2 * np.pi * x / 23) * np.cos(2 * np.pi * y / 17)
    for places, heights in ((metal, np.full(len(metal), METAL)), (chalcogen, CHALCOGEN * factors)):
        for (px, py), height in zip(places, heights, strict=True):
            rows = slice(max(0, int((py - 3) / PIXEL)), max(0, int((py + 3) / PIXEL)))
            columns = slice(max(0, int((px - 3) / PIXEL)), max(0, int((px + 3) / PIXEL)))
            squares = (x[rows, columns] - px) ** 2 + (y[rows, columns] - py) ** 2
            image[rows, columns] += height * np.exp(-squares / (2 * WIDTH**2))
    return image + generator.normal(0, noise, SHAPE), chalcogen / PIXEL, factors


def columns_of(image: np.ndarray) -> ImagedColumns:
    known = parse_lattice("mos2")
    measured = measure(Micrograph(image.astype(np.float32), (PIXEL, PIXEL), 6e4, ""), known)
    return measure_columns(image, measured, known)


@pytest.fixture(scope="module")
def seen() -> tuple[ImagedColumns, np.ndarray, np.ndarray]:
    """What is measured in a noisy image, and the true heights of its S columns in that order."""
    image, places, factors = make_image(noise=0.15)
    columns = columns_of(image)
    apart, nearest = cKDTree(places).query(np.stack([columns.x, columns.y], axis=1))
    return columns, apart, factors[nearest]


def test_columns_of_a_cell_are_told_apart() -> None:
    names, parts, powers = group_columns(parse_lattice("mos2").material)
    assert names == ("Mo", "S2") and len(parts) == 2
    assert powers == pytest.approx([42**1.7, 2 * 16**1.7])
    assert group_columns(parse_lattice("graphene").material)[0] == ("C", "C")


def test_every_column_is_found_in_its_place(seen) -> None:
    columns, apart, _ = seen
    chalcogen = columns.whole & (columns.site == columns.names.index("S2"))
    metal = columns.whole & (columns.site == columns.names.index("Mo"))
    extent = np.array(SHAPE[::-1]) * PIXEL
    cells = np.prod(extent) / (3.16**2 * np.sqrt(0.75))
    assert 0.75 * cells < chalcogen.sum() < cells and abs(metal.sum() - chalcogen.sum()) < 15
    assert np.sqrt(np.mean(apart[chalcogen] ** 2)) < 0.5  # pixels; lines are displaced by 0.37
    assert (apart[metal] > 10).all()  # no column of the other class


def test_ratios_are_the_true_ones(seen) -> None:
    columns, _, true = seen
    chalcogen = columns.whole & (columns.site == columns.names.index("S2"))
    apart = columns.ratio[chalcogen] - true[chalcogen]
    for factor in (VACANCY, DOUBLE, DOPED):
        of = true[chalcogen] == factor
        assert of.sum() == STRANGE
        assert abs(apart[of].mean()) < 0.05 + 0.03 * factor, factor
    usual = true[chalcogen] == 1
    assert abs(apart[usual].mean()) < 0.04  # the median of all has dim ones below it
    assert apart[usual].std() < 0.15  # lines' displacements add to the noise


def test_the_stated_error_is_what_equal_columns_spread_by() -> None:
    """Where noise is most of it: places and background add a twelfth of a column's height."""
    image, places, factors = make_image(noise=0.3, seed=5, jitter=0.0)
    columns = columns_of(image)
    of = columns.whole & (columns.site == columns.names.index("S2"))
    _, nearest = cKDTree(places).query(np.stack([columns.x, columns.y], axis=1)[of])
    usual = factors[nearest] == 1
    spread = columns.height[of][usual].std()
    assert 0.8 < spread / np.sqrt(np.mean(columns.error[of][usual] ** 2)) < 1.25


def test_marks_are_the_rule_and_what_is_between_is_uncertain(seen) -> None:
    columns, _, true = seen
    rule = Rule("S2", (0.55, 0.75), (1.45, 1.75), ("vacancy", "doped"))
    marks = mark_columns(columns, rule, first_row=100)
    of = columns.whole & (columns.site == columns.names.index("S2"))
    np.testing.assert_allclose(marks.places[:, 1], columns.y[of] + 100)
    true = true[of]
    for factor, name in ((DOUBLE, "vacancy"), (DOPED, "doped"), (1.0, "usual")):
        assert (marks.names[true == factor] == name).mean() > 0.98, factor
    assert (marks.names[true == VACANCY] == "vacancy").mean() > 0.9
    np.testing.assert_array_equal(
        marks.certain, (marks.ratio < 0.55) | ((marks.ratio >= 0.75) & (marks.ratio <= 1.45))
        | (marks.ratio > 1.75),
    )  # fmt: skip


def test_what_cannot_be_measured_is_told(seen) -> None:
    columns = seen[0]
    with pytest.raises(ConfigError, match=r"no sites 'S'.*Mo, S2"):
        mark_columns(columns, Rule("S", (0.5, 0.7), None))
    with pytest.raises(ConfigError, match=r"--dim 0\.5:1\.2: usual columns have the ratio 1"):
        mark_columns(columns, Rule("S2", (0.5, 1.2), None))
    noise = np.random.default_rng(1).normal(100, 10, (128, 128))
    with pytest.raises(ConfigError, match="no lattice"):
        columns_of(noise)
    known = parse_lattice("a=3.16A,hexagonal")
    with pytest.raises(ConfigError, match="name a material"):
        measure_columns(noise, measure(Micrograph(noise, None, None, ""), known), known)


def test_the_command_writes_a_table_and_a_picture(tmp_path: Path) -> None:
    image, places, factors = make_image(noise=0.05, seed=3)
    np.save(tmp_path / "layer.npy", image)
    out = tmp_path / "marks.csv"
    options = ["--lattice", "mos2", "--pixel-size", "0.135A", "--energy", "60keV", "--rows", "40:"]
    done = CliRunner().invoke(
        commands,
        ["columns", str(tmp_path / "layer.npy"), *options, "--site", "S2", "--dim", "0.55:0.75",
         "--bright", "1.45:1.75", "--names", "vacancy,doped", "-o", str(out)],
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    assert (tmp_path / "marks.csv.png").stat().st_size > 50_000
    with open(out, newline="") as file:
        rows = list(csv.DictReader(file))
    doped = places[(factors == DOPED) & (places[:, 1] > 60) & (places[:, 1] < SHAPE[0] - 20)]
    found = [(float(r["pixel_x"]), float(r["pixel_y"])) for r in rows if r["class"] == "doped"]
    assert {r["class"] for r in rows} == {"vacancy", "doped"}
    apart, _ = cKDTree(found).query(doped)
    assert len(doped) > 4 and apart.max() < 1  # rows of the whole image
    assert "doped: " in done.output and "columns of S2" in done.output
    truth = read_truth(out, ("vacancy", "doped"), (SHAPE[0] - 40, SHAPE[1]), first_row=40)
    assert len(truth.points) == len(rows)
    np.testing.assert_array_equal(truth.counted, [r["ambiguous"] == "0" for r in rows])
    for wrong, said in (
        (["--site", "S2"], "nothing is judged"),
        (["--site", "S2", "--dim", "0.5"], "two ratios"),
        (["--site", "S2", "--dim", "0.5:0.7", "--names", "one"], "two names"),
    ):
        bad = CliRunner().invoke(
            commands, ["columns", str(tmp_path / "layer.npy"), *options, *wrong, "-o", str(out)]
        )
        assert bad.exit_code == 2 and said in bad.output
