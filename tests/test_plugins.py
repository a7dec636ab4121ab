"""Parts from other distributions: found, used, and harmless where they are broken."""

import json
import logging
import os
import subprocess
import sys

import numpy as np
import pytest

from tests.helpers.distributions import ROOT, blocks, install, project
from tests.helpers.errors import raises
from vitscope._plugins import Registry
from vitscope.errors import UnknownNameError, UsageError
from vitscope.methods.base import METHODS
from vitscope.models.base import ADAPTERS, ModelAdapter
from vitscope.models.loading import adapter_of
from vitscope.models.timm.adapter import TimmAdapter

PAGE = "docs/extend/write-a-method.md"
OWN = "from tests_parts import PARTS\nPARTS.add({name!r}, {name!r})\n"
BROKEN = {
    "absent": "import a_package_that_is_not_installed",
    "leaving": "raise SystemExit(3)",
    "taken": OWN.format(name="own"),
    "nothing": "PART = 3",
    "unusual": "raise type('Stop', (BaseException,), {})('a test runner skips so')",
    "wrong": "from tests_parts import PARTS\nPARTS.add('wrong', 3)",
}
RUN = """
import json, sys
import numpy as np
from vitscope.cli.main import app
from vitscope.methods.base import METHODS
app(["methods", "--json"], standalone_mode=False)
app([*sys.argv[2:], "--method", "received-in-layer", "--layer", "1", "--out", "out", "--json"], standalone_mode=False)
names = {}
exec(open(sys.argv[1]).read(), names)
np.save("map.npy", names["explanation"].map)
"""


def distribution(folder, name, code):
    """A distribution as an installer leaves it: a module, and metadata with one entry point."""
    (folder / f"part_{name}.py").write_text(code, "utf-8")
    about = folder / f"part_{name}-1.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: part-{name}\nVersion: 1\n", "utf-8")
    (about / "entry_points.txt").write_text(f"[tests_parts]\n{name} = part_{name}\n", "utf-8")


@pytest.fixture
def parts(tmp_path, monkeypatch):
    """A registry with a part of its own and those of some distributions."""
    (tmp_path / "tests_parts").mkdir()
    code = (
        "from vitscope._plugins import Registry\n"
        "PARTS = Registry('part', 'tests_parts', lambda part: isinstance(part, str))\n"
    )
    (tmp_path / "tests_parts" / "__init__.py").write_text(code, "utf-8")
    (tmp_path / "tests_parts" / "own.py").write_text(OWN.format(name="own"), "utf-8")
    monkeypatch.syspath_prepend(tmp_path)

    def made(**codes):
        for name, code in codes.items():
            distribution(tmp_path, name, code)
        from tests_parts import PARTS

        return PARTS

    yield made
    for name in [name for name in sys.modules if name.partition(".")[0].startswith(("tests_parts", "part_"))]:
        del sys.modules[name]


def test_a_part_of_another_distribution_is_found(parts):
    assert [name for name, _ in parts(other=OWN.format(name="other"))] == ["other", "own"]


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_plug_in_is_named_and_costs_nobody_else(parts, caplog, name):
    found: Registry = parts(other=OWN.format(name="other"), **{name: BROKEN[name]})
    with caplog.at_level(logging.WARNING, "vitscope"):
        assert [part for part, _ in found] == ["other", "own"]
    (warning,) = caplog.records
    assert f"'{name}' of part-{name}" in warning.getMessage()
    assert (found.get("own"), found.get("other")) == ("own", "other")
    with raises(UsageError, "plugins.broken", "plugins.broken.hint"):
        found.get(name)
    with raises(UnknownNameError, "errors.unknown-name") as caught:
        found.get("owm")
    assert f"the plug-in '{name}' of part-{name} cannot be loaded" in str(caught.value)


