"""What is wrong with a STEM campaign as a whole, found before any work."""

from __future__ import annotations

import numpy as np

from hpctem.backend import select_backend
from hpctem.config import StemConfig
from hpctem.errors import ConfigError
from hpctem.optics.annuli import check_angles
from hpctem.optics.cross_sections import question_angles
from hpctem.optics.electron import wavelength
from hpctem.optics.point_spread import tabulated_transfer
from hpctem.optics.scattering_factors import check_elements
from hpctem.stem.experiment import Experiment
from hpctem.structures import phonons, sheets

# Thickness in A up to which atoms along the beam scatter nearly as each would alone: a cell or so.
ALONE = 5.0
# Atomic number above which, and sampling in A up to which, multislice of an atom is converged.
HEAVY, FINE = 40, 0.035


def check_campaign(config: StemConfig) -> None:
    """Check before any work what no sample could mend; raises ConfigError.

    Keys that the method needs or cannot use, detectors within reach of sampling and tables, a
    crystal that can be built and that the field of view holds.
    """
    _check_keys(config)
    experiment = Experiment(config, select_backend("cpu"))
    _check_field(experiment)
    sheets.check_sheet(config.structure, experiment.view)
    elements = np.array(sheets.list_elements(config.structure), dtype=np.uint8)
    check_elements(elements, config.simulation.parametrization, _largest_frequency(config))
    simulation = config.simulation
    if simulation.phonons is not None:
        phonons.check_displacements(elements, experiment.rms, "simulation.phonons.rms")
    if simulation.debye_waller is not None:
        phonons.check_displacements(elements, experiment.rms, "simulation.debye_waller")
    _check_files(experiment)


def _check_files(experiment: Experiment) -> None:
    """Read the micrographs of contamination and the point spread function; raises ConfigError."""
    _ = experiment.films
    if experiment.point_spread is not None:
        tabulated_transfer(*experiment.point_spread)


def _check_field(experiment: Experiment) -> None:
    for name, given, least in zip("xy", experiment.field, experiment.least_field, strict=True):
        if given < least * (1 - 1e-9):
            raise ConfigError(
                f"structure.field: {given:g} A along {name} is too small for scans and probes "
                f"that reach over {least:.4g} A; enlarge it or leave it out"
            )


def list_warnings(config: StemConfig) -> list[str]:
    """What a campaign may be doubted for although it can be computed."""
    probe, simulation = config.imaging.probe, config.simulation
    if simulation.method == "multislice":
        doubt = _question_sampling(config)
        return [f"simulation.sampling: {doubt}"] if doubt else []
    if probe is None or simulation.method != "incoherent":
        return []
    widest = probe.semiangle_cutoff.support[1]
    doubts: dict[str, str | None] = {
        f"imaging.detectors.{name}": question_angles(detector.inner, widest)
        for name, detector in config.imaging.detectors.items()
    }
    doubts["structure.thickness"] = _question_thickness(config)
    if config.structure.layers.count.support[1] > 1:
        doubts["structure.layers"] = (
            "where several layers have atoms behind each other, the incoherent method knows what "
            "neighbouring ones do to each other but not the whole column: columns of 2H-WSe2 and "
            "2H-MoS2 of two layers are 5 to 25 % off; use multislice where intensities matter."
        )
    return [f"{key}: {doubt}" for key, doubt in doubts.items() if doubt]


def _question_sampling(config: StemConfig) -> str | None:
    """Whether the pixels are too coarse for the cores of heavy atoms; None if not."""
    heaviest = max(sheets.list_elements(config.structure))
    sampling = config.simulation.sampling
    if heaviest <= HEAVY or sampling <= FINE:
        return None
    return (
        f"{sampling:g} A is coarse for the cores of heavy atoms: in WSe2 at 80 kV (63 to 200 mrad) "
        f"columns of W are 8 % too bright with 0.05 A and 18 % with 0.068 A, and right to 3 % with "
        f"0.034 A"
    )


def _question_thickness(config: StemConfig) -> str | None:
    """Whether the incoherent method is used beyond where it holds; None if not."""
    thickness = config.structure.thickness
    if thickness is None or thickness.support[1] <= ALONE:
        return None
    return (
        f"columns of atoms guide the beam, which the incoherent method does not have: in SrTiO3 of "
        f"1.2 nm along [001] at 200 kV its images have 30 % too little signal, of 5 to 10 nm 45 %, "
        f"and single columns are up to 75 % off; this one is up to {thickness.support[1] / 10:.3g} "
        f"nm thick, so use multislice where intensities matter."
    )


