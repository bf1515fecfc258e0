"""Pictures of campaigns: contact sheets, single images with their spectra, power spectra."""

from __future__ import annotations

from hpctem.pictures.portraits import (
    choose_kind,
    draw_portraits,
    draw_rows,
    read_portraits,
    save_figure,
)
from hpctem.pictures.sheets import draw_database, draw_preview

__all__ = [
    "choose_kind",
    "draw_database",
    "draw_portraits",
    "draw_preview",
    "draw_rows",
    "read_portraits",
    "save_figure",
]
