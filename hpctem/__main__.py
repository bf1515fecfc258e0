"""`python -m hpctem` is the command `hpctem`."""

from hpctem.cli import main

main()
