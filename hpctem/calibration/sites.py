"""Calibrations that are kept, a file for each site, so that plans can be made anywhere."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from hpctem.calibration.calibrate import Calibration
from hpctem.calibration.estimate import distance
from hpctem.calibration.machine import Machine
from hpctem.calibration.measure import Storage
from hpctem.calibration.roofline import Roofs
from hpctem.calibration.workload import Work, choose_steps
from hpctem.errors import ConfigError, MachineError
from hpctem.sections.common import nearest

FORMAT = "hpctem-calibration-1"
# Of calibrations that do not say it.
FIRST_TECHNIQUE = "hrtem"
SITE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")


def calibrations_folder() -> Path:
    """Where calibrations are kept: ~/.config/hpctem/calibrations, or under XDG_CONFIG_HOME."""
    home = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
    return Path(home, "hpctem", "calibrations")


def site_path(site: str) -> Path:
    """The file of a site; raises ConfigError for a name that is no file name."""
    if not SITE.fullmatch(site):
        raise ConfigError(
            f"the site {site!r} is no name: letters, digits, '_', '.' and '-', 64 at most"
        )
    return calibrations_folder() / f"{site}.json"


def keep_calibration(site: str, calibration: Calibration) -> Path:
    """Add a calibration to a site's file, in the place of one of the same campaign's cost.

    Raises ConfigError for a bad name or a file that is no list of calibrations, MachineError when
    it cannot be written.
    """
    path = site_path(site)
    kept = read_calibrations(site) if path.exists() else []
    kept = [other for other in kept if identify(other) != identify(calibration)]
    text = json.dumps(
        {"format": FORMAT, "calibrations": [describe(c) for c in (*kept, calibration)]}, indent=1
    )
    temporary = path.with_name(path.name + ".tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(text)
        os.replace(temporary, path)
    except OSError as error:
        raise MachineError(f"cannot keep the calibration {path}: {error.strerror}") from error
    return path


def identify(calibration: Calibration) -> tuple[str, str, int]:
    """What a later calibration replaces: campaigns of one cost, a device, a number of ranks."""
    return calibration.signature, calibration.machine.device, calibration.ranks


def read_calibrations(site: str) -> list[Calibration]:
    """All calibrations of a site.

    Raises ConfigError that says how to make one when there is none, or that the file is damaged.
    """
    path = site_path(site)
    try:
        document = json.loads(path.read_text())
        if document["format"] != FORMAT or not document["calibrations"]:
            raise ValueError(document["format"])
        return [rebuild(described) for described in document["calibrations"]]
    except FileNotFoundError:
        known = sorted(p.stem for p in calibrations_folder().glob("*.json"))
        raise ConfigError(
            f"there is no calibration of site {site!r}{nearest(site, known)} "
            f"(kept: {', '.join(known) or 'none'}); on a node of that machine run "
            f"'hpctem plan CONFIG --site {site} --calibrate', under mpirun with as many ranks as "
            "a node is to have"
        ) from None
    except OSError as error:
        raise ConfigError(f"the calibration {path} cannot be read: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, AttributeError, ImportError) as error:
        raise ConfigError(
            f"{path} holds no calibrations of this version; delete it and calibrate again"
        ) from error


def choose_calibration(
    calibrations: Sequence[Calibration], work: Work, signature: str
) -> Calibration:
    """The one whose campaign is most like that work.

    Of several alike that of a GPU, which `--device auto` takes, then the one with most ranks.
    Raises ConfigError where none is of a campaign of the same steps.
    """
    fitting = [one for one in calibrations if one.work.family == work.family]
    if not fitting:
        families = sorted({one.work.family for one in calibrations})
        raise ConfigError(
            f"the calibrations of this site are of {' and '.join(families)} campaigns, which tell "
            f"nothing of a campaign of {work.family}; run 'hpctem plan CONFIG --site SITE "
            "--calibrate' with this one there"
        )

    def rank(one: Calibration) -> tuple[float, bool, int]:
        return distance(one, work, signature), one.machine.by_lines, -one.ranks

    return min(fitting, key=rank)


def describe(calibration: Calibration) -> dict[str, Any]:
    """A calibration as plain data for JSON."""
    plain = asdict(calibration) | {"technique": calibration.work.technique}
    plain["transforms"] = [[*shape, s] for shape, s in sorted(calibration.transforms.items())]
    return plain


def rebuild(described: Mapping[str, Any]) -> Calibration:
    """The calibration that `describe` described; raises what a missing or foreign key raises."""
    values = dict(described)
    steps = choose_steps(values.pop("technique", FIRST_TECHNIQUE))
    values["work"] = steps.rebuild_work(values["work"])
    values["machine"] = Machine(**values["machine"])
    values["storage"] = Storage(**values["storage"])
    values["roofs"] = Roofs(**values.get("roofs", {}))
    values["transforms"] = {tuple(shape): s for *shape, s in values["transforms"]}
    return Calibration(**values)
