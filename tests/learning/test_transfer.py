"""What the recipe of docs/transfer.md rests on: graphene and MoS2 that a network can go between.

The training itself takes minutes: jobs/transfer_graphene_mos2 does it and tells the scores.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

import hpctem
from hpctem.campaign_file import read_campaign
from hpctem.cli import commands
from hpctem.learning.data.samples import open_sources
from hpctem.learning.judging.truths import Labels, Located, find_located
from hpctem.learning.prediction.resampling import match_pixels
from hpctem.learning.training_file import read_training

ROOT = Path(__file__).parents[2]
CONFIGS = ROOT / "configs"
KINDS = {"metal": ("metal", 1), "double": ("chalcogen", 2), "single": ("chalcogen", 1)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first structures of each campaign, as the job lays them out."""
    folder = tmp_path_factory.mktemp("transfer")
    (folder / "configs").mkdir()
    shutil.copy(CONFIGS / "train_transfer.yaml", folder / "configs")
    names = ("graphene_vacancies", *(f"mos2_vacancies_{kind}" for kind in KINDS))
    for name in names:
        words = ["simulate", str(CONFIGS / f"{name}.yaml"), "-o", str(folder / f"{name}.hdf5")]
        done = CliRunner().invoke(commands, [*words, "--limit", "4"])
        assert done.exit_code == 0, done.output
    return folder


def structure_of(name: str) -> Any:
    return read_campaign(CONFIGS / f"{name}.yaml").config


def test_neighbours_in_mos2_are_as_far_apart_in_pixels_as_some_in_graphene() -> None:
    """The head says 7 to 13 px: a / sqrt 3 of both crystals over the pixels of the campaigns."""
    graphene, mos2 = (structure_of(n) for n in ("graphene_vacancies", "mos2_vacancies_metal"))
    spacings = {
        name: np.array([a / np.sqrt(3) / size for size in config.imaging.sampling.support[::-1]])
        for name, config, a in (("graphene", graphene, 2.461), ("mos2", mos2, 3.160))
    }
    head = (CONFIGS / "graphene_vacancies.yaml").read_text().split("campaign:")[0]
    told = re.search(r"are (\d+) to (\d+) pixels apart", head.replace("\n# ", " "))
    assert told is not None
    assert np.round(spacings["graphene"]).tolist() == [float(told[1]), float(told[2])]
    assert spacings["graphene"][0] < spacings["mos2"][0] < spacings["mos2"][1]
    assert spacings["mos2"][1] < spacings["graphene"][1]


def test_both_crystals_are_imaged_alike_but_for_the_dose() -> None:
    graphene = structure_of("graphene_vacancies")
    for kind, (site, atoms) in KINDS.items():
        mos2 = structure_of(f"mos2_vacancies_{kind}")
        for key in ("probe", "detectors", "scan", "contamination", "detector"):
            assert getattr(mos2.imaging, key) == getattr(graphene.imaging, key), key
        assert mos2.simulation == graphene.simulation
        assert mos2.campaign.seed != graphene.campaign.seed
        [defect] = mos2.structure.defects
        assert (defect.kind, defect.site, defect.atoms) == ("vacancy", site, atoms)
        assert defect.label == graphene.structure.defects[0].label == "vacancy"


def test_a_network_of_graphene_is_judged_on_mos2_by_position_and_nothing_is_resampled(
    folder: Path,
) -> None:
    training, held = open_sources(read_training(folder / "configs/train_transfer.yaml", "defects"))
    assert held is not None and training.classes is not None
    low, high = read_campaign(CONFIGS / "graphene_vacancies.yaml").config.imaging.sampling.support
    for kind in KINDS:
        images = hpctem.open(folder / f"mos2_vacancies_{kind}.hdf5")
        located = find_located(training.classes, images)
        assert located == {1: (Located("defects", "vacancy"),)}
        truths = [Labels(training.classes, located).read(images, k) for k in range(len(images))]
        assert sum(len(t.points) for t in truths if t.points is not None) > 8
        assert all(
            match_pixels(s, (low, high)).factor == (1, 1) for s in images.column("pixel_size")
        )
