"""A whole structure on the GPU: the CPU's to rounding, and the same bytes twice."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_campaigns import SMALL, write_campaign

for package in ("ase", "pydantic", "yaml", "h5py"):
    pytest.importorskip(package, reason=f"campaigns need {package}, which is not installed")
campaign_file, memory, simulate, common = (
    import_module(f"hpctem.{name}") for name in ("campaign_file", "memory", "simulate", "tables")
)
campaign, experiments, needs, tables = (
    import_module(f"hpctem.hrtem.{name}") for name in ("campaign", "experiment", "memory", "tables")
)

STATISTICS = {f"/entry/metadata/{column.name}" for column in common.IMAGE_STATISTICS}
# A convergent beam, an objective aperture and a camera with all its noise.
RICH = (
    ("  focal_spread: 15 A", "  focal_spread: 15 A\n  convergence_semiangle: 0.5 mrad"),
    ("  foci: 2", "  objective_aperture: 12 mrad\n  foci: 2"),
    (
        "storage:",
        "  detector: {mtf: {c1: 0.1, c2: 0.3, c3: 1.2}, readout_noise: 1.5, gain: 3, offset: 50, "
        "digitize: true}\nstorage:",
    ),
)


def relative(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected - expected.mean()))


def same_rows(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return one.keys() == other.keys() and all(
        np.asarray(one[path]).tobytes() == np.asarray(other[path]).tobytes() for path in one
    )


def prepare(path: Path, backend: Any) -> Any:
    """The campaign of a file on a device."""
    return experiments.Experiment(campaign_file.read_campaign(path).config, backend)


@pytest.mark.parametrize("changes", [(), RICH], ids=["small", "rich"])
def test_structure_twice(gpu, tmp_path, changes):
    path = write_campaign(tmp_path, *changes)
    rows = [campaign.compute_structure(prepare(path, gpu), 1) for _ in range(2)]
    assert same_rows(*rows)
    assert all(isinstance(values, np.ndarray | np.generic) for values in rows[0].values())
    assert not same_rows(rows[0], campaign.compute_structure(prepare(path, gpu), 2))


@pytest.mark.parametrize(
    "mask",
    ["projected_potential", "phase", "intensity"],
)
def test_structure_equals_the_cpu(cpu, gpu, tmp_path, mask):
    """Waves to 1e-4; masks but for pixels at their edge; counts but where rounding tips a draw."""
    path = write_campaign(tmp_path, ("storage:", f"labels: {{mask: {{method: {mask}}}}}\nstorage:"))
    found = campaign.compute_structure(prepare(path, gpu), 0)
    expected = campaign.compute_structure(prepare(path, cpu), 0)
    assert found.keys() == expected.keys()
    for wave, on_cpu in zip(found[tables.EXIT_WAVES], expected[tables.EXIT_WAVES], strict=True):
        assert relative(wave, on_cpu) < 1e-4
    assert expected[common.INSTANCES].any()
    assert np.mean(found[common.INSTANCES] != expected[common.INSTANCES]) < 1e-3
    assert found[common.IMAGES].dtype == expected[common.IMAGES].dtype == np.uint16
    counts, on_cpu = (rows[common.IMAGES].astype(np.int64) for rows in (found, expected))
    assert np.mean(counts != on_cpu) < 2e-3
    assert np.abs(counts - on_cpu).max() <= 0.2 * on_cpu.max()
    assert counts.mean() == pytest.approx(on_cpu.mean(), rel=1e-5)
    assert counts.std() == pytest.approx(on_cpu.std(), rel=1e-4)
    for path in expected.keys() - {tables.EXIT_WAVES, common.INSTANCES, common.IMAGES}:
        on_gpu, on_cpu = np.asarray(found[path]), np.asarray(expected[path])
        assert on_gpu.dtype == on_cpu.dtype and on_gpu.shape == on_cpu.shape, path
        if path in STATISTICS:
            np.testing.assert_allclose(on_gpu, on_cpu, rtol=1e-3, atol=2, err_msg=path)
        else:
            np.testing.assert_array_equal(on_gpu, on_cpu, err_msg=path)


def test_program_twice(tmp_path):
    """`hpctem simulate --device cuda` twice: the same file, and another one than the CPU's."""
    pytest.importorskip("click", reason="the command line needs click")
    pytest.importorskip("matplotlib", reason="contact sheets need matplotlib")
    folder = Path(__file__).parents[2]
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])
    }
    digests = []
    for run, device in enumerate(("cuda", "cuda", "cpu")):
        output = tmp_path / f"{run}.hdf5"
        command = [sys.executable, "-m", "hpctem", "simulate", SMALL, "-o", output]
        done = subprocess.run(
            [*map(str, command), "--device", device],
            cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=240,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        digests.append(hashlib.sha256(output.read_bytes()).hexdigest())
    assert digests[0] == digests[1] != digests[2]


def test_device_memory_is_what_was_estimated(gpu):
    import cupy

    experiment = prepare(SMALL, gpu)
    config = experiment.config
    pool = cupy.get_default_memory_pool()
    pool.free_all_blocks()
    before = pool.total_bytes()
    campaign.compute_structure(experiment, 0)
    file = campaign_file.read_campaign(SMALL)
    layout = simulate.lay_out(file, experiment, range(config.campaign.structures))
    asked = needs.estimate_memory(experiment, layout, on_device=True)
    assert 0 < pool.total_bytes() - before < 1.5 * (asked - 0.5 * needs.CUDA_DEVICE_BYTES)
    assert asked < memory.available_memory(gpu, on_device=True)

    def needed(on_device: bool) -> float:
        return needs.estimate_memory(experiment, layout, on_device)

    assert memory.find_shortage(needed, gpu, 1, 1) == ""
    assert "need about" in memory.find_shortage(needed, gpu, 1, 10**6)
    assert gpu.bus


def test_no_particles_gives_an_empty_map(gpu, tmp_path):
    """A campaign of bare substrates has zeros for labels, made on the device too."""
    text = SMALL.read_text()
    begin, end = text.index("  particles:"), text.index("  substrate:")
    path = tmp_path / "bare.yaml"
    path.write_text(text[:begin] + text[end:])
    rows = campaign.compute_structure(prepare(path, gpu), 0)
    assert rows[common.INSTANCES].dtype == np.uint8 and not rows[common.INSTANCES].any()
