"""All sabotaged models, in the order of their modules' names: each module registers its own when it is imported."""

from importlib import import_module
from pathlib import Path

from tests.models.sabotaged import SABOTAGED

__all__ = ["PARTS", "SABOTAGED"]

PARTS = [import_module(f"tests.models.{file.stem}") for file in sorted(Path(__file__).parent.glob("sabotaged_*.py"))]
