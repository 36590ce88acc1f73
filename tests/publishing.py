"""Publishes measurements that are told apart, and finds them in a database again."""

import itertools
import json
import math
import select
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Final, NamedTuple, Self

from demo.parts import HOST, InfluxDB1, VictoriaMetrics
from demo.process import wait_until

BEGINNING_MS: Final = 1_795_000_000_000  # every point has a millisecond of its own from here on
SWITCHES: Final = 7
WINDOW: Final = 20  # what mosquitto takes by default before it has confirmed the first
NOBODY_LISTENS: Final = 0x10  # "No matching subscribers" (MQTT 5, table 3-4): it is thrown away

_numbers = itertools.count()


class Point(NamedTuple):
    """One measurement, as it is published and as it is stored; `time` in ms since 1970 UTC."""

    switch: str
    quantity: str
    time: int
    value: float

    @classmethod
    def number(cls, number: int, quantity: str = "power") -> Self:
        return cls(f"plug-{number % SWITCHES}", quantity, BEGINNING_MS + number, number + 0.5)


class Publisher:
    """Publishes points at QoS 1 (MQTT 5) until the broker has confirmed them, through restarts.

    What it has not confirmed, what it confirmed without a subscriber to give it to, and what it
    confirmed less than `distrust_s` before it went away, is published again.
    """

    def __init__(self, port: int, *, distrust_s: float = 0.0) -> None:
        self._port = port
        self._distrust_s = distrust_s
        self._identity = b"publisher-%d" % next(_numbers)
        self._socket: socket.socket | None = None
        self._received = b""
        self._begun = 0
        self._todo: deque[Point] = deque()
        self._unconfirmed: dict[int, Point] = {}  # by packet identifier
        self._confirmed: dict[Point, float] = {}  # when (monotonic, s)
        self._next_at_s = 0.0
        self._sent = 0
        self._limit: float = math.inf

    @property
    def points(self) -> set[Point]:
        """What counts as published."""
        return set(self._confirmed)

    def publish(self, count: int, *, rate: float = 1000.0, quantity: str = "power") -> None:
        """Publish `count` new points, `rate` a second at most; return when all are confirmed."""
        numbers = range(self._begun, self._begun + count)
        self._begun += count
        self._todo.extend(Point.number(number, quantity) for number in numbers)
        while self._todo or self._unconfirmed:
            try:
                self._exchange(1 / rate)
            except OSError:
                self._lose_connection()

    @contextmanager
    def in_background(self, rate: float) -> Iterator[None]:
        """Publish all the while; at the end everything that was begun is confirmed."""
        enough = threading.Event()

        def run() -> None:
            while not enough.is_set():
                self.publish(max(1, int(rate / 20)), rate=rate)

        with ThreadPoolExecutor(1) as executor:
            running = executor.submit(run)
            try:
                yield
            finally:
                enough.set()
            running.result()

    @contextmanager
    def at_most(self, count: int) -> Iterator[None]:
        """Send no more than `count` messages meanwhile: less than the broker's queue holds."""
        self._limit = self._sent + count
        try:
            yield
        finally:
            self._limit = math.inf

    def close(self) -> None:
        if self._socket:
            self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _exchange(self, interval_s: float) -> None:
        """Send what may be sent now; take what the broker answers, or wait for it a little."""
        connection = self._socket or self._connect()
        now = time.monotonic()
        packets = []
        while self._may_send() and self._next_at_s <= now:
            # Not more often because it was late; but the clock is not looked at all the time.
            self._next_at_s = max(self._next_at_s, now - 0.02) + interval_s
            packets.append(self._next_packet())
        if packets:
            connection.sendall(b"".join(packets))
        wait_s = max(0.0, self._next_at_s - now) if self._may_send() else 0.1
        if select.select([connection], [], [], min(wait_s, 0.1))[0]:
            data = connection.recv(65536)
            if not data:
                raise ConnectionError("the broker hung up")
            self._take_answers(data)

    def _may_send(self) -> bool:
        return bool(self._todo and len(self._unconfirmed) < WINDOW and self._sent < self._limit)

    def _next_packet(self) -> bytes:
        point = self._todo.popleft()
        self._sent += 1
        identifier = self._sent % 65535 + 1
        self._unconfirmed[identifier] = point
        return publish_packet(identifier, point)

    def _connect(self) -> socket.socket:
        connection = socket.create_connection((HOST, self._port), timeout=5)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        clean_start, no_keepalive, no_properties = b"\x02", b"\0\0", b"\0"
        connection.sendall(
            _packet(
                0x10,
                _string(b"MQTT")
                + b"\x05"
                + clean_start
                + no_keepalive
                + no_properties
                + _string(self._identity),
            )
        )
        self._socket = connection
        self._received = b""
        return connection

    def _lose_connection(self) -> None:
        self.close()
        self._socket = None
        doubtful = time.monotonic() - self._distrust_s
        for point, confirmed_at in list(self._confirmed.items()):
            if self._distrust_s and confirmed_at > doubtful:
                del self._confirmed[point]
                self._todo.append(point)
        self._todo.extend(self._unconfirmed.values())
        self._unconfirmed.clear()
        time.sleep(0.05)  # the broker is not there: ask for it now and then

    def _take_answers(self, data: bytes) -> None:
        buffer = self._received + data
        while len(buffer) > 1 and len(buffer) >= (end := 2 + buffer[1]):
            kind, body, buffer = buffer[0], buffer[2:end], buffer[end:]
            if kind == 0x40:
                reason = body[2] if len(body) > 2 else 0
                self._take_confirmation(int.from_bytes(body[:2], "big"), reason)
            elif kind != 0x20 or body[1]:  # CONNACK, unless it says no
                raise ConnectionError(f"the broker says {kind:#x} {body!r}")
        self._received = buffer

    def _take_confirmation(self, identifier: int, reason: int) -> None:
        point = self._unconfirmed.pop(identifier)
        if reason == 0:
            self._confirmed[point] = time.monotonic()
        elif reason == NOBODY_LISTENS:
            self._todo.append(point)
            self._next_at_s = time.monotonic() + 0.05
        else:
            raise RuntimeError(f"the broker refuses {point}: {reason:#x}")


