"""Images as files that every viewer opens: 16-bit TIFF with the pixel size, 16-bit PNG."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping
from fractions import Fraction
from typing import IO, Any

import numpy as np

from hpctem.export.plan import LEVEL

SHORT, LONG, ASCII, RATIONAL, DOUBLE = 3, 4, 2, 5, 12
CODES = {SHORT: "H", LONG: "I", DOUBLE: "d"}
NO_COMPRESSION, DEFLATE = 1, 8


def write_tiff(
    stream: IO[bytes],
    image: np.ndarray,
    steps: tuple[float, float],
    notes: Mapping[str, Any],
    packed: bool,
) -> None:
    """A greyscale TIFF (revision 6.0) of one strip, or of a page of one strip for each segment.

    image   (ny, nx) or (segments, ny, nx), uint8, uint16 or float32
    steps   (height, width) of a pixel in angstrom; stored in nm as ImageJ does (pixels per unit,
            the unit in the description) and as DigitalMicrograph does (its private tags, from which
            RosettaSciIO takes the unit), because the unit of TIFF itself is too coarse
    notes   lines name=value of the description
    packed  Deflate instead of plain bytes
    """
    pages = image[None] if image.ndim == 2 else image
    strips = [page.astype(page.dtype.newbyteorder("<")).tobytes() for page in pages]
    if packed:
        strips = [zlib.compress(strip, LEVEL) for strip in strips]
    y, x = (step / 10 for step in steps)
    lines = ["ImageJ=1.11a", "unit=nm", *(f"{name}={value}" for name, value in notes.items())]
    if len(pages) > 1:
        lines[1:1] = [f"images={len(pages)}", f"slices={len(pages)}"]
    # ImageJ takes the pages of a stack to lie side by side: all strips come before all directories.
    data = b"".join(strips)
    directory = 8 + len(data) + len(data) % 2
    stream.write(struct.pack("<2sHI", b"II", 42, directory) + data + b"\0" * (len(data) % 2))
    place = 8
    for number, strip in enumerate(strips):
        tags: list[tuple[int, int, Any]] = [
            (256, LONG, image.shape[-1]),
            (257, LONG, image.shape[-2]),
            (258, SHORT, image.dtype.itemsize * 8),
            (259, SHORT, DEFLATE if packed else NO_COMPRESSION),
            (262, SHORT, 1),  # 0 is black
            (270, ASCII, "\n".join(lines) + "\n"),
            (273, LONG, place),
            (277, SHORT, 1),
            (278, LONG, image.shape[-2]),
            (279, LONG, len(strip)),
            (282, RATIONAL, Fraction(1 / x).limit_denominator(10**6)),
            (283, RATIONAL, Fraction(1 / y).limit_denominator(10**6)),
            (296, SHORT, 1),  # pixels per the unit that ImageJ names
            *([(339, SHORT, 3)] if image.dtype.kind == "f" else []),  # samples are real numbers
            (65003, ASCII, "nm"),
            (65004, ASCII, "nm"),
            (65009, DOUBLE, x),
            (65010, DOUBLE, y),
        ]
        encoded = _encode_directory(tags, directory, number + 1 == len(strips))
        stream.write(encoded)
        place += len(strip)
        directory += len(encoded)


def write_png(stream: IO[bytes], image: np.ndarray, notes: Mapping[str, Any]) -> None:
    """A greyscale PNG of 8 or 16 bits, as the dtype is, with the notes as text."""
    from PIL import Image, PngImagePlugin

    texts = PngImagePlugin.PngInfo()
    for name, value in notes.items():
        texts.add_text(name, str(value))
    Image.fromarray(image).save(stream, "PNG", pnginfo=texts, compress_level=LEVEL)


def _encode_directory(tags: list[tuple[int, int, Any]], place: int, last: bool) -> bytes:
    """The image file directory at byte `place` of the file, and what does not fit into it.

    The next directory, if it is not the last one, follows at once.
    """
    entries, values = [], b""
    outside = place + 2 + 12 * len(tags) + 4
    for tag, kind, value in tags:
        raw, count = _encode_value(kind, value)
        if len(raw) > 4:
            field = struct.pack("<I", outside + len(values))
            values += raw + b"\0" * (len(raw) % 2)
        else:
            field = raw.ljust(4, b"\0")
        entries.append(struct.pack("<HHI", tag, kind, count) + field)
    after = 0 if last else outside + len(values)
    return struct.pack("<H", len(entries)) + b"".join(entries) + struct.pack("<I", after) + values


def _encode_value(kind: int, value: Any) -> tuple[bytes, int]:
    if kind == ASCII:
        raw = value.encode("ascii", "replace") + b"\0"
        return raw, len(raw)
    if kind == RATIONAL:
        return struct.pack("<II", value.numerator, value.denominator), 1
    return struct.pack(f"<{CODES[kind]}", value), 1
