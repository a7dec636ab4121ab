"""Every sentence has a code, one template, and its Chinese with the same parameters."""

import pickle
import re

import polib
import pytest
from tools import messages

from vitscope._catalogues import catalogue, page_messages, page_texts
from vitscope._messages import join_messages, message_table, msg, restore_messages

AREAS = messages.catalogues()
PAGES = ("explore-page", "recipe-page", "viewer-page", "web-page")


@pytest.fixture(scope="module")
def templates():
    """The template of each code: 1.5 s of CPU, which is why collection does without."""
    return messages.templates()


def test_every_area_has_both_catalogues(templates):
    assert messages.areas(templates) == AREAS == messages.catalogues("zh")


def test_codes_name_their_area(templates):
    folders = {path.stem.lstrip("_") for path in messages.ROOT.iterdir() if path.is_dir() or path.suffix == ".py"}
    assert {code for code in templates if not re.fullmatch(r"[a-z]+\.[a-z0-9-]+(\.[a-z0-9-]+)*", code)} == set()
    assert {code.partition(".")[0] for code in templates} <= folders


def test_a_code_with_two_templates_is_found(tmp_path):
    (tmp_path / "a.py").write_text('msg("a.b", "one")\nmsg("a.b", "one")\n')
    assert messages.templates(tmp_path) == {"a.b": "one"}
    (tmp_path / "b.py").write_text('msg("a.b", "two")\n')
    with pytest.raises(SystemExit, match=r"b\.py:1: 'a\.b' has another template"):
        messages.templates(tmp_path)


def test_a_template_made_at_run_time_is_found(tmp_path):
    (tmp_path / "a.py").write_text('msg("a.b", f"one {x}")\n')
    with pytest.raises(SystemExit, match="plain strings"):
        messages.templates(tmp_path)


def test_the_two_templates_of_an_error_are_found(tmp_path):
    (tmp_path / "a.py").write_text(
        'UsageError.coded("a.b", "one {x}", "two", x=1)\nUsageError.coded("a.c", "no hint")\n'
    )
    assert messages.templates(tmp_path) == {"a.b": "one {x}", "a.b.hint": "two", "a.c": "no hint"}
    (tmp_path / "a.py").write_text('UsageError.coded("a.b", "one", msg("a.d", "d") if x else HINT)\n')
    assert messages.templates(tmp_path) == {"a.b": "one", "a.d": "d"}


@pytest.mark.parametrize("hint", ['f"two {x}"', '"two" + x', '"two" if x else HINT', "str(error)"])
def test_a_hint_made_at_run_time_is_found(tmp_path, hint):
    (tmp_path / "a.py").write_text(f'UsageError.coded("a.b", "one", {hint})\n')
    with pytest.raises(SystemExit, match=r"a\.py:1: coded needs a hint"):
        messages.templates(tmp_path)


def test_every_error_has_a_code():
    assert messages.uncoded() == []


def test_an_error_without_a_code_is_found(tmp_path):
    raised = ('UsageError("plain")', 'ImageError(f"plain {x}")', 'UsageError(msg("a.b", "coded"))', 'ValueError("x")')
    (tmp_path / "a.py").write_text("".join(f"raise {one}\n" for one in raised))
    assert messages.uncoded(tmp_path) == ["a.py:1", "a.py:2"]


@pytest.mark.parametrize("area", AREAS)
def test_the_english_catalogue_is_that_of_the_sources(area, templates):
    if area not in PAGES:
        assert messages.text_of(messages.english(area, templates)) == messages.text_of(messages.read("en", area))


@pytest.mark.parametrize("area", AREAS)
def test_every_code_has_its_chinese(area, templates):
    english = {entry.msgid: entry.msgstr for entry in messages.read("en", area)} if area in PAGES else templates
    codes = {code for code in english if area in PAGES or code.startswith(f"{area}.")}
    chinese = {entry.msgid: entry.msgstr for entry in messages.read("zh", area) if not entry.obsolete}
    assert {code for code in codes if not chinese.get(code)} == set(), "no Chinese"
    assert set(chinese) - codes == set(), "no such code"
    wrong = {code for code in codes if messages.parameters(english[code]) != messages.parameters(chinese[code])}
    assert wrong == set(), "other parameters"


