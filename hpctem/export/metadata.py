"""Tables in Parquet and in CSV: the columns of all exported images, the objects that they show."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from hpctem.collection.columns import Column
from hpctem.collection.objects import list_object_columns, read_objects
from hpctem.export.maps import Map
from hpctem.export.objects import list_objects
from hpctem.export.plan import FORMATS, Choice, Form, Shard, make_keys
from hpctem.export.records import read_columns

if TYPE_CHECKING:
    import pyarrow

ROWS_AT_ONCE = 65536
IMAGES = PurePosixPath("images")
PARQUET, CSV = "metadata.parquet", "metadata.csv"
# What the table says beside the columns of the database: name -> description.
OWN = {
    "part": "part of the subset",
    "key": "name of the image in the export: campaign and row",
    "file": "file that holds the image",
    "index": "place of the image in that file",
}


def write_metadata(folder: Path, shards: Sequence[Shard], choice: Choice, form: Form) -> list[str]:
    """Write the table of the images, in the order of the shards, and those of their objects.

    Returns the names of the files.
    """
    _write_table(folder, (PARQUET, CSV), _read_tables(shards, choice, form))
    parts = list({shard.part.name: shard.part for shard in shards}.values())
    names = [PARQUET, CSV]
    for table in list_objects(parts[0].collection):
        pair = (f"{table}.parquet", f"{table}.csv")
        columns = list_object_columns(parts[0].collection, table)
        found = read_objects([part.collection for part in parts], table)
        _write_table(folder, pair, (_annotate(rows, columns) for rows in found))
        names += pair
    return names


def _write_table(folder: Path, names: tuple[str, str], tables: Iterable[pyarrow.Table]) -> None:
    import pyarrow as pa
    import pyarrow.csv
    import pyarrow.parquet

    parquet: Any = None
    csv: Any = None
    try:
        for table in tables:
            if parquet is None:
                parquet = pa.parquet.ParquetWriter(folder / names[0], table.schema)
                csv = pa.csv.CSVWriter(folder / names[1], _flatten(table).schema)
            parquet.write_table(table)
            csv.write_table(_flatten(table))
    finally:
        for writer in (parquet, csv):
            if writer is not None:
                writer.close()


def image_path(
    shard: Shard, key: str, choice: Choice, folder: PurePosixPath = IMAGES
) -> PurePosixPath:
    """The file of an image, or of what goes with it in a folder of `map_folder`."""
    form = FORMATS[choice.format]
    if form.kind != "file":
        return shard.path
    part = PurePosixPath(shard.part.name)
    return part / folder / shard.path.relative_to(part) / f"{key}{form.suffix}"


def map_folder(each: Map) -> PurePosixPath:
    """Where its files are: labels (of the only one), labels/NAME, detectors/NAME."""
    return PurePosixPath(each.spell("/", many=True))


def _read_tables(shards: Sequence[Shard], choice: Choice, form: Form) -> Iterator[pyarrow.Table]:
    for shard in shards:
        for start in range(shard.start, shard.stop, ROWS_AT_ONCE):
            stop = min(start + ROWS_AT_ONCE, shard.stop)
            yield _make_table(shard, start, stop, choice, form)


def _make_table(shard: Shard, start: int, stop: int, choice: Choice, form: Form) -> pyarrow.Table:
    import pyarrow as pa

    keys = make_keys(shard.part, form, start, stop)
    single = FORMATS[choice.format].kind == "file"
    columns = read_columns(shard.part, start, stop)
    places = [0] * len(keys) if single else range(start - shard.start, stop - shard.start)
    own = {
        "part": pa.array([shard.part.name] * len(keys), pa.string()),
        "key": pa.array(keys, pa.string()),
        "file": pa.array([str(image_path(shard, key, choice)) for key in keys], pa.string()),
        "index": pa.array(places, pa.int64()),
    }
    annotated = _annotate(columns, shard.part.collection.columns)
    fields = [pa.field(n, a.type, metadata={"description": OWN[n]}) for n, a in own.items()]
    schema = pa.schema([*fields, *annotated.schema])
    return pa.Table.from_arrays([*own.values(), *annotated.columns], schema=schema)


def _annotate(table: pyarrow.Table, columns: Mapping[str, Column]) -> pyarrow.Table:
    """Unit and description with each column; categories as texts."""
    import pyarrow as pa

    fields = []
    for item in table.schema:
        column = columns[item.name]
        notes = {"units": column.units, "description": column.description}
        kind = pa.string() if pa.types.is_dictionary(item.type) else item.type
        fields.append(pa.field(item.name, kind, metadata=notes))
    return table.cast(pa.schema(fields))


def _flatten(table: pyarrow.Table) -> pyarrow.Table:
    """Vectors as text, which is all that CSV has: bytes in hexadecimal, numbers with spaces."""
    import pyarrow as pa

    for number, item in enumerate(table.schema):
        if pa.types.is_list(item.type) or pa.types.is_fixed_size_list(item.type):
            whole = item.type.value_type == pa.uint8()
            texts = [
                None if v is None else (bytes(v).hex() if whole else " ".join(map(repr, v)))
                for v in table.column(number).to_pylist()
            ]
            table = table.set_column(number, item.name, pa.array(texts, pa.string()))
    return table
