"""STEM campaigns as black boxes: what comes out is what the campaign file says.

Every expectation is written here from the documented conventions: the probe is summed over its
aperture, positions follow from the lattice, counts from the current. Lengths in A.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
from scipy.interpolate import RectBivariateSpline
from scipy.ndimage import gaussian_filter, map_coordinates
from scipy.spatial import cKDTree

from hpctem.backend import select_backend
from hpctem.campaign_file import read_campaign
from hpctem.stem.campaign import compute_structure
from hpctem.stem.checks import check_campaign
from hpctem.stem.experiment import Experiment
from hpctem.stem.tables import plan_layout
from tests.cli.conftest import hpctem as run_hpctem

LAMBDA = 0.0417572  # A at 80 kV, h / sqrt(2 m e U (1 + e U / 2 m c^2))
ALPHA = 0.025
ELECTRONS = 6.241509074  # in 1 pA x 1 us
IMAGES = "/entry/images/intensity"

# A layer whose cell has neither mirror nor two-fold axis: W and S fix the sense of rotation.
A, B = 6.0, 6.6
SULPHUR = (0.2, 0.2424)
CHIRAL = f"""data_chiral
_cell_length_a {A}
_cell_length_b {B}
_cell_length_c 20
_cell_angle_alpha 90
_cell_angle_beta 90
_cell_angle_gamma 90
_symmetry_space_group_name_H-M 'P 1'
loop_
_atom_site_label
_atom_site_type_symbol
_atom_site_fract_x
_atom_site_fract_y
_atom_site_fract_z
Mo1 Mo 0 0 0.5
Mo2 Mo 0.5 0 0.5
W1 W 0 0.5 0.5
Mo3 Mo 0.5 0.5 0.5
S1 S {SULPHUR[0]} {SULPHUR[1]} 0.5
"""
TEXT = """campaign: {{name: physics, technique: stem, seed: {seed}, structures: 50}}
structure:
  material: {material}
{structure}
simulation:
  energy: 80 kV
{simulation}
imaging:
  pixels: {pixels}
  sampling: {sampling} A
{imaging}
  probe:
    semiangle_cutoff: 25 mrad
{probe}
  detectors: {detectors}
