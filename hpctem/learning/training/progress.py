"""How a training is doing, in one line."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from typing import TextIO

from hpctem.parallel import describe_duration, reaches_terminal


@dataclass(frozen=True)
class Moment:
    """A training after a step.

    epoch, epochs   the running one, from 1, and all
    step, steps     done of the epoch, and all of it
    loss            mean over the steps of the epoch so far, and over the ranks
    images          of a step, over all ranks
    done            steps of this job whose time is known
    seconds         that these took, on this rank
    waited          seconds of these that were spent waiting for data
    last            nothing follows: the training is over, or stops here
    """

    epoch: int
    epochs: int
    step: int
    steps: int
    loss: float
    images: int
    done: int
    seconds: float
    waited: float
    last: bool = False


class TrainingDisplay:
    """Shows a training on stderr: one live line on a terminal, else a plain line every 30 s."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr
        self.live = reaches_terminal(self._stream)
        self.interval = 1.0 if self.live else 30.0
        self._shown = time.monotonic()

    def __call__(self, moment: Moment) -> None:
        """Show the moment if it is time to, or if it is the last."""
        now = time.monotonic()
        if now - self._shown < self.interval and not moment.last:
            return
        self._shown = now
        line = describe_moment(moment)
        if self.live:
            self._stream.write(f"\r{line:<110.110}" + ("\n" if moment.last else ""))
        else:
            self._stream.write(line + "\n")
        self._stream.flush()


def describe_moment(moment: Moment) -> str:
    """'epoch 3/25, step 40/120, loss 0.123, 350 images/s, 4 min left, 1.2 % waiting for data'."""
    parts = [
        f"epoch {moment.epoch}/{moment.epochs}",
        f"step {moment.step}/{moment.steps}",
        f"loss {moment.loss:.4g}",
    ]
    if moment.done and moment.seconds > 0:
        pace = moment.done / moment.seconds
        left = (moment.epochs - moment.epoch + 1) * moment.steps - moment.step
        parts.append(f"{moment.images * pace:.3g} images/s")
        if left:
            parts.append(f"{describe_duration(left / pace)} left")
        parts.append(f"{100 * moment.waited / moment.seconds:.1f} % waiting for data")
    return ", ".join(parts)
