"""Patches that a CycleGAN is measured by: their spectra before, what becomes of them after."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from hpctem.errors import ConfigError
from hpctem.learning.data.patches import Patches
from hpctem.learning.data.samples import Feedable, Samples
from hpctem.learning.realism.measures import (
    count_intensities,
    measure_divergence,
    measure_texture,
    split_scales,
)
from hpctem.learning.training.losses import SpectrumScale, measure_spectrum
from hpctem.learning.translation.fidelity import check_patch
from hpctem.sampling import Streams
from hpctem.sections.training import CycleganConfig

DOMAINS = ("experiment", "simulation")
CHECKED = 16
"""Simulated patches that are translated and checked after every epoch."""
MEASURED = 256
"""Patches of each kind whose power spectra fix what discriminators see."""
APART = 0.1
"""Relative difference of pixel sizes above which both kinds of images cannot be of one scale."""


@dataclass(frozen=True)
class Samplers:
    """Patches that are looked at after every epoch, always the same: float32 (n, y, x, 1).

    simulated     with the noise of the training
    experimental  of the images that are learnt from
    pixel_size    of the simulated ones, A
    """

    simulated: np.ndarray
    experimental: np.ndarray
    pixel_size: float


def measure_noise(config: CycleganConfig) -> float:
    """Standard deviation of all Gaussian noise that simulated patches are given in training."""
    return math.hypot(config.simulation_noise, config.augmentation.noise)


def require_one_scale(simulated: Samples, experiment: Patches) -> None:
    """Raise ConfigError where pixels are so different that no lattice is alike."""
    if experiment.pixel_sizes is None:
        return
    one, other = (np.mean(sizes) for sizes in (simulated.pixel_sizes, experiment.pixel_sizes))
    if abs(math.log(one / other)) > APART:
        raise ConfigError(
            f"experiment.images: their pixels of {other:.4g} A and the simulated ones of {one:.4g} "
            f"A differ by more than {APART:.0%}, so that the lattices would not be alike: simulate "
            "with imaging.sampling of the experiment, or give experiment.pixel_size where the file "
            "is wrong"
        )


def measure_scales(
    simulated: Feedable, experiment: Feedable, noise: float
) -> dict[str, SpectrumScale]:
    """What power spectra of each kind of patch are scaled by before discriminators see them."""
    of = {"experiment": (experiment, 0.0), "simulation": (simulated, noise)}
    return {
        domain: measure_spectrum(take_patches(samples, MEASURED, "spectra", own))
        for domain, (samples, own) in of.items()
    }


def take_patches(samples: Feedable, count: int, purpose: str, noise: float = 0.0) -> np.ndarray:
    """Patches spread evenly over the samples, always the same, with noise: float32 (n, y, x)."""
    numbers = np.linspace(0, len(samples) - 1, count).astype(np.int64)
    streams = Streams(samples.seed)
    bits = [streams(f"{purpose}/places", k).integers(2**63, size=2) for k in range(count)]
    patches, _ = samples.cut(numbers, np.array(bits, np.uint64), samples.shape)
    if noise:
        for number, patch in enumerate(patches):
            draws = streams(f"{purpose}/noise", number)
            patch += draws.normal(0.0, noise, patch.shape).astype(np.float32)
    return patches


def choose_samplers(simulated: Samples, experiment: Patches, noise: float) -> Samplers:
    """The patches that are looked at after every epoch."""
    return Samplers(
        take_patches(simulated, CHECKED, "shown", noise)[..., None],
        take_patches(experiment, CHECKED, "shown")[..., None],
        float(np.mean(simulated.pixel_sizes)),
    )


def judge_patches(seen: Samplers, made: np.ndarray) -> dict[str, float]:
    """What a generator has made of the simulated patches (n, y, x, 1).

    distance    sliced Wasserstein distance from experimental patches, mean over all scales, divided
                by the share of patches that are not rejected (by half a patch where all are)
    rejected    share that lies 0.5 px or more off its input, or is unlike it
    offset      median displacement in pixels
    divergence  of the histogram from that of the experimental patches, 256 bins, nats
    """
    before, after, real = (patches[..., 0] for patches in (seen.simulated, made, seen.experimental))
    none = np.empty((0, 2))
    found = [
        check_patch(*pair, seen.pixel_size, none, None) for pair in zip(before, after, strict=True)
    ]
    accepted = sum(not one.reasons for one in found)
    offsets = np.hypot(*np.array([one.offset for one in found]).T)
    texture = float(np.mean(measure_texture(split_scales(real), split_scales(after))))
    return {
        "distance": texture * len(found) / max(accepted, 0.5),
        "rejected": 1 - accepted / len(found),
        # Of a patch without any content nothing is known: as far off as can be.
        "offset": float(np.median(np.nan_to_num(offsets, nan=before.shape[1]))),
        "divergence": measure_divergence(count_intensities(real), count_intensities(after)),
    }
