"""A whole STEM structure on the GPU: the CPU's to rounding, and the same bytes twice."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_campaigns import SMALL_STEM, write_campaign

from hpctem.backend import select_backend

for package in ("ase", "pydantic", "yaml", "h5py", "spglib"):
    pytest.importorskip(package, reason=f"campaigns need {package}, which is not installed")
campaign_file, common = (import_module(f"hpctem.{name}") for name in ("campaign_file", "tables"))
campaign, experiments = (
    import_module(f"hpctem.stem.{name}") for name in ("campaign", "experiment")
)

STATISTICS = {f"/entry/metadata/{column.name}" for column in common.IMAGE_STATISTICS}
MULTISLICE = (
    ("method: incoherent", "method: multislice\n  sampling: 0.06 A\n  window: 12 A"),
    ("pixels: 96", "pixels: 32"),
    ("outer: 200 mrad}}", "outer: 200 mrad}, dpc: {outer: 20 mrad, segments: 4}}"),
    ("  contamination: {thickness: {uniform: [0 A, 10 A], per: image}}\n", ""),
)
METHODS = pytest.mark.parametrize("changes", [(), MULTISLICE], ids=["incoherent", "multislice"])


def compute(folder: Path, device: str, index: int, *changes: tuple[str, str]) -> dict[str, Any]:
    path = write_campaign(folder, *changes, of=SMALL_STEM)
    config = campaign_file.read_campaign(path).config
    experiment = experiments.Experiment(config, select_backend(device))
    return campaign.compute_structure(experiment, index)


@METHODS
def test_structure_twice(tmp_path: Path, changes: tuple[tuple[str, str], ...]) -> None:
    one, two = (compute(tmp_path, "cuda", 1, *changes) for _ in range(2))
    assert one.keys() == two.keys()
    assert all(isinstance(values, np.ndarray) for values in one.values())
    assert all(one[path].tobytes() == two[path].tobytes() for path in one)


@METHODS
def test_structure_equals_the_cpu(tmp_path: Path, changes: tuple[tuple[str, str], ...]) -> None:
    """Labels and tables are the same; counts but where rounding tips a draw."""
    found, expected = (compute(tmp_path, device, 0, *changes) for device in ("cuda", "cpu"))
    assert found.keys() == expected.keys()
    for path, on_cpu in expected.items():
        on_gpu = found[path]
        assert on_gpu.dtype == on_cpu.dtype and on_gpu.shape == on_cpu.shape, path
        if path == common.IMAGES or path.startswith("/entry/detectors/"):
            counts, other = on_gpu.astype(np.float64), on_cpu.astype(np.float64)
            assert np.mean(counts != other) < 0.02, path
            assert counts.mean() == pytest.approx(other.mean(), rel=1e-4)
            assert np.linalg.norm(counts - other) < 1e-2 * np.linalg.norm(other - other.mean())
        elif path in STATISTICS:
            np.testing.assert_allclose(on_gpu, on_cpu, rtol=1e-3, atol=3, err_msg=path)
        elif path.startswith("/entry/labels/"):
            assert np.mean(on_gpu != on_cpu) < 1e-3, path
        else:
            np.testing.assert_array_equal(on_gpu, on_cpu, err_msg=path)
