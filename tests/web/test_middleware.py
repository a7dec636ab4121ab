"""Who is let in to the web app, and what of theirs is read: nothing is answered, or kept, that should not be."""

import asyncio
import json

import pytest

from tests.helpers.errors import raises
from vitscope.errors import UsageError
from vitscope.web.access import AccessPolicy, make_access_policy
from vitscope.web.http_errors import HTTPError
from vitscope.web.limits import Limits
from vitscope.web.middleware import LimitsMiddleware
from vitscope.web.session_store import SessionStore

TOKEN = "0123456789abcdef-the-token"
OWN = {"host": "127.0.0.1:8000"}
BEARER = OWN | {"authorization": f"Bearer {TOKEN}"}


@pytest.fixture
def policy():
    return make_access_policy("127.0.0.1", 8000, TOKEN)


def status(policy, headers, method="GET", path="/api/models", query=b""):
    try:
        policy.authorize(method, path, query, headers)
    except HTTPError as error:
        assert error.detail
        return error.status
    return 200


@pytest.mark.parametrize("host", ["127.0.0.1:8000", "localhost:8000", "LOCALHOST", "[::1]:8000", "127.0.0.1:9999"])
def test_the_names_of_loopback_are_ours(policy, host):
    assert status(policy, BEARER | {"host": host}) == 200


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:8000",
        "127.0.0.1.evil.example",
        "localhost.evil.example:8000",
        "192.168.1.7",
        "[fe80::1]",
    ],
)
def test_a_rebound_name_is_refused_even_with_the_token(policy, host):
    assert status(policy, BEARER | {"host": host}) == 403


@pytest.mark.parametrize(
    "host", ["", "a b", "127.0.0.1:8000,evil.example", "127.0.0.1:8000/", "user@127.0.0.1", "\x00"]
)
def test_a_host_that_is_none_is_refused(policy, host):
    assert status(policy, BEARER | {"host": host}) == 400


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"])
@pytest.mark.parametrize(
    "origin", ["http://evil.example", "null", "http://127.0.0.1:8001", "http://localhost:8000", ""]
)
def test_pages_of_other_origins_are_refused_whatever_they_send(policy, method, origin):
    assert status(policy, BEARER | {"origin": origin}, method) == 403
    assert status(policy, BEARER | {"origin": "http://127.0.0.1:8000"}, method) == 200


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
def test_other_sites_may_lead_a_person_to_the_start_page_and_no_more(policy, site):
    asked = BEARER | {"sec-fetch-site": site}
    assert status(policy, asked) == 403
    assert status(policy, asked | {"sec-fetch-mode": "navigate"}) == 403
    assert status(policy, asked | {"sec-fetch-mode": "navigate"}, path="/") == 200
    assert status(policy, asked | {"sec-fetch-mode": "no-cors"}, path="/") == 403


def test_the_token_is_asked_for_and_only_where_it_may_stand(policy):
    assert status(policy, OWN) == 401
    assert status(policy, BEARER) == 200
    assert status(policy, OWN, path="/", query=f"token={TOKEN}".encode()) == 200
    assert status(policy, OWN, path="/api/models", query=f"token={TOKEN}".encode()) == 401
    assert status(policy, OWN, "POST", "/", f"token={TOKEN}".encode()) == 401
    for wrong in (TOKEN[:-1], TOKEN + "x", "", "\xff", TOKEN.upper()):
        assert status(policy, OWN | {"authorization": f"Bearer {wrong}"}) == 401
    assert status(policy, OWN | {"authorization": f"Basic {TOKEN}"}) == 401
    assert status(policy, OWN, path="/api/health") == 200


