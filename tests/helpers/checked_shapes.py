"""On import: every vitscope module that writes shapes down has its annotations executed, for as long as the tests run.

Only those: a wrapper around each call of every function doubled what the tests cost, and mypy reads the other modules.
Imported before vitscope is, by `conftest.py`.
"""

from pathlib import Path

import jaxtyping

SOURCE = Path(__file__).parents[2] / "src"


def modules_with_shapes() -> list[str]:
    """The dotted names of vitscope's modules that import jaxtyping."""
    files = [path for path in (SOURCE / "vitscope").rglob("*.py") if "jaxtyping" in path.read_text("utf-8")]
    return sorted(".".join(path.relative_to(SOURCE).with_suffix("").parts).removesuffix(".__init__") for path in files)


jaxtyping.install_import_hook(modules_with_shapes(), "beartype.beartype")
