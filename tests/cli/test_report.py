"""`show` and `report`: pictures and pages of databases in every state, safe and self-contained."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from contextlib import ExitStack
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread

from hpctem.campaign_file import read_campaign
from hpctem.database.journal import journal_folder
from hpctem.database.pace import PACE
from hpctem.database.reader import open_database
from hpctem.hrtem.conditions import DrawConditions
from hpctem.page.document import survey_databases, write_campaign, write_page, write_report
from hpctem.page.draws import read_draws
from hpctem.page.settings import list_settings
from hpctem.page.survey import group_campaigns
from hpctem.parallel import Communicator
from hpctem.sampling import Streams
from hpctem.simulate import Options, simulate

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
SMALL = Path(__file__).parents[1] / "small.yaml"
EVIL = "<script>alert(1)</script>\"'&amp;<img src=x onerror=alert(2)>"
MOST_BYTES = 6_000_000
TINY = (
    ("cell: [3.2 nm, 3.2 nm]", "cell: [1.6 nm, 1.6 nm]"),
    ("count: {choice: [1, 1, 2]}", "count: 1"),
    ("crop: 96", "crop: 64"),
    ("radius: {uniform: [5 A, 7 A]}", "radius: 5 A"),
    ("storage: {exit_waves: true, store_atoms: true}", ""),
)
BAD_DOSES = (
    "dose: {grid: [400 e/A^2, 1600 e/A^2], per: image}",
    "dose: {grid: [400 e/A^2, 400 e/A^2, 400 e/A^2, 5e6 e/A^2], per: structure}",
)


class Page(HTMLParser):
    """The elements of a page, their attributes, and its text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.words: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def all(self, *names: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.elements if name in names]


def page_of(folder: Path, *paths: Path, check: bool = False) -> Page:
    text = write_report(paths, folder / "report.html", check).read_text(encoding="utf-8")
    assert_self_contained(text)
    return Page(text)


def assert_self_contained(text: str) -> None:
    """Nothing is fetched, nothing runs, and readers without eyes or colours have all of it."""
    page = Page(text)
    assert len(text.encode()) < MOST_BYTES
    for attributes in page.all("img"):
        assert attributes["src"].startswith("data:image/") and attributes["alt"]
    for attributes in page.all("svg"):
        assert attributes["role"] == "img" and attributes["aria-label"]
    named = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(named) == len(set(named))
    assert {a["href"].removeprefix("#") for a in page.all("a")} <= set(named)
    assert all(attributes["scope"] in ("row", "col") for attributes in page.all("th"))
    assert len(page.all("caption")) == len(page.all("table"))
    assert not page.all("script", "link", "iframe", "object", "embed", "base", "form", "style[src]")
    for name, attributes in page.elements:
        assert not [key for key in attributes if key.startswith("on")], name
        places = {
            key: value for key, value in attributes.items() if key in ("src", "href", "action")
        }
        assert all(value.startswith(("data:", "#")) for value in places.values())
    [policy] = [a["content"] for a in page.all("meta") if "http-equiv" in a]
    assert policy.startswith("default-src 'none'")
    assert not re.search(r"@import|url\(|javascript:", re.sub(r'="data:[^"]*"', "", text))