def test_a_session_is_its_own_and_cannot_be_made_up(policy):
    session, new = policy.authorize("GET", "/", f"token={TOKEN}".encode(), OWN)
    assert new
    set_cookie = policy.session_cookie(session)
    assert "HttpOnly; SameSite=Strict" in set_cookie
    cookie = set_cookie.partition(";")[0]
    assert policy.authorize("GET", "/api/models", b"", OWN | {"cookie": cookie}) == (session, False)
    assert policy.authorize("GET", "/", f"token={TOKEN}".encode(), OWN)[0] != session
    name, _, value = cookie.partition("=")
    for forged in (
        f"{name}={session}",
        f"{name}={session}.",
        f"{name}=other.{value.partition('.')[2]}",
        f"{name}=.",
        "=;=",
        "\x00",
    ):
        assert status(policy, OWN | {"cookie": forged}) == 401
    assert status(make_access_policy("127.0.0.1", 8000, TOKEN), OWN | {"cookie": cookie}) == 401, "of another launch"


def test_without_a_token_hosts_and_origins_still_count():
    free = make_access_policy("127.0.0.1", 8000, use_token=False)
    assert status(free, OWN) == 200
    assert status(free, {"host": "evil.example"}) == 403
    assert status(free, OWN | {"origin": "http://evil.example"}, "POST") == 403


def test_beyond_loopback_a_token_is_a_must_and_names_are_listed():
    with raises(UsageError, "web.token-needed"):
        make_access_policy("0.0.0.0", 8000, use_token=False)
    made = make_access_policy("0.0.0.0", 8000, TOKEN, host_names=["gpu7.example.org"])
    for host, expected in {"192.168.1.7:8000": 200, "gpu7.example.org:8000": 200, "evil.example:8000": 403}.items():
        assert status(made, BEARER | {"host": host}) == expected
    assert status(made, {"host": "192.168.1.7:8000"}) == 401


@pytest.mark.parametrize(
    ("options", "code"),
    [
        ({"token": "short"}, "web.weak-token"),
        ({"token": "ünicode-ünicode-ünicode"}, "web.weak-token"),
        ({"token": TOKEN, "use_token": False}, "web.token-conflict"),
        ({"host_names": ["http://a.example"]}, "web.bad-host-name"),
        ({"host_names": ["a.example:80"]}, "web.bad-host-name"),
    ],
)
def test_a_door_that_cannot_hold_is_not_made(options, code):
    with raises(UsageError, code):
        make_access_policy("127.0.0.1", 8000, **options)


def test_tokens_are_long_and_new_at_each_launch():
    tokens = {make_access_policy("127.0.0.1", 8000).token for _ in range(20)}
    assert len(tokens) == 20
    assert min(map(len, tokens)) >= 32


# What the middleware does with a request, without a network: `parts` are the body's parts, each after so many seconds.


async def echo(scope, receive, send):
    """An app that reads all of the body and says how long it was."""
    size, more = 0, True
    while more:
        message = await receive()
        size, more = size + len(message["body"]), message["more_body"]
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": str(size).encode()})


def asked(middleware, parts, headers=(), app_headers=None, path="/api/photos"):
    sent, left = [], list(parts)

    async def receive():
        if not left:
            return {"type": "http.disconnect"}
        pause, body = left.pop(0)
        await asyncio.sleep(pause)
        return {"type": "http.request", "body": body, "more_body": bool(left)}

    async def send(message):
        sent.append(message)

    given = [(b"host", b"127.0.0.1:8000"), (b"authorization", f"Bearer {TOKEN}".encode()), *headers]
    scope = {"type": "http", "method": "POST", "path": path, "query_string": b"", "headers": given}
    asyncio.run(middleware(scope, receive, send))
    told = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
    return sent[0]["status"], told, b"".join(one.get("body", b"") for one in sent[1:]), left


@pytest.fixture
def middleware(policy):
    return LimitsMiddleware(echo, policy, Limits(body_bytes=1000, total_body_bytes=1500, body_seconds=0.2))


def test_a_body_within_the_limits_arrives_whole(middleware):
    assert asked(middleware, [(0, b"x" * 600), (0, b"y" * 400)])[::2] == (200, b"1000")
    assert middleware.body_bytes == middleware.requests.total() == 0


