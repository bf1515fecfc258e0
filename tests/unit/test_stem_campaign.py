"""One STEM structure through the whole campaign: what depends on what, and what must not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from small_campaigns import SMALL_STEM, vary, write_campaign

from hpctem import tables
from hpctem.backend import select_backend
from hpctem.config import StemConfig, check_config
from hpctem.database.schema import ATOMS_DIGEST
from hpctem.errors import ConfigError, SampleError
from hpctem.marked_yaml import parse_yaml
from hpctem.optics.probe import ray_reach
from hpctem.stem.campaign import compute_structure
from hpctem.stem.checks import check_campaign, list_warnings
from hpctem.stem.conditions import DrawConditions, set_probe, widest_probe
from hpctem.stem.experiment import Experiment
from hpctem.stem.job import compute_preview
from hpctem.stem.tables import ATOM_MAP, DISTANCE_MAP, defect_map, plan_layout

TEXT = SMALL_STEM.read_text()
CPU = select_backend("cpu")
ELECTRONS = 6.241509074  # in 1 pA x 1 us

Rows = dict[str, np.ndarray]
Change = tuple[str, str]
QUIET = (
    ("  detector: {readout_noise: 0.5}\n", ""),
    ("    flyback: {amplitude: 0.5 A, time: 10 us, streak: 0.05}\n", ""),
    ("    drift: {x: 0.2 A/s}\n", ""),
    ("  beam: {current: {uniform: [20 pA, 40 pA], per: image}, dwell_time: 2 us}\n", ""),
)
CLEAN = ("  contamination: {thickness: {uniform: [0 A, 10 A], per: image}}\n", "")


def config(*changes: Change) -> StemConfig:
    found = check_config(parse_yaml(vary(TEXT, *changes)))
    assert isinstance(found, StemConfig)
    return found


def experiment(*changes: Change) -> Experiment:
    return Experiment(config(*changes), CPU)


def column(rows: Rows, name: str) -> np.ndarray:
    return rows[f"/entry/metadata/{name}"]


@pytest.fixture(scope="module")
def rows() -> Rows:
    """Structure 1 of the small campaign."""
    return compute_structure(experiment(), 1)


def test_a_structure_is_a_pure_function_of_its_index(rows: Rows) -> None:
    again = experiment()
    compute_structure(again, 0)
    repeated = compute_structure(again, 1)
    assert repeated.keys() == rows.keys()
    assert all(np.array_equal(repeated[path], rows[path]) for path in rows)


def test_a_preview_is_the_image_of_the_campaign(rows: Rows) -> None:
    shown, values = compute_preview(experiment(), 1, 2)
    of_image = {path for path in rows if path.startswith(("/entry/metadata/", "/entry/labels/"))}
    for path in (*of_image, tables.IMAGES):
        assert np.array_equal(shown[path], rows[path][2]), path
    assert values["n_atoms"] == rows["/entry/structures/n_atoms"][0]
    of_it = rows["/entry/defects/image"] == 2
    assert np.array_equal(shown["/entry/defects/pixel_x"], rows["/entry/defects/pixel_x"][of_it])


def test_the_rows_fit_their_tables(rows: Rows) -> None:
    layout = plan_layout(experiment(), range(6), {})
    known = {item.path: item for item in layout.fields}
    assert set(rows) == set(known) - {"/entry/structures/status", "/entry/structures/error"}
    for path, values in rows.items():
        item = known[path]
        assert values.shape[1:] == item.shape and np.can_cast(values.dtype, item.dtype), path
        assert len(values) <= layout.rows_per_structure[item.table], path


def test_levels_are_drawn_as_asked(rows: Rows) -> None:
    assert column(rows, "focus_index").tolist() == [0, 0, 1, 1]
    assert column(rows, "dose_index").tolist() == [0, 1, 0, 1]
    assert len(set(column(rows, "defocus"))) == 2 and len(set(column(rows, "current"))) == 4
    assert len(set(column(rows, "pixel_size"))) == 1
    area = column(rows, "pixel_size") ** 2 * (1 + column(rows, "scan_contraction"))
    electrons = column(rows, "current") * column(rows, "dwell_time") * 3 * ELECTRONS
    assert column(rows, "electrons_per_pixel") == pytest.approx(electrons, rel=1e-9)
    # Drift during a line and a pixel changes the area by parts in a thousand here.
    assert column(rows, "dose") == pytest.approx(electrons / area, rel=2e-3)


def test_counts_are_the_noise_free_share_times_the_electrons() -> None:
    """Mean and variance of the counts about the noise-free image: 4 standard deviations."""
    still = (("    jitter: 0.1 A\n    flagging: 0.1 A\n", ""), CLEAN)
    quiet = compute_structure(experiment(*QUIET, *still), 2)
    counted = compute_structure(experiment(*QUIET[:3], *still), 2)
    assert quiet[tables.IMAGES].dtype == np.float32 and counted[tables.IMAGES].dtype == np.uint16
    assert not column(quiet, "electrons_per_pixel").any()
    electrons = column(counted, "electrons_per_pixel")[:, None, None]
    expected = quiet[tables.IMAGES] * electrons
    departure = counted[tables.IMAGES] - expected
    assert expected.min() > 0.1 and expected.mean() > 5
    assert abs(departure.sum()) < 4 * np.sqrt(expected.sum())
    # Of n Poisson draws sum (k - m)^2 has the variance sum m + 2 m^2.
    spread = np.sqrt((expected + 2 * expected**2).sum())
    assert abs((departure**2).sum() - expected.sum()) < 4 * spread


def test_contamination_adds_what_carbon_scatters() -> None:
    """Its mean over the frame, from Poisson's point of view a plate of so many atoms an area."""
    from hpctem.optics.cross_sections import annular_cross_section

    thick = (CLEAN[0], "  contamination: {thickness: 40 A, variation: 0}\n")
    with_film = compute_structure(experiment(*QUIET, thick), 2)[tables.IMAGES]
    without = compute_structure(experiment(*QUIET, CLEAN), 2)[tables.IMAGES]
    carbon = annular_cross_section(6, 80e3, 0.063, 0.2, semiangle_cutoff=0.025)
    assert with_film - without == pytest.approx(0.11 * 40 * carbon, rel=1e-3)


