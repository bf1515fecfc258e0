"""Mistakes in the file of a STEM campaign: one sentence that names the key, exit 2, no database."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

Run = Callable[..., subprocess.CompletedProcess[str]]
SHEET = """
campaign: {name: mos2, technique: stem, seed: 1, structures: 2}
structure:
  material: {prototype: 1H, elements: [Mo, S]}
  defects: [{kind: vacancy, site: chalcogen, rate: 0.03}]
simulation: {method: incoherent, energy: 60 keV}
imaging:
  pixels: 64
  sampling: 0.15 A
  probe: {semiangle_cutoff: 30 mrad}
  detectors: {adf: {inner: 80 mrad, outer: 200 mrad}}
  beam: {current: 30 pA, dwell_time: 20 us}
"""
DEFECT = "{kind: vacancy, site: chalcogen, rate: 0.03}"
TITANATE = "material: {prototype: perovskite, elements: [Sr, Ti, O]}"
MOS2 = "material: {prototype: 1H, elements: [Mo, S]}"


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("inner: 80 mrad", "inner: 300 mrad", "imaging.detectors.adf"),
        ("inner: 80 mrad", "inner: 10 mrad", "within the probe's 30 mrad"),
        ("mrad}}", "mrad}, bf: {outer: 10 mrad}}", "one detector, not 2"),
        ("{adf: {inner: 80 mrad, outer: 200 mrad}}", "{}", "imaging.detectors: name at least one"),
        ("probe: {semiangle_cutoff: 30 mrad}", "probe: null", "imaging.probe"),
        ("30 mrad}", "30 rad}", "0.001 to 0.2 rad"),
        (DEFECT, DEFECT.replace("0.03", "3"), "0 to 0.5"),
        (DEFECT, DEFECT.replace("chalcogen", "chalcogenn"), "did you mean 'chalcogen'"),
        (DEFECT, "{kind: antisite, site: chalcogen, element: W, rate: 0.1}", "substitution"),
        (DEFECT, DEFECT.replace("vacancy", "vacancy, atoms: 3"), "lower 'atoms'"),
        (MOS2, TITANATE, "structure.thickness"),
        (MOS2, f"{MOS2}\n  thickness: 2 nm", "structure.thickness"),
        (MOS2, f"{MOS2}\n  zone_axis: [1, 1, 0]", "structure.zone_axis"),
        (MOS2, f"{MOS2}\n  layers: {{count: 0}}", "structure.layers.count"),
        (MOS2, f"{MOS2}\n  field: [1 nm, 1 nm]", "structure.field"),
        (MOS2, f"{MOS2}\n  cell: [1 nm, 1 nm]", "structure.cell: unknown key"),
        (MOS2, "material: {file: none.cif}", "none.cif cannot be read"),
        (
            "pixels: 64\n  sampling: 0.15 A",
            "pixels: 16\n  sampling: 0.05 A",
            "smaller than the cell",
        ),
        ("  beam: {current: 30 pA, dwell_time: 20 us}", "  scan: {drift: {x: 1 A/s}}", "beam"),
        ("method: incoherent", "method: multislice, sampling: 0.1 A", "simulation.sampling"),
        ("imaging:", "storage: {diffraction: true}\nimaging:", "storage.diffraction"),
        (
            "dwell_time: 20 us}",
            "dwell_time: 20 us}\n  dose: 100 e/A^2",
            "imaging.dose",
        ),
    ],
)
def test_a_mistake_is_told_with_its_key(
    old: str, new: str, told: str, tmp_path: Path, call: Run
) -> None:
    assert SHEET.count(old) == 1
    (tmp_path / "mos2.yaml").write_text(SHEET.replace(old, new))
    done = call("simulate", "mos2.yaml")
    assert done.returncode == 2, done.stdout + done.stderr
    assert told in done.stderr and "Traceback" not in done.stderr
    assert not list(tmp_path.glob("*.hdf5"))


def test_patterns_that_no_memory_holds_are_refused_before_any_work(
    tmp_path: Path, call: Run
) -> None:
    """Of 8192 pixels at 0.15 A some 10^7 probes, each with its pattern."""
    many = SHEET.replace("incoherent", "multislice, window: 16 A").replace("64", "8192")
    (tmp_path / "mos2.yaml").write_text(many + "storage: {diffraction: true}\n")
    done = call("simulate", "mos2.yaml")
    assert done.returncode == 2 and "GiB" in done.stderr, done.stdout + done.stderr
    assert not list(tmp_path.glob("*.hdf5"))
