"""A paho client ready for use: TLS, session, last will, reconnecting, and fast.

A `Broker` keeps one connection alive from a thread of its own, through paho's interface for
external loops. Every connection has a new paho client, so that nothing of an old one (its unsent
packets, its message identifiers) can be taken for the new one's.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import socket
import ssl
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Final, NamedTuple

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode
from paho.mqtt.subscribeoptions import SubscribeOptions

from openenergy import clock, config, service, topics
from openenergy.backoff import Backoff

CONNECT_TIMEOUT_S: Final = 4.0
# A peer that vanished without a word is noticed after two of these at most.
KEEPALIVE_S: Final = 25
# Larger packets stay at the broker (MQTT 5, 3.1.2.11.4); ours are a thousand times smaller.
MAX_PACKET: Final = 2 * 1024 * 1024
READ_SIZE: Final = 262_144
READS_PER_TURN: Final = 4
# A connection that lasted this long was a good one: the next attempt need not wait.
GOOD_CONNECTION_S: Final = 10.0
# A broker that is back gets us back within this time: mosquitto's queue for us, 1,000 messages,
# is full after 3 s when 300 come in a second.
LONGEST_ABSENCE_S: Final = 2.0
# Two programs with one client identifier cut each other off in turns; this leaves each some time.
TAKEN_OVER_PAUSE_S: Final = 30.0
# Not every broker says why it cuts us off then (MQTT 3.1.1 has no word for it; mosquitto 2.0.11
# says nothing): being cut off so often in a minute is taken for it.
RIVAL_CUTS: Final = 5
RIVAL_CUTS_WITHIN_S: Final = 60.0
# Looking the broker's name up, connecting, the pause after a takeover.
LONGEST_TURN_S: Final = 90.0
FAREWELL_S: Final = 1.0
# A broker that hangs up on MQTT 5 without saying why is offered 3.1.1 too after so many attempts.
SILENT_REFUSALS: Final = 3
# A reason for which no message was refused for so long is news again.
REFUSAL_FORGOTTEN_S: Final = 600.0
# Messages that a broker which confirms nothing has us keep in memory.
MAX_UNCONFIRMED: Final = 5000
# A subscription that was refused is asked for again: the broker may have been told of us since.
SUBSCRIBE_AGAIN_S: Final = 30.0
UNSUPPORTED_PROTOCOL: Final = 0x84
TAKEN_OVER: Final = 0x8E
KEEP_ALIVE_TIMEOUT: Final = 0x8D
# mosquitto's window for clients that name none, as MQTT 3.1.1 cannot.
DEFAULT_WINDOW: Final = 20
# Of a broker that names none with MQTT 5 (section 3.2.2.3.3).
MAX_WINDOW: Final = 65535
# Fewer messages in one read mean that the stream is slow, unless the broker may not send more: the
# next read then waits, and finds several at once.
SMALL_READ: Final = 20
GATHER_S: Final = 0.05
# How long not to read when there is no room for more messages.
NO_ROOM_S: Final = 0.02

log = logging.getLogger("broker")


class Message(NamedTuple):
    """A message as it came; `retain`: see Broker. A topic that is not UTF-8 has U+FFFD in it.

    `client` is the connection it came by, `message_id` what it is acknowledged with there,
    `arrived_ms` our own clock's time (ms since 1970 UTC).
    """

    topic: str
    payload: bytes
    qos: int
    retain: bool
    client: mqtt.Client
    message_id: int
    arrived_ms: int


class Session(NamedTuple):
    """A session that the broker keeps while we are away; messages are acknowledged by the caller.

    `window` is how many unacknowledged messages the broker may send (MQTT 5 Receive Maximum),
    `expiry_s` how long it keeps the session, `may_read` says whether there is room for more.
    """

    window: int
    expiry_s: int
    may_read: Callable[[], bool]


class Broker:
    """One connection to the broker, made again whenever it is lost.

    `on_messages` gets all that came at once, `on_published` (client, message identifier) what the
    broker has of ours, `on_refused` what it does not take, with the reason's code. They are called
    in the network thread and must not wait; so are `on_connected` and `on_disconnected`.
    """

    def __init__(  # noqa: PLR0913 - what a script wants of its broker, each by name
        self,
        settings: config.Mqtt,
        script: str,
        *,
        filters: Sequence[str] = (),
        former_filters: Sequence[str] = (),
        on_messages: Callable[[list[Message]], None],
        on_connected: Callable[[], None] = lambda: None,
        on_disconnected: Callable[[], None] = lambda: None,
        on_published: Callable[[mqtt.Client, int], None] = lambda _client, _id: None,
        on_refused: Callable[[mqtt.Client, int, int], None] = lambda _client, _id, _reason: None,
        session: Session | None = None,
        keep_retain_flag: bool = False,
        is_announced: bool = True,
    ) -> None:
        """Prepare; `start` connects.

        `former_filters` are those that the broker's session may still have from an earlier run.
        Unless `is_announced`, nothing is published but what `publish` is called for, not even that
        we are online: some brokers take nothing from their clients.
        With `keep_retain_flag` a message shows the flag it was published with (MQTT 5 only);
        else `retain` means that it was published before we subscribed.
        """
        self.name = f"{settings.broker}:{settings.port}"
        self.client_id = client_id(settings, script)
        self._settings = settings
        self._filters = filters
        self._former_filters = former_filters
        self._on_messages = on_messages
        self._on_connected = on_connected
        self._on_disconnected = on_disconnected
        self._on_published = on_published
        self._on_refused = on_refused
        self._session = session
        self._keep_retain_flag = keep_retain_flag
        self._is_announced = is_announced
        self._online_topic = online_topic(settings, script)
        self._protocol = MQTTProtocolVersion.MQTTv5
        self._answered = False
        self._taken_over = False
        self._cut_at_s: deque[float] = deque(maxlen=RIVAL_CUTS)
        self._silent_refusals = 0
        self._has_spoken_v5 = False
        self._client: _Client | None = None
        self._trouble = ""
        self._refused_at_s: dict[str, float] = {}
        self._asked_filters: Sequence[str] = ()
        self._refused_filters: dict[str, str] = {}
        self._subscribe_at_s = 0.0
        self._messages: list[Message] = []
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._keep_connected, name="network", daemon=True)
        self._wake_receiver, self._wake_sender = socket.socketpair()
        self._wake_receiver.setblocking(False)
        self._wake_sender.setblocking(False)

    @property
    def connected(self) -> bool:
        """Whether messages can be published now."""
        return self._client is not None

    @property
    def window(self) -> int:
        """How many messages the broker sends before it waits for an acknowledgement."""
        is_v5 = self._protocol == MQTTProtocolVersion.MQTTv5
        return self._session.window if self._session and is_v5 else DEFAULT_WINDOW

    def start(self) -> None:
        """Connect, now or whenever the broker is there."""
        self._thread.start()

    def stop(self) -> None:
        """Say farewell and disconnect, within 2 s whatever the broker does."""
        self._stopping.set()
        self._wake()
        self._thread.join(FAREWELL_S + 1)

    def publish(
        self,
        topic: str,
        payload: bytes,
        *,
        qos: int | None = None,
        retain: bool = False,
        expiry_s: int | None = None,
    ) -> tuple[mqtt.Client, int] | None:
        """Publish now; return what `on_published` will get, or None if that cannot be.

        We are not connected then, or the broker has confirmed nothing for too many messages.

        Without `qos` it is that of `[MQTT]`.
        A message with `expiry_s` is dropped by the broker when it is older (MQTT 5 only).
        """
        client = self._client
        if client is None:
            return None
        properties = None
        if expiry_s is not None and client.protocol == MQTTProtocolVersion.MQTTv5:
            properties = _properties(PacketTypes.PUBLISH, MessageExpiryInterval=expiry_s)
        info = client.publish(
            topic,
            payload,
            qos=self._settings.qos if qos is None else qos,
            retain=retain and self._settings.retain,
            properties=properties,
        )
        return (client, info.mid) if info.rc == MQTTErrorCode.MQTT_ERR_SUCCESS else None

    def acknowledge(self, deliveries: Iterable[tuple[mqtt.Client, int]]) -> None:
        """Acknowledge messages by the connection they came by and their identifiers.

        On a later connection an identifier means another message: then nothing is sent, and the
        broker delivers the message again.
        """
        if present := self._client:
            present.acknowledge(mid for client, mid in deliveries if client is present)

    # The network thread

    def _keep_connected(self) -> None:
        backoff = Backoff(longest_s=LONGEST_ABSENCE_S)
        while not self._stopping.is_set():
            service.beat(LONGEST_TURN_S)
            self._answered = self._taken_over = False
            began = time.monotonic()
            try:
                client = self._new_client()
                self._connect(client)
                self._serve(client)
            except OSError as error:
                self._note_trouble(reason(error))
            if self._client is not None:
                self._client = None
                self._on_disconnected()
                if time.monotonic() - began > GOOD_CONNECTION_S:
                    backoff.reset()
                    self._trouble = ""
            self._stopping.wait(TAKEN_OVER_PAUSE_S if self._taken_over else backoff.delay_s())
        self._wake_receiver.close()
        self._wake_sender.close()

    def _new_client(self) -> _Client:
        is_v5 = self._protocol == MQTTProtocolVersion.MQTTv5
        client = _Client(
            CallbackAPIVersion.VERSION2,
            self.client_id,
            clean_session=None if is_v5 else self._session is None,
            protocol=self._protocol,
            manual_ack=True,
            reconnect_on_failure=False,
        )
        prepare(client, self._settings)
        client.max_queued_messages_set(MAX_UNCONFIRMED)
        if self._is_announced:
            client.will_set(
                self._online_topic,
                topics.encode_measurement("online", 0, None),
                qos=self._settings.qos,
                retain=self._settings.retain,
            )
        client.on_connect = self._handle_connect
        client.on_disconnect = self._handle_disconnect
        client.on_subscribe = self._handle_subscribe
        client.on_message = self._handle_message
        # With this callback paho leaves all writing to our loop, whichever thread publishes.
        client.on_socket_register_write = self._handle_outgoing
        client.on_publish = self._handle_published
        return client

    def _connect(self, client: _Client) -> None:
        host, port = self._settings.broker, self._settings.port
        if self._protocol != MQTTProtocolVersion.MQTTv5:
            client.connect(host, port, KEEPALIVE_S)
            return
        properties = _properties(PacketTypes.CONNECT, MaximumPacketSize=MAX_PACKET)
        if self._session:
            properties.SessionExpiryInterval = self._session.expiry_s
            properties.ReceiveMaximum = self._session.window
        client.connect(
            host, port, KEEPALIVE_S, clean_start=self._session is None, properties=properties
        )

    def _serve(self, client: _Client) -> None:
        """Move packets until the connection ends or we are told to stop."""
        read_at = 0.0
        while (connection := client.connection) and not self._stopping.is_set():
            service.beat(LONGEST_TURN_S)
            pause_s = max(0.0, read_at - time.monotonic())
            if self._session and not self._session.may_read():
                pause_s = max(pause_s, NO_ROOM_S)
            may_read = not pause_s or connection.is_cut
            has_buffered = may_read and connection.pending()
            readable, _, _ = select.select(
                [self._wake_receiver, *([connection] if may_read else [])],
                [connection] if client.want_write() else [],
                [],
                0 if has_buffered else pause_s or 1.0,
            )
            if self._wake_receiver in readable:
                self._clear_wake()
            if has_buffered or connection in readable:
                client.read(self._messages)
                if self._session and 0 < len(self._messages) < min(SMALL_READ, self.window):
                    read_at = time.monotonic() + GATHER_S
                self._hand_over()
            self._subscribe_again()
            client.loop_write()
            client.loop_misc()
        if self._client is not None and self._stopping.is_set():
            self._say_farewell(client)

    def _say_farewell(self, client: _Client) -> None:
        """Publish that we are offline, after everything published before it, and disconnect."""
        if self._is_announced:
            self._publish_offline(client)
        client.disconnect()
        client.loop_write()

    def _publish_offline(self, client: _Client) -> None:
        offline = client.publish(
            self._online_topic,
            topics.encode_measurement("online", 0, clock.now_if_set_ms()),
            qos=self._settings.qos,
            retain=self._settings.retain,
        )
        deadline = time.monotonic() + FAREWELL_S
        while (
            offline.rc == MQTTErrorCode.MQTT_ERR_SUCCESS  # else too much is on its way
            and (connection := client.connection)
            and not offline.is_published()
            and time.monotonic() < deadline
        ):
            select.select([connection], [connection] if client.want_write() else [], [], 0.05)
            client.loop_write()
            client.read(self._messages)

    def _hand_over(self) -> None:
        """Give what was read to whom it is for."""
        if self._messages:
            messages, self._messages = self._messages, []
            self._on_messages(messages)
            if self._session is None:
                self.acknowledge((each.client, each.message_id) for each in messages if each.qos)

    def _handle_connect(
        self,
        client: mqtt.Client,
        _userdata: Any,
        _flags: mqtt.ConnectFlags,
        reason_code: ReasonCode,
        properties: Properties | None,
    ) -> None:
        self._answered = True
        if reason_code.is_failure:
            if reason_code.value == UNSUPPORTED_PROTOCOL:
                self._has_spoken_v5 = False
                self._silent_refusals = 0
                self._offer_older_protocol()
            else:
                self._note_trouble(f"it refuses us: {reason_code} ([MQTT] username, password)")
            return
        is_v5 = self._protocol == MQTTProtocolVersion.MQTTv5
        self._has_spoken_v5 = self._has_spoken_v5 or is_v5
        log.info("connected to broker %s (MQTT %s)", self.name, "5" if is_v5 else "3.1.1")
        if self._former_filters:
            client.unsubscribe(list(self._former_filters))
        if self._filters:
            self._subscribe(client, self._filters)
        assert isinstance(client, _Client)  # noqa: S101 - see _new_client
        client.keep_to_window(getattr(properties, "ReceiveMaximum", MAX_WINDOW))
        self._client = client
        if self._is_announced:
            self.publish(
                self._online_topic,
                topics.encode_measurement("online", 1, clock.now_if_set_ms()),
                retain=True,
            )
        self._on_connected()

    def _subscribe(self, client: mqtt.Client, filters: Sequence[str]) -> None:
        self._asked_filters = filters
        self._subscribe_at_s = time.monotonic() + SUBSCRIBE_AGAIN_S
        qos: Any = self._settings.qos
        if self._protocol == MQTTProtocolVersion.MQTTv5:
            qos = SubscribeOptions(qos, retainAsPublished=self._keep_retain_flag)
        client.subscribe([(topic_filter, qos) for topic_filter in filters])

    def _subscribe_again(self) -> None:
        """Ask once more for what was refused, now and then."""
        if self._client and self._refused_filters and time.monotonic() >= self._subscribe_at_s:
            self._subscribe(self._client, list(self._refused_filters))

    def _handle_disconnect(
        self,
        _client: mqtt.Client,
        _userdata: Any,
        flags: mqtt.DisconnectFlags,
        reason_code: ReasonCode,
        _properties: Properties | None,
    ) -> None:
        # A broker that hangs up; not a network that swallows everything.
        if not self._answered and reason_code.value != KEEP_ALIVE_TIMEOUT:
            self._doubt_protocol()
        elif self._client is not None and self._silent_refusals:
            self._protocol = MQTTProtocolVersion.MQTTv5  # the other was a guess
        gave_reason = flags.is_disconnect_packet_from_server
        if reason_code.value == TAKEN_OVER or (not gave_reason and self._is_cut_off_often()):
            self._taken_over = True
            self._note_trouble(f"another program connects with our client_id {self.client_id!r}")
        elif not (self._stopping.is_set() or (self._answered and self._client is None)):
            # Not after a refusal, which is noted already.
            self._note_trouble(f"connection lost ({reason_code})")

    def _is_cut_off_often(self) -> bool:
        """Whether the connection that was cut off now is the last of many."""
        if self._client is None:
            return False
        self._cut_at_s.append(time.monotonic())
        is_often = (
            len(self._cut_at_s) == RIVAL_CUTS
            and self._cut_at_s[-1] - self._cut_at_s[0] < RIVAL_CUTS_WITHIN_S
        )
        if is_often:
            self._cut_at_s.clear()
        return is_often

    def _doubt_protocol(self) -> None:
        """Offer the other protocol to a broker that hangs up, unless it is known to speak MQTT 5.

        It may also be one that is not there, behind something that accepts connections for it.
        """
        self._silent_refusals += 1
        if self._has_spoken_v5 or self._silent_refusals < SILENT_REFUSALS:
            return
        if self._protocol == MQTTProtocolVersion.MQTTv5:
            self._offer_older_protocol()
        else:
            self._protocol = MQTTProtocolVersion.MQTTv5

    def _offer_older_protocol(self) -> None:
        if self._silent_refusals <= SILENT_REFUSALS:  # later it is no news
            log.info("broker %s does not take MQTT 5; trying 3.1.1", self.name)
        self._protocol = MQTTProtocolVersion.MQTTv311

    def _note_trouble(self, trouble: str) -> None:
        """Log a change for the worse once, however often the attempts fail the same way."""
        if trouble != self._trouble:
            log.warning("broker %s: %s; trying again", self.name, trouble)
            self._trouble = trouble

    def _handle_subscribe(
        self,
        _client: mqtt.Client,
        _userdata: Any,
        _message_id: int,
        reason_codes: list[ReasonCode],
        _properties: Properties | None,
    ) -> None:
        refused = {
            topic_filter: str(reason_code)
            for topic_filter, reason_code in zip(self._asked_filters, reason_codes, strict=False)
            if reason_code.is_failure
        }
        for topic_filter, trouble in refused.items():
            if self._refused_filters.get(topic_filter) != trouble:
                log.error("broker %s refuses %r: %s", self.name, topic_filter, trouble)
        for topic_filter in self._refused_filters:
            if topic_filter not in refused:
                log.info("broker %s allows %r now", self.name, topic_filter)
        self._refused_filters = refused

    def _handle_message(
        self, client: mqtt.Client, _userdata: Any, message: mqtt.MQTTMessage
    ) -> None:
        """Take a message that paho itself has read."""
        try:
            topic = message.topic
        except UnicodeDecodeError:
            topic = "\ufffd"
        payload = bytes(message.payload)
        self._messages.append(
            Message(
                topic, payload, message.qos, message.retain, client, message.mid, clock.now_ms()
            )
        )

    def _handle_published(
        self,
        client: mqtt.Client,
        _userdata: Any,
        message_id: int,
        reason_code: ReasonCode,
        _properties: Properties | None,
    ) -> None:
        if reason_code.is_failure:
            assert isinstance(client, _Client)  # noqa: S101 - see _new_client
            self._note_refusal(str(reason_code), client.topic_of(message_id))
            self._on_refused(client, message_id, reason_code.value)
        else:
            self._on_published(client, message_id)

    def _note_refusal(self, reason: str, topic: str) -> None:
        """Log a reason once, and again only when it was not heard for a while."""
        now_s = time.monotonic()
        if now_s - self._refused_at_s.get(reason, -REFUSAL_FORGOTTEN_S) >= REFUSAL_FORGOTTEN_S:
            log.error("broker %s refuses a message of ours: %s (%s)", self.name, reason, topic)
        self._refused_at_s[reason] = now_s

    def _handle_outgoing(self, _client: mqtt.Client, _userdata: Any, _socket: Any) -> None:
        self._wake()

    def _wake(self) -> None:
        """End the network thread's wait. A full pipe already does; a closed one has no thread."""
        with contextlib.suppress(OSError):
            self._wake_sender.send(b"!")

    def _clear_wake(self) -> None:
        with contextlib.suppress(BlockingIOError):
            self._wake_receiver.recv(4096)