labels: {{columns: true, distance: true}}
storage: {{store_atoms: true, diffraction: {diffraction}}}
"""
DEFAULTS: dict[str, object] = {
    "seed": 3,
    "material": "{file: chiral.cif}",
    "structure": "",
    "simulation": "",
    "pixels": 96,
    "sampling": 0.2,
    "imaging": "",
    "probe": "",
    "detectors": "{adf: {inner: 63 mrad, outer: 200 mrad}}",
    "diffraction": "false",
}
SPARSE = {  # carbon atoms 11.5 A from each other
    "material": "{prototype: graphene, a: 20 A}",
    "structure": "  rotation: 0.3 rad\n  field: [200 A, 200 A]",
    "pixels": 128,
}
ABERRATED = """    defocus: 40 A
    aberrations:
      magnitudes: {C12: 2.5 nm, C21: 90 nm, C23: 70 nm, C30: 20 um, C34: 10 um}
      angles: {C12: 20 deg, C21: 65 deg, C23: 35 deg, C34: 10 deg}"""
COEFFICIENTS = {  # (n, m): (A, degrees)
    (1, 0): (-40.0, 0.0), (1, 2): (25.0, 20.0), (2, 1): (900.0, 65.0), (2, 3): (700.0, 35.0),
    (3, 0): (2e5, 0.0), (3, 4): (1e5, 10.0),
}  # fmt: skip
CPU = select_backend("cpu")


class Result:
    """All rows of one structure, with the campaign that made them."""

    def __init__(self, experiment: Experiment, index: int) -> None:
        self.experiment = experiment
        self.rows = compute_structure(experiment, index)

    @property
    def image(self) -> np.ndarray:
        return self.rows[IMAGES][0].astype(float)

    @property
    def atoms(self) -> tuple[np.ndarray, np.ndarray]:
        return self.rows["/entry/atoms/positions"], self.rows["/entry/atoms/numbers"]

    @property
    def centre(self) -> np.ndarray:
        return np.array([self("structures", f"cell_{axis}")[0] / 2 for axis in "xy"])

    def __call__(self, table: str, name: str) -> np.ndarray:
        return self.rows[f"/entry/{table}/{name}"]

    def pixels(self, table: str = "columns") -> np.ndarray:
        return np.stack([self(table, "pixel_x"), self(table, "pixel_y")], axis=1)


Run = Callable[..., Result]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("physics")
    (folder / "chiral.cif").write_text(CHIRAL)
    return folder


@pytest.fixture(scope="module")
def run(folder: Path) -> Run:
    """Compute one structure of a campaign: `run(index=0, **what differs from DEFAULTS)`."""

    def compute(index: int = 0, **changes: object) -> Result:
        file = folder / "campaign.yaml"
        file.write_text(TEXT.format(**(DEFAULTS | changes)))
        config = read_campaign(file).config
        check_campaign(config)
        return Result(Experiment(config, CPU), index)

    return compute


def turn(degrees: float) -> np.ndarray:
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return np.array([[c, -s], [s, c]])


def stand(shape: int, step: np.ndarray, centre: np.ndarray) -> np.ndarray:
    """Where the beam stands at each pixel, (n, n, 2): rows run towards +y, columns towards +x."""
    row, column = np.mgrid[:shape, :shape] - (shape - 1) / 2
    return np.stack([column, row], axis=-1) @ step.T + centre


def probe_intensity(
    points: np.ndarray, coefficients: Mapping[tuple[int, int], tuple[float, float]]
) -> np.ndarray:
    """|psi|^2 in 1/A^2 at points (n, 2): the sum of exp(-i chi + 2 pi i k r) over the aperture."""
    nodes, weights = np.polynomial.legendre.leggauss(36)
    angle = np.repeat(ALPHA * (nodes + 1) / 2, 72)
    azimuth = np.tile(2 * np.pi * np.arange(72) / 72, 36)
    area = np.repeat(weights * ALPHA / 2, 72) * angle * (2 * np.pi / 72) / LAMBDA**2
    chi = sum(
        2 * np.pi / LAMBDA * c * angle ** (n + 1) / (n + 1)
        * np.cos(m * (azimuth - math.radians(phi)))
        for (n, m), (c, phi) in coefficients.items()
    )  # fmt: skip
    lens = area * np.exp(-1j * chi) / math.sqrt(np.pi * (ALPHA / LAMBDA) ** 2)
    k = angle / LAMBDA * np.stack([np.cos(azimuth), np.sin(azimuth)])
    parts = np.array_split(points, max(1, len(points) // 1000))
    return np.concatenate([np.abs(np.exp(2j * np.pi * (p @ k)) @ lens) ** 2 for p in parts])


def find_peaks(image: np.ndarray, guesses: np.ndarray) -> np.ndarray:
    """The maxima next to pixel coordinates (n, 2) (column, row), by Newton's steps on a spline."""
    axis = np.arange(len(image))
    spline = RectBivariateSpline(axis, axis, image)
    places = guesses.copy()
    for _ in range(20):
        x, y = places.T
        gx, gy = spline.ev(y, x, dy=1), spline.ev(y, x, dx=1)
        xx, yy, xy = spline.ev(y, x, dy=2), spline.ev(y, x, dx=2), spline.ev(y, x, 1, 1)
        det = xx * yy - xy**2
        places -= np.stack([yy * gx - xy * gy, xx * gy - xy * gx], axis=1) / det[:, None]
    return places


def well_inside(pixels: np.ndarray, shape: int, border: float = 8.0) -> np.ndarray:
    return ((pixels > border) & (pixels < shape - 1 - border)).all(axis=1)


