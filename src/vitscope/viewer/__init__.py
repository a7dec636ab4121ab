"""What the interactive viewer shows, as plain data: a header for JSON, and packed arrays."""

from vitscope.viewer.map_entries import entry_of
from vitscope.viewer.packed import Packed
from vitscope.viewer.view import View

__all__ = ["Packed", "View", "entry_of"]
