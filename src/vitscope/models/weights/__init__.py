"""Read checkpoint files of any origin, match them to a model, and take their fingerprint."""
