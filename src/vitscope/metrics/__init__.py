"""Numbers about maps and attention."""
