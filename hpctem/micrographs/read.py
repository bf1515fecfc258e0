"""Experimental images from their files, with what the file says about them.

DM3, DM4, EMD, HSPY, TIA and the rest are read by RosettaSciIO, which is optional (`pip install
'hpctem[images]'`); arrays of NumPy, PNG, JPEG, BMP and plain TIFF need nothing.
"""

from __future__ import annotations

import importlib
import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from hpctem.errors import ConfigError
from hpctem.units import parse_quantity

RASTERS = (".png", ".jpg", ".jpeg", ".bmp", ".gif")
TIFFS = (".tif", ".tiff")
SMALLEST = 32  # pixels a side
RECIPROCAL = ("1/", "^-1", "⁻¹", "mrad", "rad", "deg")
# What headers call a quantity: the last two names of its path, the factor to the internal unit.
HEADERS: dict[str, tuple[tuple[str, str, float], ...]] = {
    "energy": (
        ("TEM", "beam_energy", 1e3),
        ("Microscope Info", "Voltage", 1.0),
        ("Optics", "AccelerationVoltage", 1.0),
    ),
    "semiangle": (("TEM", "convergence_angle", 1e-3), ("Optics", "BeamConvergence", 1.0)),
    "current": (
        ("TEM", "beam_current", 1e3),
        ("Microscope Info", "Probe Current (nA)", 1e3),
        ("Optics", "LastMeasuredScreenCurrent", 1e12),
    ),
    "dwell time": (
        ("STEM", "dwell_time", 1e6),
        ("DigiScan", "Sample Time", 1.0),
        ("Scan", "DwellTime", 1e6),
    ),
    "line time": (("Scan", "LineTime", 1e6),),
    "frame time": (("Scan", "FrameTime", 1e6),),
}


@dataclass(frozen=True)
class Micrograph:
    """An experimental image as its file gives it.

    `image` is float32 (ny, nx) in the units of the file, rows downwards; `pixel_size` in A along
    (y, x) and `energy` in eV, both None where the file does not say. `source` holds what else the
    header says, by names: 'current' in pA, times in microseconds, angles in radian.
    """

    image: np.ndarray
    pixel_size: tuple[float, float] | None
    energy: float | None
    title: str
    source: Mapping[str, Any] = field(default_factory=dict)


def read_micrograph(path: str | Path, frame: int | str | None = None) -> Micrograph:
    """Read one image: float32 (ny, nx) with pixel size, energy and what else the header says.

    path: a file, or 'file::name' for one of several images in it. frame: of a stack, which one
    from 0, or 'mean' of all (an aligned series). Lengths become A, energies eV.

    Raises ConfigError when there is no such file, its format is unknown or damaged, it holds no
    image, several, a stack and no `frame`, a colour image, a diffraction pattern, values that are
    not finite, or fewer than 32 pixels a side.
    """
    name, _, wanted = str(path).partition("::")
    file = Path(name)
    if not file.is_file():
        what = "is a folder, not an image" if file.is_dir() else "does not exist"
        raise ConfigError(f"{file} {what}")
    if file.stat().st_size == 0:
        raise ConfigError(f"{file} is empty")
    signal = _choose(_read_signals(file), file, wanted)
    values = _choose_frame(_grey(signal["data"], file), file, frame)
    _check(values, file)
    facts = _facts(signal)
    return Micrograph(
        np.ascontiguousarray(values, dtype=np.float32),
        _pixel_size(signal, file),
        facts.pop("energy", None),
        _title(signal) or file.stem,
        {"file": file.name, "dtype": str(signal["data"].dtype), **facts},
    )


