"""A picture of the specimen, seen at the points where the scan leads the beam."""

from __future__ import annotations

from typing import Any

from hpctem.backend import Backend
from hpctem.detection.scan import ScanPath
from hpctem.errors import SampleError
from hpctem.optics.incoherent import Picture, gather_points


def look(picture: Picture, path: ScanPath, backend: Backend) -> Any:
    """Mean over the scan's frames of the picture at each pixel's position.

    Returns float32 (ny, nx) of `path.shape` on the backend, in the picture's units. Positions are
    those of `scan_positions`, in A, exact between the picture's pixels. Raises SampleError where
    the scan leaves the picture.
    """
    lines, columns = path.lines, path.columns
    for axis, name, length in ((0, "x", picture.extent[1]), (1, "y", picture.extent[0])):
        low = lines[..., axis].min() + columns[:, axis].min()
        high = lines[..., axis].max() + columns[:, axis].max()
        if low < 0 or high > length:
            raise SampleError(
                f"the scan leaves the simulated specimen: along {name} it goes from {low:.4g} to "
                f"{high:.4g} A, and that ends at 0 and {length:.4g} A; less drift, jitter or "
                f"flyback, or a wider margin, keeps it inside."
            )
    return gather_points(picture, lines, columns, backend)
