"""What is imaged: crystals, volumes of them, defects, amorphous substrates and whole scenes."""
