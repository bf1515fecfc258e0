"""How long ranks take to add up what they exchange in a training, by each transport.

    python tests/benchmarks/exchange.py [--ranks 2] [--json FILE]

starts the ranks by mpirun for each transport and times sums of the sizes that networks send: the
statistics of a batch normalisation, and gradients of the residual U-Net, the U-Net and the
generator of a CycleGAN (docs/scaling.md). Of several rounds the median, its range beside it.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

from job import find_mpirun

# Numbers of a sum, their type, and how often it is taken in a round.
SUMS = {
    "257 float64": (257, "float64", 200),
    "4 MB": (10**6, "float32", 20),
    "10 MB": (2_570_000, "float32", 10),
    "56 MB": (14 * 10**6, "float32", 5),
    "218 MB": (54_400_000, "float32", 3),
}
ROUNDS = 7


def time_sums(transport: str) -> dict[str, list[float]]:
    """Seconds of one sum of each size, of every round; the same on all ranks."""
    import tensorflow as tf

    from hpctem.learning.ranks.transport import open_transport
    from hpctem.parallel import world

    communicator = world()
    opened = open_transport(communicator, transport)
    found: dict[str, list[float]] = {}
    for name, (numbers, kind, times) in SUMS.items():
        mine = tf.ones(numbers, kind)
        add = tf.function(opened.total)
        assert float(add(mine)[0]) == communicator.size
        found[name] = []
        for _ in range(ROUNDS):
            communicator.barrier()
            begin = time.perf_counter()
            for _ in range(times):
                add(mine).numpy()
            communicator.barrier()
            found[name].append((time.perf_counter() - begin) / times)
    return found if communicator.rank == 0 else {}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.child:
        print(json.dumps(time_sums(asked.child)))
        return
    figures: dict[str, dict[str, list[float]]] = {}
    for transport in ("horovod", "mpi4py"):
        command = [*find_mpirun(), "-n", str(asked.ranks), sys.executable, __file__]
        done = subprocess.run([*command, "--child", transport], capture_output=True, text=True)
        if done.returncode != 0:
            sys.exit(f"{transport}: {done.stderr.strip()[-2000:]}")
        told = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
        figures[transport] = next(one for one in told if one)
    print(f"{asked.ranks} ranks, milliseconds of a sum: median (least to largest of {ROUNDS})")
    for name in SUMS:
        line = "".join(
            f"{transport:>10} {1e3 * statistics.median(all_of_it):8.3g} "
            f"({1e3 * min(all_of_it):.3g} to {1e3 * max(all_of_it):.3g})"
            for transport, found in figures.items()
            for all_of_it in (found[name],)
        )
        print(f"{name:12}{line}")
    if asked.json:
        asked.json.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