def test_an_image_is_the_sum_over_its_atoms_of_the_probe_turned_by_half_a_turn(
    folder: Path,
) -> None:
    """Command line, atoms as `hpctem atoms` writes them, tables, and my own aberrated probe.

    Weights of the three elements are fitted. Atoms are not quite points on this scale, which costs
    4 % of the image's deviation; every other orientation or sign costs 30 % or more.
    """
    import hpctem

    text = TEXT.format(
        **DEFAULTS
        | {
            "structure": "  rotation: 30 deg\n"
            "  edge: {probability: 1, distance: 4 A, direction: 35 deg, roughness: 0 A}",
            "probe": ABERRATED,
            "imaging": "  scan: {rotation: 25 deg, shear: 0.1, contraction: -0.08}",
        }
    )
    (folder / "black_box.yaml").write_text(text)
    for command in (
        ("simulate", "black_box.yaml", "--limit", "1", "-o", "black_box.hdf5"),
        ("atoms", "black_box.hdf5", "0", "-o", "black_box.xyz"),
    ):
        done = run_hpctem(*command, folder=folder)
        assert done.returncode == 0, done.stderr
    lines = [line.split() for line in (folder / "black_box.xyz").read_text().splitlines()[2:]]
    symbols = np.array([line[0] for line in lines])
    positions = np.array([line[1:3] for line in lines], dtype=float)
    opened = hpctem.open(folder / "black_box.hdf5")
    image = opened.images[0].astype(float)
    table = opened.table(None, ["scan_rotation", "scan_shear", "pixel_size", "C21", "phi21"])
    assert [column[0].as_py() for column in table.columns[-5:]] == pytest.approx(
        [math.radians(25), 0.1, 0.2, 900.0, math.radians(65)]
    )

    sides = opened.table(None, ["cell_x", "cell_y"]).to_pydict()
    centre = np.array([sides["cell_x"][0], sides["cell_y"][0]]) / 2
    normal = np.array([math.cos(math.radians(35)), math.sin(math.radians(35))])
    assert -1 < ((positions - centre) @ normal).max() - 4 <= 1e-6

    step = 0.2 * turn(25) @ np.array([[1, 0.1], [0, 1]]) @ np.diag([1, 0.92])
    chosen = np.random.default_rng(0).integers(0, 96, (70, 2))
    places = stand(96, step, centre)[chosen[:, 0], chosen[:, 1]]
    seen = image[chosen[:, 0], chosen[:, 1]]

    def misfit(turned: float, coefficients: Mapping) -> float:
        columns = np.zeros((len(places), 3))
        for one, place in zip(columns, places, strict=True):
            away = positions - place
            near = np.hypot(*away.T) < 16
            bright = probe_intensity(turned * away[near], coefficients)
            one[:] = [bright[symbols[near] == s].sum() for s in ("S", "Mo", "W")]
        weights = np.linalg.lstsq(columns, seen, rcond=None)[0]
        return float(np.std(columns @ weights - seen) / np.std(seen))

    overfocus = COEFFICIENTS | {(1, 0): (40.0, 0.0)}
    mirrored = {nm: (c, -phi) for nm, (c, phi) in COEFFICIENTS.items()}
    assert misfit(1, COEFFICIENTS) < 0.06
    assert min(misfit(-1, COEFFICIENTS), misfit(1, overfocus), misfit(1, mirrored)) > 0.25


def test_the_lattice_lies_in_the_image_as_asked(run: Run) -> None:
    """Rotation, strain and the scan's matrix, in tables, image, labels and distances."""
    made = run(
        pixels=160, sampling=0.15,
        structure="  rotation: 25 deg\n  strain: {xx: 0.04, yy: -0.03, xy: 0.05}",
        imaging="  scan: {shear: 0.08, contraction: -0.06, rotation: 12 deg}",
    )  # fmt: skip
    step = 0.15 * turn(12) @ np.array([[1, 0.08], [0, 1]]) @ np.diag([1, 0.94])
    cell = turn(25) @ np.array([[1.04, 0.05], [0.05, 0.97]]) @ np.diag([A, B])
    pixels, elements = made.pixels(), made("columns", "elements")
    tungsten, sulphur = pixels[elements == b"W"], pixels[elements == b"S"]
    assert len(tungsten) > 10
    periods = np.linalg.solve(np.linalg.solve(step, cell), (tungsten - tungsten[0]).T)
    assert np.abs(periods - np.rint(periods)).max() < 1e-9
    # from W at (0, 1/2) to S: not so in any mirror image
    periods = np.linalg.solve(np.linalg.solve(step, cell), (sulphur - tungsten[0]).T).T
    periods -= [SULPHUR[0], SULPHUR[1] - 0.5]
    assert np.abs(periods - np.rint(periods)).max() < 1e-9

    inner = tungsten[well_inside(tungsten, 160)]
    assert np.abs(find_peaks(made.image, inner) - inner).max() < 0.02

    places = stand(160, step, made.centre)
    distances = cKDTree(made.atoms[0][:, :2]).query(places)[0]
    assert np.abs(made("labels", "distance")[0] - distances).max() < 1e-4
    classes = made("labels", "atoms")[0]
    assert np.array_equal(classes > 0, distances <= 0.7)
    column, row = np.rint(pixels[well_inside(pixels, 160)]).astype(int).T
    assert np.array_equal(
        classes[row, column], made("columns", "site_class")[well_inside(pixels, 160)]
    )


