"""The tutorial notebook runs from top to bottom, and installs nothing but the project, where it is missing."""

import json
import tomllib

import pytest

from tests.helpers.pages import ROOT

PATH = ROOT / "examples" / "tutorial.ipynb"


def test_it_holds_no_results_and_installs_the_project_where_it_is_missing():
    book = json.loads(PATH.read_text("utf-8"))
    code = [cell for cell in book["cells"] if cell["cell_type"] == "code"]
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in code)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    assert "bench" in project["optional-dependencies"]  # with the photos
    lines = [line for cell in code for line in "".join(cell["source"]).splitlines() if "pip install" in line]
    assert lines == [f'    %pip install --quiet "{project["name"]}[bench]"']


@pytest.mark.slow
@pytest.mark.weights
def test_it_is_valid_and_runs(tmp_path, monkeypatch):
    import nbformat  # 3 s of CPU: it compiles a grammar of addresses
    from nbclient import NotebookClient

    monkeypatch.setenv("PYTHONPATH", str(ROOT / "src"))
    book = nbformat.read(PATH, as_version=4)
    nbformat.validate(book)
    NotebookClient(book, timeout=240, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}).execute()
    code = [cell for cell in book.cells if cell.cell_type == "code"]
    told = ["".join(out.get("text", "") for out in cell.outputs) for cell in code]
    shown = [any("image/png" in out.get("data", {}) for out in cell.outputs) for cell in code]
    assert sum(shown) >= 3, "sheets are shown"
    assert any("each row sums to 1.0" in text for text in told)
    assert (tmp_path / "view.html").stat().st_size > 100_000
