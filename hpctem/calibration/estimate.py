"""From a calibration to another campaign: each step's time grows with its units of work."""

from __future__ import annotations

import math
from dataclasses import dataclass

from hpctem.calibration.calibrate import Calibration, scale_units
from hpctem.calibration.workload import Work

# Relative errors: of two runs of the same on a quiet machine, for a factor of two in the pixels of
# the fields (caches), and for steps that the timed campaign did differently or not at all.
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
        error += PER_DOUBLING * abs(math.log2(work.pixels / timed.pixels))
        for said in list_differences(work, timed):
            error += OTHER_STEP
            notes.append(f"{said}, unlike {calibration.campaign}, which was timed")
        unknown = [step for step, unit in units.items() if unit and step not in calibration.rates]
        if unknown:
            notes.append(f"{', '.join(unknown)}: not timed with {calibration.campaign}, left out")
    return Estimate(steps, error, measured, tuple(notes))


def list_differences(work: Work, timed: Work) -> list[str]:
    """What the timed campaign does in another manner."""
    other = timed.manner()
    return [said for name, (value, said) in work.manner().items() if other[name][0] != value]


def distance(calibration: Calibration, work: Work, signature: str) -> float:
    """How unlike the timed campaign and this work, of one family, are: 0 for the same cost."""
    timed = calibration.work
    if signature == calibration.signature:
        return 0.0
    counts = zip((work.pixels, *work.amounts()), (timed.pixels, *timed.amounts()), strict=True)
    unlike = 0.01 + sum(abs(math.log(a / b)) for a, b in counts if a and b)
    return unlike + 5 * len(list_differences(work, timed))
