"""What a beginner or an unlucky user gives the main job: one clear error each, before any work."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import h5py
import pytest

SMALL = Path(__file__).parents[1] / "small.yaml"
AU = "crystal: {lattice: fcc, elements: [Au], a: 4.08265 A}"
GONE = "planar_defects: {count: {choice: [0, 1]}, minimum_separation: 1, edge_distance: 1}"

# name: (changes of the small campaign, words of the error)
CASES: dict[str, tuple[list[tuple[str, str]], str]] = {
    "unknown key": ([("crop:", "corp:")], "imaging.corp: unknown key; did you mean 'crop'?"),
    "missing unit": ([("200 keV", "200")], "200 has no unit: write it as '200 eV'"),
    "no such crystal file": ([(AU, "crystal: {file: gold.cif}")], "gold.cif cannot be read"),
    "unknown element": ([("[Au]", "[Xx]")], "'Xx' is not the symbol of an element"),
    "element without scattering factor": (
        [("[Au]", "[Og]")],
        "Og (Z = 118) has no lobato scattering factor",
    ),
    "element without displacement": ([("[Au]", "[Pm]")], "simulation.phonons.rms"),
    "element beyond Peng's table": (
        [("[Au]", "[Es]"), ("configurations: 2}", "configurations: 2, rms: {Es: 0.1 A}}"),
         ("energy: 200 keV", "energy: 200 keV\n  parametrization: peng")],
        "Es (Z = 99) has no peng scattering factor",
    ),
    "smeared element without displacement": (
        [("phonons: {configurations: 2}", "debye_waller: {Au: 0.1 A}")],
        "C has no thermal displacement (known: Au); give its one-dimensional rms displacement as "
        "simulation.debye_waller: {C: ... A}",
    ),
    "sampling too coarse for the aperture": (
        [("crop: 96", "crop: 96\n  objective_aperture: 60 mrad")],
        "lies beyond the 33.44 mrad that the sampling can hold; choose simulation.sampling of",
    ),
    "pixels that do not divide the cell": (
        [("imaging:\n  sampling: 0.25 A", "imaging:\n  sampling: 0.3 A")],
        "pixels of 0.3 A do not divide the cell of 32 A; nearest that does: 0.299065 A",
    ),
    "image finer than the wave": (
        [("imaging:\n  sampling: 0.25 A", "imaging:\n  sampling: 0.125 A")],
        "is finer than simulation.sampling",
    ),
    "a grid of too few pixels": (
        [("imaging:\n  sampling: 0.25 A\n  crop: 96", "imaging:\n  sampling: 1 A"),
         ("energy: 200 keV\n  sampling: 0.25 A", "energy: 200 keV\n  sampling: 1 A"),
         ("cell: [3.2 nm, 3.2 nm]", "cell: [2.4 nm, 2.4 nm]")],
        "a grid of 24 x 24 pixels is too small",
    ),
    "crop larger than the image": ([("crop: 96", "crop: 256")], "at most 128"),
    "particle larger than the cell": (
        [("radius: {uniform: [5 A, 7 A]}", "radius: 20 A")],
        "does not fit the cell: at most 15 A",
    ),
    "defects where there are none": (
        [("lattice: fcc, elements: [Au]", "lattice: bcc, elements: [Fe]")],
        "fcc",
    ),
    "density beyond reach": (
        [("substrate: {thickness", "substrate: {density: 0.29 /A^3, thickness")],
        "density",
    ),
    "all images saturated": (
        [("[400 e/A^2, 1600 e/A^2]", "[2e6 e/A^2, 3e6 e/A^2]")],
        "more than 16 bits hold",
    ),
    "more memory than there is": (
        [("cell: [3.2 nm, 3.2 nm]", "cell: [900 nm, 900 nm]"),
         ("simulation:\n  energy: 200 keV\n  sampling: 0.25 A",
          "simulation:\n  energy: 200 keV\n  sampling: 0.01 A")],
        "of the node's memory",
    ),
    "more disk than there is": (
        [("structures: 6", "structures: 900000000")],
        "the database needs",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_each_mistake_has_one_clear_error(
    name: str, call: Callable, variant: Callable, tmp_path: Path
) -> None:
    changes, words = CASES[name]
    done = call("simulate", variant(*changes))
    assert words in done.stderr, done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.count("error:") == 1
    assert done.returncode == (1 if name == "more disk than there is" else 2)
    assert not (tmp_path / "small.hdf5").exists()


def test_an_unreadable_crystal_file_is_named_with_the_reason(
    call: Callable, variant: Callable, tmp_path: Path
) -> None:
    (tmp_path / "gold.cif").write_text("data_gold\n_cell_length_a about four\n")
    done = call("simulate", variant((AU, "crystal: {file: gold.cif}")))
    assert done.returncode == 2 and "gold.cif" in done.stderr and "Traceback" not in done.stderr


def test_a_file_that_is_no_text_is_refused(
    call: Callable, variant: Callable, tmp_path: Path
) -> None:
    (tmp_path / "gold.cif").write_bytes(b"\xff\xfe\x00\x01")
    done = call("simulate", variant((AU, "crystal: {file: gold.cif}")))
    assert done.returncode == 2 and "gold.cif is no text file" in done.stderr


@pytest.mark.parametrize("target", ["nowhere/x", ".", "/proc/x"])
def test_an_output_that_cannot_be_written_is_named(
    target: str, call: Callable, small: Path
) -> None:
    for command in (["atoms", small, 0, "-o", target], ["preview", SMALL, "-n", 1, "-o", target]):
        done = call(*command)
        assert done.returncode == 1 and target in done.stderr, done.stderr
        assert "Traceback" not in done.stderr


def test_a_crystal_file_gives_the_structures_of_its_lattice(
    run: Callable, variant: Callable, tmp_path: Path
) -> None:
    """The same gold, once by name and once from a POSCAR beside the campaign; and atoms again."""
    from ase.build import bulk
    from ase.io import write

    from hpctem.database.reader import open_database

    write(tmp_path / "POSCAR", bulk("Au", a=4.08265, cubic=True), format="vasp")
    files = {"name": AU, "file": "crystal: {file: POSCAR}"}
    for name, crystal in files.items():
        campaign = variant((AU, crystal), ("configurations: 2", "configurations: 1"))
        assert run("simulate", campaign, "--limit", 1, "-o", f"{name}.hdf5").returncode == 0
    (tmp_path / "POSCAR").unlink()
    rebuilt = run("atoms", "file.hdf5", 0, "-o", "x.xyz")
    assert rebuilt.returncode == 0, rebuilt.stderr
    with (
        open_database(tmp_path / "name.hdf5") as one,
        open_database(tmp_path / "file.hdf5") as two,
    ):
        assert one.column("radius")[0] == two.column("radius")[0]
        assert abs(int(one.column("n_particle_atoms")[0] - two.column("n_particle_atoms")[0])) < 3


@pytest.mark.parametrize("content", [b"", b"not a database", b"\x89HDF\r\n\x1a\n" + bytes(500)])
def test_a_file_that_is_no_database_is_refused(
    content: bytes, call: Callable, tmp_path: Path
) -> None:
    (tmp_path / "x.hdf5").write_bytes(content)
    for command in (["info", "x.hdf5"], ["verify", "x.hdf5"], ["simulate", SMALL, "-o", "x.hdf5"]):
        done = call(*command)
        assert done.returncode == 1 and "x.hdf5" in done.stderr, done.stderr
        assert "Traceback" not in done.stderr
    assert (tmp_path / "x.hdf5").read_bytes() == content


def test_a_foreign_hdf5_file_is_refused(call: Callable, tmp_path: Path) -> None:
    with h5py.File(tmp_path / "x.hdf5", "w") as file:
        file["data"] = 1
    done = call("simulate", SMALL, "-o", "x.hdf5")
    assert done.returncode == 1 and "hpctem did not write it" in done.stderr


def test_a_truncated_database_is_refused(call: Callable, small: Path, tmp_path: Path) -> None:
    (tmp_path / "x.hdf5").write_bytes(small.read_bytes()[:100000])
    done = call("info", "x.hdf5")
    assert done.returncode == 1 and "truncated" in done.stderr


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["simulate"], "Missing argument 'CONFIG'"),
        (["simulate", "nowhere.yaml"], "nowhere.yaml: cannot be read"),
        (["simulate", SMALL, "--volume", "3/2"], "'3/2' is no volume: write k/n"),
        (["simulate", SMALL, "--volume", "1/7"], "volume 1/7 does not exist"),
        (["simulate", SMALL, "--device", "tpu"], "'tpu' is not one of"),
        (["simulat", SMALL], "No such command 'simulat'"),
        (["preview", SMALL, "-n", "0"], "0 is not in the range"),
    ],
)
def test_bad_usage_is_told(arguments: list, words: str, call: Callable) -> None:
    done = call(*arguments)
    assert done.returncode == 2 and words in done.stderr, done.stderr


def test_cuda_that_is_absent_is_told(call: Callable) -> None:
    if find_gpu() == "":
        pytest.skip("this machine has a GPU")
    done = call("simulate", SMALL, "--device", "cuda")
    assert done.returncode == 2 and "cuda" in done.stderr.lower(), done.stderr
    assert "Traceback" not in done.stderr


def find_gpu() -> str:
    """Why no GPU can be used here, or nothing when one can."""
    try:
        import cupy

        return "" if cupy.cuda.runtime.getDeviceCount() else "no device"
    except Exception as error:  # CuPy raises several kinds where the driver is missing
        return str(error)