def test_maps_and_tables_agree(rows: Rows) -> None:
    kinds = experiment().kinds
    listed = {name: rows[f"/entry/defects/{name}"] for name in ("image", "kind", "x", "y")}
    pixels = np.stack([rows["/entry/defects/pixel_x"], rows["/entry/defects/pixel_y"]], axis=1)
    assert len(pixels) == rows["/entry/structures/defects_listed"][0] > 20
    for number, kind in enumerate(kinds):
        found = column(rows, f"n_{kind}")
        of_kind = listed["kind"] == number
        for image in range(4):
            here = of_kind & (listed["image"] == image)
            assert found[image] == here.sum()
            labels = rows[defect_map(kind)][image]
            inner = np.rint(pixels[here]).astype(int)
            inner = inner[((inner >= 2) & (inner < 94)).all(axis=1)]
            assert all(labels[y, x] == 1 for x, y in inner)
            # About 6 pixels of 0.2 A within 0.25 of the peak of a 1.4 A probe, squared.
            assert labels.sum() < 100 * (here.sum() + 2)
    classes = rows[ATOM_MAP][0]
    assert set(np.unique(classes)) == {0, 1, 2}
    assert (rows[DISTANCE_MAP][0][classes > 0] <= 0.7 + 1e-3).all()


def test_atoms_at_vacancies_are_gone(rows: Rows) -> None:
    positions = rows[tables.POSITIONS]
    kinds = experiment().kinds
    for number, x, y, z, removed in zip(
        rows["/entry/defects/kind"],
        *(rows[f"/entry/defects/{name}"] for name in ("x", "y", "z", "removed")),
        strict=True,
    ):
        distance = np.sqrt(((positions - [x, y, z]) ** 2).sum(axis=1)).min()
        if kinds[number] == "chalcogen_vacancy":
            assert removed == b"Se" and distance > 1.5
        if kinds[number] == "Mo_on_metal":
            assert removed == b"W" and distance < 1e-6


