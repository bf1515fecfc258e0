"""The median of 3 x 3 pixels by comparisons alone: the CPU's loops.

`cuda_source.py` holds the GPU's. Comparisons round nothing, so both give the same bytes.
"""

from __future__ import annotations

import numpy as np

from hpctem.compiling import compile_loop, inline_loop


@inline_loop
def middle(a, b, c):
    """The middle one of three numbers."""
    low = a if a < b else b
    high = b if a < b else a
    low = low if low > c else c
    return high if high < low else low


@compile_loop
def median_rows(image):
    """Median of each pixel and its eight neighbours, edges repeated: (ny, nx) to (ny, nx).

    Each column of three is sorted once. The median of the nine is then the middle one of: the
    largest of the three lows, the middle of the three middles, the smallest of the three highs
    (Paeth, Graphics Gems 1990, p. 171, gives the same network as nineteen exchanges).
    """
    ny, nx = image.shape
    filtered = np.empty_like(image)
    low = np.empty(nx + 2, image.dtype)
    mid = np.empty(nx + 2, image.dtype)
    high = np.empty(nx + 2, image.dtype)
    for i in range(ny):
        above, here, below = image[max(i - 1, 0)], image[i], image[min(i + 1, ny - 1)]
        for j in range(nx):
            a, b, c = above[j], here[j], below[j]
            least = a if a < b else b
            most = b if a < b else a
            low[j + 1] = least if least < c else c
            high[j + 1] = most if most > c else c
            mid[j + 1] = middle(a, b, c)
        for column in (low, mid, high):
            column[0] = column[1]
            column[nx + 1] = column[nx]
        row = filtered[i]
        for j in range(nx):
            lows = low[j] if low[j] > low[j + 1] else low[j + 1]
            lows = lows if lows > low[j + 2] else low[j + 2]
            highs = high[j] if high[j] < high[j + 1] else high[j + 1]
            highs = highs if highs < high[j + 2] else high[j + 2]
            row[j] = middle(lows, middle(mid[j], mid[j + 1], mid[j + 2]), highs)
    return filtered
