"""Who may import whom, what importing costs, and what is exported."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import vitscope

SOURCE = Path(vitscope.__file__).parent
# left never imports right; parts of one stage may import each other
STAGES = (
    ("errors", "geometry", "images", "onnx", "result", "registry", "_version"),
    ("store",),
    ("capturing", "explicit", "tracing", "targets", "body", "correction", "subject", "silencing", "methods"),
    ("families", "loading", "embedded"),
    ("metrics", "render"),
    ("options", "advice", "provenance", "running", "pipeline", "measuring", "masking", "looking", "viewing", "bench"),
    ("batch",),
    ("export",),
    ("apps", "__main__"),
)
STAGE_OF = {name: number for number, names in enumerate(STAGES) for name in names}
FORBIDDEN = {
    "methods": {"capturing", "explicit", "tracing", "families", "loading"},
    "embedded": {"families", "loading"},
}
NO_TORCH = (  # whole parts, and single modules of others
    *("errors", "geometry", "images", "result", "registry", "embedded", "onnx", "render", "_version"),
    *("metrics/statistics", "metrics/attention", "metrics/ranking", "metrics/faithfulness", "metrics/measure"),
    *("metrics/localisation", "metrics/resampling", "bench/planted", "bench/photos"),
    *("batch/results", "batch/report", "batch/report_page", "batch/connecting", "batch/cluster"),
    *("export/coco", "export/fiftyone"),
    *("export/tensorboard", "export/wandb"),
)


def imports(path):
    """Modules that a file imports, at any depth of its code, but not those under `if TYPE_CHECKING`."""
    tree = ast.parse(path.read_text("utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            node.body = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names if node.module == "vitscope")
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def part_of(path, root):
    return path.relative_to(root).parts[0].removesuffix(".py")


def breaches(root):
    """Each import that goes against the order, as text."""
    found = []
    for path in sorted(root.rglob("*.py")):
        here = part_of(path, root)
        where = path.relative_to(root).with_suffix("").as_posix()
        if here == "__init__":
            continue
        for module in imports(path):
            top, _, rest = module.partition(".")
            if top == "torch" and {here, where} & {*NO_TORCH}:
                found.append(f"{where} imports torch")
            there = rest.split(".")[0]
            if top != "vitscope" or not there or there not in STAGE_OF:
                continue
            if STAGE_OF[there] > STAGE_OF[here] or there in FORBIDDEN.get(here, ()):
                found.append(f"{here} imports {there}")
    return found


def test_every_part_has_its_place():
    parts = {part_of(path, SOURCE) for path in SOURCE.rglob("*.py")} - {"__init__"}
    assert parts <= set(STAGE_OF), "say in STAGES where the new part stands"


def test_left_never_imports_right():
    assert breaches(SOURCE) == []


@pytest.mark.parametrize(
    ("part", "line"),
    [
        ("geometry.py", "from vitscope.attention import vecmat"),
        ("render/raster.py", "import vitscope.scope"),
        ("methods/rollout.py", "def f():\n    from vitscope.attention.capture import capture"),
        ("store.py", "from vitscope import capturing"),
        ("result.py", "import torch.nn"),
        ("metrics/measure.py", "import torch"),
    ],
)
def test_the_test_above_can_fail(tmp_path, part, line):
    path = tmp_path / part
    path.parent.mkdir(exist_ok=True)
    path.write_text(line)
    assert len(breaches(tmp_path)) == 1


def test_an_import_for_types_only_is_no_breach(tmp_path):
    (tmp_path / "errors.py").write_text("from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import torch")
    assert breaches(tmp_path) == []


def fresh(code):
    """Run code in a new process; what it printed."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.strip()


HEAVY = ("torch", "transformers", "timm", "matplotlib", "typer", "rich", "PIL", "numpy")


def test_importing_vitscope_loads_nothing_heavy():
    assert fresh(f"import sys, vitscope; print([m for m in {HEAVY} if m in sys.modules])") == "[]"


def test_the_command_line_starts_without_torch():
    assert fresh("import sys, vitscope.cli.main; print('torch' in sys.modules)") == "False"


def test_a_saved_result_is_read_and_drawn_without_torch():
    modules = (
        "vitscope.explanation, vitscope.render.raster, vitscope.metrics.concentration, vitscope.metrics.measurement"
    )
    code = f"import sys, {modules}; print('torch' in sys.modules)"
    assert fresh(code) == "False"


def test_the_hygiene_test_can_fail():
    assert fresh("import sys, torch; print('torch' in sys.modules)") == "True"


def test_exported_names_are_the_namespace():
    assert sorted(vitscope.__all__) == sorted(set(vitscope.__all__))
    for name in vitscope.__all__:
        assert getattr(vitscope, name) is not None
    assert callable(vitscope.capture)
    with pytest.raises(AttributeError, match="no attribute 'captures'"):
        vitscope.captures  # noqa: B018


def test_types_are_shipped():
    assert (SOURCE / "py.typed").exists()


@pytest.mark.parametrize("path", sorted(SOURCE.rglob("*.py")), ids=lambda path: str(path.relative_to(SOURCE)))
def test_all_lists_what_a_module_defines_for_others(path):
    """`__all__` is sorted and names things that are there."""
    tree = ast.parse(path.read_text("utf-8"))
    listed = [
        ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "__all__"
    ]
    if not listed or path.name == "__init__.py":
        return
    defined = {
        node.name for node in tree.body if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef))
    }
    for node in tree.body:
        for target in node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]:
            for name in ast.walk(target) if target else []:
                if isinstance(name, ast.Name):
                    defined.add(name.id)
    assert set(listed[0]) <= defined
    assert {name for name in defined if not name.startswith("_")} >= set(listed[0])
