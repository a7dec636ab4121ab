"""What the package says of itself and pyproject.toml cannot: the long description and the project's addresses.

The address of the repository stands in one place: `repository` of `[tool.hatch.metadata.hooks.custom]`. While it is
empty, the package names no address, and the long description says in words what its pictures show, since a relative
picture leads nowhere there.
"""

import re
from pathlib import Path

try:
    from hatchling.metadata.plugin.interface import MetadataHookInterface
except ImportError:  # only a build needs it
    MetadataHookInterface = object

_LINK = re.compile(r"(!?)\[([^\]]*)\]\((?!https?:|#|mailto:)([^)\s]+)\)")


class Metadata(MetadataHookInterface):
    """Hook of hatchling."""

    def update(self, metadata):
        """Set the fields `readme` and `urls`."""
        root = Path(self.root)
        address = self.config.get("repository", "").rstrip("/")
        metadata["readme"] = {
            "content-type": "text/markdown",
            "text": long_description((root / "README.md").read_text("utf-8"), address),
        }
        metadata["urls"] = addresses(address)


def addresses(repository):
    """Return the project's addresses by name; none where the repository has none."""
    if not repository:
        return {}
    return {
        "Homepage": repository,
        "Documentation": f"{repository}/tree/main/docs",
        "Issues": f"{repository}/issues",
        "Changelog": f"{repository}/blob/main/CHANGELOG.md",
    }


def long_description(readme, repository):
    """Return the README as it can be read away from the repository."""

    def led(match):
        picture, words, target = match.groups()
        if repository:
            return f"{picture}[{words}]({repository}/{'raw' if picture else 'blob'}/main/{target})"
        return f"*{words}*" if picture else words

    return _LINK.sub(led, readme)
