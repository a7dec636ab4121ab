"""Exports maps to other tools; each module is for one tool, which it imports only when used."""
