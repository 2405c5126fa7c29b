"""A server on loopback that answers as a test wants it to, and says nothing of it."""

from __future__ import annotations

from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Answering(BaseHTTPRequestHandler):
    """A handler whose methods end in :meth:`answer`."""

    headers_of_all: tuple[tuple[str, str], ...] = ()

    def answer(self, status: int, body: bytes) -> None:
        """Send a whole answer; a HEAD gets its headers alone."""
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        for name, value in self.headers_of_all:
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Nothing."""


class QuietServer(ThreadingHTTPServer):
    """Says nothing of clients that gave up waiting."""

    daemon_threads = True

    def handle_error(self, *_: object) -> None:
        """Nothing."""
