"""The tutorial notebook runs from top to bottom, and installs only from an address that the project has."""

import json
import tomllib

import pytest

from tests.helpers.pages import ROOT

PATH = ROOT / "examples" / "tutorial.ipynb"


def test_it_holds_no_results_and_invents_no_address():
    book = json.loads(PATH.read_text("utf-8"))
    code = [cell for cell in book["cells"] if cell["cell_type"] == "code"]
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in code)
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    repository = settings["tool"]["hatch"]["metadata"]["hooks"]["custom"]["repository"]
    installs = ["".join(cell["source"]) for cell in code if "pip install" in "".join(cell["source"])]
    assert installs == ([f'%pip install --quiet "vitscope @ git+{repository}"'] if repository else [])


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
