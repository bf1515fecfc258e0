"""A campaign's imaging proposed from one image, and what one image cannot say."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from hpctem.detection.contamination import CARBON_DENSITY
from hpctem.errors import ConfigError
from hpctem.micrographs.background import cut_moments, solve_variation, spread_variation
from hpctem.micrographs.blur import Blur
from hpctem.micrographs.known import KnownLattice
from hpctem.micrographs.measure import Measured, Optics, measure
from hpctem.micrographs.read import Micrograph
from hpctem.optics.cross_sections import annular_cross_section
from hpctem.sections.stem import Imaging

ELECTRONS = 6.241509  # in 1 pA during 1 us
USUAL_SEMIANGLE = 0.030  # rad
USUAL_COLLECTION = (0.080, 0.200)  # rad
USUAL_DWELL = 20.0  # us
USUAL_VARIATION = 0.5
MOST_PIXELS = 4096
MOST_NORMAL = 6.0  # standard deviations that a normal distribution reaches


@dataclass(frozen=True)
class Finding:
    """One number: what it is, value and error in a unit for people, and how it was found."""

    name: str
    value: float
    error: float | None
    unit: str
    how: str


@dataclass(frozen=True)
class Proposal:
    """What an image proposes for a campaign.

    imaging: the keys of the campaign's section `imaging`, as YAML has them. findings: the numbers
    and where they come from. assumed: what was not in the file and not given. unidentified: what
    one image cannot say. optics: the microscope's, given, read or assumed. measured: the rest.
    """

    imaging: Mapping[str, Any]
    findings: Sequence[Finding]
    assumed: Sequence[str]
    unidentified: Sequence[str]
    optics: Optics
    measured: Measured


def propose_imaging(
    micrograph: Micrograph,
    known: KnownLattice | None = None,
    rows: tuple[int, int] | None = None,
    energy: float | None = None,
    semiangle: float | None = None,
    collection: tuple[float, float] | None = None,
) -> Proposal:
    """Measure an image (or rows a to b of it) and say under what imaging it could have been taken.

    known: the crystal, which gives pixel size, sharpness and dose their scale. energy in eV,
    semiangle and collection (inner, outer) in rad override the file's.

    Raises ConfigError where the energy or the pixel size is not known, rows are out of range, or no
    lattice is found.
    """
    optics, assumed = _settle_optics(micrograph, energy, semiangle, collection)
    if known is None and micrograph.pixel_size is None:
        raise ConfigError(
            f"{micrograph.title}: the file has no pixel size; give --pixel-size 13.4pm, or the "
            "crystal with --lattice mos2"
        )
    measured = measure(micrograph, known, rows, optics)
    if measured.lattice is None or measured.lines is None:
        raise ConfigError(
            f"no lattice is found in {micrograph.title}: its power spectrum has no spots that "
            "repeat in two directions; fit needs a crystal that fills the image (see 'hpctem "
            "inspect')"
        )
    if measured.distortion is None:
        raise ConfigError(
            f"the lattice in {micrograph.title} is neither hexagonal nor square; say which it is "
            "with --lattice, as a=3.5A,b=4.6A,angle=90deg"
        )
    imaging: dict[str, Any] = {}
    findings: list[Finding] = []
    _propose_scan(imaging, findings, measured, micrograph)
    _propose_beam(imaging, findings, assumed, measured, micrograph, optics)
    Imaging.model_validate(imaging)
    return Proposal(
        {name: imaging[name] for name in _ORDER if name in imaging},
        findings,
        assumed,
        _list_unidentified(measured, known),
        optics,
        measured,
    )


_ORDER = (
    *("pixels", "sampling", "probe", "detectors", "beam", "scan", "contamination", "detector"),
)


def write_fragment(proposal: Proposal, title: str, known: KnownLattice | None) -> str:
    """The YAML of a proposal: its section `imaging`, with comments on what is assumed."""
    energy = proposal.optics.energy
    lines = [f"# Imaging as in {title}, proposed by hpctem fit."]
    lines += [f"# Assumed: {line}." for line in proposal.assumed]
    lines.append(f"# Use it with simulation.energy: {_quantity(energy, 1e-3, 'keV')}")
    if known is not None and known.config is not None:
        keys = known.config.model_dump(exclude_defaults=True, mode="python")
        keys = {k: list(v) if isinstance(v, tuple) else v for k, v in keys.items()}
        text = yaml.safe_dump(keys, default_flow_style=True, sort_keys=False, width=1000).strip()
        lines.append(f"# and structure.material: {text}")
    text = yaml.dump(
        {"imaging": dict(proposal.imaging)},
        Dumper=_Dumper,
        sort_keys=False,
        default_flow_style=None,
        width=100,
    )
    return "\n".join(lines) + "\n" + text


class _Dumper(yaml.SafeDumper):
    """Sections as blocks, distributions on one line."""

    def represent_mapping(self, tag: str, mapping: Any, flow_style: bool | None = None) -> Any:
        node = super().represent_mapping(tag, mapping, flow_style)
        node.flow_style = any(name in mapping for name in ("normal", "mean", "inner", "uniform"))
        return node


def _settle_optics(
    micrograph: Micrograph,
    energy: float | None,
    semiangle: float | None,
    collection: tuple[float, float] | None,
) -> tuple[Optics, list[str]]:
    assumed = []
    energy = energy or micrograph.energy
    if energy is None:
        raise ConfigError(
            f"{micrograph.title}: the file does not say the electrons' energy; give --energy 60keV"
        )
    semiangle = semiangle or micrograph.source.get("semiangle")
    if semiangle is None:
        semiangle = USUAL_SEMIANGLE
        assumed.append(f"a convergence semiangle of {1e3 * semiangle:g} mrad (--semiangle)")
    collection = collection or micrograph.source.get("collection")
    if collection is None:
        collection = USUAL_COLLECTION
        inner, outer = (1e3 * angle for angle in collection)
        assumed.append(f"a detector from {inner:g} to {outer:g} mrad (--detector)")
    return Optics(energy, semiangle, collection), assumed


def _propose_scan(
    imaging: dict[str, Any], findings: list[Finding], measured: Measured, micrograph: Micrograph
) -> None:
    distortion, lines, lattice = measured.distortion, measured.lines, measured.lattice
    assert distortion is not None and lines is not None and lattice is not None
    pixel = distortion.pixel_size
    size, contraction, shear = measured.distortion_errors
    imaging["pixels"] = min(max(16, micrograph.image.shape[1]), MOST_PIXELS)
    imaging["sampling"] = _normal(pixel, pixel * size, 100, "pm", 0.01, 10)
    how = f"{measured.symmetry} lattice, {len(lattice.indices)} spots"
    findings += [
        Finding("pixel along x", 100 * pixel, 100 * pixel * size, "pm", how),
        Finding("contraction", distortion.contraction, contraction, "", how),
        Finding("shear", distortion.shear, shear, "", how),
    ]
    jitter, flagging, length = (
        pixel * lines.jitter,
        pixel * lines.flagging,
        lines.flagging_lines,
    )
    errors = (pixel * lines.errors[0], pixel * lines.errors[1], lines.errors[2])
    scan: dict[str, Any] = {
        "shear": _normal(distortion.shear, shear, 1, "", -0.3, 0.3),
        "contraction": _normal(distortion.contraction, contraction, 1, "", -0.3, 0.3),
        "jitter": _normal(jitter, errors[0], 100, "pm", 0.0, 100),
    }
    how = "covariance of the even and odd parts of lines"
    findings.append(Finding("line jitter", 100 * jitter, 100 * errors[0], "pm", how))
    if flagging > 0:
        scan["flagging"] = _normal(flagging, errors[1], 100, "pm", 0.0, 100)
        scan["flagging_lines"] = _normal(length, errors[2], 1, "", 1.0, 1e4)
        findings += [
            Finding("flagging", 100 * flagging, 100 * errors[1], "pm", f"{how}, between lines"),
            Finding("lines of flagging", length, errors[2], "", f"{how}, between lines"),
        ]
    imaging["scan"] = scan


def _propose_beam(
    imaging: dict[str, Any],
    findings: list[Finding],
    assumed: list[str],
    measured: Measured,
    micrograph: Micrograph,
    optics: Optics,
) -> None:
    noise, blur, contrast = measured.noise, measured.blur, measured.signal_to_noise
    inner, outer = optics.collection
    imaging["detectors"] = {
        "adf": {"inner": _quantity(inner, 1e3, "mrad"), "outer": _quantity(outer, 1e3, "mrad")}
    }
    imaging["probe"] = {"semiangle_cutoff": _quantity(optics.semiangle, 1e3, "mrad")}
    assert contrast is not None
    error = 0.5 * contrast * noise.error / noise.variance
    findings.append(
        Finding("lattice over noise", contrast, error, "", "standard deviations, of a pixel")
    )
    if noise.grows:
        counted = (measured.mean - noise.zero) / noise.gain
        relative = math.hypot(
            noise.gain_error / noise.gain, noise.zero_error / (measured.mean - noise.zero)
        )
        how = "growth of the noise with the intensity"
        findings += [
            Finding("units per electron", noise.gain, noise.gain_error, "", how),
            Finding("intensity without noise", noise.zero, noise.zero_error, "", how),
            Finding("electrons per pixel", counted, counted * relative, "", f"{how}, if all count"),
        ]
    if blur is None:
        return
    _propose_probe(imaging["probe"], findings, blur)
    # What the noise leaves for the film, if none of it is constant: variance = gain scale share.
    room = noise.variance / (noise.gain * blur.scale) - blur.share if noise.grows else math.inf
    film = _propose_film(imaging, findings, measured, optics, room)
    share = blur.share + film
    if noise.grows:
        beam = blur.scale / noise.gain
        relative = math.hypot(blur.scale_error / blur.scale, noise.gain_error / noise.gain)
        left = noise.variance / noise.gain**2 - beam * share
        # Less than the error of what it is left of is none.
        readout = math.sqrt(left) if left > 2 * noise.error / noise.gain**2 else 0.0
        how = "scale of the lattice over units per electron"
        if left < 0:
            # More noise than was measured: the dose that gives just as much.
            beam = blur.scale**2 * share / noise.variance
            how = "noise of the mean intensity"
    else:
        beam, readout = blur.scale**2 * share / noise.variance, 0.0
        relative = math.hypot(2 * blur.scale_error / blur.scale, noise.error / noise.variance)
        how = "noise of the mean intensity, if all of it is counting"
    findings.append(Finding("electrons of the beam per pixel", beam, beam * relative, "", how))
    dwell = micrograph.source.get("dwell time")
    if dwell is None:
        dwell = USUAL_DWELL
        assumed.append(f"a dwell time of {dwell:g} us; only its product with the current counts")
    current = beam / (dwell * ELECTRONS)
    imaging["beam"] = {
        "current": _normal(current, current * relative, 1, "pA", 1e-3, 1e6),
        "dwell_time": _quantity(dwell, 1, "us"),
    }
    if readout > 0:
        relative = 0.5 * noise.error / noise.variance
        imaging["detector"] = {"readout_noise": _round(readout)}
        findings.append(
            Finding("noise beside counting", readout, readout * relative, "e", "what is left of it")
        )


def _propose_probe(keys: dict[str, Any], findings: list[Finding], blur: Blur) -> None:
    """Add defocus and source size to the campaign's keys of the probe."""
    how = f"heights of {blur.spots} spots in {len(blur.frequencies)} rings"
    if blur.defocus > 0:
        either = f"{how}; of either sign"
        findings.append(Finding("defocus", blur.defocus, blur.defocus_error, "Å", either))
        keys["defocus"] = _normal(blur.defocus, blur.defocus_error, 1, "A", 0, 1e6)
    else:
        how = f"{how}, in focus"
    size = blur.source_size, blur.source_error
    findings += [
        Finding("source size (FWHM)", *size, "Å", how),
        Finding("  of it along x", blur.along_x, None, "Å", "the same, by direction"),
        Finding("  of it along y", blur.along_y, None, "Å", "the same, by direction"),
    ]
    keys["source_size"] = _normal(*size, 1, "A", 0, 100)


