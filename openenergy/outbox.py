"""Measurements on their way to the broker: none is lost while it is away."""

import logging
import math
import queue
import threading
import time
from collections.abc import Iterable
from typing import Final, NamedTuple

import msgspec
import paho.mqtt.client as mqtt

from openenergy import service
from openenergy.broker import Broker
from openenergy.spool import Piece, Record, Spool, SpoolError

# What the broker has not confirmed is in memory only; beyond this the spool is the better place.
MAX_UNCONFIRMED: Final = 2000
# Messages that the spool does not take either, its disk being full; the newest are lost then.
MAX_HELD: Final = 20_000
# A broker that has confirmed nothing for so long may be gone, though the connection tells us later.
PATIENCE_S: Final = 1.0
PIECE: Final = 500
# A spool or a queue to the broker that is full is left alone for so long.
RETRY_S: Final = 2.0
# How long what the broker has refused, and what is on disk behind it, is left alone.
REFUSAL_PAUSE_S: Final = 30.0
# Reasons that lie in a message (not authorized, topic name, payload format: MQTT 5, section
# 3.4.2.1). Any other, like a quota, may pass.
LAST_WORDS: Final = (0x87, 0x90, 0x99)
# A broker that has confirmed something within so long takes what it allows. Shorter than that
# pause: what it confirmed before it began to refuse everything says nothing.
TAKES_OTHERS_S: Final = 20.0
LONGEST_TURN_S: Final = 60.0

log = logging.getLogger("outbox")


class Message(NamedTuple):
    """A measurement's topic and payload; a retained one is the present state of something."""

    topic: str
    payload: bytes
    retain: bool = False


class _Confirmed(NamedTuple):
    client: mqtt.Client
    message_id: int


class _Refused(NamedTuple):
    client: mqtt.Client
    message_id: int
    reason: int


class _Connected(NamedTuple):
    pass


class _Disconnected(NamedTuple):
    pass


class _Stop(NamedTuple):
    pass


