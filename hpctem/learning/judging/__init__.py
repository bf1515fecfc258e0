"""How right a network is, on images whose truth is known."""
