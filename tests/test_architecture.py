"""The page that leads through the source is true: every file is in it, and nothing that is not there."""

import re

import pytest

from tests.helpers import architecture, import_graph

WALK, LIST, _ = architecture.in_page()


def test_each_file_is_listed_with_its_first_sentence():
    assert architecture.listed() == LIST, "python -m tests.helpers.architecture writes it anew"


@pytest.mark.parametrize("path", architecture.files(), ids=str)
def test_a_file_begins_with_one_sentence(path):
    sentence = architecture.sentence(path)
    assert 10 < len(sentence) <= 120
    assert sentence[-1] in ".:?!"


@pytest.mark.parametrize("name", sorted(set(re.findall(r"`(\w[\w/]*/[\w/]*(?:\.\w+)?)`", WALK))))
def test_what_the_walk_names_is_there(name):
    assert (architecture.SOURCE / name).exists() or (architecture.ROOT / name).exists()


@pytest.mark.parametrize(("name", "path"), sorted(set(re.findall(r"`(\w+)\(?\)?` of `([\w/]+\.py)`", WALK))))
def test_what_is_said_to_be_in_a_file_is_there(name, path):
    assert re.search(rf"\b{name}\b", (architecture.SOURCE / path).read_text("utf-8"))


def test_the_order_of_imports_is_the_one_that_is_held():
    said = [set(re.findall(r"\w+", stage)) for stage in re.search(r"```text\n(.*?)```", WALK, re.DOTALL)[1].split("→")]
    assert said == [set(stage) for stage in import_graph.ORDER]


@pytest.mark.parametrize("folder", sorted({path.parts[0] for path in architecture.files() if len(path.parts) > 1}))
def test_each_folder_is_in_the_table(folder):
    assert f"\n| `{folder}/` |" in WALK
