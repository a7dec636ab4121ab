"""Does the test suite notice when the code is wrong? `python -m benchmarks.mutants` breaks it in one line at a time."""
