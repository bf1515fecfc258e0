"""New images from stored exit waves: the same as simulated ones, and refused where they are not."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
from small_campaigns import write_campaign

from hpctem import tables
from hpctem.backend import select_backend
from hpctem.campaign_file import CampaignFile, read_campaign
from hpctem.database.fill import Summary
from hpctem.database.reader import open_database
from hpctem.database.verify import verify
from hpctem.database.writer import read_offsets
from hpctem.errors import ConfigError, DatabaseError
from hpctem.hrtem.campaign import StoredWaves, coarsen_waves, compute_structure
from hpctem.hrtem.experiment import Experiment
from hpctem.hrtem.grids import choose_grids
from hpctem.hrtem.tables import EXIT_WAVES
from hpctem.parallel import Communicator
from hpctem.reimaging import SHARED, image
from hpctem.simulate import Options, simulate

TESTS = Path(__file__).parents[1]
FEW = ("structures: 6", "structures: 3")
WHERE = "  defocus_reference: cell_centre\n"
GRID = "dose: {grid: [400 e/A^2, 1600 e/A^2], per: image}"
CPU = Options(device="cpu")
Changes = tuple[tuple[str, str], ...]


@pytest.fixture(scope="module")
def write(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., CampaignFile]:
    """The small campaign with three structures and texts replaced, as read from a file."""
    folder = tmp_path_factory.mktemp("campaigns")

    def read(*changes: tuple[str, str], limit: int | None = None) -> CampaignFile:
        return read_campaign(write_campaign(folder, FEW, *changes), limit)

    return read


def make(campaign: CampaignFile, path: Path, options: Options = CPU, **more) -> Summary:
    return simulate(campaign, path, options, Communicator(), **more)[1]


def form(
    campaign: CampaignFile, parent: Path, path: Path, options: Options = CPU, **more
) -> Summary:
    return image(campaign, parent, path, options, Communicator(), **more)[1]


@pytest.fixture(scope="module")
def parent(write: Callable[..., CampaignFile], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("parent") / "parent.hdf5"
    assert make(write(), path).complete
    return path


@pytest.fixture
def copy(parent: Path, tmp_path: Path) -> Path:
    shutil.copytree(str(parent) + ".journal", tmp_path / "copy.hdf5.journal")
    return Path(shutil.copy(parent, tmp_path / "copy.hdf5"))


def differing(one: Path, other: Path) -> set[str]:
    """Paths of all datasets that are not the same in both files."""
    found = set()
    with h5py.File(one) as first, h5py.File(other) as second:

        def compare(name: str, item: object) -> None:
            if isinstance(item, h5py.Dataset):
                same = name in second and np.array_equal(item[()], second[name][()])
                found.update(() if same else {name})

        first.visititems(compare)
    return found


CAMPAIGNS: dict[str, Changes] = {
    "counting": (),
    "camera": (
        (
            WHERE,
            WHERE
            + "  detector: {quantum_efficiency: {uniform: [0.6, 0.9], per: image}, "
            + "mtf: {c1: 0.1, c2: {uniform: [0.1, 0.2]}, c3: 1.5}, readout_noise: 2, gain: 3}\n",
        ),
    ),
    "stored median, aberrations, plasmon": (
        (
            WHERE,
            WHERE + "  median: stored\n  aberrations: {magnitudes: {C30: 1 um, C12: 3 nm}}\n"
            "  plasmon: {}\n",
        ),
    ),
    "two tilted waves": (
        (
            "  phonons: {configurations: 2}\n",
            "  phonons: {configurations: 2}\n  waves: 2\n"
            "  tilt: {x: {uniform: [-20 mrad, 20 mrad], per: wave}}\n",
        ),
    ),
    "masks by phase": (("storage:", "labels: {mask: {method: phase}}\nstorage:"),),
    "masks by intensity": (("storage:", "labels: {mask: {method: intensity}}\nstorage:"),),
    "uncropped, one configuration": (
        ("  crop: 96\n", ""),
        ("  phonons: {configurations: 2}\n", ""),
    ),
}


@pytest.mark.parametrize("name", CAMPAIGNS)
def test_the_parents_own_campaign_gives_the_parents_rows_bit_for_bit(
    name: str, write: Callable, tmp_path: Path
) -> None:
    campaign = write(*CAMPAIGNS[name])
    make(campaign, tmp_path / "parent.hdf5")
    form(campaign, tmp_path / "parent.hdf5", tmp_path / "child.hdf5")
    assert differing(tmp_path / "parent.hdf5", tmp_path / "child.hdf5") == {"entry/campaign/plan"}
    assert verify(tmp_path / "child.hdf5").intact


OTHERS: dict[str, Changes] = {
    "doses": ((GRID, "dose: {grid: [100 e/A^2, 200 e/A^2, 700 e/A^2], per: image}"),),
    "more foci and images": (
        ("foci: 2", "foci: 3"),
        ("images_per_focus: 2", "images_per_focus: 1"),
    ),
    "coarser pixels": (
        ("imaging:\n  sampling: 0.25 A\n  crop: 96", "imaging:\n  sampling: 0.5 A\n  crop: 48"),
    ),
    "aperture and defocus": (
        (WHERE, WHERE + "  objective_aperture: 20 mrad\n"),
        ("mean: 0 nm, std: 5 nm", "mean: 20 nm, std: 1 nm"),
    ),
    "labels, name, storage": (
        ("storage: {exit_waves: true, store_atoms: true}", "labels: {mask: {threshold: 0.3 rad}}"),
        ("name: small", "name: other"),
    ),
}


@pytest.mark.parametrize("name", OTHERS)
def test_other_images_are_those_that_a_simulation_would_give(
    name: str, parent: Path, write: Callable, tmp_path: Path
) -> None:
    campaign = write(*OTHERS[name])
    make(campaign, tmp_path / "simulated.hdf5")
    assert form(campaign, parent, tmp_path / "imaged.hdf5").complete
    found = differing(tmp_path / "simulated.hdf5", tmp_path / "imaged.hdf5")
    assert found == {"entry/campaign/plan"}


def test_a_coarser_wave_is_that_of_a_simulation_to_rounding(
    parent: Path, write: Callable, tmp_path: Path
) -> None:
    """A narrow aperture and large pixels need a smaller wave than the parent holds."""
    coarse = write(
        ("imaging:\n  sampling: 0.25 A\n  crop: 96", "imaging:\n  sampling: 0.5 A\n  crop: 48"),
        (WHERE, WHERE + "  objective_aperture: 15 mrad\n"),
    )
    make(coarse, tmp_path / "simulated.hdf5")
    form(coarse, parent, tmp_path / "imaged.hdf5")
    with (
        open_database(tmp_path / "simulated.hdf5") as one,
        open_database(tmp_path / "imaged.hdf5") as two,
    ):
        assert one.waves.shape == two.waves.shape == (3, 2, 64, 64)
        assert np.abs(one.waves[:] - two.waves[:]).max() < 2e-6
        assert (one.labels[:] == two.labels[:]).all()
        assert np.mean(one.images[:] != two.images[:]) < 1e-3
    with pytest.raises(ConfigError, match=r"needs exit waves of 128 x 128 pixels, \S+ holds 64 x"):
        form(write(), tmp_path / "imaged.hdf5", tmp_path / "finer.hdf5")
    assert not (tmp_path / "finer.hdf5").exists()


def test_coarsening_keeps_the_lowest_frequencies(write: Callable) -> None:
    grids = choose_grids(
        write(
            ("imaging:\n  sampling: 0.25 A\n  crop: 96", "imaging:\n  sampling: 0.5 A\n  crop: 48"),
            (WHERE, WHERE + "  objective_aperture: 15 mrad\n"),
        ).config
    )
    y, x = np.mgrid[:128, :128] / 128
    low, high = np.exp(2j * np.pi * (3 * x - 7 * y)), np.exp(2j * np.pi * (40 * x + 2 * y))
    waves = (1 + low + high)[None].astype(np.complex64)
    coarse = coarsen_waves(waves, grids, select_backend("cpu"))
    assert coarse.shape == (1, 64, 64) and coarse.dtype == np.complex64
    assert np.abs(coarse[0] - (1 + low)[::2, ::2]).max() < 1e-5


def test_the_child_says_where_its_waves_come_from(
    parent: Path, write: Callable, tmp_path: Path
) -> None:
    form(write(), parent, tmp_path / "child.hdf5")
    form(write(), tmp_path / "child.hdf5", tmp_path / "grandchild.hdf5")
    with open_database(parent) as one, open_database(tmp_path / "grandchild.hdf5") as last:
        first = json.loads(last.campaign["parent"])
        assert first["file"] == "child.hdf5" and first["campaign"] == "small"
        origin = first["parent"]
        assert origin["file"] == "parent.hdf5" and origin["plan"] == one.key.hex()
        assert origin["config_hash"] == one.campaign["config_hash"]
        assert len(origin["digest"]) == 32 and "parent" not in origin


@pytest.mark.parametrize(
    "change, lines",
    [
        (("200 keV", "300 keV"), ["simulation.energy: 200000.0 in parent.hdf5, 300000.0 in the"]),
        (("seed: 7", "seed: 8"), ["campaign.seed: 7 in parent.hdf5, 8 in the campaign file"]),
        (
            ("[5 A, 7 A]}\n", "[5 A, 8 A]}\n    embedding: 0.3\n"),
            ["structure.particles.radius", "structure.particles.embedding"],
        ),
        (("configurations: 2", "configurations: 3"), ["simulation.phonons.configurations: 2"]),
        (
            ("  phonons: {configurations: 2}\n", ""),
            ["simulation.phonons.configurations: 2 in parent.hdf5, absent", "simulation.phonons:"],
        ),
    ],
)
def test_other_waves_are_refused_with_every_difference(
    change: tuple[str, str], lines: list[str], parent: Path, write: Callable, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError) as refused:
        form(write(change), parent, tmp_path / "child.hdf5")
    assert all(line in str(refused.value) for line in lines), refused.value
    assert "imaging" not in str(refused.value).split("\nImages can differ")[0]
    assert not list(tmp_path.glob("child*"))


def test_a_parent_without_waves_is_refused(write: Callable, tmp_path: Path) -> None:
    bare = write(("storage: {exit_waves: true, store_atoms: true}", ""))
    make(bare, tmp_path / "bare.hdf5")
    with pytest.raises(DatabaseError, match=r"holds no exit waves: simulate it with 'storage"):
        form(write(), tmp_path / "bare.hdf5", tmp_path / "child.hdf5")


def test_the_parent_itself_is_not_overwritten(parent: Path, write: Callable) -> None:
    with pytest.raises(ConfigError, match="is the parent itself"):
        form(write(), parent, parent)


def test_quarantined_structures_of_the_parent_stay_so(write: Callable, tmp_path: Path) -> None:
    poison = "dose: {grid: [400 e/A^2, 5e6 e/A^2, 400 e/A^2], per: structure}"
    make(write((GRID, poison)), tmp_path / "parent.hdf5")
    summary = form(write(), tmp_path / "parent.hdf5", tmp_path / "child.hdf5")
    assert summary == Summary(2, 1, 0, True)
    with open_database(tmp_path / "child.hdf5") as child:
        [(index, reason)] = child.quarantined
        assert index == 1 and reason.startswith("quarantined in the parent: ")
        assert "of the pixels fall outside 0..65535" in reason


def flip(path: Path, dataset: str, row: int) -> None:
    with open_database(path) as database:
        item = database.field(dataset)
        place = read_offsets(path, database.layout)[item.path] + row * item.row_bytes + 11
    with open(path, "r+b") as stream:
        stream.seek(place)
        byte = stream.read(1)[0]
        stream.seek(place)
        stream.write(bytes([byte ^ 1]))


def test_a_damaged_wave_of_the_parent_is_never_used(
    copy: Path, write: Callable, tmp_path: Path
) -> None:
    flip(copy, tables.IMAGES, 5)
    assert form(write(), copy, tmp_path / "child.hdf5").complete
    flip(copy, EXIT_WAVES, 1)
    with pytest.raises(DatabaseError, match=r"row 1 of waves is not what was computed; 'hpctem v"):
        form(write(), copy, tmp_path / "other.hdf5")
    with open_database(tmp_path / "other.hdf5") as other:
        assert not other.committed[1:].any()
    make(write(), copy, Options(device="cpu", repair=True))
    assert form(write(), copy, tmp_path / "other.hdf5").complete
    assert differing(tmp_path / "child.hdf5", tmp_path / "other.hdf5") <= {
        "entry/campaign/plan",
        "entry/campaign/parent",
    }


def test_a_parent_damaged_outside_its_rows_is_refused(
    copy: Path, write: Callable, tmp_path: Path
) -> None:
    with open(copy, "r+b") as stream:
        stream.seek(copy.read_bytes().find(b"angstrom"))
        stream.write(b"angstrum")
    with pytest.raises(DatabaseError, match="is damaged outside its rows"):
        form(write(), copy, tmp_path / "child.hdf5")


def test_waves_of_other_atoms_are_refused(write: Callable) -> None:
    experiment = Experiment(write().config, select_backend("cpu"))
    waves = np.ones((1, 2, 128, 128), np.complex64)
    with pytest.raises(DatabaseError, match="exit waves of structure 1 passed other atoms"):
        compute_structure(experiment, 1, StoredWaves(waves, bytes(16)))


def test_an_unfinished_parent_serves_what_it_has_committed(write: Callable, tmp_path: Path) -> None:
    asked = iter(range(10))
    parent = tmp_path / "parent.hdf5"
    make(write(), parent, stop=lambda: next(asked) >= 2)
    with pytest.raises(DatabaseError, match="1 of the 3 structures are not committed"):
        form(write(), parent, tmp_path / "child.hdf5")
    assert form(write(limit=2), parent, tmp_path / "child.hdf5").good == 2


def test_volumes_and_limits_take_the_same_structures_as_a_simulation(
    parent: Path, write: Callable, tmp_path: Path
) -> None:
    """A volume of the whole, the volume of a volume, and a parent that was limited itself."""
    campaign, second = write(), Options(device="cpu", volume=(2, 2))
    form(campaign, parent, tmp_path / "a.hdf5", second)
    make(campaign, tmp_path / "v.hdf5", second)
    form(campaign, tmp_path / "v.v2of2.hdf5", tmp_path / "b.hdf5")
    form(campaign, tmp_path / "v.v2of2.hdf5", tmp_path / "c.hdf5", second)
    provenance = {"entry/campaign/plan", "entry/campaign/parent"}
    for child in ("a.v2of2.hdf5", "b.hdf5", "c.v2of2.hdf5"):
        assert differing(tmp_path / "v.v2of2.hdf5", tmp_path / child) <= provenance, child
    with pytest.raises(ConfigError, match=r"volume 1/2 is structures 0 to 0, but \S+ holds 1 to 2"):
        first = Options(device="cpu", volume=(1, 2))
        form(campaign, tmp_path / "v.v2of2.hdf5", tmp_path / "d.hdf5", first)
    for options in (second, Options(device="cpu", volume=(2, 2), repair=True)):
        with pytest.raises(ConfigError, match=r"v2of2\.hdf5 is the parent itself"):
            form(campaign, tmp_path / "v.v2of2.hdf5", tmp_path / "v.hdf5", options)
    with pytest.raises(ConfigError, match="none of them"):
        form(write(limit=1), tmp_path / "v.v2of2.hdf5", tmp_path / "d.hdf5")
    make(write(limit=2), tmp_path / "limited.hdf5")
    form(campaign, tmp_path / "limited.hdf5", tmp_path / "e.hdf5")
    assert differing(tmp_path / "limited.hdf5", tmp_path / "e.hdf5") == {"entry/campaign/plan"}


def test_a_stopped_job_goes_on_also_after_the_parent_was_renamed(
    copy: Path, write: Callable, tmp_path: Path
) -> None:
    form(write(), copy, tmp_path / "whole.hdf5")
    asked = iter(range(10))
    stopped = form(write(), copy, tmp_path / "child.hdf5", stop=lambda: next(asked) >= 1)
    assert stopped.remaining == 2
    for old, new in (("copy.hdf5", "moved.hdf5"), ("copy.hdf5.journal", "moved.hdf5.journal")):
        os.rename(tmp_path / old, tmp_path / new)
    assert form(write(), tmp_path / "moved.hdf5", tmp_path / "child.hdf5").complete
    assert (tmp_path / "child.hdf5").read_bytes() == (tmp_path / "whole.hdf5").read_bytes()


def test_a_child_is_not_continued_from_another_parent_nor_by_simulation(
    parent: Path, write: Callable, tmp_path: Path
) -> None:
    form(write(), parent, tmp_path / "child.hdf5")
    make(write(("  crop: 96\n", "  crop: 64\n")), tmp_path / "other.hdf5")
    with pytest.raises(DatabaseError, match=r"another plan[\s\S]*parent: plan"):
        form(write(), tmp_path / "other.hdf5", tmp_path / "child.hdf5")
    with pytest.raises(DatabaseError, match=r"parent: plan [0-9a-f]+ rows [0-9a-f]+ then, absent"):
        make(write(), tmp_path / "child.hdf5")


def test_a_damaged_child_is_repaired_to_the_same_bytes(
    parent: Path, write: Callable, tmp_path: Path
) -> None:
    child = tmp_path / "child.hdf5"
    form(write(), parent, child)
    whole = child.read_bytes()
    flip(child, tables.INSTANCES, 3)
    with open(child, "r+b") as stream:
        stream.write(b"no HDF5")
    found = verify(child)
    assert found.bad == (("images", 3),) and found.outside is False
    commented = write(("name: small", "name: small  # the same"))
    repairing = Options(device="cpu", repair=True)
    assert form(commented, parent, child, repairing).complete
    assert child.read_bytes() == whole and verify(child).intact
    flip(child, tables.INSTANCES, 3)
    Path(f"{child}.journal", "COMPLETE").write_text("{")
    assert form(commented, parent, child, repairing).complete
    assert child.read_bytes() == whole and verify(child).intact


def test_the_dose_variation_takes_the_waves_of_thermal() -> None:
    configs = TESTS.parent / "configs"
    thermal = read_campaign(configs / "au_on_carbon_thermal.yaml")
    doses = read_campaign(configs / "au_on_carbon_dose_variation.yaml")
    shared = {k: v for k, v in thermal.description.items() if k.startswith(SHARED)}
    assert shared == {k: v for k, v in doses.description.items() if k.startswith(SHARED)}
    assert thermal.config.storage.exit_waves and len(shared) > 30
    one, other = choose_grids(thermal.config), choose_grids(doses.config)
    assert one == other
    assert doses.config.imaging.dose.values == (200, 400, 500, 700, 800, 1000, 1100)
    assert doses.config.imaging.images_per_focus == 7
    focal = ("foci", "defocus", "defocus_reference", "focal_spread", "focal_planes", "aberrations")
    for name in focal:
        assert getattr(thermal.config.imaging, name) == getattr(doses.config.imaging, name)
