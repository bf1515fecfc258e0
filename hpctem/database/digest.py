"""Digests that prove a row, a segment or the rest of the file to be what was computed."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from hpctem.database.schema import DIGEST_BYTES, Layout
from hpctem.errors import DatabaseError

BLOCK = 16 * 2**20


def digest_rows(layout: Layout, block: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """BLAKE2b-128 of every row over all fields of its table, in layout order.

    block     path -> array (rows, *shape) of the layout's dtype, contiguous; tables that are not in
              it are left out
    returns   path of the digest column -> uint8 array (rows, 16)
    """
    result = {}
    for column in layout.digests:
        if layout.fields_of(column.table)[0].path not in block:
            continue
        views = []
        for item in layout.fields_of(column.table):
            values = np.ascontiguousarray(block[item.path])
            views.append((values.view(np.uint8).reshape(-1).data, item.row_bytes))
        rows = len(block[layout.fields_of(column.table)[0].path])
        digests = np.empty((rows, DIGEST_BYTES), np.uint8)
        for row in range(rows):
            state = hashlib.blake2b(digest_size=DIGEST_BYTES)
            for view, size in views:
                state.update(view[row * size : (row + 1) * size])
            digests[row] = np.frombuffer(state.digest(), np.uint8)
        result[column.path] = digests
    return result


def digest_segment(layout: Layout, digests: Mapping[str, np.ndarray]) -> bytes:
    """BLAKE2b-128 over the row digests of one segment, tables in layout order."""
    state = hashlib.blake2b(digest_size=DIGEST_BYTES)
    for column in layout.digests:
        state.update(np.ascontiguousarray(digests[column.path]).data)
    return state.digest()


def digest_outside(descriptor: int, extents: Iterable[Sequence[int]]) -> str:
    """BLAKE2b-128 of every byte of a file outside the given (offset, size) extents, as hex."""
    state = hashlib.blake2b(digest_size=DIGEST_BYTES)
    place = 0
    end = os.fstat(descriptor).st_size
    state.update(end.to_bytes(8, "little"))
    for offset, size in [*sorted((int(o), int(s)) for o, s in extents), (end, 0)]:
        while place < offset:
            raw = os.pread(descriptor, min(BLOCK, offset - place), place)
            if not raw:
                raise DatabaseError(f"the file ends at byte {place}, before its rows: truncated")
            state.update(raw)
            place += len(raw)
        place = max(place, offset + size)
    return state.hexdigest()
