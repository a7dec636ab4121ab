"""Token tracing: where tokens go in a model's own code, with attention as the only operation that mixes them."""
