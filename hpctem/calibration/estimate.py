"""From a calibration to another campaign: each step's time grows with its units of work."""

from __future__ import annotations

import math
from dataclasses import dataclass

from hpctem.calibration.calibrate import Calibration, scale_units
from hpctem.calibration.workload import Work

# Relative errors: of two runs of the same on a quiet machine, for a factor of two in the pixels of
# the waves (caches), and for steps that the timed campaign did differently or not at all.
SAME, PER_DOUBLING, OTHER_STEP = 0.10, 0.20, 0.25


@dataclass(frozen=True)
class Estimate:
    """What one structure costs a rank.

    steps     step -> seconds
    error     relative error to be expected of their sum
    measured  the campaign timed was one of the same cost
    notes     what the calibration does not know well
    """

    steps: dict[str, float]
    error: float
    measured: bool
    notes: tuple[str, ...]

    @property
    def seconds(self) -> float:
        """Seconds of one structure on one rank."""
        return sum(self.steps.values())


def estimate(calibration: Calibration, work: Work, signature: str) -> Estimate:
    """The cost of a structure of that work and `cost_signature` on the calibration's machine."""
    timed = calibration.work
    units = scale_units(work, calibration.transforms, calibration.machine)
    steps = {step: calibration.rates.get(step, 0.0) * unit for step, unit in units.items()}
    error = max(SAME, calibration.spread)
    notes = []
    measured = signature == calibration.signature
    if not measured:
        doublings = abs(math.log2(math.prod(work.wave) / math.prod(timed.wave)))
        error += PER_DOUBLING * doublings
        for name, said in DIFFERENCES.items():
            if getattr(work, name) != getattr(timed, name):
                error += OTHER_STEP
                notes.append(f"{said}, unlike {calibration.campaign}, which was timed")
        unknown = [step for step, unit in units.items() if unit and step not in calibration.rates]
        if unknown:
            notes.append(f"{', '.join(unknown)}: not timed with {calibration.campaign}, left out")
    return Estimate(steps, error, measured, tuple(notes))


DIFFERENCES = {
    "finite": "the projection (finite or infinite) is another",
    "mask": "masks are made by another method",
    "blurred": "the detector has an MTF or has none",
}


def distance(calibration: Calibration, work: Work, signature: str) -> float:
    """How unlike the timed campaign and this work are: 0 for the same cost."""
    timed = calibration.work
    if signature == calibration.signature:
        return 0.0
    counts = [
        (work.whole.slices, timed.whole.slices),
        *((getattr(work, n), getattr(timed, n)) for n in ("phonons", "images", "channels")),
    ]
    unlike = 0.01 + sum(abs(math.log(a / b)) for a, b in counts if a and b)
    unlike += abs(math.log(math.prod(work.wave) / math.prod(timed.wave)))
    return unlike + 5 * sum(getattr(work, n) != getattr(timed, n) for n in DIFFERENCES)
