"""HTML that is safe by construction: text is escaped unless it was made here."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable, Sequence
from html import escape

VOID = ("img", "meta", "br")


class Html(str):
    """Markup that needs no escaping."""

    __slots__ = ()


Child = str | Iterable[str]


def tag(name: str, *children: Child, **attributes: str | int | None) -> Html:
    """An element; children that are no Html are escaped; `aria_label=` gives aria-label."""
    words = [name]
    for key, value in attributes.items():
        if value is not None:
            words.append(f'{key.rstrip("_").replace("_", "-")}="{escape(str(value))}"')
    start = f"<{' '.join(words)}>"
    return Html(start) if name in VOID else Html(f"{start}{join(*children)}</{name}>")


def join(*children: Child) -> Html:
    """Children one after the other."""
    parts = []
    for child in children:
        for part in (child,) if isinstance(child, str) else child:
            parts.append(part if isinstance(part, Html) else escape(str(part), quote=False))
    return Html("".join(parts))


def table(
    head: Sequence[str], rows: Iterable[Sequence[Child]], caption: str, numbers: Sequence[int] = ()
) -> Html:
    """A table whose first cells name their rows; columns in `numbers` are set to the right."""

    def kind(column: int) -> str | None:
        return "number" if column in numbers else None

    heads = (tag("th", text, scope="col", class_=kind(k)) for k, text in enumerate(head))
    body = (
        tag(
            "tr",
            tag("th", row[0], scope="row", class_=kind(0)),
            (tag("td", cell, class_=kind(k)) for k, cell in enumerate(row[1:], start=1)),
        )
        for row in rows
    )
    return tag(
        "table",
        tag("caption", caption, class_="unseen"),
        tag("thead", tag("tr", heads)),
        tag("tbody", body),
    )


def embed(raw: bytes, kind: str, alternative: str, width: int, height: int, class_: str) -> Html:
    """A picture within the page; kind 'png' or 'webp', its size in pixels."""
    data = base64.b64encode(raw).decode("ascii")
    source = f"data:image/{kind};base64,{data}"
    return tag("img", src=source, alt=alternative, width=width, height=height, class_=class_)


# Comment, text in quotes, key, number with its unit.
_TOKEN = re.compile(
    r"(?P<comment>(?:^|(?<=\s))#.*)|(?P<text>\"[^\"]*\"|'[^']*')|(?P<key>[\w.-]+)(?=:(?:\s|$))"
    r"|(?P<number>(?<![\w.])[-+]?\d+(?:\.\d*)?(?:[eE][-+]?\d+)?(?![\w.])(?: ?[A-Za-z/][\w/^]*)?)"
)


def colour_yaml(text: str) -> Html:
    """A campaign file with its comments, keys, numbers and texts marked."""
    return tag("pre", tag("code", Html("\n".join(map(_colour_line, text.splitlines())))))


def _colour_line(line: str) -> Html:
    parts: list[str] = []
    place = 0
    for found in _TOKEN.finditer(line):
        parts.append(line[place : found.start()])
        parts.append(tag("span", found[0], class_=f"yaml-{found.lastgroup}"))
        place = found.end()
    return join(*parts, line[place:])
