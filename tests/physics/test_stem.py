"""Multislice STEM against float64 direct sums, closed forms, finer scans and wider windows."""

from __future__ import annotations

from dataclasses import replace

import direct_sums
import numpy as np
import pytest

from hpctem.errors import ConfigError, SampleError
from hpctem.optics import incident, probe_passage, stem
from hpctem.optics.aberrations import Aberrations
from hpctem.optics.annuli import Annulus, check_angles, weigh_annuli
from hpctem.optics.atomic_layers import plan_layers
from hpctem.optics.electron import relativistic_mass, wavelength
from hpctem.optics.grid import Grid
from hpctem.optics.incident import choose_window, free_probe
from hpctem.optics.incoherent import gather_points
from hpctem.optics.probe import FWHM, Probe, probe_spectrum
from hpctem.optics.scan_grid import ScanGrid, nyquist_spacing, picture_of_scan, plan_scan
from hpctem.optics.scattering_factors import scattering_factor
from hpctem.optics.stem import StemMultislice, scan_detectors

FOCUSED = Probe(80e3, 0.025)
ABERRATED = Probe(80e3, 0.03, 25.0, Aberrations(C12=12.0, phi12=0.4, C21=400.0, phi21=1.0, C30=8e3))
DETECTORS = (Annulus(0, 0.02), Annulus(0.035, 0.063), Annulus(0.063, 0.2), Annulus(0.03, 0.1, 4))
SMALL = StemMultislice((200, 200))
PIXEL = (0.05, 0.05)


def make_sheet(times: tuple[int, int], a: float = 3.16, b: float = 3.16 * 1.75, jitter=0.05):
    """MoS2, strained to a rectangular cell a x b; atoms off their places, 3 % of them missing."""
    basis = [
        (x, y + dy, z, number)
        for x, y in ((0, 0), (0.5, 0.5))
        for dy, z, number in ((0, 3.585, 42), (1 / 3, 2.0, 16), (1 / 3, 5.17, 16))
    ]
    cells = np.stack(np.meshgrid(*map(np.arange, times), indexing="ij"), -1).reshape(-1, 1, 2)
    flat = ((np.array(basis)[:, :2] + cells) * [a, b]).reshape(-1, 2)
    z, numbers = (np.tile([atom[n] for atom in basis], len(cells)) for n in (2, 3))
    positions = np.column_stack([flat, z])
    if not jitter:
        return positions, numbers
    generator = np.random.default_rng(5)
    kept = generator.uniform(size=len(z)) > 0.03
    positions = positions + generator.normal(0, jitter, positions.shape)
    return positions[kept], numbers[kept]


def run(cpu, sheet, scan, probe=FOCUSED, annuli=DETECTORS, multislice=SMALL, **options):
    positions, numbers = sheet
    positions = positions if positions.ndim == 3 else positions[None]
    return scan_detectors(positions, numbers, 7.17, scan, probe, annuli, multislice, cpu, **options)


def grid_points(origin, shape, step=8, pixel=PIXEL) -> ScanGrid:
    return ScanGrid(origin, shape, (step, step), pixel)


@pytest.fixture(scope="module")
def sheet():
    return make_sheet((16, 9))


