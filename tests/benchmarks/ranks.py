"""Strong and weak scaling of the main job: the same campaign at several numbers of ranks.

    jobs/benchmark --ranks [--counts 1 2] [--structures 16] [--pixels 640] [--repeats 3] [--json F]

Every run is the whole command as a user starts it: start, layout of the file, structures with 8
phonon configurations and 11 foci, commits to the disk, reading back. Strong: so many structures
whatever the ranks are; weak: so many for each rank. Runs take turns and the shortest counts. The
clock means something only on a quiet machine with a core for every rank; the processor's time of
an image, which is that of all ranks, also on a busy one.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

from job import Run, run_job, write_campaign
from provenance import describe, introduce

from hpctem.backend import select_backend
from hpctem.planning.show import format_table

THERMAL = Path(__file__).parents[2] / "configs" / "au_on_carbon_thermal.yaml"
PHONONS, FOCI = 8, 11
HEAD = ("", "ranks", "structures", "s", "images/s", "faster", "efficiency", "CPU s an image")
Runs = dict[tuple[str, int], Run]


def count_structures(kind: str, ranks: int, structures: int) -> int:
    """Structures of a run."""
    return structures if kind == "strong" else structures * ranks


def measure(campaign: Path, counts: list[int], structures: int, repeats: int) -> Runs:
    """(kind, ranks) -> the shortest run; a first one, which compiles, does not count."""
    run_job(campaign, 1, 1)
    shortest: Runs = {}
    for _ in range(repeats):
        for ranks in counts:
            for kind in ("strong", "weak"):
                if kind == "weak" and ranks == 1:  # the same run
                    continue
                run = run_job(campaign, count_structures(kind, ranks, structures), ranks)
                shortest[kind, ranks] = run.shorter(shortest.get((kind, ranks), run))
    if ("strong", 1) in shortest:
        shortest["weak", 1] = shortest["strong", 1]
    return dict(sorted(shortest.items()))


def tabulate(shortest: Runs, structures: int) -> list[dict[str, float | str]]:
    """Rates, and how many times that of the fewest ranks they are."""
    rows: list[dict[str, float | str]] = []
    for (kind, ranks), run in shortest.items():
        images = count_structures(kind, ranks, structures) * FOCI
        fewest = min(n for name, n in shortest if name == kind)
        first = shortest[kind, fewest]
        before = count_structures(kind, fewest, structures) * FOCI / first.wall
        faster = images / run.wall / before
        values = (kind, ranks, images // FOCI, run.wall, images / run.wall)
        values += (faster, faster * fewest / ranks, run.cpu / images)
        rows.append(dict(zip(("kind", *HEAD[1:]), values, strict=True)))
    return rows


def main() -> None:
    """Print the table; with --json also write it."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--counts", type=int, nargs="+", default=[1, 2], help="numbers of ranks")
    parser.add_argument("--structures", type=int, default=16)
    parser.add_argument("--pixels", type=int, default=640)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    provenance = describe(select_backend("cpu"))
    print(introduce(provenance), flush=True)
    with tempfile.TemporaryDirectory(prefix="hpctem-ranks-") as folder:
        path = Path(folder, "job.yaml")
        campaign = write_campaign(path, THERMAL, asked.pixels, PHONONS, FOCI)
        runs = measure(campaign, asked.counts, asked.structures, asked.repeats)
    rows = tabulate(runs, asked.structures)
    lines = [[f"{v:.3g}" if isinstance(v, float) else str(v) for v in r.values()] for r in rows]
    print(format_table(HEAD, lines))
    if asked.json:
        asked.json.write_text(json.dumps({**provenance, "rows": rows}, indent=1))


if __name__ == "__main__":
    main()
