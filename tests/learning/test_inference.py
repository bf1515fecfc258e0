"""Networks with weights set by hand on images of any size: what they must say is known."""

from __future__ import annotations

import itertools
from dataclasses import replace

import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy.ndimage import correlate

from hpctem.errors import ConfigError, MachineError
from hpctem.learning.data.preparation import Prepare
from hpctem.learning.networks.build import build_network
from hpctem.learning.prediction.inference import (
    Predictor,
    Tiling,
    blend_tiles,
    choose_tiles,
    place_tiles,
    predict_probabilities,
    taper,
    weigh,
)
from hpctem.learning.prediction.positions import find_positions
from hpctem.learning.prediction.resampling import count_pixels, match_pixels, resample
from hpctem.sampling import Streams
from hpctem.sections.training import Network

AS_RECORDED = Prepare(median=False, scale="group", low=-1.0, high=1.0)
LOPSIDED = np.array([[0.0, 0.5, -1.0], [0.25, 1.0, 2.0], [-0.5, 0.0, 1.5]], np.float32)
EVEN = np.array([[0.5, 1.0, 0.5], [1.0, -3.0, 1.0], [0.5, 1.0, 0.5]], np.float32)


def make_predictor(
    kernel: np.ndarray, *, tile: int = 32, pooling: int = 1, pixel_sizes=None, prepare=AS_RECORDED
) -> Predictor:
    """Class 1 has the logit 4 (image * kernel), the background 0; pooled and put back if asked."""
    inner = keras.Input((None, None, 1))
    values = keras.layers.Conv2D(2, 3, padding="same", name="known")(inner)
    if pooling > 1:
        values = keras.layers.AveragePooling2D(pooling)(values)
        values = keras.layers.UpSampling2D(pooling)(values)
    network = keras.Model(inner, values)
    weights = np.zeros((3, 3, 1, 2), np.float32)
    weights[:, :, 0, 1] = 4 * kernel
    network.get_layer("known").set_weights([weights, np.zeros(2, np.float32)])

    def compute(images: np.ndarray) -> np.ndarray:
        return tf.nn.softmax(network(images[..., None], training=False)).numpy()

    return Predictor(compute, ("thing",), prepare, pixel_sizes, tile, pooling)


