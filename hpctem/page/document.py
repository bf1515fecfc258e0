"""The whole page: from databases to one file of HTML that needs nothing else."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from importlib import resources
from pathlib import Path

import hpctem
from hpctem.database.reader import open_database
from hpctem.database.verify import Verification, verify
from hpctem.errors import ConfigError
from hpctem.page import records, sections
from hpctem.page.markup import Html, join, tag
from hpctem.page.survey import Survey, group_campaigns, survey_campaign

# Nothing is fetched and nothing runs, whatever stands in the database.
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
SECTIONS: tuple[tuple[str, str, Callable[[Survey], Html]], ...] = (
    ("images", "Images and masks", sections.write_images),
    ("drawn", "What was asked and what was drawn", sections.write_draws),
    ("defects", "Point defects", sections.write_defects),
    ("outcomes", "What came out", sections.write_outcomes),
    ("spectra", "Power spectra", sections.write_spectra),
    ("checks", "Checks", records.write_checks),
    ("quarantine", "Quarantined structures", records.write_quarantine),
    ("pace", "Throughput", records.write_pace),
    ("fixed", "Fixed values", sections.write_fixed),
    ("provenance", "Provenance", records.write_provenance),
)


def write_report(paths: Sequence[Path], target: Path, check: bool = False) -> Path:
    """Write the report of one or several databases as one HTML file; returns `target`.

    Volumes of one campaign are one part of the page, campaigns a part each. With `check` every row
    is verified first.

    Raises ConfigError for a target that is no page of HTML or one of the databases, and for a
    database that is named twice, DatabaseError when one cannot be read, OSError when the page
    cannot be written.
    """
    _check_target(paths, target)
    surveys = survey_databases(paths, check)
    parts = [write_campaign(found, f"campaign-{k}") for k, found in enumerate(surveys, start=1)]
    # A file's name may hold bytes that are no UTF-8.
    target.write_text(write_page(parts), encoding="utf-8", errors="replace")
    return target


def _check_target(paths: Sequence[Path], target: Path) -> None:
    """Nothing but a page is ever written over."""
    if target.suffix.lower() not in (".html", ".htm"):
        raise ConfigError(f"{target.name}: a report is a page of HTML; end its name with .html")
    if target.exists() and any(path.exists() and path.samefile(target) for path in paths):
        raise ConfigError(f"{target} is one of the databases: name another file with -o")


def survey_databases(paths: Sequence[Path], check: bool) -> list[Survey]:
    """What the page says of each campaign among the databases."""
    if len({path.resolve() for path in paths}) < len(paths):
        raise ConfigError("a database is named twice; name each once")
    checked: dict[Path, Verification | None] = {
        path: verify(path) if check else None for path in paths
    }
    with ExitStack() as held:
        databases = [held.enter_context(open_database(path)) for path in paths]
        return [
            survey_campaign(group, [checked[database.path] for database in group])
            for group in group_campaigns(databases)
        ]


def list_sections(found: Survey) -> list[tuple[str, str, Callable[[Survey], Html]]]:
    """The sections that have something to say of a campaign."""
    return [part for part in SECTIONS if part[0] != "defects" or found.defects]


def write_campaign(found: Survey, prefix: str) -> tuple[str, Html]:
    """Title and markup of one campaign's part of the page; anchors begin with `prefix`."""
    name, shown = found.config.campaign.name, list_sections(found)
    links = tag(
        "nav",
        (tag("a", title, href=f"#{prefix}-{key}") for key, title, _ in shown),
        aria_label=f"Sections of {name}",
    )
    head = tag(
        "header",
        tag("p", "Campaign report", class_="kicker"),
        tag("h1", name),
        [tag("p", found.config.campaign.description)] if found.config.campaign.description else [],
        sections.write_facts(found),
        links,
    )
    body = (
        tag("section", tag("h2", title), write(found), id=f"{prefix}-{key}", class_=f"about-{key}")
        for key, title, write in shown
    )
    return name, tag("main", head, body)


def write_page(parts: Sequence[tuple[str, Html]], kind: str = "campaign report") -> str:
    """The document around its parts, each with its name; kind: what it is, for its title."""
    title = ", ".join(name for name, _ in parts)
    style = resources.files("hpctem.page").joinpath("style.css").read_text(encoding="utf-8")
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=POLICY),
        tag("meta", name_="viewport", content="width=device-width, initial-scale=1"),
        tag("title", f"{title}: {kind}"),
        tag("style", Html(style)),
    )
    foot = tag("footer", f"Made by hpctem {hpctem.__version__}.")
    body = tag("body", join(part for _, part in parts), foot)
    return f"<!DOCTYPE html>\n{tag('html', head, body, lang='en')}\n"
