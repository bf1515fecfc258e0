"""CRC-32C (Castagnoli), which guards every record of a TFRecord file."""

from __future__ import annotations

import numpy as np

from hpctem.compiling import compile_loop

# The polynomial of RFC 3720, its bits reversed, as the lowest bit is fed first.
POLYNOMIAL = 0x82F63B78
MASK_DELTA = 0xA282EAD8


def crc32c(data: bytes | np.ndarray) -> int:
    """CRC-32C of bytes, or of a contiguous array's bytes."""
    raw = np.frombuffer(data, np.uint8)
    return int(_update(raw, TABLES))


def mask_crc(crc: int) -> int:
    """The CRC as TFRecord stores it: rotated by 15 bits, plus a constant.

    So that the CRC of data that holds CRCs itself stays meaningful.
    """
    return (((crc >> 15) | (crc << 17)) + MASK_DELTA) & 0xFFFFFFFF


def _make_tables() -> np.ndarray:
    """(8, 256) uint32: what byte b does to the CRC when it is followed by k zero bytes."""
    tables = np.zeros((8, 256), np.uint32)
    crc = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        crc = np.where(crc & 1, (crc >> 1) ^ np.uint32(POLYNOMIAL), crc >> 1)
    tables[0] = crc
    for k in range(1, 8):
        tables[k] = (tables[k - 1] >> 8) ^ crc[tables[k - 1] & 0xFF]
    return tables


TABLES = _make_tables()


@compile_loop
def _update(raw, tables):
    """Eight bytes in each step (Kounavis and Berry, IEEE ISCC 2005: slicing by 8)."""
    crc = np.uint32(0xFFFFFFFF)
    low = np.uint32(0xFF)
    whole = len(raw) - len(raw) % 8
    for i in range(0, whole, 8):
        crc ^= np.uint32(
            np.uint32(raw[i])
            | np.uint32(raw[i + 1]) << np.uint32(8)
            | np.uint32(raw[i + 2]) << np.uint32(16)
            | np.uint32(raw[i + 3]) << np.uint32(24)
        )
        crc = (
            tables[7, crc & low]
            ^ tables[6, (crc >> np.uint32(8)) & low]
            ^ tables[5, (crc >> np.uint32(16)) & low]
            ^ tables[4, crc >> np.uint32(24)]
            ^ tables[3, raw[i + 4]]
            ^ tables[2, raw[i + 5]]
            ^ tables[1, raw[i + 6]]
            ^ tables[0, raw[i + 7]]
        )
    for i in range(whole, len(raw)):
        crc = tables[0, (crc ^ np.uint32(raw[i])) & low] ^ (crc >> np.uint32(8))
    return np.uint32(crc ^ np.uint32(0xFFFFFFFF))
