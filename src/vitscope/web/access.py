"""Access control of the web app: host names, page origins, the token and sessions."""

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

from vitscope._messages import msg
from vitscope.errors import UsageError
from vitscope.web.http_errors import HTTPError

_HOST = re.compile(r"(\[[0-9a-f:.]{2,45}\]|[a-z0-9]([a-z0-9._-]{0,252}[a-z0-9])?)(:[0-9]{1,5})?", re.ASCII)
_SHORTEST_TOKEN = 16
_PUBLIC_PATHS = ("/api/health",)


@dataclass(frozen=True)
class AccessPolicy:
    """The access rules of one launch.

    Attributes:
        token: required of a new session; None lets everyone in, which only a loopback address may do.
        host_names: names of this server besides those of the loopback interface.
        beyond_loopback: the server listens beyond loopback, so that any numeric address is a valid host: an attacker's
            DNS can rebind names only.
        secret: signs the sessions of this launch.
        cookie_name: of the session cookie; browsers share cookies among the ports of a host.
    """

    token: str | None = field(repr=False)
    host_names: frozenset[str] = frozenset()
    beyond_loopback: bool = False
    secret: bytes = field(default_factory=lambda: secrets.token_bytes(32), repr=False)
    cookie_name: str = "vitscope"

    def authorize(self, method: str, path: str, query: bytes, headers: Mapping[str, str]) -> tuple[str, bool]:
        """Return the session of a request and whether it is new; the session is empty for public paths.

        Args:
            method: of the request.
            path: decoded.
            query: as sent.
            headers: names in lower case; a header sent twice has both values, joined by a comma.

        Raises:
            HTTPError: 400 or 403 for a wrong host or origin, 401 without the token.
        """
        self._check_host(headers)
        self._check_origin(method, path, headers)
        if path in _PUBLIC_PATHS:
            return "", False
        if session := self._session(headers.get("cookie", "")):
            return session, False
        if self.token is None or self._has_token(method, path, query, headers):
            return secrets.token_urlsafe(18), True
        hint = msg(
            "web.token-required.hint",
            "open the address that `vitscope serve` printed, or send the header Authorization: Bearer TOKEN",
        )
        raise HTTPError(401, msg("web.token-required", "this address requires a token"), hint)

    def session_cookie(self, session: str) -> str:
        """Return the `set-cookie` header that identifies a browser's session."""
        return f"{self.cookie_name}={session}.{self._signature(session)}; HttpOnly; SameSite=Strict; Path=/"

    def _check_host(self, headers: Mapping[str, str]) -> None:
        host = headers.get("host", "").lower()
        if not (found := _HOST.fullmatch(host)):
            raise HTTPError(
                400,
                msg("web.no-host", "the request names no host"),
                msg("web.no-host.hint", "HTTP/1.1 requires one Host header"),
            )
        name = found[1].strip("[]")
        if name in self.host_names or is_loopback(name):
            return
        if self.beyond_loopback and _address(name) is not None:
            return
        raise HTTPError(
            403,
            msg("web.wrong-host", "'{name}' is not a name of this server", name=name),
            msg("web.wrong-host.hint", "use the server's address, or start it with --allow-host NAME"),
        )

    def _check_origin(self, method: str, path: str, headers: Mapping[str, str]) -> None:
        """Reject requests of other pages; a link on any page may lead to the start page."""
        origin, site = headers.get("origin"), headers.get("sec-fetch-site", "none")
        if origin is not None and origin.lower().partition("://")[2] != headers["host"].lower():
            raise HTTPError(
                403,
                msg("web.wrong-origin", "requests from pages of other origins are not allowed"),
                msg("web.wrong-origin.hint", "open the server's own page"),
            )
        is_link = method == "GET" and path == "/" and headers.get("sec-fetch-mode") == "navigate"
        if site not in ("same-origin", "none") and not is_link:
            raise HTTPError(
                403,
                msg("web.wrong-site", "requests from pages of other sites are not allowed"),
                msg("web.wrong-site.hint", "open the server's own page"),
            )

    def _has_token(self, method: str, path: str, query: bytes, headers: Mapping[str, str]) -> bool:
        """Find the token in the query of the start page or in the authorization header."""
        kind, _, credentials = headers.get("authorization", "").partition(" ")
        tokens = [credentials.strip()] if kind.lower() == "bearer" else []
        if path == "/" and method == "GET":
            tokens += parse_qs(query.decode("latin-1")).get("token", [])[:1]
        expected = (self.token or "").encode()
        return any(hmac.compare_digest(token.encode("utf-8", "surrogatepass"), expected) for token in tokens)

    def _session(self, cookies: str) -> str:
        """Return the session of a correctly signed cookie, else an empty string."""
        try:
            value = SimpleCookie(cookies)[self.cookie_name].value
        except (CookieError, KeyError):
            return ""
        session, _, signature = value.partition(".")
        expected = self._signature(session).encode()
        valid = hmac.compare_digest(signature.encode("utf-8", "surrogatepass"), expected)
        return session if session and valid else ""

    def _signature(self, session: str) -> str:
        return hmac.new(self.secret, session.encode("utf-8", "surrogatepass"), hashlib.sha256).hexdigest()


def make_access_policy(
    host: str, port: int, token: str | None = None, *, use_token: bool = True, host_names: Iterable[str] = ()
) -> AccessPolicy:
    """Make the access policy of a server that listens on this address.

    Args:
        host: name or address of the socket.
        port: of the socket.
        token: required of new sessions; None generates one.
        use_token: False requires no token at all.
        host_names: further names of this server.

    Raises:
        UsageError: no token beyond loopback, a token that can be guessed, or an invalid host name.
    """
    beyond_loopback = not is_loopback(host)
    if not use_token and beyond_loopback:
        raise UsageError(
            msg("web.token-needed", "{host} can be reached from other machines and needs a token", host=host),
            msg("web.token-needed.hint", "leave out --no-token"),
        )
    if not use_token and token is not None:
        raise UsageError(msg("web.token-conflict", "--token and --no-token exclude each other"))
    if token is not None and (len(token) < _SHORTEST_TOKEN or not token.isascii() or not token.isprintable()):
        raise UsageError(
            msg("web.weak-token", "a token must have at least {least} ASCII characters", least=_SHORTEST_TOKEN),
            msg("web.weak-token.hint", "leave out --token to have one generated"),
        )
    names = {name.lower() for name in host_names} | ({socket.gethostname().lower()} if beyond_loopback else set())
    if invalid := sorted(name for name in names if not (found := _HOST.fullmatch(name)) or found[3]):
        raise UsageError(
            msg("web.bad-host-name", "'{name}' is not a valid host name", name=invalid[0]),
            msg("web.bad-host-name.hint", "write it without scheme and port, such as gpu7.example.org"),
        )
    if use_token:
        token = token or secrets.token_urlsafe(24)
    plain_names = frozenset(name.strip("[]") for name in names)
    return AccessPolicy(token, plain_names, beyond_loopback, cookie_name=f"vitscope-{port}")


def is_loopback(host: str) -> bool:
    """Tell whether only this machine can reach an address."""
    address = _address(host)
    return host.lower() == "localhost" or (address is not None and address.is_loopback)


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return None
