"""A job that fills a database with cheap, reproducible rows: what the tests launch and kill.

Run as `python synthetic.py DATABASE key=value ...`; it prints one line of JSON at the end.
"""

from __future__ import annotations

import dataclasses
import faulthandler
import json
import os
import resource
import signal
import sys
import time
from pathlib import Path

import numpy as np

from hpctem.database import writer as writer_module
from hpctem.database.fill import fill
from hpctem.database.schema import Axis, Field, Layout, Stack
from hpctem.database.segment import StructureRows, quarantine
from hpctem.errors import HpctemError, MachineError
from hpctem.parallel import abort_on_error, listen_for_stop, world

SIZE = 24
IMAGES = 4
PARTICLES = 3
LATTICES = ("fcc", "bcc", "hcp")


def lay_out(structures: int = 24, per_segment: int = 2, first: int = 0, size: int = SIZE) -> Layout:
    """A small database with every kind of field: images, complex waves, texts, categories."""
    axes = (Axis("y", size, 0.2), Axis("x", size, 0.2))
    return Layout(
        structures=structures,
        first_structure=first,
        structures_per_segment=per_segment,
        rows_per_structure={"images": IMAGES, "particles": PARTICLES, "waves": 1},
        counts={"particles": "/entry/structures/number_of_particles"},
        fields=(
            Field("/entry/images/intensity", "images", np.dtype("u2"), (size, size), "counts"),
            Field("/entry/labels/particle", "images", np.dtype("u1"), (size, size)),
            Field("/entry/metadata/dose", "images", np.dtype("f4"), (), "1/angstrom^2", "dose"),
            Field("/entry/waves/exit_wave", "waves", np.dtype("c8"), (size, size)),
            Field("/entry/structures/radius", "structures", np.dtype("f8"), (), "angstrom"),
            Field("/entry/structures/lattice", "structures", np.dtype("u1"), categories=LATTICES),
            Field("/entry/structures/number_of_particles", "structures", np.dtype("u1")),
            Field("/entry/structures/formula", "structures", np.dtype("S7")),
            Field("/entry/particles/position", "particles", np.dtype("f8"), (3,), "angstrom"),
        ),
        campaign={"config": "seed: 7\n", "code_version": "1.0"},
        stacks=(
            Stack("/entry/images/intensity", axes, title="synthetic"),
            Stack("/entry/labels/particle", axes),
        ),
    )


@dataclasses.dataclass(frozen=True)
class Compute:
    """Rows of a structure from its index alone; some are slow, some bad, some deadly.

    While there is a file called `gate` nothing is computed.
    """

    size: int = SIZE
    slow: float = 0.0
    gate: str = ""
    bad: tuple[int, ...] = ()
    nan: tuple[int, ...] = ()
    deadly: tuple[int, ...] = ()
    deadly_signal: int = signal.SIGSEGV
    failing: tuple[int, ...] = ()
    raising: str = "machine"

    def __call__(self, index: int) -> StructureRows:
        generator = np.random.Generator(np.random.Philox(key=[7, 0], counter=[0, 0, 0, index]))
        size, number = self.size, int(generator.integers(1, PARTICLES + 1))
        time.sleep(self.slow * generator.random())
        while self.gate and os.path.exists(self.gate):
            time.sleep(0.01)
        if index in self.deadly:
            os.kill(os.getpid(), self.deadly_signal)
        if index in self.failing:
            raise MachineError("the GPU is lost") if self.raising == "machine" else KeyError("bug")
        if index in self.bad:
            return quarantine(f"CIF of structure {index} cannot be read: Å")
        radius = generator.normal(40, 5)
        return StructureRows(
            {
                "/entry/images/intensity": generator.poisson(50, (IMAGES, size, size)),
                "/entry/labels/particle": generator.integers(0, 4, (IMAGES, size, size)),
                "/entry/metadata/dose": generator.uniform(100, 900, IMAGES),
                "/entry/waves/exit_wave": generator.normal(size=(size, size, 2))
                @ np.array([1, 1j]),
                "/entry/structures/radius": np.nan if index in self.nan else radius,
                "/entry/structures/lattice": LATTICES[index % 3],
                "/entry/structures/number_of_particles": number,
                "/entry/structures/formula": "Ångström",
                "/entry/particles/position": generator.normal(size=(number, 3)),
            }
        )


def main() -> int:
    """Fill the database as the arguments say; exit codes are those of the errors."""
    path = Path(sys.argv[1])
    options = dict(argument.split("=", 1) for argument in sys.argv[2:])

    def numbers(name: str) -> tuple[int, ...]:
        return tuple(int(n) for n in options.get(name, "").split(",") if n)

    size = int(options.get("size", SIZE))
    layout = lay_out(
        int(options.get("structures", 24)), int(options.get("per_segment", 2)), size=size
    )
    compute = Compute(
        size,
        slow=float(options.get("slow", 0)),
        gate=options.get("gate", ""),
        bad=numbers("bad"),
        nan=numbers("nan"),
        deadly=numbers("deadly"),
        failing=numbers("failing"),
        raising=options.get("raising", "machine"),
    )
    stop = listen_for_stop()
    communicator = world()
    states = []
    writer_module.SLAB_BYTES = int(options.get("slab", writer_module.SLAB_BYTES))
    if "file_limit" in options:  # here and not before: MPI's own files are larger
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(options["file_limit"]), -1))
    with abort_on_error(communicator):
        summary = fill(
            path,
            layout,
            {"seed": options.get("seed", "7")},
            compute,
            communicator,
            writer=options.get("writer", "auto"),
            stop=stop,
            progress=states.append,
            interval=float(options.get("interval", 30)),
            patience=float(options.get("patience", 30)),
        )
        if communicator.rank == 0:
            print(json.dumps(dataclasses.asdict(summary) | {"progress": len(states)}), flush=True)
        if "exit" in options:
            sys.exit(int(options["exit"]))
    return 0 if summary.complete else 4


if __name__ == "__main__":
    faulthandler.register(signal.SIGQUIT)
    try:
        # A traceback of __main__ would hide that Compute must be found by a child process.
        sys.modules["synthetic"] = sys.modules["__main__"]
        Compute.__module__ = "synthetic"
        sys.exit(main())
    except HpctemError as error:
        sys.stderr.write(f"hpctem: error: {error}\n")
        sys.exit(error.exit_code)