def expect(image: np.ndarray, kernel: np.ndarray, pooling: int = 1) -> np.ndarray:
    """The probability of class 1 in closed form: 1 / (1 + exp(-4 (image * kernel)))."""
    ny, nx = (n // pooling for n in image.shape)
    logits = correlate(image.astype(np.float64), kernel.astype(np.float64), mode="constant")
    means = logits.reshape(ny, pooling, nx, pooling).mean(axis=(1, 3))
    return 1 / (1 + np.exp(-4 * means.repeat(pooling, 0).repeat(pooling, 1)))


def draw_noise(ny: int, nx: int) -> np.ndarray:
    return Streams(5)("noise", ny * nx).uniform(-1, 1, (ny, nx)).astype(np.float32)


@pytest.mark.parametrize("shape", [(96, 160), (71, 101)])
@pytest.mark.parametrize("tiling", [Tiling(symmetries=False), Tiling(whole=True, symmetries=False)])
def test_maps_are_those_of_the_closed_form(shape, tiling) -> None:
    """Also seams would show: inside, tiles of 32 px know no other values than the whole image."""
    image = draw_noise(*shape)
    maps = predict_probabilities(make_predictor(LOPSIDED), image, tiling=tiling)
    assert (maps.shape, maps.dtype) == ((2, *shape), np.float32)
    assert np.abs(maps.sum(axis=0) - 1).max() < 1e-5
    away = np.abs(maps[1] - expect(image, LOPSIDED))
    # At its edges a tile takes what lies outside for zero; it counts sin^4(pi / 64) there, beside
    # sin^4(8.5 pi / 32) or more of others that reach a step farther, and so do two in a corner.
    seam = 4 * np.sin(np.pi / 64) ** 4 / np.sin(8.5 * np.pi / 32) ** 4
    assert away[8:-8, 8:-8].max() < (1e-5 if tiling.whole else seam) and seam < 8e-5
    # Nearer to the image's edge fewer tiles know better.
    assert away[1:-1, 1:-1].max() < (1e-5 if tiling.whole else 2e-4)


def test_tiles_of_a_network_that_pools_equal_the_whole_image_in_the_interior() -> None:
    """Tiles begin where the network's own grid of 4 px has lines, also the last ones."""
    image = draw_noise(72, 100)
    predictor = make_predictor(LOPSIDED, pooling=4)
    tiled = predict_probabilities(predictor, image, tiling=Tiling(symmetries=False))
    whole = predict_probabilities(predictor, image, tiling=Tiling(whole=True, symmetries=False))
    assert np.abs(whole[1] - expect(image, LOPSIDED, 4)).max() < 1e-5
    assert np.abs(tiled - whole)[:, 8:-8, 8:-8].max() < 0.005
    # Sides that are no multiples of 4 are continued, not shifted.
    odd = predict_probabilities(predictor, image[:70, :97], tiling=Tiling(symmetries=False))
    assert np.abs(odd[1] - expect(image, LOPSIDED, 4)[:70, :97])[8:60, 8:88].max() < 0.005


def test_a_constant_network_leaves_no_trace_of_tiles() -> None:
    """Whatever step: where every tile says the same, so does the whole, to the edges."""
    image = draw_noise(90, 77)
    for step in (8, 13, 31, 32):
        flat = blend_tiles(
            lambda tiles: np.full((*tiles.shape, 3), 0.25, np.float32), image, 32, step
        )
        assert flat.shape == (90, 77, 3) and np.abs(flat - 0.25).max() < 1e-6


def test_the_middle_of_tiles_counts_most() -> None:
    """A network that is wrong along the border of its tiles is hardly heard at a quarter's step."""
    wrong = np.ones((32, 32, 1), np.float32)
    wrong[2:-2, 2:-2] = 0.0
    heard = blend_tiles(
        lambda tiles: np.broadcast_to(wrong, (len(tiles), 32, 32, 1)), draw_noise(128, 128), 32, 8
    )
    weight = taper(32)[:, 16] / taper(32)[16, 16]
    # Of the four tiles over a pixel, whose sin^4 add up to 3/2, one is wrong there.
    assert heard[32:96, 32:96].max() < 2 * weight[1] / 1.5 and weight[1] < 5e-4
    assert heard[0, 64] == 1.0  # nothing else is known of the image's own edge


def test_an_equivariant_network_gains_nothing_by_symmetries() -> None:
    image = draw_noise(60, 88)
    predictor = make_predictor(EVEN)
    plain = predict_probabilities(predictor, image, tiling=Tiling(symmetries=False))
    turned = predict_probabilities(predictor, image, tiling=Tiling(symmetries=True))
    assert np.abs(plain - turned).max() < 1e-5


@pytest.mark.parametrize("whole", [False, True])
def test_symmetries_are_the_mean_over_the_eight_turned_kernels(whole) -> None:
    """Turning the image and turning back is turning the kernel the other way: all eight known."""
    image = draw_noise(64, 96)
    predictor = make_predictor(LOPSIDED)
    found = predict_probabilities(predictor, image, tiling=Tiling(whole=whole))
    kernels = [np.rot90(k, turns) for k in (LOPSIDED, LOPSIDED[:, ::-1]) for turns in range(4)]
    assert len({kernel.tobytes() for kernel in kernels}) == 8
    expected = np.mean([expect(image, kernel) for kernel in kernels], axis=0)
    assert np.abs(found[1] - expected)[1:-1, 1:-1].max() < (1e-5 if whole else 1e-4)
    plain = predict_probabilities(predictor, image, tiling=Tiling(symmetries=False))
    assert np.abs(found - plain).max() > 0.1


def test_turning_an_image_turns_its_maps() -> None:
    image = draw_noise(64, 64)
    predictor = make_predictor(LOPSIDED)
    maps = predict_probabilities(predictor, image)
    turned = predict_probabilities(predictor, np.rot90(image))
    assert np.abs(np.rot90(maps, axes=(1, 2)) - turned).max() < 1e-5


def test_the_image_is_prepared_whole_by_its_own_range() -> None:
    """One bright corner scales the whole image, as it did in training; tiles do not differ."""
    image = 100 + 10 * draw_noise(64, 96)
    image[3, 4] = 500.0
    how = Prepare(median=False, scale="image")
    found = predict_probabilities(
        make_predictor(EVEN, prepare=how), image, tiling=Tiling(symmetries=False)
    )
    scaled = (image - image.min()) / (image.max() - image.min())
    assert np.abs(found[1] - expect(scaled, EVEN))[1:-1, 1:-1].max() < 1e-4


def test_a_median_is_taken_once() -> None:
    from scipy.ndimage import median_filter

    image = draw_noise(48, 48)
    image[20, 20] = 1e4  # a hot pixel
    how = Prepare(median=True, scale="image")
    predictor = make_predictor(EVEN, prepare=how)
    median = median_filter(image, 3, mode="nearest")
    found = predict_probabilities(predictor, image)
    assert np.array_equal(found, predict_probabilities(predictor, median, filtered=True))
    scaled = (median - median.min()) / (median.max() - median.min())
    assert np.abs(found[1] - expect(scaled, EVEN))[1:-1, 1:-1].max() < 1e-4


def test_an_image_smaller_than_a_tile_is_continued_by_its_mirror_image() -> None:
    image = draw_noise(20, 26)
    found = predict_probabilities(make_predictor(EVEN), image, tiling=Tiling(symmetries=False))
    padded = np.pad(image, ((0, 12), (0, 6)), mode="symmetric")
    assert np.abs(found[1] - expect(padded, EVEN)[:20, :26]).max() < 1e-5
    with pytest.raises(ConfigError, match=r"15 x 40 pixels is too small .* at least 16 a side"):
        predict_probabilities(make_predictor(EVEN), draw_noise(15, 40))


def test_tiles_cover_every_pixel_and_leave_no_gap() -> None:
    for length in range(32, 130):
        for step in (1, 8, 31, 32):
            places = place_tiles(length, 32, step)
            assert places[0] == 0 and places[-1] == length - 32
            assert all(0 < b - a <= step for a, b in itertools.pairwise(places))


def test_tilings_that_the_network_cannot_take_are_refused() -> None:
    predictor = make_predictor(EVEN, tile=256, pooling=16)
    assert choose_tiles(predictor, Tiling()) == (256, 64)  # Khan et al. 2023
    assert choose_tiles(predictor, Tiling(tile=64)) == (64, 16)
    assert choose_tiles(predictor, Tiling(tile=112)) == (112, 16)  # not 28
    assert choose_tiles(predictor, Tiling(tile=32)) == (32, 16)  # not 8, nor 0
    for tiling, told in (
        (Tiling(tile=100), "tile of 100 pixels: .* multiples of 16, such as 112"),
        (Tiling(step=10), "step of 10 pixels: .* multiples of 16, such as 16"),
        (Tiling(tile=32, step=64), "step of 64 pixels is more than the tile's 32"),
    ):
        with pytest.raises(ConfigError, match=told):
            choose_tiles(predictor, tiling)


# Pixel sizes


def test_pixels_near_those_learnt_stay_as_they_are() -> None:
    for size in (0.196, 0.2, 0.205, 0.21, 0.2142, (0.2, 0.203)):
        assert match_pixels(size, (0.2, 0.21)).factor == (1.0, 1.0)
        assert match_pixels(size, (0.2, 0.21)).note == ""


@pytest.mark.parametrize(
    ("size", "factor"),
    [
        (0.1, (0.5, 0.5)),
        (0.195, (0.975, 0.975)),
        (0.42, (2.0, 2.0)),
        ((0.1, 0.4), (0.5, 2.0)),  # their mean, 0.2, is as learnt
        ((0.2, 0.208), (0.2 / np.sqrt(0.2 * 0.208), 0.208 / np.sqrt(0.2 * 0.208))),
        (0.05, (0.25, 0.25)),
        (0.84, (4.0, 4.0)),
    ],
)
def test_other_pixels_become_the_nearest_that_were_learnt(size, factor) -> None:
    match = match_pixels(size, (0.2, 0.21))
    assert match.factor == pytest.approx(factor)
    assert "resampled" in match.note and "20 pm to 21 pm" in match.note


def test_unknown_pixels_stay_and_are_told() -> None:
    assert "of the image is not known" in match_pixels(None, (0.2, 0.21)).note
    assert "of the model's images is not known" in match_pixels(0.2, None).note
    assert match_pixels(None, (0.2, 0.21)).factor == (1.0, 1.0)


@pytest.mark.parametrize("size", [0.049, 0.85, (0.2, 0.9), 0.0, -1.0, float("nan")])
def test_pixels_too_far_from_those_learnt_are_refused(size) -> None:
    with pytest.raises(ConfigError, match="pixel"):
        match_pixels(size, (0.2, 0.21))


def test_resampling_puts_a_smooth_image_where_it_belongs() -> None:
    """cos with 24 px periods, phases known: each new pixel's centre lies at (u + 1/2) / f - 1/2."""
    y, x = np.mgrid[:72, :96]
    image = np.cos(2 * np.pi * (x + 0.5) / 24) * np.cos(2 * np.pi * (y + 0.5) / 36)
    for factor in ((1.5, 1.25), (1.02, 1.02), (3.0, 3.0)):
        found = resample(image, factor)
        assert found.shape == count_pixels(image.shape, factor)
        v, u = ((np.arange(n) + 0.5) / f for n, f in zip(found.shape, factor, strict=True))
        expected = np.cos(2 * np.pi * u / 24) * np.cos(2 * np.pi * v / 36)[:, None]
        assert np.abs(found - expected).max() < 1e-3


def test_larger_pixels_are_antialiased() -> None:
    """At half as many pixels a wave of 3 px becomes one of 6; a Gaussian leaves little of it."""
    _, x = np.mgrid[:60, :90]
    fine, coarse = np.cos(2 * np.pi * x / 3), np.cos(2 * np.pi * x / 30)
    gain = [np.exp(-2 * (np.pi / period) ** 2 * (2**2 - 1) / 4) for period in (3, 30)]
    assert gain[0] < 0.2 < 0.98 < gain[1]
    for image, share in ((fine, gain[0]), (coarse, gain[1])):
        assert resample(image, (0.5, 0.5))[5:-5, 5:-5].max() < share + 0.02
    assert resample(coarse, (0.5, 0.5)).max() > gain[1] - 0.02


@pytest.mark.parametrize("learnt", [0.1, 0.15, 0.25, 0.4, 0.7])
def test_positions_in_resampled_images_are_mapped_back(learnt) -> None:
    """A network that finds bright spots, at any pixel size: within 0.2 px of the image's own."""
    pixel, ny, nx = 0.2, 120, 150
    y, x = np.mgrid[:ny, :nx]
    points = np.array([[30.3, 25.7], [100.6, 40.2], [60.5, 90.5], [120.0, 100.0]])
    sigma = 4.0
    spots = sum(np.exp(-((x - px) ** 2 + (y - py) ** 2) / (2 * sigma**2)) for px, py in points)
    kernel = np.zeros((3, 3), np.float32)
    kernel[1, 1] = 1.0
    predictor = make_predictor(kernel, pixel_sizes=(learnt, learnt))
    maps = predict_probabilities(predictor, 2 * spots - 1, pixel)
    assert maps.shape == (2, ny, nx)
    assert np.abs(maps.sum(axis=0) - 1).max() < 1e-4
    found = find_positions(maps, pixel_size=pixel)
    assert len(found) == len(points)
    for px, py in points:
        assert np.hypot(found.x - px, found.y - py).min() < 0.2


def test_pixels_that_are_no_squares_are_mapped_back_too() -> None:
    """A lattice of spots recorded with rows twice as far apart as columns."""
    kernel = np.zeros((3, 3), np.float32)
    kernel[1, 1] = 1.0
    y, x = np.mgrid[:60, :150]
    points = np.array([[40.25, 20.5], [100.5, 40.25]])
    spots = sum(np.exp(-((x - a) ** 2 + 4 * (y - b) ** 2) / 40) for a, b in points)
    predictor = make_predictor(kernel, pixel_sizes=(0.2, 0.2))
    maps = predict_probabilities(predictor, 2 * spots - 1, (0.4, 0.2))
    assert maps.shape == (2, 60, 150)
    found = find_positions(maps, pixel_size=float(np.sqrt(0.08)))
    for px, py in points:
        assert np.hypot(found.x - px, found.y - py).min() < 0.2
    assert len(found) == 2


def test_an_image_too_small_once_resampled_is_refused_with_both_sizes() -> None:
    predictor = make_predictor(EVEN, pixel_sizes=(0.4, 0.4))
    with pytest.raises(ConfigError, match=r"40 x 60 pixels \(resampled to 10 x 15\) is too small"):
        predict_probabilities(predictor, draw_noise(40, 60), 0.1)


def test_a_whole_image_that_memory_does_not_hold_is_refused() -> None:
    """A network of 16 filters in its first level: 16 maps of 4 bytes, twice that where two meet."""
    network = build_network(Network(name="residual_unet", width=16), 1)
    weight = weigh(network, 16)
    assert weight == 4 * 2 * 16 * 4
    predictor = replace(make_predictor(EVEN), weight=1e15 / 64**2)  # a petabyte
    with pytest.raises(MachineError, match=r"64 x 64 pixels needs about .* leave --whole"):
        predict_probabilities(predictor, draw_noise(64, 64), tiling=Tiling(whole=True))
    predict_probabilities(predictor, draw_noise(60, 64), tiling=Tiling(symmetries=False))


def test_progress_counts_tiles() -> None:
    told: list[tuple[int, int]] = []
    predict_probabilities(
        make_predictor(EVEN), draw_noise(64, 64), tell=lambda done, of: told.append((done, of))
    )
    assert told[-1] == (25, 25) and [done for done, _ in told] == sorted({d for d, _ in told})
