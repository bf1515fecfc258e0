"""Micrographs are read with their scale, and what cannot be read says why."""

from __future__ import annotations

import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image

from hpctem.errors import ConfigError
from hpctem.micrographs.read import read_micrograph

rsciio = pytest.importorskip("rsciio", reason="RosettaSciIO is not installed")


def picture(seed: int = 0, shape: tuple[int, int] = (40, 50)) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 200, shape).astype(np.uint8)


def signal(data: np.ndarray, units: str = "nm", scale: float = 0.0134, title: str = "ADF") -> dict:
    """An image as RosettaSciIO takes it."""
    names = ["frame", "y", "x"][-data.ndim :]
    axes = [
        {
            "name": name,
            "size": size,
            "scale": scale if name != "frame" else 1.0,
            "offset": 0.0,
            "units": units if name != "frame" else "",
            "navigate": name == "frame",
            "index_in_array": k,
        }
        for k, (name, size) in enumerate(zip(names, data.shape, strict=True))
    ]
    tem = {"beam_energy": 60.0, "convergence_angle": 30.0}
    metadata = {
        "General": {"title": title},
        "Signal": {"signal_type": ""},
        "Acquisition_instrument": {"TEM": tem},
    }
    empty = ("original_metadata", "tmp_parameters", "learning_results", "models", "package_info")
    rest = {name: {} for name in empty} | {"attributes": {"_lazy": False}}
    return {"data": data, "axes": axes, "metadata": metadata, **rest}


def write_hspy(path: Path, **options: object) -> Path:
    from rsciio.hspy import file_writer

    data = options.pop("data", picture())
    file_writer(str(path), signal(data, **options))
    return path


@pytest.mark.parametrize(
    "units, scale", [("nm", 0.0134), ("pm", 13.4), ("µm", 1.34e-5), ("Å", 0.134)]
)
def test_pixel_sizes_come_out_in_angstrom(tmp_path: Path, units: str, scale: float) -> None:
    read = read_micrograph(write_hspy(tmp_path / "a.hspy", units=units, scale=scale))
    assert read.pixel_size == pytest.approx((0.134, 0.134), rel=1e-9)
    assert read.energy == 6e4
    assert read.source["semiangle"] == pytest.approx(0.03)
    assert read.title == "ADF"
    assert read.image.dtype == np.float32
    assert np.array_equal(read.image, picture())


def test_tiffs_keep_their_scale(tmp_path: Path) -> None:
    from rsciio.tiff import file_writer

    file_writer(str(tmp_path / "a.tif"), signal(picture()))
    read = read_micrograph(tmp_path / "a.tif")
    assert np.array_equal(read.image, picture())
    assert read.pixel_size == pytest.approx((0.134, 0.134), rel=1e-4)


def test_berkeley_emd_is_read(tmp_path: Path) -> None:
    """Written here by hand: group with emd_group_type 1, 'data' and a dimension for each axis."""
    with h5py.File(tmp_path / "a.emd", "w") as file:
        file.attrs.update({"version_major": 0, "version_minor": 2})
        group = file.create_group("data/scan")
        group.attrs["emd_group_type"] = 1
        group["data"] = picture()
        for k, (name, size) in enumerate(zip("yx", picture().shape, strict=True), start=1):
            group[f"dim{k}"] = 0.0134 * np.arange(size)
            group[f"dim{k}"].attrs.update({"name": name, "units": "[n_m]"})
    read = read_micrograph(tmp_path / "a.emd")
    assert read.image.shape == picture().shape or read.image.shape == picture().T.shape


@pytest.mark.parametrize("ending", ["png", "tif", "npy"])
def test_plain_files_have_no_pixel_size(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"a.{ending}"
    if ending == "npy":
        np.save(path, picture())
    else:
        Image.fromarray(picture()).save(path)
    read = read_micrograph(path)
    assert np.array_equal(read.image, picture())
    assert read.pixel_size is None
    assert read.energy is None


def test_without_rosettasciio_plain_files_are_read_and_others_name_the_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "rsciio", None)
    for ending in ("png", "tif"):
        Image.fromarray(picture()).save(tmp_path / f"a.{ending}")
        assert np.array_equal(read_micrograph(tmp_path / f"a.{ending}").image, picture())
    (tmp_path / "a.dm3").write_bytes(b"x" * 100)
    with pytest.raises(ConfigError, match=r"pip install 'hpctem\[images\]'"):
        read_micrograph(tmp_path / "a.dm3")


