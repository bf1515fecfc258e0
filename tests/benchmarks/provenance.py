"""By what a figure was measured: machine, load, libraries, commit and date, to trace it by."""

from __future__ import annotations

import os
import subprocess
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from hpctem.backend import Backend
from hpctem.calibration.machine import describe_machine

PACKAGES = ("hpctem", "numpy", "scipy", "numba", "h5py", "mkl_fft", "pyfftw", "mpi4py", "abtem")
# More processes than this that want a core, when a benchmark begins, disturb its clock.
QUIET = 0.5


def describe(backend: Backend) -> dict[str, Any]:
    """The machine and its load at this moment, the backend, versions, commit and date (UTC)."""
    machine = describe_machine(backend)
    return {
        "host": machine.host,
        "processor": machine.processor,
        "cores": machine.cores,
        "memory_bytes": machine.memory,
        "load": os.getloadavg()[0],
        "device": machine.device,
        "backend": backend.identity(),
        "versions": {name: found for name in PACKAGES if (found := _version(name))},
        "commit": _commit(),
        "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def introduce(provenance: dict[str, Any]) -> str:
    """The same in two lines, with a warning on a busy machine."""
    said = (
        f"{provenance['processor']}, {provenance['cores']} cores, {provenance['device']}, "
        f"{provenance['backend']['fft']}\nhpctem {provenance['versions'].get('hpctem', '')} "
        f"{provenance['commit']}, {provenance['date']}, load {provenance['load']:.2f}"
    )
    if provenance["load"] > QUIET:
        said += "\nthe machine is busy: figures by the clock (two ranks, fsync) mean little"
    return said


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def _commit() -> str:
    """The commit of this tree, '+' behind it where files were changed since; '' without git."""
    folder = Path(__file__).parent

    def ask(*words: str) -> str:
        done = subprocess.run(
            ["git", *words], cwd=folder, capture_output=True, text=True, check=True
        )
        return done.stdout.strip()

    try:
        changed = ask("status", "--porcelain", "--untracked-files=no")
        return ask("rev-parse", "--short=12", "HEAD") + ("+" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return ""