def _propose_film(
    imaging: dict[str, Any],
    findings: list[Finding],
    measured: Measured,
    optics: Optics,
    room: float,
) -> float:
    """Add contamination; returns the share of the beam that it scatters on average.

    room: the share that the measured noise leaves for it. Its variation over its mean comes from
    the skewness of the slow variations, as long as the mean then leaves that much.
    """
    slow, blur, distortion = measured.background, measured.blur, measured.distortion
    if slow is None or blur is None or distortion is None:
        return 0.0
    pixel = math.sqrt(abs(distortion.step[0, 0] * distortion.step[1, 1]))
    scatters = CARBON_DENSITY * annular_cross_section(
        6, optics.energy, *optics.collection, semiangle_cutoff=optics.semiangle
    )
    deviation = slow.deviation / blur.scale / scatters
    relative = math.hypot(slow.errors[0] / slow.deviation, blur.scale_error / blur.scale)
    how = "power below the first spots"
    told = slow.skewness > 2 * slow.errors[3] and slow.skewness > 0.1
    variation = solve_variation(slow.skewness) if told else USUAL_VARIATION
    source = "skewness of the slow variations" if told else "usual"
    average, spread, _ = cut_moments(variation)
    if 0 < room < scatters * deviation * average / spread:
        variation = spread_variation(deviation * scatters / room)
        source = "noise, which leaves no more for its mean"
        average, spread, _ = cut_moments(variation)
    # Cut at zero, the thickness varies by less than before.
    mean = deviation / spread
    shortest, longest = slow.shortest * pixel, slow.longest * pixel
    imaging["contamination"] = {
        "thickness": _normal(mean, mean * relative, 1, "A", 0, 1000),
        "variation": _normal(variation, 0.0, 1, "", 0, 10),
        "exponent": _normal(slow.exponent, slow.errors[1], 1, "", 0.0, 8.0),
        "shortest": _quantity(max(shortest, 1.0), 1, "A"),
        "longest": _quantity(max(longest, shortest, 1.0), 1, "A"),
    }
    bound = ", at least" if slow.longest_bounded else ""
    findings += [
        Finding("contamination varies by", deviation, deviation * relative, "Å of C", how),
        Finding("  its variation over mean", variation, None, "", source),
        Finding("  exponent of its spectrum", slow.exponent, slow.errors[1], "", how),
        Finding("  shortest wavelength", shortest, None, "Å", f"{how}; lost beyond"),
        Finding("  longest wavelength", longest, slow.errors[2] * pixel, "Å", f"{how}{bound}"),
        Finding(
            "power beside the first spots",
            slow.floor / measured.noise.variance,
            None,
            "of the noise's",
            "defects, moving atoms, streaks of the lines; not proposed but by jitter",
        ),
    ]
    return scatters * mean * average


