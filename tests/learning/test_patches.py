"""Squares of experimental images."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from hpctem.errors import ConfigError
from hpctem.learning.data.patches import read_experiment, separate_seed
from hpctem.sections.training import Experiment, Preparation


@pytest.fixture
def locate(tmp_path: Path) -> Callable[[str], Path]:
    """Two images whose pixels say where they are."""
    np.save(tmp_path / "one.npy", np.arange(64 * 80).reshape(64, 80))
    np.save(tmp_path / "two.npy", 10000.0 + np.arange(40 * 48).reshape(40, 48))
    np.save(tmp_path / "stack.npy", np.arange(3 * 32 * 32).reshape(3, 32, 32))
    return lambda name: tmp_path / name


def test_a_group_is_scaled_together_behind_the_rows(locate: Callable) -> None:
    section = Experiment(images=("one.npy", "two.npy"), rows=(2, 40))
    patches = read_experiment(section, locate, 16)
    one = np.arange(64 * 80).reshape(64, 80)[2:40].astype(float)
    two = 10000.0 + np.arange(40 * 48).reshape(40, 48)[2:40]
    pixels = np.concatenate([one.ravel(), two.ravel()])
    low, high = pixels.mean() - 3.5 * pixels.std(), pixels.mean() + 3.5 * pixels.std()
    assert (patches.prepare.low, patches.prepare.high) == pytest.approx((low, high), rel=1e-12)
    for image, values in zip(patches.images, (one, two), strict=True):
        assert image.dtype == np.float32
        assert np.allclose(image, 2 * (values - low) / (high - low) - 1, atol=5e-7)


def test_images_can_be_scaled_one_by_one_behind_the_median(locate: Callable) -> None:
    section = Experiment(images=("two.npy",), preparation=Preparation(median=True))
    patches = read_experiment(section, locate, 16)
    values = ndimage.median_filter(
        10000.0 + np.arange(40 * 48).reshape(40, 48), size=3, mode="nearest"
    )
    expected = (values - values.min()) / (values.max() - values.min())
    assert np.allclose(patches.images[0], expected, atol=2e-7)


def test_squares_are_windows_of_their_image(locate: Callable) -> None:
    """An image gives as many of the samples as squares lie side by side in it."""
    section = Experiment(images=("one.npy", "two.npy"), preparation=Preparation())
    patches = read_experiment(section, locate, 16)
    assert len(patches) == 4 * 5 + 2 * 3 and patches.shape == (16, 16)
    assert patches.room == (40, 48) and patches.classes is None
    bits = np.array([[5, 7], [49 * 3 + 1, 2], [8, 33]], np.uint64)
    images, classes = patches.cut(np.array([0, 19, 20]), bits, (16, 16))
    assert classes is None
    assert np.array_equal(images[0], patches.images[0][5:21, 7:23])
    assert np.array_equal(images[1], patches.images[0][1:17, 2:18])
    assert np.array_equal(images[2], patches.images[1][8:24, 0:16])


def test_frames_and_pixel_sizes(locate: Callable) -> None:
    section = Experiment(images=("stack.npy",), frame=2, preparation=Preparation())
    patches = read_experiment(section, locate, 16)
    assert patches.pixel_sizes is None
    frame = np.arange(32 * 32).reshape(32, 32)
    assert np.allclose(patches.images[0], frame / frame.max(), atol=2e-7)
    mean = section.model_copy(update={"frame": "mean", "pixel_size": 0.25})
    assert read_experiment(mean, locate, 16).pixel_sizes == (0.25, 0.25)


def test_digests_and_seeds_tell_apart(locate: Callable) -> None:
    section = Experiment(images=("one.npy",))
    one = read_experiment(section, locate, 16, seed=1)
    rows = read_experiment(section.model_copy(update={"rows": (0, 60)}), locate, 16, seed=1)
    assert one.digest != rows.digest and one.digest == read_experiment(section, locate, 32).digest
    assert one.seed == separate_seed(1) != separate_seed(2)
    assert 0 <= one.seed < 2**63 and one.seed != 1


@pytest.mark.parametrize(
    ("change", "patch", "message"),
    [
        ({"images": ("gone.npy",)}, 16, r"gone\.npy does not exist"),
        ({"rows": (10, 70)}, 16, r"experiment\.rows: \[10, 70\] of one\.npy.*rows 0 to 63"),
        ({"rows": (30, 30)}, 16, r"experiment\.rows"),
        ({"rows": (-2, 30)}, 16, r"experiment\.rows"),
        ({"rows": (0, 31)}, 32, "rows 0 to 31: 31 x 80 px, in which no square of 32 px fits"),
        ({}, 65, r"one\.npy: 64 x 80 px, in which no square of 65 px fits"),
        ({"images": ("stack.npy",)}, 16, "stack of 3 frames"),
    ],
)
def test_what_cannot_be_learnt_from_is_refused(
    locate: Callable, change: dict, patch: int, message: str
) -> None:
    section = Experiment(images=("one.npy",)).model_copy(update=change)
    with pytest.raises(ConfigError, match=message):
        read_experiment(section, locate, patch)
