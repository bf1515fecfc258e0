"""Conditions give the images that NumPy gives, and can do nothing else."""

from __future__ import annotations

import operator
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

sys.path.append(str(Path(__file__).parent))

from columns_only import DEFECTS, DOSES, FIELDS, IMAGES, PARTICLES, make_database

from hpctem.collection.collection import Collection, open_collection
from hpctem.collection.sql import connect
from hpctem.collection.vocabulary import ALIKE, NUMERIC, OTHERS
from hpctem.database.reader import Database
from hpctem.errors import ConfigError, HpctemError

BAD = (3, 17)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("query")


@pytest.fixture(scope="module")
def collection(folder: Path) -> Iterator[Collection]:
    with open_collection(make_database(folder / "drawn.hdf5", bad=BAD)) as opened:
        yield opened


@pytest.fixture(scope="module")
def stored(collection: Collection) -> dict[str, np.ndarray]:
    """All columns for the good images, by plain h5py."""
    with h5py.File(collection.databases[0].path) as file:
        status = file["entry/structures/status"][()]
        structures = np.repeat(np.flatnonzero(status == 1), IMAGES)
        rows = (structures * IMAGES) + np.tile(np.arange(IMAGES), len(structures) // IMAGES)
        found = {}
        for name in ("thickness", "n_atoms", "lattice", "height", "name", "extra"):
            found[name] = file[f"entry/structures/{name}"][()][structures]
        found["structures.height"] = found["height"]
        for name, values in file["entry/metadata"].items():
            found[name] = values[()][rows]
        parts = ("particles/radius", "particles/n_atoms", "planar_defects/kind")
        for name, most in zip(parts, (PARTICLES, PARTICLES, DEFECTS), strict=True):
            found[name] = file[f"entry/{name}"][()].reshape(-1, most)[structures]
        for name in ("particles_placed", "defects_placed"):
            found[name] = file[f"entry/structures/{name}"][()][structures]
    found["lattice"] = np.array(["fcc", "bcc", "hcp"])[found["lattice"]]
    found["name"] = np.array([text.decode() for text in found["name"].tolist()])
    return found | {"row": rows}


def rows_where(collection: Collection, condition: str) -> list[int]:
    return collection.where(condition).rows.tolist()


def test_the_reference_knows_all_good_images(collection: Collection, stored: dict) -> None:
    assert len(stored["row"]) == (40 - len(BAD)) * IMAGES
    assert collection.rows.tolist() == stored["row"].tolist()


COMPARISONS = {
    "=": operator.eq,
    "<>": operator.ne,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
NUMBERS = ("dose", "defocus", "tilt", "thickness", "n_atoms", "height", "structures.height", "row")
Condition = tuple[str, Callable[[dict], np.ndarray]]


@st.composite
def comparisons(draw: st.DrawFn) -> Condition:
    """A comparison with a number that the column has, or nearly; as SQL and as NumPy."""
    name, word = draw(st.sampled_from(NUMBERS)), draw(st.sampled_from(sorted(COMPARISONS)))
    place = draw(st.integers(0, 200))
    change = draw(st.sampled_from([0.0, 0.0, 0.1, -1.0]))
    compare = COMPARISONS[word]

    def evaluate(stored: dict) -> np.ndarray:
        return compare(stored[name], stored[name][place].item() + change)

    return f"{name} {word} {{{name}:{place}:{change}}}", evaluate


@st.composite
def ranges(draw: st.DrawFn) -> Condition:
    name = draw(st.sampled_from(NUMBERS))
    one, other = draw(st.integers(0, 200)), draw(st.integers(0, 200))
    word = draw(st.sampled_from(["BETWEEN", "NOT BETWEEN"]))

    def evaluate(stored: dict) -> np.ndarray:
        values = stored[name]
        inside = (values >= values[one].item()) & (values <= values[other].item())
        return inside if word == "BETWEEN" else ~inside

    return f"{name} {word} {{{name}:{one}:0}} AND {{{name}:{other}:0}}", evaluate


@st.composite
def memberships(draw: st.DrawFn) -> Condition:
    lattices = draw(st.lists(st.sampled_from(["fcc", "bcc", "hcp"]), min_size=1, max_size=3))
    word = draw(st.sampled_from(["IN", "NOT IN"]))
    written = ", ".join(f"'{lattice}'" for lattice in lattices)

    def evaluate(stored: dict) -> np.ndarray:
        return np.isin(stored["lattice"], lattices) ^ (word == "NOT IN")

    return f"structures.lattice {word} ({written})", evaluate


def combine(children: st.SearchStrategy[Condition]) -> st.SearchStrategy[Condition]:
    def join(word: str, one: Condition, other: Condition) -> Condition:
        both = np.logical_and if word == "AND" else np.logical_or
        return f"({one[0]} {word} {other[0]})", lambda s: both(one[1](s), other[1](s))

    return st.one_of(
        st.builds(join, st.sampled_from(["AND", "OR"]), children, children),
        children.map(lambda one: (f"NOT ({one[0]})", lambda s: ~one[1](s))),
    )


CONDITIONS = st.recursive(st.one_of(comparisons(), ranges(), memberships()), combine, max_leaves=6)


def fill_in(condition: str, stored: dict) -> str:
    """Numbers as Python writes them, where the condition says which value of a column."""

    def number(text: str) -> str:
        name, place, change = text.split(":")
        return repr(stored[name][int(place)].item() + float(change))

    pieces = condition.replace("}", "{").split("{")
    return "".join(number(p) if k % 2 else p for k, p in enumerate(pieces))


@given(condition=CONDITIONS)
def test_conditions_choose_what_numpy_chooses(
    collection: Collection, stored: dict, condition: Condition
) -> None:
    expected = stored["row"][condition[1](stored)]
    assert rows_where(collection, fill_in(condition[0], stored)) == expected.tolist()


@pytest.mark.parametrize("value", DOSES)
def test_numbers_are_compared_to_the_last_bit(
    collection: Collection, stored: dict, value: float
) -> None:
    found = rows_where(collection, f"dose = {value!r}")
    assert found == stored["row"][stored["dose"] == value].tolist()
    assert found


@pytest.mark.parametrize(
    ("condition", "expression"),
    [
        ("abs(defocus) > 20 + 2 * 3", lambda s: np.abs(s["defocus"]) > 26),
        ("defocus / thickness > -0.5", lambda s: s["defocus"] / s["thickness"] > -0.5),
        ("row % 7 = 3 AND -row < -20", lambda s: (s["row"] % 7 == 3) & (s["row"] > 20)),
        ("n_atoms // 100 = 12", lambda s: s["n_atoms"] // 100 == 12),
        ("sqrt(dose) * 2 ** 3 < 100", lambda s: np.sqrt(s["dose"]) * 8 < 100),
        ("greatest(defocus, height) = 1", lambda s: s["defocus"] <= 1),
        ("name LIKE '%gström' OR name = ''", lambda s: np.isin(s["name"], ["Ångström", ""])),
        ("name = 'it''s'", lambda s: s["name"] == "it's"),
        ("starts_with(name, 'go')", lambda s: s["name"] == "gold"),
        ("lattice ILIKE 'F%'", lambda s: s["lattice"] == "fcc"),
        (
            "CASE WHEN dose > 200 THEN defocus > 0 ELSE false END",
            lambda s: (s["dose"] > 200) & (s["defocus"] > 0),
        ),
        ("extra > 10", lambda s: s["extra"] > 10),
        ("extra IS NULL", lambda s: np.isnan(s["extra"])),
        ("isnan(extra)", lambda s: np.isnan(s["extra"])),
        ("NOT isnan(extra) AND isfinite(dose)", lambda s: ~np.isnan(s["extra"])),
        ("NOT isfinite(extra) AND NOT isinf(extra)", lambda s: np.isnan(s["extra"])),
        ("defocus ** 0.5 > 3", lambda s: np.maximum(s["defocus"], 0) ** 0.5 > 3),
        ("NOT pow(defocus, 0.5) <= 3", lambda s: np.maximum(s["defocus"], 0) ** 0.5 > 3),
        (
            "dose / nullif(focus_index, 0) > 200",
            lambda s: (s["focus_index"] > 0) & (s["dose"] > 200 * s["focus_index"]),
        ),
        ("coalesce(extra, 5) < 6", lambda s: np.where(np.isnan(s["extra"]), 5, s["extra"]) < 6),
        ('"offset" = 2 AND images.offset > 1', lambda s: s["offset"] == 2),
        ("DOSE > 200 AND Images.Defocus > 0", lambda s: (s["dose"] > 200) & (s["defocus"] > 0)),
        ("height > 2", lambda s: s["height"] > 2),
        ("structures.height > 55", lambda s: s["structures.height"] > 55),
        ("structures.structure_id < 5", lambda s: s["structure_id"] < 5),
        ("database = 'drawn.hdf5' AND campaign = 'drawn'", lambda s: s["row"] >= 0),
        ("status = 'good' AND error = ''", lambda s: s["row"] >= 0),
        ("CAST(dose AS INTEGER) = 100", lambda s: s["dose"] == 100),
        ("dose IS NOT NULL AND true", lambda s: s["row"] >= 0),
        ("NULL", lambda s: s["row"] < 0),
        # Parts of the structure: such a row exists, the same one in the whole condition.
        ("particles.radius > 30", lambda s: any_part(s, "particles", lambda p: p["radius"] > 30)),
        (
            "particles.radius > 30 AND particles.n_atoms < 40",
            lambda s: any_part(s, "particles", lambda p: (p["radius"] > 30) & (p["n_atoms"] < 40)),
        ),
        (
            "particles.radius > 30 AND planar_defects.kind = 'twin' AND dose > 200",
            lambda s: (
                any_part(s, "particles", lambda p: p["radius"] > 30)
                & any_part(s, "planar_defects", lambda p: p["kind"] == 0)
                & (s["dose"] > 200)
            ),
        ),
        (
            "dose > 800 OR particles.radius > 38",
            lambda s: (s["dose"] > 800) | any_part(s, "particles", lambda p: p["radius"] > 38),
        ),
        ("particles.radius IS NULL", lambda s: s["particles_placed"] == 0),
        (
            "NOT EXISTS (FROM planar_defects WHERE kind = 'twin')",
            lambda s: ~any_part(s, "planar_defects", lambda p: p["kind"] == 0),
        ),
        ("(SELECT count(*) FROM planar_defects) >= 3", lambda s: s["defects_placed"] >= 3),
        (
            "(SELECT min(radius) FROM particles) > 20 AND particles_placed > 0",
            lambda s: (
                (s["particles_placed"] > 0) & ~any_part(s, "particles", lambda p: p["radius"] <= 20)
            ),
        ),
        (
            "30 < ALL (SELECT radius FROM particles)",
            lambda s: ~any_part(s, "particles", lambda p: p["radius"] <= 30),
        ),
        (
            "EXISTS (SELECT 1 FROM particles p JOIN particles q ON p.radius > q.radius + 15)",
            lambda s: spread_of(s) > 15,
        ),
        (
            "structure_id IN (SELECT structure_id FROM planar_defects WHERE kind = 'twin')",
            lambda s: any_part(s, "planar_defects", lambda p: p["kind"] == 0),
        ),
        (
            "thickness > (SELECT avg(thickness) FROM structures)",
            lambda s: s["thickness"] > s["thickness"][::IMAGES].mean(),
        ),
        (
            "thickness > (SELECT avg(thickness) FROM images)",
            lambda s: s["thickness"] > s["thickness"].mean(),
        ),
        (
            "defocus > (SELECT avg(defocus) FILTER (WHERE dose > 200) FROM images)",
            lambda s: s["defocus"] > s["defocus"][s["dose"] > 200].mean(),
        ),
        (
            "particles_placed > (SELECT count(p.radius) FROM structures s, particles p) / 40",
            lambda s: s["particles_placed"] > s["particles_placed"][::IMAGES].sum() / 40,
        ),
        (
            "focus_index = (SELECT max(i.focus_index) FROM images i)",
            lambda s: s["focus_index"] == 2,
        ),
    ],
)
def test_what_sql_offers_is_what_numpy_computes(
    collection: Collection, stored: dict, condition: str, expression: Callable
) -> None:
    with np.errstate(invalid="ignore"):
        expected = stored["row"][expression(stored)]
    assert rows_where(collection, condition) == expected.tolist()


def any_part(stored: dict, table: str, fulfils: Callable) -> np.ndarray:
    """Whether a used row of a structure's table fulfils something, for each image."""
    count = stored["particles_placed" if table == "particles" else "defects_placed"]
    names = ("radius", "n_atoms") if table == "particles" else ("kind",)
    part = {name: stored[f"{table}/{name}"] for name in names}
    used = np.arange(part[names[0]].shape[1]) < count[:, np.newaxis]
    return (fulfils(part) & used).any(axis=1)


def spread_of(stored: dict) -> np.ndarray:
    """Largest difference between the radii of a structure's particles, for each image."""
    pairs = zip(stored["particles/radius"], stored["particles_placed"], strict=True)
    return np.array([np.ptp(radii[:count]) if count else 0 for radii, count in pairs])


@pytest.mark.parametrize(
    ("condition", "plain"),
    [
        ("defocus > '2 nm'", "defocus > 20"),
        ("defocus < '-0.001 um'", "defocus < -10"),
        (
            "'2 nm' < defocus AND defocus BETWEEN '-30 A' AND '4 nm'",
            "defocus BETWEEN 20.001 AND 40",
        ),
        ("tilt > '5 mrad'", "tilt > 0.005"),
        ("abs(tilt) < '0.5 deg'", f"abs(tilt) < {np.pi / 360!r}"),
        ("dose IN ('100 e/A^2', '90000 e/nm^2')", "dose IN (100, 900)"),
        ("particles.radius >= '3 nm'", "particles.radius >= 30"),
        ("defocus + '1 nm' > thickness", "defocus + 10 > thickness"),
        (
            "(SELECT max(radius) FROM particles) > '3 nm'",
            "(SELECT max(radius) FROM particles) > 30",
        ),
        ("n_atoms > '1500'", "n_atoms > 1500"),
    ],
)
def test_quantities_are_compared_in_the_unit_of_the_column(
    collection: Collection, condition: str, plain: str
) -> None:
    found = rows_where(collection, condition)
    assert found == rows_where(collection, plain)
    assert 0 < len(found) < len(collection)


def test_an_order_sorts_as_numpy_sorts(collection: Collection, stored: dict) -> None:
    table = collection.table(columns=["row"], order="lattice DESC, dose, defocus * -1")
    names = np.unique(stored["lattice"], return_inverse=True)[1]
    order = np.lexsort((-stored["defocus"], stored["dose"], -names))
    assert table["row"].to_pylist() == stored["row"][order].tolist()


def test_ties_keep_their_order_and_what_is_missing_comes_last(
    collection: Collection, stored: dict
) -> None:
    place = np.where(np.isnan(stored["extra"]), np.inf, stored["extra"])
    for order, key in (("extra", place), ("extra DESC", np.where(np.isinf(place), 1e9, -place))):
        found = collection.table(columns=["row"], order=order)["row"].to_pylist()
        assert found == stored["row"][np.argsort(key, kind="stable")].tolist()


def test_condition_order_and_limit_go_together(collection: Collection, stored: dict) -> None:
    table = collection.table("dose > 200", ["row", "defocus"], "defocus DESC", 5)
    chosen = np.flatnonzero(stored["dose"] > 200)
    best = chosen[np.argsort(-stored["defocus"][chosen], kind="stable")][:5]
    assert table["row"].to_pylist() == stored["row"][best].tolist()
    assert table["defocus"].to_pylist() == stored["defocus"][best].tolist()
    assert collection.table("dose > 200", ["row"], limit=3)["row"].to_pylist() == (
        stored["row"][chosen[:3]].tolist()
    )
    assert collection.table(limit=0).num_rows == 0


def test_a_view_is_asked_by_its_own_images(collection: Collection, stored: dict) -> None:
    """Also one in another order, with rows that come twice; 'images' is then the view."""
    places = np.random.default_rng(1).integers(0, len(collection), 100)
    view = collection.take(places)
    expected = places[stored["dose"][places] > 200]
    assert view.where("dose > 200").rows.tolist() == stored["row"][expected].tolist()
    mean = stored["defocus"][places].mean()
    expected = places[stored["defocus"][places] > mean]
    found = view.where("defocus > (SELECT avg(defocus) FROM images)")
    assert found.rows.tolist() == stored["row"][expected].tolist()


def test_only_the_columns_that_are_named_are_read(
    collection: Collection, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []
    mapped = Database.mapped

    def record(self: Database, name: str) -> np.ndarray:
        read.append(name.removeprefix("/entry/"))
        return mapped(self, name)

    monkeypatch.setattr(Database, "mapped", record)
    collection.where("dose > 200 AND particles.radius > 20")
    assert sorted(read) == ["metadata/dose", "particles/radius"]
    read.clear()
    collection.table("thickness > 30", ["row", "lattice"], "defocus", 3)
    assert set(read) == {"structures/thickness", "structures/lattice", "metadata/defocus"}


REFUSED = {
    "two statements": "dose > 1; DROP TABLE images",
    "semicolon": "dose > 1;",
    "comment that cuts": "dose > 1 -- AND defocus > 2",
    "comment within": "dose > /* 5 */ 1",
    "two minus signs": "dose > 5--3",
    "parenthesis that escapes": "1=1) OR (1=1",
    "union": "dose > 1 UNION SELECT 1",
    "union that escapes": "1=1) UNION SELECT * FROM read_csv('/etc/passwd') WHERE (1=1",
    "group": "dose > 1 GROUP BY dose",
    "order": "dose > 1 ORDER BY dose",
    "limit": "dose > 1 LIMIT 1",
    "window clause": "dose > 1 WINDOW w AS (PARTITION BY dose)",
    "qualify": "dose > 1 QUALIFY row_number() OVER () = 1",
    "sample": "dose > 1 USING SAMPLE 3",
    "file by function": "EXISTS (FROM read_csv('/etc/passwd'))",
    "file by name": "EXISTS (FROM '/etc/passwd')",
    "file in a subquery": "dose IN (SELECT column0 FROM read_csv_auto('/etc/passwd'))",
    "text of a file": "EXISTS (SELECT content FROM read_text('/etc/passwd'))",
    "folder": "EXISTS (FROM glob('/etc/*'))",
    "parquet": "EXISTS (FROM parquet_scan('x.parquet'))",
    "network": "EXISTS (FROM 'https://example.org/x.csv')",
    "attach": "ATTACH 'x.db'",
    "attach after": "dose > 1; ATTACH 'x.db' AS x",
    "copy": "dose > 1; COPY images TO 'x.csv'",
    "pragma": "PRAGMA database_list",
    "pragma function": "EXISTS (FROM pragma_database_list())",
    "install": "INSTALL httpfs",
    "load": "dose > 1; LOAD httpfs",
    "set": "SET threads = 1",
    "set after": "dose > 1; SET enable_external_access = true",
    "create": "CREATE TABLE x (y INTEGER)",
    "insert": "dose > 1; INSERT INTO images VALUES (1)",
    "export": "EXPORT DATABASE 'x'",
    "call": "CALL duckdb_settings()",
    "call in a subquery": "EXISTS (FROM duckdb_settings())",
    "catalog": "EXISTS (FROM information_schema.tables)",
    "catalog of a name": "EXISTS (FROM memory.main.images)",
    "environment": "getenv('HOME') = 'x'",
    "setting": "current_setting('threads') = '1'",
    "user": "current_user = 'x'",
    "qualified function": "main.abs(dose) > 1",
    "query": "EXISTS (FROM query('SELECT 1'))",
    "table by name": "EXISTS (FROM query_table('images'))",
    "chance": "random() < 0.5",
    "clock": "now() IS NOT NULL",
    "sequence": "nextval('x') > 1",
    "memory": "length(repeat('x', 1000000000)) > 1",
    "endless": "EXISTS (FROM range(1000000000000))",
    "recursion": "EXISTS (WITH RECURSIVE t AS (SELECT 1 UNION ALL FROM t) FROM t)",
    "common table": "EXISTS (WITH t AS (FROM images) FROM t)",
    "values": "EXISTS (VALUES (1))",
    "subquery of a subquery's": "EXISTS (FROM (SELECT dose FROM images) t)",
    "set operation in a subquery": "dose IN (SELECT 1 UNION SELECT 2)",
    "limit in a subquery": "dose IN (SELECT dose FROM images LIMIT 1)",
    "parameter": "dose > ?",
    "numbered parameter": "dose > $1",
    "named parameter": "dose > $x",
    "columns": "COLUMNS('d.*') > 1",
    "star": "COLUMNS(*) > 1",
    "lambda": "list_contains(list_transform([1], lambda x: x), 1)",
    "position": "#1 > 1",
    "collation": "name = 'x' COLLATE nocase",
    "window": "row_number() OVER () > 1",
    "struct": "struct_pack(a := 1).a = 1",
    "default": "dose = DEFAULT",
    "cast to a type of its own": "CAST('x' AS BLOB) IS NULL",
    "row": "(dose, defocus) IN ((1, 2))",
    "left join": "EXISTS (FROM particles p LEFT JOIN planar_defects d ON true)",
    "using": "EXISTS (FROM particles JOIN planar_defects USING (structure_id))",
    "images twice": "EXISTS (FROM images a, images b)",
    "sampled": "EXISTS (FROM images TABLESAMPLE 10%)",
    "pivot": "EXISTS (PIVOT images ON dose USING count(*))",
    "hexadecimal": "name = x'00'",
    "null byte": "dose > 1 \0",
    "half a character": "name = '\ud800'",
    "nothing": "  ",
    "no expression": ")",
    "unfinished text": "name = 'x",
    "unfinished comment": "dose > 1 /* x",
    "unfinished quote": 'dose > 1 AND "do',
    "aggregate": "max(dose) > 3",
    "internal key": "__place > 1",
    "internal structure": "images.__structure > 1",
    "row number of DuckDB": "rowid > 1",
    "deep": "(" * 3000 + "1" + ")" * 3000,
    "long": "dose > 1 " + "AND dose > 1 " * 100_000,
}


def test_a_condition_is_a_text(collection: Collection) -> None:
    with pytest.raises(ConfigError, match="a condition is a text such as"):
        collection.where(3)  # type: ignore[arg-type]


@pytest.mark.parametrize("condition", REFUSED.values(), ids=REFUSED.keys())
def test_what_is_no_plain_condition_is_refused_in_one_sentence(
    collection: Collection, condition: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError) as caught:
        collection.where(condition)
    assert list(tmp_path.iterdir()) == []
    message = str(caught.value)
    assert len(message.splitlines()) in (1, 3) and len(message) < 600


@pytest.mark.parametrize(
    "order",
    ["", "1", "dose; DROP TABLE x", "dose LIMIT 1", "dose -- x", "dose) FROM x ORDER BY (1",
     "random()", "dose, (SELECT content FROM read_text('/etc/passwd'))", "particles.radius",
     "dosis", "ALL", "dose OFFSET 3"],
)  # fmt: skip
def test_an_order_can_do_nothing_else_either(collection: Collection, order: str) -> None:
    with pytest.raises(ConfigError):
        collection.table(order=order)


@pytest.mark.parametrize(
    "statement",
    ["FROM read_csv('/etc/passwd')", "FROM '/etc/passwd'", "ATTACH '/tmp/hpctem_x.db'",
     "COPY (SELECT 1) TO '/tmp/hpctem_x.csv'", "INSTALL httpfs", "LOAD httpfs",
     "SET enable_external_access = true", "SET threads = 1", "SET lock_configuration = false",
     "FROM secret"],
)  # fmt: skip
def test_even_unchecked_sql_would_find_no_file_and_no_setting(statement: str) -> None:
    """The second wall behind the first: `secret` is a variable of this function."""
    import duckdb

    secret = open_collection  # noqa: F841
    with connect() as connection, pytest.raises(duckdb.Error):
        connection.execute(statement).fetchall()


@pytest.mark.parametrize("name", [n for n in (*ALIKE, *NUMERIC, *OTHERS) if n != "count_star"])
def test_every_function_that_is_allowed_exists(name: str) -> None:
    with connect() as connection:
        known = "SELECT count(*) FROM duckdb_functions() WHERE function_name = ?"
        grammar = ("nullif", "position", "if")
        assert name in grammar or connection.execute(known, [name]).fetchall()[0][0]


@pytest.mark.parametrize(
    ("condition", "words"),
    [
        ("dosee > 1", ["'dosee'", "nearest: dose", "\n  dosee > 1\n  ^"]),
        ("dose > 1 AND thicknes > 2", ["nearest: thickness", "\n" + " " * 15 + "^"]),
        ("particles.radis > 1", ["'particles.radis'", "particles.radius"]),
        ("particle.radius > 1", ["'particle.radius'", "particles.radius"]),
        ("radius > 1", ["particles.radius"]),
        ("offset > 1", ['"offset"']),
        ("lattice = 'fc'", ["'fc'", "fcc, bcc, hcp", "nearest: 'fcc'"]),
        ("planar_defects.kind <> 'twins'", ["'twins'", "'twin'"]),
        ("campaign = 'drown'", ["nearest: 'drawn'"]),
        ("defocus > '30'", ["no unit", "nm"]),
        ("defocus > '30 mrad'", ["not a unit of length"]),
        ("n_atoms > 'many'", ["'many'", "not a number"]),
        ("dose > 1 AND sqr(dose) > 1", ["sqr", "nearest: sqrt"]),
        ("dose >", ["syntax error", "^"]),
        ("name > 1 AND LIKE", ["syntax error"]),
        ("(SELECT radius FROM particle) > 1", ["'particle'", "particles"]),
        ("Å = 1 AND dosee > 1", ["'Å'"]),
        ("name = 'Å' AND dosee > 1", ["'dosee'", "\n" + " " * 17 + "^"]),
        ("dose > 1e999", ["too large"]),
        # What NumPy makes NaN, and DuckDB larger than any number.
        ("sqrt(defocus) > 1", ["square root of a negative number"]),
        ("ln(0 * dose - 1) > 1", ["logarithm"]),
        ("dose / focus_index > 1", ["Division by zero; nullif(x, 0) makes NULL of zero"]),
        ("dose % focus_index = 1", ["Division by zero"]),
        ("pow(" * 20 + "dose" + ", 0.5)" * 20 + " > 1", ["8 powers"]),
        ("defocus > dose", ["electron/angstrom^2 stands beside one in angstrom", "^"]),
        ("defocus + tilt > 1", ["a value in rad"]),
        ("defocus IN (SELECT dose FROM images)", ["beside one in angstrom"]),
        # DuckDB would take the number for true, and so every image.
        ("dose = 400 OR 1600", ["neither true nor false", "\n" + " " * 16 + "^"]),
        ("dose", ["a number is neither true", "dose IN (400, 1600)"]),
        ("NOT lattice", ["a text is neither true"]),
        ("dose > 1 AND 'x'", ["a text is neither true"]),
        ("CASE WHEN dose THEN true ELSE false END", ["a number is neither true"]),
        ("EXISTS (FROM particles WHERE radius)", ["a number is neither true"]),
        ("(SELECT count(*) FROM images HAVING count(*)) > 1", ["a number is neither true"]),
        ("(SELECT count(*) FILTER (WHERE 1) FROM images) > 1", ["a number is neither true"]),
        ("dose > 300 nm", ["single quotes: '300 nm'"]),
        ("defocus BETWEEN -5 nm AND 5 nm", ["single quotes: '-5 nm'"]),
        ("dose > 500 focus_index = 1", ["syntax error", "^"]),
        ("planar_defects.kind = twin", ["no column 'twin'", "single quotes: 'twin'"]),
        ("something_else > 1", ["'hpctem info --columns' lists them"]),
    ],
)
def test_mistakes_are_named_with_what_was_meant(
    collection: Collection, condition: str, words: list[str]
) -> None:
    with pytest.raises(ConfigError) as caught:
        collection.where(condition)
    for word in words:
        assert word in str(caught.value)


WORDS = st.sampled_from(
    "dose defocus name lattice particles.radius images structures particles kind 1 0.5 'x' '2 nm' "
    "NULL true = <> < > + - * / % ( ) ( ) , . ; AND OR NOT IN BETWEEN IS LIKE CASE WHEN THEN ELSE "
    "END SELECT FROM WHERE EXISTS ANY ALL GROUP BY count(*) max( CAST( AS DOUBLE ::INTEGER [1] "
    "DISTINCT UNION read_csv( ' \" $$ -- /* \\ ? : [ ] { } @ # ~ ! ^ & |".split(" ")
)


@given(text=st.one_of(st.text(max_size=60), st.lists(WORDS, max_size=14).map(" ".join)))
@example(text="dose > 1 AND (")
@example(text="CASE END")
@example(text="particles.radius[1] > 2")
@example(text="'x' = 'y'")
@example(text="CAST('x' AS DOUBLE) > 1")
@example(text="dose % 0 = 1 OR 1 / 0 > 2")
@example(text="n_atoms * n_atoms * n_atoms * n_atoms * n_atoms * n_atoms * n_atoms > 1")
@example(text="name ~ '('")
@example(text="(SELECT radius FROM particles) > 1")
def test_no_text_does_anything_but_choose_or_be_refused(collection: Collection, text: str) -> None:
    try:
        found = collection.where(text)
    except HpctemError as error:
        assert str(error)
    else:
        assert set(found.rows.tolist()) <= set(collection.rows.tolist())


@pytest.fixture(scope="module")
def volumes(folder: Path) -> list[Path]:
    """The same campaign as a whole and in two volumes."""
    return [
        make_database(folder / "drawn.v1of2.hdf5", 15, 0, bad=BAD[:1]),
        make_database(folder / "drawn.v2of2.hdf5", 25, 15, bad=BAD[1:]),
    ]


@pytest.mark.parametrize(
    "condition",
    ["dose > 200 AND thickness > 30", "particles.radius > 30", "structure_id > 12 AND dose > 200",
     "thickness > (SELECT avg(thickness) FROM structures)",
     "(SELECT count(*) FROM planar_defects WHERE kind = 'twin') = 2"],
)  # fmt: skip
def test_volumes_are_asked_as_the_whole_campaign(
    collection: Collection, volumes: list[Path], condition: str
) -> None:
    names = ["structure_id", "dose", "defocus", "lattice", "name"]
    with open_collection(volumes) as parts:
        assert len(parts) == len(collection)
        found = parts.table(condition, names)
        assert found.equals(collection.table(condition, names))
        assert found.num_rows


def test_several_campaigns_are_told_apart(folder: Path, collection: Collection) -> None:
    """Their structure 0 is not the same one: parts belong to the structure of their own file."""
    other = make_database(folder / "other.hdf5", 40, seed=2, name="other")
    with (
        open_collection([collection.databases[0].path, other]) as both,
        open_collection(other) as alone,
    ):
        for condition in ("particles.radius > 30", "(SELECT sum(radius) FROM particles) > 60"):
            expected = len(collection.where(condition)) + len(alone.where(condition))
            found = both.where(condition)
            assert len(found) == expected
            only = found.where("campaign = 'other'")
            assert only.rows.tolist() == alone.where(condition).rows.tolist()
            assert set(only.column("database")) == {"other.hdf5"}


def test_a_column_that_one_campaign_lacks_is_null_there(folder: Path) -> None:
    fields = [item for item in FIELDS if item.name not in ("thickness", "name", "lattice", "tilt")]
    paths = [
        make_database(folder / "all.hdf5", 8, name="all"),
        make_database(folder / "some.hdf5", 8, name="some", fields=fields),
    ]
    with open_collection(paths) as both:
        assert both.columns["thickness"].missing == ("some.hdf5",)
        assert set(both.where("thickness IS NULL").column("campaign")) == {"some"}
        assert len(both.where("thickness > 0 OR thickness <= 0")) == 8 * IMAGES
        assert len(both.where("lattice IS NULL AND name IS NULL AND tilt IS NULL")) == 8 * IMAGES
        assert np.isnan(both.column("thickness")[-1]) and both.column("name")[-1] == ""
        assert both.table(columns=["lattice"])["lattice"].null_count == 8 * IMAGES


def test_a_table_that_one_campaign_lacks_has_no_rows_there(folder: Path) -> None:
    fields = [item for item in FIELDS if item.table != "particles"]
    paths = [
        make_database(folder / "with.hdf5", 8, name="with"),
        make_database(folder / "without.hdf5", 8, name="without", fields=fields),
    ]
    with open_collection(paths) as both:
        found = both.where("particles.radius > 0")
        assert set(found.column("campaign")) == {"with"}
        assert len(both.where("NOT EXISTS (FROM particles)").where("campaign = 'without'")) == 48


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"units": "nm"}, "nm and elsewhere in angstrom"),
        ({"dtype": np.dtype("i4")}, "an integer and elsewhere a float"),
        ({"shape": (2,)}, "of shape (2,) and elsewhere ()"),
    ],
)
def test_columns_that_mean_other_things_are_refused_where_they_are_used(
    folder: Path, change: dict, words: str
) -> None:
    fields = [replace(f, **change) if f.name == "thickness" else f for f in FIELDS]
    name = f"changed_{next(iter(change))}"
    if "shape" in change or "dtype" in change:
        # Never computed: what is asked is only what the columns are.
        path = make_database(folder / f"{name}.hdf5", 8, name=name, fields=fields, stop_after=0)
    else:
        path = make_database(folder / f"{name}.hdf5", 8, name=name, fields=fields)
    one = make_database(folder / f"{name}_one.hdf5", 8)
    with open_collection([one, path]) as both:
        assert len(both.where("dose > 0")) >= 8 * IMAGES
        for use in (both.where, both.column):
            with pytest.raises(ConfigError, match="thickness") as caught:
                use("thickness > 3" if use == both.where else "thickness")
            assert words in str(caught.value) and path.name in str(caught.value)


