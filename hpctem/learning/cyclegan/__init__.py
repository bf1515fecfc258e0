"""Learning to change simulated images into experimental ones, and back."""
