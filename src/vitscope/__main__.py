"""`python -m vitscope` is the command `vitscope`."""

from vitscope.cli.main import run

run()