def _properties(packet_type: int, **values: int) -> Properties:
    properties = Properties(packet_type)  # type: ignore[no-untyped-call]
    for name, value in values.items():
        setattr(properties, name, value)
    return properties


def client_id(settings: config.Mqtt, script: str) -> str:
    """Return the stable identifier under which the broker keeps a script's session."""
    return settings.client_id or f"{script}-{service.hostname()}"


def online_topic(settings: config.Mqtt, script: str) -> str:
    """Return the topic on which a script says whether it is connected."""
    device = f"{script}-{service.hostname()}"
    return topics.measurement_topic(settings.prefix_update, device, "online")


def prepare(client: mqtt.Client, settings: config.Mqtt) -> None:
    """Give `client` the credentials, the authorities and the time limit of `settings`."""
    client.connect_timeout = CONNECT_TIMEOUT_S
    if settings.username:
        client.username_pw_set(settings.username, settings.password or None)
    if settings.tls:
        client.tls_set(ca_certs=settings.ca_file or None)


def reason(error: OSError) -> str:
    """Say in a few words why a connection failed."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted: {error.verify_message}"
    if isinstance(error, TimeoutError):
        return "no answer"
    return error.strerror or str(error) or type(error).__name__


def attempt(settings: config.Mqtt, script: str) -> service.Attempt:
    """Return what `--check` tries of the broker."""
    what = f"broker {settings.broker}:{settings.port}"
    return what, lambda: try_connect(settings, script)


def try_connect(settings: config.Mqtt, script: str) -> None:
    """Connect once, for `--check`, beside whatever else is connected; raises OSError."""
    with _short_connection(settings, f"{client_id(settings, script)}-check"):
        pass


def publish_once(settings: config.Mqtt, script: str, topic: str, payload: bytes) -> None:
    """Connect, publish with QoS 1, and leave once the broker has it; raises OSError."""
    acknowledged: list[ReasonCode] = []

    def on_publish(_c: Any, _u: Any, _id: int, reason_code: ReasonCode, _p: Any) -> None:
        acknowledged.append(reason_code)

    with _short_connection(settings, f"{client_id(settings, script)}-{os.getpid()}") as client:
        client.on_publish = on_publish
        client.publish(topic, payload, qos=1)
        _move_packets(client, acknowledged)
    if not acknowledged:
        raise OSError("it does not acknowledge the message")
    if acknowledged[0].is_failure:
        raise OSError(f"it refuses the message: {acknowledged[0]}")


@contextlib.contextmanager
def _short_connection(settings: config.Mqtt, identity: str) -> Iterator[mqtt.Client]:
    """Connect without a session, whichever protocol it takes; raises OSError with the reason."""
    outcome: list[ReasonCode] = []

    def on_connect(_c: Any, _u: Any, _f: Any, reason_code: ReasonCode, _p: Any) -> None:
        outcome.append(reason_code)

    for protocol in (MQTTProtocolVersion.MQTTv5, MQTTProtocolVersion.MQTTv311):
        outcome.clear()
        client = mqtt.Client(
            CallbackAPIVersion.VERSION2, identity, protocol=protocol, reconnect_on_failure=False
        )
        prepare(client, settings)
        client.on_connect = on_connect
        try:
            client.connect(settings.broker, settings.port)
        except OSError as error:
            raise OSError(reason(error)) from error
        try:
            _move_packets(client, outcome)
            if outcome and not outcome[0].is_failure:
                yield client
                return
        finally:
            client.disconnect()
        if outcome and outcome[0].value != UNSUPPORTED_PROTOCOL:
            break
    if not outcome:
        raise OSError("it does not answer as an MQTT broker")
    raise OSError(f"it refuses us: {outcome[0]} ([MQTT] username, password)")


def _move_packets(client: mqtt.Client, outcome: list[ReasonCode]) -> None:
    """Let paho work until there is an outcome, the connection ends, or time is up."""
    deadline = time.monotonic() + CONNECT_TIMEOUT_S
    while not outcome and time.monotonic() < deadline:
        if client.loop(timeout=0.2) != MQTTErrorCode.MQTT_ERR_SUCCESS:
            break


# What follows goes round paho's public interface, for speed. It was written for paho-mqtt 2.2;
# tests/unit/test_broker_paho.py notices a paho that changed.


class _BufferedSocket:
    """A socket that is read in large pieces, whatever piece is asked for."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self.buffer = b""
        self.position = 0
        self.is_cut = False

    def send(self, data: bytes) -> int:
        """Send; that the connection is cut is for the reader to find, behind all that came by it.

        There stand the broker's last messages, and why it hangs up: another has our identifier.
        """
        try:
            return int(self._connection.send(data))
        except ConnectionError as error:
            self.is_cut = True
            raise BlockingIOError from error

    def fill(self) -> None:
        """Read what has come, when everything before is used up; raises as recv does."""
        if self.position == len(self.buffer):
            self.buffer = self._connection.recv(READ_SIZE)
            self.position = 0
            # The broker may hold its next packet back until the kernel acknowledges this one
            # (Nagle's algorithm), which it does 40 ms later unless told to at every read.
            self._connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)

    def recv(self, size: int) -> bytes:
        self.fill()
        piece = self.buffer[self.position : self.position + size]
        self.position += len(piece)
        return piece

    def pending(self) -> int:
        """Bytes that can be read although the connection itself has nothing new."""
        below = self._connection.pending() if isinstance(self._connection, ssl.SSLSocket) else 0
        return len(self.buffer) - self.position + below

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)


