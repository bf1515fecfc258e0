"""How much images look like those of a microscope."""
