"""SQL conditions: what a person may write, and the SQL that is run for it.

DuckDB parses the text; of its syntax tree only what is listed here is accepted (columns, constants,
comparisons, arithmetic, a list of functions, subqueries over the tables of the database), and what
is run is written anew from that. A text can therefore do nothing that is not written here.

A table with several rows for each structure (`particles`, `planar_defects`, ...) stands for the
rows of the image's structure. Named directly, as in `particles.radius > 30`, such a row exists, the
same one in the whole condition; in a subquery it stands behind FROM.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from hpctem.collection.names import Columns, Names, Node, Scope, quote
from hpctem.collection.sql import Source
from hpctem.collection.vocabulary import (
    ALIKE,
    ARITHMETIC,
    COMPARISONS,
    DIRECTIONS,
    MATCHES,
    NULLS,
    NUMBERS,
    NUMERIC,
    OTHERS,
    POWERS,
    TEXTS,
    UNKNOWN,
)
from hpctem.collection.written import Written, fit, require_truth, without_categories, write_number
from hpctem.errors import ConfigError

NAN = "CAST('nan' AS DOUBLE)"
MOST_POWERS = 8


@dataclass(frozen=True)
class Condition:
    """Checked SQL.

    text      written from the checked tree
    columns   (table, column) of everything it reads
    parts     tables with several rows for a structure that it names directly
    tables    all tables it names
    """

    text: str
    columns: frozenset[tuple[str, str]]
    parts: tuple[str, ...]
    tables: frozenset[str]


def check_condition(text: str, columns: Columns) -> Condition:
    """What to run for the condition of a WHERE clause.

    Raises ConfigError, with the place where it is known, for a text that is not one expression,
    that names what does not exist or that does what a condition may not.
    """
    if not isinstance(text, str):
        raise ConfigError(f"a condition is a text such as 'dose > 300', not {text!r}")
    source = Source(text, "SELECT 1 WHERE ", "condition", whole=True)
    tree = source.parse([name for _, name in columns])
    source.only(tree, "select_list", "from_table", "where_clause", "aggregate_handling")
    writer = _Writer(source, columns)
    return writer.finish(writer.write_all(tree["where_clause"], truth=True))


def check_order(text: str, columns: Columns) -> Condition:
    """What to run for an ORDER BY clause. Raises ConfigError as `check_condition` does."""
    source = Source(text, "SELECT 1 ORDER BY ", "order")
    tree = source.parse([name for _, name in columns])
    source.only(tree, "select_list", "from_table", "modifiers", "aggregate_handling")
    if [modifier["type"] for modifier in tree["modifiers"]] != ["ORDER_MODIFIER"]:
        source.fail("it is more than expressions to sort by")
    writer, keys = _Writer(source, columns), []
    for order in tree["modifiers"][0]["orders"]:
        if order["expression"]["class"] == "CONSTANT":
            source.fail("a constant sorts nothing: name a column", order["expression"])
        way, nulls = DIRECTIONS[order["type"]], NULLS[order["null_order"]]
        keys.append(f"{writer.write_all(order['expression'])} {way} {nulls}")
    if writer.names.parts:
        table = writer.names.parts[0]
        source.fail(f"{table} has several rows for an image: write (SELECT max(...) FROM {table})")
    return writer.finish(", ".join(keys))


class _Writer:
    """Writes the tree of one text anew and notes what it names."""

    def __init__(self, source: Source, columns: Columns) -> None:
        self.source, self.names = source, Names(source, columns)
        self.kinds: dict[str, Callable[[Node, Scope], Written]] = {
            "COLUMN_REF": self._column,
            "CONSTANT": self._constant,
            "COMPARISON": self._comparison,
            "CONJUNCTION": self._conjunction,
            "OPERATOR": self._operator,
            "BETWEEN": self._between,
            "CASE": self._case,
            "CAST": self._cast,
            "FUNCTION": self._function,
            "SUBQUERY": self._subquery,
        }

    def finish(self, text: str) -> Condition:
        """The condition with everything that was met while it was written."""
        names = self.names
        tables = names.named | {table for table, _ in names.used}
        return Condition(text, frozenset(names.used), tuple(names.parts), frozenset(tables))

    def write_all(self, node: Node, truth: bool = False) -> str:
        """SQL for the whole text; `truth`: it is true or false."""
        try:
            write = self.truth if truth else self.text
            return write(node, self.names.top)
        except RecursionError:
            self.source.fail("it is nested too deeply")
        except (LookupError, TypeError, AttributeError, ValueError) as error:
            self.source.fail(f"DuckDB gave it a form that is not known here ({error!r})")

    def write(self, node: Node, scope: Scope) -> Written:
        """SQL for one expression."""
        write = self.kinds.get(node["class"])
        if write is None:
            kind = node["class"].lower().replace("_", " ")
            self.source.fail(f"{kind} expressions are not allowed", node)
        return write(node, scope)

    def text(self, node: Node, scope: Scope) -> str:
        """SQL for one expression of any value."""
        return self.write(node, scope).text

    def truth(self, node: Node, scope: Scope) -> str:
        """SQL for one expression that is true or false."""
        return require_truth(self.source, self.write(node, scope), node)

    def _all(self, nodes: Sequence[Node], scope: Scope) -> list[Written]:
        return [self.write(node, scope) for node in nodes]

    def _column(self, node: Node, scope: Scope) -> Written:
        self.source.only(node, "column_names")
        *given, name = node["column_names"]
        if len(given) > 1:
            self.source.fail(f"{'.'.join(node['column_names'])!r} is no column", node)
        alias, column = self.names.resolve(given[0] if given else "", name, scope, node)
        return Written(
            f"{quote(alias)}.{quote(column.name)}",
            numeric=column.numeric and not column.shape,
            units=column.units,
            categories=column.categories,
        )

    def _constant(self, node: Node, scope: Scope) -> Written:
        self.source.only(node, "literal")
        kind, text = node["literal"]["kind"], node["literal"].get("text", "")
        if kind == "STRING":
            return Written(_text(text), string=text)
        if kind == "INTEGER" and re.fullmatch(r"-?[\d_]{1,18}", text):
            return Written(f"({int(text)})", numeric=True)
        if kind in ("INTEGER", "NUMERIC"):
            return Written(write_number(self.source, float(text), node), numeric=True)
        if kind == "NULL_LITERAL" or (kind == "BOOLEAN" and text in ("true", "false")):
            return Written(text.upper() or "NULL")
        self.source.fail(f"constants of kind {kind.lower()} are not allowed", node)

    def _comparison(self, node: Node, scope: Scope) -> Written:
        self.source.only(node, "left", "right")
        if node["type"] not in COMPARISONS:
            self.source.fail(f"{node['type']} is not allowed", node)
        nodes = [node["left"], node["right"]]
        values = self._all(nodes, scope)
        if node["type"] not in ("COMPARE_EQUAL", "COMPARE_NOTEQUAL"):
            values = [without_categories(value) for value in values]
        left, right = fit(self.source, values, nodes)
        return Written(f"({left.text} {COMPARISONS[node['type']]} {right.text})")

    def _conjunction(self, node: Node, scope: Scope) -> Written:
        self.source.only(node, "children")
        word = {"CONJUNCTION_AND": " AND ", "CONJUNCTION_OR": " OR "}[node["type"]]
        return Written(f"({word.join(self.truth(child, scope) for child in node['children'])})")

    def _operator(self, node: Node, scope: Scope) -> Written:
        self.source.only(node, "children")
        kind = node["type"]
        if kind == "OPERATOR_NOT":
            return Written(f"(NOT {self.truth(node['children'][0], scope)})")
        values = self._all(node["children"], scope)
        if kind in ("COMPARE_IN", "COMPARE_NOT_IN"):
            first, *others = (v.text for v in fit(self.source, values, node["children"]))
            word = "IN" if kind == "COMPARE_IN" else "NOT IN"
            return Written(f"({first} {word} ({', '.join(others)}))")
        if kind in ("OPERATOR_IS_NULL", "OPERATOR_IS_NOT_NULL"):
            return Written(f"({values[0].text} {kind[9:].replace('_', ' ')})")
        if kind == "OPERATOR_COALESCE":
            return self._call("coalesce", fit(self.source, values, node["children"]), node)
        if kind == "ARRAY_EXTRACT":
            return Written(f"{values[0].text}[{values[1].text}]")
        self.source.fail(f"{kind.lower().replace('_', ' ')} is not allowed", node)

    def _between(self, node: Node, scope: Scope) -> Written:
        self.source.only(node, "input", "lower", "upper")
        nodes = [node["input"], node["lower"], node["upper"]]
        values = [without_categories(value) for value in self._all(nodes, scope)]
        value, lower, upper = (v.text for v in fit(self.source, values, nodes))
        return Written(f"({value} BETWEEN {lower} AND {upper})")

    def _case(self, node: Node, scope: Scope) -> Written:
        self.source.only(node, "case_checks", "else_expr")
        checks = [
            f"WHEN {self.truth(check['when_expr'], scope)} "
            f"THEN {self.text(check['then_expr'], scope)}"
            for check in node["case_checks"]
        ]
        last = self.text(node["else_expr"], scope)
        return Written(f"(CASE {' '.join(checks)} ELSE {last} END)")

    def _cast(self, node: Node, scope: Scope) -> Written:
        self.source.only(node, "child", "type_expr", "try_cast")
        self.source.only(node["type_expr"], "type_name", "qualified_name")
        name = node["type_expr"]["type_name"].upper()
        if name not in (*NUMBERS, *TEXTS):
            self.source.fail(
                f"the type {name} is not allowed; types: {', '.join((*NUMBERS, *TEXTS))}", node
            )
        word = "TRY_CAST" if node["try_cast"] else "CAST"
        text = f"{word}({self.text(node['child'], scope)} AS {name})"
        return Written(text, numeric=name in NUMBERS)

    def _function(self, node: Node, scope: Scope) -> Written:
        names = ("function_name", "arguments", "is_operator", "qualified_name")
        self.source.only(node, *names, "distinct", "filter")
        name = node["function_name"].lower()
        path = node.get("qualified_name", {}).get("path", [name])
        if [part.lower() for part in path] != [name]:
            self.source.fail(f"{'.'.join(path)} is not allowed", node)
        nodes = [argument["expression"] for argument in node["arguments"]]
        if any(argument["name"] for argument in node["arguments"]):
            self.source.fail(f"{name} takes no named arguments", node)
        values = self._all(nodes, scope)
        if node["is_operator"] and name in ARITHMETIC:
            values = fit(self.source, values, nodes) if name in "+-" else values
            units = next((v.units for v in values if v.units), "") if name in "+-" else ""
            texts = [value.text for value in values]
            text = f"({texts[0]} {name} {texts[1]})" if len(texts) == 2 else f"({name} {texts[0]})"
            text = self._power(text, node) if name in POWERS else text
            return Written(text, numeric=True, units=units)
        if name in MATCHES and len(values) == 2:
            return Written(f"({values[0].text} {MATCHES[name]} {values[1].text})")
        if name not in (*ALIKE, *NUMERIC, *OTHERS):
            near = difflib.get_close_matches(name, (*ALIKE, *NUMERIC, *OTHERS), 2)
            hint = f"; nearest: {', '.join(near)}" if near else ""
            self.source.fail(f"the function {name} is not allowed or does not exist{hint}", node)
        where = f" FILTER (WHERE {self.truth(node['filter'], scope)})" if node["filter"] else ""
        if name in ("least", "greatest", "nullif"):
            values = fit(self.source, values, nodes)
        return self._call(name, values, node, "DISTINCT " if node["distinct"] else "", where)

    def _call(
        self, name: str, values: list[Written], node: Node, distinct: str = "", where: str = ""
    ) -> Written:
        if name == "count_star":
            return Written(f"count(*){where}", numeric=True)
        text = f"{name}({distinct}{', '.join(value.text for value in values)}){where}"
        if name in UNKNOWN:
            return Written(f"coalesce({text}, {UNKNOWN[name]})")
        text = self._power(text, node) if name in POWERS else text
        numeric = name in NUMERIC or (
            name in (*ALIKE, "coalesce") and any(value.numeric for value in values)
        )
        units = next((v.units for v in values if v.units), "") if name not in NUMERIC else ""
        return Written(text, numeric=numeric, units=units if numeric else "")

    def _power(self, text: str, node: Node) -> str:
        """NULL where a power is NaN, which for DuckDB is larger than any number."""
        if text.count(NAN) > MOST_POWERS:  # each has DuckDB compute it twice
            self.source.fail(f"more than {MOST_POWERS} powers within each other", node)
        return f"nullif({text}, {NAN})"

    def _subquery(self, node: Node, scope: Scope) -> Written:
        self.source.only(node, "subquery_type", "subquery", "child", "comparison_type")
        kind, select = node["subquery_type"], node["subquery"]["node"]
        if select["type"] != "SELECT_NODE":
            self.source.fail("a subquery is one SELECT", node)
        names = ("select_list", "from_table", "where_clause", "group_expressions", "group_sets")
        self.source.only(select, *names, "having", "aggregate_handling")
        if len(select["group_sets"]) > 1 or select["aggregate_handling"] != "STANDARD_HANDLING":
            self.source.fail("a subquery has one plain GROUP BY", node)
        inner, conditions = Scope([], scope), list[Node]()
        self._from(select["from_table"], inner, conditions, node)
        value = self._selected(select["select_list"], kind, inner, node)
        groups = [self.text(group, inner) for group in select["group_expressions"]]
        having = self.truth(select["having"], inner) if select["having"] else ""
        if select["where_clause"]:
            conditions.append(select["where_clause"])
        written = [self.truth(condition, inner) for condition in conditions]
        tables = [f"{quote(table)} AS {quote(alias)}" for _, table, alias in inner.tables]
        tables += [f"structures AS {quote(alias)}" for _, alias in inner.hidden]
        text = f"SELECT {value.text} FROM {', '.join(tables)}"
        text += f" WHERE {' AND '.join([*self.names.link(inner), *written, 'true'])}"
        text += f" GROUP BY {', '.join(groups)}" if groups else ""
        text += f" HAVING {having}" if having else ""
        if kind in ("EXISTS", "NOT_EXISTS"):
            return Written(f"({kind.replace('_', ' ')} ({text}))")
        if kind == "SCALAR":
            return Written(f"({text})", None, value.numeric, value.units, value.categories)
        child = fit(self.source, [self.write(node["child"], scope), value], [node["child"], node])[
            0
        ]
        return Written(f"({child.text} {COMPARISONS[node['comparison_type']]} ANY ({text}))")

    def _selected(self, nodes: list[Node], kind: str, scope: Scope, parent: Node) -> Written:
        if kind in ("EXISTS", "NOT_EXISTS") and [node["class"] for node in nodes] == ["STAR"]:
            return Written("1")
        if len(nodes) != 1 or nodes[0]["class"] == "STAR":
            self.source.fail("a subquery selects one value", parent)
        return self.write(nodes[0], scope)

    def _from(
        self,
        node: Node,
        scope: Scope,
        conditions: list[Node],
        parent: Node,
    ) -> None:
        """Put the tables behind FROM into the scope, what they are joined on into conditions."""
        if node["type"] == "JOIN":
            names = ("left", "right", "condition", "join_type", "ref_type", "is_implicit")
            self.source.only(node, *names, "nearest_count", "nearest_order_type")
            if node["join_type"] != "INNER" or node["ref_type"] not in ("REGULAR", "CROSS"):
                self.source.fail("tables are joined by a comma or JOIN ... ON", parent)
            self._from(node["left"], scope, conditions, parent)
            self._from(node["right"], scope, conditions, parent)
            if node["condition"]:
                conditions.append(node["condition"])
            return
        self.names.add_table(node, scope, parent)


def _text(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"
