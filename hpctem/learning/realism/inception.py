"""Features of Inception v3, for the Frechet Inception distance; its weights are given by the user.

The weights are those that Keras publishes without the classifier, file
inception_v3_weights_tf_dim_ordering_tf_kernels_notop.h5. They are not part of hpctem and are not
downloaded. Distances of other implementations, whose weights or resizing differ, are not the same.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np

from hpctem.errors import ConfigError

SIDE = 299
AT_ONCE = 16
NAME = "inception_v3_weights_tf_dim_ordering_tf_kernels_notop.h5"


def open_inception(path: Path) -> Callable[[np.ndarray], np.ndarray]:
    """The network as a function of patches (n, side, side) in -1...1 to features (n, 2048).

    Patches are resized bilinearly to 299 x 299 pixels, the same in all three colours; features are
    those of the last pooling (Heusel et al., NIPS 2017). Raises ConfigError for weights that are
    missing or of another network.
    """
    if not path.is_file():
        raise ConfigError(
            f"there are no weights {path}: the FID needs those of Inception v3, the file {NAME} "
            "that Keras publishes; without --inception the FID is left out"
        )
    import h5py

    if not h5py.is_hdf5(path):
        raise _refuse(path, "it is no HDF5 file")
    import keras

    network = keras.applications.InceptionV3(
        include_top=False, weights=None, input_shape=(SIDE, SIDE, 3), pooling="avg"
    )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # one for each layer that is not there
            network.load_weights(path)
    except (ValueError, OSError, KeyError, IndexError, TypeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise _refuse(path, reason) from error

    def compute(patches: np.ndarray) -> np.ndarray:
        parts = []
        for start in range(0, len(patches), AT_ONCE):
            grey = np.asarray(patches[start : start + AT_ONCE], np.float32)[..., None]
            resized = keras.ops.image.resize(grey, (SIDE, SIDE), interpolation="bilinear")
            colours = keras.ops.repeat(resized, 3, axis=-1)
            parts.append(np.asarray(network(colours, training=False)))
        return np.concatenate(parts).astype(np.float64)

    return compute


def _refuse(path: Path, reason: str) -> ConfigError:
    return ConfigError(
        f"{path} does not hold the weights of Inception v3 without its classifier ({NAME}): "
        f"{reason}"
    )
