"""Our connection to a broker, packet by packet: what it asks for, and how it ends."""

import contextlib
import logging
import select
import socket
import struct
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from demo.process import wait_until
from openenergy import backoff, broker
from openenergy.broker import Broker, Message, Session
from openenergy.config import Mqtt
from tests.unit.raw_server import HOST
from tests.unit.test_broker_paho import V5, V311, Sent, read_packet, receive

CONNACK = {V5: b"\x20\x03\x00\x00\x00", V311: b"\x20\x02\x00\x00"}
REFUSES_MQTT_5 = b"\x20\x03\x00\x84\x00"
NOT_AUTHORIZED = b"\x20\x03\x00\x87\x00"
TAKEN_OVER = b"\xe0\x02\x8e\x00"
RECEIVE_MAXIMUM_EXCEEDED = b"\xe0\x02\x93\x00"


class BrokerByHand:
    """Accepts one connection after the other."""

    def __init__(self) -> None:
        self._listener = socket.create_server((HOST, 0))
        self._listener.settimeout(20)
        self.port: int = self._listener.getsockname()[1]
        self._open = contextlib.ExitStack()

    def accept(self) -> socket.socket:
        wire, _ = self._listener.accept()
        self._open.enter_context(wire)
        wire.settimeout(10)
        wire.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return wire

    def close(self) -> None:
        self._open.close()
        self._listener.close()


class Bench:
    """Our broker connection, and what it told us."""

    def __init__(
        self, *, session: Session | None = None, is_announced: bool = True, **settings: Any
    ) -> None:
        self.peer = BrokerByHand()
        self.messages: list[Message] = []
        self.connected = self.disconnected = 0
        self.ours = Broker(
            Mqtt(broker=HOST, port=self.peer.port, client_id="plugs", **settings),
            "mqtt_2_influx",
            filters=["@update/+/monitoring/#"],
            on_messages=self.messages.extend,
            on_connected=self._count_connected,
            on_disconnected=self._count_disconnected,
            session=session,
            is_announced=is_announced,
        )
        self.ours.start()

    def _count_connected(self) -> None:
        self.connected += 1

    def _count_disconnected(self) -> None:
        self.disconnected += 1

    def accept(self, protocol: Any = V5, connack: bytes = b"") -> socket.socket:
        """Accept a connection up to the point where messages may come."""
        wire = self.peer.accept()
        assert read_packet(wire)[0] == 0x10
        wire.sendall(connack or CONNACK[protocol])
        subscribe = read_packet(wire)
        assert subscribe[0] == 0x82
        wire.sendall(
            b"\x90\x04" + subscribe[2:4] + b"\x00\x01"
            if protocol == V5
            else b"\x90\x03" + subscribe[2:4] + b"\x01"
        )
        assert b"/monitoring/online" in read_packet(wire)
        return wire

    def close(self) -> None:
        self.peer.close()
        self.ours.stop()


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(broker, "Backoff", lambda **_: backoff.Backoff(0.01, 0.02))
    monkeypatch.setattr(broker, "TAKEN_OVER_PAUSE_S", 0.5)


@pytest.fixture
def bench(request: pytest.FixtureRequest) -> Iterator[Bench]:
    bench = Bench(**getattr(request, "param", {}))
    yield bench
    bench.close()


def session(may_read: Any = lambda: True) -> Session:
    return Session(window=1234, expiry_s=604800, may_read=may_read)


def text(value: str) -> bytes:
    return struct.pack(">H", len(value)) + value.encode()


def no_more(wire: socket.socket) -> bool:
    """Whether nothing comes for a moment: only to be asked after something that came later."""
    return not select.select([wire], [], [], 0.1)[0]


@pytest.mark.parametrize(
    "bench", [{"session": session(), "username": "me", "password": "s3cret"}], indirect=True
)
def test_mqtt_5_with_a_session(bench: Bench) -> None:
    connect = read_packet(bench.peer.accept())
    flags = 0b11101100  # user, password, will retained with QoS 1; no clean start
    properties = b"\x11" + struct.pack(">I", 604800) + b"\x21" + struct.pack(">H", 1234)
    assert connect[2:].startswith(b"\x00\x04MQTT\x05" + bytes([flags]) + b"\x00\x19")
    for each in (properties, b"\x27" + struct.pack(">I", broker.MAX_PACKET)):
        assert each in connect[12:40]
    topic = bench.ours._online_topic  # noqa: SLF001 - holds the host's name
    assert topic.startswith("@update/mqtt_2_influx-")
    assert connect.endswith(
        text("plugs")
        + b"\x00"
        + text(topic)
        + text('{"value":0,"unit":""}')
        + text("me")
        + text("s3cret")
    )