class _Client(mqtt.Client):
    """paho's client, which reads and acknowledges in large pieces.

    For each message paho makes three system calls to read it, one to acknowledge it, and a
    handful of objects; at thousands of messages a second that is all a small computer does.
    """

    @property
    def connection(self) -> Any:
        """The _BufferedSocket, None when there is no connection."""
        return self.socket()

    def read(self, messages: list[Message]) -> None:
        """Read what has come: messages straight from the buffer, everything else by paho."""
        for _ in range(READS_PER_TURN):
            connection = self.connection
            if connection is None:
                return
            if self._in_packet["command"] == 0:  # paho is not in the middle of a packet
                with contextlib.suppress(OSError):  # nothing there, or paho will find out
                    connection.fill()
                connection.position = self._take_messages(
                    connection.buffer, connection.position, messages
                )
            # Another kind of packet, the beginning of one, or nothing yet.
            if self.loop_read() != MQTTErrorCode.MQTT_ERR_SUCCESS or not connection.pending():
                return

    def topic_of(self, message_id: int) -> str:
        """Return the topic of a message of ours (QoS 1) that the broker just answers."""
        return self._out_messages[message_id].topic

    def keep_to_window(self, most: int) -> None:
        """Have no more messages unconfirmed than the broker allows, who hangs up on one more.

        paho does not read it (MQTT 5, section 4.9), and does not let it be set once connected.
        """
        self._max_inflight_messages = min(self._max_inflight_messages, most)

    def acknowledge(self, message_ids: Iterable[int]) -> None:
        """Queue one piece of PUBACK packets (MQTT 5, section 3.4: identifier only, success)."""
        packets = b"".join(b"\x40\x02" + mid.to_bytes(2, "big") for mid in message_ids)
        if packets:
            self._packet_queue(0x40, packets, 0, 0)

    def _create_socket(self) -> Any:
        connection: Any = super()._create_socket()
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return _BufferedSocket(connection)

    def _take_messages(self, buffer: bytes, position: int, messages: list[Message]) -> int:
        """Append the messages of QoS 0 and 1 that stand next in the buffer.

        Returns the position behind them. A packet of another kind, one that is not all there, and
        one that is not as it should be are left to paho. (MQTT 5, sections 2.1 and 3.3.)
        """
        is_v5 = self.protocol == MQTTProtocolVersion.MQTTv5
        arrived_ms = clock.now_ms()
        length = len(buffer)
        while length - position >= 4 and buffer[position] & 0xF4 == 0x30:
            header = buffer[position]
            size, start = buffer[position + 1], position + 2
            if size > 127:  # its length has two bytes; more than that is left to paho
                if buffer[start] > 127:
                    break
                size, start = size & 127 | buffer[start] << 7, start + 1
            end = start + size
            if end > length or size < 2:
                break
            topic_end = start + 2 + (buffer[start] << 8 | buffer[start + 1])
            qos = header >> 1 & 1
            payload_start = topic_end + 2 * qos
            if is_v5:  # properties, of which we use none
                if payload_start >= end or buffer[payload_start] > 127:
                    break
                payload_start += 1 + buffer[payload_start]
            if payload_start > end:
                break
            messages.append(
                Message(
                    buffer[start + 2 : topic_end].decode("utf-8", "replace"),
                    buffer[payload_start:end],
                    qos,
                    bool(header & 1),
                    self,
                    buffer[topic_end] << 8 | buffer[topic_end + 1] if qos else 0,
                    arrived_ms,
                )
            )
            position = end
        return position
