"""What the tests of metrics start from."""

import pytest

from tests.helpers.faithfulness import scope_of


@pytest.fixture(scope="module")
def vit():
    return scope_of()
