"""Tools of those who work on vitscope."""
