"""Read from the sources' syntax who imports whom: lazy imports and those for type checkers are included."""

import ast
from collections.abc import Iterator
from pathlib import Path

# Left never imports right. A stage is one part, or several side by side that do not import each other.
ORDER = (
    ("_messages", "_numbers", "_version", "_cached"),
    ("errors", "_catalogues"),
    ("_header_scan", "_documents", "_layers"),
    ("_image_file",),
    ("_pillow", "_bands", "_formats", "_decoder", "images", "geometry", "_files", "_plugins"),
    ("_saved",),
    ("render", "attention"),
    ("explanation", "tracing"),
    ("media",),
    ("models", "methods"),
    ("metrics",),
    ("engine",),
    ("evaluation",),
    ("viewer", "bench"),
    ("scope",),
    ("batch", "export"),
    ("web",),
    ("cli",),
    ("__main__",),
)
STAGE_OF = {part: number for number, parts in enumerate(ORDER) for part in parts}
# the only neighbours in a stage that may import each other, left imports right
NEIGHBOURS = {
    *(("geometry", "images"), ("images", "_files"), ("images", "_pillow"), ("images", "_bands")),
    *(("_decoder", "_formats"), ("_decoder", "_bands"), ("_decoder", "_pillow"), ("images", "_decoder")),
    *(("images", "_formats"), ("_formats", "_bands"), ("_formats", "_pillow"), ("_bands", "_pillow")),
}


def imports(path: Path, module: str, modules: set[str]) -> Iterator[str]:
    """Yield the modules of the package that a file imports, at any depth of its code."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parts = module.split(".") if path.name == "__init__.py" else module.split(".")[:-1]
                base = ".".join([*parts[: len(parts) - node.level + 1], *filter(None, [node.module])])
            for alias in node.names:
                yield f"{base}.{alias.name}" if f"{base}.{alias.name}" in modules else base
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def graph(root: Path, package: str = "vitscope") -> dict[str, set[str]]:
    """Return each module with the modules of the package that it imports.

    An import of a folder's name counts as one of its `__init__`; a folder's `__init__` is the module of that name.
    """
    paths = {}
    for path in root.rglob("*.py"):
        parts = path.relative_to(root).with_suffix("").parts
        name = ".".join([package, *(parts[:-1] if parts[-1] == "__init__" else parts)])
        paths[name] = path
    modules = set(paths)
    return {
        name: {there for there in imports(path, name, modules) if there in modules and there not in (name, package)}
        for name, path in paths.items()
        if name != package
    }


def part(module: str) -> str:
    """Return the part of the house that a module stands in: its folder, or itself where it stands at the root."""
    return module.split(".")[1]


def breaches(edges: dict[str, set[str]]) -> list[str]:
    """Return each import that goes against `ORDER`, in words."""
    found = []
    for here, theirs in sorted(edges.items()):
        for there in sorted(theirs):
            a, b = part(here), part(there)
            if a == b or STAGE_OF[b] < STAGE_OF[a] or (a, b) in NEIGHBOURS:
                continue
            found.append(f"{here} imports {there}")
    return found


def circles(edges: dict[str, set[str]]) -> list[list[str]]:
    """Return the groups of modules of one part that import each other in a circle (Tarjan's components)."""
    inside = {here: {there for there in theirs if part(there) == part(here)} for here, theirs in edges.items()}
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(here: str) -> None:
        index[here] = low[here] = len(index)
        stack.append(here)
        for there in inside.get(here, ()):
            if there not in index:
                visit(there)
                low[here] = min(low[here], low[there])
            elif there in stack:
                low[here] = min(low[here], index[there])
        if low[here] == index[here]:
            group = []
            while not group or group[-1] != here:
                group.append(stack.pop())
            if len(group) > 1:
                found.append(sorted(group))

    for here in inside:
        if here not in index:
            visit(here)
    return found
