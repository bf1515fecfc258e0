"""Distributions and random streams: sample i is a pure function of (seed, stream name, i).

A stream is a Philox4x64 generator (Salmon et al., SC11, doi:10.1145/2063384.2063405) whose 128-bit
key is a hash of the campaign's seed and the stream's name, and whose counter starts at
[0, 0, 0, i]. The sample index sits in the highest word: 2^192 draws lie between neighbouring
samples, whereas in the lowest word sample i + 1 would repeat the draws of sample i from the second
block on. Which process draws, when, and beside whom never matters.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from hpctem.errors import SampleError


@dataclass(frozen=True)
class Streams:
    """The random streams of one campaign.

    Calling it, `streams(name, index)`, gives a fresh `numpy.random.Generator` that depends on
    (seed, name, index) alone.
    """

    seed: int

    def __call__(self, name: str, index: int) -> np.random.Generator:
        text = f"hpctem/{self.seed}/{name}".encode()
        key = np.frombuffer(hashlib.blake2b(text, digest_size=16).digest(), dtype="<u8")
        counter = np.array([0, 0, 0, index], dtype=np.uint64)
        return np.random.Generator(np.random.Philox(counter=counter, key=key))


Value = float | int | str
LEVELS = ("structure", "wave", "focus", "image")


@dataclass(frozen=True)
class Distribution:
    """What a value is drawn from and how often: once per structure, wave, focus or image.

    `kind` is constant, uniform, normal, log_uniform, choice or grid. `parameters` holds numbers in
    internal units: (low, high) for uniform and log_uniform, (mean, std) for normal; `values` the
    members of constant, choice and grid. A normal is truncated to `bounds` (every draw is one
    uniform number through the inverse of the truncated cumulative distribution), or with `clip`
    moved onto them; a grid point is spread by the standard deviation `std`. `allowed` are the
    limits of the quantity itself: a draw beyond them is a SampleError.
    """

    kind: str
    values: tuple[Value, ...] = ()
    weights: tuple[float, ...] = ()
    parameters: tuple[float, float] = (0.0, 0.0)
    bounds: tuple[float, float] = (-math.inf, math.inf)
    clip: bool = False
    std: float = 0.0
    per: str = "structure"
    allowed: tuple[float, float] = (-math.inf, math.inf)
    integer: bool = False

    @property
    def support(self) -> tuple[float, float]:
        """The smallest and the largest value that can be drawn (a normal reaches six sigma)."""
        if self.kind in ("constant", "choice", "grid"):
            numbers = [v for v in self.values if not isinstance(v, str)]
            return min(numbers) - 6 * self.std, max(numbers) + 6 * self.std
        if self.kind == "normal":
            mean, std = self.parameters
            return max(self.bounds[0], mean - 6 * std), min(self.bounds[1], mean + 6 * std)
        return self.parameters

    def draw(self, generator: np.random.Generator, position: int = 0) -> Value:
        """One value; `position` is the running index at the distribution's level (for grids).

        Raises SampleError when a number falls outside the limits of its quantity.
        """
        value = self._draw(generator, position)
        if isinstance(value, str):
            return value
        if not self.allowed[0] <= value <= self.allowed[1]:
            raise SampleError(
                f"the drawn value {value:g} lies outside the allowed range "
                f"{self.allowed[0]:g} to {self.allowed[1]:g}; give the distribution min and max"
            )
        return round(value) if self.integer else float(value)

    def _draw(self, generator: np.random.Generator, position: int) -> Value:
        if self.kind == "constant":
            return self.values[0]
        if self.kind == "grid":
            value = self.values[position % len(self.values)]
            if self.std > 0 and not isinstance(value, str):
                return value + self.std * _standard_normal(generator.random())
            return value
        if self.kind == "choice":
            return self.values[
                _choose(generator.random(), self.weights or (1.0,) * len(self.values))
            ]
        low, high = self.parameters
        if self.kind == "uniform":
            if self.integer:
                return int(generator.integers(int(low), int(high) + 1))
            return low + (high - low) * generator.random()
        if self.kind == "log_uniform":
            return math.exp(math.log(low) + (math.log(high) - math.log(low)) * generator.random())
        return self._draw_normal(generator.random())

    def _draw_normal(self, uniform: float) -> float:
        mean, std = self.parameters
        if std == 0:
            return mean
        if self.clip:
            return min(max(mean + std * _standard_normal(uniform), self.bounds[0]), self.bounds[1])
        # Work in the tail that is the smaller one, where the cumulative keeps its precision.
        low, high = ((bound - mean) / std for bound in self.bounds)
        sign = -1.0 if low > 0 else 1.0
        if sign < 0:
            low, high = -high, -low
        below, above = _normal_cdf(low), _normal_cdf(high)
        z = sign * _standard_normal(below + (above - below) * uniform)
        return min(max(mean + std * z, self.bounds[0]), self.bounds[1])


def constant(value: Value, per: str = "structure") -> Distribution:
    """The distribution that always gives the same value."""
    return Distribution("constant", values=(value,), per=per, integer=isinstance(value, int))


def _normal_cdf(z: float) -> float:
    return 0.5 * math.erfc(-z / math.sqrt(2.0))


def _standard_normal(probability: float) -> float:
    return NormalDist().inv_cdf(min(max(probability, 1e-300), 1.0 - 2.0**-53))


def _choose(uniform: float, weights: tuple[float, ...]) -> int:
    total = 0.0
    for index, weight in enumerate(weights):
        total += weight / math.fsum(weights)
        if uniform < total:
            return index
    return max(index for index, weight in enumerate(weights) if weight > 0)