def _read_signals(file: Path) -> list[dict[str, Any]]:
    """All signals of a file as RosettaSciIO gives them: data, axes, metadata, original_metadata."""
    suffix = file.suffix.lower()
    if suffix == ".npy":
        return [{"data": _read_array(file)}]
    if suffix in RASTERS:
        return [{"data": _read_raster(file)}]
    try:
        import rsciio
    except ImportError:
        if suffix in TIFFS:
            return [{"data": _read_raster(file)}]
        raise ConfigError(
            f"{file}: reading {suffix or 'such'} files needs RosettaSciIO: "
            "pip install 'hpctem[images]'"
        ) from None
    known: dict[str, list[Any]] = {}
    for plugin in rsciio.IO_PLUGINS:
        for ending in {ending.lower() for ending in plugin["file_extensions"]}:
            known.setdefault(ending, []).append(plugin)
    if suffix.lstrip(".") not in known:
        raise ConfigError(
            f"{file} is of no known image format: the ending {suffix or 'is missing'!r} is not "
            "one of .dm3, .dm4, .emd, .hspy, .ser, .mrc, .tif, .png, .npy or others of RosettaSciIO"
        )
    failures = []
    for plugin in known[suffix.lstrip(".")]:
        reader = importlib.import_module(plugin["api"]).file_reader
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                return list(reader(str(file)))
        except Exception as error:  # a foreign reader meets a foreign file: anything may be raised
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            failures.append(f"{plugin['name']}: {reason}")
    raise ConfigError(f"{file} cannot be read as {suffix}: {'; '.join(failures)}")


def _read_array(file: Path) -> np.ndarray:
    try:
        return np.load(file, allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise ConfigError(f"{file} cannot be read as an array of NumPy: {error}") from None


def _read_raster(file: Path) -> np.ndarray:
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(file) as opened:
            frames = getattr(opened, "n_frames", 1)
            if frames == 1:
                image = opened.convert("RGB") if opened.mode == "P" else opened
                return np.asarray(image)
            stack = []
            for k in range(frames):
                opened.seek(k)
                image = opened.convert("RGB") if opened.mode == "P" else opened
                stack.append(np.asarray(image))
            return np.stack(stack)
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError) as error:
        raise ConfigError(f"{file} cannot be read as an image: {error}") from None


def _choose(signals: Sequence[dict[str, Any]], file: Path, wanted: str) -> dict[str, Any]:
    """The one image among a file's signals, or the one of that name."""
    images = [s for s in signals if np.ndim(s["data"]) >= 2 and min(s["data"].shape[-2:]) > 1]
    if not images:
        raise ConfigError(f"{file} holds no image, but {len(signals)} signals of other kinds")
    names = _name(images)
    if wanted:
        if wanted not in names:
            raise ConfigError(f"{file} holds no image {wanted!r}; it has: {', '.join(names)}")
        return images[names.index(wanted)]
    if len(images) > 1:
        raise ConfigError(
            f"{file} holds {len(images)} images: {', '.join(names)}; "
            f"choose one as '{file}::{names[0]}'"
        )
    return images[0]


def _name(images: Sequence[Mapping[str, Any]]) -> list[str]:
    """Titles of the images; those that are there twice are numbered."""
    titles = [_title(image) or "image" for image in images]
    return [
        title if titles.count(title) == 1 else f"{title}#{titles[: k + 1].count(title)}"
        for k, title in enumerate(titles)
    ]


def _title(signal: Mapping[str, Any]) -> str:
    return str(signal.get("metadata", {}).get("General", {}).get("title", "") or "")


def _grey(data: Any, file: Path) -> np.ndarray:
    """Real numbers of an image or a stack; three equal colours are one grey."""
    values = np.asarray(data)
    if values.dtype.names is not None:  # RosettaSciIO's rgb8, rgba16
        values = np.stack([values[name] for name in values.dtype.names], axis=-1)
    if np.iscomplexobj(values):
        raise ConfigError(f"{file} holds complex numbers, not intensities")
    if values.dtype.kind not in "biuf":
        raise ConfigError(f"{file} holds no numbers but {values.dtype}")
    if values.ndim >= 3 and values.shape[-1] in (2, 3, 4) and values.shape[-2] > 4:
        colours = values[..., : 3 if values.shape[-1] > 2 else 1]
        if (colours != colours[..., :1]).any():
            raise ConfigError(f"{file} is a colour image: save the intensities as a grey one")
        values = colours[..., 0]
    return values


