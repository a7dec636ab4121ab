"""What vitscope was tried with, against independent values: `python -m benchmarks.works_with` writes the page."""
