"""Where we go round paho's public interface: these tests notice a paho that changed.

The other side is a broker byte by byte: what a real one sends, in pieces that no real one makes.
"""

import contextlib
import itertools
import random
import select
import shutil
import socket
import ssl
import struct
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple, Self

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

from demo.process import wait_until
from openenergy.broker import Message, _BufferedSocket, _Client
from tests.unit.raw_server import HOST

V5 = MQTTProtocolVersion.MQTTv5
V311 = MQTTProtocolVersion.MQTTv311
BOTH = pytest.mark.parametrize("protocol", [V5, V311], ids=["MQTT 5", "MQTT 3.1.1"])
PINGRESP = b"\xd0\x00"


class Sent(NamedTuple):
    """A message as the broker sends it; its properties (MQTT 5, section 3.3.2.3) are bytes."""

    topic: bytes
    payload: bytes = b""
    qos: int = 0
    retain: bool = False
    message_id: int = 0
    dup: bool = False
    properties: bytes = b""

    def packet(self, protocol: MQTTProtocolVersion) -> bytes:
        body = struct.pack(">H", len(self.topic)) + self.topic
        if self.qos:
            body += struct.pack(">H", self.message_id)
        if protocol == V5:
            body += variable_length(len(self.properties)) + self.properties
        body += self.payload
        flags = self.dup << 3 | self.qos << 1 | self.retain
        return bytes([0x30 | flags]) + variable_length(len(body)) + body


def variable_length(number: int) -> bytes:
    """Encode a length (MQTT 5, section 1.5.5)."""
    encoded = b""
    while number > 127:
        encoded += bytes([number & 127 | 128])
        number >>= 7
    return encoded + bytes([number])


def read_packet(wire: socket.socket) -> bytes:
    """Read exactly one packet."""
    packet = receive(wire, 2)
    while packet[-1] > 127:
        packet += receive(wire, 1)
    length = sum((byte & 127) << 7 * place for place, byte in enumerate(packet[1:]))
    return packet + receive(wire, length)


def receive(wire: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        piece = wire.recv(size - len(data))
        assert piece, "the client has hung up"
        data += piece
    return data


class CountingSocket:
    """Counts the bytes that our client has received."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self.received = 0

    def recv(self, size: int) -> bytes:
        data = self._connection.recv(size)
        self.received += len(data)
        return data

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)


class Connection:
    """Our client, moved by hand, and the broker's end of its connection."""

    def __init__(self, protocol: MQTTProtocolVersion) -> None:
        self.messages: list[Message] = []
        with socket.create_server((HOST, 0)) as listener:
            self.client = _Client(
                CallbackAPIVersion.VERSION2,
                "plug",
                protocol=protocol,
                manual_ack=True,
                reconnect_on_failure=False,
            )
            self.client.on_message = self._on_message
            self.client.connect(HOST, listener.getsockname()[1])
            self.wire, _ = listener.accept()
        self._fed = 0
        buffered = self.client.connection
        self._counter = CountingSocket(buffered._connection)  # noqa: SLF001 - to know what is read
        buffered._connection = self._counter  # noqa: SLF001
        self.wire.settimeout(10)
        self.wire.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        assert read_packet(self.wire)[0] == 0x10  # CONNECT
        self.feed(b"\x20\x03\x00\x00\x00" if protocol == V5 else b"\x20\x02\x00\x00")

    def feed(self, data: bytes) -> None:
        """Send bytes and let the client read them all, unless it hangs up."""
        self.wire.sendall(data)
        self._fed += len(data)
        while connection := self.client.connection:
            if not connection.pending() and self._counter.received == self._fed:
                return
            assert connection.pending() or select.select([connection], [], [], 10)[0]
            self.client.read(self.messages)

    def received(self) -> list[tuple[str, bytes, int, bool, int]]:
        assert all(message.client is self.client for message in self.messages)
        return [
            (each.topic, each.payload, each.qos, each.retain, each.message_id)
            for each in self.messages
        ]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.wire.close()
        if self.client.connection:
            self.client.connection.close()

    def _on_message(self, client: Any, _userdata: Any, message: Any) -> None:
        topic = message._topic.decode("utf-8", "replace")  # noqa: SLF001 - may be no UTF-8
        payload = bytes(message.payload)
        self.messages.append(
            Message(topic, payload, message.qos, message.retain, client, message.mid, 0)
        )


def as_received(sent: Sent) -> tuple[str, bytes, int, bool, int]:
    return sent.topic.decode(), sent.payload, sent.qos, sent.retain, sent.message_id


# Reading

EXAMPLES = [
    Sent(b"@update/plug/monitoring/power", b'{"value":24.56,"unit":"W"}', 1, message_id=1),
    Sent(b"a"),
    Sent(b"a", b"", 1, message_id=65535),
    Sent(b"@update/plug/monitoring/relay", b"1", 1, retain=True, message_id=256, dup=True),
    Sent("größe/🔌".encode(), bytes(range(256)), 0, retain=True),
    Sent(b"x" * 200, b"y" * 20_000, 1, message_id=3),
]


@BOTH
def test_a_message_is_read_wherever_the_network_cuts_it(protocol: MQTTProtocolVersion) -> None:
    sent = EXAMPLES[0]
    packet = sent.packet(protocol)
    with Connection(protocol) as connection:
        for cut in range(len(packet) + 1):
            connection.messages.clear()
            connection.feed(packet[:cut])
            connection.feed(packet[cut:] + packet[:cut])
            connection.feed(packet[cut:])
            assert connection.received() == [as_received(sent)] * 2


@BOTH
def test_messages_of_all_kinds_are_read_byte_by_byte(protocol: MQTTProtocolVersion) -> None:
    stream = b"".join(sent.packet(protocol) for sent in EXAMPLES[:5]) + PINGRESP
    with Connection(protocol) as connection:
        for number in range(len(stream)):
            connection.feed(stream[number : number + 1])
        assert connection.received() == [as_received(sent) for sent in EXAMPLES[:5]]


@BOTH
@pytest.mark.parametrize(
    "size", [0, 1, 120, 127, 128, 129, 16_300, 16_383, 16_384, 70_000, 300_000, 1_500_000]
)
def test_messages_of_any_size_are_read_whole_and_in_order(
    protocol: MQTTProtocolVersion, size: int
) -> None:
    sent = [
        Sent(b"before", b"1", 1, message_id=1),
        Sent(b"large", random.Random(size).randbytes(size), 1, message_id=2),
        Sent(b"after", b"3", 1, message_id=3),
    ]
    stream = b"".join(each.packet(protocol) for each in sent)
    with Connection(protocol) as connection:
        for start in range(0, len(stream), 100_000):
            connection.feed(stream[start : start + 100_000])
        assert connection.received() == [as_received(each) for each in sent]


SENT = st.builds(
    Sent,
    topic=st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1)
    .map(str.encode)
    .filter(lambda topic: not set(topic) & set(b"+#")),
    payload=st.binary(max_size=300) | st.just(b"x" * 20_000),
    qos=st.integers(0, 1),
    retain=st.booleans(),
    message_id=st.integers(1, 65535),
    dup=st.booleans(),
    properties=st.sampled_from(
        [
            *(b"", b"", b"\x01\x01", b"\x02\x00\x00\x00\x0a", b"\x0b\x05", b"\x03\x00\x01a"),
            b"\x26\x00\x01a\x00\x01b",
            b"\x26\x00\x01a" + struct.pack(">H", 200) + b"b" * 200,
        ]
    ),
)


