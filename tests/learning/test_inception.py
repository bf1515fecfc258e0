"""Features of Inception v3, with weights drawn at random: the published ones are the user's."""

from __future__ import annotations

from pathlib import Path

import h5py
import keras
import numpy as np
import pytest
from keras.src.legacy.saving.legacy_h5_format import save_weights_to_hdf5_group

from hpctem.errors import ConfigError
from hpctem.learning.realism.inception import SIDE, open_inception
from hpctem.learning.realism.measures import measure_frechet


@pytest.fixture(scope="module")
def network() -> keras.Model:
    keras.utils.set_random_seed(1)
    return keras.applications.InceptionV3(
        include_top=False, weights=None, input_shape=(SIDE, SIDE, 3), pooling="avg"
    )


def test_features_are_those_of_the_weights_that_were_given(
    network: keras.Model, tmp_path: Path
) -> None:
    # As published files are: weights by layers in their order, not by the names of this Keras.
    path = tmp_path / "given.h5"
    with h5py.File(path, "w") as file:
        save_weights_to_hdf5_group(file, network)
    generator = np.random.default_rng(0)
    patches = generator.uniform(-1, 1, (2, SIDE, SIDE)).astype(np.float32)
    features = open_inception(path)(patches)
    assert features.shape == (2, 2048) and features.dtype == np.float64
    colours = np.repeat(patches[..., None], 3, axis=-1)
    known = np.asarray(network(colours, training=False))
    np.testing.assert_allclose(features, known, rtol=1e-4, atol=1e-6)
    assert measure_frechet(features, features) == pytest.approx(0, abs=1e-9)
    assert measure_frechet(features, features + 0.5) == pytest.approx(2048 * 0.25)


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    other = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    other.save_weights(tmp_path / "other.weights.h5")
    (tmp_path / "text.h5").write_text("no weights")
    for name in ("other.weights.h5", "text.h5"):
        with pytest.raises(ConfigError, match="does not hold the weights of Inception v3"):
            open_inception(tmp_path / name)