def _choose_frame(values: np.ndarray, file: Path, frame: int | str | None) -> np.ndarray:
    if values.ndim > 3 and math.prod(values.shape[:-2]) > 1:
        raise ConfigError(f"{file} has {values.ndim} dimensions, {values.shape}: no image or stack")
    stack = values.reshape(-1, *values.shape[-2:])
    count = len(stack)
    if frame is None and count > 1:
        raise ConfigError(
            f"{file} is a stack of {count} frames: choose one with --frame 0 to {count - 1}, or "
            "--frame mean for an aligned series"
        )
    if frame == "mean":
        return stack.mean(axis=0, dtype=np.float64)
    number = int(frame or 0)
    if not 0 <= number < count:
        raise ConfigError(f"{file} has frames 0 to {count - 1}, no frame {number}")
    return stack[number]


def _check(values: np.ndarray, file: Path) -> None:
    ny, nx = values.shape
    if min(ny, nx) < SMALLEST:
        raise ConfigError(f"{file} is {ny} x {nx} pixels; at least {SMALLEST} a side are needed")
    bad = values.size - int(np.isfinite(values).sum())
    if bad:
        raise ConfigError(f"{file}: {bad} of {values.size} pixels are not finite numbers")
    if values.min() == values.max():
        raise ConfigError(f"{file} is flat: every pixel is {values.flat[0]}")


def _pixel_size(signal: Mapping[str, Any], file: Path) -> tuple[float, float] | None:
    """A along y and x, from the last two axes; None where they have no unit of length."""
    axes = signal.get("axes", ())
    sizes = []
    for axis in axes[-2:]:
        unit = str(axis.get("units", "") or "").strip()
        if any(mark in unit for mark in RECIPROCAL):
            raise ConfigError(
                f"{file}: its axes are in {unit}, so it is a diffraction pattern, not an image"
            )
        try:
            size = float(axis.get("scale", 0.0)) * parse_quantity(f"1 {unit}", "length")
        except ValueError:
            return None
        if not (math.isfinite(size) and size > 0):
            return None
        sizes.append(size)
    return (sizes[0], sizes[1]) if len(sizes) == 2 else None


def _facts(signal: Mapping[str, Any]) -> dict[str, Any]:
    """What the header says about the recording, in internal units; what it does not is left out."""
    found: dict[str, Any] = {}
    entries = list(_walk(signal.get("metadata", {}))) + list(
        _walk(signal.get("original_metadata", {}))
    )
    for name, headings in HEADERS.items():
        for above, last, factor in headings:
            for path, value in entries:
                if name not in found and path[-2:] == (above, last):
                    number = _number(value)
                    if number is not None and number > 0:
                        found[name] = number * factor
    detector = next((str(v) for path, v in entries if path[-1] == "Detector" and v), None)
    if detector is not None:
        found["detector"] = detector
        if (angles := _collection(entries, detector)) is not None:
            found["collection"] = angles
    general = signal.get("metadata", {}).get("General", {})
    if "date" in general:
        found["date"] = f"{general['date']} {general.get('time', '')}".strip()
    return found


def _collection(entries: Sequence[tuple], detector: str) -> tuple[float, float] | None:
    """Inner and outer angle (rad) of that detector in a header of Velox."""
    home = next((p[:-1] for p, v in entries if p[-1] == "DetectorName" and v == detector), None)
    if home is None:
        return None
    ends = {
        path[-1]: _number(value)
        for path, value in entries
        if path[:-1] == (*home, "CollectionAngleRange")
    }
    inner, outer = ends.get("begin"), ends.get("end")
    return (inner, outer) if inner is not None and outer and inner < outer else None


def _walk(tree: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Leaves of nested mappings that are numbers or text, with the names that lead to them."""
    if isinstance(tree, Mapping):
        for name, branch in tree.items():
            yield from _walk(branch, (*path, str(name)))
    elif isinstance(tree, str | int | float | np.number):
        yield path, tree


def _number(value: Any) -> float | None:
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None
