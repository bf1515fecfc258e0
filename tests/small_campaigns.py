"""The small campaigns of the tests, and such with texts replaced."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

SMALL = Path(__file__).with_name("small.yaml")
SMALL_STEM = SMALL.with_name("small_stem.yaml")


def vary(text: str, *changes: tuple[str, str]) -> str:
    """A text with others in the place of some: `vary(text, ("old", "new"), ...)`, each once."""
    for old, new in changes:
        assert text.count(old) == 1, f"{old!r} stands {text.count(old)} times in the text"
        text = text.replace(old, new)
    return text


def write_campaign(
    folder: Path, *changes: tuple[str, str], of: Path = SMALL, name: str = "campaign.yaml"
) -> Path:
    """A small campaign, varied, as a file."""
    path = folder / name
    path.write_text(vary(of.read_text(), *changes))
    return path


def simulate(campaign: Path, folder: Path) -> None:
    """A campaign computed in a folder by one process without MPI, its contact sheet drawn."""
    command = [sys.executable, "-m", "hpctem", "simulate", str(campaign)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0 and "complete and verified" in done.stdout, done.stderr
