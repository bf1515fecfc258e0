"""WebDataset: a tar file in which the files of one image follow each other and share its key."""

from __future__ import annotations

import io
import json
import math
import tarfile
from collections.abc import Iterable
from typing import IO, Any

import numpy as np

from hpctem.export.records import Record


def write_webdataset(stream: IO[bytes], records: Iterable[Record]) -> None:
    """KEY.image.npy, KEY.label.npy and KEY.json (all columns) of each image, without dates.

    Of several labels each is KEY.label_NAME.npy, of a further detector KEY.detector_NAME.npy.
    """
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for record in records:
            _add(archive, f"{record.key}.image.npy", encode_array(record.image))
            for each, pixels in record.maps.items():
                _add(archive, f"{record.key}.{each.spell('_')}.npy", encode_array(pixels))
            _add(archive, f"{record.key}.json", encode_columns(record.columns))


def encode_array(array: np.ndarray) -> bytes:
    """The bytes of a .npy file."""
    stream = io.BytesIO()
    np.save(stream, array, allow_pickle=False)
    return stream.getvalue()


def encode_columns(columns: dict[str, Any]) -> bytes:
    """Strict JSON with sorted keys; what is not finite becomes null."""
    plain = {
        name: None if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in columns.items()
    }
    return json.dumps(plain, sort_keys=True, allow_nan=False, ensure_ascii=False).encode()


def _add(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)  # its date, user and group are 0
    member.size = len(data)
    archive.addfile(member, io.BytesIO(data))
