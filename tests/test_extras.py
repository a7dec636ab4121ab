"""Every extra of the project, in an environment without its packages: one true line that names the extra."""

import json
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.helpers.errors import raises
from vitscope.batch.run import require_engine
from vitscope.errors import MissingDependencyError

ROOT = Path(__file__).parent.parent
NOTHING_TO_IMPORT = {"tensorboard"}  # the caller brings the writer


@pytest.mark.slow
def test_each_absent_package_is_named_with_its_extra(tiny_folder, photo, tmp_path):
    command = [sys.executable, "-m", "tests.helpers.absent_extras", tiny_folder, photo, tmp_path]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert ran.returncode == 0, ran.stderr
    answers = json.loads(ran.stdout.splitlines()[-1])
    for answer in answers:
        assert answer["code"] == "errors.missing-dependency", answer
        assert answer["text"].endswith(f" is not installed (pip install 'vitscope[{answer['extra']}]')"), answer
        assert answer["package"] in answer["text"], answer
        assert answer["text"].count("install") == 2, answer  # garbled hints said it more often
        assert "\n" not in answer["text"], answer
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"]
    assert {answer["extra"] for answer in answers} == extras.keys() - NOTHING_TO_IMPORT


@pytest.mark.parametrize(("engine", "extra"), [("local", "batch"), ("ray", "ray")])
def test_an_engine_names_the_extra_that_brings_all_it_needs(monkeypatch, engine, extra):
    for name in ("pyarrow", "ray"):
        monkeypatch.setitem(sys.modules, name, None)
    with raises(MissingDependencyError, "errors.missing-dependency") as caught:
        require_engine(engine)
    assert f"vitscope[{extra}]" in str(caught.value)
