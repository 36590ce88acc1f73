"""A proxy in front of a server that fails in the ways servers and networks fail."""

import contextlib
import enum
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from http import HTTPStatus
from typing import BinaryIO, Self

from demo.process import free_port

_HOST = "127.0.0.1"


class _Mode(enum.Enum):
    PASS = enum.auto()
    REFUSE = enum.auto()
    HANG = enum.auto()
    BLACKHOLE = enum.auto()
    ANSWER = enum.auto()
    REFUSE_LARGE = enum.auto()


class FaultProxy:
    """Forwards a loopback port to another one, or fails as its mode says at each moment.

    With `http` it counts and forwards whole requests and can answer them itself; without, it
    forwards bytes of any protocol whose client speaks first. What a mode holds back goes on when
    the mode changes, as TCP would repeat it. The target is connected when it is first needed.
    """

    def __init__(self, target_port: int, *, http: bool = True) -> None:
        """Open `port`; the first mode is `pass_through`."""
        self.port = free_port()
        self.url = f"http://{_HOST}:{self.port}"
        self.connections = 0
        self.requests = 0
        self._target_port = target_port
        self._http = http
        self._mode = _Mode.PASS
        self._changed = threading.Condition()  # guards all below and the counts
        self._answer = b""
        self._delay_s = 0.0
        self._largest = 0
        self._open: set[socket.socket] = set()
        self._listener = self._listen()

    def pass_through(self, delay_s: float = 0.0) -> None:
        """Forward everything, also what was held back; new data after a delay."""
        self._delay_s = delay_s
        self._change(_Mode.PASS)

    def refuse(self) -> None:
        """Cut all connections and refuse new ones, like a server that is not running."""
        self._change(_Mode.REFUSE)

    def hang(self) -> None:
        """Let requests reach the server, and hold back its answers."""
        self._change(_Mode.HANG)

    def blackhole(self) -> None:
        """Forward nothing either way and close nothing, like a network that lost its route."""
        self._change(_Mode.BLACKHOLE)

    def answer(
        self, status: int, headers: Mapping[str, str] | None = None, body: bytes = b""
    ) -> None:
        """Answer each HTTP request with this, without the server."""
        self._answer = _response(status, headers or {}, body)
        self._change(_Mode.ANSWER)

    def refuse_large(self, size: int) -> None:
        """Answer HTTP requests of more than `size` bytes, head and body, with 413."""
        self._answer = _response(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, {}, b"")
        self._largest = size
        self._change(_Mode.REFUSE_LARGE)

    def close(self) -> None:
        """Cut all connections and close the port."""
        self.refuse()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _change(self, mode: _Mode) -> None:
        with self._changed:
            was, self._mode = self._mode, mode
            if mode is _Mode.REFUSE and was is not _Mode.REFUSE:
                for connection in [self._listener, *self._open]:
                    _wake(connection)
                self._listener.close()
            elif was is _Mode.REFUSE and mode is not _Mode.REFUSE:
                self._listener = self._listen()
            self._changed.notify_all()

    def _listen(self) -> socket.socket:
        listener = socket.create_server((_HOST, self.port))
        threading.Thread(target=self._accept, args=[listener], daemon=True).start()
        return listener

    def _accept(self, listener: socket.socket) -> None:
        with contextlib.suppress(OSError):  # refuse() closed the listener
            while True:
                client, _ = listener.accept()
                self.connections += 1
                threading.Thread(target=self._serve, args=[client], daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        # An OSError: one of the two sides, or refuse(), cut the connection.
        with contextlib.suppress(OSError), self._tracked(client), contextlib.ExitStack() as opened:
            server: socket.socket | None = None
            for data in self._read(client):
                self._wait_while(_Mode.BLACKHOLE)
                is_too_large = self._mode is _Mode.REFUSE_LARGE and len(data) > self._largest
                if self._mode is _Mode.ANSWER or is_too_large:
                    client.sendall(self._answer)
                    continue
                if server is None:
                    server = opened.enter_context(self._connect(client))
                time.sleep(self._delay_s)
                server.sendall(data)

    def _read(self, client: socket.socket) -> Iterator[bytes]:
        if not self._http:
            yield from iter(lambda: client.recv(65536), b"")
            return
        with client.makefile("rb") as stream:
            for request in iter(lambda: _read_request(stream), b""):
                with self._changed:
                    self.requests += 1
                yield request

    @contextlib.contextmanager
    def _connect(self, client: socket.socket) -> Iterator[socket.socket]:
        with self._tracked(socket.create_connection((_HOST, self._target_port))) as server:
            threading.Thread(target=self._send_back, args=[server, client], daemon=True).start()
            yield server

    def _send_back(self, server: socket.socket, client: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                data = server.recv(65536)
                self._wait_while(_Mode.HANG, _Mode.BLACKHOLE)
                if not data:
                    client.shutdown(socket.SHUT_RDWR)
                    return
                client.sendall(data)

    @contextlib.contextmanager
    def _tracked(self, connection: socket.socket) -> Iterator[socket.socket]:
        """Let refuse() cut a connection, and close it at the end."""
        with connection:
            with self._changed:
                if self._mode is _Mode.REFUSE:
                    raise ConnectionAbortedError("connected while refuse() was at work")
                self._open.add(connection)
            try:
                yield connection
            finally:
                with self._changed:
                    self._open.discard(connection)
                _wake(connection)

    def _wait_while(self, *modes: _Mode) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._mode not in modes)


def _wake(connection: socket.socket) -> None:
    """End the calls that other threads are blocked in; close() alone would leave them there."""
    with contextlib.suppress(OSError):  # the other side was faster
        connection.shutdown(socket.SHUT_RDWR)


def _response(status: int, headers: Mapping[str, str], body: bytes) -> bytes:
    lines = [
        f"HTTP/1.1 {status} {HTTPStatus(status).phrase}",
        *(f"{name}: {value}" for name, value in headers.items()),
        f"Content-Length: {len(body)}",
        "",
    ]
    return "".join(line + "\r\n" for line in lines).encode() + body


def _read_request(stream: BinaryIO) -> bytes:
    """Read one HTTP request with its Content-Length body; empty at the end of the stream."""
    head, length = b"", 0
    while line := stream.readline():
        head += line
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            length = int(value)
        if line == b"\r\n":
            return head + stream.read(length)
    return b""
