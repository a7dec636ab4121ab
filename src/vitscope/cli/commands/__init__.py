"""The commands, thin: each reads flags, calls the library, and prints."""
