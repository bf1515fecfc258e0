"""Which tables of objects go with an export, and what each of them is."""

from __future__ import annotations

from hpctem.collection.collection import Collection

OBJECTS = {
    "particles": "one record for each particle of the structures that images show",
    "planar_defects": "one record for each planar defect of the particles",
    "defects": "one record for each point defect in each image: kind, place, whether it is inside",
    "columns": "one record for each atom column in each image",
}


def list_objects(collection: Collection) -> list[str]:
    """The tables of OBJECTS that a database of the collection has."""
    return [name for name in OBJECTS if name in collection.object_names]
