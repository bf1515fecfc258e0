"""Counting statistics: how many electrons each pixel of the detector receives."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from hpctem.detection.counter_random import draw_words
from hpctem.detection.kernels import draw_poisson
from hpctem.errors import ConfigError, SampleError

# Rounding in Fourier resampling may take a dark pixel this far below zero; more is an error.
NEGATIVE_ROUNDING = 1e-4
MOST_COUNTS = 1e9
# 1 pA for 1 us is 1e-18 C; the elementary charge is exact in the SI of 2019.
ELECTRONS_PER_PA_US = 1e-18 / 1.602176634e-19


def count_electrons(
    intensity: Any,
    dose: float,
    pixel_area: float,
    generator: np.random.Generator,
    quantum_efficiency: float = 1.0,
) -> Any:
    """Electrons arrive independently: the counts of a pixel are Poisson with the expected number.

    intensity: (..., ny, nx) float32, 1 for the incident beam, NumPy or CuPy array.
    dose: incident electrons per A^2; pixel_area: A^2; quantum_efficiency: share of the electrons
    that are detected (a thinned Poisson process is a Poisson process).
    Returns uint32 of the same shape on the same device, with mean
    intensity * dose * pixel_area * quantum_efficiency.

    Each pixel's count is a pure function of 128 bits drawn from `generator`, the pixel's index and
    its mean, in plain IEEE arithmetic: the same bytes on every machine, CPU or GPU. Values between
    -1e-4 and 0, which rounding leaves, count as 0.

    Raises ConfigError for a dose, area or efficiency outside its range; SampleError where the
    intensity is not finite, is negative, or would exceed 1e9 counts in a pixel.

    Sources: Philox, Salmon et al., SC11 (2011), doi:10.1145/2063384.2063405; inversion below a
    mean of 10, above it PTRS, W. Hoermann, Insurance: Mathematics and Economics 12 (1993) 39.
    """
    scale = expect_counts(dose, pixel_area, quantum_efficiency)
    darkest, brightest = float(intensity.min()), float(intensity.max())
    if not (math.isfinite(darkest) and math.isfinite(brightest)):
        raise SampleError("the image intensity holds NaN or infinity: nothing can be counted")
    if darkest < -NEGATIVE_ROUNDING:
        raise SampleError(f"the image intensity falls to {darkest:.3g}: it must not be negative")
    if brightest * scale > MOST_COUNTS:
        raise SampleError(
            f"{brightest * scale:.3g} electrons in one pixel: at most {MOST_COUNTS:.0e} can be "
            "counted; lower the dose"
        )
    return draw_poisson(intensity, scale, draw_words(generator))


def electrons_per_pixel(current: float, dwell_time: float, frames: int = 1) -> float:
    """Electrons of the beam on one pixel of a scan: current times dwell time over their charge.

    current: pA; dwell_time: us in each frame; frames: how many are added up. To count a STEM image,
    whose intensity is the share of the beam that is collected, give the result as the `dose` of
    `count_electrons` or `detect`, with a pixel_area of 1; over the area of the pixel in A^2 it is
    the dose on the specimen.

    Raises ConfigError for a current or a time that is not finite and at least 0, or no frames.
    """
    for name, value, unit in (("current", current, "pA"), ("dwell_time", dwell_time, "us")):
        if not (math.isfinite(value) and value >= 0):
            raise ConfigError(f"beam.{name} is {value} {unit}: it must be finite and at least 0")
    if frames < 1:
        raise ConfigError(f"scan.frames is {frames}: it must be at least 1")
    return current * dwell_time * frames * ELECTRONS_PER_PA_US


def expect_counts(dose: float, pixel_area: float, quantum_efficiency: float = 1.0) -> float:
    """Mean detected electrons per pixel in vacuum; dose in e/A^2, pixel_area in A^2.

    Raises ConfigError for a dose below 0, an area not above 0, an efficiency outside (0, 1].
    """
    if not (math.isfinite(dose) and dose >= 0):
        raise ConfigError(f"dose is {dose} e/A^2: it must be finite and at least 0")
    if not (math.isfinite(pixel_area) and pixel_area > 0):
        raise ConfigError(f"the pixel area is {pixel_area} A^2: it must be finite and above 0")
    if not 0 < quantum_efficiency <= 1:
        raise ConfigError(
            f"quantum_efficiency is {quantum_efficiency}: it must lie above 0 and up to 1"
        )
    return dose * pixel_area * quantum_efficiency
