"""A broker from before MQTT 5."""

import contextlib
import socket
import socketserver
import ssl
import threading
from typing import Self

from demo.parts import HOST
from demo.process import free_port

# How such brokers answer a CONNECT of version 5: with a CONNACK of their own version (MQTT 3.1.1,
# section 3.2.2.3: unacceptable protocol version), of version 5 (section 3.2.2.2), or not at all.
REFUSALS = {
    "as of 3.1.1": b"\x20\x02\x00\x01",
    "as of 5": b"\x20\x03\x00\x84\x00",
    "by silence": b"",
}


class OldBroker:
    """Lets MQTT 3.1.1 through to a real broker, and refuses MQTT 5; speaks TLS if told how."""

    def __init__(self, target_port: int, refusal: bytes, tls: ssl.SSLContext | None = None) -> None:
        """Listen on `port`."""
        self.port = free_port()
        self.refused = 0

        def serve(client: socket.socket) -> None:
            hello = client.recv(4096)
            version = hello[hello.index(b"\x00\x04MQTT") + 6]
            if version != 4:
                self.refused += 1
                client.sendall(refusal)
                return
            with socket.create_connection((HOST, target_port)) as server:
                server.sendall(hello)
                threading.Thread(target=forward, args=(server, client), daemon=True).start()
                forward(client, server)

        class Handler(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                with contextlib.suppress(OSError):
                    if tls is None:
                        serve(self.request)
                    else:
                        with tls.wrap_socket(self.request, server_side=True) as encrypted:
                            serve(encrypted)

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
