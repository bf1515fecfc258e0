"""Sets of images of databases, as `hpctem realism` compares them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

from hpctem.errors import ConfigError
from hpctem.learning.realism.image_sets import Choice, Cutting, read_set, spread_counts


def test_patches_of_a_database_are_parts_of_its_images_scaled_together(small_scans: Path) -> None:
    found = read_set(f"scans={small_scans}", Choice(), Cutting(32, 12, 1))
    assert found.patches.shape == (12, 32, 32) and found.images == 2
    with h5py.File(small_scans) as file:
        images = file["/entry/images/intensity"][()].astype(np.float64)
        sizes = file["/entry/metadata/pixel_size"][()]
    assert found.pixel_size == pytest.approx(np.median(sizes))
    # Saturated at 3.5 standard deviations of all patches, then -1...1: one line for all of them.
    inside = np.abs(found.patches) < 1
    windows = np.lib.stride_tricks.sliding_window_view(images, (32, 32), axis=(1, 2))
    spreads = [one.std(axis=(2, 3)) for one in windows]
    raw = []
    for patch in found.patches:
        flat = patch - patch.mean()
        pairs = zip(windows, spreads, strict=True)
        likeness = np.array([np.tensordot(one, flat, 2) / spread for one, spread in pairs])
        image, top, left = np.unravel_index(np.argmax(likeness), likeness.shape)
        raw.append(images[image, top : top + 32, left : left + 32])
    values = np.array(raw)
    mean, deviation = values.mean(), values.std()
    known = np.clip((values - mean) / (3.5 * deviation), -1, 1)
    np.testing.assert_allclose(found.patches[inside], known[inside], atol=1e-4)


def test_counts_fill_a_histogram_without_gaps(small: Path) -> None:
    """Each stands for the intensities half a step about it; else whole counts make a comb."""
    found = read_set(f"counts={small}", Choice(), Cutting(16, 64, 1))
    with h5py.File(small) as file:
        counts = file["/entry/images/intensity"][()]
    assert counts.dtype == np.uint16
    low, high = np.percentile(found.patches, [20, 80])
    greys = np.linspace(low, high, 65)
    assert (np.histogram(found.patches, greys)[0] > 0).all()
    again = read_set(f"counts={small}", Choice(), Cutting(16, 64, 1))
    np.testing.assert_array_equal(again.patches, found.patches)
    spread = spread_counts(counts[0], 3, "counts", 5)
    assert spread.dtype == np.float32
    np.testing.assert_allclose(spread, counts[0], atol=0.501)
    assert np.std(spread - counts[0]) == pytest.approx(np.sqrt(1 / 12), rel=0.02)
    assert spread_counts(spread, 3, "counts", 5) is spread


def test_conditions_choose_and_what_is_left_must_be_something(small_scans: Path) -> None:
    chosen = read_set(f"x={small_scans}", Choice("current < 30"), Cutting(32, 400))
    with h5py.File(small_scans) as file:
        assert chosen.images == int((file["/entry/metadata/current"][()] < 30).sum())
    with pytest.raises(ConfigError, match="there is no image"):
        read_set(f"x={small_scans}", Choice("current > 1000"), Cutting(32, 4))
    with pytest.raises(ConfigError, match="images of 64 x 64 pixels have no room"):
        read_set(f"x={small_scans}", Choice(), Cutting(96, 4))


def test_the_command_takes_databases(small_scans: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "experiment.npy", np.random.default_rng(0).normal(size=(70, 140)))
    command = [
        Path(sys.executable).with_name("hpctem"), "realism", small_scans, "--patch", "64",
        "--patches", "4", "--no-bands", "--experiment", tmp_path / "experiment.npy",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "KL divergence" in done.stdout and "scans: " in done.stdout
