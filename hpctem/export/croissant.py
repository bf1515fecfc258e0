"""Croissant 1.0 (ML Commons): the export described for programs, as JSON-LD.

Files with their digests, every column with its type, unit and meaning; data portals and
`mlcroissant` read it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hpctem.collection.collection import Collection
from hpctem.collection.columns import Column
from hpctem.collection.objects import list_object_columns
from hpctem.export.files import Written
from hpctem.export.maps import Map
from hpctem.export.metadata import OWN, map_folder
from hpctem.export.objects import OBJECTS, list_objects
from hpctem.export.plan import FORMATS, Choice, Form

CONFORMS = "http://mlcommons.org/croissant/1.0"
SUMS = "SHA256SUMS"
MEDIA = {
    ".hdf5": "application/x-hdf5",
    ".emd": "application/x-hdf5",
    ".tfrecord": "application/x-tfrecord",
    ".tar": "application/x-tar",
    ".gz": "application/gzip",
    ".tif": "image/tiff",
    ".png": "image/png",
    ".parquet": "application/x-parquet",
    ".csv": "text/csv",
    ".json": "application/json",
    ".yaml": "application/yaml",
    "": "text/plain",
}
CONTEXT: Mapping[str, Any] = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "citeAs": "cr:citeAs",
    "column": "cr:column",
    "conformsTo": "dct:conformsTo",
    "cr": "http://mlcommons.org/croissant/",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "equivalentProperty": "cr:equivalentProperty",
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "extract": "cr:extract",
    "field": "cr:field",
    "fileObject": "cr:fileObject",
    "fileProperty": "cr:fileProperty",
    "fileSet": "cr:fileSet",
    "format": "cr:format",
    "includes": "cr:includes",
    "isLiveDataset": "cr:isLiveDataset",
    "jsonPath": "cr:jsonPath",
    "key": "cr:key",
    "md5": "cr:md5",
    "parentField": "cr:parentField",
    "path": "cr:path",
    "recordSet": "cr:recordSet",
    "references": "cr:references",
    "regex": "cr:regex",
    "repeated": "cr:repeated",
    "replace": "cr:replace",
    "samplingRate": "cr:samplingRate",
    "sc": "https://schema.org/",
    "separator": "cr:separator",
    "source": "cr:source",
    "subField": "cr:subField",
    "transform": "cr:transform",
}


@dataclass(frozen=True)
class About:
    """What only the owner of the data can say.

    license    a URL or an SPDX name, such as 'CC-BY-4.0'
    creator    person or group
    url        where the data are published
    published  date, YYYY-MM-DD
    cite       what to cite, as BibTeX or text; '' says nothing
    """

    license: str = "not stated"
    creator: str = "not stated"
    url: str = "https://example.org/not-published"
    published: str = ""
    cite: str = ""


def describe_dataset(
    name: str,
    description: str,
    about: About,
    choice: Choice,
    form: Form,
    collection: Collection,
    written: Sequence[Written],
) -> dict[str, Any]:
    """The JSON-LD of an export. `collection` tells the columns, `written` the files."""
    single = FORMATS[choice.format].kind == "file"
    pixels = [w for w in written if w.image] if single else []
    distribution = [_describe_file(item) for item in written if not (single and item.image)]
    folders = {"images": ("images", "the images")} if single else {}
    if single:
        folders |= {each.spell("-", many=True): _tell_set(each) for each in form.maps}
    distribution += [_describe_folder(name, *told, pixels) for name, told in folders.items()]
    return {
        "@context": CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": CONFORMS,
        "name": name,
        "description": description,
        "license": about.license,
        "url": about.url,
        "creator": {"@type": "sc:Organization", "name": about.creator},
        "datePublished": about.published,
        **({"citeAs": about.cite} if about.cite else {}),
        "version": "1.0.0",
        "isLiveDataset": False,
        "distribution": distribution,
        "recordSet": [
            _describe_images(collection),
            *(_describe_objects(collection, table) for table in list_objects(collection)),
            *(_describe_pixels(name, told) for name, (_, told) in folders.items()),
        ],
    }


def _describe_file(item: Written) -> dict[str, Any]:
    return {
        "@type": "cr:FileObject",
        "@id": str(item.path),
        "name": str(item.path),
        "contentUrl": str(item.path),
        "contentSize": f"{item.size} B",
        "encodingFormat": MEDIA[item.path.suffix],
        "sha256": item.sha256,
    }


def _tell_set(each: Map) -> tuple[str, str]:
    """Folder of the files of a label or detector, and what they are in words."""
    told = f"the {each.spell(' ', many=True)}"
    if each.description:
        told += f": {each.description}"
    if each.classes:
        told += f" (0 background, {', '.join(f'{k} {c}' for k, c in enumerate(each.classes, 1))})"
    return str(map_folder(each)), told


def _describe_folder(
    name: str, folder: str, told: str, pixels: Sequence[Written]
) -> dict[str, Any]:
    """All images, or all maps of a label, as a set of files; their digests are in SHA256SUMS."""
    inner = f"/{folder}/"
    parents = sorted({i.path.parent for i in pixels if inner in f"/{i.path.parent}/"})
    suffix = next(item.path.suffix for item in pixels)
    return {
        "@type": "cr:FileSet",
        "@id": f"{name}-files",
        "name": f"{name}-files",
        "description": f"one file for each of {told}; digests in {SUMS}",
        "encodingFormat": MEDIA[suffix],
        "includes": [str(parent / f"*{suffix}") for parent in parents],
    }


def _describe_images(collection: Collection) -> dict[str, Any]:
    fields = [_describe_field("metadata", name, "sc:Text", text) for name, text in OWN.items()]
    fields[-1]["dataType"] = "sc:Integer"
    fields += _describe_columns("metadata", collection.columns)
    return {
        "@type": "cr:RecordSet",
        "@id": "metadata",
        "name": "metadata",
        "description": "one record for each image: where it is, conditions, structure, statistics",
        "key": {"@id": "metadata/key"},
        "field": fields,
    }


def _describe_objects(collection: Collection, table: str) -> dict[str, Any]:
    return {
        "@type": "cr:RecordSet",
        "@id": table,
        "name": table,
        "description": OBJECTS[table],
        "field": _describe_columns(table, list_object_columns(collection, table)),
    }


def _describe_columns(table: str, columns: Mapping[str, Column]) -> list[dict[str, Any]]:
    fields = []
    for name, column in columns.items():
        kind = {"U": "sc:Text", "f": "sc:Float"}.get(column.dtype.kind, "sc:Integer")
        kind = "sc:Float" if column.missing and kind == "sc:Integer" else kind
        unit = f", in {column.units}" if column.units else ""
        field = _describe_field(table, name, kind, f"{column.description}{unit}")
        fields.append(field | ({"repeated": True} if column.shape else {}))
    return fields


def _describe_field(table: str, name: str, kind: str, description: str) -> dict[str, Any]:
    return {
        "@type": "cr:Field",
        "@id": f"{table}/{name}",
        "name": name,
        "description": description,
        "dataType": kind,
        "source": {"fileObject": {"@id": f"{table}.parquet"}, "extract": {"column": name}},
    }


def _describe_pixels(folder: str, told: str) -> dict[str, Any]:
    """The files of images or labels as records, joined with the columns by their key."""
    source: dict[str, Any] = {"fileSet": {"@id": f"{folder}-files"}}
    return {
        "@type": "cr:RecordSet",
        "@id": folder,
        "name": folder,
        "description": f"{told}, as files",
        "key": {"@id": f"{folder}/key"},
        "field": [
            {
                "@type": "cr:Field",
                "@id": f"{folder}/key",
                "name": "key",
                "description": "name of the image",
                "dataType": "sc:Text",
                "references": {"field": {"@id": "metadata/key"}},
                "source": source
                | {
                    "extract": {"fileProperty": "filename"},
                    "transform": {"regex": r"^([^.]+)"},
                },
            },
            {
                "@type": "cr:Field",
                "@id": f"{folder}/pixels",
                "name": "pixels",
                "description": "the pixels",
                "dataType": "sc:ImageObject",
                "source": source | {"extract": {"fileProperty": "content"}},
            },
        ],
    }
