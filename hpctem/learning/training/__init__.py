"""Learning: losses, the loop, checkpoints, the folder that a training leaves."""
