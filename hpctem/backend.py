"""Where the arithmetic runs: NumPy with one of three CPU FFTs, or CuPy on one GPU.

Everything that can change the bytes of a result is decided here and reported by
`Backend.identity`: the FFT library and its instruction set, the instruction set for which Numba
compiles, the versions, the kind of device. Importing this module sets `MKL_CBWR=AVX2` and one MKL
thread, and `hpctem.processor` sets Numba's target, unless the environment already says otherwise;
import it before Numba and MKL. MKL gives one result per instruction set, and Numba one per
processor model, so without this two kinds of node would disagree.
"""

from __future__ import annotations

import hashlib
import math
import os
import platform
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from types import ModuleType
from typing import Any

import numpy as np

from hpctem.errors import ConfigError
from hpctem.processor import read_target

CPU_FFTS = ("mkl_fft", "pyfftw", "scipy")
LAUNCH_PIXELS = 2**20
"""Complex pixels that a GPU reads and writes (3 TB/s) while the next kernel is launched (5 us)."""

os.environ.setdefault("MKL_CBWR", "AVX2")
os.environ.setdefault("MKL_NUM_THREADS", "1")


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "absent"


@dataclass(frozen=True)
class Backend:
    """The array module, FFT and device of this process.

    Attributes: `name` 'numpy' or 'cupy'; `xp` the array module; `fft_provider` 'mkl_fft',
    'pyfftw', 'scipy' or 'cufft'; `device` a text for people ('CPU', 'NVIDIA H100 (device 0)');
    `cache`, of a GPU, the bytes of its L2 cache.
    """

    name: str
    xp: ModuleType
    fft_provider: str
    device: str
    cache: int = 0
    _plans: dict[Any, Any] = field(default_factory=dict, repr=False, compare=False)

    @property
    def bus(self) -> str:
        """Names the GPU among those of a node, the same for every rank that uses it; '' on a CPU.

        A rank may see only its own GPU, so the number of the device does not tell them apart.
        """
        return str(self.xp.cuda.Device().pci_bus_id) if self.name == "cupy" else ""

    def planes_at_once(self, planes: int, pixels: int, fields: int) -> int:
        """How many of `planes` complex64 planes of `pixels` each are worked on together.

        On a CPU one: its passes keep to lines. On a GPU as many as leave `fields` arrays of them in
        its cache, but no fewer than fill a kernel for longer than its launch takes; then the fewest
        that make as few rounds. They are part of what fixes the bytes there.
        """
        if not self.cache:
            return 1
        most = max(self.cache // (8 * fields * pixels), math.ceil(LAUNCH_PIXELS / pixels))
        return math.ceil(planes / math.ceil(planes / most))

    def asarray(self, a: Any, dtype: Any = None) -> Any:
        """Return `a` as an array of this backend, copied to the device where there is one."""
        return self.xp.asarray(a, dtype=dtype)

    def to_host(self, a: Any) -> np.ndarray:
        """Return `a` as a NumPy array, copied from the device where there is one."""
        return self.xp.asnumpy(a) if self.name == "cupy" else np.asarray(a)

    def copy_later(self, a: Any) -> Callable[[], np.ndarray]:
        """Begin to copy `a` to the host; calling what is returned waits for it and gives it.

        On a GPU the copy into pinned memory runs on a stream of its own while the next image is
        computed; `a` must not be changed until it is fetched.
        """
        if self.name == "numpy":
            return lambda: np.asarray(a)
        cuda = self.xp.cuda
        if "copies" not in self._plans:
            self._plans["copies"] = cuda.Stream(non_blocking=True)
        copies = self._plans["copies"]
        pinned = cuda.alloc_pinned_memory(a.nbytes)
        host = np.frombuffer(pinned, a.dtype, a.size).reshape(a.shape)
        copies.wait_event(cuda.get_current_stream().record())
        a.get(stream=copies, out=host, blocking=False)
        copied = copies.record()

        # Holding the source until it is fetched keeps its memory from being given away.
        def fetch(source: Any = a) -> np.ndarray:
            copied.synchronize()
            return host

        return fetch

    def synchronize(self) -> None:
        """Wait until the device has finished (nothing to wait for on a CPU)."""
        if self.name == "cupy":
            self.xp.cuda.get_current_stream().synchronize()

    def fft2(self, a: Any, out: Any = None) -> Any:
        """Discrete Fourier transform over the last two axes, exp(-2 pi i j m / n), unscaled.

        `a`: complex64 or complex128 [..., ny, nx]; `out`: an array like `a`, C-contiguous, which
        may be `a` itself, or None for a new one. Returns `out`, of the dtype of `a`.
        """
        return self._transform(a, out, forward=True, scaled=False)

    def ifft2(self, a: Any, out: Any = None, scaled: bool = True) -> Any:
        """Inverse of `fft2` (shapes and dtypes alike); without the 1/(ny nx) if not `scaled`."""
        return self._transform(a, out, forward=False, scaled=scaled)

    def rfft2(self, a: Any) -> Any:
        """Transform of a real field, `fft2` without the columns that follow by symmetry.

        `a`: float32 or float64 (ny, nx). Returns a new complex64 or complex128 array
        (ny, nx // 2 + 1).
        """
        if a.dtype not in (np.float32, np.float64) or a.ndim != 2:
            raise TypeError(f"rfft2 takes one float32 or float64 plane, not {a.ndim}-D {a.dtype}")
        return _real_forward(self.fft_provider, a)

    def irfft2(self, a: Any, shape: tuple[int, int], scaled: bool = True) -> Any:
        """Inverse of `rfft2` to a plane of `shape` (ny, nx); without 1/(ny nx) if not `scaled`.

        `a`: complex64 or complex128 (ny, nx // 2 + 1), which may be overwritten. Returns a new
        float32 or float64 array.
        """
        if a.dtype not in (np.complex64, np.complex128) or a.shape != (shape[0], shape[1] // 2 + 1):
            raise TypeError(f"irfft2 to {shape} takes no {a.dtype} {a.shape}")
        return _real_inverse(self.fft_provider, a, shape, "backward" if scaled else "forward")

    def _transform(self, a: Any, out: Any, forward: bool, scaled: bool) -> Any:
        if a.dtype not in (np.complex64, np.complex128):
            raise TypeError(f"fft2 and ifft2 take complex64 or complex128, not {a.dtype}")
        if self.fft_provider == "cufft":
            return self._transform_on_gpu(a, out, forward, scaled)
        if out is None:
            out = np.empty_like(a, order="C")
        plane = _CPU_TRANSFORMS[self.fft_provider]
        shape = a.shape[-2:]
        for source, target in zip(a.reshape(-1, *shape), out.reshape(-1, *shape), strict=True):
            plane(self._plans, source, target, forward, scaled)
        return out

    def _transform_on_gpu(self, a: Any, out: Any, forward: bool, scaled: bool) -> Any:
        from cupy.cuda import cufft

        source = self.xp.ascontiguousarray(a)
        if out is None:
            out = self.xp.empty_like(source)
        direction = cufft.CUFFT_FORWARD if forward else cufft.CUFFT_INVERSE
        _plan_on_gpu(source.shape, source.dtype.char).fft(source, out, direction)
        if scaled and not forward:
            out *= out.real.dtype.type(1 / math.prod(out.shape[-2:]))
        return out

    def identity(self) -> dict[str, str]:
        """Name everything that may change bytes; two runs with equal identities agree exactly.

        `fft_digest` and `numpy_digest` are digests of results on fixed numbers, so that a library
        that takes another path on another processor is seen whatever its version says.
        """
        identity = {
            "backend": self.name,
            "fft": f"{self.fft_provider} {_fft_version(self)}",
            "fft_digest": _fft_digest(self),
            "numpy": np.__version__,
            "numpy_digest": _numpy_digest(),
            "python": platform.python_version(),
            "machine": platform.machine(),
            "numba": _version("numba"),
            "numba_target": read_target(),
        }
        if self.fft_provider == "mkl_fft":
            identity["mkl"] = _version("mkl")
            identity["MKL_CBWR"] = os.environ.get("MKL_CBWR", "")
        if self.name == "cupy":
            runtime = self.xp.cuda.runtime
            identity["cupy"] = self.xp.__version__
            identity["cuda"] = str(runtime.runtimeGetVersion())
            identity["device"] = _device_properties(self.xp)[0]
        return identity


def _mkl_plane(_: dict, source: np.ndarray, out: np.ndarray, forward: bool, scaled: bool) -> None:
    import mkl_fft

    if forward:
        mkl_fft.fft2(source, out=out)
    else:
        mkl_fft.ifft2(source, norm="backward" if scaled else "forward", out=out)


def _fftw_plane(
    plans: dict, source: np.ndarray, out: np.ndarray, forward: bool, scaled: bool
) -> None:
    import pyfftw

    # One aligned work array per shape: a plan made for another alignment may round differently.
    key = (source.shape, source.dtype.str, forward)
    if key not in plans:
        work = pyfftw.empty_aligned(source.shape, source.dtype, n=64)
        direction = "FFTW_FORWARD" if forward else "FFTW_BACKWARD"
        plan = pyfftw.FFTW(
            work, work, axes=(0, 1), direction=direction, flags=("FFTW_ESTIMATE",), threads=1
        )
        plans[key] = (work, plan)
    work, plan = plans[key]
    work[...] = source
    plan.execute()
    if scaled:
        np.multiply(work, work.real.dtype.type(1 / work.size), out=work)
    out[...] = work


def _scipy_plane(_: dict, source: np.ndarray, out: np.ndarray, forward: bool, scaled: bool) -> None:
    from scipy import fft

    if forward:
        out[...] = fft.fft2(source, workers=1)
    else:
        out[...] = fft.ifft2(source, norm="backward" if scaled else "forward", workers=1)


_CPU_TRANSFORMS = {"mkl_fft": _mkl_plane, "pyfftw": _fftw_plane, "scipy": _scipy_plane}


# cupyx.scipy.fft takes several times as long to find its plan as a GPU for the transform.
@lru_cache(maxsize=16)
def _plan_on_gpu(shape: tuple[int, ...], dtype: str) -> Any:
    """The plan of cuFFT for the last two axes of an array, with its work area."""
    import cupy
    from cupyx.scipy.fft import get_fft_plan

    return get_fft_plan(cupy.empty(shape, dtype), axes=(-2, -1))


def _real_forward(provider: str, a: Any) -> Any:
    if provider == "mkl_fft":
        import mkl_fft

        return mkl_fft.rfft2(a)
    if provider == "pyfftw":
        return _fftw_real(a, a.shape, forward=True)
    if provider == "cufft":
        from cupyx.scipy import fft as gpu

        return gpu.rfft2(a)
    from scipy import fft

    return fft.rfft2(a, workers=1)


def _real_inverse(provider: str, a: Any, shape: tuple[int, int], norm: str) -> Any:
    if provider == "mkl_fft":
        import mkl_fft

        return mkl_fft.irfft2(a, s=shape, norm=norm)
    if provider == "pyfftw":
        plane = _fftw_real(a, shape, forward=False)
        return plane * plane.dtype.type(1 / plane.size) if norm == "backward" else plane
    if provider == "cufft":
        from cupyx.scipy import fft as gpu

        return gpu.irfft2(a, s=shape, norm=norm)
    from scipy import fft

    return fft.irfft2(a, s=shape, norm=norm, workers=1)


def _fftw_real(a: np.ndarray, shape: tuple[int, int], forward: bool) -> np.ndarray:
    """Unscaled transform between a real plane of `shape` and its half spectrum, aligned anew."""
    import pyfftw

    single = a.dtype in (np.float32, np.complex64)
    plane = pyfftw.empty_aligned(shape, np.float32 if single else np.float64, n=64)
    half = pyfftw.empty_aligned(
        (shape[0], shape[1] // 2 + 1), np.complex64 if single else np.complex128, n=64
    )
    source, target = (plane, half) if forward else (half, plane)
    direction = "FFTW_FORWARD" if forward else "FFTW_BACKWARD"
    flags = ("FFTW_ESTIMATE", "FFTW_DESTROY_INPUT")
    plan = pyfftw.FFTW(source, target, (0, 1), direction=direction, flags=flags, threads=1)
    source[...] = a
    plan.execute()
    return target


def _fft_version(backend: Backend) -> str:
    if backend.name == "cupy":
        from cupy.cuda import cufft  # no attribute of cupy.cuda until somebody has imported it

        return str(cufft.getVersion())
    return _version(backend.fft_provider)


@lru_cache(maxsize=8)
def _digest_of_provider(provider: str) -> str:
    backend = Backend("numpy", np, provider, "CPU")
    return _digest_transforms(backend)


def _digest_transforms(backend: Backend) -> str:
    digest = hashlib.blake2b(digest_size=8)
    for ny, nx in ((64, 64), (100, 90), (63, 77), (320, 320)):
        numbers = np.arange(2 * ny * nx, dtype=np.int64)
        wave = (numbers * 7919 % 1009 / 1009 - 0.5).astype(np.float32).view(np.complex64)
        wave = backend.asarray(wave.reshape(1, ny, nx))
        backend.fft2(wave, out=wave)
        digest.update(backend.to_host(wave).tobytes())
        digest.update(backend.to_host(backend.ifft2(wave)).tobytes())
        plane = backend.asarray((numbers[: ny * nx] * 7919 % 1009 / 1009).astype(np.float32))
        half = backend.rfft2(plane.reshape(ny, nx))
        digest.update(backend.to_host(half).tobytes())
        digest.update(backend.to_host(backend.irfft2(half, (ny, nx))).tobytes())
    return digest.hexdigest()


@lru_cache(maxsize=1)
def _numpy_digest() -> str:
    """Digest of elementary functions and a matrix product, which differ between processors."""
    x = np.arange(1, 1025) * 0.00737
    matrix = (np.arange(64 * 64) * 7919 % 1009 / 1009).reshape(64, 64)
    values = [np.sin(x), np.cos(x), np.exp(x), np.log(x), np.sqrt(x), np.arctan2(x, x[::-1])]
    values += [np.cumsum(x), x**1.7, matrix @ matrix.T, np.array([x.sum()])]
    values += [f(x.astype(np.float32)) for f in (np.sin, np.cos, np.exp)]
    digest = hashlib.blake2b(digest_size=8)
    for value in values:
        digest.update(value.tobytes())
    return digest.hexdigest()


def _fft_digest(backend: Backend) -> str:
    if backend.name == "numpy":
        return _digest_of_provider(backend.fft_provider)
    return _digest_transforms(backend)


def _device_properties(cupy: ModuleType) -> tuple[str, int]:
    """Name and bytes of L2 cache of the device in use."""
    properties = cupy.cuda.runtime.getDeviceProperties(cupy.cuda.Device().id)
    name = properties["name"]
    return name.decode() if isinstance(name, bytes) else str(name), int(properties["l2CacheSize"])


def _choose_cpu_fft(fft: str) -> str:
    if fft == "auto":
        return next((name for name in CPU_FFTS if find_spec(name)), "scipy")
    if fft not in CPU_FFTS:
        raise ConfigError(f"FFT provider '{fft}' is unknown; choose auto or {', '.join(CPU_FFTS)}.")
    if not find_spec(fft):
        raise ConfigError(f"FFT provider '{fft}' is not installed here; install it or use 'auto'.")
    return fft


def _find_cuda() -> tuple[ModuleType | None, str]:
    """Return CuPy if it has a device, else None and the reason."""
    if not find_spec("cupy"):
        return None, "CuPy is not installed (extras cuda12, cuda13)"
    try:
        import cupy

        count = cupy.cuda.runtime.getDeviceCount()
    except Exception as error:  # a missing driver shows as many kinds of error
        return None, f"CUDA does not start: {error}"
    return (cupy, "") if count else (None, "no CUDA device is visible")


def select_backend(device: str = "auto", local_rank: int = 0, fft: str = "auto") -> Backend:
    """Choose the device of this process: one GPU per local rank, or one CPU thread.

    `device`: 'cpu', 'cuda' (GPU number `local_rank` modulo the number of GPUs) or 'auto' (a GPU if
    there is one). `fft`: 'auto' (mkl_fft, pyfftw, scipy, the first installed) or one of them; a
    GPU always uses cuFFT. Raises ConfigError for an unknown name, a provider that is not
    installed, and for 'cuda' where CuPy or the device is absent.
    """
    if device not in ("auto", "cpu", "cuda"):
        raise ConfigError(f"device '{device}' is unknown; choose auto, cpu or cuda.")
    if device != "cpu":
        cupy, reason = _find_cuda()
        if cupy is not None:
            index = local_rank % cupy.cuda.runtime.getDeviceCount()
            cupy.cuda.Device(index).use()
            name, cache = _device_properties(cupy)
            return Backend("cupy", cupy, "cufft", f"{name} (device {index})", cache)
        if device == "cuda":
            raise ConfigError(f"device 'cuda' was asked for, but {reason}. Use --device cpu.")
    return Backend("numpy", np, _choose_cpu_fft(fft), "CPU")
