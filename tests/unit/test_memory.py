"""The memory asked for before a campaign is what its processes take."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from small_campaigns import SMALL, SMALL_STEM, write_campaign

from hpctem import memory
from hpctem.backend import Backend, select_backend
from hpctem.campaign_file import read_campaign
from hpctem.hrtem.experiment import Experiment
from hpctem.hrtem.memory import PROGRAM_BYTES, estimate_memory
from hpctem.optics import passage_cpu
from hpctem.optics.grid import Grid
from hpctem.optics.multislice import Multislice, exit_waves
from hpctem.simulate import lay_out
from hpctem.stem import memory as stem_memory
from hpctem.stem.experiment import Experiment as StemExperiment

CPU = select_backend("cpu")
# A process of its own, for what a finished child took at most is never forgotten by its parent.
MEASURE = """
import resource, subprocess, sys
command = [sys.executable, "-m", "hpctem", "simulate", *sys.argv[1:]]
done = subprocess.run(command, stdout=subprocess.DEVNULL)
print(done.returncode, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024)
"""
# The same without the contact sheet at the end.
COMPUTE = """
import sys
from pathlib import Path
from hpctem.campaign_file import read_campaign
from hpctem.parallel import Communicator
from hpctem.simulate import Options, simulate
simulate(read_campaign(Path(sys.argv[1]), 1), Path("x.hdf5"), Options("cpu"), Communicator())
"""
MEASURE_COMPUTING = MEASURE.replace('"-m", "hpctem", "simulate"', f'"-c", {COMPUTE!r}')
LARGER = (
    ("3.2 nm, 3.2 nm", "18 nm, 18 nm"),
    ("sampling: 0.25 A\n  phonons", "sampling: 0.1 A\n  phonons"),
    ("sampling: 0.25 A\n  crop: 96", "sampling: 0.2 A\n  crop: 512"),
)
FINITELY = ("  energy: 200 keV", "  energy: 200 keV\n  projection: finite")
FINITE = (*LARGER, FINITELY)


def place(path: Path) -> tuple:
    """What `estimate_memory` needs to know of a campaign."""
    campaign = read_campaign(path)
    experiment = Experiment(campaign.config, CPU)
    layout = lay_out(campaign, experiment, range(campaign.config.campaign.structures))
    return experiment, layout


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    """The loops' machine code is kept: making it takes memory of its own."""
    folder = tmp_path_factory.mktemp("compiled")
    path = write_campaign(folder, FINITELY)
    command = [sys.executable, "-m", "hpctem", "simulate", path, "--limit", "1", "--device", "cpu"]
    subprocess.run(command, cwd=folder, check=True, capture_output=True)


@pytest.mark.usefixtures("compiled")
@pytest.mark.parametrize("changes", [(), LARGER, FINITE], ids=["small", "larger", "finite"])
def test_estimate_is_what_a_process_takes(tmp_path, changes):
    path = write_campaign(tmp_path, *changes)
    command = [sys.executable, "-c", MEASURE, path, "--limit", "1", "--device", "cpu"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=240)
    status, peak = map(int, done.stdout.split())
    assert status == 0, done.stderr
    estimate = estimate_memory(*place(path))
    assert 0.6 < peak / estimate < 1.5
    if changes:  # and not because libraries outweigh the arrays
        assert 0.5 < (peak - PROGRAM_BYTES) / (estimate - PROGRAM_BYTES) < 1.5


FLAT = ("  ripples: {amplitude: 0.5 A, wavelength: 40 A}\n", "")
FEW = (("foci: 2\n", "foci: 1\n"), ("images_per_focus: 2", "images_per_focus: 1"))
DENSE = (("pixels: 96", "pixels: 1024"),)
MULTISLICE = (
    *(*FEW, FLAT, ("pixels: 96", "pixels: 24"), ("outer: 200 mrad", "outer: 150 mrad")),
    ("{C12: 1 nm, C30: 0.3 um}", "{C12: 0.2 nm, C30: 0.01 um}"),
    ("{normal: {mean: 0 nm, std: 1 nm}, per: focus}", "0 nm"),
    ("method: incoherent", "method: multislice\n  sampling: 0.07 A\n  window: 40 A"),
    ("semiangle_cutoff: 25 mrad", "semiangle_cutoff: 10 mrad"),
)
NARROW = ("window: 40 A", "window: 12 A")


@pytest.fixture(scope="module")
def compiled_for_stem(tmp_path_factory):
    for name, changes in (("incoherent", ()), ("multislice", (*MULTISLICE, NARROW))):
        folder = tmp_path_factory.mktemp(name)
        command = [sys.executable, "-c", COMPUTE, write_campaign(folder, *changes, of=SMALL_STEM)]
        subprocess.run(command, cwd=folder, check=True, capture_output=True)


