"""Ranks without MPI, launches that cannot work, progress in words, signals."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from hpctem.errors import ConfigError, MachineError
from hpctem.parallel import (
    Communicator,
    Progress,
    ProgressDisplay,
    abort_on_error,
    describe_duration,
    describe_progress,
    listen_for_stop,
    share_cyclically,
)

ROOT = Path(__file__).parents[2]


def test_alone_there_is_one_rank():
    communicator = Communicator()
    assert (communicator.rank, communicator.size, communicator.local_rank) == (0, 1, 0)
    assert communicator.bcast(3) == 3 and communicator.gather("a") == ["a"]
    assert communicator.allreduce(4) == 4 and communicator.allreduce(4, max) == 4
    communicator.barrier()
    assert communicator.on_root(lambda: 5) == 5
    with pytest.raises(MachineError, match="lost"):
        communicator.on_root(lambda: _raise(MachineError("lost")))


def _raise(error):
    raise error


def python(program: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {
        k: v for k, v in os.environ.items() if not k.startswith(("OMPI_", "PMI", "SLURM"))
    }
    environment |= {"PYTHONPATH": str(ROOT), **variables}
    return subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True
    )


def test_mpi_is_not_imported_without_a_launcher():
    done = python(
        "import sys, hpctem.parallel as p; c = p.world(); "
        "sys.exit('mpi4py' in sys.modules or c.size != 1)"
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", ["OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_STEP_NUM_TASKS"])
def test_launched_without_mpi4py_says_so(name):
    done = python(
        "import sys; sys.modules['mpi4py'] = None\nimport hpctem.parallel as p; p.world()",
        **{name: "4"},
    )
    assert done.returncode == 1
    assert "started 4 ranks, but mpi4py cannot be imported" in done.stderr
    assert "pip install 'hpctem[mpi]'" in done.stderr


def test_only_the_first_rank_says_so():
    program = "import sys; sys.modules['mpi4py'] = None\nimport hpctem.parallel as p; p.world()"
    first = python(program, OMPI_COMM_WORLD_SIZE="2", OMPI_COMM_WORLD_RANK="0")
    second = python(program, OMPI_COMM_WORLD_SIZE="2", OMPI_COMM_WORLD_RANK="1")
    assert (first.returncode, second.returncode) == (1, 1)
    assert first.stderr and not second.stderr


def test_launcher_that_does_not_fit_the_mpi_library_says_so():
    pytest.importorskip("mpi4py")
    done = python("import hpctem.parallel as p; p.world()", SLURM_STEP_NUM_TASKS="4")
    assert done.returncode == 1
    assert "started 4 ranks, but MPI" in done.stderr and "sees only one" in done.stderr


def test_single_rank_errors_go_on_to_the_caller():
    with pytest.raises(ConfigError), abort_on_error(Communicator()):
        raise ConfigError("wrong")
    with pytest.raises(SystemExit), abort_on_error(Communicator()):
        raise SystemExit(3)


def test_shares_cover_everything_once():
    for size in (1, 2, 3, 7):
        shares = []
        for rank in range(size):
            communicator = Communicator()
            communicator.rank, communicator.size = rank, size
            shares += share_cyclically(range(20), communicator)
        assert sorted(shares) == list(range(20))


def test_signals_are_remembered():
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR1)}
    try:
        stop = listen_for_stop()
        assert not stop and not stop()
        os.kill(os.getpid(), signal.SIGUSR1)
        assert stop and stop() and stop.signal == "SIGUSR1"
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def progress(**changes) -> Progress:
    values = dict(
        before=100, total=512, computed=(30, 10), shares=(206, 206), quarantined=0, seconds=60.0
    )
    return Progress(**{**values, **changes})


def test_progress_in_words():
    line = describe_progress(progress(), 20)
    # 40 structures of 20 images in a minute; rank 1 needs 196 / 10 minutes for its rest.
    assert line == (
        "140/512 structures, 2800/10240 images, 13.3 images/s, 20 min left, slowest rank 1 (5 %)"
    )
    none = describe_progress(progress(computed=(0, 0)), 20)
    assert none == "100/512 structures, 2000/10240 images"
    assert "left" not in describe_progress(progress(computed=(206, 206), last=True), 20)
    assert describe_progress(progress(quarantined=3), 20).endswith(", 3 quarantined")
    half = describe_progress(progress(computed=(30, 0)), 1)
    assert "13 min left" in half and "slowest rank 1 (0 %)" in half
    assert "slowest" not in describe_progress(progress(computed=(30,), shares=(412,)), 1)


@pytest.mark.parametrize(
    "seconds, text", [(0.4, "0 s"), (89, "89 s"), (100, "2 min"), (7200, "2.0 h"), (2e5, "2.3 d")]
)
def test_durations(seconds, text):
    assert describe_duration(seconds) == text


def test_display_writes_plain_lines_into_a_file_and_one_line_on_a_terminal():
    stream = io.StringIO()
    display = ProgressDisplay(20, stream)
    if display.live:  # the suite itself runs under an mpirun on a terminal
        pytest.skip("this process writes to a terminal")
    assert display.interval == 30
    display(progress())
    display(progress(last=True))
    assert stream.getvalue().count("\n") == 2 and "\r" not in stream.getvalue()
    stream = io.StringIO()
    stream.isatty = lambda: True
    display = ProgressDisplay(20, stream)
    assert display.live and display.interval == 1
    display(progress())
    display(progress(last=True))
    assert stream.getvalue().count("\n") == 1 and stream.getvalue().count("\r") == 2


def test_terminal_is_found_behind_a_launcher(tmp_path):
    """A rank's stderr is a pipe to mpirun; what counts is where mpirun's own stderr leads."""
    launcher = tmp_path / "mpirun"
    launcher.symlink_to(sys.executable)
    program = tmp_path / "rank.py"
    program.write_text(
        "import sys\nfrom hpctem.parallel import reaches_terminal\n"
        "print(reaches_terminal(sys.stderr))\n"
    )
    start = (
        "import subprocess, sys; p = subprocess.run([sys.argv[1], sys.argv[2]], "
        "capture_output=True, text=True); print(p.stdout + p.stderr)"
    )
    master, terminal = os.openpty()
    try:
        for stderr, expected in ((terminal, "True"), (subprocess.DEVNULL, "False")):
            done = subprocess.run(
                [str(launcher), "-c", start, sys.executable, str(program)],
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
                timeout=180,
                env=os.environ | {"PYTHONPATH": str(ROOT)},
            )
            assert done.stdout.strip() == expected
    finally:
        os.close(master)
        os.close(terminal)
