"""Who may ask what: a token, a cookie that stands for it, and nobody from another web page."""

import hashlib
import hmac
import ipaddress
import time
from collections.abc import Mapping
from http.cookies import CookieError, SimpleCookie

from nofinding.service.api.state import LOCAL, refused

__all__ = ["COOKIE", "SESSION", "Door", "is_loopback"]

COOKIE = "nofinding_session"
SESSION = 12 * 3600  # seconds that a log-in lasts
OPEN = frozenset({"/", "/live", "/ready", "/metrics", "/docs", "/openapi.json", "/v1/login"})
OPEN_BELOW = ("/viewer/",)  # the page itself, without anything of a patient
SAFE = frozenset({"GET", "HEAD", "OPTIONS"})


def is_loopback(host: str) -> bool:
    """Whether the name or address can only be reached from this machine."""
    name = host.strip("[]").lower()
    if name == "localhost":
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def _host_name(host: str) -> str:
    """The name in a Host header, without its port."""
    if host.startswith("["):
        return host.partition("]")[0] + "]"
    return host.partition(":")[0]


class Door:
    """Says who a request is from, or refuses it."""

    def __init__(self, token: str | None, key: bytes) -> None:
        """`key` is the home's secret: cookies are made with it, and the names in the audit log."""
        self._token = None if token is None else hashlib.sha256(token.encode()).digest()
        self._key = key
        self._who = LOCAL
        if self._token is not None:
            self._who = hmac.digest(key, b"token|" + self._token, "sha256").hex()[:16]

    @property
    def asks(self) -> bool:
        """Whether a token is needed."""
        return self._token is not None

    def who(self, method: str, path: str, headers: Mapping[bytes, bytes]) -> str:
        """Who asks. Raises 401, or 403 for what another web page has made a browser send."""
        host = headers.get(b"host", b"").decode("latin-1")
        if self._token is None:
            # A page whose name was made to lead here (DNS rebinding) sends its own name.
            if not is_loopback(_host_name(host)):
                raise refused(403, "without a token only this machine is answered, by its name")
            if method not in SAFE:
                self._same_origin(host, headers, needed=False)
            return self._who
        if path in OPEN or path.startswith(OPEN_BELOW):
            if method not in SAFE:
                self._same_origin(host, headers, needed=False)
            return "anybody"
        given = headers.get(b"authorization")
        if given is not None:
            scheme, _, token = given.partition(b" ")
            if scheme.lower() == b"bearer" and self.is_token(token.strip()):
                return self._who
        elif self._is_session(_cookie(headers)):
            if method not in SAFE:
                self._same_origin(host, headers, needed=True)
            return self._who
        if given is not None:
            raise refused(401, "Authorization: is not Bearer and this service's token")
        raise refused(401, "a token is needed: Authorization: Bearer TOKEN")

    def is_token(self, token: bytes) -> bool:
        """Whether it is the token, in a time that says nothing of it."""
        given = hashlib.sha256(token).digest()
        return self._token is not None and hmac.compare_digest(given, self._token)

    def session(self) -> str:
        """The cookie of somebody who has shown the token."""
        until = f"{int(time.time()) + SESSION}"
        return f"{until}.{self._signed(until)}"

    def _signed(self, until: str) -> str:
        assert self._token is not None
        return hmac.digest(self._key, b"session|" + self._token + until.encode(), "sha256").hex()

    def _is_session(self, cookie: str) -> bool:
        until, _, signed = cookie.partition(".")
        if not until.isascii() or not until.isdigit() or len(until) > 12:
            return False
        whole = hmac.compare_digest(signed.encode(), self._signed(until).encode())
        return whole and time.time() < int(until)

    @staticmethod
    def _same_origin(host: str, headers: Mapping[bytes, bytes], *, needed: bool) -> None:
        """Raises 403 where a browser says that another page made it send this."""
        site = headers.get(b"sec-fetch-site", b"").decode("latin-1")
        origin = headers.get(b"origin", b"").decode("latin-1")
        if site and site not in ("same-origin", "none"):
            raise refused(403, "only this service's own page may do that")
        if origin:
            if origin.partition("://")[2].lower() != host.lower():
                raise refused(403, "only this service's own page may do that")
        elif needed and not site:
            raise refused(403, "by cookie, a browser has to say which page asks (Origin)")


def _cookie(headers: Mapping[bytes, bytes]) -> str:
    try:
        held = SimpleCookie(headers.get(b"cookie", b"").decode("latin-1"))
    except CookieError:
        return ""
    return held[COOKIE].value if COOKIE in held else ""
