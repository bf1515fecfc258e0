"""How a prediction is doing, in one line."""

from __future__ import annotations

import sys
import time
from typing import TextIO

from hpctem.parallel import describe_duration, reaches_terminal


class PredictionDisplay:
    """Shows a prediction on stderr: one live line on a terminal, else a plain line every 30 s.

    mine, images    of rank 0, which speaks, and in all; the other ranks are as far
    """

    def __init__(self, mine: int, images: int, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr
        self._live = reaches_terminal(self._stream)
        self._interval = 1.0 if self._live else 30.0
        self._mine, self._images, self._done = mine, images, 0
        self._begun = self._shown = time.monotonic()
        self._told: set[str] = set()

    def show_tiles(self, done: int, tiles: int) -> None:
        """Show how far the image is, if it is time to."""
        self._show(done / tiles, f"tile {done}/{tiles} of the next")

    def count(self) -> None:
        """One image more is done."""
        self._done += 1
        last = self._done == self._mine
        if last and self._live:
            self._stream.write(f"\r{'':<110.110}\r")
            self._stream.flush()
        elif not last:
            self._show(0.0, "")

    def warn(self, image: str, note: str) -> None:
        """Say a note about an image, each note once; nothing for an empty one."""
        if note and note not in self._told:
            clear = f"\r{'':<110.110}\r" if self._live else ""
            self._stream.write(f"{clear}note: {image}: {note}\n")
            self._stream.flush()
            self._told.add(note)

    def _show(self, share: float, more: str) -> None:
        now = time.monotonic()
        if now - self._shown < self._interval:
            return
        self._shown = now
        done = self._done + share
        parts = [f"{self._done * self._images // max(self._mine, 1)}/{self._images} images", more]
        if done > 0:
            left = (now - self._begun) * (self._mine - done) / done
            parts.append(f"{describe_duration(left)} left")
        line = ", ".join(filter(None, parts))
        self._stream.write(f"\r{line:<110.110}" if self._live else f"{line}\n")
        self._stream.flush()