def test_the_normal_of_a_tilted_specimen_leans_towards_its_axes(run: Run) -> None:
    tilted = "  rotation: 0 deg\n  tilt: {x: 10 deg, y: 0 deg}"
    positions, numbers = run(structure=tilted).atoms
    x, y, z = positions[numbers == 74].T
    slope = np.linalg.lstsq(np.stack([x, y, np.ones_like(x)], axis=1), z, rcond=None)[0][:2]
    assert slope == pytest.approx([-math.tan(math.radians(10)), 0], abs=1e-6)


def test_source_size_and_chromatic_blur_as_gaussians_do(run: Run) -> None:
    """The source's full width in the image, and Cc dE / E as a Gaussian of defoci."""
    sharp = run(**SPARSE).image
    blurred = run(**SPARSE, probe="    source_size: 1.4 A").image
    own = gaussian_filter(sharp, 1.4 / 2.354820 / 0.2, truncate=8)
    inner = np.s_[30:-30, 30:-30]
    assert np.abs(own - blurred)[inner].max() < 1e-4 * blurred.max()

    energy, rest = 80e3, 510998.95
    spread = 0.6e7 * 0.5 / energy * (1 + energy / rest) / (1 + energy / (2 * rest))
    total = math.hypot(spread, 30)
    keys = "    chromatic: 0.6 mm\n    energy_spread: 0.5 eV\n    focal_spread: 30 A\n"
    chromatic = run(**SPARSE, probe=keys + "    defocus: 20 A")
    assert chromatic("metadata", "focal_spread")[0] == pytest.approx(total, rel=1e-9)
    nodes, weights = np.polynomial.hermite_e.hermegauss(15)
    mean = sum(
        weight * run(**SPARSE, probe=f"    defocus: {20 + total * node:.8f} A").image
        for node, weight in zip(nodes, weights / weights.sum(), strict=True)
    )
    assert np.abs(mean - chromatic.image).max() < 1e-3 * mean.max()


def test_underfocus_balances_positive_spherical_aberration(run: Run) -> None:
    peaks = [
        run(**SPARSE, probe=f"    defocus: {f} A\n    aberrations: {{magnitudes: {{C30: 100 um}}}}")
        .image.max() for f in (-300, 0, 300)
    ]  # fmt: skip
    assert peaks[2] > 3 * peaks[1] > 9 * peaks[0]


def test_three_notations_name_one_lens(run: Run) -> None:
    """Haider's B2 and S3 are C21 / 3 and C32 / 4; without prefactors every power is divided."""
    lenses = {
        "krivanek": "C12: 2 nm, C21: 90 nm, C30: 3 um, C32: 2 um, C23: 30 nm",
        "haider": "A1: 2 nm, B2: 30 nm, C3: 3 um, S3: 0.5 um, A2: 30 nm",
        "power_of_angle": "C22: 1 nm, C31: 30 nm, C40: 0.75 um, C42: 0.5 um, C33: 10 nm",
    }
    images = []
    for notation, magnitudes in lenses.items():
        names = [entry.split(":")[0].strip() for entry in magnitudes.split(",")]
        angles = ", ".join(
            f"{names[k]}: {phi} deg" for k, phi in ((0, 20), (1, 40), (3, 30), (4, 10))
        )
        keys = f"{{notation: {notation}, magnitudes: {{{magnitudes}}}, angles: {{{angles}}}}}"
        images.append(run(**SPARSE, probe=f"    aberrations: {keys}").image)
    for other in images[1:]:
        assert np.abs(other - images[0]).max() < 1e-6 * images[0].max()


