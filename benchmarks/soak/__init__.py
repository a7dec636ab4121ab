"""Long runs that must leave nothing wrong, lost, hung or changed; `python -m benchmarks.soak --help`."""
