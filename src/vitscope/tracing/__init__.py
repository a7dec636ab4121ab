"""The averaged network: where tokens go in a model's own code, with attention as the only thing that mixes them."""
