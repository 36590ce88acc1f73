"""What stand-ins for brokers have in common: a port, a thread for each connection."""

import contextlib
import socket
import socketserver
import threading
from collections.abc import Callable
from typing import Self

from demo.parts import HOST
from demo.process import free_port


class TcpServer:
    """Has each connection served in a thread of its own; connections may end in any way."""

    def __init__(self, serve: Callable[[socket.socket], None]) -> None:
        """Listen on `port`."""
        self.port = free_port()

        class Handler(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                with contextlib.suppress(OSError):
                    serve(self.request)

        self._server = socketserver.ThreadingTCPServer((HOST, self.port), Handler)
        self._server.daemon_threads = True
        self._server.block_on_close = False

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._server.shutdown()
        self._server.server_close()


def forward(source: socket.socket, target: socket.socket) -> None:
    """Forward what comes until either side has left."""
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
    for side in (source, target):
        with contextlib.suppress(OSError):
            side.shutdown(socket.SHUT_RDWR)
