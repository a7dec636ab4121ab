"""Model adapters: one file for each library, named after it."""
