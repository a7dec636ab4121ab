"""What the interactive viewer shows, as plain data: a header for JSON, and packed arrays."""

from vitscope.render.packed import Packed
from vitscope.viewing.entries import entry_of
from vitscope.viewing.view import View

__all__ = ["Packed", "View", "entry_of"]
