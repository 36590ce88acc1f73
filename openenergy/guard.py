"""Who may talk to the button server: its token, and what a browser says about a web page.

Any page that a user of the home network opens can make the browser send requests to us. What
protects us: a browser names the page's origin with every POST and the host it believes to talk
to, and a page of another origin cannot send a JSON body without asking first (a preflight).
"""

import base64
import binascii
import hmac
import ipaddress
import logging
import threading
import time
from collections.abc import Collection
from http import HTTPStatus
from typing import Final
from urllib.parse import urlsplit

import flask

from openenergy import config, service

MAX_WRONG_TOKENS: Final = 5
FORGET_WRONG_TOKENS_S: Final = 60.0
# Addresses to remember; an attacker with more of them than this is not stopped by counting.
MAX_ADDRESSES: Final = 1000
# What Grafana's core and its button plugins send, beside the token in its three places.
ALLOWED_HEADERS: Final = (
    "Accept, Authorization, Content-Type, X-Api-Key, X-Grafana-Action, X-Grafana-Device-Id"
)
# The page has its own script and style, and asks this server alone.
SECURITY_HEADERS: Final = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self';"
    " img-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none';"
    " frame-ancestors 'none'; require-trusted-types-for 'script'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}

log = logging.getLogger("guard")


class Guard:
    """Looks at each request before anything else does."""

    def __init__(self, settings: config.ButtonServer, open_paths: Collection[str]) -> None:
        """Prepare; what is at `open_paths` needs no token."""
        self._settings = settings
        self._open_paths = open_paths
        self._allowed_origins = {origin.lower() for origin in settings.allowed_origins}
        hostname = service.hostname().lower()
        self._hosts = {"localhost", hostname, f"{hostname}.local", settings.host.lower()}
        self._hosts |= {urlsplit(origin).hostname or "" for origin in self._allowed_origins}
        self._lock = threading.Lock()
        self._wrong_tokens: dict[str, tuple[int, float]] = {}

    def refusal(self, request: flask.Request) -> tuple[HTTPStatus, str] | None:
        """Return why a request must not be answered, None if it may."""
        if not self._is_our_host(request.host):
            unknown = f"{request.host!r:.80} is not known as a name of this server"
            return HTTPStatus.FORBIDDEN, f"{unknown} ([ButtonServer] allowed_origins)"
        if not self._is_our_page(request):
            return HTTPStatus.FORBIDDEN, "this Origin is not one of [ButtonServer] allowed_origins"
        if request.method == "OPTIONS" or request.path in self._open_paths:
            return None
        return self._token_refusal(request)

    def add_headers(self, request: flask.Request, response: flask.Response) -> None:
        """Tell browsers what may be done with an answer, errors too.

        Pages of allowed origins may read it (Fetch standard, section 3.3).
        """
        response.headers.update(SECURITY_HEADERS)
        response.headers["Vary"] = "Origin"
        origin = request.headers.get("Origin", "")
        if origin.lower() not in self._allowed_origins:
            return
        response.headers["Access-Control-Allow-Origin"] = origin
        response.headers["Access-Control-Allow-Credentials"] = "true"
        if request.method == "OPTIONS":
            response.headers["Access-Control-Allow-Methods"] = "GET, POST, OPTIONS"
            response.headers["Access-Control-Allow-Headers"] = ALLOWED_HEADERS
            response.headers["Access-Control-Max-Age"] = "600"

    def _is_our_host(self, host: str) -> bool:
        """Whether a name we are known by, or an address: only a foreign name can be rebound."""
        try:
            name = urlsplit(f"//{host}").hostname or ""
            if name not in self._hosts:
                ipaddress.ip_address(name)
        except ValueError:
            return False
        return True

    def _is_our_page(self, request: flask.Request) -> bool:
        origin = request.headers.get("Origin")
        if origin is None:
            # A GET names no origin; browsers say at least whether another site made it.
            is_foreign = request.headers.get("Sec-Fetch-Site") in ("cross-site", "same-site")
            return not (is_foreign and "value" in request.args)
        host = request.host.lower()
        return origin.lower() in {f"http://{host}", f"https://{host}", *self._allowed_origins}

    def _token_refusal(self, request: flask.Request) -> tuple[HTTPStatus, str] | None:
        if not self._settings.token:
            return None
        address = request.remote_addr or ""
        with self._lock:
            count, latest_s = self._wrong_tokens.get(address, (0, 0.0))
        if time.monotonic() - latest_s > FORGET_WRONG_TOKENS_S:
            count = 0
        if count >= MAX_WRONG_TOKENS:
            return HTTPStatus.TOO_MANY_REQUESTS, "too many wrong tokens; wait a minute"
        token = _token(request)
        if token is None:
            return HTTPStatus.UNAUTHORIZED, "a token is needed (Authorization: Bearer TOKEN)"
        if hmac.compare_digest(token, self._settings.token.encode()):
            return None
        self._note_wrong_token(address, count + 1)
        return HTTPStatus.UNAUTHORIZED, "wrong token"

    def _note_wrong_token(self, address: str, count: int) -> None:
        with self._lock:
            if len(self._wrong_tokens) >= MAX_ADDRESSES:
                self._wrong_tokens.clear()
            self._wrong_tokens[address] = (count, time.monotonic())
        if count in (1, MAX_WRONG_TOKENS):
            log.warning("%s: wrong token (%d)", address, count)


def _token(request: flask.Request) -> bytes | None:
    """Return the token that came with a request, from wherever Grafana can put one.

    WSGI hands us the bytes of a header as Latin-1 text (PEP 3333).
    """
    if "X-Api-Key" in request.headers:
        return request.headers["X-Api-Key"].encode("latin-1")
    scheme, _, credentials = request.headers.get("Authorization", "").partition(" ")
    match scheme.lower():
        case "bearer":
            return credentials.strip().encode("latin-1")
        case "basic":
            try:
                return base64.b64decode(credentials).partition(b":")[2]
            except (binascii.Error, ValueError):
                return b""
        case _:
            return None