def _list_unidentified(measured: Measured, known: KnownLattice | None) -> list[str]:
    """What one image cannot say, each with the reason."""
    found = [
        "the absolute dose: the detector's offset, gain and efficiency are not in the image; "
        "electrons are those that give its signal-to-noise ratio, with the assumed angles",
        "intensity that is the same everywhere (an offset, the mean thickness of contamination, "
        "the probe's tails): only what varies is seen; 'noise beside counting' makes up for it",
        "strain of the specimen against distortion of the scan: all of it is given to the scan",
        _tell_blur(measured.blur),
        "the number of frames that were averaged, and drift against shear and contraction",
        "the convergence and collection angles",
        "flagging slower than the polynomial that follows the slow distortions",
    ]
    if known is None:
        found.insert(0, "the pixel size: it is the file's; with --lattice it is measured")
    if measured.blur is None:
        found.append(
            "source size, dose and contamination in angstrom: they need the atoms of the crystal; "
            "name it with --lattice, and see that spots at two distances stand out"
        )
    streaks = measured.streaks
    if streaks is not None and streaks.seen:
        told = ", ".join(f"{value:.2f}" for value in streaks.correlations)
        found.append(
            f"where the lines' streaks come from: noise 1, 2 and 3 pixels apart along a line is "
            f"correlated by {told}; no key of a campaign draws such noise"
        )
    if not measured.noise.grows:
        found.append("counting noise against constant noise: the noise does not grow visibly")
    return found


