"""Time multislice STEM beside abTEM on the same work, one thread on one core, and how exact it is.

    python tests/benchmarks/stem_probes.py [--repeats 3] [--points 24] [--json FILE] [--no-abtem]

The work: a sheet of WSe2 at 80 kV, a probe of 25 mrad, 63-200 mrad detector. First probes on equal
terms: windows of 512 pixels and four atomic planes, a slice each (WSe2 with Se atoms on top). Then
an image of 1024 pixels over 21 nm of the monolayer: hpctem passes probes at Nyquist points and
upsamples, abTEM passes one for each pixel. Both codes take turns; each figure is the shortest CPU
time of several. abTEM's time depends on its batches, so it runs with its own choice and one by one,
and the ratio is that to the faster.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from steps import race

from hpctem.backend import Backend, select_backend
from hpctem.optics.annuli import Annulus
from hpctem.optics.incident import choose_window
from hpctem.optics.incoherent import gather_points
from hpctem.optics.probe import Probe
from hpctem.optics.scan_grid import ScanGrid, picture_of_scan, plan_scan
from hpctem.optics.stem import Signals, StemMultislice, scan_detectors

ENERGY, SEMIANGLE, DETECTOR = 80e3, 0.025, Annulus(0.063, 0.2)
SAMPLING, WINDOW = 0.05, 512
PROBE = Probe(ENERGY, SEMIANGLE)
PLANES = {"W": 3.66, "Se below": 2.0, "Se above": 5.32}
FIELD, PIXELS = 210.0, 1024
ASKED = {"probe, 512 px, 4 slices": 5.0, "image, 1024 px, 512 px windows": 12.0,
         "image, 1024 px, default windows": 12.0}  # fmt: skip
Work = Callable[[], Any]


def make_sheet(width: float, topped: bool) -> tuple[np.ndarray, np.ndarray]:
    """WSe2 over `width` A, and Se above its W atoms if `topped`: positions and numbers."""
    a, b = 3.3, 3.3 * np.sqrt(3)
    basis = []
    for x, y in ((0.0, 0.0), (0.5, 0.5)):
        basis.append((x, y, PLANES["W"], 74))
        basis += [(x, y + 1 / 3, PLANES[f"Se {side}"], 34) for side in ("below", "above")]
        basis += [(x, y, 7.8, 34)] * topped
    cells = np.array([(i, j) for i in range(int(width / a)) for j in range(int(width / b))])
    flat = (np.array(basis)[None, :, :2] + cells[:, None]) * [a, b]
    z, numbers = (np.tile([atom[n] for atom in basis], len(cells)) for n in (2, 3))
    return np.column_stack([flat.reshape(-1, 2), z]), numbers.astype(int)


def scan(sheet: tuple[np.ndarray, np.ndarray], grid: ScanGrid, window: tuple[int, int],
         backend: Backend) -> Signals:  # fmt: skip
    positions, numbers = sheet
    height = float(positions[:, 2].max()) + 2
    settings = StemMultislice(window)
    return scan_detectors(
        positions[None], numbers, height, grid, PROBE, (DETECTOR,), settings, backend
    )


def count_points() -> int:
    """Probes that hpctem passes for the image."""
    return plan_scan((0, 0, FIELD, FIELD), ENERGY, SEMIANGLE, SAMPLING).points


def upsample(values: np.ndarray, grid: ScanGrid, backend: Backend) -> Any:
    """All pixels of the image out of the Nyquist points."""
    picture = picture_of_scan(values, grid, backend)
    at = grid.margin * grid.spacing[0] + np.arange(PIXELS) * FIELD / PIXELS
    lines = np.stack([np.zeros(PIXELS), at], axis=-1)[None]
    return gather_points(picture, lines, np.stack([at, np.zeros(PIXELS)], axis=-1), backend)


def make_hpctem(points: int, backend: Backend) -> dict[str, tuple[Work, int]]:
    """Every step as a call, and for how many probes or images it works.

    Probes come in one tile, potential included.
    """
    topped, monolayer = make_sheet(60.0, True), make_sheet(60.0, False)
    grid = ScanGrid((25.0, 25.0), (points, points), (8, 8), (SAMPLING, SAMPLING))
    thickness = PLANES["Se above"] - PLANES["Se below"]
    window = choose_window(PROBE, thickness, DETECTOR.outer, (SAMPLING, SAMPLING))
    whole = plan_scan((0, 0, FIELD, FIELD), ENERGY, SEMIANGLE, SAMPLING)
    values = np.random.default_rng(0).uniform(0, 0.02, whole.shape).astype(np.float32)
    large = WINDOW, WINDOW
    return {
        "probe, 512 px, 4 slices": (lambda: scan(topped, grid, large, backend), points**2),
        "probe, 512 px, monolayer": (lambda: scan(monolayer, grid, large, backend), points**2),
        f"probe, {window[0]} px, monolayer": (
            lambda: scan(monolayer, grid, window, backend), points**2,
        ),
        "upsampling to 1024 px": (lambda: upsample(values, whole, backend), 1),
    }  # fmt: skip


def make_abtem(batch: int | str) -> dict[str, tuple[Work, int]]:
    """The same probes in abTEM, on a periodic cell as wide as the window, the potential built."""
    import abtem
    import ase
    import dask

    abtem.config.set({"fft": "fftw", "fftw.threads": 1, "num_workers": 1})
    abtem.config.set({"diagnostics.progress_bar": False})
    dask.config.set(scheduler="single-threaded")
    works: dict[str, tuple[Work, int]] = {}
    points = 6
    for name, topped in (("probe, 512 px, 4 slices", True), ("probe, 512 px, monolayer", False)):
        positions, numbers = make_sheet(WINDOW * SAMPLING, topped)
        side, planes = WINDOW * SAMPLING, np.unique(positions[:, 2])
        atoms = ase.Atoms(numbers, positions + np.array([0, 0, 1e-3 - planes[0]]), pbc=True,
                          cell=(side, side, np.ptp(planes) + 2))  # fmt: skip
        potential = abtem.Potential(
            atoms, gpts=WINDOW, slice_thickness=(*np.diff(planes), 2.0), projection="infinite"
        ).build(lazy=False)
        beam = abtem.Probe(energy=ENERGY, semiangle_cutoff=1e3 * SEMIANGLE)
        beam.grid.match(potential)
        step = 8 * SAMPLING * points
        places = abtem.GridScan(start=(5, 5), end=(5 + step, 5 + step), gpts=(points, points))
        detector = abtem.AnnularDetector(1e3 * DETECTOR.inner, 1e3 * DETECTOR.outer)

        def work(beam=beam, potential=potential, places=places, detector=detector) -> Any:
            return beam.scan(
                potential, scan=places, detectors=detector, max_batch=batch, lazy=False
            )

        works[name] = work, points**2
    return works


def time_steps(points: int, repeats: int, backend: Backend, with_abtem: bool) -> dict[str, Any]:
    """CPU seconds of every step per probe or image, and of the whole image."""
    ours = make_hpctem(points, backend)
    theirs = {batch: make_abtem(batch) for batch in ("auto", 1)} if with_abtem else {}
    table: dict[str, dict[str, float]] = {}
    for name, (work, count) in ours.items():
        runners = {"hpctem": (work, count)}
        runners |= {f"abtem {b}": works[name] for b, works in theirs.items() if name in works}
        times = race({code: runner[0] for code, runner in runners.items()}, repeats)
        table[name] = {code: times[code] / runner[1] for code, runner in runners.items()}
    upsampling = table["upsampling to 1024 px"]["hpctem"]
    names = [name for name in table if name.endswith("monolayer")]
    for name, title in zip(names, ("512 px windows", "default windows"), strict=True):
        row = {"hpctem": count_points() * table[name]["hpctem"] + upsampling}
        for batch in theirs:
            row[f"abtem {batch}"] = PIXELS**2 * table[names[0]][f"abtem {batch}"]
        table[f"image, 1024 px, {title}"] = row
    return table


def measure_errors(backend: Backend) -> dict[str, float]:
    """Of the default window against one of 40 A, and of upsampling, over the contrast."""
    sheet = make_sheet(80.0, False)
    thickness = PLANES["Se above"] - PLANES["Se below"]
    window = choose_window(PROBE, thickness, DETECTOR.outer, (SAMPLING, SAMPLING))
    few = ScanGrid((38.0, 38.0), (4, 4), (14, 14), (SAMPLING, SAMPLING))
    found, wide = (scan(sheet, few, w, backend).values for w in (window, (800, 800)))
    grid = plan_scan((36.0, 36.0, 42.0, 42.0), ENERGY, SEMIANGLE, SAMPLING)
    fine = ScanGrid((36.1, 36.2), (14, 14), (8, 8), (SAMPLING, SAMPLING))
    exact = scan(sheet, fine, window, backend).values[0]
    picture = picture_of_scan(scan(sheet, grid, window, backend).values[0], grid, backend)
    x, y = (fine.origin[n] - grid.origin[n] + np.arange(14) * 0.4 for n in (0, 1))
    lines, columns = np.stack([0 * y, y], axis=-1)[None], np.stack([x, 0 * x], axis=-1)
    image = gather_points(picture, lines, columns, backend)
    return {
        "window": float(np.abs(found - wide).max() / np.ptp(exact)),
        "upsampling": float(np.abs(image - exact).max() / np.ptp(exact)),
    }


def print_steps(steps: dict[str, dict[str, float]]) -> None:
    print(f"\n{'':34} {'hpctem':>10} {'abTEM':>10} {'one by one':>11} {'ratio':>7} {'asked':>7}")
    for name, times in steps.items():
        line = f"{name:34} {times['hpctem']:9.5f}s"
        if "abtem auto" in times:
            best = min(times["abtem auto"], times["abtem 1"])
            line += f" {times['abtem auto']:9.4f}s {times['abtem 1']:10.4f}s"
            line += f" {best / times['hpctem']:7.1f}"
            line += f" {ASKED[name]:7.1f}" if name in ASKED else ""
        print(line, flush=True)


def main() -> None:
    """Print the tables; with --json also write them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--points", type=int, default=24, help="along each side of the scan")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--no-abtem", action="store_true")
    options = parser.parse_args()
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})  # one core, whoever starts threads
    backend = select_backend("cpu")
    print(
        f"{count_points()} probes for {PIXELS**2} pixels, {backend.fft_provider}, "
        f"{platform.processor() or platform.machine()}"
    )
    steps = time_steps(options.points, options.repeats, backend, not options.no_abtem)
    print_steps(steps)
    errors = measure_errors(backend)
    for name, error in errors.items():
        print(f"error of the {name:21} {error:10.1e}")
    if options.json:
        options.json.write_text(json.dumps({"steps": steps, "errors": errors}, indent=1))


if __name__ == "__main__":
    main()
