"""A server that answers byte by byte as it is told, right or wrong."""

import contextlib
import re
import socket
import threading
from collections.abc import Callable
from typing import Self

HOST = "127.0.0.1"

Behaviour = Callable[[socket.socket], None]
"""What a server does with a connection whose request it has read; it is closed afterwards."""


class RawServer:
    """Serves one connection after the other, each as `behaviour` says; remembers the requests.

    A behaviour that wants to hold a connection open calls `wait_for_close`.
    """

    def __init__(self, behaviour: Behaviour, *, reads_requests: bool = True) -> None:
        self.behaviour = behaviour
        self._reads_requests = reads_requests
        self.requests: list[bytes] = []
        self._listener = socket.create_server((HOST, 0))
        self.port: int = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._serve)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._listener.close()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with connection, contextlib.suppress(OSError):  # a client that has had enough
                connection.settimeout(30)
                if self._reads_requests:
                    self.requests.append(_read_request(connection))
                self.behaviour(connection)


def answering(*pieces: bytes) -> Behaviour:
    """Send `pieces`, each in a packet of its own, and close."""

    def behave(connection: socket.socket) -> None:
        for piece in pieces:
            connection.sendall(piece)

    return behave


def wait_for_close(connection: socket.socket) -> None:
    """Say nothing more until the client hangs up."""
    while connection.recv(4096):
        pass


def http_answer(body: bytes, *, status: str = "200 OK", headers: str = "") -> bytes:
    """Return a plain answer with its length."""
    head = f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n{headers}Connection: close\r\n\r\n"
    return head.encode("latin-1") + body


def _read_request(connection: socket.socket) -> bytes:
    request = b""
    while b"\r\n\r\n" not in request:
        request += _receive(connection)
    head, _, _ = request.partition(b"\r\n\r\n")
    length = re.search(rb"(?i)\r\ncontent-length: *(\d+)", head)
    while length and len(request) < len(head) + 4 + int(length[1]):
        request += _receive(connection)
    return request


def _receive(connection: socket.socket) -> bytes:
    if piece := connection.recv(65536):
        return piece
    raise ConnectionResetError
