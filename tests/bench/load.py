"""What the benchmark sends, and a database that only counts: cheap beside what is measured."""

import socket
import threading
import time
from collections.abc import Iterator

START_MS = 1_795_000_000_000
PLUGS = 100


def messages(count: int, first: int = 0, start_ms: int = START_MS) -> Iterator[tuple[bytes, bytes]]:
    """Yield topic and payload of measurements, each a point of its own."""
    for number in range(first, first + count):
        yield (
            b"@update/plug-%03d/monitoring/power" % (number % PLUGS),
            b'{"value": 24.56, "unit": "W", "time": %d}' % (start_ms + (number - first) // PLUGS),
        )


class Publisher:
    """Publishes ready-made packets (MQTT 3.1.1), which costs little beside receiving them."""

    def __init__(self, port: int, qos: int) -> None:
        """Connect."""
        self._qos = qos
        self._socket = socket.create_connection(("127.0.0.1", port))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        identity = b"bench-publisher"
        body = b"\x00\x04MQTT\x04\x02\x00\x00" + len(identity).to_bytes(2, "big") + identity
        self._socket.sendall(b"\x10" + bytes([len(body)]) + body)
        self._receive_exactly(4)

    def publish(self, batch: list[tuple[bytes, bytes]]) -> None:
        """Publish and wait until the broker has everything."""
        for begin in range(0, len(batch), 1000):
            piece = batch[begin : begin + 1000]
            packets = (self._packet(number, *each) for number, each in enumerate(piece, 1))
            self._socket.sendall(b"".join(packets))
            if self._qos:
                self._receive_exactly(4 * len(piece))
        self._socket.sendall(b"\xc0\x00")
        self._receive_exactly(2)

    def close(self) -> None:
        """Disconnect."""
        self._socket.sendall(b"\xe0\x00")
        self._socket.close()

    def _packet(self, message_id: int, topic: bytes, payload: bytes) -> bytes:
        mid = message_id.to_bytes(2, "big") if self._qos else b""
        body = len(topic).to_bytes(2, "big") + topic + mid + payload
        # All bodies are shorter than 128 bytes: their length is one byte.
        return bytes([0x30 | self._qos << 1, len(body)]) + body

    def _receive_exactly(self, size: int) -> None:
        while size:
            received = len(self._socket.recv(size))
            if not received:
                raise ConnectionError("the broker hung up")
            size -= received


class Sink:
    """Takes InfluxDB writes as fast as they come, and counts lines; remembers when each came."""

    def __init__(self) -> None:
        """Listen."""
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.lines = 0
        self.latest_s = 0.0
        self.arrivals: list[tuple[float, bytes]] | None = None
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            connection, _ = self._listener.accept()
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        stream = connection.makefile("rb")
        while line := stream.readline():
            length = 0
            while line not in (b"\r\n", b""):
                name, _, value = line.partition(b":")
                if name.lower() == b"content-length":
                    length = int(value)
                line = stream.readline()
            body = stream.read(length)
            now = time.time()
            if body:
                self.lines += body.count(b"\n") + 1
            if self.arrivals is not None:
                self.arrivals.append((now, body))
            self.latest_s = time.monotonic()
            connection.sendall(b"HTTP/1.1 204 No Content\r\n\r\n")
