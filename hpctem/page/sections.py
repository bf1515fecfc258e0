"""The sections about images and values: what was found becomes markup."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator

import numpy as np

from hpctem.database.create import gib
from hpctem.detection.filters import MEDIAN_VIEW, apply_view
from hpctem.optics.electron import wavelength
from hpctem.page.agreement import FALSE_ALARM
from hpctem.page.charts import draw_histogram, draw_spectra
from hpctem.page.markup import Html, embed, join, table, tag
from hpctem.page.spectra import Spectra
from hpctem.page.survey import Comparison, Survey, Tiles
from hpctem.report import colour_mask, draw_tile, format_quantity, outline_style

MASK_PIXELS = 96
LEAST_P = 1e-99  # smaller ones are not told apart


def write_facts(found: Survey) -> Html:
    """How much there is of what."""
    counts, (ny, nx) = found.counts, found.signal.shape[-2:]
    kind = "16-bit integers" if found.signal.dtype.kind == "u" else "32-bit floating point"
    states = ", ".join(
        f"{counts[name]:,} {name}" for name in ("good", "quarantined", "pending") if counts[name]
    )
    energy = found.config.simulation.energy
    facts = (
        ("images", f"{counts['images']:,}", f"{nx} × {ny} pixels, {kind}"),
        ("structures", f"{counts['structures']:,}", f"{states}; {_describe_each(found)}"),
        *([("pixel", *_describe_pixels(found.pixels, (nx, ny)))] if found.pixels else []),
        ("energy", format_quantity(energy, "eV"), f"wavelength {100 * wavelength(energy):.3g} pm"),
        ("size", gib(sum(volume.size for volume in found.volumes)), _describe_files(found)),
        ("state", *_describe_state(found)),
    )
    return tag(
        "dl",
        (
            tag("div", tag("dt", name), tag("dd", tag("b", value), " ", note))
            for name, value, note in facts
        ),
        class_="facts",
    )


def _describe_each(found: Survey) -> str:
    config = found.config
    foci, each = config.foci, config.imaging.images_per_focus
    return f"{foci} {_plural('focus', foci)} × {each} {_plural('image', each)} each"


def _describe_pixels(pixels: tuple[float, float], counts: tuple[int, int]) -> tuple[str, str]:
    """Size of a pixel and field of view, or the ranges of both."""
    sizes = sorted({f"{size:.4g}" for size in pixels}, key=float)
    extents = [
        " × ".join(format_quantity(n * size, "A") for n in counts) for size in sorted(set(pixels))
    ]
    return f"{' … '.join(sizes)} Å", f"field of view {' … '.join(extents)}"


def _plural(word: str, count: int) -> str:
    return word if count == 1 else {"focus": "foci"}.get(word, f"{word}s")


def _are(count: int) -> str:
    return "is" if count == 1 else "are"


def _describe_files(found: Survey) -> str:
    count = len(found.volumes)
    return found.volumes[0].path.name if count == 1 else f"{count} files"


def _describe_state(found: Survey) -> tuple[str, str]:
    if not all(volume.complete for volume in found.volumes):
        done = found.counts["structures"] - found.counts["pending"]
        return "unfinished", f"{100 * done / found.counts['structures']:.0f} % is committed"
    if all(volume.marked for volume in found.volumes):
        return "complete", "read back and marked by the job"
    return "complete", "the marker beside the file is missing"


def write_images(found: Survey) -> Html:
    """The contact sheet: images with the outlines of their masks, conditions below."""
    tiles = [tile for part in found.tiles for tile in _write_tiles(part)]
    if not tiles:
        return tag("p", "There is no image yet.")
    medians = any(part.chosen.view == MEDIAN_VIEW for part in found.tiles)
    note = " Shown through the 3 × 3 median that the campaign records." if medians else ""
    text = (
        "Evenly spread over the database; grey from the 0.5th to the 99.5th percentile of each "
        f"image. {_describe_masks(found)}{note}"
    )
    names = found.tiles[0].chosen.names
    keys = (
        tag("span", tag("i", style=f"background: {outline_style(k)['color']}"), f" {name}")
        for k, name in enumerate(names, 1)
    )
    legend = [tag("p", keys, class_="legend")] if names else []
    return join(tag("p", text, class_="note"), legend, tag("div", tiles, class_="tiles"))


def _describe_masks(found: Survey) -> str:
    shown = found.tiles[0].chosen
    if all(one.mask is None for one in shown.images):
        return ""
    what = "label maps" if shown.names else "particles' masks"
    return f"Lines are the outlines of the {what}, shown filled beside."


def _write_tiles(part: Tiles) -> Iterator[Html]:
    chosen = part.chosen
    for k, row in enumerate(chosen.rows.tolist()):
        shown = chosen.images[k]
        image, mask = apply_view(shown.image, chosen.view), shown.mask
        lines = [("file", part.file)] if part.file else []
        lines += [("row", str(row))]
        lines += [
            (name, format_quantity(*value) if isinstance(value, tuple) else format_quantity(value))
            for name, value in shown.caption.items()
        ]
        raw, (height, width) = draw_tile(image, mask, shown.pixel_size)
        about = ", ".join(f"{name} {value}" for name, value in lines)
        picture = embed(raw, "webp", f"Image of row {row}: {about}", width, height, "tile")
        small: list[Html] = []
        if mask is not None:
            thumb, (high, wide) = _draw_mask(mask)
            small = [embed(thumb, "png", f"Mask of row {row}", wide, high, "mask")]
        pairs = ((tag("dt", name), tag("dd", value)) for name, value in lines)
        caption = tag("figcaption", small, tag("dl", (join(*pair) for pair in pairs)))
        yield tag("figure", picture, caption)


def _draw_mask(mask: np.ndarray) -> tuple[bytes, tuple[int, int]]:
    from PIL import Image

    step = max(1, max(mask.shape) // MASK_PIXELS)
    pixels = np.rint(255 * colour_mask(mask[::step, ::step])).astype(np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).quantize(16).save(stream, "PNG", optimize=True)
    return stream.getvalue(), pixels.shape[:2]


def write_draws(found: Survey) -> Html:
    """What was asked and what was drawn, value by value."""
    if not found.comparisons:
        return tag("p", "Nothing is drawn in this campaign: every value is fixed.")
    text = (
        "Bars: what was drawn. Line and marks: what the distribution lets expect of as many "
        "draws, with twice its standard deviation. Values that several images share count once."
    )
    threshold = FALSE_ALARM / max(found.tests, 1)
    rule = (
        f" A distribution departs where chance alone gives so large a difference with p < "
        f"{threshold:.2g}, that is {FALSE_ALARM:.0%} for all {found.tests} tests together."
        if found.tests
        else ""
    )
    left_out = found.counts["quarantined"]
    missing = (
        f" {left_out:,} quarantined {_plural('structure', left_out)} {_are(left_out)} not among "
        "the draws: values that put them there are rarer here than asked."
        if left_out
        else ""
    )
    compared = {item.setting.key for item in found.comparisons}
    others = [s for s in found.settings if s.drawn and s.key not in compared]
    unknown = "; ".join(f"{one.key}, {one.text}" for one in others)
    untold = f" Drawn as well, but in no column of its own: {unknown}." if others else ""
    cards = (_write_comparison(item, found.tests) for item in found.comparisons)
    note = tag("p", text, rule, missing, untold, class_="note")
    return join(note, tag("div", cards, class_="cards"))


def _write_comparison(item: Comparison, tests: int) -> Html:
    assert item.histogram is not None
    title = item.setting.key.partition(".")[2].replace("_", " ").replace(".", " · ")
    alarm = item.fit.departs(tests)
    statement = state_fit(item, tests)
    chart = draw_histogram(item.histogram, title, f"Asked: {item.setting.text}. {statement}")
    return tag(
        "article",
        tag("h3", title),
        tag("p", item.setting.text, tag("span", f" per {item.each}"), class_="asked-text"),
        Html(chart),
        tag("p", _bind(statement), class_="statement alarm" if alarm else "statement"),
        [tag("p", item.note, class_="statement")] if item.note else [],
        tag("p", "column ", tag("code", item.column), class_="column"),
        class_="card",
    )


def _bind(text: str) -> str:
    """The text with signs kept on the line of their numbers: 'p = 0.3'."""
    return re.sub(r" ([=<]) ", "\u00a0\\1\u00a0", text)


def state_fit(item: Comparison, tests: int) -> str:
    """In a sentence, whether the draws agree with what was asked."""
    fit = item.fit
    count = f"n = {fit.draws:,}"
    if fit.draws == 0:
        return "nothing was drawn yet"
    if fit.fault:
        return f"{count}: departs, {fit.fault}"
    if fit.probability is None:
        if item.setting.value.kind == "grid" and item.setting.value.std == 0:
            return f"{count}: every value is the grid's at its place"
        return f"{count}: too few draws for a test"
    word = "departs" if fit.departs(tests) else "agrees"
    chance = f"p = {fit.probability:.2g}" if fit.probability >= LEAST_P else f"p < {LEAST_P:g}"
    return f"{count}: {word}, {fit.statistic}, {chance}"


def write_fixed(found: Survey) -> Html:
    """Every other key of the campaign file, with a word where its column says otherwise."""
    wrong = {item.setting.key: item.fit.fault for item in found.constants if item.fit.fault}
    drawn = {setting.key for setting in found.settings if setting.drawn}
    drawn |= {item.setting.key for item in found.comparisons}
    rows = [
        (
            tag("code", setting.key),
            join(
                setting.text, [tag("b", f" {wrong[setting.key]}")] if setting.key in wrong else []
            ),
            setting.meaning,
        )
        for setting in found.settings
        if setting.key not in drawn and not setting.key.startswith("campaign.")
    ]
    return table(("key", "value", "meaning"), rows, "Fixed values of the campaign")


def write_outcomes(found: Survey) -> Html:
    """Columns that resulted from what was drawn."""
    cards = []
    for item, histogram in found.outcomes:
        title = item.name.replace("_", " ")
        per = "image" if item.table == "images" else "structure"
        chart = draw_histogram(histogram, title, item.description, f"{per}s")
        parts = tag("h3", title), tag("p", item.description, class_="asked-text"), Html(chart)
        cards.append(tag("article", *parts, class_="card"))
    return tag("div", cards, class_="cards")


def write_defects(found: Survey) -> Html:
    """Kinds of point defects: rates asked and found."""
    text = (
        "Rates are counted in one image of each structure, over the atom columns that could bear "
        "the defect and that an image of that size holds on average, of an adatom over unit cells; "
        "in parentheses the interval that holds the true rate with 95 %. Structures with an edge "
        "or islands do not count."
    )
    head = ("kind", "asked", "found", "defects", "columns", "defects in all images")
    rows = []
    for item in found.defects:
        rates = ["unknown", "unknown"]
        if item.asked is not None and item.rate is not None:
            assert item.low is not None and item.high is not None
            interval = f"{100 * item.low:.3g} … {100 * item.high:.3g}"
            rates = [f"{100 * item.asked:.3g} %", f"{100 * item.rate:.3g} % ({interval})"]
        known = item.columns is not None
        counts = [f"{item.defects:,}", f"{item.columns:,.0f}"] if known else ["", ""]
        rows.append((item.kind, *rates, *counts, f"{item.total:,}"))
    shown = table(head, rows, "Kinds of point defects", (1, 2, 3, 4, 5))
    return join(tag("p", text, class_="note"), shown)


def write_spectra(found: Survey) -> Html:
    """Radial power spectra by dose and by focus."""
    measured = found.spectra
    if measured is None:
        return tag("p", "There are no images that are large enough for a spectrum.")
    floor = any(group.floor is not None for part in measured.spectra for group in part.groups)
    text = (
        f"Of {measured.images:,} of {measured.total:,} images, as stored: power of the relative "
        "intensity I / mean − 1 under a Hann window, averaged over rings of frequency. Thick "
        "line: mean; band: 10th to 90th percentile of the images; thin lines: the other groups."
    )
    if floor:
        text += " Dashed: shot noise alone, one over the counted dose."
    if measured.reflections:
        text += " Dotted: reflections of the crystal."
    return join(
        tag("p", text, class_="note"),
        (join(_write_part(part, measured.reflections)) for part in measured.spectra),
    )


def _write_part(part: Spectra, reflections: tuple[tuple[str, float], ...]) -> Iterator[Html]:
    if part.column:
        yield tag("h3", f"by {part.column}")
    every = [curve for g in part.groups for curve in (g.low, g.high, np.array([g.floor or np.nan]))]
    values = np.concatenate(every)
    values = values[np.isfinite(values) & (values > 0)]
    reach = (float(values.min()) / 1.3, float(values.max()) * 1.3) if values.size else (0.1, 1.0)
    cards = []
    for group in part.groups:
        title = f"{part.column} {group.label}".strip()
        chart = Html(draw_spectra(part, group, reach, reflections, f"Power spectrum, {title}"))
        count = tag("span", f" {group.images} {_plural('image', group.images)}")
        cards.append(tag("article", tag("h4", title, count), chart, class_="card"))
    yield tag("div", cards, class_="cards")