def test_counts_follow_from_the_current(run: Run) -> None:
    """Mean, variance, frames, quantum efficiency, readout noise, gain, offset; 5 deviations."""
    film = "  contamination: {thickness: 300 A, variation: 0}\n"
    beam = film + "  beam: {current: 40 pA, dwell_time: 8 us}\n"
    expected = run(**SPARSE, imaging=film).image * 40 * 8 * ELECTRONS
    total, pixels = expected.sum(), expected.size

    counted = run(**SPARSE, imaging=beam)
    assert counted.rows[IMAGES].dtype == np.uint16
    assert counted("metadata", "electrons_per_pixel")[0] == pytest.approx(320 * ELECTRONS)
    assert counted("metadata", "dose")[0] == pytest.approx(320 * ELECTRONS / 0.04)
    assert abs(counted.image.sum() - total) < 5 * math.sqrt(total)
    departures = ((counted.image - expected) ** 2).sum()
    assert abs(departures - total) < 5 * math.sqrt((expected + 2 * expected**2).sum())

    five = run(**SPARSE, imaging=beam + "  scan: {frames: 5}\n").image
    assert abs(five.sum() - 5 * total) < 5 * math.sqrt(5 * total)

    noisy = "  detector: {quantum_efficiency: 0.5, readout_noise: 7, gain: 20, offset: 500}\n"
    electrons = (run(**SPARSE, imaging=beam + noisy).image - 500) / 20
    assert abs(electrons.sum() - total / 2) < 5 * math.sqrt(total / 2 + 49 * pixels)
    variance = ((electrons - expected / 2) ** 2).mean()
    each = expected.mean() / 2 + 49
    assert variance == pytest.approx(each, abs=5 * math.sqrt(2 / pixels) * 1.05 * each)


def test_contamination_is_as_thick_and_as_rough_as_asked(run: Run) -> None:
    """Mean and deviation of 16 films, and a spectrum that falls by two powers of ten as f^-3."""
    wide = SPARSE | {"sampling": 1.5, "structure": "  rotation: 0.3 rad\n  field: [250 A, 250 A]"}
    keys = "variation: 0.2, shortest: 8 A, longest: 60 A, exponent: 3"
    plate = "  contamination: {thickness: 300 A, variation: 0}"
    films, steps = [], np.fft.fftfreq(128, 1.5)
    for index in range(16):
        clean = run(index, **wide).image
        per_angstrom = (run(index, **wide, imaging=plate).image - clean).mean() / 300
        rough = run(index, **wide, imaging=f"  contamination: {{thickness: 300 A, {keys}}}").image
        films.append((rough - clean) / per_angstrom)
    thickness = np.array(films)
    assert thickness.mean() == pytest.approx(300, abs=15)  # 4 deviations: few waves fit
    assert thickness.std() == pytest.approx(60, rel=0.1)
    taper = np.outer(np.hanning(128), np.hanning(128))
    power = (np.abs(np.fft.fft2((thickness - 300) * taper)) ** 2).mean(axis=0)
    f = np.hypot(steps[:, None], steps)
    rings = [(f > low) & (f < low + 0.01) for low in (0.03, 0.05, 0.09)]
    measured = np.array([power[ring].mean() for ring in rings])
    asked = np.array([((f[ring] * 60) ** -3.0).mean() for ring in rings])
    assert measured / measured[0] == pytest.approx(asked / asked[0], rel=0.25)
    assert power[f > 0.16].mean() < 1e-5 * measured[0]


def test_jitter_averages_out_over_frames(run: Run) -> None:
    """Displacement of each line by least squares against the image without jitter."""
    graphene = {
        "material": "{prototype: graphene}", "pixels": 128, "sampling": 0.1,
        "structure": "  rotation: 0.2 rad\n  field: [75 A, 75 A]",
    }  # fmt: skip
    for frames, expected in ((1, 0.03), (9, 0.01)):
        moved = []
        for index in range(3):
            still = run(index, **graphene).image
            keys = f"  scan: {{frames: {frames}, jitter: 0.03 A}}"
            slope = np.gradient(still, axis=1) / 0.1
            departure = run(index, **graphene, imaging=keys).image - still
            moved.append((departure * slope).sum(axis=1) / (slope**2).sum(axis=1))
        # 384 lines: 3.6 % a deviation
        assert np.std(moved) == pytest.approx(expected, rel=0.15)


