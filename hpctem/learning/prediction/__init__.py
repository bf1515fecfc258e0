"""What a trained network finds: maps, masks and positions in images of any size."""