@BOTH
@settings(max_examples=60)
@given(
    packets=st.lists(SENT | st.just(PINGRESP), max_size=20), cuts=st.lists(st.integers(0, 10**4))
)
@example(packets=[*EXAMPLES, PINGRESP, *EXAMPLES], cuts=[])
def test_any_messages_in_any_pieces_are_read_as_they_were_sent(
    protocol: MQTTProtocolVersion, packets: list[Sent | bytes], cuts: list[int]
) -> None:
    sent = [
        packet._replace(message_id=packet.message_id if packet.qos else 0)
        for packet in packets
        if isinstance(packet, Sent)
    ]
    stream = b"".join(
        packet if isinstance(packet, bytes) else packet.packet(protocol) for packet in packets
    )
    places = sorted({0, *(cut % (len(stream) + 1) for cut in cuts), len(stream)})
    with Connection(protocol) as connection:
        for start, end in itertools.pairwise(places):
            connection.feed(stream[start:end])
        assert connection.received() == [as_received(each) for each in sent]


@BOTH
def test_a_topic_that_is_not_utf_8_is_shown_with_replacements(
    protocol: MQTTProtocolVersion,
) -> None:
    with Connection(protocol) as connection:
        connection.feed(Sent(b"a/\xff\xfe", b"1").packet(protocol))
        connection.feed(Sent(b"a/\xff" + b"x" * 20_000, b"1").packet(protocol))
        connection.feed(Sent(b"b", b"2").packet(protocol))
        assert [topic[:3] for topic, *_ in connection.received()] == ["a/\ufffd", "a/\ufffd", "b"]


@BOTH
@settings(max_examples=150)
@given(
    data=st.lists(
        st.binary(max_size=20)
        | st.sampled_from([b"\x30", b"\x32", b"\x33", b"\x34", b"\x3d", b"\x90", b"\xff", b"\0\1a"])
        | SENT.map(lambda sent: sent.packet(V5)),
        max_size=5,
    ).map(b"".join)
)
def test_any_bytes_end_the_connection_at_most(protocol: MQTTProtocolVersion, data: bytes) -> None:
    with Connection(protocol) as connection:
        connection.feed(data)
        assert all(isinstance(message.topic, str) for message in connection.messages)


