"""`python -m vitscope` is the command `vitscope`."""

from vitscope.apps.cli import main

main()