def place_stem(path: Path) -> tuple:
    campaign = read_campaign(path)
    experiment = StemExperiment(campaign.config, CPU)
    return experiment, lay_out(campaign, experiment, range(6))


@pytest.mark.usefixtures("compiled_for_stem")
@pytest.mark.parametrize(
    "changes", [(), DENSE, MULTISLICE], ids=["small", "1024 pixels", "multislice"]
)
def test_estimate_of_stem_is_what_a_process_takes(tmp_path, changes):
    path = write_campaign(tmp_path, *changes, of=SMALL_STEM)
    command = [sys.executable, "-c", MEASURE_COMPUTING, path]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=240)
    status, peak = map(int, done.stdout.split())
    assert status == 0, done.stderr
    estimate = stem_memory.estimate_memory(*place_stem(path))
    assert 0.7 < peak / estimate < 1.4
    if changes:
        program = stem_memory.PROGRAM_BYTES
        assert 0.5 < (peak - program) / (estimate - program) < 1.5


def test_estimate_of_stem_grows_with_what_is_asked(tmp_path):
    grown = [
        stem_memory.estimate_memory(*place_stem(write_campaign(tmp_path, *changes, of=SMALL_STEM)))
        for changes in (
            (),
            (("pixels: 96", "pixels: 512"),),
            DENSE,
            (*DENSE, ("foci: 2\n", "foci: 8\n")),
        )
    ]
    assert grown == sorted(grown) and grown[3] > 2 * grown[0]
    experiment, layout = place_stem(write_campaign(tmp_path, *MULTISLICE, of=SMALL_STEM))
    there = replace(experiment, backend=Backend("cupy", np, "cufft", ""))
    device = stem_memory.estimate_memory(there, layout, on_device=True)
    assert device > 64 * 6 * 8 * 570**2  # the windows of a batch of probes, and what they meet
    assert stem_memory.estimate_memory(there, layout) < 2e9


@pytest.mark.parametrize("projection", ["infinite", "finite"])
def test_factors_are_arranged_once_for_all_configurations(projection, monkeypatch):
    """Else a process would take more memory with every phonon configuration."""
    made = []
    arrange = passage_cpu.arrange_half
    monkeypatch.setattr(
        passage_cpu, "arrange_half", lambda *given: made.append(1) or arrange(*given)
    )
    positions = np.random.default_rng(0).uniform(0, 8, (4, 20, 3))
    numbers = np.repeat([6, 79], 10)
    counts = []
    for configurations in (1, 4):
        made.clear()
        exit_waves(
            positions[:configurations], numbers, 8.0, Grid((64, 64), (8.0, 8.0)),
            Multislice(200e3, 2.0, projection=projection), CPU,
        )  # fmt: skip
        counts.append(len(made))
    assert counts[0] == counts[1] > 2


def test_estimate_grows_with_what_is_asked(tmp_path):
    grown = [
        estimate_memory(*place(write_campaign(tmp_path, *changes)))
        for changes in (
            (),
            LARGER,
            (*LARGER, ("configurations: 2", "configurations: 8")),
            (*FINITE, ("configurations: 2", "configurations: 8")),
        )
    ]
    assert grown == sorted(grown)
    assert grown[3] > 2 * grown[0]


def test_available_memory_is_below_the_machines(tmp_path):
    total = next(
        int(line.split()[1]) * 1024
        for line in Path("/proc/meminfo").read_text().splitlines()
        if line.startswith("MemTotal:")
    )
    assert 0 < memory.available_memory(CPU) < total


def test_shortage_is_told_for_all_ranks_of_a_node():
    each = estimate_memory(*place(SMALL))
    assert memory.find_shortage(lambda on_device: each, CPU, 1, 1) == ""
    ranks = int(2 * memory.available_memory(CPU) / each)
    told = memory.find_shortage(lambda on_device: each, CPU, ranks, 1)
    assert told.startswith(f"{ranks} rank(s) need about") and "the node's memory" in told


@pytest.mark.parametrize(("on_gpu", "short"), [(1, False), (4, True)])
def test_shortage_on_a_gpu_counts_the_ranks_that_share_it(on_gpu, short):
    """A device with room for two ranks; the host has room for all."""
    experiment, layout = place(SMALL)
    runtime = SimpleNamespace(memGetInfo=lambda: (2 * device, 8 * device))
    cuda = SimpleNamespace(cuda=SimpleNamespace(runtime=runtime))
    gpu = Backend("cupy", cuda, "cufft", "a GPU (device 0)")
    there = replace(experiment, backend=gpu)
    device = estimate_memory(there, layout, on_device=True)
    told = memory.find_shortage(lambda on: estimate_memory(there, layout, on), gpu, 4, on_gpu)
    assert ("4 rank(s) need about" in told and "the memory of a GPU (device 0)" in told) == short
    assert bool(told) == short
