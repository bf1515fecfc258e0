"""A simulated database opens in other people's programs, described to the last dataset."""

from __future__ import annotations

import importlib
import os
from pathlib import Path
from types import ModuleType

import h5py
import numpy as np
import pytest

SHAPE = (24, 96, 96)


def need(name: str) -> ModuleType:
    """Import a viewer; where CI says that all are there, a missing one is a failure."""
    try:
        return importlib.import_module(name)
    except ImportError:
        if os.environ.get("CI", "").lower() in ("1", "true"):
            raise
        return pytest.skip(f"{name} is not installed")


@pytest.fixture(scope="module")
def ninth(small: Path) -> np.ndarray:
    """Image 9, by plain h5py."""
    with h5py.File(small) as file:
        return file["/entry/images/intensity"][9]


def test_hyperspy_reads_images_and_labels_lazily(small: Path, ninth: np.ndarray) -> None:
    reader = need("rsciio.nexus")
    signals = reader.file_reader(str(small), lazy=True, nxdata_only=True)
    found = {signal["metadata"]["General"]["title"]: signal for signal in signals}
    assert set(found) == {"images", "labels"}
    for name, dtype in (("images", np.uint16), ("labels", np.uint8)):
        data, axes = found[name]["data"], found[name]["axes"]
        assert data.shape == SHAPE and data.chunksize == (1, 96, 96) and data.dtype == dtype
        assert [(a["name"], a["units"]) for a in axes] == [
            ("image", ""),
            ("y", "angstrom"),
            ("x", "angstrom"),
        ]
        assert [a["scale"] for a in axes] == pytest.approx([1, 0.25, 0.25])
    assert (found["images"]["data"][9].compute() == ninth).all() and ninth.any()


def test_hyperspy_reads_every_column(small: Path) -> None:
    reader = need("rsciio.nexus")
    signals = reader.file_reader(str(small), lazy=True)
    titles = {signal["metadata"]["General"]["title"] for signal in signals}
    assert {"entry_metadata_dose", "entry_structures_height", "entry_waves_exit_wave"} <= titles


def test_silx_plots_the_images_by_default(small: Path) -> None:
    nxdata = need("silx.io.nxdata")
    with h5py.File(small) as file:
        default = nxdata.get_default(file)
        assert default.is_valid and default.is_image and not default.issues
        assert default.title == "small" and default.signal.shape == SHAPE
        assert default.signal.name == "/entry/images/intensity"
        assert [axis.name for axis in default.axes] == [
            f"/entry/images/{name}" for name in ("image", "y", "x")
        ]


def test_nexusformat_plots_the_images_by_default(small: Path, ninth: np.ndarray) -> None:
    nexus = need("nexusformat.nexus")
    with nexus.nxload(str(small), "r") as root:
        data = root.plottable_data
        assert data.nxpath == "/entry/images" and data.nxsignal.shape == SHAPE
        assert [axis.nxname for axis in data.nxaxes] == ["image", "y", "x"]
        assert data["x"].units == "angstrom" and float(data["x"][-1]) == pytest.approx(95 * 0.25)
        assert (data.nxsignal[9].nxvalue == ninth).all()
        assert root.entry.definition == "NXem" and root.entry.nxclass == "NXentry"


def test_every_dataset_is_described(small: Path) -> None:
    silent = []

    def look(name: str, item: object) -> None:
        if isinstance(item, h5py.Dataset) and not item.attrs.get("description"):
            silent.append(name)

    with h5py.File(small) as file:
        file.visititems(look)
        assert file["/entry/campaign/inputs"].attrs["description"].startswith("JSON")
    assert not silent