def test_drift_and_flyback_move_features_and_tables_alike(run: Run) -> None:
    """A specimen that drifts to +x is seen further to the right in every later line.

    At the start of a line, where the beam is ahead by the flyback, features lie to the left.
    """
    beam = (
        "  beam: {current: 100 nA, dwell_time: 10 us}\n"
        "  detector: {readout_noise: 0.001, gain: 0.01}\n"
    )
    crystal = {
        "structure": "  rotation: 0 deg\n  field: [90 A, 90 A]",
        "pixels": 160,
        "sampling": 0.15,
    }

    def moved(scan: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Pixel of every W in a still scan and in this one, and its peak in this image."""
        found = [run(**crystal, imaging=beam), run(**crystal, imaging=beam + f"  scan: {scan}")]
        where = []
        for made in found:
            tungsten = made("columns", "elements") == b"W"
            keys = np.round(np.stack([made("columns", "x"), made("columns", "y")], 1), 6)[tungsten]
            pixels = made.pixels()[tungsten]
            where.append(dict(zip(map(tuple, keys), pixels, strict=True)))
        both = where[0].keys() & where[1].keys()
        still, later = (np.array([one[key] for key in both]) for one in where)
        inner = well_inside(later, 160)
        return still[inner], later[inner], find_peaks(found[1].image, later[inner])

    # a line takes 160 x 10 us + 8.4 ms = 10 ms
    still, later, peaks = moved("{drift: {x: 1 A/s}, line_time: 8400 us}")
    assert np.polyfit(later[:, 1], later[:, 0] - still[:, 0], 1)[0] == pytest.approx(
        0.01 / 0.15, rel=1e-3
    )
    assert later[:, 1] == pytest.approx(still[:, 1], abs=1e-6)
    assert peaks == pytest.approx(later, abs=0.05)

    still, later, peaks = moved("{flyback: {amplitude: 1.5 A, time: 200 us}}")
    expected = -1.5 / 0.15 * np.exp(-later[:, 0] / 20)
    assert expected.min() < -1
    assert later[:, 0] - still[:, 0] == pytest.approx(expected, abs=1e-3)
    assert peaks == pytest.approx(later, abs=0.1)


DEFECTS = """  rotation: 20 deg
  defects:
    - {kind: vacancy, site: chalcogen, rate: 0.03}
    - {kind: vacancy, site: chalcogen, atoms: 2, rate: 0.02}
    - {kind: substitution, site: chalcogen, element: S, rate: 0.04}
    - {kind: substitution, site: metal, element: Mo, rate: 0.05}
    - {kind: antisite, site: metal, element: Se, rate: 0.02}
    - {kind: adatom, site: hollow, element: C, rate: 0.03}
    - {kind: vacancy, site: metal, rate: 0}"""
RATES = {
    "chalcogen_vacancy": 0.03, "chalcogen_vacancy2": 0.02, "S_on_chalcogen": 0.04,
    "Mo_on_metal": 0.05, "Se_on_metal": 0.02, "C_hollow_adatom": 0.03, "metal_vacancy": 0.0,
}  # fmt: skip
WSE2 = "{prototype: 1H, elements: [W, Se]}"


def test_defects_are_as_frequent_as_asked(run: Run) -> None:
    """Per unit cell of 2500 in each of three images; one column of each class in a cell."""
    counts, cells = dict.fromkeys(RATES, 0), 0.0
    for index in range(3):
        made = run(index, structure=DEFECTS, pixels=128, sampling=1.2, material=WSE2)
        a = made("structures", "a")[0]
        cells += (128 * 1.2) ** 2 / (math.sqrt(3) / 2 * a**2)
        for kind in made.experiment.kinds:
            counts[kind] += int(made("metadata", f"n_{kind}")[0])
        listed = np.bincount(made("defects", "kind"), minlength=len(RATES))
        assert [
            int(made("metadata", f"n_{k}")[0]) for k in made.experiment.kinds
        ] == listed.tolist()
    for kind, rate in RATES.items():
        assert abs(counts[kind] - rate * cells) <= 5 * math.sqrt(rate * cells), kind


def test_defect_maps_are_a_quarter_of_the_peak_of_my_own_probe(run: Run) -> None:
    """Every map against the listed defects under the turned, comatic probe; empty without any."""
    made = run(structure=DEFECTS, pixels=128, seed=2, material=WSE2, probe=ABERRATED)
    axis = np.arange(-80, 81) * 0.1
    grid = np.stack(np.meshgrid(axis, axis), axis=-1).reshape(-1, 2)
    image = probe_intensity(-grid, COEFFICIENTS).reshape(161, 161)
    fine = np.linspace(-2, 2, 401)
    spline = RectBivariateSpline(axis, axis, image)
    peak = spline(fine, fine).max()
    places = stand(128, 0.2 * np.eye(2), made.centre)
    shown = 0
    inner = np.s_[10:-10, 10:-10]  # defects that the table does not list lie beyond the border
    for number, kind in enumerate(made.experiment.kinds):
        of_kind = made("defects", "kind") == number
        seen = np.zeros((128, 128))
        for place in np.stack([made("defects", "x"), made("defects", "y")], axis=1)[of_kind]:
            away = places - place
            near = np.abs(away).max(axis=-1) < 8
            seen[near] += spline.ev(away[near][:, 1], away[near][:, 0])
        labels = made("labels", kind)[0]
        assert (labels[inner] != (seen > 0.25 * peak)[inner]).sum() <= 0.02 * labels[inner].sum()
        shown += bool(labels[inner].any())
        if not of_kind.any():
            assert not labels[inner].any()
    assert shown >= 3 and not made("labels", "metal_vacancy")[0].any()


def column_values(made: Result) -> dict[bytes, float]:
    """The mean image at the columns of each composition."""
    pixels, elements = made.pixels(), made("columns", "elements")
    inner = well_inside(pixels, len(made.image), 5)
    values = map_coordinates(made.image, pixels[inner].T[::-1], order=5)
    return {e: float(values[elements[inner] == e].mean()) for e in set(elements[inner])}


def test_contrast_is_what_microscopes_show(run: Run) -> None:
    """Mo twice to three times S2; W above Se2 above Mo; N / B by Krivanek's Z^1.64 within 15 %.

    Krivanek et al. 2010, Nature 464, 571 (hBN, 60 kV).
    """
    fine = {"sampling": 0.12, "pixels": 80}
    wse2 = column_values(run(**fine, material=WSE2))
    mos2 = column_values(run(**fine, material="{prototype: 1H, elements: [Mo, S]}"))
    hbn = column_values(run(**fine, material="{prototype: hbn}"))
    assert 1.0 < wse2[b"W"] / wse2[b"Se Se"] < 1.9
    assert 2.0 < mos2[b"Mo"] / mos2[b"S S"] < 3.0
    assert mos2[b"Mo"] < wse2[b"Se Se"]
    # the peaks overlap a little
    assert hbn[b"N"] / hbn[b"B"] == pytest.approx((7 / 5) ** 1.64, rel=0.15)
    graphene = column_values(run(**fine, material="{prototype: graphene}"))
    assert 3e-4 < graphene[b"C"] < 3e-3


def test_convolution_is_z_to_its_power_under_a_gaussian(run: Run, folder: Path) -> None:
    text = TEXT.format(
        **DEFAULTS
        | {
            "structure": "  rotation: 33 deg", "pixels": 64, "sampling": 0.23,
            "simulation": "  method: convolution\n  convolution: {exponent: 1.6, width: 0.6 A}",
        }
    )  # fmt: skip
    start, end = text.index("  probe:"), text.index("labels:")
    (folder / "convolution.yaml").write_text(text[:start] + text[end:])
    made = Result(Experiment(read_campaign(folder / "convolution.yaml").config, CPU), 0)
    positions, numbers = made.atoms
    away = stand(64, 0.23 * np.eye(2), made.centre)[:, :, None] - positions[:, :2]
    gaussians = np.exp(-(away**2).sum(axis=-1) / (2 * 0.6**2)) / (2 * np.pi * 0.6**2)
    own = gaussians @ numbers.astype(float) ** 1.6
    assert np.abs(own - made.image).max() < 3e-5 * own.max()


@pytest.fixture(scope="module")
def passed(run: Run) -> Result:
    """A multislice campaign with two detectors, one in quadrants, and its diffraction patterns."""
    return run(
        structure="  rotation: 20 deg", pixels=64, sampling=0.15, diffraction="true",
        simulation="  method: multislice\n  sampling: 0.068 A\n  window: 12 A",
        detectors="{adf: {inner: 63 mrad, outer: 200 mrad}, "
        "quadrants: {inner: 5 mrad, outer: 25 mrad, segments: 4, rotation: 0 deg}}",
    )  # fmt: skip


def test_multislice_sees_atoms_where_incoherent_images_do(run: Run, passed: Result) -> None:
    """Peaks within 0.05 pixels of the table's places in both; images alike but for a factor."""
    side = passed("structures", "cell_x")[0]
    field = f"  rotation: 20 deg\n  field: [{side:.12f} A, {side:.12f} A]"
    incoherent = run(structure=field, pixels=64, sampling=0.15)
    assert np.allclose(incoherent.atoms[0][:, :2], passed.atoms[0][:, :2], atol=1e-6)
    tungsten = passed.pixels()[passed("columns", "elements") == b"W"]
    tungsten = tungsten[well_inside(tungsten, 64, 5)]
    assert len(tungsten) >= 1
    for made in (passed, incoherent):
        assert np.abs(find_peaks(made.image, tungsten) - tungsten).max() < 0.05
    assert np.corrcoef(passed.image.ravel(), incoherent.image.ravel())[0, 1] > 0.998


def test_atoms_draw_the_beam_towards_them_into_the_segment_that_lies_there(passed: Result) -> None:
    """Left of and above W, at -x and -y, quadrant 0 (azimuths 0 to 90 degrees) gets most."""
    quadrants = passed("detectors", "quadrants")[0].astype(float)
    assert quadrants.shape == (4, 64, 64)
    tungsten = passed.pixels()[passed("columns", "elements") == b"W"]
    for x, y in tungsten[well_inside(tungsten, 64)]:
        for brightest, (dx, dy) in enumerate(((-3, -3), (3, -3), (3, 3), (-3, 3))):
            got = [map_coordinates(q, [[y + dy], [x + dx]], order=3)[0] for q in quadrants]
            assert np.argmax(got) == brightest and np.argmin(got) == (brightest + 2) % 4


def test_diffraction_patterns_lie_as_their_attributes_say(passed: Result) -> None:
    """Scan (y, x) and angle (y, x): their sums over a detector are its image at those points."""
    fields = {item.path: item for item in plan_layout(passed.experiment, range(2), {}).fields}
    told = fields["/entry/diffraction/patterns"].attributes
    patterns = passed("diffraction", "patterns")[0].astype(float)
    ny, nx, my, mx = patterns.shape
    y, x = (
        told["scan_origin_xy"][1 - axis] + told["scan_step_yx"][axis] * np.arange(n)
        for axis, n in enumerate((ny, nx))
    )
    angle_y, angle_x = (
        told["angle_step_yx"][axis] * (np.arange(n) - n // 2) for axis, n in enumerate((my, mx))
    )
    angle = np.hypot(angle_y[:, None], angle_x)
    azimuth = np.remainder(np.arctan2(angle_y[:, None], angle_x), 2 * np.pi)
    row, column = (
        (axis[:, None] if k == 0 else axis[None, :]) * np.ones((ny, nx)) / 0.15 + 31.5
        for k, axis in enumerate((y - passed.centre[1], x - passed.centre[0]))
    )
    inside = (column > 6) & (column < 57) & (row > 6) & (row < 57)
    assert inside.sum() > 100

    def compare(image: np.ndarray, weights: np.ndarray) -> tuple[float, float]:
        summed = (patterns * weights).sum(axis=(2, 3))[inside]
        shown = map_coordinates(image.astype(float), [row[inside], column[inside]], order=5)
        return float(np.corrcoef(summed, shown)[0, 1]), float(summed.mean() / shown.mean())

    likeness, share = compare(passed.image, (angle >= 0.063) & (angle < 0.2))
    assert likeness > 0.9999 and share == pytest.approx(1, abs=0.06)  # pixels of 3.4 mrad
    for k, quadrant in enumerate(passed("detectors", "quadrants")[0]):
        disk = (angle >= 0.005) & (angle < 0.025)
        sector = (azimuth >= k * np.pi / 2) & (azimuth < (k + 1) * np.pi / 2)
        assert compare(quadrant, disk & sector)[0] > 0.98
