"""Simulate labelled databases of high-resolution TEM images, in parallel and reproducibly."""

import os
import tempfile
from pathlib import Path

__version__ = "0.1.0"

# Numba keeps what it compiled beside the source or in the user's cache, and refuses to start where
# neither can be written (containers, read-only installations).
_PLACES = (Path(__file__).parent, Path(os.environ.get("XDG_CACHE_HOME") or Path.home()))
if not any(os.access(place, os.W_OK) for place in _PLACES):
    _FOLDER = Path(tempfile.gettempdir(), f"hpctem-numba-{os.getuid()}")
    os.environ.setdefault("NUMBA_CACHE_DIR", str(_FOLDER))