@pytest.fixture(scope="module")
def bad_half(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Volumes 3 and 4 of 8 of a tiny campaign: a good structure, and one that is quarantined."""
    folder = tmp_path_factory.mktemp("bad")
    text = SMALL.read_text()
    changes = (*TINY, BAD_DOSES, ("structures: 6", "structures: 8\n  quarantine_limit: 1"))
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    (folder / "tiny.yaml").write_text(text)
    campaign = read_campaign(folder / "tiny.yaml")
    for volume, good in ((3, 1), (4, 0)):
        options = Options(volume=(volume, 8))
        _, summary = simulate(campaign, folder / "tiny.hdf5", options, Communicator())
        assert summary.good == good
    return folder


def test_a_report_is_one_page_that_needs_nothing_else(call: Callable, small: Path, tmp_path: Path):
    done = call("report", small)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "report: small.report.html\n"
    text = (tmp_path / "small.report.html").read_text(encoding="utf-8")
    assert_self_contained(text)
    page = Page(text)
    with open_database(small) as database:
        title, config_hash = database.name, database.campaign["config_hash"]
    assert f"Campaign report {title}" in page.text and config_hash in page.text
    assert "24 96 × 96 pixels, 16-bit integers" in page.text
    assert "all 6 structures are committed" in page.text
    assert "rows were not verified for this report" in page.text
    assert len(page.all("img")) == 2 * 12
    assert page.text.count("every value is the grid's at its place") == 1
    assert "in turn 400, 1600 e/Å² per image" in page.text
    assert (
        "normal, mean 0 nm, deviation 5 nm per focus" in page.text and "n = 12: agrees" in page.text
    )
    assert "imaging.focal_spread 1.5 nm" in page.text
    written = SMALL.read_text().strip()
    assert written in "".join(page.words), "the campaign file as it was written"


def test_every_draw_is_counted_once(small: Path) -> None:
    """What is compared are the draws of the campaign's own streams, each at its position."""
    from hpctem.campaign_file import reopen_campaign

    with open_database(small) as database, reopen_campaign(database) as campaign:
        config = campaign.config
        found = {d.setting.key: d for d in read_draws([database], config, list_settings(config))}
        radii = database.column("/entry/particles/radius")
        placed = database.column("/entry/structures/particles_placed")
    streams = Streams(config.campaign.seed)
    defocus, dose = [], []
    for structure in range(6):
        draw = DrawConditions(config, streams, structure)
        defocus += [draw.optics(focus)["defocus"] for focus in range(2)]
        dose += [draw.detection(image)["dose"] for image in range(4)]
    assert found["imaging.defocus"].values.tolist() == defocus
    assert found["imaging.defocus"].positions.tolist() == [0, 1] * 6
    assert found["imaging.defocus"].each == "focus"
    assert found["imaging.dose"].values.tolist() == dose
    assert found["imaging.dose"].positions.tolist() == [0, 1, 2, 3] * 6
    assert found["structure.substrate.thickness"].positions.tolist() == list(range(6))
    assert found["structure.particles.radius"].values.tolist() == radii.tolist()
    owners = np.repeat(np.arange(6), placed)
    assert found["structure.particles.radius"].positions.tolist() == owners.tolist()
    cosines = found["structure.particles.orientation"].values
    assert len(cosines) == len(radii) and np.abs(cosines).max() <= 1


def test_a_value_that_was_not_drawn_as_asked_is_named(small: Path, tmp_path: Path) -> None:
    """Doses exchanged in the file: the page says so, and --verify that rows are damaged."""
    path = Path(shutil.copy(small, tmp_path))
    shutil.copytree(journal_folder(small), journal_folder(path))
    with open_database(path) as database:
        place = database.offsets["/entry/metadata/dose"]
    with open(path, "r+b") as stream:
        stream.seek(place)
        stream.write(np.array([1600.0, 400.0]).tobytes())
    page = page_of(tmp_path, path, check=True)
    assert "n = 24: departs, 2 of 24 values are not the grid's at their place" in page.text
    assert re.search(r"\b1 of \d+ values were not drawn as asked: imaging\.dose\b", page.text)
    assert re.search(r"rows verified for this report, 2 are damaged", page.text)
    signs = [a["aria-label"] for a in page.all("span") if a.get("class") == "sign"]
    assert signs.count("no") == 2


def test_a_whole_database_passes_all_checks(small: Path, tmp_path: Path) -> None:
    page = page_of(tmp_path, small, check=True)
    signs = [a["aria-label"] for a in page.all("span") if a.get("class") == "sign"]
    assert signs == ["yes"] * 5
    assert "none is damaged" in page.text and "bytes outside the rows are intact" in page.text


def test_the_pace_of_the_job_is_shown_from_its_sidecar(small: Path, tmp_path: Path) -> None:
    looks = (journal_folder(small) / PACE).read_text().splitlines()
    assert json.loads(looks[-1])["computed"] == [6]
    assert "images/s" in page_of(tmp_path, small).text
    alone = Path(shutil.copy(small, tmp_path))
    page = page_of(tmp_path, alone)
    assert "There is no record of the job's pace" in page.text
    assert "the marker COMPLETE is missing" in page.text


def test_an_unfinished_database_has_a_report_of_what_is_committed(
    variant: Callable, tmp_path: Path
) -> None:
    campaign = read_campaign(
        variant(("structures: 6", "structures: 6\n  structures_per_segment: 1"), *TINY)
    )
    asked = iter([False, False, True])
    path, summary = simulate(
        campaign, tmp_path / "part.hdf5", Options(), Communicator(), lambda: next(asked, True)
    )
    assert summary.remaining == 4
    page = page_of(tmp_path, path, check=True)
    assert "2 good, 4 pending" in page.text and "33 % is committed" in page.text
    assert "unfinished: only committed structures are in this report" in page.text
    assert "Of 8 of 8 images" in page.text

    nothing = iter([True])
    path, _ = simulate(
        campaign, tmp_path / "new.hdf5", Options(), Communicator(), lambda: next(nothing, True)
    )
    page = page_of(tmp_path, path, check=True)
    assert "There is no image yet." in page.text and "nothing was drawn yet" in page.text
    assert "nothing is committed, so nothing could be verified" in page.text


def test_quarantined_structures_are_listed_with_their_reasons(
    call: Callable, bad_half: Path, tmp_path: Path
) -> None:
    only_bad, good = bad_half / "tiny.v4of8.hdf5", bad_half / "tiny.v3of8.hdf5"
    page = page_of(tmp_path, only_bad)
    assert "1 quarantined" in page.text and "1 structure, 100.00%" in page.text
    assert "There is no image yet." in page.text and "no images that are large enough" in page.text
    page = page_of(tmp_path, good, only_bad)
    assert "structures 2 1 good, 1 quarantined; 2 foci × 2 images each" in page.text
    assert "1 quarantined structure is not among the draws" in page.text
    assert len(page.all("main")) == 1, "volumes of one campaign are one part"
    assert "tiny.v3of8.hdf5: its one structure is committed" in page.text
    done = call("show", only_bad, 0)
    assert done.returncode == 1 and "structure 3, which is quarantined: " in done.stderr
    assert "Traceback" not in done.stderr


def test_campaigns_have_a_part_each(small: Path, bad_half: Path, tmp_path: Path) -> None:
    page = page_of(tmp_path, small, bad_half / "tiny.v3of8.hdf5")
    assert len(page.all("main")) == 2 and len(page.all("h1")) == 2


def test_one_image_is_enough(variant: Callable, tmp_path: Path) -> None:
    campaign = read_campaign(
        variant(
            *TINY,
            ("structures: 6", "structures: 1"),
            ("foci: 2", "foci: 1"),
            ("images_per_focus: 2", "images_per_focus: 1"),
        )
    )
    path, _ = simulate(campaign, tmp_path / "one.hdf5", Options(), Communicator())
    page = page_of(tmp_path, path)
    assert len(page.all("figure")) == 1 and "all images 1 image" in page.text
    assert "too few draws for a test" in page.text


def test_nothing_in_a_database_becomes_markup(variant: Callable, tmp_path: Path) -> None:
    """Description, comments of the campaign file, file name and reasons are text alone."""
    description = json.dumps(EVIL)
    changes = (*TINY, ("seed: 7", f"seed: 7\n  description: {description}  # {EVIL}"))
    campaign = read_campaign(variant(*changes, ("structures: 6", "structures: 1")))
    name = EVIL.replace("/", "_")[:60] + ".hdf5"
    path, _ = simulate(campaign, tmp_path / name, Options(), Communicator())
    journal = journal_folder(path) / PACE
    journal.write_text(
        json.dumps({"run": 1, "time": 1, "seconds": 2, "computed": [1]}) + "\n" + EVIL
    )
    [found] = survey_databases([path], False)
    found = dataclasses.replace(found, quarantined=((0, EVIL), (1, f"{EVIL} 2"), (2, f"{EVIL} 3")))
    found = dataclasses.replace(found, identity={EVIL: EVIL}, texts={**found.texts, "parent": EVIL})
    text = write_page([write_campaign(found, "campaign-1")])
    assert_self_contained(text)
    page = Page(text)
    assert page.text.count(EVIL.replace("&amp;", "&amp;")) >= 6
    assert "<script" not in text and "<img src=x" not in text


def test_a_database_named_twice_and_one_that_is_none_are_refused(
    call: Callable, small: Path, tmp_path: Path
) -> None:
    done = call("report", small, small)
    assert done.returncode == 2 and "named twice" in done.stderr
    (tmp_path / "none.hdf5").write_bytes(b"no database")
    done = call("report", "none.hdf5")
    assert done.returncode == 1 and "is no HDF5 file" in done.stderr
    assert not list(tmp_path.glob("*.html"))


def test_a_report_is_never_written_over_a_database(
    call: Callable, small: Path, tmp_path: Path
) -> None:
    path = Path(shutil.copy(small, tmp_path / "a.hdf5"))
    linked = tmp_path / "b.html"
    linked.hardlink_to(path)
    before = path.read_bytes()
    for target, words in (
        (path, "end its name with .html"),
        (linked, "is one of the databases"),
        (tmp_path / "page", "end its name with .html"),
    ):
        done = call("report", path, "-o", target)
        assert done.returncode == 2 and words in done.stderr and not done.stdout
    assert path.read_bytes() == before
    done = call("show", path, 0, "-o", path)
    assert done.returncode == 2 and path.read_bytes() == before
    # A picture and a database without an extension.
    bare = Path(shutil.copy(small, tmp_path / "bare"))
    done = call("show", bare, 0, "-o", bare)
    assert done.returncode == 2 and bare.read_bytes() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.hdf5", "b.html", "bare"]


def test_a_copy_is_no_second_draw(small: Path, bad_half: Path, tmp_path: Path) -> None:
    """Structures that two files hold are two parts of the page, each with its own numbers."""
    copy = Path(shutil.copy(small, tmp_path / "copy.hdf5"))
    page = page_of(tmp_path, small, copy)
    assert len(page.all("main")) == 2
    assert page.text.count("n = 12: agrees") == 2 and "n = 48" not in page.text
    volumes = [bad_half / f"tiny.v{k}of8.hdf5" for k in (3, 4)]
    again = Path(shutil.copy(volumes[1], tmp_path / "again.hdf5"))
    with ExitStack() as held:
        opened = [held.enter_context(open_database(path)) for path in (*volumes, again)]
        groups = [[database.path for database in group] for group in group_campaigns(opened)]
    assert groups == [volumes, [again]]


def test_file_names_that_are_no_text_are_shown_and_written(
    call: Callable, small: Path, tmp_path: Path
) -> None:
    path = tmp_path / os.fsdecode(b"a\xff.hdf5")
    shutil.copy(small, path)
    for command in (("report", path), ("show", path, 0)):
        done = call(*command)
        assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr
    text = (tmp_path / os.fsdecode(b"a\xff.report.html")).read_text(encoding="utf-8")
    assert_self_contained(text)
    assert "a?.hdf5" in text and (tmp_path / os.fsdecode(b"a\xff.row0.png")).stat().st_size


@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")
def test_a_browser_shows_and_prints_the_page_without_a_complaint(
    small: Path, tmp_path: Path
) -> None:
    assert CHROMIUM is not None
    page = write_report([small], tmp_path / "page.html", True)
    common = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
    common += [f"--user-data-dir={tmp_path / 'profile'}", "--enable-logging=stderr", "--v=0"]
    shot, pdf = tmp_path / "page.png", tmp_path / "page.pdf"
    for option in (
        ("--window-size=1280,4800", f"--screenshot={shot}"),
        ("--no-pdf-header-footer", f"--print-to-pdf={pdf}"),
    ):
        command = [*common, *option, page.as_uri()]
        done = subprocess.run(command, capture_output=True, text=True, timeout=240)
        assert "CONSOLE" not in done.stderr, done.stderr
    assert pdf.read_bytes().startswith(b"%PDF") and pdf.stat().st_size > 100_000
    picture = imread(shot)[..., :3]
    assert picture.shape[:2] == (4800, 1280)
    # Text, images and charts all the way down, within the page's margins.
    for top in range(0, 4800, 600):
        assert picture[top : top + 600].std() > 0.02, f"nothing is seen from {top} on"
    ground = picture[5, 5]
    assert np.abs(picture[:, :40] - ground).max() < 0.02
    assert np.abs(picture[:, -40:] - ground).max() < 0.02
    # The first four images stand side by side: dark grey noise in each quarter of the width.
    row = picture[520:560, 110:1170]
    assert all(part.std() > 0.08 for part in np.array_split(row, 4, axis=1))


def test_show_draws_rows_into_one_picture(call: Callable, small: Path, tmp_path: Path) -> None:
    done = call("show", small, 3, 17)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "picture: small.row3-17.png\n"
    picture = imread(tmp_path / "small.row3-17.png")
    assert picture.shape[0] > 800 and picture[..., :3].std() > 0.1
    for arguments, code, words in (
        ((small, 24), 1, "has no row 24 of images: 0 to 23"),
        ((small, 0, "-o", "a.doc"), 2, "one of png, pdf, svg"),
        ((small, *range(13)), 2, "1 to 12 rows; 13 were given"),
        ((small,), 2, "Missing argument 'ROW...'"),
        ((small, 0, "-o", "no/such.png"), 1, "No such file"),
    ):
        done = call("show", *arguments)
        assert done.returncode == code and words in done.stderr, done.stderr
        assert "Traceback" not in done.stderr
