"""The list of files in `docs/architecture.md`: `python -m tests.helpers.architecture` writes it anew."""

import ast
from itertools import groupby
from pathlib import Path

ROOT = Path(__file__).parents[2]
SOURCE, PAGE = ROOT / "src" / "vitscope", ROOT / "docs" / "architecture.md"
BEGIN, END = "<!-- files: begin -->\n", "<!-- files: end -->\n"


def files():
    """Return the modules and scripts of the package, each folder's `__init__.py` first."""
    found = (
        path.relative_to(SOURCE)
        for kind in ("py", "js", "ts")
        for path in SOURCE.rglob(f"*.{kind}")
        if path.parent.name != "bundles"
    )
    return sorted(found, key=lambda path: (path.parent.parts, path.name != "__init__.py", path.name))


def sentence(path):
    """Return the first line of a module's docstring, or of the comment that a script begins with."""
    text = (SOURCE / path).read_text("utf-8")
    if path.suffix == ".py":
        return (ast.get_docstring(ast.parse(text)) or "").partition("\n")[0]
    return text.lstrip().partition("\n")[0].removeprefix("// ")


def listed():
    """Return the list as Markdown: a heading for each folder, a line for each file."""
    parts = []
    for folder, paths in groupby(files(), key=lambda path: path.parent):
        lines = [f"- `{path.name}`: {sentence(path)}\n" for path in paths if path.name != "__init__.py"]
        head = [f"### `{folder.as_posix()}/`\n\n"] if folder.parts else []
        head += [f"{sentence(folder / '__init__.py')}\n\n"] if head and folder.name != "assets" else []
        parts.append("".join(head + lines))
    return "\n".join(parts)


def in_page():
    """Return the page in three parts: before the list, the list, after it."""
    before, _, rest = PAGE.read_text("utf-8").partition(BEGIN)
    found, _, after = rest.partition(END)
    return before + BEGIN, found, END + after


if __name__ == "__main__":
    before, _, after = in_page()
    PAGE.write_text(before + listed() + after, "utf-8")
