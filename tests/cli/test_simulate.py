"""The main job as a user runs it: a campaign file in, a database out, and what follows from it."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from hpctem.database.reader import open_database
from hpctem.structures.scenes import digest

SMALL = Path(__file__).parents[1] / "small.yaml"
PNG = b"\x89PNG"


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_campaign_becomes_a_database_with_its_contact_sheet(call: Callable, small: Path) -> None:
    assert small.with_name("small.hdf5.png").read_bytes().startswith(PNG)
    told = json.loads(call("info", small, "--json").stdout)
    assert told["together"] is None
    [found] = told["databases"]
    assert found["complete"] and found["counts"]["good"] == 6 and found["counts"]["images"] == 24
    columns = {column["name"]: column for column in found["columns"]}
    assert columns["dose"]["values"] == {"400.0": 12, "1600.0": 12}
    assert columns["defocus"]["units"] == "angstrom" and columns["defocus"]["distinct"] == 12
    text = call("info", small, "--columns").stdout
    assert "24 images of 96 x 96 pixels, uint16" in text
    assert "underfocus, from the campaign's plane of reference" in text
    checked = call("verify", small)
    assert checked.returncode == 0 and " 0 bad" in checked.stdout and "intact" in checked.stdout


def test_images_hold_what_their_rows_say(small: Path) -> None:
    """Mean counts in vacuum are dose x pixel area; labels are where the particles are."""
    with open_database(small) as database:
        images = np.stack(list(database.images)).astype(float)
        dose, mean = database.column("dose"), database.column("mean")
        assert images.mean(axis=(1, 2)) == pytest.approx(mean)
        # The crop may be darker or brighter than the whole image, whose mean is the dose.
        assert mean / (dose * 0.25**2) == pytest.approx(1, abs=0.1)
        instances = database.file["/entry/labels/instances"][()]
        fraction = database.column("particle_fraction")
        assert (instances > 0).mean(axis=(1, 2)) == pytest.approx(fraction)
        particles = database.column("particles_placed", table="images")
        assert (instances.max(axis=(1, 2)) <= particles).all() and instances.max() == 2
        corner = np.stack([database.column("crop_x"), database.column("crop_y")], axis=1)
        assert corner.min() >= 0 and corner.max() <= 128 - 96 and len(np.unique(corner)) > 5


def test_labels_lie_on_their_particles(small: Path) -> None:
    """The centre of mass of each uncut particle's pixels is its x, y less the crop's corner."""
    compared = 0
    with open_database(small) as database:
        tables = {n: database.column(f"/entry/particles/{n}") for n in ("x", "y", "particle")}
        owner = database.structure_of("particles", database.rows("particles"))
        structure = database.column("structure_id")
        x0, y0 = database.column("crop_x"), database.column("crop_y")
        instances = database.file["/entry/labels/instances"][()]
    for image, instance in enumerate(instances):
        for k in np.unique(instance[instance > 0]):
            rows, columns = np.nonzero(instance == k)
            edge = (rows.min(), columns.min(), 95 - rows.max(), 95 - columns.max())
            if min(edge) == 0:
                continue
            one = (owner == structure[image]) & (tables["particle"] == k)
            x = (columns.mean() + x0[image]) * 0.25
            y = (rows.mean() + y0[image]) * 0.25
            assert abs(x - tables["x"][one][0]) < 1.5 and abs(y - tables["y"][one][0]) < 1.5
            compared += 1
    assert compared >= 8


def test_doses_of_one_focus_show_the_same_scene(small: Path) -> None:
    """Images of one focus are independent counts of one intensity: noise apart, they agree."""
    with open_database(small) as database:
        wave = database.file["/entry/waves/exit_wave"][0]
        assert wave.dtype == np.complex64 and wave.shape == (2, 128, 128)
        assert np.mean(np.abs(wave) ** 2) == pytest.approx(1, abs=0.02)
        focus = database.column("focus_index").reshape(6, 2, 2)
        defocus = database.column("defocus").reshape(6, 2, 2)
    assert (focus == [[0, 0], [1, 1]]).all()
    assert (defocus[..., 0] == defocus[..., 1]).all() and len(np.unique(defocus)) == 12


def test_defocus_from_the_cell_centre_adds_half_the_height(small: Path) -> None:
    with open_database(small) as database:
        height = database.column("height", table="images")
        added = database.column("defocus_exit") - database.column("defocus")
    assert added == pytest.approx(height / 2)


def test_atoms_are_rebuilt_bit_for_bit(call: Callable, small: Path, tmp_path: Path) -> None:
    from ase.io import read

    from hpctem.simulate import rebuild_structure

    with open_database(small) as database:
        structure = rebuild_structure(database, 9)
        assert digest(structure) == bytes(database.file["/entry/structures/atoms_digest"][2])
        first = 2 * database.layout.rows_per_structure["atoms"]
        stored = database.file["/entry/atoms/positions"][first : first + len(structure.positions)]
        assert (stored == structure.positions).all()
    done = call("atoms", small, 9, "-o", "x.xyz")
    assert done.returncode == 0, done.stderr
    written = read(tmp_path / "x.xyz")
    assert written.positions == pytest.approx(structure.positions, abs=1e-7)
    assert (written.get_tags() == structure.tags).all()
    assert call("atoms", small, 24, "-o", "x.xyz").stderr.count("no row 24 of images: 0 to 23") == 1


def test_the_same_command_again_changes_nothing(run: Callable, copy: Path) -> None:
    before, written = sha256(copy), copy.stat().st_mtime_ns
    again = run("simulate", SMALL, "-o", copy)
    assert again.returncode == 0 and "structures," not in again.stderr, again.stderr
    assert sha256(copy) == before and copy.stat().st_mtime_ns == written


def test_comments_may_change_between_runs_but_physics_may_not(
    run: Callable, variant: Callable, copy: Path
) -> None:
    commented = variant(("name: small", "name: small  # the same"))
    assert run("simulate", commented, "-o", copy).returncode == 0
    refused = run("simulate", variant(("200 keV", "300 keV")), "-o", copy)
    assert refused.returncode == 1
    assert "another plan" in refused.stderr and "config.simulation.energy" in refused.stderr
    assert "200000.0 then, 300000.0 now" in refused.stderr and "texts." not in refused.stderr


def test_campaigns_that_differ_in_physics_share_their_structures(
    run: Callable, variant: Callable, small: Path, tmp_path: Path
) -> None:
    other = variant(("200 keV", "80 keV"), ("configurations: 2", "configurations: 1"))
    assert run("simulate", other, "-o", "other.hdf5", "--limit", 3).returncode == 0
    with open_database(small) as one, open_database(tmp_path / "other.hdf5") as two:
        path = "/entry/structures/atoms_digest"
        assert (one.file[path][:3] == two.file[path][()]).all()
        assert (one.column("defocus")[:12] == two.column("defocus")).all()
        assert (one.images[0] != two.images[0]).any()


def test_volumes_hold_the_rows_of_the_whole(run: Callable, small: Path, tmp_path: Path) -> None:
    for number in (1, 2):
        done = run("simulate", SMALL, "--volume", f"{number}/2")
        assert done.returncode == 0, done.stderr
    with open_database(small) as whole:
        images, identities = np.stack(list(whole.images)), whole.column("structure_id")
    parts = sorted(tmp_path.glob("*.hdf5"))
    assert [part.name for part in parts] == ["small.v1of2.hdf5", "small.v2of2.hdf5"]
    opened = []
    for part in parts:
        with open_database(part) as volume:
            opened.append((np.stack(list(volume.images)), volume.column("structure_id")))
    assert (np.concatenate([part[0] for part in opened]) == images).all()
    assert (np.concatenate([part[1] for part in opened]) == identities).all()


POISON = ("dose: {grid: [400 e/A^2, 1600 e/A^2], per: image}", "dose: {grid: [%s], per: structure}")
TINY = (
    ("cell: [3.2 nm, 3.2 nm]", "cell: [1.6 nm, 1.6 nm]"),
    ("count: {choice: [1, 1, 2]}", "count: 1"),
    ("crop: 96", "crop: 64"),
    ("radius: {uniform: [5 A, 7 A]}", "radius: 5 A"),
    ("storage: {exit_waves: true, store_atoms: true}", ""),
)


def test_one_poisoned_structure_of_200_is_recorded_and_costs_no_other(
    run: Callable, call: Callable, variant: Callable, tmp_path: Path
) -> None:
    doses = ", ".join(["400 e/A^2"] * 137 + ["5e6 e/A^2"] + ["400 e/A^2"] * 62)
    campaign = variant((POISON[0], POISON[1] % doses), ("structures: 6", "structures: 200"), *TINY)
    done = run("simulate", campaign)
    assert done.returncode == 3, done.stderr
    assert "quarantined structures: 1;" in done.stderr
    with open_database(tmp_path / "small.hdf5") as database:
        assert database.counts["good"] == 199 and database.counts["images"] == 199 * 4
        [(index, reason)] = database.quarantined
        assert index == 137 and "pixels fall outside 0..65535" in reason
        file = database.file
        assert not file["/entry/images/intensity"][137 * 4 : 138 * 4].any()
        assert database.images[0].any()
    assert "structure 137: " in call("info", "small.hdf5").stdout
    assert call("verify", "small.hdf5").returncode == 0


def test_a_campaign_with_too_many_bad_samples_fails(run: Callable, variant: Callable) -> None:
    doses = ", ".join(["400 e/A^2"] + ["5e6 e/A^2"] * 3)
    campaign = variant((POISON[0], POISON[1] % doses), *TINY)
    done = run("simulate", campaign)
    assert done.returncode == 1
    assert "of 6 structures are quarantined, more than campaign.quarantine_limit" in done.stderr


def test_preview_draws_before_anything_is_stored(run: Callable, tmp_path: Path) -> None:
    done = run("preview", SMALL, "-n", 4)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "small.preview.png").read_bytes().startswith(PNG)
    assert not list(tmp_path.glob("*.hdf5*"))


def test_a_second_job_on_the_same_database_is_refused(
    run: Callable, call: Callable, variant: Callable, tmp_path: Path
) -> None:
    # More structures than a machine makes before the second job has looked, in short segments.
    many = "structures: 5000\n  structures_per_segment: 2"
    campaign = variant(("structures: 6", many), *TINY, ("crop: 64", "crop: 32"))
    command = [sys.executable, "-m", "hpctem", "simulate", str(campaign)]
    with subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True) as first:
        folder = tmp_path / "small.hdf5.journal"
        deadline = time.monotonic() + 60
        while not list(folder.glob("*.journal")) and time.monotonic() < deadline:
            time.sleep(0.1)
        second = run("simulate", campaign)
        first.terminate()  # asks it to finish its segment and stop
        _, told = first.communicate(timeout=180)
    assert second.returncode == 1 and "another job" in second.stderr, second.stderr
    assert first.returncode == 1 and "run the same command to go on" in told, told
    done = call("info", "small.hdf5").stdout
    assert "unfinished" in done and "pending" in done


def test_the_schema_is_json(call: Callable) -> None:
    schema = json.loads(call("schema").stdout)
    assert schema["$defs"]["hpctem__sections__hrtem__Imaging"]["properties"]["defocus"]["anyOf"]


def test_files_open_in_plain_h5py(small: Path) -> None:
    with h5py.File(small) as file:
        assert file.attrs["NX_class"] == "NXroot"
        assert file["/entry/images"].attrs["signal"] == "intensity"
        assert file["/entry/images/intensity"].chunks is None
