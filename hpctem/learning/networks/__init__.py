"""The networks: segmentation, image translation, and the judges of the latter."""
