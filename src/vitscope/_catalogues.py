"""Translations of messages and page texts, read from `locales/LANGUAGE/AREA.po`."""

from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Any

from vitscope._messages import Message, message_table, python_options

LANGUAGES = ("en", "zh")


@cache
def catalogue(language: str, area: str) -> Mapping[str, str]:
    """Return the texts of one area in one language by code; none where there is no such file."""
    import polib

    path = files("vitscope") / "locales" / language / f"{area}.po"
    if not path.is_file():
        return {}
    return {entry.msgid: entry.msgstr for entry in polib.pofile(path.read_text("utf-8")) if not entry.obsolete}


def page_texts(area: str) -> dict[str, dict[str, str]]:
    """Return the texts of a page's own interface: by language, then by key."""
    return {language: dict(catalogue(language, area)) for language in LANGUAGES}


def translated(text: str, language: str) -> str:
    """Return a Message in a language, as Python has its options; English where it has no other words."""
    if not isinstance(text, Message):
        return text
    template = "" if language == "en" else _template({"code": text.code, "template": text.template}, language)
    params = {name: translated(one, language) if isinstance(one, str) else one for name, one in text.params.items()}
    return python_options(template or text.template).format_map(params)


def page_messages(document: object) -> dict[str, dict[str, Any]]:
    """Return what a page needs to translate the Messages of a document.

    Returns:
        By English text: `params` and, under each other language that has one, the template.
    """
    table = message_table(document)
    return {
        text: {
            "params": entry["params"],
            **{language: words for language in LANGUAGES if language != "en" and (words := _template(entry, language))},
        }
        for text, entry in table.items()
    }


def _template(entry: Mapping[str, Any], language: str) -> str:
    if entry["code"] == "joined":
        return str(entry["template"]).replace("; ", "；").replace(", ", "、") if language == "zh" else ""
    return python_options(catalogue(language, entry["code"].partition(".")[0]).get(entry["code"], ""))
