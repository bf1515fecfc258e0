"""For which processors loops are compiled, and where their machine code is kept.

Numba reads its settings once, so `hpctem.compiling` and `hpctem.backend` import this before Numba.
Unless the environment already says otherwise, the target is x86-64-v3 (AVX2 and FMA, no AVX-512)
on every processor that runs it, for Numba's own choice differs from model to model.

Machine code is kept in a folder of its own for each state of the sources and each target. Numba
looks only at the file of the function itself, so after an update a loop could go on with the
machine code of another that it calls; and where two kinds of node share a home, one could be
handed what the other compiles at that moment.
"""

from __future__ import annotations

import hashlib
import os
import platform
import sys
import tempfile
from pathlib import Path

COMPILED = (
    "calibration/transforms.py",
    "column_labels/clusters.py",
    "column_labels/nearest.py",
    "column_labels/painting.py",
    "column_labels/spans.py",
    "compiling.py",
    "detection/counter_random.py",
    "detection/counting.py",
    "detection/film_spline.py",
    "detection/median.py",
    "export/crc32c.py",
    "optics/butterflies.py",
    "optics/gathering_cpu.py",
    "optics/kernels_cpu.py",
    "optics/lanes.py",
    "optics/lens_means.py",
    "optics/line_transforms.py",
    "optics/neighbours.py",
    "optics/panels.py",
    "optics/passes.py",
    "optics/probe_passage_cpu.py",
    "optics/spreading.py",
    "optics/spreading_cpu.py",
    "structures/amorphous.py",
)
"""The modules that hold compiled loops."""

PACKAGE = Path(__file__).parent
_V3_FLAGS = {"avx2", "fma", "bmi1", "bmi2", "f16c", "movbe"}


def is_v3() -> bool:
    """Whether this processor runs x86-64-v3 code (psABI level with AVX2 and FMA)."""
    if platform.machine() != "x86_64":
        return False
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return False
    flags = next((line for line in text.splitlines() if line.startswith("flags")), "")
    return set(flags.split()) >= _V3_FLAGS


def read_target() -> str:
    """The processor that Numba compiles for, and the features that are asked for beside its own."""
    name = os.environ.get("NUMBA_CPU_NAME")
    if not name:
        from llvmlite.binding import get_host_cpu_name

        name = str(get_host_cpu_name())
    return f"{name} {os.environ.get('NUMBA_CPU_FEATURES', '')}".strip()


def name_folder(package: Path = PACKAGE) -> str:
    """Name of the folder for the machine code of `package` as it stands, on this target."""
    digest = hashlib.blake2b(digest_size=6)
    for module in COMPILED:
        digest.update((package / module).read_bytes())
    target = (os.environ.get(f"NUMBA_CPU_{part}", "") for part in ("NAME", "FEATURES"))
    digest.update(" ".join([platform.machine(), *target]).encode())
    return f"hpctem-{digest.hexdigest()}"


def choose_folder() -> Path:
    """The folder for the machine code: in NUMBA_CACHE_DIR, or the first place that can be written:
    beside the source, the user's cache, the folder for temporary files."""
    name = name_folder()
    given = os.environ.get("NUMBA_CACHE_DIR")
    if given:  # by the user, or already by the process that started this one
        return Path(given) if Path(given).name == name else Path(given, name)
    home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    shared = Path(tempfile.gettempdir(), f"hpctem-{os.getuid()}")
    for place in (PACKAGE / "__pycache__", Path(home), shared):
        try:
            place.mkdir(mode=0o700, parents=True, exist_ok=True)
            mine = place.stat().st_uid == os.getuid()  # nobody else's machine code is run
        except OSError:
            continue
        if mine and place.is_absolute() and os.access(place, os.W_OK):
            return place / name
    return Path(tempfile.mkdtemp(prefix="hpctem-"), name)


def settle() -> None:
    """Tell Numba the target and the folder."""
    if "NUMBA_CPU_NAME" not in os.environ and is_v3():
        os.environ["NUMBA_CPU_NAME"] = "x86-64-v3"
        os.environ.setdefault("NUMBA_CPU_FEATURES", "+avx2,+fma")
    os.environ["NUMBA_CACHE_DIR"] = str(choose_folder())
    if "numba" in sys.modules:  # its settings were read too early; nothing compiled is changed
        sys.modules["numba"].config.reload_config()


settle()
