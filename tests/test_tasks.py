"""What a new user wants to do, done by what the pages say: each block of docs/how-to and docs/tutorials runs."""

import ast
import re

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from tests.helpers.pages import ROOT, Workplace, blocks_of, commands_of

TASK = re.compile(r"^### (\d+)\. (.+?)\n(.*?)(?=^##|\Z)", re.DOTALL | re.MULTILINE)
TASKS = TASK.findall((ROOT / "docs/how-to/tasks.md").read_text("utf-8"))
OTHERS = [
    path.relative_to(ROOT).as_posix()
    for folder in ("how-to", "tutorials", "background")
    for path in sorted((ROOT / "docs" / folder).glob("*.md"))
    if path.name != "tasks.md"
]
CHINESE = [page for page in OTHERS if page.endswith(".zh-CN.md")]


@pytest.fixture(scope="module")
def workplace(tmp_path_factory, tiny_folder, clip_folder):
    return Workplace(tmp_path_factory.mktemp("workplace"), tiny_folder, clip_folder)


@pytest.fixture
def names(workplace, tiny_folder):
    """What the Python of a page finds: a model, and a loader of pixels with labels."""
    import vitscope

    torch.manual_seed(0)
    pixels = torch.randn(2, 3, 64, 64)
    model = vitscope.load(tiny_folder).model
    return {"model": model, "loader": DataLoader(TensorDataset(pixels, torch.tensor([1, 0])), batch_size=1)}


def test_there_are_forty():
    assert [int(number) for number, _, _ in TASKS] == list(range(1, 41))


@pytest.mark.parametrize("page", [*CHINESE, "README.zh-CN.md"])
def test_a_chinese_page_runs_what_its_english_one_does(page):
    """So that to run the English one is enough."""

    def steps(page):
        for language, block in blocks_of(page):
            yield ast.dump(ast.parse(block)) if language == "python" else commands_of(block)

    english = [*steps(page.replace(".zh-CN", ""))]
    assert english
    assert [*steps(page)] == english


@pytest.mark.slow
@pytest.mark.weights
@pytest.mark.parametrize(("number", "title", "text"), TASKS, ids=[number for number, _, _ in TASKS])
def test_a_task_is_done_by_its_command(number, title, text, workplace, names, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(workplace.fresh(tmp_path))
    [(language, code)] = re.findall(r"```(\w+)\n(.*?)```", text, re.DOTALL)
    if "out/data" in code:
        batch = ["vitscope", "batch", "photos/", "-m", "google/vit-base-patch16-224", "-o", "out"]
        assert workplace.run(batch, monkeypatch) == 0
    if language == "python":
        workplace.execute(code, "tasks.md", names)
    for command in commands_of(code) if language == "console" else ():
        code = workplace.run(command, monkeypatch)
        told = capsys.readouterr()
        assert code == 0, (title, told.err)
        assert told.out or told.err, "a command says what it did"
    for name in re.findall(r"`([^`]+)`", (re.findall(r"^Writes (.+)\.$", text, re.MULTILINE) or [""])[0]):
        assert (tmp_path / name).exists(), (title, name, sorted(p.name for p in tmp_path.rglob("*")))


@pytest.mark.slow
@pytest.mark.weights
@pytest.mark.parametrize("page", [page for page in OTHERS if page not in CHINESE])
def test_what_a_page_shows_runs(page, workplace, names, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(workplace.fresh(tmp_path))
    torch.save(workplace.own, "model.pt")
    for language, block in blocks_of(page):
        if language == "python":
            workplace.execute(block, page, names)
        for command in commands_of(block) if language == "console" else ():
            if command[0] == "vitscope":
                code = workplace.run(command, monkeypatch)
                assert code == 0, (page, command, capsys.readouterr().err)
