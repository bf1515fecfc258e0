"""DuckDB, locked: a connection that sees nothing but what it is given, and its syntax trees."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn

from hpctem.errors import ConfigError
from hpctem.units import UNITS

if TYPE_CHECKING:
    import duckdb

MEMORY = "1GB"
MOST_THREADS = 8
MOST_CHARACTERS = 10**6
# No files, no network, no extensions, no Python objects; and nothing of it can be changed. The root
# of -1 and 1 / 0 are errors: as NaN they would be larger than any number.
LOCKED = {
    "enable_external_access": "false",
    "autoload_known_extensions": "false",
    "autoinstall_known_extensions": "false",
    "python_enable_replacements": "false",
    "memory_limit": MEMORY,
    "temp_directory": "",
    "ieee_floating_point_ops": "false",
}
# What every node of a syntax tree may have beside what its reader looks at.
PLAIN = ("class", "type", "alias", "query_location", "query_location_length")
# A quantity that somebody wrote without quotes.
_UNIT = "|".join(re.escape(unit) for units in UNITS.values() for unit in units)
_QUANTITY = re.compile(rf"(?<![\w'.])[-+]?[\d.]+(?:[eE][-+]?\d+)?\s*(?:{_UNIT})(?![\w'])")
EMPTY: tuple[Any, ...] = ({"map": []}, {"type": "ORDER_MODIFIER", "orders": []}, "INVALID")


def connect() -> duckdb.DuckDBPyConnection:
    """A DuckDB of its own in memory, without access to anything, for one query."""
    import duckdb

    threads = min(MOST_THREADS, len(os.sched_getaffinity(0)))
    connection = duckdb.connect(":memory:", config={**LOCKED, "threads": threads})
    connection.execute("SET lock_configuration = true")
    return connection


@dataclass(frozen=True)
class Source:
    """A text that a person wrote as part of a query.

    text     what was written
    prefix   what precedes it in the query that is parsed, 'SELECT 1 WHERE '
    what     what it is called in messages, 'condition'
    whole    it is one expression, which could as well stand in parentheses
    """

    text: str
    prefix: str
    what: str
    whole: bool = False

    def fail(self, message: str, node: Mapping[str, Any] | int | None = None) -> NoReturn:
        """Raise ConfigError; a node, or a byte of the parsed query, is marked with a caret."""
        place = node.get("query_location") if isinstance(node, Mapping) else node
        raise ConfigError(f"{self.what} not understood: {message}{self._mark(place)}")

    def _mark(self, place: int | None) -> str:
        raw = self.text.encode(errors="replace")
        if place is None or not 0 <= place - len(self.prefix) <= len(raw):
            return ""
        column = len(raw[: place - len(self.prefix)].decode(errors="ignore"))
        start = self.text.rfind("\n", 0, column) + 1
        line = self.text[start:].split("\n")[0]
        # A long line is cut around the place.
        first = max(0, column - start - 60)
        return f"\n  {line[first : first + 90]}\n  {' ' * (column - start - first)}^"

    def parse(self, names: Collection[str]) -> dict[str, Any]:
        """The syntax tree of the SELECT that the text completes; `names` are those of columns.

        Raises ConfigError unless it is one SELECT and holds no comment and no semicolon.
        """
        if not self.text.strip():
            self.fail("it is empty")
        if len(self.text) > MOST_CHARACTERS:
            self.fail(f"it is longer than {MOST_CHARACTERS} characters")
        if "\0" in self.text or any("\ud800" <= letter <= "\udfff" for letter in self.text):
            self.fail("it holds characters that are no text")
        self._refuse_tokens()
        statements = self._parse(names)["statements"]
        if len(statements) != 1 or statements[0]["node"]["type"] != "SELECT_NODE":
            self.fail("it is no single expression")
        return statements[0]["node"]

    def _refuse_tokens(self) -> None:
        import duckdb

        raw = self.text.encode()
        try:
            tokens = duckdb.tokenize(self.text)
        except (duckdb.Error, RuntimeError) as error:
            self.fail(first_line(error))
        for place, kind in tokens:
            if kind == duckdb.token_type.comment:
                self.fail(
                    "comments are not allowed, and two minus signs begin one: write 1 - -1",
                    place + len(self.prefix),
                )
            if raw[place : place + 1] == b";":
                self.fail("it is one expression, without semicolons", place + len(self.prefix))

    def _parse(self, names: Collection[str]) -> dict[str, Any]:
        import duckdb

        # In parentheses it is still one expression, so that no clause hides behind it.
        enclosed = f"{self.prefix}({self.text}\n)" if self.whole else self.prefix + self.text
        serialize = "SELECT json_serialize_sql(?::VARCHAR), json_serialize_sql(?::VARCHAR)"
        words = "SELECT keyword_name FROM duckdb_keywords() WHERE keyword_category = 'reserved'"
        try:
            with connect() as connection:
                found = connection.execute(serialize, [self.prefix + self.text, enclosed])
                tree, again = map(json.loads, found.fetchall()[0])
                if not (tree["error"] or again["error"]):
                    return tree
                reserved = {word for (word,) in connection.execute(words).fetchall()}
        except (duckdb.Error, RuntimeError, ValueError) as error:
            self.fail(first_line(error))
        except RecursionError:
            self.fail("it is nested too deeply")
        wrong = tree if tree["error"] else again
        if wrong["error_type"] != "parser":
            self.fail("it is no single expression")
        message = wrong["error_message"]
        for word in re.findall(r"(?<![\w\"'])\w+(?![\w\"'])", self.text):
            if word in names and word.lower() in reserved:
                message += f'; a column named like a word of SQL is written in quotes: "{word}"'
                break
        if quantity := _QUANTITY.search(self.text):
            message += f"; a number with its unit stands in single quotes: '{quantity[0]}'"
        # What is wrong only in parentheses is one place further to the right there.
        place = str(wrong.get("position", ""))
        self.fail(message, int(place) - (wrong is again) if place.isdigit() else None)

    def only(self, node: Mapping[str, Any], *expected: str) -> None:
        """Raise ConfigError for a node that has more to it than what is expected."""
        for name, value in node.items():
            if value and name not in PLAIN and name not in expected and value not in EMPTY:
                self.fail(f"{name.replace('_', ' ')} is not allowed here", node)


def first_line(error: BaseException) -> str:
    """What DuckDB says, without the query that was run and without its kind of error."""
    text = str(error).split("\n")[0].strip()
    text = re.sub(r" in expression .* Use TRY.*", "; nullif(x, 0) makes NULL of zero", text)
    return re.sub(r"^[A-Z][\w ]* Error: ", "", text) or type(error).__name__
