"""Hooks of mkdocs: the generated reference and the project's own files become pages, and links to files stay true."""

import posixpath
import re
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "src")]

from tools import reference  # noqa: E402  # the path is set above
from tools.each_method import expand  # noqa: E402

PROJECT = {
    "CHANGELOG.md": "project/changelog.md",
    "CONTRIBUTING.md": "project/contributing.md",
    "README.md": "index.md",
    "README.zh-CN.md": "project/readme-zh.md",
    "SECURITY.md": "project/security.md",
}
_LINK = re.compile(r"(!?\[[^\]]*\])\(([^)\s#]+)(#[^)\s]*)?\)")
_FETCHED = re.compile(r"""<(?:script|link|img|iframe|source)\b[^>]*\b(?:src|href)=["']?(?:https?:)?//[^"'>]*""")


def on_files(files: Any, config: Any) -> Any:
    """Add the pages that no file of the folder holds."""
    from mkdocs.structure.files import File

    for name, page in reference.PAGES.items():
        files.append(File.generated(config, name, content=page()))
    for source, name in PROJECT.items():
        if name != "index.md":
            text = (ROOT / source).read_text("utf-8")
            files.append(File.generated(config, name, content=from_root(text, name)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Lead links beyond docs/ somewhere, and say what the code knows of each method."""
    text = from_docs(markdown, page.file.src_uri)
    return expand(text) if page.file.src_uri == "background/each-method.md" else text


def on_post_page(output: str, page: Any, **_: Any) -> str:
    """Refuse a page that fetches something from the network to be read."""
    from mkdocs.exceptions import PluginError

    if found := _FETCHED.search(output):
        raise PluginError(f"{page.file.src_uri} would fetch {found[0]}")
    return output


def from_docs(text: str, name: str) -> str:
    """Return a page with its links beyond docs/ led to the page of that file; where it has none, its name stays."""

    def led(match: re.Match[str]) -> str:
        words, target, anchor = match[1], match[2], match[3] or ""
        path = posixpath.normpath(posixpath.join("docs", posixpath.dirname(name), target))
        if "../" not in target or path.startswith("docs/"):
            return match[0]
        if path in PROJECT:
            return f"{words}({posixpath.relpath(PROJECT[path], posixpath.dirname(name) or '.')}{anchor})"
        return f"{words[1:-1]} (`{path}`)"

    return _LINK.sub(led, text)


def from_root(text: str, name: str) -> str:
    """Return a page of the root as if it stood in docs/project/."""

    def led(match: re.Match[str]) -> str:
        words, target, anchor = match[1], match[2], match[3] or ""
        if target.startswith(("http:", "https:", "mailto:")):
            return match[0]
        if target in PROJECT:
            target = PROJECT[target]
        elif target.startswith("docs/"):
            target = target.removeprefix("docs/")
        else:
            return f"{words[1:-1]} (`{target}`)"
        return f"{words}({posixpath.relpath(target, posixpath.dirname(name))}{anchor})"

    return _LINK.sub(led, text)
