"""Tests mirror the source: folders, file names, sizes, and who imports whom."""

import ast
import re
from pathlib import Path

import pytest

import vitscope

TESTS, SOURCE = Path(__file__).parent, Path(vitscope.__file__).parent
FOLDERS = {"helpers", "oracles"}  # of the tests' own; toy models stand in `models`
NAMES = {  # test files that are not about one module of their folder, and why
    "test_coverage": "benchmarks/coverage.py",
    "test_docs": "what the documents say and run",
    "test_architecture": "docs/architecture.md",
    "test_layout": "this file",
    "test_gpu": "benchmarks/gpu.py",
    "test_mutants": "benchmarks/mutants",
    "test_examples": "the scripts of examples/",
    "test_extras": "install hints of all extras",
    "test_imports": "all modules",
    "test_site_hooks": "tools/site_hooks.py",
    "test_soak": "benchmarks/soak",
    "test_speed": "benchmarks/speed",
    "test_space": "the example app for a Space",
    "test_mutations": "damaged files of all kinds",
    "test_tutorial_notebook": "examples/tutorial.ipynb",
    "test_works_with": "benchmarks/works_with",
    "test_package_metadata": "tools/package_metadata.py",
    "test_reference": "tools/reference.py",
    "test_release": "tools/release.py, workflows and templates",
    "test_tasks": "the commands of docs/how-to and docs/tutorials",
    "test_viewers_example": "an example",
    "batch/test_kills": "benchmarks/kills.py",
    "cli/test_early_mistakes": "what is told before torch is imported",
    "export/test_export": "several small modules",
    "export/test_training": "several small modules",
    "methods/test_costs": "what each method may cost",
    "methods/test_every_method": "what holds for each method",
    "viewer/test_modules": "several small modules of JavaScript",
}
FILES = sorted(TESTS.rglob("*.py"))
PLACES = {path: path.relative_to(TESTS).with_suffix("").as_posix() for path in FILES}
MODULES = {
    folder: {
        part.strip("_")
        for module in (SOURCE / folder).rglob("*.*")
        if module.suffix in {".py", ".js"}
        for part in module.relative_to(SOURCE / folder).with_suffix("").parts
    }
    for folder in {path.parent.name for path in SOURCE.glob("*/*.py")}
}


def modules_of(folder):
    """Names that a test file of this folder may start with."""
    if folder == "helpers":
        return {path.stem for path in (TESTS / folder).glob("*.py")}
    return MODULES[folder] if folder else {path.stem.strip("_") for path in SOURCE.glob("*.py")}


def mirrors(place, names):
    """Is `test_NAME` or `test_NAME_aspect` of one of these names?"""
    stem = place.rpartition("/")[2].removeprefix("test_")
    return any(stem == name or stem.startswith(f"{name}_") for name in names)


def imported(path):
    """Modules that a file imports, by their full names, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{'.' * node.level}{node.module or ''}.{alias.name}" for alias in node.names)


def of_a_test(name):
    """Does this import reach into a test file, or a conftest?"""
    return any(part.startswith("test_") or part == "conftest" for part in name.split(".")[:-1]) or bool(
        re.match(r"(tests\b|\.).*\.(test_\w+|conftest)$", name)
    )


def test_each_folder_is_one_of_the_source():
    found = {path.parent.name for path in TESTS.glob("*/*.py")}
    assert found - FOLDERS <= set(MODULES)


def test_a_test_file_is_named_by_a_module():
    tests = [place for place in PLACES.values() if "test_" in place]
    wrong = [place for place in tests if (place in NAMES) == mirrors(place, modules_of(place.rpartition("/")[0]))]
    assert wrong == [], "name it by a module, or say in NAMES why not"


def test_every_exception_is_a_file():
    assert set(NAMES) <= set(PLACES.values())


def test_nothing_is_imported_from_a_test():
    assert [(PLACES[path], name) for path in FILES for name in imported(path) if of_a_test(name)] == []


@pytest.mark.parametrize(
    ("name", "is_one"),
    [
        ("tests.cli.test_main.album", True),
        ("tests.cli.test_main", True),
        (".test_main.album", True),
        ("..conftest.photo", True),
        ("tests.helpers.console.album", False),
        ("vitscope.models.loading", False),
        ("timm.test_vit", False),
    ],
)
def test_an_import_from_a_test_is_seen(name, is_one):
    assert of_a_test(name) == is_one


@pytest.mark.parametrize(("root", "most"), [(TESTS, 500), (SOURCE, 400)], ids=["tests", "src"])
def test_no_file_is_long(root, most):
    sizes = {path.name: len(path.read_text("utf-8").splitlines()) for path in root.rglob("*.py")}
    assert {name: lines for name, lines in sizes.items() if lines > most} == {}
