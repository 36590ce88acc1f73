"""A broker like the founding lab's: it cuts off whoever names another topic than ours."""

import io
import socket
import threading
from collections.abc import Iterator
from typing import BinaryIO

from demo.parts import HOST
from tests.integration.tcp_server import TcpServer, forward

OURS = ("@update/", "@set/")
# Types of packets (MQTT 5, section 2.1.2).
CONNECT, PUBLISH, SUBSCRIBE = 1, 3, 8


class RestrictiveBroker(TcpServer):
    """Lets packets through to a real broker, and cuts the connection before one that it forbids.

    `cut_off` has the topics for which it did.
    """

    def __init__(self, target_port: int) -> None:
        """Listen on `port`."""
        self.cut_off: list[str] = []

        def serve(client: socket.socket) -> None:
            with socket.create_connection((HOST, target_port)) as server:
                threading.Thread(target=forward, args=(server, client), daemon=True).start()
                for packet, topics in packets(client.makefile("rb")):
                    forbidden = [each for each in topics if not each.startswith(OURS)]
                    self.cut_off += forbidden
                    if forbidden:
                        return
                    server.sendall(packet)

        super().__init__(serve)


def packets(stream: BinaryIO) -> Iterator[tuple[bytes, list[str]]]:
    """Yield what a client sends, packet by packet, and the topics that each names."""
    is_v5 = False
    while first := stream.read(1):
        length_bytes = b""
        while not length_bytes or length_bytes[-1] > 127:
            length_bytes += stream.read(1)
        body = stream.read(_Fields(length_bytes).length())
        if first[0] >> 4 == CONNECT:
            is_v5 = body[6] == 5
        yield first + length_bytes + body, list(_topics(first[0] >> 4, _Fields(body), is_v5=is_v5))


def _topics(kind: int, fields: "_Fields", *, is_v5: bool) -> Iterator[str]:
    if kind == CONNECT:  # protocol name, version, flags, keep alive; client identifier, last will
        fields.read(7)
        has_will = fields.read(1)[0] & 4
        fields.read(2)
        fields.skip_properties(is_v5)
        fields.text()
        if has_will:
            fields.skip_properties(is_v5)
            yield fields.text()
    elif kind == PUBLISH:
        yield fields.text()
    elif kind == SUBSCRIBE:
        fields.read(2)
        fields.skip_properties(is_v5)
        while fields.tell() < len(fields.getvalue()):
            yield fields.text()
            fields.read(1)


class _Fields(io.BytesIO):
    """Reads what packets consist of (MQTT 5, section 1.5)."""

    def text(self) -> str:
        return self.read(int.from_bytes(self.read(2))).decode()

    def length(self) -> int:
        byte = self.read(1)[0]
        return byte if byte < 128 else byte - 128 + 128 * self.length()

    def skip_properties(self, is_v5: bool) -> None:
        if is_v5:
            self.read(self.length())