@pytest.mark.parametrize("probe", [FOCUSED, ABERRATED], ids=["focused", "aberrated"])
def test_direct_sum(cpu, probe) -> None:
    """Patterns and signals of three elements in several slices, of a cell that a window fills."""
    generator = np.random.default_rng(2)
    (ly, lx), shape, height = (8.0, 7.5), (160, 144), 10.0
    positions = generator.uniform(0, 1, (30, 3)) * [lx, ly, height]
    numbers = generator.choice([6, 14, 79], 30)
    steps = [(x * lx, y * ly, 0.0) for x in range(5) for y in range(5)]
    repeated = np.concatenate([positions + step for step in steps])
    pixel = ly / shape[0], lx / shape[1]
    points = [(2 * lx + 20 * pixel[1], 2 * ly + 33 * pixel[0]), (2.5 * lx, 3 * ly - pixel[0])]
    annuli = (Annulus(0, 0.03), Annulus(0.05, 0.15))
    layers = plan_layers(positions[:, 2], numbers, 2.0)
    assert len(layers.planes) >= 5

    weights = weigh_annuli(Grid(shape, (ly, lx)), wavelength(80e3), annuli)
    mask = direct_sums.aperture(shape, (ly, lx))
    ky, kx = direct_sums.frequencies(shape, (ly, lx))
    square, lam = ky**2 + kx**2, direct_sums.wavelength(80e3)
    for point in points:
        wave = probe_spectrum(probe, Grid(shape, (ly, lx)), height / 2 - layers.planes[0])
        wave = wave / np.linalg.norm(wave) * np.exp(-2j * np.pi * (kx * point[0] + ky * point[1]))
        for s, plane in enumerate(layers.planes):
            chosen = layers.index == s
            v = direct_sums.potential(positions[chosen], numbers[chosen], shape, (ly, lx))
            t = np.fft.ifft2(
                np.fft.fft2(np.exp(1j * direct_sums.interaction_constant(80e3) * v)) * mask
            )
            wave = np.fft.fft2(np.fft.ifft2(wave) * t)
            if s + 1 < len(layers.planes):
                distance = layers.planes[s + 1] - plane
                wave = wave * mask * np.exp(-1j * np.pi * lam * distance * square)
        expected = np.abs(wave) ** 2
        scan = ScanGrid(point, (1, 1), (8, 8), pixel)
        found = scan_detectors(
            repeated[None], np.tile(numbers, 25), height, scan, probe, annuli,
            StemMultislice(shape, repeated=True), cpu, patterns=True,
        )  # fmt: skip
        signals = (weights * expected).sum(axis=(1, 2))
        np.testing.assert_allclose(found.values[:, 0, 0], signals, rtol=1e-3)
        my, mx = found.patterns.shape[2:]
        y, x = (np.arange(n) - n // 2 for n in (my, mx))
        expected = expected[y[:, None], x]
        error = np.linalg.norm(found.patterns[0, 0] - expected) / np.linalg.norm(expected)
        assert error < 1e-3


def test_vacuum_collects_the_whole_beam(cpu) -> None:
    empty = np.zeros((0, 3)), np.zeros(0, int)
    annuli = (Annulus(0, 0.2), Annulus(0, 0.2, 3), Annulus(0.045, 0.2))
    for probe in (FOCUSED, ABERRATED, replace(FOCUSED, focal_spread=40.0)):
        values = run(cpu, empty, grid_points((5, 5), (2, 3)), probe, annuli).values
        np.testing.assert_allclose(values[0], 1, atol=1e-5)
        np.testing.assert_allclose(values[1:4].sum(axis=0), 1, atol=1e-5)
        assert values[4].max() < 1e-6  # dark


def test_nothing_is_lost_within_the_band_limit(cpu, sheet) -> None:
    limit = wavelength(80e3) / (3 * 0.05)
    scan = grid_points((20, 20), (5, 5))
    values = run(cpu, sheet, scan, annuli=(Annulus(0, limit),)).values
    assert values.max() <= 1 + 1e-5
    assert values.min() > 0.998


def test_segments_add_up_to_the_annulus(cpu, sheet) -> None:
    scan = grid_points((20, 20), (4, 4))
    annuli = (Annulus(0.03, 0.1), Annulus(0.03, 0.1, 5, 0.7))
    values = run(cpu, sheet, scan, ABERRATED, annuli).values
    np.testing.assert_allclose(values[1:].sum(axis=0), values[0], rtol=1e-5)
    assert np.ptp(values[1:], axis=0).max() > 0.02 * values[0].max()


def test_segments_lie_where_their_azimuth_says(cpu) -> None:
    """Beside an atom in +x the wave is drawn towards it: to +x, the first of four about it."""
    atom = np.array([[20.0, 20.0, 2.0]]), np.array([6])
    quadrants = (Annulus(0.0, 0.03, 4, -np.pi / 4),)
    for azimuth in range(4):
        direction = np.array([(1, 0), (0, 1), (-1, 0), (0, -1)][azimuth])
        scan = grid_points(tuple(20 - 0.6 * direction), (1, 1))
        values = run(cpu, atom, scan, annuli=quadrants).values[:, 0, 0]
        assert int(np.argmax(values)) == azimuth


def test_weights_of_an_annulus_are_areas() -> None:
    """Their sum is the area of the ring to 1e-3, although pixels are 2 mrad wide."""
    grid = Grid((400, 360), (20.0, 18.0))
    for annulus in (Annulus(0, 0.0211), Annulus(0.0313, 0.0635, 7, 0.3)):
        weights = weigh_annuli(grid, wavelength(80e3), (annulus,))
        area = np.pi * (annulus.outer**2 - annulus.inner**2) / wavelength(80e3) ** 2 * 20 * 18
        assert weights.sum() == pytest.approx(area, rel=1e-3)
        np.testing.assert_allclose(weights.sum(axis=(1, 2)), area / annulus.segments, rtol=0.02)
        assert weights.max() <= 1 + 1e-6


def test_signal_of_an_atom_is_its_cross_section(cpu) -> None:
    """Summed over the scan, in the limit of weak scattering: lambda^2 (m / m0)^2 int |f|^2 d2k.

    It is the mean over all directions of the probe. Hydrogen is weak, carbon to 3 %.
    """
    energy, alpha, annulus = 200e3, 0.02, Annulus(0.04, 0.16)
    scan = grid_points((16.28, 16.28), (32, 32), 8, (0.03, 0.03))  # the atom in every window
    multislice = StemMultislice((256, 256), repeated=True)
    grid, lam = Grid((256, 256), (7.68, 7.68)), wavelength(energy)
    ky, kx = grid.frequencies()
    k = np.hypot(ky[:, None], kx)
    ring = weigh_annuli(grid, lam, (annulus,))[0]
    probe = np.abs(probe_spectrum(Probe(energy, alpha), grid)) ** 2
    for number, tolerance in ((1, 5e-3), (6, 0.03)):
        atom = np.array([[20.03, 20.01, 2.0]]), np.array([number])
        values = run(cpu, atom, scan, Probe(energy, alpha), (annulus,), multislice).values[0]
        f = scattering_factor(number, k, "lobato") * relativistic_mass(energy)
        spread = np.fft.ifft2(np.fft.fft2(f**2) * np.fft.fft2(probe)).real / probe.sum()
        section = lam**2 * np.sum(spread * ring) / 7.68**2
        found = float(values.sum()) * scan.spacing[0] * scan.spacing[1]
        assert found == pytest.approx(section, rel=tolerance)


def test_a_periodic_scan_is_told_exactly_by_its_nyquist_points(cpu, monkeypatch) -> None:
    """No harmonics beyond 2 alpha / lambda, and the picture between the points, to 1e-5."""
    a = 64 * 0.0494
    pixel = 0.0494, 0.0494
    crystal = make_sheet((20, 14), a, 1.5 * a, jitter=0)
    multislice = StemMultislice((192, 192), repeated=True)
    origin = 4 * a + 0.02, 4 * 1.5 * a + 0.01
    coarse, fine = (ScanGrid(origin, (192 // n,) * 2, (n, n), pixel) for n in (8, 4))
    monkeypatch.setattr(stem, "TILE", 48)
    monkeypatch.setattr(stem, "PAD", 98 * 0.0494 - 1e-9)  # tiles of whole unit cells
    probe = Probe(80e3, 0.0235)
    assert coarse.spacing[0] <= nyquist_spacing(80e3, 0.0235) < 1.15 * coarse.spacing[0]
    signals, expected = (
        run(cpu, crystal, scan, probe, DETECTORS[:3], multislice).values for scan in (coarse, fine)
    )
    assert np.abs(signals - expected[:, ::2, ::2]).max() < 1e-5
    lines, columns = straight(fine, origin)
    for signal, exact in zip(signals, expected, strict=True):
        spectrum = np.abs(np.fft.fft2(exact)) / exact.size
        ky, kx = (np.fft.fftfreq(n, 4 * 0.0494) for n in exact.shape)
        edge = probe.cutoff + 0.5 / (192 * 0.0494)  # a ramp, as wide as the window resolves
        beyond = np.hypot(ky[:, None], kx) > 2 * edge
        assert beyond.sum() > 100
        assert spectrum[beyond].max() < 1e-6
        assert np.abs(stretch(exact[::2, ::2]) - exact).max() < 1e-5 * exact.max()
        found = gather_points(picture_of_scan(signal, coarse, cpu), lines, columns, cpu)
        assert np.abs(found - exact).max() < 1e-4 * exact.max()  # windows of atoms and points


def stretch(values: np.ndarray) -> np.ndarray:
    """Fourier interpolation to twice the points along both axes."""
    ny, nx = values.shape
    padded = np.pad(np.fft.fftshift(np.fft.fft2(values)), ((ny // 2,) * 2, (nx // 2,) * 2))
    return 4 * np.fft.ifft2(np.fft.ifftshift(padded)).real


def straight(scan: ScanGrid, origin) -> tuple[np.ndarray, np.ndarray]:
    """The points of a scan as lines and columns relative to `origin`."""
    (dy, dx), (ny, nx) = scan.spacing, scan.shape
    y = scan.origin[1] - origin[1] + dy * np.arange(ny)
    x = scan.origin[0] - origin[0] + dx * np.arange(nx)
    lines = np.stack([np.zeros(ny), y], axis=-1)[None]
    return lines, np.stack([x, np.zeros(nx)], axis=-1)


def test_margins_make_upsampling_true(cpu, sheet) -> None:
    """Of a sheet with vacancies: 3e-3 of the contrast for 8 points, 1e-2 for 4, more for none."""
    area = 18.0, 17.0, 24.0, 22.0
    fine = ScanGrid((18.15, 17.25), (16, 18), (6, 6), PIXEL)
    annuli = DETECTORS[0], DETECTORS[2]
    expected = run(cpu, sheet, fine, annuli=annuli).values
    errors = {}
    for margin in (0, 4, 8):
        scan = plan_scan(area, 80e3, 0.025, 0.05, margin=margin)
        signals = run(cpu, sheet, scan, annuli=annuli).values
        lines, columns = straight(fine, scan.origin)
        errors[margin] = [
            np.abs(gather_points(picture_of_scan(s, scan, cpu), lines, columns, cpu) - e).max()
            / np.ptp(e)
            for s, e in zip(signals, expected, strict=True)
        ]
    assert max(errors[8]) < 3e-3
    assert max(errors[4]) < 1.2e-2
    assert min(errors[0]) > 0.015


def test_source_size_blurs_the_picture(cpu) -> None:
    """As a sum over Gaussian displacements of the points; the mean stays."""
    generator = np.random.default_rng(0)
    ky, kx = np.fft.fftfreq(20)[:, None], np.fft.fftfreq(24)
    field = np.fft.fft2(generator.normal(size=(20, 24))) * (np.hypot(ky, kx) < 0.4)
    values = 3 + np.fft.ifft2(field).real
    scan = ScanGrid((0, 0), (20, 24), (8, 8), PIXEL)
    sigma = 0.3
    points = generator.uniform(0, 8, (6, 2))
    blurred = picture_of_scan(values, scan, cpu, source_size=sigma * FWHM)
    sharp = picture_of_scan(values, scan, cpu)

    def look(picture, places):
        return np.array([gather_points(picture, p[None, None], np.zeros((1, 2)), cpu)[0, 0]
                         for p in places])  # fmt: skip

    at = np.linspace(-4, 4, 17) * sigma
    weight = np.exp(-(at**2) / (2 * sigma**2))
    weight /= weight.sum()
    expected = [
        sum(wx * wy * look(sharp, [p + np.array([dx, dy])])[0]
            for dx, wx in zip(at, weight, strict=True) for dy, wy in zip(at, weight, strict=True))
        for p in points
    ]  # fmt: skip
    np.testing.assert_allclose(look(blurred, points), expected, atol=2e-3 * np.ptp(values))
    assert np.ptp(look(sharp, points)) > 0.2


@pytest.mark.parametrize("probe", [FOCUSED, ABERRATED], ids=["focused", "aberrated"])
def test_a_window_of_modest_size_is_enough(cpu, sheet, probe) -> None:
    """Signals in the default window against 36 A: 4e-3 of the brightest; lattices of probes: 1e-2.

    What is left is what the rings outside the window would have scattered.
    """
    scan = grid_points((21, 21), (3, 3), 10)
    annuli = DETECTORS[1:3]
    window = choose_window(probe, 3.17, 0.2, PIXEL)
    assert 14 < window[0] * PIXEL[0] < 20
    wide = run(cpu, sheet, scan, probe, annuli, StemMultislice((720, 720))).values
    peak = wide.max(axis=(1, 2))
    found = run(cpu, sheet, scan, probe, annuli, StemMultislice(window)).values
    lattice = run(cpu, sheet, scan, probe, annuli, StemMultislice(window, repeated=True)).values
    assert (np.abs(found - wide).max(axis=(1, 2)) < 4e-3 * peak).all()
    assert (np.abs(lattice - wide).max(axis=(1, 2)) > 1e-2 * peak).all()


def test_tiles_do_not_show(cpu, sheet, monkeypatch) -> None:
    """To rounding; but each tile has its own mean for what passes outside the windows."""
    scan = grid_points((18, 18), (9, 10))
    for multislice, tolerance in ((replace(SMALL, repeated=True), 1e-4), (SMALL, 2e-3)):
        monkeypatch.setattr(stem, "TILE", 32)
        whole = run(cpu, sheet, scan, multislice=multislice).values
        monkeypatch.setattr(stem, "TILE", 4)
        tiled = run(cpu, sheet, scan, multislice=multislice).values
        error = np.abs(tiled - whole).max(axis=(1, 2)) / whole.max(axis=(1, 2))
        assert error.max() < tolerance


def test_both_ways_give_the_same_signals(cpu, sheet, monkeypatch) -> None:
    scan = grid_points((18, 18), (3, 4))
    odd = StemMultislice((180, 196))  # rows and columns that fill no lanes
    panels = run(cpu, sheet, scan, ABERRATED, multislice=odd, patterns=True)
    monkeypatch.setattr(stem, "passage_for", lambda backend: probe_passage.BatchPassage)
    monkeypatch.setattr(probe_passage, "GPU_BATCH", 5)
    batches = run(cpu, sheet, scan, ABERRATED, multislice=odd, patterns=True)
    error = np.abs(panels.values - batches.values).max(axis=(1, 2))
    assert (error < 1e-5 * batches.values.max(axis=(1, 2))).all()
    assert np.abs(panels.patterns - batches.patterns).max() < 1e-5 * batches.patterns.max()


def test_patterns_hold_the_signals(cpu, sheet) -> None:
    """The detectors' weights over the patterns give the signals."""
    scan, lattice = grid_points((18, 18), (3, 4)), replace(SMALL, repeated=True)
    found = run(cpu, sheet, scan, multislice=lattice, patterns=True)
    plain = run(cpu, sheet, scan, multislice=lattice)
    np.testing.assert_allclose(found.values, plain.values, rtol=1e-6)
    my, mx = found.patterns.shape[2:]
    assert found.patterns.shape == (3, 4, *stem.pattern_shape((200, 200), PIXEL, 80e3, DETECTORS))
    assert my // 2 * found.angles[0] <= 0.2 < (my // 2 + 1) * found.angles[0]
    weights = weigh_annuli(Grid((200, 200), (10.0, 10.0)), wavelength(80e3), DETECTORS)
    y, x = (np.arange(n) - n // 2 for n in (my, mx))
    signals = np.einsum("ijyx,kyx->kij", found.patterns, weights[:, y[:, None], x])
    cropped = [0, 1, 3, 4, 5, 6]  # the pixels at the edge of the third are not all kept
    np.testing.assert_allclose(signals[cropped], found.values[cropped], rtol=2e-3)


def test_focal_spread_is_an_average_over_defoci(cpu, sheet) -> None:
    scan, spread = grid_points((20, 20), (3, 3), 10), 50.0
    probe = replace(FOCUSED, defocus=30.0, focal_spread=spread)
    found = run(cpu, sheet, scan, probe).values
    at = np.linspace(-4, 4, 25)
    weight = np.exp(-(at**2) / 2)
    expected = sum(
        w / weight.sum()
        * run(cpu, sheet, scan, replace(FOCUSED, defocus=30.0 + u * spread)).values
        for u, w in zip(at, weight, strict=True)
    )  # fmt: skip
    sharp = run(cpu, sheet, scan, replace(FOCUSED, defocus=30.0)).values
    peak = expected.max(axis=(1, 2))
    assert (np.abs(found - expected).max(axis=(1, 2)) < 1e-3 * peak).all()
    assert np.abs(sharp - expected).max(axis=(1, 2))[2] > 0.02 * peak[2]


def test_phonons_are_averaged(cpu, sheet) -> None:
    positions, numbers = sheet
    generator = np.random.default_rng(3)
    frozen = positions + generator.normal(0, 0.08, (3, *positions.shape))
    scan = grid_points((20, 20), (3, 3))
    found = run(cpu, (frozen, numbers), scan).values
    each = [run(cpu, (configuration, numbers), scan).values for configuration in frozen]
    np.testing.assert_allclose(found, np.mean(each, axis=0), rtol=2e-3)
    assert np.ptp(each, axis=0).max() > 1e-3


def test_only_what_lies_between_atoms_and_probe_matters(cpu, sheet) -> None:
    """Specimen and scan moved by a part of a pixel, or along the beam: the same signals."""
    positions, numbers = sheet
    scan = grid_points((20, 20), (3, 3))
    found = run(cpu, sheet, scan).values
    moved = grid_points((20.0137, 19.9713), (3, 3))
    shifted = run(cpu, (positions + np.array([0.0137, -0.0287, 0.0]), numbers), moved).values
    peak = found.max(axis=(1, 2), keepdims=True)
    assert np.abs((shifted - found) / peak).max() < 5e-4
    higher = scan_detectors(
        positions[None] + np.array([0, 0, 30.0]),
        numbers,
        67.17,
        scan,
        FOCUSED,
        DETECTORS,
        SMALL,
        cpu,
    ).values
    np.testing.assert_allclose(higher, found, rtol=1e-5)


def test_focus_lies_at_the_middle_of_the_specimen(cpu) -> None:
    """An atom at height z is seen sharpest with the underfocus z - height / 2."""
    scan = grid_points((20, 20), (1, 1))
    defoci = np.arange(-60, 61, 20.0) + 2.0
    for z in (2.0, 54.0, 72.0):
        atom = np.array([[[20.0, 20.0, z]]])
        signals = [
            scan_detectors(
                atom, np.array([42]), 104.0, scan, replace(FOCUSED, defocus=d),
                (Annulus(0.06, 0.2),), StemMultislice((320, 320)), cpu,
            ).values.item()
            for d in defoci
        ]  # fmt: skip
        assert defoci[int(np.argmax(signals))] == pytest.approx(z - 52, abs=10.1)


def test_slices_are_the_atomic_planes() -> None:
    generator = np.random.default_rng(1)
    z = np.repeat([2.0, 3.6, 5.2, 9.0], 50) + generator.normal(0, 0.05, 200)
    order = generator.permutation(200)
    layers = plan_layers(z[order], np.full(200, 34), 2.0)
    np.testing.assert_array_equal(layers.index, np.repeat(np.arange(4), 50)[order])
    np.testing.assert_allclose(layers.planes, [2.0, 3.6, 5.2, 9.0], atol=0.03)


def test_rough_layers_are_cut_evenly_and_act_at_their_centroid() -> None:
    z = np.sort(np.random.default_rng(1).uniform(2, 11, 4000))
    numbers = np.full(4000, 6)
    numbers[-1] = 92
    layers = plan_layers(z, numbers, 2.0)
    assert len(layers.planes) == 5  # 9 A by at most 2 A
    widths = [np.ptp(z[layers.index == s]) for s in range(5)]
    assert max(widths) < 2.0 and min(widths) > 1.7
    f = scattering_factor(92, 0.5, "lobato") ** 2 / scattering_factor(6, 0.5, "lobato") ** 2
    last = z[layers.index == 4]
    weight = np.ones(last.size)
    weight[-1] = f
    assert layers.planes[4] == pytest.approx(np.average(last, weights=weight))


def test_free_probe_is_the_limit_of_wide_lattices(cpu) -> None:
    """Cut from a probe on 51 A, all but its rings' returns is the free probe's."""
    narrow, wide = Grid((256, 256), (12.8, 12.8)), Grid((1024, 1024), (51.2, 51.2))
    found = free_probe(ABERRATED, narrow, 5.0)
    reference = free_probe(ABERRATED, wide, 5.0, repeated=True).field
    cut = reference[384:640, 384:640] * (wide.pixels / narrow.pixels) ** 0.5
    assert np.linalg.norm(found.field - cut) < 0.05 * np.linalg.norm(cut)
    middle = slice(64, 192), slice(64, 192)
    assert np.linalg.norm((found.field - cut)[middle]) < 0.01 * np.linalg.norm(cut[middle])
    inside = narrow.pixels * np.sum(np.abs(found.field.astype(complex)) ** 2)
    assert 0.9 < inside < 0.995
    assert found.missed == pytest.approx(1 - inside, abs=1e-5)


@pytest.mark.parametrize(
    ("energy", "outer", "needed"), [(80e3, 0.2, "0.069"), (60e3, 0.25, "0.064")]
)
def test_angles_beyond_the_band_limit_are_refused(energy, outer, needed) -> None:
    check_angles(energy, float(needed), outer)
    with pytest.raises(ConfigError, match=f"{1e3 * outer:g} mrad.* {needed} A or finer"):
        check_angles(energy, 0.071, outer)


def test_what_cannot_be_simulated_is_refused(cpu, sheet) -> None:
    scan = grid_points((20, 20), (1, 1))
    with pytest.raises(ConfigError, match="outer angle is 300 mrad"):
        run(cpu, sheet, scan, annuli=(Annulus(0, 0.3),))
    with pytest.raises(ConfigError, match="lies outside its window of 10"):
        run(cpu, sheet, scan, replace(FOCUSED, defocus=400.0))
    with pytest.raises(ConfigError, match="inner angle must be below"):
        Annulus(0.1, 0.05)
    with pytest.raises(ConfigError, match="A or finer"):
        plan_scan((0, 0, 10, 10), 80e3, 0.1, 0.12)
    with pytest.raises(ConfigError, match="needs a sampling of at most"):
        run(cpu, sheet, scan, Probe(80e3, 0.29))
    broken = sheet[0].copy()
    broken[0, 0] = np.nan
    with pytest.raises(SampleError, match="not a finite number"):
        run(cpu, (broken, sheet[1]), scan)


def test_scans_cover_their_area() -> None:
    scan = plan_scan((3.0, 5.0, 33.0, 25.0), 60e3, 0.03, 0.05, source_size=1.0)
    assert scan.step == (8, 8)
    assert scan.spacing[0] <= nyquist_spacing(60e3, 0.03)
    inner = [scan.margin * d for d in scan.spacing]
    last = scan.point(scan.shape[0] - 1, scan.shape[1] - 1)
    assert scan.origin[0] + inner[1] <= 3.0 - 3 / FWHM and last[0] - inner[1] >= 33.0 + 3 / FWHM
    assert scan.origin[1] + inner[0] <= 5.0 - 3 / FWHM and last[1] - inner[0] >= 25.0 + 3 / FWHM
    assert last[0] - 33.0 < 3.0 / FWHM + 11 * scan.spacing[1]


def test_a_wider_probe_takes_a_wider_window() -> None:
    sides = [
        choose_window(probe, thickness, 0.2, PIXEL)[0] * 0.05
        for probe, thickness in (
            (FOCUSED, 0.0), (FOCUSED, 50.0), (replace(FOCUSED, defocus=200.0), 0.0),
            (replace(FOCUSED, focal_spread=40.0), 0.0),
        )
    ]  # fmt: skip
    assert sides[0] == pytest.approx(2 * incident.RINGS / FOCUSED.cutoff, abs=1.0)
    assert sides[1] > sides[0] + 2 * 50 * 0.2
    assert sides[2] > sides[0] + 2 * 200 * 0.025 - 1
    assert sides[3] > sides[0] + 2 * 3 * 40 * 0.025 - 1
