"""Measure how far incoherent images are from multislice ones of the same crystal.

    python tests/benchmarks/stem_accuracy.py [--json FILE] [--configurations 16] [--sampling 0.02]

First single atoms by the pixel of the multislice, which decides how right its heavy atoms are. Then
monolayers with one vacancy, at rest and with frozen phonons, at the points of one raster and along
one line through metal, chalcogen and vacancy; no source size, focus in the middle. Four incoherent
models, each holding the one before: Born's cross sections for points, eikonal ones, with object
functions, and with the gain of pairs, which is the method `incoherent`. At the end SrTiO3 by
thickness. Figures are incoherent over multislice less 1, in per cent.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hpctem.backend import select_backend
from hpctem.optics.annuli import Annulus
from hpctem.optics.columns import correct_pairs
from hpctem.optics.cross_sections import annular_cross_section, legendre_nodes
from hpctem.optics.electron import relativistic_mass, wavelength
from hpctem.optics.incoherent import form_picture, gather_points
from hpctem.optics.object_functions import object_transfer
from hpctem.optics.probe import Probe, probe_transfer
from hpctem.optics.scan_grid import ScanGrid
from hpctem.optics.scattering_factors import scattering_factor
from hpctem.optics.stem import StemMultislice, scan_detectors
from hpctem.sections.stem import Material
from hpctem.structures.materials import load_material

CPU = select_backend("cpu")
SEMIANGLE = 0.025
DETECTORS = {
    "ADF 63-200": (0.063, 0.2),
    "ADF 50-200": (0.05, 0.2),
    "HAADF 80-200": (0.08, 0.2),
    "MAADF 30-60": (0.03, 0.06),
}
SHEETS = {
    "graphene": {"prototype": "graphene"},
    "hBN": {"prototype": "hbn"},
    "MoS2": {"prototype": "1H", "elements": ("Mo", "S")},
    "WSe2": {"prototype": "1H", "elements": ("W", "Se")},
}
RMS = {5: 0.08, 6: 0.08, 7: 0.08, 8: 0.09, 16: 0.08, 22: 0.07, 34: 0.08, 38: 0.08, 42: 0.06,
       74: 0.05}  # fmt: skip
SYMBOLS = {5: "B", 6: "C", 7: "N", 8: "O", 16: "S", 22: "Ti", 34: "Se", 38: "Sr", 42: "Mo", 74: "W"}
MODELS = ("Born points", "eikonal points", "object functions", "with pairs")
MARGIN, RADIUS = 18.0, 0.8
Row = dict[str, str | float]


@dataclass(frozen=True)
class Sheet:
    """Atoms (n, 3) and their numbers, and the rectangular cell (a, b) they are a lattice of.

    An atom stands at (MARGIN, MARGIN), armchair along +y; the vacancy at `vacancy` (x, y), or none.
    """

    positions: np.ndarray
    numbers: np.ndarray
    cell: tuple[float, float]
    vacancy: np.ndarray | None

    @property
    def height(self) -> float:
        return float(np.ptp(self.positions[:, 2])) + 4


def make_sheet(name: str, times: tuple[int, int], vacant: bool) -> Sheet:
    """`times` rectangular cells and a margin about them; one X atom less if `vacant`."""
    material = load_material(Material(**SHEETS[name]))
    first = material.cell[0, :2]
    turn = np.exp(-1j * np.angle(complex(*first)))
    a = float(np.hypot(*first))
    b = a * np.sqrt(3)
    basis = material.positions - [*material.positions[0, :2], material.positions[:, 2].min() - 2]
    steps = np.arange(-40, 41)
    shifts = np.stack(np.meshgrid(steps, steps), -1).reshape(-1, 1, 2) @ material.cell[:2, :2]
    flat = (basis[:, :2] + shifts).reshape(-1, 2) @ [1, 1j] * turn
    z = np.tile(basis[:, 2], len(shifts))
    positions = np.column_stack([flat.real + MARGIN, flat.imag + MARGIN, z])
    numbers = np.tile(material.numbers, len(shifts)).astype(int)
    far = np.array([times[0] * a, times[1] * b]) + 2 * MARGIN
    inside = ((positions[:, :2] > 0) & (positions[:, :2] < far)).all(axis=1)
    positions, numbers = positions[inside], numbers[inside]
    vacancy = None
    if vacant:  # in the second cell of the line from the atom at the margin
        other = np.flatnonzero(numbers == material.numbers[-1])
        on_line = np.abs(positions[other, 0] - MARGIN) < 0.1
        other = other[on_line & (positions[other, 1] > MARGIN + 0.9 * b)]
        y = positions[other, 1].min()
        gone = other[positions[other, 1] < y + 0.1][-1]
        vacancy = positions[gone, :2]
        positions, numbers = np.delete(positions, gone, 0), np.delete(numbers, gone)
    return Sheet(positions, numbers, (a, float(b)), vacancy)


def place_points(sheet: Sheet, spacing: float, sampling: float) -> tuple[ScanGrid, ScanGrid]:
    """A raster of one cell, whose points meet all columns, and a line over two cells."""
    sides = zip(sheet.cell, (2, 6), strict=True)
    counts = [int(np.ceil(side / spacing / parts)) * parts for side, parts in sides]
    apart = [side / n for side, n in zip(sheet.cell, counts, strict=True)]
    steps = [int(np.ceil(d / sampling)) for d in apart]
    pixel = (apart[1] / steps[1], apart[0] / steps[0])
    origin = (MARGIN, MARGIN)
    raster = ScanGrid(origin, (counts[1], counts[0]), (steps[1], steps[0]), pixel)
    return raster, ScanGrid(origin, (2 * counts[1], 1), (steps[1], steps[0]), pixel)


def collect(
    sheet: Sheet, points: ScanGrid, probe: Probe, configurations: int, side: float
) -> np.ndarray:
    """Multislice: (detectors, ny, nx); at rest for 0 configurations; `side` of the window in A."""
    positions = sheet.positions[None]
    if configurations:
        u = np.array([RMS[z] for z in sheet.numbers])
        moved = np.random.default_rng(3).standard_normal((configurations // 2, *positions[0].shape))
        moved *= u[:, None]
        positions = positions + np.concatenate([moved, -moved])  # the mean displacement is none
    annuli = tuple(Annulus(*angles) for angles in DETECTORS.values())
    window = tuple(int(np.ceil(side / d / 8)) * 8 for d in points.pixel)
    return scan_detectors(
        positions, sheet.numbers, sheet.height, points, probe, annuli,
        StemMultislice((window[0], window[1]), slice_thickness=1.0), CPU,
    ).values  # fmt: skip


def born_cross_section(number: int, energy: float, inner: float, outer: float) -> float:
    """lambda^2 times the integral of |gamma f_e|^2 over the annulus, axial illumination."""
    lam = wavelength(energy)
    q, weight = legendre_nodes(np.linspace(inner, outer, 5) / lam, 24)
    f = relativistic_mass(energy) * scattering_factor(number, q)
    return float(2 * np.pi * lam**2 * np.sum(weight * q * f**2))


def imagine(
    sheet: Sheet, points: ScanGrid, probe: Probe, angles: tuple[float, float], model: str, hot: bool
) -> np.ndarray:
    """Incoherent: (ny, nx)."""
    elements, which = np.unique(sheet.numbers, return_inverse=True)
    energy, shapes = probe.energy, None
    blurs = np.array([RMS[z] for z in elements.tolist()])[which] if hot else None
    if model == "Born points":
        sigma = [born_cross_section(z, energy, *angles) for z in elements.tolist()]
    else:
        sigma = [
            annular_cross_section(z, energy, *angles, semiangle_cutoff=probe.semiangle_cutoff)
            for z in elements.tolist()
        ]
    weights = np.array(sigma)[which]
    if model in MODELS[2:]:
        shapes = (
            which,
            [
                object_transfer(z, energy, probe.semiangle_cutoff, *angles)
                for z in elements.tolist()
            ],
        )
    if model == "with pairs":
        weights = correct_pairs(
            sheet.positions, sheet.numbers, weights, probe, *angles, CPU, blurs=blurs
        )
    extent = sheet.positions[:, 1].max() + 3, sheet.positions[:, 0].max() + 3
    picture = form_picture(
        sheet.positions[:, :2], weights, extent, probe_transfer(probe), CPU, blurs, shapes
    )
    (dy, dx), (ny, nx) = points.spacing, points.shape
    lines, columns = np.zeros((1, ny, 2)), np.zeros((nx, 2))
    lines[0, :, 1], columns[:, 0] = points.origin[1] + dy * np.arange(ny), dx * np.arange(nx)
    lines[0, :, 0] = points.origin[0]
    return gather_points(picture, lines, columns, CPU)


def name_points(sheet: Sheet, points: ScanGrid) -> np.ndarray:
    """What stands at every point, as 'Se2', '' for nothing: text (ny, nx)."""
    names = np.full(points.shape, "", dtype="U8")
    for place in np.ndindex(points.shape):
        here = np.hypot(*(sheet.positions[:, :2] - points.point(*place)).T) < 0.02
        symbols = [SYMBOLS[z] for z in sheet.numbers[here].tolist()]
        if symbols:
            names[place] = symbols[0] + (str(len(symbols)) if len(symbols) > 1 else "")
    return names


def sum_columns(sheet: Sheet, points: ScanGrid, values: np.ndarray) -> np.ndarray:
    """Mean of the values within RADIUS of each point of a periodic raster."""
    (dy, dx), (ny, nx) = points.spacing, points.shape
    y, x = (np.fft.fftfreq(n) * n * d for n, d in ((ny, dy), (nx, dx)))
    disk = np.hypot(y[:, None], x) < RADIUS
    disk = disk / disk.sum()
    return np.fft.irfft2(np.fft.rfft2(values) * np.fft.rfft2(disk), values.shape)


def compare_atom(number: int, energy: float, sampling: float) -> Row:
    """The peak of one atom, on a pixel and in the middle of four, at rest, 63 to 200 mrad."""
    probe, row = Probe(energy, SEMIANGLE), {"atom": SYMBOLS[number], "kV": energy / 1e3}
    row["multislice pixel"] = sampling
    for name, part in (("on a pixel", 0.0), ("between", 0.5)):
        place = np.array([[MARGIN + part * sampling, MARGIN + part * sampling, 2.0]])
        sheet = Sheet(place, np.array([number]), (0.0, 0.0), None)
        point = ScanGrid((MARGIN, MARGIN), (1, 1), (1, 1), (sampling, sampling))
        found = imagine(sheet, point, probe, DETECTORS["ADF 63-200"], MODELS[2], False)
        exact = collect(sheet, point, probe, 0, 12.0)[list(DETECTORS).index("ADF 63-200")]
        row[name] = float(found[0, 0] / exact[0, 0] - 1)
    return row


def compare_sheet(
    name: str, energy: float, configurations: int, sampling: float, window: float
) -> Iterable[Row]:
    """One row for each detector and model, at rest and with phonons."""
    probe = Probe(energy, SEMIANGLE)
    spacing = wavelength(energy) / (4 * SEMIANGLE)
    whole, broken = (make_sheet(name, (2, 2), vacant) for vacant in (False, True))
    raster, line = place_points(whole, spacing, sampling)
    columns, on_line = name_points(whole, raster), name_points(broken, line)[:, 0]
    still = collect(whole, raster, probe, 0, window)
    lines = {
        hot: collect(broken, line, probe, n, window)
        for hot, n in ((False, 0), (True, configurations))
    }
    for number, (detector, angles) in enumerate(DETECTORS.items()):
        for model in MODELS:
            exact, found = still[number], imagine(whole, raster, probe, angles, model, False)
            row: Row = {"sheet": name, "kV": energy / 1e3, "detector": detector}
            row |= {"model": model, "mean": float(found.mean() / exact.mean() - 1)}
            disks = [sum_columns(whole, raster, v) for v in (exact, found)]
            for column in sorted(set(columns.ravel()) - {""}):
                here = columns == column
                row[f"disk {column}"] = float(disks[1][here].mean() / disks[0][here].mean() - 1)
            for hot in (False, True):
                exact = lines[hot][number][:, 0]
                found = imagine(broken, line, probe, angles, model, hot)[:, 0]
                row |= compare_lines(exact, found, on_line, "phonons " if hot else "")
            yield row


def compare_lines(
    exact: np.ndarray, found: np.ndarray, names: np.ndarray, prefix: str
) -> dict[str, float]:
    """Peaks of each kind of column, the ratio of a vacancy's to a whole one's, the profile."""
    kinds = sorted(set(names) - {""})
    peaks = [{k: v[names == k].mean() for k in kinds} for v in (exact, found)]
    row = {f"{prefix}peak {k}": float(peaks[1][k] / peaks[0][k] - 1) for k in kinds}
    for kind in kinds:
        if f"{kind}2" in kinds:
            ratios = [p[kind] / p[f"{kind}2"] for p in peaks]
            row |= {f"{prefix}ratio": float(ratios[1] / ratios[0] - 1)}
            row |= {f"{prefix}ratio multislice": float(ratios[0])}
    row[f"{prefix}profile rms"] = float(np.sqrt(np.mean((found - exact) ** 2)) / exact.max())
    row[f"{prefix}profile worst"] = float(np.abs(found - exact).max() / exact.max())
    return row


def compare_thickness(cells: int, energy: float, configurations: int) -> Row:
    """SrTiO3 [001] of so many cells: a raster of a cell, 80 to 200 mrad, with phonons."""
    material = load_material(Material(prototype="perovskite", elements=("Sr", "Ti", "O")))
    a = float(material.cell[0, 0])
    steps = np.arange(-8, 9)
    shifts = np.stack(np.meshgrid(steps, steps, np.arange(cells), indexing="ij"), -1)
    from_strontium = material.positions - material.positions[material.numbers == 38]
    positions = (from_strontium + shifts.reshape(-1, 1, 3) * a).reshape(-1, 3)
    numbers = np.tile(material.numbers, shifts.size // 3).astype(int)
    inside = (np.abs(positions[:, :2] - a / 2) < MARGIN + a / 2).all(axis=1)
    positions, numbers = positions[inside], numbers[inside]
    positions += [MARGIN, MARGIN, 2 - positions[:, 2].min()]
    sheet, probe = Sheet(positions, numbers, (a, a), None), Probe(energy, SEMIANGLE)
    # half as many points as the image needs are enough for its mean
    count = int(np.ceil(a * 2 * SEMIANGLE / wavelength(energy) / 2)) * 2
    step = int(np.ceil(a / count / 0.03))
    raster = ScanGrid((MARGIN, MARGIN), (count, count), (step, step), (a / count / step,) * 2)
    exact = collect(sheet, raster, probe, configurations, 16.0)
    exact = exact[list(DETECTORS).index("HAADF 80-200")]
    found = imagine(sheet, raster, probe, DETECTORS["HAADF 80-200"], MODELS[2], True)
    names = name_points(sheet, raster)
    row: Row = {"sheet": f"SrTiO3 {cells * a / 10:.1f} nm", "kV": energy / 1e3}
    row["mean"] = float(found.mean() / exact.mean() - 1)
    for symbol in ("Sr", "Ti", "O"):
        here = np.char.startswith(names, symbol)
        row[f"peak {symbol}"] = float(found[here].mean() / exact[here].mean() - 1)
    return row


def show(row: Row) -> str:
    """One line of the table: departures in per cent."""
    words = []
    for name, value in row.items():
        plain = isinstance(value, str) or name == "kV" or "multislice" in name
        words.append(f"{name} {value}" if isinstance(value, str) or name == "kV" else
                     f"{name} {value:.3f}" if plain else f"{name} {100 * value:+.1f}")  # fmt: skip
    return "  ".join(words)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--configurations", type=int, default=16)
    parser.add_argument("--sampling", type=float, default=0.02, help="of the multislice, in A")
    parser.add_argument("--window", type=float, default=20.0, help="of the multislice, in A")
    parser.add_argument("--sheets", nargs="*", default=list(SHEETS))
    parser.add_argument("--energies", nargs="*", type=float, default=[60, 80], help="kV")
    parser.add_argument("--no-atoms", dest="atoms", action="store_false")
    parser.add_argument("--cells", nargs="*", type=int, default=[1, 3, 13, 26], help="of SrTiO3")
    options = parser.parse_args()
    rows: list[Row] = []
    for number in (6, 16, 34, 42, 74) if options.atoms else ():
        for pixel in (0.05, 0.03, 0.02, 0.0133):
            rows.append(compare_atom(number, 80e3, pixel))
            print(show(rows[-1]), flush=True)
    for name in options.sheets:
        for energy in options.energies:
            for row in compare_sheet(
                name, 1e3 * energy, options.configurations, options.sampling, options.window
            ):
                rows.append(row)
                print(show(row), flush=True)
    for cells in options.cells:
        rows.append(compare_thickness(cells, 200e3, options.configurations // 4))
        print(show(rows[-1]), flush=True)
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
