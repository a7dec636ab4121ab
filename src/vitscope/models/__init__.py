"""Adapt vision models to one contract: a file or a folder for each library, folders for what they share."""
