"""Ranks that learn together: sums over all of them, statistics of all their images."""
