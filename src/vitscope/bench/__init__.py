"""Known answers: scenes whose right map is known, and methods measured on them side by side."""
