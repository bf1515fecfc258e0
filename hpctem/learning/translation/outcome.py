"""What has become of the tiles and the defects of a translated database, in numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hpctem.database.reader import open_database
from hpctem.learning.translation.fidelity import FATES, IS_KEPT, IS_LOST


@dataclass(frozen=True)
class Outcome:
    """What has become of the tiles and defects of a translated database.

    reasons   why tiles are not accepted -> how many
    defects   kind -> (all, judged, kept)
    """

    tiles: int
    accepted: int
    largest_offset: float
    reasons: Mapping[str, int]
    defects: Mapping[str, tuple[int, int, int]]


def survey(path: Path) -> Outcome:
    """Count what a translated database holds; of accepted tiles the largest offset, in pixels."""
    with open_database(path) as database:
        accepted = database.column("accepted") == 1
        reasons = database.column("reason")[~accepted].tolist()
        offset = np.hypot(database.column("offset_x"), database.column("offset_y"))[accepted]
        defects = {}
        if "/entry/defects/fate" in {item.path for item in database.layout.fields}:
            kinds = database.column("/entry/defects/kind")
            fates = database.column("/entry/defects/fate")
            for kind in dict.fromkeys(kinds.tolist()):
                mine = fates[kinds == kind]
                kept, lost = ((mine == FATES[fate]).sum() for fate in (IS_KEPT, IS_LOST))
                defects[str(kind)] = (len(mine), int(kept + lost), int(kept))
    return Outcome(
        len(accepted),
        int(accepted.sum()),
        float(offset.max(initial=0.0)),
        {reason: reasons.count(reason) for reason in sorted(set(reasons))},
        defects,
    )


def format_outcome(found: Outcome) -> str:
    """What a user is told at the end, in lines."""
    lines = [
        f"{found.accepted} of {found.tiles} tiles accepted{_share(found.accepted, found.tiles)}, "
        f"displaced by at most {found.largest_offset:.2f} px"
    ]
    if found.reasons:
        told = ", ".join(f"{count} {reason}" for reason, count in found.reasons.items())
        lines.append(f"rejected: {told}; training leaves them out (accepted = 0)")
    for kind, (count, judged, kept) in found.defects.items():
        lines.append(f"{kind}: {kept} of {judged} kept{_share(kept, judged)}, of {count} in all")
    return "\n".join(lines)


def _share(part: int, whole: int) -> str:
    return f" ({part / whole:.1%})" if whole else ""
