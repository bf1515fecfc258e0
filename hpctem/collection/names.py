"""What the names in a condition mean: columns of which table, in which part of the SQL.

The condition itself is about an image and its structure. A subquery has the tables behind its FROM
and sees those around it. A table with several rows for each structure is always that of the nearest
image: its rows belong to the structure of that image, or to that image alone where the table has a
column `image`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NoReturn

from hpctem.collection.columns import Column, find_column, is_of_images, usable
from hpctem.collection.sql import Source
from hpctem.errors import ConfigError

# Columns that tables have in DuckDB beside their own: place in the collection, structure, image.
PLACE, STRUCTURE, IMAGE = "__place", "__structure", "__image"
Columns = Mapping[tuple[str, str], Column]
Node = dict[str, Any]


@dataclass
class Scope:
    """Tables that names refer to.

    tables   (name as written, table, name in the SQL that is run)
    hidden   (images, structures), names in the SQL that is run: structures that nobody wrote
    """

    tables: list[tuple[str, str, str]]
    outer: Scope | None = None
    hidden: list[tuple[str, str]] = field(default_factory=list)


class Names:
    """Finds what the names of one text mean, and notes which tables and columns it uses.

    top     the scope of the condition itself
    used    (table, column) of all columns
    named   tables behind FROM
    parts   tables with several rows for a structure whose columns stand outside of a subquery
    """

    def __init__(self, source: Source, columns: Columns) -> None:
        self.source, self.columns = source, columns
        self.used: set[tuple[str, str]] = set()
        self.named: set[str] = set()
        self.parts: list[str] = []
        self.top = Scope([(table, table, table) for table in ("images", "structures")])
        self._tables = {table.lower(): table for table, _ in columns}
        self._aliases = 0

    def resolve(self, table: str, name: str, scope: Scope, node: Node) -> tuple[str, Column]:
        """The table, by its name in the SQL that is run, and the column.

        Raises ConfigError, with the place, for a name that means nothing or several things.
        """
        alias, column = self._search(table, name, scope, node)
        try:
            usable(column)
        except ConfigError as error:
            self.source.fail(str(error), node)
        self.used.add((column.table, column.name))
        return alias, column

    def _search(self, table: str, name: str, scope: Scope, node: Node) -> tuple[str, Column]:
        at: Scope | None = scope
        while at is not None:
            found = []
            for written, of, alias in at.tables:
                if not table or table.lower() == written.lower():
                    column = self._lookup(of, name)
                    found += [(alias, column)] if column else []
            # The structure of an image comes after the image itself.
            if not found and not table:
                found = self._of_structure(name, at)
            if len(found) > 1 and {c.table for _, c in found} != {"images", "structures"}:
                self.source.fail(f"{name!r} is in several tables: write table.{name}", node)
            if found:
                return found[0]
            at = at.outer
        part = self._tables.get(table.lower(), "")
        column = self._lookup(part, name) if part not in ("", "images", "structures") else None
        if column is not None:
            if part not in self.parts:
                self.parts.append(part)
            return part, column
        self._explain(f"{table}.{name}" if table else name, node)

    def _lookup(self, table: str, name: str) -> Column | None:
        if (table, name) in self.columns:
            return self.columns[table, name]
        alike = [
            c for (t, n), c in self.columns.items() if t == table and n.lower() == name.lower()
        ]
        return alike[0] if len(alike) == 1 else None

    def _of_structure(self, name: str, scope: Scope) -> list[tuple[str, Column]]:
        """In a subquery over images: the column of their structure."""
        images = [alias for _, table, alias in scope.tables if table == "images"]
        column = self._lookup("structures", name)
        if scope is self.top or len(images) != 1 or column is None:
            return []
        alias = f"{images[0]}_structure"
        if (images[0], alias) not in scope.hidden:
            scope.hidden.append((images[0], alias))
        return [(alias, column)]

    def _explain(self, name: str, node: Node) -> NoReturn:
        try:
            find_column(self.columns, name)
        except ConfigError as error:
            meant = any(name in column.categories for column in self.columns.values())
            hint = f"; a text stands in single quotes: '{name}'" if meant else ""
            self.source.fail(f"{error}{hint}", node)
        self.source.fail(f"{name!r} is not in the tables of this subquery", node)

    def add_table(self, node: Node, scope: Scope, parent: Node) -> None:
        """Put a table that stands behind FROM into the scope.

        Raises ConfigError for anything but a table of the database.
        """
        if node["type"] != "BASE_TABLE":
            self.source.fail("only tables of the database stand behind FROM", parent)
        self.source.only(node, "table_name", "qualified_name")
        name = node["table_name"]
        table = self._tables.get(name.lower())
        if table is None or node["qualified_name"]["path"] != [name]:
            known = ", ".join(sorted(self._tables.values()))
            self.source.fail(f"there is no table {name!r}; tables: {known}", node)
        if table in ("images", "structures") and table in [t for _, t, _ in scope.tables]:
            self.source.fail(f"{table} can stand once behind FROM", node)
        self._aliases += 1
        self.named.add(table)
        scope.tables.append((node["alias"] or name, table, f"__{self._aliases}"))

    def link(self, scope: Scope) -> list[str]:
        """Rows of a structure's tables belong to the structure of the nearest image."""
        links = [f"{key_of(alias)} = {key_of(images)}" for images, alias in scope.hidden]
        at: Scope | None = scope
        anchor, images = None, False
        while anchor is None and at is not None:
            aliases = {table: alias for _, table, alias in at.tables}
            anchor, images = aliases.get("images", aliases.get("structures")), "images" in aliases
            at = at.outer
        for _, table, alias in scope.tables:
            # Images and structures alone behind FROM are all of them.
            alone = table == "structures" and "images" not in [t for _, t, _ in scope.tables]
            if table != "images" and not alone and anchor is not None:
                key = IMAGE if images and is_of_images(table, self.columns) else STRUCTURE
                links.append(f"{key_of(alias, key)} = {key_of(anchor, key)}")
        return links


def key_of(alias: str, key: str = STRUCTURE) -> str:
    """The structure, or the image, that a row of a table belongs to, in SQL."""
    return f"{quote(alias)}.{quote(key)}"


def quote(name: str) -> str:
    """A name in SQL."""
    return '"' + name.replace('"', '""') + '"'
