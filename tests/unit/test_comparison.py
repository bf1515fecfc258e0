"""`hpctem realism` on images made here: what is raw, what is nearer, what is a copy."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hpctem.errors import ConfigError
from hpctem.learning.realism.comparison import Request, compare, format_comparison, write_comparison
from hpctem.learning.realism.image_sets import (
    Choice,
    Cutting,
    cut_regions,
    halve,
    parse_set,
    read_set,
)
from hpctem.learning.realism.inception import open_inception

HPCTEM = Path(sys.executable).with_name("hpctem")
SHAPE = (160, 320)
CUTTING = Cutting(96, 24, 3)


def make_crystal(seed: int, angle: float, noise: float, slow: float) -> np.ndarray:
    """A hexagonal crystal with a period of 10 pixels, white noise, and slow clouds."""
    from scipy.ndimage import gaussian_filter

    generator = np.random.default_rng(seed)
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    length = 2 / math.sqrt(3) / 10
    waves = [
        np.cos(2 * math.pi * length * (x * math.cos(turn) + y * math.sin(turn)))
        for turn in angle + math.pi / 3 * np.arange(3)
    ]
    clouds = gaussian_filter(generator.normal(size=SHAPE), 14)
    image = np.exp(sum(waves) / 1.5) + noise * generator.normal(size=SHAPE)
    return (500 + 100 * (image + slow * clouds / clouds.std())).astype(np.float32)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("images")
    np.save(made / "experiment.npy", make_crystal(0, 0.3, 0.8, 0.5))
    np.save(made / "clean.npy", make_crystal(1, 0.9, 0.02, 0.0))
    np.save(made / "noisy.npy", make_crystal(2, 1.3, 0.8, 0.0))
    np.save(made / "alike.npy", 7 - 0.01 * -make_crystal(3, 0.5, 0.8, 0.5))
    return made


def ask(folder: Path, *sets: str, **options: Any) -> Request:
    return Request(
        tuple(f"{name}={folder / name}.npy" for name in sets),
        (str(folder / "experiment.npy"),),
        options.pop("cutting", CUTTING),
        **options,
    )


@pytest.fixture(scope="module")
def report(folder: Path) -> dict[str, Any]:
    return compare(ask(folder, "clean", "noisy", "alike"))


def test_what_is_more_alike_closes_more_of_the_gap(report: dict[str, Any]) -> None:
    for name in ("KL divergence", "sliced Wasserstein", "power, between them"):
        clean, noisy, alike = (
            report["sets"][one]["distances"][name] for one in ("clean", "noisy", "alike")
        )
        assert max(alike, noisy) < clean / 2, name
        closed = report["sets"]["alike"]["gap_closed"][name]
        floor = report["floor"]["distances"][name]
        assert closed == pytest.approx(1 - (alike - floor) / (clean - floor))
        assert closed > 0.7
    assert all(
        value in (0, None) for value in report["sets"]["clean"]["gap_closed"].values()
    )  # nothing is closed by the raw set itself


def test_shares_of_power_are_those_that_were_put_in(report: dict[str, Any]) -> None:
    """Noise of variance 0.64 and clouds of 0.25 beside a crystal of the variance measured here."""
    crystal = np.var(make_crystal(1, 0.9, 0.0, 0.0) / 100)
    shares = report["experiment"]["shares"]
    known = 0.64 / (crystal + 0.64 + 0.25)
    assert shares["power, between them"] == pytest.approx(known, rel=0.2)
    assert report["sets"]["noisy"]["shares"]["power, low frequencies"] < 0.02
    parts = ("low frequencies", "Bragg spots", "between them")
    assert sum(shares[f"power, {name}"] for name in parts) == pytest.approx(1)


def test_brightness_and_contrast_play_no_part(folder: Path, tmp_path: Path) -> None:
    image = np.load(folder / "experiment.npy")
    np.save(tmp_path / "dim.npy", 3 + 0.02 * image)
    request = Request(
        (f"same={folder / 'experiment.npy'}", f"dim={tmp_path / 'dim.npy'}"),
        (str(folder / "experiment.npy"),),
        CUTTING,
    )
    found = compare(request)["sets"]
    # Their patches are cut elsewhere, for the names differ; both are the very experiment.
    for one in found.values():
        assert one["distances"]["KL divergence"] < 0.02
        assert one["distances"]["power, Bragg spots"] < 0.1


def test_copies_of_the_experiment_are_seen(folder: Path, tmp_path: Path) -> None:
    image = np.load(folder / "experiment.npy")
    np.save(tmp_path / "copy.npy", np.ascontiguousarray(np.rot90(image[10:140, 20:200])))
    sets = (f"copy={tmp_path / 'copy.npy'}", f"alike={folder / 'alike.npy'}")
    request = Request(sets, (str(folder / "experiment.npy"),), Cutting(96, 4, 3), bands=False)
    found = compare(request)["highest_correlation"]
    assert found["copy"]["highest"] == pytest.approx(1, abs=1e-3)
    honest = found["second half with first half"]["highest"]
    assert found["alike"]["highest"] < 0.8 and honest < 0.8


def test_the_floor_may_be_other_rows(folder: Path) -> None:
    cutting = Cutting(64, 4)
    request = ask(folder, "clean", rows=(0, 100), floor=(60, None), cutting=cutting, bands=False)
    found = compare(request)
    assert found["floor"]["of"] == ["other rows"]
    apart = ask(folder, "clean", rows=(0, 80), floor=(80, 160), cutting=cutting, bands=False)
    same = ask(folder, "clean", rows=(0, 100), floor=(0, 100), cutting=cutting, bands=False)
    name = "other rows of the experiment"
    honest, copied = (compare(one)["highest_correlation"][name] for one in (apart, same))
    assert copied["median"] == pytest.approx(1, abs=1e-3) and honest["highest"] < 0.9


def test_halves_lie_across_the_longer_side() -> None:
    image = np.arange(12).reshape(3, 4)
    assert [half.tolist() for half in halve(image)] == [
        image[:, :2].tolist(), image[:, 2:].tolist()
    ]  # fmt: skip
    tall = halve(image.T)
    assert tall[0].shape == tall[1].shape == (2, 3)
    odd = halve(np.zeros((2, 5)))
    assert odd[0].shape == odd[1].shape == (2, 2)


def test_patches_are_the_same_each_time_and_prepared_as_a_group() -> None:
    image = make_crystal(0, 0.3, 0.8, 0.5)
    first, again = (cut_regions("x", [image], None, CUTTING) for _ in range(2))
    other = cut_regions("x", [image], None, Cutting(96, 24, 4))
    np.testing.assert_array_equal(first.patches, again.patches)
    assert (first.patches != other.patches).any()
    whole = first.regions[0]
    low, high = image.mean() - 3.5 * image.std(), image.mean() + 3.5 * image.std()
    known = 2 * (np.clip(image, low, high) - low) / (high - low) - 1
    np.testing.assert_allclose(whole, known, atol=1e-4)


def test_sets_are_named() -> None:
    assert parse_set("gan=a.hdf5,b.hdf5") == ("gan", ("a.hdf5", "b.hdf5"))
    assert parse_set("folder/raw.hdf5") == ("raw", ("folder/raw.hdf5",))
    for text in ("=a.hdf5", "gan=", " "):
        with pytest.raises(ConfigError, match="is no set of images"):
            parse_set(text)


def test_bad_requests_are_refused(folder: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "noise.npy", np.random.default_rng(0).normal(size=(128, 256)))
    noise = Request(("x=" + str(tmp_path / "noise.npy"),), (str(tmp_path / "noise.npy"),), CUTTING)
    for request, message in (
        (ask(folder, "clean", "clean"), "two sets are called 'clean'"),
        (ask(folder, "clean", "experiment"), "two sets are called 'experiment'"),
        (ask(folder, "clean", cutting=Cutting(256, 4)), "no room for patches of 256"),
        (ask(folder, "clean", lattice="mos2"), "give --pixel-size"),
        (ask(folder, "clean", rows=(0, 500)), "rows 0:500"),
        (ask(folder, "clean", inception=tmp_path / "none.h5"), "there are no weights.*FID"),
        (noise, "shows no lattice: name the crystal with --lattice"),
    ):
        with pytest.raises(ConfigError, match=message):
            compare(request)
    with pytest.raises(ConfigError, match="mixes kinds of files"):
        read_set(f"x=a.hdf5,{tmp_path / 'noise.npy'}", Choice(), CUTTING)


def test_weights_are_asked_for_before_anything_is_imported(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"inception_v3_weights.*notop\.h5"):
        open_inception(tmp_path / "none.h5")


def test_the_command_prints_a_table_and_writes_json(folder: Path, tmp_path: Path) -> None:
    command = [
        HPCTEM, "realism", f"raw={folder / 'clean.npy'}", f"gan={folder / 'alike.npy'}",
        "--experiment", folder / "experiment.npy", "--patch", "96", "--patches", "8",
        "--pixel-size", "0.3161 A", "--lattice", "a=3.161A,hexagonal", "-o", tmp_path / "r.json",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    written = json.loads((tmp_path / "r.json").read_text())
    assert list(written["sets"]) == ["raw", "gan"]
    lines = done.stdout.splitlines()
    kl = next(line for line in lines if line.startswith("KL divergence"))
    closed = written["sets"]["gan"]["gap_closed"]["KL divergence"]
    assert kl.endswith(f"({100 * closed:.0f} %)")
    # The lattice that was given has the period of the crystal: 10 pixels.
    assert written["experiment"]["shells"][0] == pytest.approx(2 / math.sqrt(3) / 10, rel=1e-3)
    missing = subprocess.run(
        [*command[:3], "--experiment", tmp_path / "none.dm3"], capture_output=True, text=True
    )
    assert missing.returncode == 2 and "none.dm3 does not exist" in missing.stderr


def test_the_report_is_plain_data(report: dict[str, Any], tmp_path: Path) -> None:
    write_comparison(report, tmp_path / "r.json")
    assert json.loads((tmp_path / "r.json").read_text()) == json.loads(json.dumps(report))
    assert "share of the gap between clean and the floor" in format_comparison(report)