def test_a_plug_in_that_was_imported_before_is_not_said_to_register_nothing(parts, caplog):
    code = "from tests_parts import PARTS\nclass Text(str): pass\nPARTS.add('another', Text('x'))\n"
    found: Registry = parts(early=code)
    __import__("part_early")
    with caplog.at_level(logging.WARNING, "vitscope"):
        assert [part for part, _ in found] == ["another", "own"]
    assert caplog.records == []


def test_a_second_part_of_a_name(parts):
    with raises(UsageError, "plugins.name-taken"):
        parts().add("own", "again") if parts().get("own") else None


def test_what_is_no_adapter_or_method_is_refused():
    nameless = type("Nameless", (ModelAdapter,), {})
    for registry, part in ((ADAPTERS, 3), (ADAPTERS, nameless), (ADAPTERS, ModelAdapter), (METHODS, print)):
        with raises(UsageError, "plugins.wrong-kind"):
            registry.add("other", part)


def test_an_adapter_whose_check_fails_claims_nothing(monkeypatch, caplog):
    import timm

    def claims(model):
        raise RuntimeError("a mistake in there")

    monkeypatch.setattr(TimmAdapter, "claims", claims)
    model = timm.create_model("vit_tiny_patch16_224", num_classes=0)
    assert adapter_of(model) is not TimmAdapter
    assert "'timm' cannot be used: a mistake in there" in caplog.text


@pytest.mark.slow
def test_the_method_of_the_page(tmp_path, tiny_folder, tiny_scope, photo):
    """Installed as the page says, beside a plug-in that does not import; command line and Python as on the page."""
    target = tmp_path / "site"
    (pyproject,), (module, code) = blocks(PAGE, "toml"), blocks(PAGE, "python")
    install(target, tmp_path / "vitscope-received", pyproject, vitscope_received=module)
    broken = project("vitscope.methods", "broken", "broken_method")
    install(target, tmp_path / "broken", broken, broken_method="import a_package_that_is_not_installed")
    code = code.replace("google/vit-base-patch16-224", str(tiny_folder)).replace("photo.jpg", str(photo))
    (tmp_path / "page.py").write_text(code, "utf-8")
    ran = subprocess.run(
        [sys.executable, "-c", RUN, "page.py", "explain", str(photo), "--model", str(tiny_folder)],
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(target)])},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
    )
    assert "the plug-in 'broken' of broken-method cannot be loaded: ModuleNotFoundError" in ran.stderr
    listed, end = json.JSONDecoder().raw_decode(ran.stdout)
    (ours,) = (one for one in listed["methods"] if one["name"] == "received-in-layer")
    assert ours["summary"].startswith("Average attention that each token receives")
    assert ours["options"] == {"layer": "-1"}
    assert len(listed["methods"]) > 30
    (saved,) = json.loads(ran.stdout[end:])["results"]
    assert saved["provenance"]["options"] == {"layer": 1}
    wanted = tiny_scope.attention(photo)[1].rows().mean((1, 2))[0, 1:].reshape(4, 4).numpy()
    np.testing.assert_allclose(np.load(tmp_path / "map.npy"), wanted, rtol=1e-5)


def test_an_import_that_was_interrupted_can_be_repeated(tmp_path, monkeypatch):
    (tmp_path / "interrupted_parts").mkdir()
    (tmp_path / "interrupted_parts/__init__.py").write_text(
        "from vitscope._plugins import Registry\nPARTS = Registry('part', 'interrupted_parts')\nSTOP = [True]\n"
    )
    (tmp_path / "interrupted_parts/one.py").write_text(
        "from interrupted_parts import PARTS, STOP\n\nclass Part:\n    pass\n\nPARTS.add('part', Part)\n"
        "if STOP.pop():\n    STOP.append(False)\n    raise KeyboardInterrupt\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    from interrupted_parts import PARTS

    with pytest.raises(KeyboardInterrupt):
        PARTS.get("part")
    assert PARTS.get("part").__name__ == "Part"
    with raises(UsageError, "plugins.name-taken"):
        PARTS.add("part", TimmAdapter)