def test_mqtt_5_without_a_session(bench: Bench) -> None:
    connect = read_packet(bench.peer.accept())
    assert connect[2:].startswith(b"\x00\x04MQTT\x05" + bytes([0b00101110]) + b"\x00\x19")
    assert b"\x11\x00" not in connect[12:20]


@pytest.mark.parametrize("bench", [{"is_announced": False}], indirect=True)
def test_a_broker_that_takes_nothing_is_sent_nothing(bench: Bench) -> None:
    wire = bench.peer.accept()
    connect = read_packet(wire)
    assert connect[2:].startswith(b"\x00\x04MQTT\x05" + bytes([0b00000010]))  # no will
    assert connect.endswith(text("plugs"))
    wire.sendall(CONNACK[V5])
    assert read_packet(wire)[0] == 0x82  # SUBSCRIBE
    wait_until(lambda: bench.connected, 10, "the connection")
    bench.ours.stop()
    assert read_packet(wire)[0] == 0xE0  # DISCONNECT


@pytest.mark.parametrize(
    ("bench", "flags"),
    [({"session": session()}, 0b00101100), ({}, 0b00101110)],
    indirect=["bench"],
    ids=["session", "no session"],
)
def test_mqtt_3_1_1_when_the_broker_asks_for_it(
    bench: Bench, flags: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    wire = bench.peer.accept()
    read_packet(wire)
    wire.sendall(REFUSES_MQTT_5)
    connect = read_packet(bench.peer.accept())
    assert connect[2:].startswith(
        b"\x00\x04MQTT\x04" + bytes([flags]) + b"\x00\x19" + text("plugs")
    )
    assert [each for each in caplog.messages if "3.1.1" in each] == [
        f"broker {HOST}:{bench.peer.port} does not take MQTT 5; trying 3.1.1"
    ]


def test_a_broker_that_hangs_up_without_a_word_is_offered_3_1_1_too(bench: Bench) -> None:
    versions = []
    for _ in range(5):
        wire = bench.peer.accept()
        versions.append(read_packet(wire)[8])
        wire.close()
    assert versions[0] == 5
    assert 4 in versions


@pytest.mark.parametrize("protocol", [V5, V311], ids=["MQTT 5", "MQTT 3.1.1"])
@pytest.mark.parametrize("bench", [{"session": session()}], indirect=True)
def test_with_a_session_messages_are_acknowledged_when_we_say_so(
    bench: Bench, protocol: Any
) -> None:
    if protocol == V311:
        wire = bench.peer.accept()
        read_packet(wire)
        wire.sendall(REFUSES_MQTT_5)
    wire = bench.accept(protocol)
    sent = [Sent(b"@update/a/monitoring/power", b"1", 1, message_id=each) for each in (7, 9, 300)]
    wire.sendall(b"".join(each.packet(protocol) for each in sent))
    wait_until(lambda: len(bench.messages) == 3, 10, "3 messages")
    assert no_more(wire)
    bench.ours.acknowledge((each.client, each.message_id) for each in bench.messages[1:])
    assert receive(wire, 8) == b"\x40\x02\x00\x09\x40\x02\x01\x2c"


def test_without_a_session_they_are_acknowledged_when_they_are_handed_over(bench: Bench) -> None:
    wire = bench.accept()
    topic = b"@set/a/control/relay"
    wire.sendall(
        Sent(topic, b"1", 1, message_id=7).packet(V5)
        + Sent(topic, b"2").packet(V5)
        + Sent(topic, b"3", 1, message_id=8).packet(V5)
    )
    assert receive(wire, 8) == b"\x40\x02\x00\x07\x40\x02\x00\x08"
    assert [message.payload for message in bench.messages] == [b"1", b"2", b"3"]


@pytest.mark.parametrize("bench", [{"session": session()}], indirect=True)
def test_an_acknowledgement_never_goes_to_a_later_connection(bench: Bench) -> None:
    wire = bench.accept()
    wire.sendall(Sent(b"a", b"old", 1, message_id=1).packet(V5))
    wait_until(lambda: bench.messages, 10, "a message")
    wire.close()
    wire = bench.accept()
    assert (bench.connected, bench.disconnected) == (2, 1)
    wire.sendall(Sent(b"a", b"new", 1, message_id=1).packet(V5))
    wire.sendall(Sent(b"a", b"new", 1, message_id=2).packet(V5))
    wait_until(lambda: len(bench.messages) == 3, 10, "3 messages")
    old, first, second = [(message.client, message.message_id) for message in bench.messages]
    assert old[1] == first[1]
    bench.ours.acknowledge([old, second])
    assert receive(wire, 4) == b"\x40\x02\x00\x02"
    assert no_more(wire)


def test_nothing_is_read_while_there_is_no_room() -> None:
    room = threading.Event()
    room.set()
    bench = Bench(session=session(room.is_set))
    wire = bench.accept()
    room.clear()
    packet = Sent(b"a", b"x" * 1000).packet(V5)
    wire.setblocking(False)
    sent = 0
    with contextlib.suppress(BlockingIOError):
        while sent < 100_000_000:
            sent += wire.send(packet * 100)
    assert sent < 100_000_000
    assert len(bench.messages) < 2000
    room.set()
    wait_until(lambda: len(bench.messages) >= sent // len(packet), 20, "all messages")
    bench.close()
    assert {message.payload for message in bench.messages} == {b"x" * 1000}


def test_a_broker_that_refuses_us_is_one_warning_that_names_the_setting(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(3):
        wire = bench.peer.accept()
        read_packet(wire)
        wire.sendall(NOT_AUTHORIZED)
    (message,) = caplog.messages
    assert message == (
        f"broker {HOST}:{bench.peer.port}: it refuses us: Not authorized ([MQTT] username,"
        " password); trying again"
    )
    assert not bench.ours.connected


def test_a_subscription_that_is_refused_is_asked_for_again(
    bench: Bench, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The broker's access list may have been mended meanwhile."""
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(broker, "SUBSCRIBE_AGAIN_S", 0.2)
    wire = bench.peer.accept()
    read_packet(wire)
    wire.sendall(CONNACK[V5])
    for reason in (b"\x87", b"\x87", b"\x01"):
        while (packet := read_packet(wire))[0] != 0x82:
            pass  # that we are online
        assert b"@update/+/monitoring/#" in packet
        wire.sendall(b"\x90\x04" + packet[2:4] + b"\x00" + reason)
    wait_until(lambda: "allows" in caplog.messages[-1], 10, "word of it")
    assert [each.partition(" ")[2].partition(" ")[2] for each in caplog.messages[1:]] == [
        "refuses '@update/+/monitoring/#': Not authorized",
        "allows '@update/+/monitoring/#' now",
    ]
    wire.sendall(Sent(b"@update/a/monitoring/power", b"1").packet(V5))
    wait_until(lambda: bench.messages, 10, "a message")
    assert no_more(wire)


def test_who_is_taken_over_waits_and_says_by_whom(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    wire = bench.accept()
    wire.sendall(TAKEN_OVER)
    began = time.monotonic()
    bench.accept()
    assert time.monotonic() - began > 0.4
    assert [each for each in caplog.messages if "client_id 'plugs'" in each]


def test_published_while_nobody_is_there_is_none(bench: Bench) -> None:
    assert bench.ours.publish("a", b"1") is None
    wire = bench.accept()
    wait_until(lambda: bench.connected, 10, "connection")
    assert bench.ours.publish("a", b"2", expiry_s=10)
    packet = read_packet(wire)
    assert packet[0] == 0x32
    assert packet.endswith(b"\x05\x02\x00\x00\x00\x0a2")
    wire.close()
    wait_until(lambda: not bench.ours.connected, 10, "end of the connection")
    assert bench.ours.publish("a", b"3") is None


def test_no_more_is_on_its_way_than_the_broker_allows(bench: Bench) -> None:
    """It would hang up: MQTT 5, section 4.9. HiveMQ allows 10."""
    receive_maximum_3 = b"\x20\x06\x00\x00\x03\x21\x00\x03"
    wire = bench.accept(connack=receive_maximum_3)  # and the first message, that we are online
    wait_until(lambda: bench.connected, 10, "connection")
    for number in range(10):
        assert bench.ours.publish("a", b"%d" % number)
    packets = [read_packet(wire), read_packet(wire)]
    for confirmed in range(2, 10):  # 1 was the subscription
        assert no_more(wire)
        wire.sendall(b"\x40\x02" + struct.pack(">H", confirmed))
        packets.append(read_packet(wire))
    assert [packet[-1:] for packet in packets] == [b"%d" % number for number in range(10)]


def test_a_broker_that_confirms_nothing_does_not_fill_the_memory(bench: Bench) -> None:
    bench.accept()
    wait_until(lambda: bench.connected, 10, "connection")
    taken = [bench.ours.publish("a", b"1") for _ in range(broker.MAX_UNCONFIRMED + 10)]
    assert taken[:-10].count(None) <= 1  # that we are online was one too
    assert taken[-10:] == [None] * 10
    bench.ours.stop()  # without room for a farewell either
    assert bench.disconnected == 1


def test_the_farewell_says_offline_and_then_disconnects(bench: Bench) -> None:
    wire = bench.accept()
    wait_until(lambda: bench.connected, 10, "connection")
    began = time.monotonic()
    bench.ours.stop()
    assert time.monotonic() - began < 4  # although the broker acknowledges nothing
    offline = read_packet(wire)
    assert b"/monitoring/online" in offline
    assert b'"value":0,' in offline
    assert offline[0] == 0x33  # QoS 1, retained
    assert read_packet(wire)[0] == 0xE0  # DISCONNECT
    assert wire.recv(1) == b""


def test_a_broker_that_says_nothing_does_not_hold_up_the_end(bench: Bench) -> None:
    wire = bench.peer.accept()
    read_packet(wire)
    began = time.monotonic()
    bench.ours.stop()
    assert time.monotonic() - began < 4


@pytest.mark.parametrize("bench", [{"session": session()}], indirect=True)
def test_who_is_cut_off_again_and_again_suspects_a_rival(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(broker.RIVAL_CUTS):
        wire = bench.accept()
        cut_off = time.monotonic()
        wire.close()
    bench.accept()
    assert time.monotonic() - cut_off > 0.4
    suspicion = "another program connects with our client_id 'plugs'"
    assert sum(suspicion in each for each in caplog.messages) == 1


def test_who_is_cut_off_again_and_again_for_a_reason_is_told_it_once(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(broker.RIVAL_CUTS + 2):
        bench.accept().sendall(RECEIVE_MAXIMUM_EXCEEDED)
    wait_until(lambda: bench.disconnected == broker.RIVAL_CUTS + 2, 10, "the last end")
    assert caplog.messages == [
        f"broker {HOST}:{bench.peer.port}: connection lost (Receive maximum exceeded); trying again"
    ]


@pytest.mark.parametrize("bench", [{"session": session()}], indirect=True)
def test_who_has_spoken_mqtt_5_is_not_doubted_when_something_hangs_up_in_its_place(
    bench: Bench,
) -> None:
    """A proxy, say, whose broker is down."""
    bench.accept().close()
    for _ in range(broker.SILENT_REFUSALS + 2):
        wire = bench.peer.accept()
        assert read_packet(wire)[8] == 5
        wire.close()


def test_3_1_1_that_was_a_guess_is_doubted_when_the_connection_is_lost(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    """Nobody said that MQTT 5 is not spoken there; who hangs up on it again is asked once."""
    caplog.set_level(logging.INFO)
    versions = []
    for is_there in (False, False, False, True, False, True):
        wire = bench.peer.accept()
        versions.append(read_packet(wire)[8])
        if is_there:
            wire.sendall(CONNACK[V311])
            assert read_packet(wire)[0] == 0x82
        wire.close()
    assert versions == [5, 5, 5, 4, 5, 4]
    bench.accept()  # with MQTT 5
    assert sum("does not take MQTT 5" in each for each in caplog.messages) == 1


@pytest.mark.parametrize("bench", [{"session": session()}], indirect=True)
def test_a_network_that_swallows_everything_does_not_make_us_doubt_mqtt_5(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.accept().close()
    monkeypatch.setattr(broker, "KEEPALIVE_S", 1)
    for _ in range(broker.SILENT_REFUSALS + 2):
        connect = read_packet(bench.peer.accept())
        assert connect[8] == 5  # the protocol's version


@pytest.mark.parametrize("bench", [{"session": session()}], indirect=True)
def test_what_a_broker_sent_before_it_died_is_read(bench: Bench) -> None:
    """Although an acknowledgement finds the connection broken first."""
    wire = bench.accept()
    wire.sendall(publish(1))
    wait_until(lambda: bench.messages, 10, "the first message")
    wire.sendall(b"".join(map(publish, range(2, 102))))
    wire.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    wire.close()  # with a reset
    bench.ours.acknowledge([(bench.messages[0].client, 1)])
    wait_until(lambda: bench.disconnected, 10, "the end of the connection")
    assert [each.message_id for each in bench.messages] == list(range(1, 102))


def publish(message_id: int) -> bytes:
    return b"\x32\x06\x00\x01x" + struct.pack(">H", message_id) + b"\x00"
