"""A subset as text for people: what each draw and part holds."""

from __future__ import annotations

import string

from hpctem.aligned import align_columns
from hpctem.subsets.request import STRUCTURE
from hpctem.subsets.subset import VALIDATION, Piece, Subset

# More strata than that are told as the smallest and the largest.
MOST_COLUMNS = 16
MOST_LINES, MOST_LACKING = 200, 8


def format_subset(subset: Subset) -> str:
    """Lines: what was drawn from where, then images, structures and strata of every draw and part.

    With folds there is a line for each fold, which validates where the others train.
    """
    request = subset.request
    names = list(
        dict.fromkeys(
            name for drawn in subset.drawn for p in drawn.pieces.values() for name in p.strata
        )
    )
    letters = string.ascii_lowercase[: len(names)] if len(names) <= MOST_COLUMNS else ""
    divided = request.split is not None or request.folds is not None
    head = ["draw", *(["part", "share"] if divided else []), "images", "structures", *letters]
    if names and not letters:
        head.append("in each stratum")
    table = [head]
    for number, drawn in enumerate(subset.drawn):
        whole = sum(len(piece) for piece in drawn.pieces.values())
        for fold, (name, piece) in enumerate(drawn.pieces.items()):
            draw = number * (request.folds or 1) + (fold if request.folds else 0)
            part = VALIDATION if request.folds else name
            shown = [part, f"{100 * len(piece) / whole:.2f} %"] if divided else []
            numbers = [str(draw), *shown, str(len(piece)), str(piece.structures)]
            table.append(numbers + _show_strata(piece, names, bool(letters)))
    lines = _tell_source(subset)
    lines += [f"{letter}: {name}" for letter, name in zip(letters, names, strict=False)]
    lines += align_columns(table, left=(1,) if divided else ())[: MOST_LINES + 1]
    if len(table) > MOST_LINES + 1:
        lines.append(f"and {len(table) - MOST_LINES - 1} more lines; the file holds all of them")
    return "\n".join(lines)


def _tell_source(subset: Subset) -> list[str]:
    request = subset.request
    files = ", ".join(subset.collection.files)
    lines = [f"draws 0 to {len(subset) - 1} of {len(subset.collection)} images of {files}"]
    if len(subset) == 1:
        lines[0] = lines[0].replace("draws 0 to 0", "one draw")
    if subset.outside:
        lines.append(f"left out, in no stratum: {subset.outside} images")
    lines += [f"fewer than asked for: {text}" for text in subset.lacking[:MOST_LACKING]]
    if len(subset.lacking) > MOST_LACKING:
        lines.append(f"fewer than asked for in {len(subset.lacking) - MOST_LACKING} more draws")
    for step, columns in subset.spread.items():
        if columns:
            lines.append(f"{step}: evenly over {', '.join(columns)}")
    if request.combinations is not None:
        for number, drawn in enumerate(subset.drawn):
            if drawn.repeat == 0:
                each = request.draws * (request.folds or 1)
                first = number * (request.folds or 1)
                draws = f"{first} to {first + each - 1}" if each > 1 else f"{first}"
                lines.append(f"draw {draws}: {' + '.join(drawn.combination)}")
    if request.split is not None or request.folds is not None:
        other = "" if request.group == STRUCTURE else f" and no {request.group}"
        lines.append(f"parts share no structure{other}")
    return lines


def _show_strata(piece: Piece, names: list[str], each: bool) -> list[str]:
    if not names:
        return []
    if each:
        return [str(piece.strata[name]) if name in piece.strata else "-" for name in names]
    least, most = min(piece.strata.values()), max(piece.strata.values())
    return [str(least) if least == most else f"{least} to {most}"]