def test_methods_see_the_same_specimen() -> None:
    """Incoherent and convolution images of one structure correlate, and so do the labels."""
    convolution = (
        ("  method: incoherent\n", "  method: convolution\n  convolution: {width: 0.5 A}\n"),
        (TEXT[TEXT.index("  probe:") : TEXT.index("  detectors:")], ""),
        ("  detectors: {adf: {inner: 63 mrad, outer: 200 mrad}}\n", ""),
    )
    field = ("structure:\n", "structure:\n  field: [80 A, 80 A]\n")
    one = compute_structure(experiment(field, *QUIET, CLEAN), 3)
    other = compute_structure(experiment(field, *QUIET, CLEAN, *convolution), 3)
    assert np.array_equal(one[ATOMS_DIGEST], other[ATOMS_DIGEST])
    assert np.array_equal(one["/entry/defects/kind"], other["/entry/defects/kind"])
    assert np.array_equal(one[ATOM_MAP], other[ATOM_MAP])
    images = (one[tables.IMAGES][0].ravel(), other[tables.IMAGES][0].ravel())
    assert np.corrcoef(*images)[0, 1] > 0.8


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ((("inner: 63 mrad", "inner: 20 mrad"),), "within the probe's 25 mrad"),
        ((("outer: 200 mrad", "outer: 60 mrad"),), "is not below the outer"),
        ((("outer: 200 mrad}", "outer: 200 mrad, segments: 4}"),), "use the method multislice"),
        ((("pixels: 96", "pixels: 16"), ("elements: [W, Se]", "elements: [W, Se], a: 40 A")), "40"),
        ((("structure:\n", "structure:\n  field: [2 nm, 9 nm]\n"),), "structure.field: 20 A"),
        ((QUIET[3],), "noise-free"),
        ((QUIET[3], QUIET[0]), "dwell time"),
        ((("method: incoherent", "method: convolution"),), "simulation.convolution"),
        ((("prototype: 1H, elements: [W, Se]", "file: nothing.cif"),), "nothing.cif"),
        ((("site: metal", "site: mettal"),), "metal"),
    ],
)  # fmt: skip
def test_what_no_sample_could_mend_is_told_before_any_work(
    changes: tuple[Change, ...], told: str, tmp_path: Path
) -> None:
    from hpctem.campaign_file import read_campaign

    file = write_campaign(tmp_path, *changes, of=SMALL_STEM)
    with pytest.raises(ConfigError, match=told):
        check_campaign(read_campaign(file).config)


def test_multislice_needs_the_sampling_of_its_detectors() -> None:
    """200 mrad at 80 kV need 0.069 A or finer."""
    multislice = ("  method: incoherent\n", "  method: multislice\n  sampling: 0.1 A\n")
    with pytest.raises(ConfigError, match=r"0\.069 A or finer"):
        check_campaign(config(multislice))


def test_the_first_detector_gives_one_image() -> None:
    segments = ("outer: 200 mrad}", "outer: 200 mrad, segments: 4}")
    multislice = ("  method: incoherent\n", "  method: multislice\n  sampling: 0.05 A\n")
    with pytest.raises(ConfigError, match="name another one first"):
        check_campaign(config(segments, multislice))


def test_a_specimen_too_thick_for_incoherent_images_is_quarantined() -> None:
    """Sums of cross sections know no end; the beam does."""
    thick = (
        ("{prototype: 1H, elements: [W, Se]}", "{prototype: perovskite, elements: [Pb, Ti, O]}"),
        ("  displacement: 0.01 A\n", "  displacement: 0.01 A\n  thickness: 25 nm\n"),
        ("  ripples: {amplitude: 0.5 A, wavelength: 40 A}\n", ""),
        (TEXT[TEXT.index("  defects:") : TEXT.index("simulation:")], ""),
        ("outer: 200 mrad", "outer: 120 mrad"),
    )
    with pytest.raises(SampleError, match="times the beam"):
        compute_structure(experiment(*thick), 0)


