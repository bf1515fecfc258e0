"""Learning rates by epoch."""

from __future__ import annotations

from collections.abc import Callable

from hpctem.sections.training import CycleOptimiser, Optimiser

Rate = Callable[[float], float]


def segmentation_rate(section: Optimiser, size: int) -> Rate:
    """Rate of a segmentation, as a function of the epochs that have passed, whole or not.

    `learning_rate` in the first epoch, times `decay` with every whole epoch after it (Rangel
    DaCosta et al. 2024: 1e-3 and 0.8); with `scale_with_ranks` times the number of ranks `size`,
    because a step then learns from as many times more images (Goyal et al. 2017,
    arXiv:1706.02677); during the first `warm_up` epochs times the share of them that has passed,
    so that it rises from zero.
    """
    first = _scale(section.learning_rate, section.scale_with_ranks, size)

    def rate(epoch: float) -> float:
        return first * section.decay ** int(epoch) * _rise(section.warm_up, epoch)

    return rate


def cyclegan_rate(section: CycleOptimiser, epochs: int, size: int) -> Rate:
    """Rate of a CycleGAN, as a function of the epochs that have passed, whole or not.

    `learning_rate` for `constant_epochs` (half of all, rounded down, unless given: 148 of 297 in
    Khan et al. 2023), then linearly to zero at the end of the last epoch; with `scale_with_ranks`
    times the number of ranks `size`, during the first `warm_up` epochs times the share of them that
    has passed. Constant to the end where `constant_epochs` reaches it.
    """
    first = _scale(section.learning_rate, section.scale_with_ranks, size)
    constant = epochs // 2 if section.constant_epochs is None else section.constant_epochs

    def rate(epoch: float) -> float:
        full = first * _rise(section.warm_up, epoch)
        if epoch <= constant or constant >= epochs:
            return full
        return full * max(0.0, (epochs - epoch) / (epochs - constant))

    return rate


def _rise(warm_up: float, epoch: float) -> float:
    """The share of its full rate that a training has reached."""
    return min(1.0, epoch / warm_up) if warm_up > 0 else 1.0


def _scale(rate: float, with_ranks: bool, size: int) -> float:
    return rate * size if with_ranks else rate