def test_a_stack_asks_which_frame(tmp_path: Path) -> None:
    stack = np.stack([picture(k) for k in range(3)])
    path = write_hspy(tmp_path / "a.hspy", data=stack)
    with pytest.raises(ConfigError, match="stack of 3 frames: choose one with --frame 0 to 2"):
        read_micrograph(path)
    assert np.array_equal(read_micrograph(path, 1).image, stack[1])
    assert np.allclose(read_micrograph(path, "mean").image, stack.mean(axis=0), atol=1e-4)
    with pytest.raises(ConfigError, match="no frame 3"):
        read_micrograph(path, 3)


def test_one_of_several_images_is_chosen_by_name(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.emd", "w") as file:
        file.attrs.update({"version_major": 0, "version_minor": 2})
        for number, name in enumerate(("adf", "bf")):
            group = file.create_group(f"data/{name}")
            group.attrs["emd_group_type"] = 1
            group["data"] = picture(number, (40, 40))
            for k in (1, 2):
                group[f"dim{k}"] = 0.0134 * np.arange(40)
                group[f"dim{k}"].attrs.update({"name": "yx"[k - 1], "units": "nm"})
    with pytest.raises(ConfigError, match=r"holds 2 images: adf, bf; choose one as .*::adf"):
        read_micrograph(tmp_path / "a.emd")
    chosen = read_micrograph(f"{tmp_path / 'a.emd'}::bf")
    assert sorted(chosen.image.ravel()) == sorted(picture(1, (40, 40)).ravel())
    with pytest.raises(ConfigError, match="no image 'df'; it has: adf, bf"):
        read_micrograph(f"{tmp_path / 'a.emd'}::df")


def test_grey_saved_as_colour_is_grey_and_colour_is_refused(tmp_path: Path) -> None:
    grey = np.repeat(picture()[..., None], 3, axis=2)
    Image.fromarray(grey).save(tmp_path / "grey.png")
    assert np.array_equal(read_micrograph(tmp_path / "grey.png").image, picture())
    grey[3, 4, 1] += 1
    Image.fromarray(grey).save(tmp_path / "colour.png")
    with pytest.raises(ConfigError, match="is a colour image"):
        read_micrograph(tmp_path / "colour.png")


def test_a_diffraction_pattern_is_refused(tmp_path: Path) -> None:
    path = write_hspy(tmp_path / "a.hspy", units="1/nm", scale=0.1)
    with pytest.raises(ConfigError, match="diffraction pattern"):
        read_micrograph(path)


def bad_files(folder: Path) -> dict[str, Path]:
    texts = {name: folder / name for name in ("text.dm3", "text.emd", "text.png", "text.tif")}
    for path in texts.values():
        path.write_text("this is no image\n" * 20)
    (folder / "empty.dm3").touch()
    (folder / "what.xyz1").write_bytes(b"abc")
    np.save(folder / "nan.npy", np.where(picture() == picture()[0, 0], np.nan, 1.0))
    np.save(folder / "flat.npy", np.full((40, 40), 3.0))
    np.save(folder / "small.npy", picture(shape=(8, 40)))
    np.save(folder / "complex.npy", picture() * 1j)
    np.save(folder / "line.npy", np.arange(100.0))
    (folder / "cut.npy").write_bytes((folder / "flat.npy").read_bytes()[:200])
    return {path.name: path for path in folder.iterdir()}


@pytest.mark.parametrize(
    "name, message",
    [
        ("text.dm3", "cannot be read as .dm3"),
        ("text.emd", "cannot be read as .emd"),
        ("text.png", "cannot be read as an image"),
        ("text.tif", "cannot be read as .tif"),
        ("empty.dm3", "is empty"),
        ("what.xyz1", "no known image format"),
        ("nan.npy", "not finite"),
        ("flat.npy", "is flat: every pixel is 3"),
        ("small.npy", "at least 32 a side"),
        ("complex.npy", "complex numbers"),
        ("line.npy", "holds no image"),
        ("cut.npy", "cannot be read as an array"),
    ],
)
def test_what_is_no_micrograph_says_why(tmp_path: Path, name: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read_micrograph(bad_files(tmp_path)[name])


def test_a_missing_file_and_a_folder_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nothing\.dm3 does not exist"):
        read_micrograph(tmp_path / "nothing.dm3")
    with pytest.raises(ConfigError, match="is a folder"):
        read_micrograph(tmp_path)
