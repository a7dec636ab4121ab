"""Benchmarks of methods on images for which the right map is known."""
