"""Class names from a caller, in every form, and refused where they are none."""

import json

import pytest

from tests.helpers.errors import raises
from vitscope.errors import UsageError
from vitscope.models.answers.labels import check_count, read_labels

NAMES = {0: "ant", 1: "bee, honey bee", 2: "cat"}


@pytest.mark.parametrize(
    "labels",
    [
        ["ant", "bee, honey bee", "cat"],
        ("ant", "bee, honey bee", "cat"),
        {2: "cat", 0: "ant", 1: "bee, honey bee"},
        {"2": "cat", "0": "ant", "1": "bee, honey bee"},
        {"cat": 2, "ant": 0, "bee, honey bee": 1},  # class_to_idx of torchvision's ImageFolder
    ],
)
def test_lists_and_mappings(labels):
    found = read_labels(labels)
    assert found == NAMES
    assert list(found) == [0, 1, 2]


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("names.txt", "ant\nbee, honey bee\ncat\n\n"),
        ("names", "\ufeffant\r\nbee, honey bee\r\ncat"),
        ("names.json", json.dumps(list(NAMES.values()))),
        ("names.json", json.dumps(NAMES)),
        ("imagenet_class_index.json", json.dumps({n: [f"n0{n}", name] for n, name in NAMES.items()})),
        ("class_to_idx.json", json.dumps({name: index for index, name in NAMES.items()})),
        ("config.json", json.dumps({"model_type": "vit", "id2label": NAMES})),
        ("config.json", json.dumps({"label2id": {name: index for index, name in NAMES.items()}})),
        ("names.csv", '0,ant\n1,"bee, honey bee"\n2,cat\n'),
        ("names.csv", 'name,index\nant,0\n"bee, honey bee",1\n\ncat,2\n'),
        ("names.tsv", "class_id\tlabel\n2\tcat\n0\tant\n1\tbee, honey bee\n"),
    ],
)
def test_files(tmp_path, file, text):
    (tmp_path / file).write_text(text, "utf-8")
    assert read_labels(tmp_path / file) == NAMES
    assert read_labels(str(tmp_path / file)) == NAMES


@pytest.mark.parametrize(
    ("file", "content", "code"),
    [
        ("names.txt", "caf\xe9".encode("latin-1"), "models.labels.encoding"),
        ("names.txt", b"ant\n\ncat\n", "models.labels.name"),
        ("names.json", b"{", "models.labels.json"),
        ("names.json", b"[" * 100_000, "models.labels.json"),
        ("names.json", b'{"0": "ant", "0": "bee"}', "models.labels.twice"),
        ("names.json", b'{"zero": "ant"}', "models.labels.index"),
        ("names.json", b'{"0": {"name": "ant"}}', "models.labels.name"),
        ("names.json", b"7", "models.labels.kind"),
        ("names.csv", b"0,ant\n1\n", "models.labels.row"),
        ("names.csv", b"0,ant\n-1,bee\n", "models.labels.index"),
        ("names.txt", b"{0: 'tench, Tinca tinca',\n 1: 'goldfish',\n", "models.labels.numbered"),
        ("names.txt", b"1 ant\n2 bee\n", "models.labels.numbered"),
        ("data.yaml", b"names:\n  0: ant\n  1: bee\n", "models.labels.format"),
        ("missing.txt", None, "models.labels.no-file"),
    ],
)
def test_files_that_are_none(tmp_path, file, content, code):
    if content is not None:
        (tmp_path / file).write_bytes(content)
    with raises(UsageError, code):
        read_labels(tmp_path / file)


@pytest.mark.parametrize("labels", [["ant", ""], [None], {0.0: "a"}, {True: "a"}, {-1: "a"}, {"a", "b"}, b"ab", 3])
def test_arguments_that_are_none(labels):
    with pytest.raises(UsageError):
        read_labels(labels)


def test_class_to_idx_of_folders_that_are_numbers():
    """In torchvision's order, of texts: 0, 1, 10, 2 and so on; read from index to name, it would be another order."""
    folders = sorted(str(n) for n in range(11))
    found = read_labels({name: number for number, name in enumerate(folders)})
    assert found == dict(enumerate(folders))
    assert found[2] == "10"
    assert read_labels({0: 5, 1: 7}) == {0: "5", 1: "7"}


def test_nothing_given_and_no_classes_are_two_things():
    assert read_labels(None) is None
    assert read_labels([]) == {}


@pytest.mark.parametrize("labels", [{0: "a", 1: "b"}, {0: "a", 1: "b", 2: "c", 3: "d"}, {1: "a", 2: "b", 3: "c"}])
def test_the_count_is_that_of_the_outputs(labels):
    with raises(UsageError, "models.labels.count") as caught:
        check_count(labels, 3)
    assert str(len(labels)) in caught.value.message
    assert "answers with 3 numbers" in caught.value.message
    check_count(NAMES, 3)


def test_duplicates_are_names():
    assert read_labels(["crane", "crane"]) == {0: "crane", 1: "crane"}
