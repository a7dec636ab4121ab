"""What the sources can say on a page, found in their syntax, and what the page's table makes of it."""

import ast
import itertools
import json
import re
from collections.abc import Iterator
from pathlib import Path

SOURCES = Path(__file__).parents[2] / "src" / "vitscope"
TABLES = ("web/assets/app.js", "viewer/assets/translate.js")  # as they are tried
GAP = "\u00a4"  # stands for what is filled in
NAMES = {"notes", "refused", "why", "reason", "words", "told", "hint", "detail", "place", "again", "evidence", "wanted"}
ERRORS = {"MethodError", "ImageError", "HTTPError"}
USAGE = ("methods/targets.py", "methods/cam.py")  # what is asked wrongly there, a page can ask; options it gives none
# functions that give a reason or a note back, and modules whose every error can be shown by the web app
REASONS = {
    "_need", "_needs_cls", "_told", "bag", "find_blocks", "brought", "excuse", "irremovable", "padding_share",
    "stages", "stages_of", "without_lengths", "why_not",
}  # fmt: skip
PARTS = (
    "engine/auto.py", "attention/transformer_blocks.py", "images.py", "evaluation/masked.py", "engine/provenance.py",
    "_plugins.py", "methods/*.py", "models/base.py", "explanation.py", "_files.py", "engine/engine.py",
    "tracing/block_io.py", "models/timm.py", "models/open_clip.py", "models/generic.py", "models/traced.py",
    "metrics/perturb.py", "viewer/*.py", "web/*.py",
)  # fmt: skip


# parts of a sentence, and the sentence
WITHIN = {
    f"has its own rules, {GAP}": f"{GAP} %s: gradient {GAP} changes nothing",
    "uses no gradient": f"{GAP} %s: gradient {GAP} changes nothing",
    "it leaves the same tokens out of all blocks": f"%s, and {GAP}",
    "it reads the same tokens in every layer": f"%s, and {GAP}",
    "it multiplies the attention of the same tokens in every layer": f"%s, and {GAP}",
}
NEVER = {
    f"{GAP} {GAP}: gradient {GAP} changes nothing", f"{GAP}, and {GAP}",  # the sentences themselves
    f"{GAP} is a folder, not a picture", f"{GAP} does not exist", "name the files in it, such as FOLDER/*.jpg",
    f"the array holds NaN or infinity (shape {GAP}, {GAP})", "pixels are 0..255",
    f"a picture as array is (H, W, 3) uint8, not {GAP} {GAP}", "for floats in 0..1: (x * 255).round().astype('uint8')",
    "this method was not given the model's blocks", "this method was not given the model's tokens",
    f"the features of {GAP} are not known", f"{GAP} has {GAP} features, a picture has {GAP}",
    f"a target function gives one number per picture, ({GAP},), from the answer", "text:a cat",
    f"{GAP} is reached from other machines: it needs a token", "leave out --no-token",
    "pictures that go through the model together keep equally many tokens", "check --host and --port",
    "--port 0 takes a free one",
}  # fmt: skip  # of Python alone, or of the command line that starts the server


def table() -> list[tuple[str, str]]:
    """English and Chinese, in the order in which they are tried."""
    lines = [line for name in TABLES for line in (SOURCES / name).read_text("utf-8").splitlines()]
    pairs = [line.strip().rstrip(",") for line in lines if line.startswith('  ["') and line.endswith('"],')]
    return [tuple(json.loads(pair)) for pair in pairs]


def compiled(english: str) -> re.Pattern[str]:
    parts = re.split(r"\{(\w+)\}", english)
    pieces = [f"(?P<{part}>.*?)" if i % 2 else re.escape(part) for i, part in enumerate(parts)]
    return re.compile("".join(pieces), re.S)


def spelled(node: ast.expr | None, known: dict[str, ast.expr]) -> list[str]:
    """All forms of a text, with a gap for each value; empty where it is no text of its own."""
    if isinstance(node, ast.Constant):
        return [node.value] if isinstance(node.value, str) else []
    if isinstance(node, ast.IfExp):
        return spelled(node.body, known) + spelled(node.orelse, known)
    if isinstance(node, ast.JoinedStr):
        parts = [_filled(part, known) for part in node.values]
        return ["".join(one) for one in itertools.product(*parts)]
    if isinstance(node, (ast.List, ast.Tuple)):
        return [text for one in node.elts for text in spelled(one, known)]
    if isinstance(node, ast.ListComp):
        return spelled(node.elt, known)
    if isinstance(node, ast.BinOp):
        return spelled(node.left, known) + spelled(node.right, known)
    if isinstance(node, ast.Name) and node.id in known:
        return spelled(known[node.id], {})
    return []


def _filled(part: ast.expr, known: dict[str, ast.expr]) -> list[str]:
    if isinstance(part, ast.FormattedValue):
        found = spelled(part.value, known) if isinstance(part.value, ast.IfExp) else []
        return found or [GAP]
    return spelled(part, known)


def sayings() -> Iterator[tuple[str, str]]:
    """Every text that a page can show, and where it stands."""
    for path in sorted({path for part in PARTS for path in SOURCES.glob(part)}):
        tree = ast.parse(path.read_text("utf-8"))
        known = {
            target.id: node.value
            for node in tree.body
            if isinstance(node, ast.Assign)
            for target in node.targets
            if isinstance(target, ast.Name)
        }
        part = path.relative_to(SOURCES).as_posix()
        errors = ERRORS | ({"UsageError"} if part in USAGE else set())
        for node, text in _texts(tree, known, errors):
            for one in text.split("; "):
                if re.search(r"[a-z]{2}", one) and (" " in one or one == "cancelled") and one not in NEVER:
                    yield WITHIN.get(one, "%s") % one, f"{part}:{node.lineno}"


def _texts(tree: ast.AST, known: dict[str, ast.expr], errors: set[str]) -> Iterator[tuple[ast.expr, str]]:
    for node in ast.walk(tree):
        for one in _said_by(node, errors):
            for text in spelled(one, known):
                yield one, text


def _said_by(node: ast.AST, errors: set[str]) -> Iterator[ast.expr]:
    """The expressions of this node that are a note, a caveat, a reason, an error or its hint."""
    if isinstance(node, ast.Call):
        name = getattr(node.func, "id", getattr(node.func, "attr", ""))
        if name in errors:
            yield from node.args[name == "HTTPError" : 3]
        if name == "append" and getattr(getattr(node.func, "value", None), "id", "") in NAMES:
            yield from node.args
        yield from (one.value for one in node.keywords if one.arg in ("caveat", "why", "refuses"))
    if isinstance(node, ast.Dict):
        yield from (
            v for k, v in zip(node.keys, node.values, strict=True) if getattr(k, "value", "") in ("why", "what")
        )
    if isinstance(node, (ast.Assign, ast.AugAssign, ast.AnnAssign)) and node.value is not None:
        for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
            if getattr(target, "id", getattr(target, "attr", "")) in NAMES:
                yield node.value
    if isinstance(node, ast.FunctionDef) and node.name in REASONS:
        yield from (one.value for one in ast.walk(node) if isinstance(one, ast.Return) and one.value is not None)
