"""An HTTP server for one page, on this machine only. Standard library only."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

HOST, PORTS = "127.0.0.1", range(8000, 8020)
"""The address, and the ports to try if none is asked for: the first free one is used."""

HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; "
        "form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
"""Headers of every response. The page makes no requests, and may not; its own policy, inside it, names its script by
its hash."""


class PortError(Exception):
    """The port cannot be used. The message is one line: why, what instead."""


class Server(ThreadingHTTPServer):
    """Serves ``content`` at ``/``. It holds its port from the start and listens from ``listen`` on."""

    content = b""

    @property
    def address(self) -> str:
        return f"http://{HOST}:{self.server_port}/"

    def listen(self, content: bytes) -> None:
        """Accept connections; ``serve_forever`` answers them.

        Raises:
            PortError: another process listens on the port.
        """
        self.content = content
        try:
            self.server_activate()
        except OSError as error:
            raise PortError(_why(self.server_port, error)) from error

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore it: a browser may close its connection in the middle of the page."""


class _Handler(BaseHTTPRequestHandler):
    server: Server  # pyright: ignore[reportIncompatibleVariableOverride]
    server_version, sys_version = "seqmem", ""

    def do_GET(self) -> None:
        self._answer(body=True)

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def _answer(self, *, body: bool) -> None:
        known = self.path.partition("?")[0] in ("/", "/index.html")
        content = self.server.content if known else b"there is one page here: /\n"
        self.send_response(HTTPStatus.OK if known else HTTPStatus.NOT_FOUND)
        self.send_header("Content-Type", f"text/{'html' if known else 'plain'}; charset=utf-8")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if body:
            self.wfile.write(content)

    def end_headers(self) -> None:
        for name, value in HEADERS.items():
            self.send_header(name, value)
        super().end_headers()

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """Print nothing: the terminal shows the address."""


@contextmanager
def bound(port: int | None) -> Iterator[Server]:
    """A server that holds its port and does not listen yet.

    Args:
        port: 0: any that is free; None: the first free one of ``PORTS``.

    Raises:
        PortError: the port is in use, or may not be used.
    """
    server = None
    for candidate in PORTS if port is None else (port,):
        try:
            server = Server((HOST, candidate), _Handler, bind_and_activate=False)
            server.server_bind()
            break
        except OSError as error:
            if server is not None:
                server.server_close()
            server = None
            if port is not None or error.errno != errno.EADDRINUSE:
                raise PortError(_why(candidate, error)) from error
    if server is None:
        raise PortError(f"the ports {PORTS[0]} to {PORTS[-1]} are in use: --port 0 takes any that is free")
    with server:
        yield server


def _why(port: int, error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"port {port} is in use: name another, or leave out --port for the next free one"
    return f"cannot listen on port {port}: {error.strerror or error}"
