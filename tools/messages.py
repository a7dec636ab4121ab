"""Bring the message catalogues up to date with the sources: `make messages`.

The English catalogues (`locales/en/AREA.po`) are generated from the `msg("code", "template")` calls and from
`coded("code", "template", "hint")`. The Chinese ones keep their translations; order and English comments are refreshed,
a code that is gone becomes obsolete, a new one gets an empty translation. The catalogues of page texts (`*-page.po`)
are written by hand in both languages.
"""

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import polib

ROOT = Path(__file__).parents[1] / "src" / "vitscope"
PARAMETER = re.compile(r"\{(@?(?:O:)?\w+)")


def calls(root: Path = ROOT) -> Iterator[tuple[str, str, str]]:
    """Yield code, template and place of each message in the sources.

    Raises:
        SystemExit: a code, template or hint that is not a plain string.
    """
    for path in sorted(root.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            coded = isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "coded"
            if not (isinstance(node, ast.Call) and (coded or getattr(node.func, "id", "") == "msg")):
                continue
            place = f"{path.relative_to(root).as_posix()}:{node.lineno}"
            values = [getattr(one, "value", None) for one in node.args[:2]]
            if len(values) != 2 or not all(isinstance(one, str) for one in values) or len(node.args) > 2 + coded:
                raise SystemExit(f"{place}: msg needs a code and a template as plain strings")
            yield str(values[0]), " ".join(str(values[1]).split()), place
            for hint in node.args[2:]:
                if isinstance(hint, ast.Constant):
                    yield f"{values[0]}.hint", " ".join(str(hint.value).split()), place
                elif not _is_message(hint):
                    raise SystemExit(f"{place}: coded needs a hint that is a plain string or a Message")


def _is_message(hint: ast.expr) -> bool:
    """Return whether a hint is a `msg(...)`, a name of one, or one of two such."""
    if isinstance(hint, ast.IfExp):
        return _is_message(hint.body) and _is_message(hint.orelse)
    return isinstance(hint, ast.Name) or (isinstance(hint, ast.Call) and getattr(hint.func, "id", "") == "msg")


def templates(root: Path = ROOT) -> dict[str, str]:
    """Return the template of each code.

    Raises:
        SystemExit: one code with two templates.
    """
    found: dict[str, str] = {}
    for code, template, place in calls(root):
        if found.setdefault(code, template) != template:
            raise SystemExit(f"{place}: '{code}' has another template elsewhere")
    return found


def uncoded(root: Path = ROOT) -> list[str]:
    """Return where an error of vitscope is raised with a plain string: it has no code and no translation."""
    names = {
        node.name for node in ast.parse((ROOT / "errors.py").read_text("utf-8")).body if isinstance(node, ast.ClassDef)
    }
    found = []
    for path in sorted(root.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            call = node.exc if isinstance(node, ast.Raise) else None
            if isinstance(call, ast.Call) and getattr(call.func, "id", "") in names:
                plain = [one for one in call.args if isinstance(one, (ast.JoinedStr, ast.Constant, ast.BinOp))]
                exempt = getattr(call.func, "id", "") in ("MissingDependencyError", "UnknownNameError")
                if plain and not exempt:
                    found.append(f"{path.relative_to(root).as_posix()}:{node.lineno}")
    return found


def parameters(template: str) -> set[str]:
    """Return the names of parameters and options in a template."""
    return set(PARAMETER.findall(template))


def read(language: str, area: str) -> polib.POFile:
    """Return a catalogue; an empty one where there is none."""
    path = ROOT / "locales" / language / f"{area}.po"
    return polib.pofile(str(path), wrapwidth=0) if path.exists() else _empty()


def english(area: str, texts: dict[str, str]) -> polib.POFile:
    """Return the English catalogue of an area."""
    made = _empty()
    for code in sorted(texts):
        if code.partition(".")[0] == area:
            made.append(polib.POEntry(msgid=code, msgstr=texts[code]))
    return made


def refreshed(source: polib.POFile, old: polib.POFile) -> polib.POFile:
    """Return a translation in the order of its English catalogue, with the English as comments."""
    known = {entry.msgid: entry.msgstr for entry in old}
    made = _empty()
    for entry in source:
        made.append(polib.POEntry(msgid=entry.msgid, msgstr=known.pop(entry.msgid, ""), comment=entry.msgstr))
    for code, text in sorted(known.items()):
        if text:
            made.append(polib.POEntry(msgid=code, msgstr=text, obsolete=True))
    return made


def areas(texts: dict[str, str]) -> list[str]:
    """Return the areas of messages and of pages."""
    pages = {area for area in catalogues() if area.endswith("-page")}
    return sorted({code.partition(".")[0] for code in texts} | pages)


def catalogues(language: str = "en") -> list[str]:
    """Return the areas that have a catalogue."""
    return sorted(path.stem for path in (ROOT / "locales" / language).glob("*.po"))


def main() -> None:
    """Write all catalogues; list what has no Chinese."""
    texts, missing = templates(), []
    for area in areas(texts):
        source = read("en", area) if area.endswith("-page") else english(area, texts)
        chinese = refreshed(source, read("zh", area))
        missing += [entry.msgid for entry in chinese if not entry.msgstr]
        for language, made in (("en", source), ("zh", chinese)):
            path = ROOT / "locales" / language / f"{area}.po"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text_of(made), "utf-8")
    sys.stderr.write("".join(f"no Chinese: {code}\n" for code in missing))


def text_of(catalogue: polib.POFile) -> str:
    """Return a catalogue as its file has it."""
    return str(catalogue).removeprefix("#\n")


def _empty() -> polib.POFile:
    made = polib.POFile(wrapwidth=0)
    made.metadata = {"Content-Type": "text/plain; charset=UTF-8"}
    return made


if __name__ == "__main__":
    main()
