"""What was read and measured, as lines of text for a terminal."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from hpctem.micrographs.fit import Proposal
from hpctem.micrographs.known import KnownLattice
from hpctem.micrographs.measure import Measured
from hpctem.micrographs.read import Micrograph
from hpctem.micrographs.spectra import find_spots
from hpctem.report import format_quantity

SPOTS_SHOWN = 6
Row = tuple[str, str]


def describe_micrograph(
    micrograph: Micrograph,
    image: np.ndarray,
    measured: Measured,
    known: KnownLattice | None,
    limit: float,
) -> list[Row]:
    """Names and texts: what the file says, then what the image (ny, nx) says.

    image: the rows that were measured. limit: the frequency up to which spots were looked for.
    """
    rows = [*_describe_file(micrograph), *_describe_intensity(image, measured)]
    if measured.lattice is None:
        return rows + _describe_spots(image, micrograph, limit)
    rows += [*_describe_streaks(measured), *_describe_lattice(measured, micrograph, known)]
    return rows + _describe_lines(measured, _true_pixel(measured, micrograph, known))


def format_rows(rows: Sequence[Row]) -> str:
    """Names in one column, texts beside them."""
    width = max(len(name) for name, _ in rows) + 2
    return "\n".join(f"  {name:<{width}}{text}" for name, text in rows)


def format_proposal(proposal: Proposal) -> str:
    """What was measured and how, what was assumed, and what one image cannot say."""
    numbers = [_format_number(f.value, f.error, f.unit) for f in proposal.findings]
    names = max(len(f.name) for f in proposal.findings) + 2
    wide = max(map(len, numbers)) + 2
    lines = ["Measured:"]
    lines += [
        f"  {found.name:<{names}}{number:<{wide}}{found.how}"
        for found, number in zip(proposal.findings, numbers, strict=True)
    ]
    if proposal.assumed:
        lines += ["", "Assumed:", *(f"  - {line}" for line in proposal.assumed)]
    lines += ["", "Cannot be identified from one image:"]
    return "\n".join([*lines, *(f"  - {line}" for line in proposal.unidentified)])


def _describe_file(micrograph: Micrograph) -> list[Row]:
    ny, nx = micrograph.image.shape
    size = f"{nx} x {ny} pixels"
    rows = [("title", micrograph.title)]
    if micrograph.pixel_size is None:
        rows += [("size", size), ("pixel size", "not in the file; give --pixel-size 13.4pm")]
    else:
        dy, dx = micrograph.pixel_size
        rows.append(("size", f"{size}, {nx * dx / 10:.4g} x {ny * dy / 10:.4g} nm"))
        square = math.isclose(dx, dy, rel_tol=1e-4)
        rows.append(
            (
                "pixel size",
                f"{100 * dx:.4g} pm" if square else f"{100 * dx:.4g} x {100 * dy:.4g} pm",
            )
        )
    energy = micrograph.energy
    rows.append(("energy", format_quantity(energy, "eV") if energy else "not in the file"))
    source = micrograph.source
    units = {"semiangle": "rad", "current": "pA", "dwell time": "us", "line time": "us"}
    rows += [
        (name, format_quantity(source[name], unit))
        for name, unit in units.items()
        if name in source
    ]
    if "detector" in source:
        angles = source.get("collection")
        between = f", {1e3 * angles[0]:.3g} to {1e3 * angles[1]:.3g} mrad" if angles else ""
        rows.append(("detector", f"{source['detector']}{between}"))
    if "date" in source:
        rows.append(("date", str(source["date"])))
    return rows


def _describe_intensity(image: np.ndarray, measured: Measured) -> list[Row]:
    low, middle, high = np.percentile(image, (1, 50, 99))
    noise = measured.noise
    rows = [
        ("intensity", f"{image.min():.7g} to {image.max():.7g}, mean {measured.mean:.7g}"),
        ("", f"1 %, 50 %, 99 %: {low:.7g}, {middle:.7g}, {high:.7g}"),
        ("noise", f"{math.sqrt(noise.variance):.4g} a pixel (standard deviation)"),
    ]
    if not 0.8 < noise.whiteness < 1.25:
        rows.append(
            ("", f"not white along the rows: {noise.whiteness:.2f} times the power at the end")
        )
    if noise.grows:
        counted = (measured.mean - noise.zero) / noise.gain
        rows.append(
            (
                "if it is counting",
                f"{noise.gain:.4g} units an electron, zero at {noise.zero:.7g}, "
                f"{counted:.3g} electrons a pixel",
            )
        )
    return rows


def _describe_streaks(measured: Measured) -> list[Row]:
    streaks = measured.streaks
    if streaks is None or not streaks.seen:
        return []
    told = ", ".join(f"{value:.2f}" for value in streaks.correlations)
    return [("streaks", f"noise 1, 2, 3 pixels apart along a line is correlated by {told}")]


def _describe_lattice(
    measured: Measured, micrograph: Micrograph, known: KnownLattice | None
) -> list[Row]:
    lattice, distortion = measured.lattice, measured.distortion
    assert lattice is not None
    first, second = lattice.vectors
    sizes = [float(np.hypot(*vector)) for vector in (first, second)]
    rows = [
        (
            "lattice",
            f"a1 = {sizes[0]:.3f} pixels at {_degrees(first)}, a2 = {sizes[1]:.3f} at "
            f"{_degrees(second)}, {math.degrees(lattice.angle):.2f}° between them",
        )
    ]
    if micrograph.pixel_size is not None:
        scale = np.array(micrograph.pixel_size[::-1])
        lengths = [float(np.hypot(*(vector * scale))) for vector in (first, second)]
        rows.append(("  by the file's pixel", f"a1 = {lengths[0]:.4f} Å, a2 = {lengths[1]:.4f} Å"))
    rows.append(
        ("  spots", f"{len(lattice.indices)}, {100 * lattice.explained:.0f} % of all found")
    )
    pixel = _true_pixel(measured, micrograph, known)
    if distortion is None:
        rows.append(("  distortion", "neither hexagonal nor square: not told from the shape alone"))
    else:
        _, contraction, shear = measured.distortion_errors
        rows.append(
            (
                "  distortion",
                f"contraction {distortion.contraction:+.4f} ± {contraction:.4f}, shear "
                f"{distortion.shear:+.4f} ± {shear:.4f}, against {measured.symmetry}",
            )
        )
    if known is not None and distortion is not None:
        error = 100 * distortion.pixel_size * measured.distortion_errors[0]
        rows.append(
            ("pixel by the lattice", f"{100 * distortion.pixel_size:.4g} ± {error:.2g} pm along x")
        )
        if micrograph.pixel_size is not None:
            ratio = distortion.pixel_size / micrograph.pixel_size[1]
            rows.append(("", f"{100 * (ratio - 1):+.1f} % of the file's"))
            if not 0.8 < ratio < 1.25:
                rows.append(("", "far from the file's: is this the right crystal?"))
    longest = int(np.argmax(np.linalg.norm(lattice.places, axis=1)))
    h, k = (int(n) for n in lattice.indices[longest])
    length = 1 / float(np.hypot(*lattice.places[longest]))
    told = f", {length * pixel:.3f} Å" if pixel else ""
    rows.append(("resolution", f"{length:.2f} pixels{told}: spot ({h} {k}) is the finest seen"))
    if measured.signal_to_noise is not None:
        rows.append(
            ("lattice over noise", f"{measured.signal_to_noise:.3g} (standard deviations, a pixel)")
        )
    return rows


def _describe_lines(measured: Measured, pixel: float | None) -> list[Row]:
    lines = measured.lines
    if lines is None:
        return []

    def told(value: float, error: float) -> str:
        text = f"{value:.3f} ± {error:.3f} pixels"
        return f"{text}, {100 * value * pixel:.2g} pm" if pixel else text

    rows = [("line jitter", told(lines.jitter, lines.errors[0]))]
    if lines.flagging > 0:
        text = told(lines.flagging, lines.errors[1])
        rows.append(("flagging", f"{text}, over {lines.flagging_lines:.0f} lines"))
    return rows


def _describe_spots(image: np.ndarray, micrograph: Micrograph, limit: float) -> list[Row]:
    places, contrasts = find_spots(image, limit)
    rows = [("lattice", "none found: no spots that repeat in two directions")]
    scale = np.array(micrograph.pixel_size[::-1]) if micrograph.pixel_size else None
    for place, contrast in list(zip(places, contrasts, strict=True))[:SPOTS_SHOWN]:
        spacing = f"{1 / np.hypot(*place):.2f} pixels"
        if scale is not None:
            spacing += f", {1 / np.hypot(*(place / scale)):.3f} Å"
        rows.append(("  fringes of", f"{spacing}, {contrast:.0f} times the noise about them"))
    return rows


def _true_pixel(
    measured: Measured, micrograph: Micrograph, known: KnownLattice | None
) -> float | None:
    """A along x: by the lattice where that is known, else by the file."""
    if known is not None and measured.distortion is not None:
        return measured.distortion.pixel_size
    return micrograph.pixel_size[1] if micrograph.pixel_size else None


def _degrees(vector: np.ndarray) -> str:
    return f"{math.degrees(math.atan2(vector[1], vector[0])):.1f}°"


def _format_number(value: float, error: float | None, unit: str) -> str:
    if error is None or not (error > 0 and math.isfinite(error)):
        return f"{value:.4g} {unit}".strip()
    places = min(6, max(0, 1 - math.floor(math.log10(error))))
    return f"{value:.{places}f} ± {error:.{places}f} {unit}".strip()
