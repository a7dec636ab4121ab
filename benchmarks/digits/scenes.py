"""The scenes of digits live in the package, where `vitscope bench digits` uses them, too."""

from vitscope.bench.digit_scenes import CLASSES, FRAMES, INK, MOST, SIZE, WINDOW, Digits, Scenes, scenes, split_digits

__all__ = ["CLASSES", "FRAMES", "INK", "MOST", "SIZE", "WINDOW", "Digits", "Scenes", "scenes", "split_digits"]
