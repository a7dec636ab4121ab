"""The interactive page on one image: its document, its hosts, its assets."""
