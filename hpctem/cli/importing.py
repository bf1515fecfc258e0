"""The command that brings published sets into databases: import."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from hpctem.cli.command import CONFIG, DATABASE, REPAIR, commands, under_mpi
from hpctem.cli.simulation import end_filling


@commands.command("import")
@click.argument("file", type=CONFIG)
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("-o", "--output", type=DATABASE, help="Database to fill; NAME.hdf5 by default.")
@REPAIR
def import_set(file: Path, folder: Path, output: Path | None, repair: bool) -> None:
    """Bring a published set of images and labels into a database.

    FILE is an import file, as configs/public_*.yaml are: it says which files hold the images and
    labels, what the labels mean, how large pixels are, where the set is from. FOLDER is where the
    set was downloaded to. The database is queried, learnt from and judged on as those of
    simulations. Resumes, and gives the same file at any number of ranks.

    \b
    Examples:
      hpctem import configs/public_au_5nm.yaml downloads
      hpctem import configs/public_wse2_day_a.yaml downloads -o wse2_day_a.hdf5
      mpirun -n 4 hpctem import configs/public_au_20nm.yaml downloads
      hpctem evaluate segmentation_au au_5nm.hdf5 -o judged
    """

    def job(communicator: Any) -> None:
        from hpctem.database.fill import fill
        from hpctem.importing.import_file import read_import_file
        from hpctem.importing.job import plan_import
        from hpctem.parallel import ProgressDisplay, listen_for_stop

        stop = listen_for_stop()
        read = communicator.on_root(lambda: read_import_file(file))
        planned = communicator.on_root(lambda: plan_import(read, folder))
        path = output or Path(f"{read.config.set.name}.hdf5")
        display = ProgressDisplay(planned.layout.rows_per_structure["images"])
        summary = fill(
            path,
            planned.layout,
            planned.identity,
            planned.compute,
            communicator,
            repair=repair,
            stop=stop,
            progress=display,
            interval=display.interval,
        )
        end_filling(communicator, path, summary)

    under_mpi(job)
