"""Other people's programs open the database and show its images with their scale."""

from __future__ import annotations

import importlib
import os
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

sys.path.append(str(Path(__file__).parents[1] / "mpi"))

from synthetic import IMAGES, Compute, lay_out

from hpctem.database.fill import fill

SHAPE = (6 * IMAGES, 24, 24)


@pytest.fixture(scope="module")
def path(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("viewers") / "gold.hdf5"
    assert fill(path, lay_out(6, 1), {}, Compute()).complete
    return path


def need(name: str):
    """Import a viewer; where CI says that all are there, a missing one is a failure."""
    try:
        return importlib.import_module(name)
    except ImportError:
        if os.environ.get("CI", "").lower() in ("1", "true"):
            raise
        return pytest.skip(f"{name} is not installed")


def test_hyperspy_reader_opens_it_lazily_with_calibrated_axes(path):
    reader = need("rsciio.nexus")
    signals = reader.file_reader(str(path), lazy=True, nxdata_only=True)
    found = {signal["metadata"]["General"]["title"]: signal for signal in signals}
    assert set(found) == {"images", "labels"}
    images = found["images"]["data"]
    assert images.shape == SHAPE and images.chunksize == (1, 24, 24)
    np.testing.assert_array_equal(images[9].compute(), _first_images()[9])
    names = [(a["name"], a["units"], a["navigate"]) for a in found["images"]["axes"]]
    assert names == [("image", "", True), ("y", "angstrom", False), ("x", "angstrom", False)]
    assert [a["scale"] for a in found["images"]["axes"]] == pytest.approx([1, 0.2, 0.2])
    (default,) = reader.file_reader(str(path), lazy=True, use_default=True)
    assert default["metadata"]["General"]["title"] == "images"


def test_hyperspy_reader_takes_every_dataset_of_the_file(path):
    reader = need("rsciio.nexus")
    signals = reader.file_reader(str(path), lazy=True)
    titles = {signal["metadata"]["General"]["title"] for signal in signals}
    assert {"images", "labels", "entry_metadata_dose", "entry_structures_radius"} <= titles


def test_silx_plots_the_images_by_default(path):
    nxdata = need("silx.io.nxdata")
    with h5py.File(path) as file:
        default = nxdata.get_default(file)
        assert default.is_valid and default.is_image and default.title == "synthetic"
        assert default.signal.name == "/entry/images/intensity" and default.signal.shape == SHAPE
        assert [axis.name for axis in default.axes] == [
            f"/entry/images/{name}" for name in ("image", "y", "x")
        ]
        assert not default.issues


def test_nexusformat_plots_the_images_by_default(path):
    nexus = need("nexusformat.nexus")
    with nexus.nxload(str(path), "r") as root:
        data = root.plottable_data
        assert data.nxpath == "/entry/images" and data.nxsignal.shape == SHAPE
        assert [axis.nxname for axis in data.nxaxes] == ["image", "y", "x"]
        assert data["x"].units == "angstrom" and float(data["x"][-1]) == pytest.approx(23 * 0.2)
        assert root.entry.definition == "NXem" and root.entry.nxclass == "NXentry"


def _first_images() -> np.ndarray:
    return np.concatenate([Compute()(index).rows["/entry/images/intensity"] for index in range(6)])
