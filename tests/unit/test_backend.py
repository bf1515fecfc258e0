"""The FFTs of every provider, the choice of device, and what the identity says."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from hpctem import backend as module
from hpctem.backend import CPU_FFTS, Backend, select_backend
from hpctem.errors import ConfigError
from hpctem.processor import is_v3

INSTALLED = [name for name in CPU_FFTS if find_spec(name)]


def make_waves(shape: tuple[int, ...], dtype: type) -> np.ndarray:
    generator = np.random.default_rng(1)
    parts = generator.standard_normal((2, *shape))
    return (parts[0] + 1j * parts[1]).astype(dtype)


@pytest.mark.parametrize("fft", INSTALLED)
@pytest.mark.parametrize(("dtype", "tolerance"), [(np.complex64, 1e-6), (np.complex128, 1e-14)])
@pytest.mark.parametrize("shape", [(48, 60), (3, 35, 64)])
def test_transforms(fft: str, dtype: type, tolerance: float, shape: tuple[int, ...]) -> None:
    backend = select_backend("cpu", fft=fft)
    waves = make_waves(shape, dtype)
    exact = np.fft.fft2(waves.astype(np.complex128))
    found = backend.fft2(waves)
    assert found.dtype == dtype
    assert np.abs(found - exact).max() < tolerance * np.abs(exact).max()
    assert np.abs(backend.ifft2(found) - waves).max() < 10 * tolerance
    pixels = shape[-1] * shape[-2]
    assert np.abs(backend.ifft2(found, scaled=False) / pixels - waves).max() < 10 * tolerance
    in_place = waves.copy()
    assert backend.fft2(in_place, out=in_place) is in_place
    np.testing.assert_array_equal(in_place, found)


@pytest.mark.parametrize("fft", INSTALLED)
def test_same_bytes_at_any_alignment(fft: str) -> None:
    backend = select_backend("cpu", fft=fft)
    waves = make_waves((90, 100), np.complex64)
    room = np.empty(waves.size + 8, np.complex64)
    expected = backend.fft2(waves).tobytes()
    for offset in range(4):
        moved = room[offset : offset + waves.size].reshape(waves.shape)
        moved[...] = waves
        assert backend.fft2(moved, out=moved).tobytes() == expected


@pytest.mark.parametrize("fft", INSTALLED)
@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float32, 1e-6), (np.float64, 1e-14)])
@pytest.mark.parametrize("shape", [(48, 60), (35, 63)])
def test_transforms_of_real_planes(fft: str, dtype: type, tolerance: float, shape) -> None:
    backend = select_backend("cpu", fft=fft)
    plane = make_waves(shape, np.complex128).real.astype(dtype)
    kept = plane.copy()
    exact = np.fft.rfft2(plane.astype(np.float64))
    half = backend.rfft2(plane)
    assert half.dtype == np.result_type(dtype, np.complex64)
    assert np.abs(half - exact).max() < tolerance * np.abs(exact).max()
    back = backend.irfft2(half.copy(), shape)
    assert back.dtype == dtype and np.abs(back - kept).max() < 10 * tolerance
    back = backend.irfft2(half, shape, scaled=False) / plane.size
    assert np.abs(back - kept).max() < 10 * tolerance
    np.testing.assert_array_equal(plane, kept)


@pytest.mark.parametrize("fft", INSTALLED)
def test_same_bytes_of_real_planes_at_any_alignment(fft: str) -> None:
    backend = select_backend("cpu", fft=fft)
    plane = make_waves((90, 100), np.complex64).real.copy()
    room = np.empty(plane.size + 16, np.float32)
    expected = backend.rfft2(plane).tobytes()
    for offset in range(4):
        moved = room[offset : offset + plane.size].reshape(plane.shape)
        moved[...] = plane
        assert backend.rfft2(moved).tobytes() == expected


def test_real_planes_of_other_shapes_are_refused() -> None:
    backend = select_backend("cpu")
    with pytest.raises(TypeError, match="one float32 or float64 plane"):
        backend.rfft2(np.ones((4, 4), np.complex64))
    with pytest.raises(TypeError, match=r"irfft2 to \(8, 8\)"):
        backend.irfft2(np.ones((8, 8), np.complex64), (8, 8))


def test_real_input_is_refused() -> None:
    with pytest.raises(TypeError, match="complex64"):
        select_backend("cpu").fft2(np.ones((4, 4), np.float32))


def test_unknown_names() -> None:
    with pytest.raises(ConfigError, match="device 'tpu'"):
        select_backend("tpu")
    with pytest.raises(ConfigError, match="FFT provider 'fftpack'"):
        select_backend("cpu", fft="fftpack")


def test_cuda_that_is_absent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_find_cuda", lambda: (None, "no CUDA device is visible"))
    with pytest.raises(ConfigError, match="no CUDA device is visible"):
        select_backend("cuda")
    assert select_backend("auto").name == "numpy"


def test_fft_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "find_spec", lambda name: None if name == "pyfftw" else True)
    with pytest.raises(ConfigError, match="'pyfftw' is not installed"):
        select_backend("cpu", fft="pyfftw")


@pytest.mark.parametrize(
    ("cache", "pixels", "planes", "expected"),
    [
        (0, 640, 8, 1),  # a CPU
        (50, 640, 8, 4),  # an H100: five would fit, in two rounds
        (50, 1280, 8, 1),
        (50, 256, 8, 8),
        (6, 640, 8, 3),  # a V100's cache holds none: as many as make a million pixels
        (6, 1280, 8, 1),
    ],
)
def test_planes_at_once(cache: int, pixels: int, planes: int, expected: int) -> None:
    backend = Backend("cupy", np, "cufft", "", cache * 2**20)
    assert backend.planes_at_once(planes, pixels**2, 3) == expected


def test_identity_is_the_same_in_another_process() -> None:
    here = select_backend("cpu").identity()
    program = (
        "import json; from hpctem.backend import select_backend as s;"
        "print(json.dumps(s('cpu').identity()))"
    )
    run = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert json.loads(run.stdout) == here
    assert {"fft", "fft_digest", "numpy", "numpy_digest", "numba", "numba_target"} <= set(here)


def test_identity_tells_providers_apart() -> None:
    digests = {select_backend("cpu", fft=fft).identity()["fft_digest"] for fft in INSTALLED}
    assert len(digests) == len(INSTALLED)


@pytest.mark.skipif(not is_v3(), reason="this processor is not x86-64-v3")
def test_kernels_are_compiled_for_every_v3_processor(tmp_path: Path) -> None:
    """No AVX-512 register in the compiled code, so all x86-64-v3 nodes run the same code."""
    program = (
        "import numpy as np; from hpctem.optics import kernels_cpu as k;"
        "w = np.ones((1, 32, 32), np.complex64); i = np.ones((32, 32), np.float32);"
        "k.accumulate(i, w, np.ones(1, np.float32));"
        "text = ''.join(k._accumulate.inspect_asm().values());"
        "assert 'ymm' in text and 'zmm' not in text"
    )
    environment = {k: v for k, v in os.environ.items() if not k.startswith("NUMBA_CPU")}
    environment["NUMBA_CACHE_DIR"] = str(tmp_path)  # compiled anew: cached code cannot be inspected
    subprocess.run([sys.executable, "-c", program], env=environment, check=True)
