"""The adapter of docs/extend/write-a-model-adapter.md, installed and run as the page says."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

from tests.helpers.distributions import ROOT, blocks, install, project

pytestmark = pytest.mark.slow  # installs two distributions; test_plugins.py has what goes without
PAGE = "docs/extend/write-a-model-adapter.md"
RUN = """
import json, sys
import numpy as np, torch
from PIL import Image
page, photo = sys.argv[1:]
names = {}
exec(open(page).read(), names)
import mylib, vitscope
from vitscope.errors import VitscopeError

model = mylib.create("tiny").eval()
image = Image.open(photo).convert("RGB").resize((32, 32), Image.Resampling.BICUBIC)
pixels = torch.from_numpy(np.asarray(image, np.float32) / 127.5 - 1).permute(2, 0, 1)[None]
with torch.no_grad():
    expected = model(pixels).softmax(-1)[0].tolist()


class Mine(mylib.TinyViT):
    pass


mine = Mine().eval()
mine.load_state_dict(model.state_dict())
scopes = [names["by_name"], names["as_module"], vitscope.load(mine)]


def refusal(reference):
    try:
        vitscope.load(reference)
    except VitscopeError as error:
        return [type(error).__name__, error.code, str(error)]


answers = {
    "adapters": [scope.adapter.name for scope in scopes],
    "references": [scope.adapter.reference for scope in scopes],
    "predictions": [scope.explain(photo, method="rollout").predictions for scope in scopes],
    "expected": dict(zip(mylib.CLASSES, expected)),
    "refusals": {name: refusal(name) for name in ("mylib:huge", "broken:tiny", "mylob:tiny")},
}
from vitscope.cli.main import app
app(["models"], standalone_mode=False)
print(json.dumps(answers))
"""


@pytest.fixture(scope="module")
def ran(tmp_path_factory, photo):
    folder = tmp_path_factory.mktemp("plugin")
    target = folder / "site"
    (pyproject,), (library, adapter, code) = blocks(PAGE, "toml"), blocks(PAGE, "python")
    install(target, folder / "vitscope-mylib", pyproject, mylib=library, vitscope_mylib=adapter)
    broken = project("vitscope.models", "broken", "broken_adapter")
    install(target, folder / "broken", broken, broken_adapter="raise RuntimeError('on purpose')")
    (folder / "page.py").write_text(code.replace("photo.jpg", str(photo)), "utf-8")
    return subprocess.run(
        [sys.executable, "-c", RUN, "page.py", str(photo)],
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(target)])},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.fixture(scope="module")
def answers(ran):
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout.splitlines()[-1])


def test_models_of_the_library_get_the_adapter_by_name_as_modules_and_by_derivation(answers):
    assert answers["adapters"] == ["mylib"] * 3
    assert answers["references"] == ["mylib:tiny", "TinyViT", "Mine"]


def test_labels_preprocessing_and_probabilities_are_the_adapters(answers):
    for predictions in answers["predictions"]:
        names, values = zip(*predictions, strict=True)
        assert set(names) == {"cat", "dog", "bird"}
        np.testing.assert_allclose(values, [answers["expected"][name] for name in names], atol=1e-5)


def test_its_references_are_listed(ran, answers):
    assert "mylib:NAME" in ran.stdout
    assert "such as mylib:tiny" in ran.stdout


def test_what_it_cannot_load_is_one_line(answers):
    assert answers["refusals"]["mylib:huge"][:2] == ["ModelError", "models.not-loaded"]
    assert "mylib has no model huge" in answers["refusals"]["mylib:huge"][2]
    assert answers["refusals"]["mylob:tiny"][:2] == ["UnknownNameError", "errors.unknown-name"]
    assert "mylib:" in answers["refusals"]["mylob:tiny"][2]


def test_a_broken_plug_in_is_named_and_costs_nobody_else(ran, answers):
    assert "the plug-in 'broken' of broken-adapter cannot be loaded: RuntimeError: on purpose" in ran.stderr
    assert answers["refusals"]["broken:tiny"][:2] == ["UsageError", "plugins.broken"]
