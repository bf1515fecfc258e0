"""TFRecord: each record framed by its length and two checksums, each a tf.train.Example.

The framing is that of tensorflow/core/lib/io/record_writer.h, the message that of
tensorflow/core/example/feature.proto; both are written here, so TensorFlow is not needed.
"""

from __future__ import annotations

import functools
import struct
from collections.abc import Iterable
from typing import IO, Any

import numpy as np

from hpctem.export.crc32c import crc32c, mask_crc
from hpctem.export.records import Record

BYTES, FLOATS, INTEGERS = 1, 2, 3  # fields of the message Feature


def write_tfrecord(stream: IO[bytes], records: Iterable[Record]) -> None:
    """Append records to a stream."""
    for record in records:
        write_frame(stream, encode_example(list_features(record)))


def list_features(record: Record) -> dict[str, Any]:
    """Features of an image by name: pixels as bytes in C order, numbers, texts.

    Whole numbers become int64, others float32 (the only float of the format). A column that the
    image's campaign lacks is left out.
    """
    features: dict[str, Any] = {"key": record.key} | _list_pixels("image", record.image)
    for each, pixels in record.maps.items():
        features |= _list_pixels(each.spell("/"), pixels)
    return features | {k: v for k, v in record.columns.items() if v is not None}


def write_frame(stream: IO[bytes], data: bytes) -> None:
    """length uint64, its masked CRC, the data, their masked CRC; little-endian."""
    length = struct.pack("<Q", len(data))
    stream.write(length + struct.pack("<I", mask_crc(crc32c(length))))
    stream.write(data)
    stream.write(struct.pack("<I", mask_crc(crc32c(data))))


def encode_example(features: dict[str, Any]) -> bytes:
    """The message Example with these features in the order of their names."""
    entries = []
    for name in sorted(features):
        entry = _encode_name(name) + _field(2, _encode_feature(features[name]))
        entries.append(_field(1, entry))
    return _field(1, b"".join(entries))


def _list_pixels(name: str, pixels: np.ndarray) -> dict[str, Any]:
    return {
        name: pixels.tobytes(),
        f"{name}/shape": list(pixels.shape),
        f"{name}/dtype": pixels.dtype.name,
    }


@functools.cache
def _encode_name(name: str) -> bytes:
    return _field(1, name.encode())


def _encode_feature(value: Any) -> bytes:
    values = value if isinstance(value, list | tuple) else [value]
    if isinstance(values[0], str | bytes):
        raw = [v.encode() if isinstance(v, str) else v for v in values]
        return _field(BYTES, b"".join(_field(1, item) for item in raw))
    if isinstance(values[0], int):
        packed = b"".join(_varint(int(v) & 0xFFFFFFFFFFFFFFFF) for v in values)
        return _field(INTEGERS, _field(1, packed))
    return _field(FLOATS, _field(1, np.asarray(values, "<f4").tobytes()))


def _field(number: int, data: bytes) -> bytes:
    """A length-delimited field of a protocol buffer (wire type 2)."""
    return bytes([number << 3 | 2]) + _varint(len(data)) + data


def _varint(value: int) -> bytes:
    parts = bytearray()
    while value > 0x7F:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    parts.append(value)
    return bytes(parts)
