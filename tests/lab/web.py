"""A web server that logs the names it is asked for: `python -m tests.lab.web OUT HOST PORT [DIRECTORY]`.

Given a DIRECTORY it serves TLS, with the certificate NAME.pem there for the name in the hello, else `default.pem`. OUT
gets a line for each hello (`hello NAME`) and each request (`request HOST PATH`).
"""

from __future__ import annotations

import contextlib
import http.server
import socket
import ssl
import sys
from pathlib import Path

from tests.lab.peer import Log, family


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, host: str, port: int, handler: type[http.server.BaseHTTPRequestHandler]) -> None:
        self.address_family = family(host)
        super().__init__((host, port), handler)

    def server_bind(self) -> None:
        """Bind without the reverse lookup that the library makes."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])

    def handle_error(self, request: object, client_address: object) -> None:
        """Ignore the error: a refused connection is reset."""


def handler(log: Log) -> type[http.server.BaseHTTPRequestHandler]:
    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            log.say(f"request {self.headers['Host']} {self.path}")
            body = f"here is {self.path}\n".encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Log nothing: OUT has it."""

    return Handler


def tls(log: Log, directory: Path) -> ssl.SSLContext:
    contexts = {}
    for path in directory.glob("*.pem"):
        contexts[path.stem] = context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(path)

    def named(sock: ssl.SSLObject, name: str | None, _: ssl.SSLContext) -> None:
        log.say(f"hello {name or '-'}")
        sock.context = contexts.get(name or "default", contexts["default"])

    contexts["default"].sni_callback = named
    return contexts["default"]


def main(out: str, host: str, port: str, directory: str = "") -> None:
    log = Log(out)
    with Server(host, int(port), handler(log)) as server:
        if directory:
            context = tls(log, Path(directory))
            server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
        with contextlib.suppress(KeyboardInterrupt):
            server.serve_forever()


if __name__ == "__main__":
    main(*sys.argv[1:])