def test_coarse_multislice_of_heavy_atoms_is_warned_of() -> None:
    multislice = "  method: multislice\n  sampling: {} A\n"
    coarse, fine = (("  method: incoherent\n", multislice.format(s)) for s in (0.05, 0.034))
    assert "coarse for the cores" in list_warnings(config(coarse))[0]
    assert list_warnings(config(fine)) == []


def test_an_inner_angle_under_twice_the_semiangle_is_warned_of() -> None:
    assert list_warnings(config()) == []
    doubts = list_warnings(config(("inner: 63 mrad", "inner: 25 mrad")))
    assert len(doubts) == 1 and "less than twice the convergence" in doubts[0]


def test_layers_upon_each_other_are_warned_of() -> None:
    elements = "elements: [W, Se]}\n"
    (doubt,) = list_warnings(config((elements, elements + "  layers: {count: {choice: [1, 2]}}\n")))
    assert doubt.startswith("structure.layers: ")


def test_a_thick_crystal_is_warned_of() -> None:
    text = """
campaign: {name: thick, technique: stem, seed: 1, structures: 1}
structure:
  material: {prototype: perovskite, elements: [Sr, Ti, O]}
  thickness: {uniform: [4 A, 60 A]}
simulation: {method: incoherent, energy: 200 keV}
imaging:
  pixels: 32
  sampling: 0.2 A
  probe: {semiangle_cutoff: 20 mrad}
  detectors: {haadf: {inner: 80 mrad, outer: 200 mrad}}
"""

    def doubts(*change: str) -> list[str]:
        found = check_config(parse_yaml(text.replace(*change) if change else text))
        assert isinstance(found, StemConfig)
        return list_warnings(found)

    (doubt,) = doubts()
    assert doubt.startswith("structure.thickness: ") and "6 nm thick" in doubt
    assert doubts("60 A", "5 A") == []
    assert doubts("incoherent", "multislice") == []


ABERRATED = (
    "{magnitudes: {C12: 1 nm, C30: 0.3 um}, angles: {C12: {uniform: [0 deg, 180 deg]}}}",
    "{magnitudes: {C12: {uniform: [0 nm, 2 nm], per: focus},"
    " C21: {uniform: [0 nm, 80 nm], per: focus}, C30: {uniform: [5 um, 10 um], per: focus}},"
    " angles: {C12: {uniform: [0 deg, 180 deg], per: focus},"
    " C21: {uniform: [0 deg, 360 deg], per: focus}}}",
)


@pytest.mark.parametrize("defocus", ["[-10 nm, 10 nm]", "[0 nm, 15 nm]", "[10 nm, 30 nm]"])
def test_no_probe_reaches_farther_than_the_widest(defocus: str) -> None:
    """Overfocus adds to the spherical aberration, which underfocus would balance."""
    changed = f"defocus: {{uniform: {defocus}, per: focus}}"
    whole = config(("defocus: {normal: {mean: 0 nm, std: 1 nm}, per: focus}", changed), ABERRATED)
    widest = ray_reach(widest_probe(whole))
    reaches = []
    for structure in range(200):
        draw = DrawConditions(whole, experiment().streams, structure)
        reaches += [ray_reach(set_probe(whole, draw.probe(focus))) for focus in range(2)]
    assert 0.8 * widest < max(reaches) <= widest


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("sampling 0 A\n1 2\n2 1\n", "must be positive"),
        ("sampling 0.1 A\n0 0\n0 0\n", "positive sum"),
        ("sampling 0.1 A\n1 2\n2\n", "is no point spread function"),
        ("0.1 A\n1 2\n2 1\n", "is no point spread function"),
    ],
)
def test_a_point_spread_that_is_none_is_refused_before_any_work(
    tmp_path: Path, text: str, reason: str
) -> None:
    (tmp_path / "psf.txt").write_text(text)
    probe = TEXT[TEXT.index("  probe:\n") : TEXT.index("  detectors:")]
    convolution = "convolution\n  convolution: {psf: " + str(tmp_path / "psf.txt") + "}"
    with pytest.raises(ConfigError, match=reason):
        check_campaign(config(("incoherent", convolution), (probe, "")))
