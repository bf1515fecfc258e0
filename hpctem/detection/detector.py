"""The detector as one object, and the one order in which it turns intensity into an image.

Electrons are counted (Poisson, thinned by the quantum efficiency); the MTF blurs the counts, noise
included; gain, readout noise and offset make the stored number of them; 16 bits cut it off.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from hpctem.backend import Backend
from hpctem.detection.counter_random import draw_words
from hpctem.detection.dose import count_electrons
from hpctem.detection.kernels import add_normal
from hpctem.detection.mtf import MTF, apply_mtf
from hpctem.errors import ConfigError, SampleError

UINT16_MAX = 65535


@dataclass(frozen=True)
class Detector:
    """A camera; the defaults are an ideal counting one, whose image is the counts themselves.

    mtf: None for no blur. quantum_efficiency: share of electrons detected, DQE at zero frequency
    and no readout noise. readout_noise: standard deviation per pixel in electrons. gain: stored
    units per detected electron. offset: stored units at no electron. digitize: round to 16-bit
    integers although the signal is not counts. saturation_limit: the share of pixels that may fall
    outside 16 bits before the image is refused.

    With n = dose * pixel area * quantum_efficiency electrons per pixel, the noise power is
    n MTF^2 + readout_noise^2, and DQE(q) = quantum_efficiency n MTF^2 / (n MTF^2 + readout_noise^2)
    (I. A. Cunningham & R. Shaw, J. Opt. Soc. Am. A 16 (1999) 621, for this two-stage cascade).

    Raises ConfigError for a value outside its range.
    """

    mtf: MTF | None = None
    quantum_efficiency: float = 1.0
    readout_noise: float = 0.0
    gain: float = 1.0
    offset: float = 0.0
    digitize: bool = False
    saturation_limit: float = 1e-3

    def __post_init__(self) -> None:
        for name, allowed, limits in (
            ("quantum_efficiency", 0 < self.quantum_efficiency <= 1, "above 0 and at most 1"),
            ("readout_noise", self.readout_noise >= 0, "at least 0 electrons"),
            ("gain", self.gain > 0, "above 0 units per electron"),
            ("offset", math.isfinite(self.offset), "finite"),
            ("saturation_limit", 0 <= self.saturation_limit <= 1, "between 0 and 1"),
        ):
            value = getattr(self, name)
            if not (math.isfinite(value) and allowed):
                raise ConfigError(f"detector.{name} is {value}: it must be {limits}")

    @property
    def counting(self) -> bool:
        """True when the image is the number of electrons and nothing else."""
        return self.mtf is None and self.readout_noise == 0 and self.gain == 1 and self.offset == 0

    @property
    def dtype(self) -> np.dtype:
        """Of the stored image: uint16 when counting or digitized, float32 otherwise."""
        return np.dtype(np.uint16 if self.counting or self.digitize else np.float32)

    @property
    def units(self) -> str:
        """Of the stored image, for its column: electrons, or the camera's own units."""
        return "electrons" if self.gain == 1 and self.offset == 0 else "counts"


def detect(
    intensity: Any,
    dose: float,
    pixel_area: float,
    detector: Detector,
    dose_generator: np.random.Generator,
    readout_generator: np.random.Generator,
    backend: Backend,
) -> tuple[Any, float]:
    """Record one image: counts, then MTF, then readout; before any median or crop.

    intensity: (ny, nx) float32, 1 for the incident beam; dose: e/A^2; pixel_area: A^2. Two
    generators, so that one dose shows the same electrons on every detector.
    Returns (image (ny, nx) of `detector.dtype` on the backend's device, share of pixels that fell
    outside 16 bits: 0 for float32).

    Raises SampleError for an intensity that cannot be counted or an image that saturates.
    """
    image = count_electrons(
        backend.asarray(intensity), dose, pixel_area, dose_generator, detector.quantum_efficiency
    )
    if detector.counting:
        return to_uint16(image, detector.saturation_limit)
    image = image.astype(np.float32)
    if detector.mtf is not None:
        image = apply_mtf(image, detector.mtf, backend)
    if detector.readout_noise > 0:
        image = add_readout_noise(image, detector.readout_noise, readout_generator)
    image = image * np.float32(detector.gain) + np.float32(detector.offset)
    if detector.digitize:
        return to_uint16(image, detector.saturation_limit)
    return image, 0.0


def add_readout_noise(signal: Any, deviation: float, generator: np.random.Generator) -> Any:
    """The amplifier adds normal noise, white and independent of the signal.

    signal: (..., ny, nx) in electrons; deviation: its standard deviation in electrons. Returns
    float32 on the same device, the same bytes on CPU and GPU for the same signal.
    """
    return add_normal(signal, deviation, draw_words(generator))


def to_uint16(image: Any, saturation_limit: float) -> tuple[Any, float]:
    """Store in 16 bits: rounded to the nearest integer (a half to even), cut to 0..65535.

    image: (..., ny, nx) uint32 counts or float32. Returns (uint16 of the same shape on the same
    device, share of pixels that were cut).

    Raises SampleError when that share exceeds saturation_limit or a value is NaN.
    """
    if image.dtype.kind == "f":
        image = image.round()
        outside = ~((image >= 0) & (image <= UINT16_MAX))
        if bool((image != image).any()):
            raise SampleError("the detected image holds NaN: it cannot be stored")
    else:
        outside = image > UINT16_MAX
    share = float(outside.sum()) / image.size
    if share > saturation_limit:
        raise SampleError(
            f"{share:.2%} of the pixels fall outside 0..{UINT16_MAX}, at most "
            f"{saturation_limit:.2%} may: lower the dose or the gain, or raise the offset or "
            "detector.saturation_limit"
        )
    return image.clip(0, UINT16_MAX).astype(np.uint16), share
