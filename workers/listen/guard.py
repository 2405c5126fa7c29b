"""Who may ask: this machine's own browser, of this page's own origin, and nobody else.

A page that is bound to loopback is still within reach of every website that the browser has open: it can ask for
``http://127.0.0.1`` itself, or by a name of its own that it lets point here (DNS rebinding). So each request has to
come from a loopback address, to call this machine by a loopback name, and to come from the page itself.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

NAMES = ("127.0.0.1", "localhost", "::1")
_READING = ("GET", "HEAD")
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; media-src 'self' blob:; "
    "connect-src 'self'; worker-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS: Mapping[str, str] = {
    "content-security-policy": _POLICY,
    "permissions-policy": "microphone=(self), camera=(), geolocation=()",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "cache-control": "no-store",
}


class Guard:
    """The application behind the checks; what does not pass gets one line and status 403."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        client = scope["client"][0] if scope.get("client") else ""
        refusal = refused(client, scope["method"], Headers(scope=scope))
        app = PlainTextResponse(refusal + "\n", 403) if refusal else self._app
        await app(scope, receive, send_with_headers)


def refused(client: str, method: str, headers: Headers) -> str:
    """Why a request is not answered, in one line; empty where it is.

    Args:
        client: the address that it comes from.
        method: of HTTP.
        headers: of the request.
    """
    if not _is_loopback(client):
        return f"refused: {client or 'an unknown client'} is not this machine; open the page in a browser on it"
    host = headers.get("host", "")
    if _name(f"//{host}") not in NAMES:
        return f"refused: called by the name {host[:80]!r}; open http://127.0.0.1 or http://localhost"
    origin = headers.get("origin")
    if origin is not None and origin != f"http://{host}":
        return f"refused: asked by another page, {origin[:80]!r}"
    is_ours = headers.get("sec-fetch-site", "none") in ("none", "same-origin")
    if not is_ours and headers.get("sec-fetch-mode") != "navigate":
        return "refused: asked by another page"
    if origin is None and method not in _READING:
        return "refused: only the page itself may send something (there is no Origin header)"
    return ""


def _is_loopback(client: str) -> bool:
    try:
        address = ipaddress.ip_address(client)
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return bool((mapped or address).is_loopback)


def _name(url: str) -> str | None:
    try:
        return urlsplit(url).hostname
    except ValueError:
        return None
