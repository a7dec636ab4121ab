"""Who may import whom, what importing costs, and what is exported."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import vitscope
from tests.helpers import import_graph

SOURCE = Path(vitscope.__file__).parent
NO_TORCH = (  # whole folders, and single modules of others
    *("errors", "geometry", "images", "explanation", "media", "render"),
    *("_documents", "_saved", "_files", "_messages", "_plugins", "_version", "_cached"),
    *("models/bundled/wheel", "models/bundled/onnx"),
    *("metrics/concentration", "metrics/attention_statistics", "metrics/ranking", "metrics/faithfulness"),
    *("metrics/measurement", "metrics/localisation", "metrics/resampling", "bench/planted", "bench/photos"),
    *("batch/results", "batch/report", "batch/report_page", "batch/ray_cluster", "batch/ray_pool"),
    *("export/coco", "export/fiftyone", "export/tensorboard", "export/wandb"),
)


@pytest.fixture(scope="module")
def edges():
    return import_graph.graph(SOURCE)


def test_every_part_has_its_place(edges):
    assert {import_graph.part(module) for module in edges} <= set(import_graph.STAGE_OF), "say where it stands"


def test_left_never_imports_right(edges):
    assert import_graph.breaches(edges) == []


def test_no_folder_holds_a_circle(edges):
    assert import_graph.circles(edges) == []


@pytest.mark.parametrize(
    ("part", "line"),
    [
        ("geometry.py", "from vitscope.attention import vecmat"),
        ("render/raster.py", "import vitscope.scope"),
        (
            "methods/rollout.py",
            "def f():\n    from vitscope.tracing.trace import follow\n    from vitscope.models import base",
        ),
        ("attention/store.py", "from vitscope import methods"),
        ("attention/store.py", "from ..methods import base"),
        ("explanation.py", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from vitscope.scope import Scope"),
        ("bench/runner.py", "from vitscope.batch.run import explain"),
        ("render/html.py", "from vitscope.attention.store import AttentionStore"),
    ],
)
def test_each_kind_of_breach_is_seen(tmp_path, part, line):
    house(tmp_path, {part: line})
    assert len(import_graph.breaches(import_graph.graph(tmp_path))) == 1


@pytest.mark.parametrize(
    "files",
    [
        {"methods/cam.py": "from vitscope.methods.flow import x", "methods/flow.py": "import vitscope.methods.cam"},
        {"methods/cam.py": "from vitscope.methods import flow", "methods/flow.py": "def f():\n    from . import cam"},
        {
            "methods/cam.py": "from .flow import x",
            "methods/flow.py": "from vitscope.methods.refine import y",
            "methods/refine.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from .cam import z",
        },
    ],
)
def test_circles_inside_a_folder_are_seen(tmp_path, files):
    house(tmp_path, files)
    assert import_graph.circles(import_graph.graph(tmp_path)) == [
        sorted(f"vitscope.{name.removesuffix('.py').replace('/', '.')}" for name in files)
    ]


def house(root, files):
    """A small vitscope: these files, and empty ones that they can import."""
    empty = ("attention/store", "methods/base", "models/base", "tracing/trace", "batch/run", "scope", "methods/refine")
    for name in (*empty, *(name.removesuffix(".py") for name in files)):
        path = root / f"{name}.py"
        path.parent.mkdir(exist_ok=True)
        if path.parent != root:
            (path.parent / "__init__.py").touch()
        path.write_text(files.get(f"{name}.py", ""))


def torch_imports(root):
    """Each import of torch, at any depth but for type checkers, in a part that must do without."""
    found = []
    for path in sorted(root.rglob("*.py")):
        where = path.relative_to(root).with_suffix("").as_posix()
        if not {where.split("/")[0], where} & {*NO_TORCH}:
            continue
        tree = ast.parse(path.read_text("utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
                node.body = []
        for node in ast.walk(tree):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            found += [where for name in names if name.partition(".")[0] == "torch"]
    return found


def test_parts_that_do_without_torch():
    assert torch_imports(SOURCE) == []


@pytest.mark.parametrize("part", ["explanation.py", "metrics/measurement.py", "render/raster.py"])
def test_an_import_of_torch_is_seen(tmp_path, part):
    house(tmp_path, {part: "import torch.nn"})
    assert torch_imports(tmp_path) == [part.removesuffix(".py")]


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


@pytest.mark.slow
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


def test_only_packages_list_what_they_export():
    """In a module a name without an underscore is for others: a list beside it would only go out of date."""
    others = [path for path in SOURCE.rglob("*.py") if path.name != "__init__.py"]
    assert [path for path in others if "\n__all__ = " in path.read_text("utf-8")] == []
