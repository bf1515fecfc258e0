"""What a rank does beside computing: commit the segment before, and show how far all ranks are."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np

from hpctem.database.digest import digest_rows, digest_segment
from hpctem.database.journal import Journal, JournalWatch
from hpctem.database.schema import Layout
from hpctem.database.writer import Writer
from hpctem.parallel import Progress


class Committer:
    """Writes and commits one segment in a thread while the next one is computed."""

    def __init__(self, layout: Layout, writer: Writer, journal: Journal) -> None:
        self._layout, self._writer, self._journal = layout, writer, journal
        self._pool = ThreadPoolExecutor(1, "commit")
        self._pending: Future[None] | None = None

    def __enter__(self) -> Committer:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        try:
            if kind is None:
                self._wait()
        finally:
            self._pool.shutdown()

    def commit(self, segment: int, block: dict[str, np.ndarray], quarantined: int) -> None:
        """Hand over a segment; raises what went wrong with the one before."""
        self._wait()
        self._pending = self._pool.submit(self._store, segment, block, quarantined)

    def raise_failure(self) -> None:
        """Raise what went wrong with the segment before, if that is known already."""
        if self._pending is not None and self._pending.done():
            self._pending.result()

    def _wait(self) -> None:
        if self._pending is not None:
            self._pending.result()

    def _store(self, segment: int, block: dict[str, np.ndarray], quarantined: int) -> None:
        layout = self._layout
        digests = digest_rows(layout, block)
        structures = layout.segment(segment)
        for item in layout.datasets:
            values = block[item.path] if item.path in block else digests[item.path]
            self._writer.write(item.path, layout.row_range(item.table, structures).start, values)
        self._writer.sync()
        self._journal.commit(segment, digest_segment(layout, digests), quarantined)


class Monitor:
    """Rank 0: reads the journals of all ranks now and then and shows how far they are."""

    def __init__(
        self,
        watch: JournalWatch,
        progress: Callable[[Progress], None] | None,
        interval: float,
        start: Progress,
        stop_file: Path,
    ) -> None:
        self._watch, self._progress, self._interval = watch, progress, interval
        self._start, self._stop_file = start, stop_file
        self._began = time.monotonic()
        self._end = threading.Event()
        self._failure: Exception | None = None
        self._thread = threading.Thread(target=self._watch_all, name="monitor", daemon=True)
        if progress is not None:
            self._thread.start()

    def end(self) -> None:
        """Show the final state."""
        self._end.set()
        if self._thread.is_alive():
            self._thread.join()

    def raise_failure(self) -> None:
        """Raise what `progress` raised."""
        if self._failure is not None:
            raise self._failure

    def _watch_all(self) -> None:
        while self._failure is None:
            # Sooner at first: a person wants to see that it runs, and how fast a short job went.
            seconds = time.monotonic() - self._began
            pause = min(self._interval, max(self._interval / 16, seconds / 2))
            last = self._end.wait(pause)
            try:
                self._show(last)
            except Exception as failure:
                self._failure = failure
                # A disk that takes no file stops the ranks by itself, at their next commit.
                with suppress(OSError):
                    self._stop_file.touch()
            if last:
                return

    def _show(self, last: bool) -> None:
        assert self._progress is not None
        self._watch.update()
        computed = [self._watch.computed.get(rank, 0) for rank in range(len(self._start.shares))]
        self._progress(
            replace(
                self._start,
                computed=tuple(computed),
                quarantined=self._start.quarantined + self._watch.quarantined,
                seconds=time.monotonic() - self._began,
                last=last,
            )
        )
