"""The web app on a real socket, and a client of it."""

import pytest

from tests.helpers.uploads import GOOD, uploaded
from tests.helpers.webserver import TOKEN, entered, explained, process, serving


@pytest.fixture(scope="module")
def address(tiny_scope):
    with serving(tiny_scope, body_bytes=3_000_000) as (made, _):
        yield made


@pytest.fixture
def client(address):
    with entered(address) as made:
        yield made


@pytest.fixture(scope="module")
def view(address):
    """A client and a finished view of the cat."""
    with entered(address) as made:
        name, answer = explained(made, {"photo": uploaded(made, GOOD[0])})
        yield made, name, answer.json()


# As its own process.


@pytest.fixture(scope="module")
def own(tiny_folder):
    with process("-m", tiny_folder, "--port", 0, "--queue", 8, "--max-mb", 10, "--token", TOKEN) as (server, printed):
        assert printed.startswith("http://127.0.0.1:"), server.stderr.read()
        yield server, printed.partition("/?token=")[0]
