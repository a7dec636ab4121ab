"""The page that leads through the source is true: every file is in it, and nothing that is not there."""

import re

from tests.helpers import architecture, import_graph

WALK, LIST, _ = architecture.in_page()


def test_each_file_is_listed_with_its_first_sentence():
    assert architecture.listed() == LIST, "python -m tests.helpers.architecture writes it anew"


def test_a_file_begins_with_one_sentence():
    first = {path: architecture.sentence(path) for path in architecture.files()}
    assert [path for path, one in first.items() if not 10 < len(one) <= 120 or one[-1] not in ".:?!"] == []


def test_what_the_walk_names_is_there():
    named = set(re.findall(r"`(\w[\w/]*/[\w/]*(?:\.\w+)?)`", WALK))
    assert len(named) > 10
    assert [
        one for one in named if not any((at / one).exists() for at in (architecture.SOURCE, architecture.ROOT))
    ] == []


def test_what_is_said_to_be_in_a_file_is_there():
    said = set(re.findall(r"`(\w+)\(?\)?` of `([\w/]+\.py)`", WALK))
    texts = {path: (architecture.SOURCE / path).read_text("utf-8") for _, path in said}
    assert len(said) > 10
    assert [(name, path) for name, path in said if not re.search(rf"\b{name}\b", texts[path])] == []


def test_the_order_of_imports_is_the_one_that_is_held():
    said = [set(re.findall(r"\w+", stage)) for stage in re.search(r"```text\n(.*?)```", WALK, re.DOTALL)[1].split("→")]
    assert said == [set(stage) for stage in import_graph.ORDER]


def test_each_folder_is_in_the_table():
    folders = {path.parts[0] for path in architecture.files() if len(path.parts) > 1}
    assert [folder for folder in folders if f"\n| `{folder}/` |" not in WALK] == []