def test_refreshing_keeps_translations_and_orders_them():
    source = messages.english("a", {"a.one": "One", "a.two": "Two {x}", "b.other": "Other"})
    old = polib.POFile()
    old.extend([polib.POEntry(msgid="a.two", msgstr="二 {x}"), polib.POEntry(msgid="a.gone", msgstr="没了")])
    made = messages.refreshed(source, old)
    assert [(one.msgid, one.msgstr, one.comment, one.obsolete) for one in made] == [
        ("a.one", "", "One", 0),
        ("a.two", "二 {x}", "Two {x}", 0),
        ("a.gone", "没了", "", True),
    ]


@pytest.mark.parametrize("area", PAGES)
def test_page_texts_have_the_same_values_in_both_languages(area):
    texts = page_texts(area)
    assert texts["en"].keys() == texts["zh"].keys()
    assert all(texts["en"].values())
    assert len(texts["en"]) > 15


def test_a_page_gets_parameters_and_templates():
    inner = msg("viewer.layers-differ", "its layers do not all see the same tokens")
    outer = msg("viewer.by-class", "{method} by class", method=inner)
    joined = join_messages("; ", [inner, outer])
    table = page_messages({"why": [joined], "name": "plain"})
    assert table[inner] == {"params": {}, "zh": catalogue("zh", "viewer")["viewer.layers-differ"]}
    assert table[outer]["params"] == {"method": str(inner)}
    assert table[joined]["zh"] == "{part0}；{part1}"
    assert set(table) == {inner, outer, joined}


def test_options_are_written_as_in_python_in_every_language():
    text = msg("files.already-there.hint", "{@force=True} replaces it, or choose another path")
    assert "force=True" in page_messages([text])[text]["zh"]
    window = msg("images.window.hint", "write the numbers that become black and white, as in {@window=0,4095}")
    assert "window=(0,4095)" in window
    assert window.spoken("cli").endswith("--window 0,4095")


def test_messages_survive_json():
    inner = msg("viewer.layers", "layers")
    outer = msg("viewer.by-class", "{method} by class", method=inner)
    braces = msg("viewer.queries", "{{queries}} of {name}", name="{a}")
    document = {"notes": [outer, join_messages(", ", [inner, outer]), braces, "plain"], "count": 3}
    table = message_table(document)
    plain = {"notes": [str(one) for one in document["notes"]], "count": 3}
    made = restore_messages(plain, table)
    assert made == document
    assert message_table(made) == table
    assert pickle.loads(pickle.dumps(made["notes"])) == document["notes"]


def test_a_message_that_is_all_of_a_parameter_comes_back():
    one = msg("viewer.by-class", "{name}", name="foo")
    assert message_table(restore_messages("foo", message_table(one))) == message_table(one)


@pytest.mark.parametrize(
    "table",
    [
        {"x": ("{a:999999999}", {"a": "x"})},
        {"x": ("{a!r}", {"a": "x"})},
        {"x": ("{a.__class__}", {"a": "x"})},
        {"x": ("{b}", {"a": "x"})},
        {"x": ("{}", {"a": "x"})},
        {"x": ("{a}{a}", {"a": "x"})},
        {"x": ("{a", {"a": "x"})},
        {"x": ("{a}" * 10, {"a": "m0"})} | {f"m{i}": ("{a}" * 10, {"a": f"m{i + 1}"}) for i in range(12)},
        {"x": (None, {"a": "m0"})} | {f"m{i}": (None, {"a": f"m{i + 1}", "b": f"m{i + 1}"}) for i in range(40)},
        {"x": (None, {"a": "0"})} | {f"{i}": (None, {"a": f"{i + 1}"}) for i in range(2000)},
        {"x": (None, {f"p{i}": "y" for i in range(400)})}
        | {"y": (None, {f"p{i}": "z" for i in range(400)}), "z": (None, {})},
    ],
)
def test_a_forged_table_is_refused_before_it_costs_anything(table):
    entries = {
        text: {"code": "viewer.layers", "params": params} | ({} if template is None else {"template": template})
        for text, (template, params) in table.items()
    }
    with pytest.raises(ValueError, match="table of sentences"):
        restore_messages("x", entries)