def _tell_blur(blur: Blur | None) -> str:
    if blur is not None and blur.defocus > 0:
        return (
            "the sign of the defocus; other aberrations and focal spread from defocus, thermal "
            "motion from source size: what a Gaussian cannot give the columns is given to defocus"
        )
    least = f" of less than {blur.unseen:.0f} Å" if blur and math.isfinite(blur.unseen) else ""
    return (
        f"defocus{least}, aberrations, thermal motion and source size from one another: all that "
        "widens the columns is given to the source"
    )


def _normal(
    mean: float, std: float, factor: float, unit: str, low: float, high: float
) -> dict[str, Any] | str | float:
    """A normal distribution within the limits of its quantity, or a constant without deviation."""
    if not std > 0 or not math.isfinite(std):
        return _quantity(mean, factor, unit)
    digits = max(3, 1 + math.ceil(math.log10(max(abs(mean) / std, 1.0))) + 1)
    options = {
        "mean": _quantity(mean, factor, unit, digits),
        "std": _quantity(std, factor, unit, 2),
    }
    if mean - MOST_NORMAL * 1.1 * std < low:
        options["min"] = _quantity(low, factor, unit)
    if mean + MOST_NORMAL * 1.1 * std > high:
        options["max"] = _quantity(high, factor, unit)
    return {"normal": options}


def _quantity(value: float, factor: float, unit: str, digits: int = 4) -> str | float:
    number = _round(value * factor, digits)
    return f"{number:.10g} {unit}" if unit else number


def _round(value: float, digits: int = 4) -> float:
    return float(f"{value:.{digits}g}")
