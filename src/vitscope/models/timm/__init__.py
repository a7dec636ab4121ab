"""Adapt models of timm, from its registry and from folders of the Hub."""