def test_a_body_is_counted_whatever_its_head_said(middleware):
    for headers in ([], [(b"content-length", b"10")], [(b"transfer-encoding", b"chunked")]):
        code, told, body, _ = asked(middleware, [(0, b"x" * 600), (0, b"y" * 401)], headers)
        assert (code, told["content-type"]) == (413, "application/json")
        assert (json.loads(body)["code"], json.loads(body)["detail"]) == (
            "web.body-too-long",
            "the body is longer than 0.001 MB",
        )
    assert middleware.body_bytes == 0


def test_a_body_that_is_said_to_be_too_long_is_not_read_by_the_app(policy):
    async def app(scope, receive, send):
        raise AssertionError("the app was reached")

    code, *_ = asked(
        LimitsMiddleware(app, policy, Limits(body_bytes=1000)), [(0, b"x")], [(b"content-length", b"200000000")]
    )
    assert code == 413
    assert asked(LimitsMiddleware(app, policy, Limits()), [(0, b"x")], [(b"content-length", b"-5")])[0] == 400


def test_a_slow_body_is_given_up(middleware):
    code, told, body, left = asked(middleware, [(0.15, b"x")] * 50)
    assert code == 408
    assert json.loads(body)["code"] == "web.body-too-slow"
    assert told["connection"] == "close"
    assert len(left) > 30


def test_bodies_of_all_requests_together_are_bounded(middleware):
    middleware.body_bytes = 1000  # of others
    code, told, *_ = asked(middleware, [(0, b"x" * 600)])
    assert (code, told["retry-after"]) == (503, "2")
    assert middleware.body_bytes == 1000


def test_too_many_requests_at_once_are_turned_away(policy):
    middleware = LimitsMiddleware(echo, policy, Limits(requests=3))
    middleware.requests.update(a=2, b=1)
    assert asked(middleware, [(0, b"")])[0] == 503
    assert middleware.requests == {"a": 2, "b": 1}


def test_every_answer_carries_the_headers(middleware):
    for parts in ([(0, b"x")], [(0, b"x" * 2000)]):
        told = asked(middleware, parts)[1]
        assert "default-src 'none'" in told["content-security-policy"]
        assert "frame-ancestors 'none'" in told["content-security-policy"]
        assert (told["x-content-type-options"], told["referrer-policy"]) == ("nosniff", "no-referrer")
        assert told["cache-control"] == "no-store"


def test_a_refused_request_gets_no_session(middleware):
    assert "set-cookie" in asked(middleware, [(0, b"x")])[1]
    assert "set-cookie" not in asked(middleware, [(0, b"x" * 2000)])[1]


def test_websockets_are_closed(middleware):
    sent = []

    async def send(message):
        sent.append(message)

    asyncio.run(middleware({"type": "websocket", "headers": []}, None, send))
    assert sent == [{"type": "websocket.close", "code": 1008}]


def test_the_store_forgets_of_the_greediest_what_was_used_longest_ago():
    store = SessionStore("view", 100, 10)
    small = store.add("ann", "small", 10)
    greedy = [store.add("bob", number, 30) for number in range(3)]
    assert store.get("bob", greedy[0]) == 0  # used again
    store.add("cid", "new", 20)
    assert store.size <= 100
    assert store.get("ann", small) == "small"
    assert store.get("bob", greedy[0]) == 0
    with pytest.raises(HTTPError) as error:
        store.get("bob", greedy[1])
    assert error.value.status == 404
    for number in range(30):
        store.add("cid", number, 0)
    assert len(store) == 10


def test_the_store_tells_nobody_of_what_is_anothers():
    store = SessionStore("view", 100, 10)
    name = store.add("ann", "secret", 1)
    said = []
    for key in (name, "nothing"):
        with pytest.raises(HTTPError) as error:
            store.get("bob", key)
        said.append(error.value.document())
    assert said[0] == said[1]


def test_a_limit_of_nothing_is_an_error():
    with raises(UsageError, "web.bad-limit"):
        Limits(queue=0)


def test_a_door_is_not_shown_in_words():
    assert TOKEN not in repr(AccessPolicy(TOKEN))
    assert "secret" not in repr(AccessPolicy(TOKEN))