@BOTH
def test_the_end_of_a_connection_is_noticed(protocol: MQTTProtocolVersion) -> None:
    with Connection(protocol) as connection:
        connection.feed(EXAMPLES[0].packet(protocol) + EXAMPLES[1].packet(protocol)[:2])
        connection.wire.close()
        wait_until(lambda: select.select([connection.client.connection], [], [], 0)[0], 10, "end")
        connection.client.read(connection.messages)
        assert connection.client.connection is None
        assert connection.received() == [as_received(EXAMPLES[0])]


# Acknowledging


@BOTH
def test_acknowledgements_are_exactly_these_bytes(protocol: MQTTProtocolVersion) -> None:
    with Connection(protocol) as connection:
        connection.client.acknowledge(iter([1, 256, 65535]))
        connection.client.loop_write()
        assert receive(connection.wire, 12) == (b"\x40\x02\x00\x01\x40\x02\x01\x00\x40\x02\xff\xff")
        assert not connection.client.want_write()


@BOTH
def test_no_acknowledgements_are_no_bytes_and_block_nothing(protocol: MQTTProtocolVersion) -> None:
    with Connection(protocol) as connection:
        connection.client.acknowledge([])
        connection.client.acknowledge([7])
        connection.client.loop_write()
        assert receive(connection.wire, 4) == b"\x40\x02\x00\x07"


@BOTH
def test_more_acknowledgements_than_the_network_takes_at_once_arrive_whole(
    protocol: MQTTProtocolVersion,
) -> None:
    message_ids = list(range(1, 65536)) * 8
    expected = b"".join(b"\x40\x02" + struct.pack(">H", each) for each in message_ids)
    with Connection(protocol) as connection:
        connection.client.acknowledge(message_ids)
        connection.client.publish("a", b"behind them")
        received = b""
        while connection.client.want_write():
            connection.client.loop_write()
            connection.wire.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                received += connection.wire.recv(1_000_000)
        connection.wire.setblocking(True)
        received += receive(connection.wire, len(expected) - len(received))
        assert received == expected
        assert b"behind them" in read_packet(connection.wire)


# The socket in between


def test_a_buffered_socket_reads_once_what_is_asked_for_in_pieces() -> None:
    with tcp_pair() as (ours, theirs):
        buffered = _BufferedSocket(ours)
        assert buffered.pending() == 0
        with pytest.raises(BlockingIOError):
            buffered.recv(1)
        theirs.sendall(b"abcdef")
        select.select([ours], [], [], 10)
        assert buffered.recv(1) == b"a"
        assert buffered.pending() == 5
        with pytest.raises(BlockingIOError):  # nothing is left in the kernel
            ours.recv(1)
        assert buffered.recv(3) == b"bcd"
        assert buffered.recv(100) == b"ef"
        assert buffered.pending() == 0
        theirs.close()
        select.select([ours], [], [], 10)
        assert buffered.recv(1) == b""


def test_it_is_a_socket_otherwise() -> None:
    with tcp_pair() as (ours, theirs):
        buffered = _BufferedSocket(ours)
        assert buffered.fileno() == ours.fileno()
        buffered.send(b"x")
        assert theirs.recv(1) == b"x"
        buffered.close()
        assert ours.fileno() == -1


@contextlib.contextmanager
def tcp_pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    with socket.create_server((HOST, 0)) as listener:
        ours = socket.create_connection(listener.getsockname())
        theirs, _ = listener.accept()
    with ours, theirs:
        ours.setblocking(False)
        yield ours, theirs


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    if not shutil.which("openssl"):
        pytest.skip("openssl is not installed")
    path = tmp_path / "both.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"),
            *("-nodes", "-days", "2", "-subj", "/CN=localhost", "-keyout", path, "-out", path),
        ],
        check=True,
        capture_output=True,
    )
    return path


def test_with_tls_what_the_library_has_decrypted_already_is_not_forgotten(
    certificate: Path,
) -> None:
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(certificate)
    client = ssl.create_default_context(cafile=str(certificate))
    data = random.Random(1).randbytes(100_000)
    with tcp_pair() as (ours, theirs), ThreadPoolExecutor(1) as pool:
        ours.setblocking(True)
        accepting = pool.submit(server.wrap_socket, theirs, server_side=True)
        tls = client.wrap_socket(ours, server_hostname="localhost")
        tls.setblocking(False)
        with tls, accepting.result() as peer:
            sending = pool.submit(peer.sendall, data)
            buffered, received = _BufferedSocket(tls), b""
            while len(received) < len(data):
                assert buffered.pending() or select.select([tls], [], [], 10)[0]
                with contextlib.suppress(ssl.SSLWantReadError):
                    received += buffered.recv(1000)
            sending.result()
            assert received == data
            assert buffered.pending() == 0
