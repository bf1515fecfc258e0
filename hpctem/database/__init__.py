"""The database of a campaign: one HDF5 file, laid out first, filled and committed by segments.

`schema` says what is stored, `create` lays the file out, `fill` computes and commits it at any
number of ranks, `reader` and `information` read it, `verify` checks every byte of it.
"""

from __future__ import annotations

import os

# A job that fills a database holds its own lock (lock.py). HDF5's lock fails on filesystems without
# flock, and it would keep readers away from an unfinished file.
os.environ.setdefault("HDF5_USE_FILE_LOCKING", "FALSE")
