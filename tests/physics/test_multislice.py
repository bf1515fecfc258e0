"""Exit waves against float64 direct sums, limits and symmetries."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from direct_sums import deviation, exit_wave

from hpctem.backend import Backend
from hpctem.errors import ConfigError, SampleError
from hpctem.optics import multislice as multislice_module
from hpctem.optics.electron import interaction_constant, wavelength
from hpctem.optics.grid import Grid
from hpctem.optics.multislice import Multislice, exit_waves, plan_slices, propagate_waves
from hpctem.optics.passage import KernelPassage
from hpctem.optics.potential import projected_potential


def run(cell, multislice, backend, shape=None, **options):
    grid = Grid(shape or cell.shape, cell.extent)
    positions = cell.positions if cell.positions.ndim == 3 else cell.positions[None]
    waves = exit_waves(positions, cell.numbers, cell.height, grid, multislice, backend, **options)
    assert waves.dtype == np.complex64
    return waves


@pytest.mark.parametrize("plane", ["centroid", "centre", "edge"])
@pytest.mark.parametrize("shape", [(160, 144), (80, 75)])
def test_direct_sum(mixture, cpu, plane, shape) -> None:
    """Tilted beam, three elements, coarse and fine sampling: 1e-3 is promised, 1e-5 reached."""
    multislice = Multislice(200e3, tilt=(0.01, -0.02), slice_plane=plane)
    found = run(mixture, multislice, cpu, shape)[0]
    slices = plan_slices(mixture.positions, mixture.numbers, mixture.height, multislice)
    expected = exit_wave(
        mixture.positions, mixture.numbers, shape, mixture.extent, 200e3,
        np.linspace(0, mixture.height, 8), slices.planes, (0.01, -0.02),
    )  # fmt: skip
    assert deviation(found, expected) < 1e-4
    assert np.std(expected) > 0.1  # the sample scatters strongly


@pytest.mark.parametrize("energy", [60e3, 300e3])
def test_direct_sum_at_other_voltages(gold, cpu, energy) -> None:
    shape = (82, 60)
    multislice = Multislice(energy, slice_thickness=1.9, slice_plane="edge")
    found = run(gold, multislice, cpu, shape)[0]
    edges = np.linspace(0, gold.height, 11)
    expected = exit_wave(
        gold.positions, gold.numbers, shape, gold.extent, energy, edges, edges[:-1]
    )
    assert deviation(found, expected) < 2e-4


def test_direct_sum_in_finite_projection(mixture, cpu) -> None:
    shape = (60, 50)
    multislice = Multislice(
        100e3, slice_thickness=1.0, projection="finite", slice_plane="centre",
        parametrization="kirkland",
    )  # fmt: skip
    found = run(mixture, multislice, cpu, shape)[0]
    edges = np.linspace(0, mixture.height, 15)
    expected = exit_wave(
        mixture.positions, mixture.numbers, shape, mixture.extent, 100e3, edges,
        (edges[1:] + edges[:-1]) / 2, finite=True, parametrization="kirkland",
    )  # fmt: skip
    assert deviation(found, expected) < 3e-4


def test_one_slice_is_the_phase_object(gold, cpu) -> None:
    """exp(i sigma V) of the projected potential, inside the aperture: the sign of the phase."""
    layer = replace(gold, positions=np.array([[4.0, 6.0, 2.0]]), numbers=np.array([6]), height=4.0)
    multislice = Multislice(300e3, slice_plane="edge", slice_thickness=9.0)
    wave = propagate_waves(run(layer, multislice, cpu), gold.extent, -4.0, wavelength(300e3), cpu)[
        0
    ]
    potential = projected_potential(
        layer.positions, layer.numbers, Grid(gold.shape, gold.extent), cpu
    )
    phase = interaction_constant(300e3) * potential
    rows, columns = np.unravel_index(np.argmax(phase), phase.shape)
    assert (rows, columns) == (121, 80)  # 6.0 / 0.0498 and 4.0 / 0.0498, rounded
    assert np.angle(wave[rows, columns]) > 0.1
    smooth = np.abs(np.fft.fftfreq(gold.shape[0])[:, None]) < 0.1
    low = [np.fft.ifft2(np.fft.fft2(v) * smooth) for v in (np.angle(wave), phase)]
    assert np.linalg.norm(low[0] - low[1]) < 0.03 * np.linalg.norm(low[1])


def test_vacuum(cpu) -> None:
    """No atoms: the plane wave, mean intensity 1, whatever the tilt."""
    grid = Grid((64, 48), (9.0, 7.0))
    for tilt in ((0.0, 0.0), (0.02, 0.01)):
        waves = exit_waves(
            np.zeros((2, 0, 3)), np.zeros(0, int), 30.0, grid, Multislice(200e3, tilt=tilt), cpu
        )
        np.testing.assert_array_equal(waves, np.ones((2, 64, 48), np.complex64))


def test_norm(mixture, cpu) -> None:
    """Electrons are lost only beyond the aperture: never gained, and none by a weak scatterer."""
    norm = np.mean(np.abs(run(mixture, Multislice(300e3), cpu)) ** 2, dtype=np.float64)
    assert 0.98 < norm < 1.000001
    light = replace(mixture, numbers=np.full(60, 3))
    assert np.mean(np.abs(run(light, Multislice(300e3), cpu)) ** 2) == pytest.approx(1, abs=2e-4)


def test_free_space_keeps_the_norm_and_comes_back(mixture, cpu) -> None:
    waves = run(mixture, Multislice(300e3), cpu)
    away = propagate_waves(waves, mixture.extent, 250.0, wavelength(300e3), cpu)
    assert np.mean(np.abs(away) ** 2) == pytest.approx(np.mean(np.abs(waves) ** 2), rel=1e-5)
    back = propagate_waves(away, mixture.extent, -250.0, wavelength(300e3), cpu)
    assert deviation(back, waves) < 1e-5
    assert deviation(away, waves) > 0.1


def test_vacuum_above_is_free_space(mixture, cpu) -> None:
    """A taller cell is the same wave, propagated; empty slices are skipped without loss."""
    multislice = Multislice(200e3, slice_plane="centroid")
    taller = replace(mixture, height=mixture.height + 40)
    slices = plan_slices(mixture.positions, mixture.numbers, mixture.height, multislice)
    short = run(mixture, multislice, cpu, slices=slices)
    planes = np.concatenate([slices.planes, mixture.height + 1 + 2 * np.arange(20)])
    tall = run(taller, multislice, cpu, slices=replace(slices, height=54.0, planes=planes))
    expected = propagate_waves(short, mixture.extent, 40.0, wavelength(200e3), cpu)
    assert deviation(tall, expected) < 1e-5


@pytest.mark.parametrize(("axis", "tilt"), [(0, (0.015, 0.0)), (1, (0.0, 0.015))])
def test_beam_travels_along_its_tilt(cpu, axis, tilt) -> None:
    """The shadow of an atom moves by height x tan(tilt), towards +x for a tilt towards +x."""
    grid = Grid((128, 128), (20.0, 20.0))
    position = np.array([[[10.0, 10.0, 2.0]]])
    waves = exit_waves(position, np.array([79]), 82.0, grid, Multislice(300e3, tilt=tilt), cpu)
    focused = propagate_waves(waves, grid.extent, -80.0, wavelength(300e3), cpu)  # not moved back
    shadow = focused[0]
    weight = np.abs(shadow - 1) ** 4
    rows, columns = np.indices(grid.shape) * (20.0 / 128)
    centre = np.array([(columns * weight).sum(), (rows * weight).sum()]) / weight.sum()
    expected = np.array([10.0, 10.0])
    expected[axis] += 80 * np.tan(0.015)
    np.testing.assert_allclose(centre, expected, atol=0.02)


def test_tilted_beam_is_a_tilted_sample(cpu) -> None:
    """To first order, in the frame of the beam: shear the sample by -tilt and shift it back."""
    generator = np.random.default_rng(4)
    positions = generator.uniform(0, 1, (40, 3)) * [12.0, 12.0, 30.0] + [0, 0, 2]
    numbers, grid, tilt = np.full(40, 14), Grid((120, 120), (12.0, 12.0)), (0.012, -0.007)
    beam = exit_waves(positions[None], numbers, 34.0, grid, Multislice(200e3, tilt=tilt), cpu)
    sheared = positions.copy()
    sheared[:, 0] += (34.0 - positions[:, 2]) * np.tan(tilt[0])
    sheared[:, 1] += (34.0 - positions[:, 2]) * np.tan(tilt[1])
    sample = exit_waves(sheared[None], numbers, 34.0, grid, Multislice(200e3), cpu)
    straight = exit_waves(positions[None], numbers, 34.0, grid, Multislice(200e3), cpu)
    assert deviation(beam, sample) < 0.02  # the depth of an atom within its slice
    assert deviation(beam, straight) > 0.2


def test_output_on_a_coarser_grid(mixture, cpu) -> None:
    """The same Fourier coefficients inside the Nyquist circle of the coarser grid, 0 outside."""
    fine = run(mixture, Multislice(300e3), cpu)[0]
    coarse = run(mixture, Multislice(300e3), cpu, output_shape=(80, 72))[0]
    assert coarse.shape == (80, 72)
    transform = np.fft.fft2(coarse) / coarse.size
    ky = np.fft.fftfreq(80, 0.2)[:, None]
    kx = np.fft.fftfreq(72, 15 / 72)[None, :]
    inside = np.hypot(ky, kx) < 0.5 / (15 / 72)
    rows, columns = (np.fft.fftfreq(n, 1 / n).astype(int) for n in (80, 72))
    expected = (np.fft.fft2(fine) / fine.size)[np.ix_(rows, columns)]
    assert np.abs(transform - expected * inside).max() < 1e-6
    assert np.abs(transform[~inside]).max() < 1e-7
    with pytest.raises(ConfigError, match="finer than the grid"):
        run(mixture, Multislice(300e3), cpu, output_shape=(161, 144))


def make_phonons(cell, count):
    generator = np.random.default_rng(8)
    shift = generator.normal(0, 0.08, (count, *cell.positions.shape))
    return replace(cell, positions=cell.positions + shift)


@pytest.mark.parametrize("projection", ["infinite", "finite"])
def test_same_bytes_twice_and_for_any_batch(mixture, cpu, projection) -> None:
    cell = make_phonons(mixture, 5)
    multislice = Multislice(300e3, projection=projection)
    shape = (60, 50)
    expected = run(cell, multislice, cpu, shape).tobytes()
    for batch in (1, 2, 3, 5, 8):
        assert run(cell, multislice, cpu, shape, batch=batch).tobytes() == expected


def test_configurations_are_independent(mixture, cpu) -> None:
    """With shared slices, a configuration gives the same bytes alone as among others."""
    cell = make_phonons(mixture, 3)
    multislice = Multislice(300e3)
    slices = plan_slices(mixture.positions, mixture.numbers, mixture.height, multislice)
    together = run(cell, multislice, cpu, slices=slices)
    for p in range(3):
        alone = run(replace(cell, positions=cell.positions[p]), multislice, cpu, slices=slices)
        assert alone[0].tobytes() == together[p].tobytes()
    assert deviation(together[0], together[1]) > 0.05


def test_translation(mixture, cpu) -> None:
    """Moving every atom by whole pixels moves the wave by as many."""
    moved = replace(mixture, positions=mixture.positions + np.array([3 * 15 / 144, 16.7, 0]))
    first, second = (run(cell, Multislice(300e3), cpu)[0] for cell in (mixture, moved))
    assert deviation(second, np.roll(first, (7, 3), (0, 1))) < 2e-5


def test_slice_planes(mixture) -> None:
    """Planes lie in their slices; the centroid follows the strong scatterer."""
    positions = np.array([[0, 0, 0.2], [0, 0, 1.8], [0, 0, 5.0]])
    for plane, expected in (("edge", [0, 2, 4]), ("centre", [1, 3, 5])):
        slices = plan_slices(
            positions, np.array([6, 6, 79]), 6.0, Multislice(300e3, slice_plane=plane)
        )
        np.testing.assert_allclose(slices.planes, expected)
    multislice = Multislice(300e3)
    equal = plan_slices(positions, np.array([79, 79, 6]), 6.0, multislice).planes
    np.testing.assert_allclose(equal, [1.0, 3.0, 5.0])
    heavy = plan_slices(positions, np.array([79, 6, 6]), 6.0, multislice).planes
    assert 0.2 < heavy[0] < 0.3
    thin = plan_slices(positions, np.array([6, 6, 6]), 6.1, multislice)
    assert thin.count == 4 and thin.thickness == pytest.approx(1.525)


def test_centroid_halves_the_slices(gold, cpu) -> None:
    """Slices of 2 A at the centroid come nearer to thin slices than slices of 1 A at the edge."""
    shape = (123, 82)
    exact = run(gold, Multislice(300e3, slice_thickness=0.05), cpu, shape)
    centroid = run(gold, Multislice(300e3, slice_thickness=2.0), cpu, shape)
    edge = run(gold, Multislice(300e3, slice_thickness=1.0, slice_plane="edge"), cpu, shape)
    assert deviation(centroid, exact) < deviation(edge, exact)


def test_convergence_with_slice_thickness(disulfide, cpu) -> None:
    """Figure S2 of Larsen et al. (2023): the error Delta_d (eq. A.1) falls with the thickness d.

    A MoS2 monolayer tilted by 8 degrees, smeared with <u^2> = 0.003 A^2, at 50 keV; 0.2 A, their
    choice, must be below 1e-3 of the thinnest.
    """
    angle = np.radians(8)
    positions = disulfide.positions.copy()
    positions[:, 2] += np.tan(angle) * positions[:, 0]
    height = positions[:, 2].max() + 2
    cell = replace(disulfide, positions=positions, height=height)
    smeared = dict.fromkeys((16, 42), np.sqrt(0.003))

    def wave(thickness):
        multislice = Multislice(
            50e3, slice_thickness=thickness, slice_plane="edge", debye_waller=smeared
        )
        return run(cell, multislice, cpu, (108, 128))

    exact = wave(0.02)
    errors = [deviation(wave(d), exact) ** 2 for d in (3.0, 1.0, 0.5, 0.2, 0.1)]
    assert all(later < earlier for earlier, later in pairwise(errors))
    assert errors[0] > 1e-2
    assert errors[3] < 1e-3
    # a displacement of half a slice is first order in d, so Delta_d falls as its square
    assert errors[1] / errors[3] == pytest.approx(25, rel=0.4)


def test_debye_waller_is_the_mean_over_phonons_of_the_wave(cpu) -> None:
    """One thin layer: the coherent (elastic) wave of many configurations is the smeared one."""
    generator = np.random.default_rng(6)
    positions = np.array([[3.0, 4.0, 2.0], [6.5, 2.0, 2.0]])
    displaced = positions + generator.normal(0, 0.1, (400, 2, 3)) * [1, 1, 0]
    grid, numbers = Grid((64, 72), (8.0, 9.0)), np.array([6, 6])
    phonons = exit_waves(displaced, numbers, 4.0, grid, Multislice(300e3), cpu)
    smeared = exit_waves(
        positions[None], numbers, 4.0, grid, Multislice(300e3, debye_waller={6: 0.1}), cpu
    )
    rest = exit_waves(positions[None], numbers, 4.0, grid, Multislice(300e3), cpu)
    assert deviation(phonons.mean(axis=0), smeared[0]) < 0.05
    assert deviation(rest, smeared) > 0.15


def test_errors(mixture, cpu) -> None:
    broken = mixture.positions.copy()
    broken[3, 1] = np.inf
    with pytest.raises(SampleError, match="not a finite number"):
        run(replace(mixture, positions=broken), Multislice(300e3), cpu)
    with pytest.raises(ConfigError, match="infinite or finite"):
        Multislice(300e3, projection="3D")
    with pytest.raises(ConfigError, match="small-angle"):
        Multislice(300e3, tilt=(0.3, 0.0))
    with pytest.raises(ConfigError, match="slice thickness"):
        Multislice(300e3, slice_thickness=0.0)
    with pytest.raises(ConfigError, match="centroid, centre or edge"):
        Multislice(300e3, slice_plane="middle")
    with pytest.raises(ConfigError, match="height"):
        plan_slices(mixture.positions, mixture.numbers, 0.0, Multislice(300e3))


@pytest.mark.parametrize("shape", [(160, 144), (81, 75), (80, 101)])
@pytest.mark.parametrize("projection", ["infinite", "finite"])
def test_panels_pass_as_kernels_do(mixture, cpu, monkeypatch, shape, projection) -> None:
    """The CPU's passes and the kernels that a GPU runs, alone and in batches: the same waves."""
    cell = make_phonons(mixture, 3)
    multislice = Multislice(200e3, tilt=(0.01, -0.02), projection=projection, slice_thickness=1.5)
    panels = run(cell, multislice, cpu, shape)
    monkeypatch.setattr(multislice_module, "passage_for", lambda backend: KernelPassage)
    kernels = run(cell, multislice, cpu, shape)
    assert deviation(panels, kernels) < 3e-5
    assert panels.tobytes() != kernels.tobytes()
    for batch in (2, 3):  # the second with a batch that is not full
        monkeypatch.setattr(Backend, "planes_at_once", lambda self, *sizes, batch=batch: batch)
        assert run(cell, multislice, cpu, shape).tobytes() == kernels.tobytes()