def publish_packet(identifier: int, point: Point) -> bytes:
    """Return a point as a PUBLISH packet of QoS 1 (MQTT 5, section 3.3)."""
    topic = f"@update/{point.switch}/monitoring/{point.quantity}".encode()
    content = {"value": point.value, "unit": "W", "time": point.time}
    no_properties = b"\0"
    return _packet(
        0x32,
        _string(topic)
        + identifier.to_bytes(2, "big")
        + no_properties
        + json.dumps(content).encode(),
    )


def _string(text: bytes) -> bytes:
    return len(text).to_bytes(2, "big") + text


def _packet(kind: int, body: bytes) -> bytes:
    size = len(body)
    return bytes([kind, size] if size < 128 else [kind, size & 127 | 128, size >> 7]) + body


Database = InfluxDB1 | VictoriaMetrics


def stored(database: Database, bucket: str = "energy", quantity: str = "power") -> set[Point]:
    """Return the points of one quantity."""
    if isinstance(database, InfluxDB1):
        query = f'SELECT "{quantity}", switch FROM "{quantity}"'  # noqa: S608 - names of our own
        rows = database.query(query, bucket)
        return {Point(row["switch"], quantity, row["time"], row[quantity]) for row in rows}
    rows = database.points(f"{quantity}_{quantity}")
    return {Point(row["switch"], quantity, row["time"], row["value"]) for row in rows}


def wait_until_stored(
    find: Callable[[], set[Point]], published: set[Point], timeout: float = 30.0
) -> None:
    """Wait until `find` finds what was published, exactly."""
    found: set[Point] = set()

    def is_complete() -> bool:
        nonlocal found
        found = find()
        return found >= published

    try:
        wait_until(is_complete, timeout, "all points stored")
    except TimeoutError as error:
        missing = sorted(published - found, key=lambda point: point.time)
        raise AssertionError(
            f"{len(missing)} of {len(published)} points are missing after {timeout:g} s:"
            f" {missing[:3]} to {missing[-3:]}"
        ) from error
    assert found == published