class Outbox:
    """Publishes at once while the broker is there, else keeps messages in the spool.

    When the broker is back, the states are published first, then what is in the spool beside what
    is new. Only what the broker has confirmed counts as delivered. All of it happens in one thread
    that is told by events what goes on, so that nothing here needs a lock.
    """

    def __init__(self, spool: Spool) -> None:
        """Prepare; `start` makes it work."""
        self._spool = spool
        self._events: queue.SimpleQueue[
            Message | _Confirmed | _Refused | _Connected | _Disconnected | _Stop
        ] = queue.SimpleQueue()
        self._states: dict[str, Message] = {}
        self._unconfirmed: dict[tuple[mqtt.Client, int], Message] = {}
        self._waiting_since_s = 0.0  # for the next confirmation
        self._held: list[Message] = []
        self._piece: Piece | None = None
        self._piece_unconfirmed: dict[tuple[mqtt.Client, int], Message] = {}
        self._piece_refused: list[Message] = []
        self._piece_dropped = 0
        self._next_piece_at_s = 0.0
        self._confirmed_at_s = -math.inf
        self._refused_since_s: dict[str, float] = {}  # by topic
        self._dropped_topics: set[str] = set()
        self._published_later = 0
        self._has_trouble = False
        self._keep_at_s = 0.0
        self._thread = threading.Thread(target=self._run, name="outbox", daemon=True)

    def start(self, broker: Broker) -> None:
        """Work with a broker that calls `connected`, `disconnected`, `confirmed`, `refused`."""
        self._broker = broker
        self._thread.start()

    def stop(self) -> None:
        """Put on disk what the broker has not confirmed; call it when the broker is stopped."""
        self._events.put(_Stop())
        self._thread.join(timeout=1.0)

    def publish(self, message: Message) -> None:
        """Deliver a message, now or when the broker is back; does not wait."""
        self._events.put(message)

    def connected(self) -> None:
        """Take note that the broker is there."""
        self._events.put(_Connected())

    def disconnected(self) -> None:
        """Take note that the broker is gone, and confirms nothing more."""
        self._events.put(_Disconnected())

    def confirmed(self, client: mqtt.Client, message_id: int) -> None:
        """Take note that the broker has a message."""
        self._events.put(_Confirmed(client, message_id))

    def refused(self, client: mqtt.Client, message_id: int, reason: int) -> None:
        """Take note that the broker does not take a message, by MQTT 5's code for the reason."""
        self._events.put(_Refused(client, message_id, reason))

    @property
    def waiting(self) -> int:
        """Messages that are not delivered yet."""
        return len(self._unconfirmed) + len(self._held) + len(self._spool)

    def _run(self) -> None:
        is_stopping = False
        while not is_stopping:
            service.beat(LONGEST_TURN_S)
            is_stopping = self._handle_events()
            self._doubt_silence()
            if is_stopping or time.monotonic() >= self._keep_at_s:
                self._keep_held()
            self._advance_spool()  # which makes the room that may be missing

    def _handle_events(self) -> bool:
        """Wait for an event, handle it and all others at hand; return whether to stop."""
        try:
            event = self._events.get(timeout=PATIENCE_S)
            while True:
                match event:
                    case Message():
                        self._deliver(event)
                    case _Confirmed():
                        self._strike_off(event)
                    case _Refused():
                        self._take_back(event)
                    case _Connected():
                        self._deliver_what_waited()
                    case _Disconnected() | _Stop():
                        self._forget_connection()
                        if isinstance(event, _Stop):
                            return True
                event = self._events.get_nowait()
        except queue.Empty:
            return False

    def _deliver(self, message: Message) -> None:
        if message.retain:
            self._states[message.topic] = message
        if len(self._unconfirmed) < MAX_UNCONFIRMED:
            sent = self._broker.publish(message.topic, message.payload, retain=message.retain)
            if sent:
                if not self._unconfirmed:
                    self._waiting_since_s = time.monotonic()
                self._unconfirmed[sent] = message
                return
        self._hold(message)

    def _hold(self, message: Message) -> None:
        if len(self._held) < MAX_HELD:
            self._held.append(message)

    def _strike_off(self, confirmed: _Confirmed) -> None:
        self._waiting_since_s = time.monotonic()
        if message := (
            self._unconfirmed.pop(confirmed, None) or self._piece_unconfirmed.pop(confirmed, None)
        ):
            self._confirmed_at_s = time.monotonic()
            self._refused_since_s.pop(message.topic, None)

    def _take_back(self, refused: _Refused) -> None:
        """Keep a message that the broker refuses.

        One from the disk is dropped if the broker has refused its topic for a while, for what it
        is, and takes others: it would come back for ever.
        """
        now_s = self._waiting_since_s = time.monotonic()
        sent = refused.client, refused.message_id
        if message := self._unconfirmed.pop(sent, None):
            self._refused_since_s.setdefault(message.topic, now_s)
            self._hold(message)
            if not self._spool:
                self._next_piece_at_s = now_s + REFUSAL_PAUSE_S
        elif message := self._piece_unconfirmed.pop(sent, None):
            since_s = self._refused_since_s.setdefault(message.topic, now_s)
            is_lasting = now_s - since_s >= REFUSAL_PAUSE_S and self._takes_others()
            if refused.reason in LAST_WORDS and is_lasting:
                self._note_dropped(message.topic)
            else:
                self._piece_refused.append(message)

    def _takes_others(self) -> bool:
        return time.monotonic() - self._confirmed_at_s < TAKES_OTHERS_S

    def _note_dropped(self, topic: str) -> None:
        self._piece_dropped += 1
        if topic not in self._dropped_topics:
            self._dropped_topics.add(topic)
            log.error("%s: readings are lost: the broker refuses them, and takes others", topic)

    def _deliver_what_waited(self) -> None:
        for state in self._states.values():
            self._deliver(state)
        held, self._held = self._held, []  # by a spool that is full, else they are in there
        for message in held:
            self._deliver(message._replace(retain=False))  # no longer the present state

    def _forget_connection(self) -> None:
        self._held += self._unconfirmed.values()
        self._unconfirmed.clear()
        self._piece = None
        self._piece_unconfirmed.clear()
        self._confirmed_at_s = -math.inf
        self._refused_since_s.clear()
        self._dropped_topics.clear()

    def _doubt_silence(self) -> None:
        """Have what is not confirmed put on disk when nothing is confirmed any more.

        What is confirmed after all is published twice, which is one point all the same.
        """
        if self._unconfirmed and time.monotonic() - self._waiting_since_s > PATIENCE_S:
            self._held += self._unconfirmed.values()
            self._unconfirmed.clear()

    def _keep_held(self) -> None:
        """Put on disk what could not be published, all in one commit."""
        if not self._held:
            return
        try:
            self._spool.append(_records(self._held))
        except SpoolError as error:
            self._keep_at_s = time.monotonic() + RETRY_S
            if not self._has_trouble:
                log.error("readings are lost if the broker stays away: %s", error)
            self._has_trouble = True
        else:
            self._held.clear()
            self._has_trouble = False

    def _advance_spool(self) -> None:
        """Publish the next piece of the spool when the broker has answered the one before."""
        if self._piece and not self._piece_unconfirmed:
            self._settle(self._piece)
            self._piece = None
        if self._piece or not self._broker.connected or time.monotonic() < self._next_piece_at_s:
            return
        self._piece, self._piece_refused, self._piece_dropped = self._spool.oldest(PIECE), [], 0
        for record in self._piece.records if self._piece else ():
            topic, payload = msgspec.json.decode(record.content, type=tuple[str, bytes])
            # Not retained: it is no longer the present state.
            if sent := self._broker.publish(topic, payload):
                self._piece_unconfirmed[sent] = Message(topic, payload)
            else:  # there is no connection any more, or too much on its way: this much for now
                count = len(self._piece_unconfirmed)
                self._piece = self._spool.oldest(count) if count else None
                self._next_piece_at_s = time.monotonic() + RETRY_S
                return
        if self._piece is None and self._published_later:
            log.info("published %d readings kept on disk", self._published_later)
            self._published_later = 0

    def _settle(self, piece: Piece) -> None:
        """Forget a piece that the broker has answered; what it refused goes behind the others.

        If it takes nothing at all, or there is no room behind, the piece stays where it is.
        """
        refused = self._piece_refused
        if refused:
            self._next_piece_at_s = time.monotonic() + REFUSAL_PAUSE_S
            if len(refused) == len(piece.records) and not self._takes_others():
                return
            try:
                self._spool.append(_records(refused))
            except SpoolError:  # said when what is new is put there
                return
        self._spool.remove(piece)
        self._published_later += len(piece.records) - len(refused) - self._piece_dropped


def _records(messages: Iterable[Message]) -> list[Record]:
    return [Record(1, msgspec.json.encode(each[:2])) for each in messages]
