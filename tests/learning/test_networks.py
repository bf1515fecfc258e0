"""Networks: as large as the papers say, of any size of image, the same wherever in the image."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import keras
import numpy as np
import pytest

from hpctem.errors import ConfigError
from hpctem.learning.networks import residual_unet as residual
from hpctem.learning.networks import unet_resnet18 as resnet
from hpctem.learning.networks.build import (
    build_network,
    measure_extent,
    reach_of,
    receptive_field_of,
    stride_of,
)
from hpctem.learning.networks.generator import generator
from hpctem.learning.networks.instance_norm import InstanceNormalization
from hpctem.learning.networks.patchgan import LEAST_SIDE, RECEPTIVE_FIELD, patchgan
from hpctem.learning.networks.residual_unet import residual_unet
from hpctem.learning.networks.seeds import derive_seed
from hpctem.learning.networks.unet_resnet18 import unet_resnet18
from hpctem.sections.training import Network

SEGMENTERS = {"unet_resnet18": (unet_resnet18, resnet), "residual_unet": (residual_unet, residual)}
Make = Callable[..., keras.Model]


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def apply(network: keras.Model, images: np.ndarray, training: bool = False) -> np.ndarray:
    return keras.ops.convert_to_numpy(network(images, training=training))


@pytest.fixture
def half_precision() -> Iterator[None]:
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_float16")
    yield
    keras.config.set_dtype_policy(before)


def test_unet_resnet18_has_about_14_million_parameters() -> None:
    found = measure_extent(unet_resnet18(2), 64).parameters

    # Basic blocks of He et al.: 3 x 3 convolutions, two numbers a channel for each normalisation,
    # projections where filters double; then three times up with concatenation.
    def block(below: int, filters: int) -> int:
        project = below * filters + 2 * filters if below != filters else 0
        return 9 * below * filters + 9 * filters**2 + 4 * filters + project

    stages = [block(a, b) + block(b, b) for a, b in ((64, 64), (64, 128), (128, 256), (256, 512))]
    up = [9 * (2 * f + f) * f + 9 * f * f + 4 * f for f in (256, 128, 64)]
    assert found == 49 * 64 + 128 + sum(stages) + sum(up) + 9 * 64 * 2 + 2
    assert found == pytest.approx(14e6, rel=0.05)


def test_residual_unet_has_about_2_57_million_parameters() -> None:
    assert residual_unet(2).count_params() == pytest.approx(2.57e6, rel=0.002)
    assert measure_extent(residual_unet(2), 64).parameters == pytest.approx(2.57e6, rel=0.02)


def test_generator_and_patchgan_have_the_papers_54_4_and_2_76_million_parameters() -> None:
    assert generator().count_params() == pytest.approx(54.4e6, rel=0.001)
    # 4 x 4 convolutions without bias, scale and offset of three normalisations, one judgement.
    plain = 16 * (64 + 64 * 128 + 128 * 256 + 256 * 512 + 512)
    assert patchgan().count_params() == plain + 2 * (128 + 256 + 512) + 1
    assert patchgan().count_params() == pytest.approx(2.76e6, rel=0.002)


@pytest.mark.parametrize("name", SEGMENTERS)
def test_segmenters_give_a_logit_per_class_and_pixel_at_any_size(name: str) -> None:
    make, module = SEGMENTERS[name]
    network = make(3, width=2)

    for sides in ((1, 1), (2, 5), (3, 2)):
        y, x = (side * module.STRIDE for side in sides)
        assert network(noise(2, y, x, 1)).shape == (2, y, x, 3)


def test_patchgan_judges_256_pixels_by_30_and_any_side_by_its_eighth_less_two() -> None:
    network = patchgan(width=2)

    assert network(noise(1, 256, 256, 1)).shape == (1, 30, 30, 1)
    assert network(noise(1, 64, 40, 1)).shape == (1, 6, 3, 1)
    assert network(noise(1, LEAST_SIDE, 25, 1)).shape == (1, 1, 2, 1)


@pytest.mark.parametrize("levels", [3, 4, 6])
def test_generator_gives_images_of_minus_1_to_1_of_the_same_shape(levels: int) -> None:
    side = 2**levels
    images = 50 * noise(2, 2 * side, side, 1)
    found = apply(generator(width=2, levels=levels), images)

    assert found.shape == images.shape
    assert np.abs(found).max() <= 1


def test_a_bottleneck_of_one_pixel_still_carries_the_image() -> None:
    # Normalised, one pixel is zero, and the innermost level says the same of every image.
    network = generator(width=4, levels=3, dropout=0.0)
    inner = keras.Model(network.input, network.get_layer("down2").output)
    after = keras.Model(network.input, network.get_layer("up1").output)

    first, second = noise(1, 8, 8, 1), noise(1, 8, 8, 1, seed=1)
    assert inner(first).shape[1:3] == (1, 1)
    assert (
        np.abs(apply(after, first) - apply(after, second)).max()
        > 1e-3 * np.abs(apply(after, first)).max()
    )
    assert {layer.name for layer in network.layers if "norm" in layer.name} == {
        "down1_norm",
        "up1_norm",
        "up0_norm",
    }


@pytest.mark.parametrize(("cut", "seen_by"), [("down1", "image"), ("down2", "up0")])
def test_every_level_of_the_generator_goes_past_those_below_it(cut: str, seen_by: str) -> None:
    network = generator(width=2, levels=3)
    kernel = network.get_layer(cut).kernel
    kernel.assign(keras.ops.zeros_like(kernel))
    above = keras.Model(network.input, network.get_layer(seen_by).output)

    first, second = apply(above, noise(1, 16, 16, 1)), apply(above, noise(1, 16, 16, 1, seed=1))

    assert np.abs(first - second).max() > 1e-3 * np.abs(first).max()


def test_only_the_three_innermost_of_eight_levels_have_dropout() -> None:
    names = [layer.name for layer in generator(width=1).layers if "dropout" in layer.name]

    assert names == ["up6_dropout", "up5_dropout", "up4_dropout"]


def test_instance_normalisation_makes_every_channel_of_every_image_mean_0_deviation_1() -> None:
    features = 3 + 5 * noise(2, 6, 7, 4)
    features[0, ..., 1] = 4.0
    layer = InstanceNormalization(name="norm")
    layer.build(features.shape)
    scale = np.array([1.0, 2.0, 0.5, -1.0], np.float32)
    offset = np.array([0.0, 0.25, -1.0, 3.0], np.float32)
    layer.set_weights([scale, offset])

    mean = features.mean((1, 2), keepdims=True)
    deviation = np.sqrt(features.var((1, 2), keepdims=True) + 1e-5)
    expected = (features - mean) / deviation * scale + offset

    assert apply(layer, features) == pytest.approx(expected, abs=2e-6)


def test_instance_normalisation_takes_brightness_and_contrast_away() -> None:
    layer = InstanceNormalization(name="norm")
    features = noise(1, 8, 8, 2)

    assert apply(layer, 1000 + 7 * features) == pytest.approx(apply(layer, features), abs=1e-3)


def responses(name: str, side: int) -> tuple[int, np.ndarray]:
    """Where the result changes with single pixels of a blank image: (stride, places, side).

    All kernels are made positive and normalisations left out, so that nothing cancels: without a
    lit pixel in its field the result is exactly zero.
    """
    make, module = SEGMENTERS[name]
    network = make(2, width=1, normalise=keras.layers.Identity)
    for weight in network.trainable_weights:
        weight.assign(np.abs(weight.numpy()) + 0.01 if "kernel" in weight.path else 0 * weight)
    middle = side // 2
    images = np.zeros((module.STRIDE, side, side, 1), np.float32)
    for place in range(module.STRIDE):
        images[place, middle, middle + place] = 1
    return module.STRIDE, apply(network, images)[..., 0].max(axis=1) > 0


@pytest.mark.parametrize(("name", "side"), [("unet_resnet18", 192), ("residual_unet", 352)])
def test_receptive_fields_are_as_stated(name: str, side: int) -> None:
    stride, lit = responses(name, side)
    # What a result sees of inputs to its left and right, by its place within a stride.
    seen: dict[int, list[int]] = {}
    for place in range(stride):
        for end in np.flatnonzero(lit[place]):
            seen.setdefault(int(end) % stride, []).append(side // 2 + place - int(end))
    section = Network(name=name)

    assert not lit[:, 0].any() and not lit[:, -1].any()
    assert receptive_field_of(section) == max(max(s) - min(s) + 1 for s in seen.values())
    assert reach_of(section) == max(max(map(abs, s)) for s in seen.values())


def test_a_judgement_is_of_70_pixels() -> None:
    network = patchgan(width=1)
    # Normalisations see everything: what convolutions see is found without them.
    x = network.input
    for layer in network.layers[1:]:
        x = x if isinstance(layer, InstanceNormalization) else layer(x)
    bare = keras.Model(network.input, x)
    for weight in bare.trainable_weights:
        weight.assign(np.abs(weight.numpy()) + 0.01 if "kernel" in weight.path else 0 * weight)
    images = np.zeros((160, 160, 160, 1), np.float32)
    images[np.arange(160), 80, np.arange(160)] = 1
    seen = np.flatnonzero(apply(bare, images)[:, :, 9, 0].max(axis=1) > 0)

    assert seen[-1] - seen[0] + 1 == RECEPTIVE_FIELD


@pytest.mark.parametrize(("name", "side"), [("unet_resnet18", 176), ("residual_unet", 336)])
def test_a_shift_by_the_stride_shifts_the_result(name: str, side: int) -> None:
    make, module = SEGMENTERS[name]
    network = make(2, width=2)
    shift, reach = module.STRIDE, module.REACH
    field = noise(1, side + shift, side + shift, 1)

    first = apply(network, field[:, :side, :side])
    second = apply(network, field[:, shift:, shift:])
    inner = slice(reach + shift, side - reach)
    there = slice(reach, side - reach - shift)

    assert side - reach > reach + shift
    assert second[:, there, there] == pytest.approx(first[:, inner, inner], abs=1e-5)
    assert np.abs(first[:, inner, inner]).max() > 1e-2


def test_a_shift_by_half_a_stride_does_not_shift_the_result() -> None:
    # Otherwise the test above would say nothing of strides.
    network = unet_resnet18(2, width=2)
    field = noise(1, 180, 180, 1)

    first, second = apply(network, field[:, :176, :176]), apply(network, field[:, 4:, 4:])

    assert np.abs(second[:, 82:94, 82:94] - first[:, 86:98, 86:98]).max() > 1e-3


@pytest.mark.parametrize(
    ("make", "sides", "words"),
    [
        (lambda: unet_resnet18(2, width=1), (60, 64), "60 x 64 .*multiples of 8"),
        (lambda: residual_unet(2, width=1), (32, 40), "32 x 40 .*multiples of 16"),
        (lambda: generator(width=1, levels=4), (24, 32), "24 x 32 .*multiples of 16"),
        (lambda: patchgan(width=1), (16, 64), "16 x 64 .*24 or longer"),
    ],
)
def test_images_that_do_not_fit_are_named(make: Make, sides: tuple[int, int], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        make()(noise(1, *sides, 1))


@pytest.mark.parametrize(
    "make",
    [
        lambda seed: unet_resnet18(2, width=2, dropout=0.2, seed=seed),
        lambda seed: residual_unet(2, width=2, seed=seed),
        lambda seed: generator(width=2, levels=6, seed=seed),
        lambda seed: patchgan(width=2, seed=seed),
    ],
)
def test_weights_and_dropout_follow_from_the_seed_alone(make: Make) -> None:
    images = noise(1, 64, 64, 1)
    keras.utils.set_random_seed(1)
    first = make(7)
    keras.utils.set_random_seed(2)
    second, other = make(7), make(8)

    assert [w.path for w in first.weights] == [w.path for w in second.weights]
    for one, two in zip(first.variables, second.variables, strict=True):
        assert np.array_equal(one.numpy(), two.numpy()), one.path
    assert np.array_equal(apply(first, images, True), apply(second, images, True))
    kernels = [
        (one.numpy(), two.numpy())
        for one, two in zip(first.trainable_weights, other.trainable_weights, strict=True)
        if "kernel" in one.path
    ]
    assert kernels and not any(np.array_equal(one, two) for one, two in kernels)


def test_layers_of_one_shape_begin_differently() -> None:
    network = unet_resnet18(2, width=2)
    kernels = [w.numpy() for w in network.trainable_weights if w.shape == (3, 3, 2, 2)]

    # Four of the first stage, the last of the way up, and the logits.
    assert len({kernel.tobytes() for kernel in kernels}) == len(kernels) == 6
    names = [derive_seed(0, "a"), derive_seed(0, "b"), derive_seed(1, "a")]
    assert len(set(names)) == 3


def test_the_two_generators_of_a_cycle_begin_differently() -> None:
    one, two = generator(2, 3, seed=5, name="to_experiment"), generator(2, 3, seed=5, name="back")

    pairs = zip(one.trainable_weights, two.trainable_weights, strict=True)
    assert not any(np.array_equal(a.numpy(), b.numpy()) for a, b in pairs if "kernel" in a.path)


def test_dropout_goes_on_where_its_variables_left_off() -> None:
    images = noise(1, 32, 32, 1)
    whole, cut = residual_unet(2, width=2, dropout=0.5), residual_unet(2, width=2, dropout=0.5)
    first = [apply(whole, images, True) for _ in range(3)]
    kept = [variable.numpy() for variable in whole.variables]
    fourth = apply(whole, images, True)

    for variable, value in zip(cut.variables, kept, strict=True):
        variable.assign(value)

    assert not np.array_equal(first[1], first[2])
    assert np.array_equal(apply(cut, images, True), fourth)
    assert np.array_equal(apply(cut, images), apply(whole, images))


def test_kernels_of_the_cycle_begin_as_normal_draws_of_deviation_0_02() -> None:
    for network in (generator(width=16, levels=6), patchgan(width=32)):
        kernels = [w.numpy() for w in network.trainable_weights if "kernel" in w.path]
        values = np.concatenate([kernel.ravel() for kernel in kernels])
        # Over 300,000 draws: standard errors of mean and deviation are below 4e-5 and 3e-5.
        assert values.size > 300_000
        assert values.mean() == pytest.approx(0, abs=2e-4)
        assert values.std() == pytest.approx(0.02, abs=1.5e-4)


@pytest.mark.usefixtures("half_precision")
@pytest.mark.parametrize(
    "make",
    [
        lambda: unet_resnet18(2, width=2),
        lambda: residual_unet(2, width=2),
        lambda: generator(width=2, levels=4),
        lambda: patchgan(width=2),
    ],
)
def test_results_are_float32_under_mixed_precision(make: Make) -> None:
    network = make()
    found = network(noise(1, 32, 32, 1))
    kinds = {layer.compute_dtype for layer in network.layers if "Conv" in type(layer).__name__}

    assert found.dtype == "float32"
    assert kinds == {"float16", "float32"}
    assert {weight.dtype for weight in network.trainable_weights} == {"float32"}
    assert np.isfinite(found.numpy()).all()


def test_networks_follow_the_training_file() -> None:
    wide = build_network(Network(name="residual_unet", width=4, dropout=0.25), 2)
    plain = build_network(Network(name="unet_resnet18", width=2), 3, keras.layers.Identity)
    rates = [layer.rate for layer in wide.layers if isinstance(layer, keras.layers.Dropout)]

    assert wide.output_shape == (None, None, None, 3)
    assert wide.get_layer("down0_first").filters == 4
    assert rates == [0.25] * 8
    assert plain.output_shape == (None, None, None, 4)
    assert not any(isinstance(x, keras.layers.BatchNormalization) for x in plain.layers)
    assert not any(isinstance(x, keras.layers.Dropout) for x in plain.layers)
    assert [stride_of(Network(name=name)) for name in SEGMENTERS] == [8, 16]


def test_dropout_can_be_asked_for_and_left_out() -> None:
    some = build_network(Network(name="unet_resnet18", width=1, dropout=0.3), 1)
    none = build_network(Network(name="residual_unet", width=1, dropout=0.0), 1)

    assert [x.rate for x in some.layers if isinstance(x, keras.layers.Dropout)] == [0.3] * 3
    assert not any(isinstance(x, keras.layers.Dropout) for x in none.layers)


def test_the_papers_values_are_the_defaults() -> None:
    network = build_network(Network(name="residual_unet"), 1)
    rates = {layer.rate for layer in network.layers if isinstance(layer, keras.layers.Dropout)}

    assert [network.get_layer(f"down{n}_first").filters for n in range(4)] == [16, 32, 64, 128]
    assert network.get_layer("bottom_first").filters == 256
    assert rates == {0.1}
    assert sum(isinstance(layer, keras.layers.MaxPooling2D) for layer in network.layers) == 4
    assert [
        network.get_layer(f"stage{n}a_first").filters
        for network in [build_network(Network(name="unet_resnet18"), 1)]
        for n in range(4)
    ] == [64, 128, 256, 512]


def test_multiply_adds_are_those_of_the_convolutions() -> None:
    images = keras.Input((None, None, 1))
    x = keras.layers.Conv2D(4, 3, 2, "same")(images)
    x = keras.layers.Conv2DTranspose(2, 5, 2, "same")(x)
    network = keras.Model(images, x)

    # A quarter of the pixels: 9 x 1 x 4 numbers for each of them down, 25 x 4 x 2 up.
    assert measure_extent(network, 32).multiply_adds == (36 + 200) / 4
    assert measure_extent(network, 32).parameters == 36 + 4 + 200 + 2