def _check_keys(config: StemConfig) -> None:
    simulation, imaging = config.simulation, config.imaging
    method = simulation.method
    if method == "convolution":
        if simulation.convolution is None:
            raise ConfigError("simulation.convolution: the method convolution needs this section")
        if imaging.probe is not None:
            raise ConfigError(
                "imaging.probe: the convolution method has no probe but the width of "
                "simulation.convolution; leave it out"
            )
    else:
        if imaging.probe is None:
            raise ConfigError(f"imaging.probe: the method {method} needs a probe")
        if not imaging.detectors:
            raise ConfigError(
                "imaging.detectors: name at least one, as 'adf: {inner: 63 mrad, outer: 200 mrad}'"
            )
    if imaging.beam is None:
        _check_without_beam(config)
    if method == "convolution" and not imaging.detectors:
        for key, given in (("beam", imaging.beam), ("contamination", imaging.contamination)):
            if given is not None:
                raise ConfigError(
                    f"imaging.{key}: Z^exponent alone is on no scale of electrons; name a detector "
                    "in imaging.detectors, for which carbon's cross section gives the scale"
                )
    if method != "multislice":
        _check_incoherent(config)
    else:
        first = next(iter(imaging.detectors))
        if imaging.detectors[first].segments > 1:
            raise ConfigError(
                f"imaging.detectors.{first}.segments: the first detector gives the images and has "
                "one segment; name another one first"
            )
        for detector in imaging.detectors.values():
            check_angles(simulation.energy, simulation.sampling, detector.outer)
    if config.storage.diffraction:
        _check_diffraction(config)
    _check_contamination(config)


def _check_diffraction(config: StemConfig) -> None:
    """Diffraction patterns are on one grid of points and angles throughout the campaign."""
    if config.simulation.method != "multislice":
        raise ConfigError("storage.diffraction: only the method multislice has diffraction")
    if config.simulation.window is None:
        raise ConfigError(
            "simulation.window: give it where storage.diffraction keeps the patterns, whose angles "
            "its width decides"
        )
    probe = config.imaging.probe
    assert probe is not None
    for name in ("semiangle_cutoff", "source_size"):
        low, high = getattr(probe, name).support
        if low != high:
            raise ConfigError(
                f"imaging.probe.{name}: it decides the points of the scan and must be one number "
                "where storage.diffraction keeps the pattern of each"
            )


def _check_without_beam(config: StemConfig) -> None:
    """Noise-free images know neither counts nor times."""
    imaging = config.imaging
    if imaging.detector.model_fields_set:
        raise ConfigError(
            "imaging.detector: without imaging.beam images are noise-free and nothing is counted; "
            "give 'beam' or leave 'detector' out"
        )
    drift = imaging.scan.drift
    timed = {
        "flyback": imaging.scan.flyback is not None,
        "drift": max(map(abs, (*drift.x.support, *drift.y.support))) > 0,
    }
    for key, given in timed.items():
        if given:
            raise ConfigError(
                f"imaging.scan.{key}: it takes the dwell time, which imaging.beam gives; without a "
                "beam there is none"
            )


def _check_incoherent(config: StemConfig) -> None:
    simulation, imaging = config.simulation, config.imaging
    if len(imaging.detectors) > 1:
        raise ConfigError(
            f"imaging.detectors: the method {simulation.method} has one detector, not "
            f"{len(imaging.detectors)}; several are for the method multislice"
        )
    for name, detector in imaging.detectors.items():
        if detector.segments > 1:
            raise ConfigError(
                f"imaging.detectors.{name}.segments: the method {simulation.method} cannot tell "
                "them apart; use the method multislice"
            )
        if imaging.probe is None:
            continue
        widest = imaging.probe.semiangle_cutoff.support[1]
        if detector.inner < widest * (1 - 1e-9):
            raise ConfigError(
                f"imaging.detectors.{name}.inner: {1e3 * detector.inner:g} mrad lies within the "
                f"probe's {1e3 * widest:g} mrad: the direct beam falls on the detector, and its "
                "images are not incoherent; use the method multislice or a larger angle"
            )


def _check_contamination(config: StemConfig) -> None:
    imaging = config.imaging
    if imaging.contamination is None or imaging.probe is None:
        return
    widest = imaging.probe.semiangle_cutoff.support[1]
    for name, detector in imaging.detectors.items():
        if detector.inner < widest * (1 - 1e-9):
            raise ConfigError(
                f"imaging.contamination: carbon adds to what dark-field detectors collect; {name} "
                f"begins at {1e3 * detector.inner:g} mrad, within the probe's {1e3 * widest:g} mrad"
            )


def _largest_frequency(config: StemConfig) -> float:
    """The largest frequency in 1/A at which scattering factors are asked for."""
    simulation = config.simulation
    if simulation.method == "multislice":
        return 1 / (3 * simulation.sampling)
    probe = config.imaging.probe
    cone = 0.0 if probe is None else probe.semiangle_cutoff.support[1]
    angles = [detector.outer + cone for detector in config.imaging.detectors.values()]
    return max(angles, default=0.0) / wavelength(simulation.energy)
