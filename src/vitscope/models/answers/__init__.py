"""Find the answer that is explained in what a model returns, and what its numbers mean."""
