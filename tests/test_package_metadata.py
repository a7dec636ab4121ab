"""What the package says of itself away from the repository."""

import re
from pathlib import Path

import pytest
from tools.package_metadata import addresses, long_description

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text("utf-8")
RELATIVE = re.compile(r"\]\((?!https?:|#)")


@pytest.mark.parametrize("repository", ["", "https://example.org/vitscope"])
def test_no_link_is_relative(repository):
    assert RELATIVE.search(README)
    assert RELATIVE.search(long_description(README, repository)) is None


def test_pictures_and_pages_come_from_the_one_address():
    text = long_description(
        "![a cat](docs/images/cat.jpg) [x](docs/x.md#y) [z](https://z.org) [w](#w)", "https://e.org/v"
    )
    assert text == (
        "![a cat](https://e.org/v/raw/main/docs/images/cat.jpg) [x](https://e.org/v/blob/main/docs/x.md#y) "
        "[z](https://z.org) [w](#w)"
    )


def test_without_an_address_pictures_are_words_and_none_is_invented():
    assert long_description("![a cat](cat.jpg) [x](docs/x.md)", "") == "*a cat* x"
    assert addresses("") == {}
    assert all(url.startswith("https://e.org/v") for url in addresses("https://e.org/v").values())