def test_numbers_of_other_widths_and_other_categories_become_one_column(folder: Path) -> None:
    changes = {
        "dose": {"dtype": np.dtype("f4")},
        "focus_index": {"dtype": np.dtype("i2")},
        "lattice": {"categories": ("hcp", "fcc", "bcc", "wurtzite")},
    }
    fields = [replace(f, **changes.get(f.name, {})) for f in FIELDS]
    paths = [
        make_database(folder / "wide.hdf5", 8),
        make_database(folder / "narrow.hdf5", 8, fields=fields, name="narrow"),
    ]
    with open_collection(paths) as both:
        assert both.columns["dose"].dtype == np.float64
        assert both.columns["lattice"].categories == ("fcc", "bcc", "hcp", "wurtzite")
        one, other = (both.where(f"database = '{path.name}'") for path in paths)
        assert one.column("lattice").tolist() == other.column("lattice").tolist()
        found = both.where("lattice = 'hcp'")
        assert set(found.column("lattice")) == {"hcp"}
        assert len(set(found.column("database"))) == 2
        assert both.table(columns=["lattice"])["lattice"].to_pylist() == (
            both.column("lattice").tolist()
        )


def test_an_unfinished_database_shows_what_is_committed(folder: Path) -> None:
    path = make_database(folder / "unfinished.hdf5", 40, bad=BAD, stop_after=2)
    with open_collection(path) as half:
        expected = [s for s in range(16) if s not in BAD]
        assert sorted(set(half.column("structure_id").tolist())) == expected
        assert len(half.where("dose >= 0 OR dose IS NULL")) == len(expected) * IMAGES
        assert len(half.where("(SELECT count(*) FROM structures) = 15")) == len(half)


def test_parts_of_quarantined_structures_are_not_seen(collection: Collection) -> None:
    counts = [
        collection.table(f"(SELECT count(*) FROM structures s, {table} p) = {count}", ["row"])
        for table, count in (
            ("particles", len(collection.databases[0].rows("particles"))),
            ("planar_defects", len(collection.databases[0].rows("planar_defects"))),
        )
    ]
    assert [table.num_rows for table in counts] == [len(collection)] * 2
