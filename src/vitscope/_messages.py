"""Sentences that users read, as codes with parameters, so that a page can show them in another language.

A sentence is written where it is said, in English, beside its code:

    msg("geometry.no-such-class", "class {number} does not exist", number=1000)

A `Message` is that English text, a `str`, which also knows its code and parameters. The part of a code before the dot
is its area: `make messages` collects the codes of an area into `locales/en/AREA.po`; the Chinese is in
`locales/zh/AREA.po`. Pages get plain text and, beside it, a table from each text to its code and parameters
(`message_table`); the page looks the code up in its language.

In a template, `{name}` is a parameter and `{@size=224}` an option in the caller's language: `size=224` in Python,
`--size 224` on the command line. `{@size}` names the option alone, `{@*name}` the one that the parameter `name` names;
`{@O:layer=3}` is an option of a method, which the command line writes `-O layer=3`. A parameter may be a Message;
numbers are formatted by the caller.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal

Language = Literal["python", "cli"]

# control and format characters, such as those that turn the direction of writing; and ends of lines and paragraphs
CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\xad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb]")
_FIELD = re.compile(r"\{(\w+)\}")
_MOST_MESSAGES, _DEEPEST_MESSAGE = 100_000, 16  # in one document; one within another
_OPTION = re.compile(r"(?<!\{)\{@(O:)?(\*?\w+)(?:=((?:[^{}]|\{\w+\})*))?\}")


class Message(str):
    """One sentence with its code and parameters; equal to its English text, as Python callers read it.

    Attributes:
        code: what identifies the sentence in every language, such as `images.not-found`.
        template: the English text with `{name}` for each parameter.
        params: the parameters, plain values or Messages.
    """

    code: str
    template: str
    params: Mapping[str, Any]

    def __new__(cls, code: str, template: str, params: Mapping[str, Any]) -> "Message":
        """Fill the template in; raise a KeyError where a parameter is missing."""
        message = super().__new__(cls, _filled(template, params, "python"))
        message.code, message.template, message.params = code, template, params
        return message

    def __reduce__(self) -> tuple[Any, ...]:
        return Message, (self.code, self.template, dict(self.params))

    def spoken(self, language: Language) -> str:
        """Return the English text with options as Python or the command line writes them."""
        return _filled(self.template, self.params, language)


def msg(code: str, template: str, /, **params: object) -> Message:
    """Make the Message of a code: `template` in English, filled in with `params`."""
    return Message(code, " ".join(template.split()), params)


def visible(text: str, kept: str = "") -> str:
    """Return a text whose control characters, except those `kept`, are escapes: a name may hold any."""
    return CONTROL.sub(lambda found: found[0] if found[0] in kept else _escaped(found[0]), text)


def json_text(document: object, indent: int | None = 2) -> str:
    """Return a document as JSON; control characters of names are escapes in it.

    Raises:
        ValueError: NaN or infinity in it.
    """
    text = json.dumps(document, indent=indent, ensure_ascii=False, allow_nan=False)
    return CONTROL.sub(lambda found: found[0] if found[0] == "\n" else json.dumps(found[0])[1:-1], text)


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode()


def join_messages(separator: Literal["; ", ", ", " "], messages: Iterable[str]) -> str:
    """Join sentences; the result is a Message whose parts keep their codes, or the one sentence that there is."""
    parts = list(messages)
    if len(parts) < 2:
        return parts[0] if parts else ""
    names = {f"part{number}": part for number, part in enumerate(parts)}
    return Message("joined", separator.join(f"{{{name}}}" for name in names), names)


def message_table(document: object) -> dict[str, dict[str, Any]]:
    """Return the code and parameters of each Message in a document, by its English text.

    Args:
        document: mappings, sequences and values, nested at will.
    """
    return {
        str(message): {
            "code": message.code,
            "params": {name: _plain(value) for name, value in message.params.items()},
            **({"template": message.template} if message.code == "joined" else {}),
        }
        for message in _messages(document)
    }


def restore_messages(document: Any, table: Mapping[str, Mapping[str, Any]]) -> Any:
    """Make each text that a table has a Message again, in a document that went through JSON.

    Args:
        document: mappings, sequences and values, nested at will.
        table: what `message_table` gave for it.

    Raises:
        ValueError: a table of another origin, whose parts do not make up the texts or have too many parts.
    """
    return _Restorer(table).restored(document, ())


class _Restorer:
    """Makes the Messages of one document; what a forged table asks for is refused before it costs anything."""

    def __init__(self, table: Mapping[str, Mapping[str, Any]]) -> None:
        self._table, self._left = table, _MOST_MESSAGES

    def restored(self, document: Any, around: tuple[str, ...]) -> Any:
        """Restore a part of the document, which is a parameter of the texts `around`."""
        if isinstance(document, str) and document in self._table and document not in around:
            entry, around = self._table[document], (*around, document)
            self._left -= 1
            if self._left < 0 or len(around) > _DEEPEST_MESSAGE:
                raise ValueError(msg("documents.messages", "its table of sentences is not one that was written"))
            params = {name: self.restored(value, around) for name, value in entry["params"].items()}
            whole = document.replace("{", "{{").replace("}", "}}")  # the English as it was written, whatever it is now
            return Message(entry["code"], _template_of(document, entry.get("template"), params) or whole, params)
        if isinstance(document, Mapping):
            return {name: self.restored(value, around) for name, value in document.items()}
        return [self.restored(value, around) for value in document] if isinstance(document, list) else document


def _template_of(text: str, template: str | None, params: Mapping[str, Any]) -> str | None:
    """Return a template that makes this text of these parameters; raise a ValueError for any other."""
    if template is None:
        return None
    names, rest = _FIELD.findall(template), _FIELD.sub("", template)
    fits = names and "{" not in rest and "}" not in rest and set(names) <= set(params)
    if not fits or len(rest) + sum(len(str(params[name])) for name in names) != len(text):
        raise ValueError(msg("documents.messages", "its table of sentences is not one that was written"))
    return template


def python_options(template: str) -> str:
    """Write the options of a template as Python has them; parameters stay."""
    return _OPTION.sub(lambda found: _option(found, "python", {}), template)


def _messages(document: object) -> Iterator[Message]:
    if isinstance(document, Message):
        yield document
        yield from _messages(document.params)
    elif isinstance(document, Mapping):
        for value in document.values():
            yield from _messages(value)
    elif isinstance(document, (list, tuple)):
        for value in document:
            yield from _messages(value)


def _plain(value: object) -> object:
    return value if value is None or isinstance(value, (bool, int, float)) else str(value)


def _filled(template: str, params: Mapping[str, Any], language: Language) -> str:
    text = _OPTION.sub(lambda found: _option(found, language, params), template)
    return text.format_map(
        {name: value.spoken(language) if isinstance(value, Message) else value for name, value in params.items()}
    )


def _option(found: re.Match[str], language: Language, params: Mapping[str, Any]) -> str:
    """Write one option in a language."""
    of_method, name, value = found.groups()
    if name.startswith("*"):
        name = str(params.get(name[1:], f"{{{name[1:]}}}"))
    if language == "python" or of_method:
        text = f"{name}=({value})" if value and "," in value else f"{name}={value or ''}"
        return f"-O {text}" if of_method and language == "cli" else text
    flag = f"--{name.replace('_', '-')}"
    if value is None or value == "True":
        return flag
    return f"--no-{name.replace('_', '-')}" if value == "False" else f"{flag} {value}"
