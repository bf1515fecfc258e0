"""Databases and micrographs through a trained generator, every image checked."""
