"""Simulate labelled databases of high-resolution TEM images, in parallel and reproducibly."""

__version__ = "0.1.0"
