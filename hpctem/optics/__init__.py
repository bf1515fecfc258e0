"""How the sample is imaged: electrons, potentials, multislice, aberrations, image formation."""
