"""The CUDA loops of incoherent images, compiled as C++ for the CPU, against their Numba twins."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

sys.path.append(str(Path(__file__).parent))

from cuda_on_cpu import compile_for_gpu, launch_on_cpu, list_functions

from hpctem.backend import select_backend
from hpctem.optics import gathering_cpu, gathering_cuda
from hpctem.optics.aberrations import Aberrations
from hpctem.optics.probe import Probe, tabulate_probe
from hpctem.optics.spreading import window_table

TURNED = Probe(80e3, 0.025, 30, Aberrations(C12=20, phi12=0.4, C21=600, C30=1e4), 20, 0.5)


@pytest.fixture(scope="module")
def cuda(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModuleType]:
    with launch_on_cpu(gathering_cuda, tmp_path_factory.mktemp("cuda")) as module:
        yield module


def test_both_modules_have_the_same_functions() -> None:
    found = list_functions(gathering_cpu)
    assert found == list_functions(gathering_cuda)
    assert sorted(found) == ["deposit", "fill_polar", "fill_round", "gather", "weigh"]


@pytest.mark.parametrize("dtype", [np.float32, np.complex64])
def test_weigh(cuda, dtype: type) -> None:
    generator = np.random.default_rng(1)
    half, values = generator.normal(size=(2, 30, 17)) + 1j * generator.normal(size=(2, 30, 17))
    values = (values.real if dtype == np.float32 else values).astype(dtype)
    along_y, along_x = (generator.random(n, dtype=np.float32) for n in (30, 17))
    exact = half * values * along_y[:, None] * along_x
    for module in (gathering_cpu, cuda):
        found = half.astype(np.complex64)
        module.weigh(found, along_y, along_x, values)
        assert np.abs(found - exact).max() < 2e-6 * np.abs(exact).max()


def test_fill(cuda) -> None:
    """On the axes, about the band's end and beyond it."""
    band = 2 * TURNED.cutoff
    ky, kx = np.linspace(-1.1, 1.1, 41) * band, np.linspace(0, 1.1, 29) * band
    ky[20] = 0.0
    table = tabulate_probe(TURNED)
    found, expected = (np.full((41, 29), np.nan, np.complex64) for _ in range(2))
    cuda.fill_polar(found, ky, kx, table.radial, table.means, band)
    gathering_cpu.fill_polar(expected, ky, kx, table.radial, table.means, band)
    assert np.abs(found - expected).max() < 1e-6
    assert abs(found[20, 0] - 1) < 1e-5 and found[0, 28] == 0
    rounds = [np.full((41, 29), np.nan, np.float32) for _ in range(2)]
    for module, values in zip((cuda, gathering_cpu), rounds, strict=True):
        module.fill_round(values, ky, kx, table.radial, band)
    np.testing.assert_allclose(*rounds, atol=1e-7)
    assert rounds[0][20, 0] == 1 and rounds[0][0, 28] == 0


@pytest.mark.parametrize("scan", ["even", "lines", "points"])
def test_gather(cuda, scan: str) -> None:
    """All three ways of the CPU, and points whose windows lie across every edge."""
    generator = np.random.default_rng(3)
    values = generator.normal(size=(40, 36)).astype(np.float32)
    lines = np.zeros((3, 29, 2))
    lines[..., 0] = np.linspace(-5, 43, 29) + generator.normal(0, 0.3, (3, 29))
    lines[..., 1] = -4.3
    if scan != "even":
        lines[..., 1] += generator.normal(0, 1, (3, 29))
    columns = np.stack([np.zeros(43), np.linspace(0, 45, 43)], axis=1)
    if scan == "points":
        columns[:, 0] = np.linspace(0, 6, 43)
    columns[7] = np.round(columns[7])
    found, expected = (np.full((29, 43), np.nan, np.float32) for _ in range(2))
    cuda.gather(found, values, lines, columns, window_table())
    gathering_cpu.gather(expected, values, lines, columns, window_table())
    assert np.abs(found - expected).max() < 5e-6 * np.abs(expected).max()


def test_deposit_is_the_window_at_each_atom() -> None:
    """Against a sum of windows written out, of one layer of two, with weights."""
    from hpctem.optics.grid import Grid
    from hpctem.optics.spreading import WIDTH, make_deposits

    cpu, table = select_backend("cpu"), window_table()
    generator = np.random.default_rng(7)
    row, column = generator.uniform(0, 1, (2, 50)) * np.array([[40], [36]])
    layer, weight = generator.integers(0, 2, 50), generator.uniform(0.5, 2, 50)
    deposits, order = make_deposits(row, column, layer, (1, 2), Grid((40, 36), (40.0, 36.0)), cpu)
    deposits = deposits._replace(weight=weight[order].astype(np.float32))
    exact = np.zeros((40, 36))
    phases = np.linspace(0, 1, len(table))
    for n in np.flatnonzero(layer == 1):
        start = np.ceil([row[n] - WIDTH / 2, column[n] - WIDTH / 2]).astype(int)
        legs = [
            [np.interp(s - place + WIDTH / 2, phases, table[:, q]) for q in range(WIDTH)]
            for s, place in zip(start, (row[n], column[n]), strict=True)
        ]
        rows, columns = (np.arange(s, s + WIDTH) % m for s, m in zip(start, (40, 36), strict=True))
        exact[np.ix_(rows, columns)] += weight[n] * np.outer(*legs)
    found = gathering_cpu.deposit(deposits, 1, (40, 36), table)
    assert np.abs(found - exact).max() < 2e-6 * exact.max()


def test_the_source_is_compiled_for_gpus() -> None:
    compile_for_gpu(gathering_cuda.SOURCE)
