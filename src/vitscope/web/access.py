"""Who may come in: by which names the server is called, from which pages, with which token, as which session."""

import hashlib
import hmac
import ipaddress
import re
import secrets
import socket
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from http.cookies import CookieError, SimpleCookie
from urllib.parse import parse_qs

from vitscope.errors import UsageError
from vitscope.web.http_errors import HTTPError

__all__ = ["AccessPolicy", "is_loopback", "opened"]

_HOST = re.compile(r"(\[[0-9a-f:.]{2,45}\]|[a-z0-9]([a-z0-9._-]{0,252}[a-z0-9])?)(:[0-9]{1,5})?", re.ASCII)
_SHORTEST = 16
_FREE = ("/api/health",)
_HINT = "open the address that `vitscope serve` printed, or send it as Authorization: Bearer TOKEN"


@dataclass(frozen=True)
class AccessPolicy:
    """The rules of one launch.

    Attributes:
        token: what a newcomer must show; None lets everyone in, which only a loopback address may do.
        names: host names that the server is called by, beside those of this machine's loopback.
        beyond: bound beyond loopback: called by any address in numbers. Only names can be rebound by an attacker's DNS.
        secret: signs sessions; of this launch.
        cookie: the session cookie's name; browsers share cookies among the ports of a host.
    """

    token: str | None = field(repr=False)
    names: frozenset[str] = frozenset()
    beyond: bool = False
    secret: bytes = field(default_factory=lambda: secrets.token_bytes(32), repr=False)
    cookie: str = "vitscope"

    def admit(self, method: str, path: str, query: bytes, headers: Mapping[str, str]) -> tuple[str, bool]:
        """The session that a request belongs to, and whether it is new; empty for what needs none.

        Args:
            method: of the request.
            path: decoded.
            query: as sent.
            headers: names in lower case; a header sent twice has both values, joined by a comma.

        Raises:
            HTTPError: 400 or 403 for a wrong host or page, 401 without the token.
        """
        self._called_rightly(headers)
        self._from_own_page(method, path, headers)
        if path in _FREE:
            return "", False
        if session := self._session(headers.get("cookie", "")):
            return session, False
        if self.token is None or self._shown(method, path, query, headers):
            return secrets.token_urlsafe(18), True
        raise HTTPError(401, "this address needs its token", _HINT)

    def ticket(self, session: str) -> str:
        """The cookie that says which session a browser is."""
        return f"{self.cookie}={session}.{self._signed(session)}; HttpOnly; SameSite=Strict; Path=/"

    def _called_rightly(self, headers: Mapping[str, str]) -> None:
        host = headers.get("host", "").lower()
        if not (found := _HOST.fullmatch(host)):
            raise HTTPError(400, "the request names no host", "HTTP/1.1 wants one Host header")
        name = found[1].strip("[]")
        if name in self.names or is_loopback(name):
            return
        if self.beyond and _address(name) is not None:
            return
        raise HTTPError(
            403, f"this server is not called '{name}'", "--allow-host NAME allows a name; else use its address"
        )

    def _from_own_page(self, method: str, path: str, headers: Mapping[str, str]) -> None:
        """A browser says which page asks: only our own may, but anyone may lead a person to the start page."""
        origin, site = headers.get("origin"), headers.get("sec-fetch-site", "none")
        if origin is not None and origin.lower().partition("://")[2] != headers["host"].lower():
            raise HTTPError(403, "pages of other origins may not ask this server", "open its own page")
        led = method == "GET" and path == "/" and headers.get("sec-fetch-mode") == "navigate"
        if site not in ("same-origin", "none") and not led:
            raise HTTPError(403, "pages of other sites may not ask this server", "open its own page")

    def _shown(self, method: str, path: str, query: bytes, headers: Mapping[str, str]) -> bool:
        """Was the token shown, in the address of the start page or in a header?"""
        kind, _, given = headers.get("authorization", "").partition(" ")
        tokens = [given.strip()] if kind.lower() == "bearer" else []
        if path == "/" and method == "GET":
            tokens += parse_qs(query.decode("latin-1")).get("token", [])[:1]
        true = (self.token or "").encode()
        return any(hmac.compare_digest(one.encode("utf-8", "surrogatepass"), true) for one in tokens)

    def _session(self, cookies: str) -> str:
        try:
            value = SimpleCookie(cookies)[self.cookie].value
        except (CookieError, KeyError):
            return ""
        session, _, signature = value.partition(".")
        good = hmac.compare_digest(signature.encode("utf-8", "surrogatepass"), self._signed(session).encode())
        return session if session and good else ""

    def _signed(self, session: str) -> str:
        return hmac.new(self.secret, session.encode("utf-8", "surrogatepass"), hashlib.sha256).hexdigest()


def opened(
    host: str, port: int, token: str | None = None, *, free: bool = False, names: Iterable[str] = ()
) -> AccessPolicy:
    """The door of a server bound to this address.

    Args:
        host: name or address that is bound.
        port: likewise.
        token: to be shown; None makes one.
        free: no token at all.
        names: more names that it is called by.

    Raises:
        UsageError: no token, or one that can be guessed, or a name that is none.
    """
    beyond = not is_loopback(host)
    if free and beyond:
        raise UsageError(f"{host} is reached from other machines: it needs a token", "leave out --no-token")
    if free and token is not None:
        raise UsageError("--token and --no-token contradict each other")
    if token is not None and (len(token) < _SHORTEST or not token.isascii() or not token.isprintable()):
        raise UsageError(f"a token has at least {_SHORTEST} ASCII characters", "leave it out, and one is made")
    called = {name.lower() for name in names} | ({socket.gethostname().lower()} if beyond else set())
    if bad := sorted(name for name in called if not (found := _HOST.fullmatch(name)) or found[3]):
        raise UsageError(f"'{bad[0]}' is not a host name", "write it without scheme and port, such as gpu7.example.org")
    given = None if free else token or secrets.token_urlsafe(24)
    return AccessPolicy(given, frozenset(name.strip("[]") for name in called), beyond, cookie=f"vitscope-{port}")


def is_loopback(host: str) -> bool:
    """Is it an address that only this machine reaches?"""
    address = _address(host)
    return host.lower() == "localhost" or (address is not None and address.is_loopback)


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return None
