#!/usr/bin/env python3
"""Subscribe to measurements on MQTT and write them to InfluxDB; lose none."""

from __future__ import annotations

import logging
import queue
import re
import sys
import threading
import time
from collections import deque
from pathlib import Path
from typing import Final, NamedTuple

import paho.mqtt.client as mqtt

from openenergy import broker, clock, config, influx, service, topics
from openenergy.backoff import Backoff
from openenergy.spool import Piece, Record, Spool, SpoolError

SCRIPT: Final = "mqtt_2_influx"
# A write that takes longer has the messages behind it put on disk.
PATIENCE_S: Final = 1.0
# A write that takes longer than this, with all its splitting, has come to nothing.
LONGEST_WRITE_S: Final = 600.0
LONGEST_TURN_S: Final = 60.0
FLUSH_S: Final = 2.0
SPOOL_RETRY_S: Final = 2.0
REPORT_S: Final = 60.0
# Nobody has more series; a sender that makes names up must not fill the database with them.
MAX_SERIES: Final = 20_000
MAX_CAUSES: Final = 100

log = logging.getLogger(SCRIPT)


def main() -> int:
    """Move measurements from the broker to the database until told to stop."""
    arguments, settings = service.start(SCRIPT, __doc__ or "", ("MQTT", "InfluxDB"))
    database = influx.connect(settings.influxdb)
    if arguments.check:
        return check(settings, database)

    stop = service.stop_event()
    identity = service.file_name(broker.client_id(settings.mqtt, SCRIPT))
    folder = settings.storage.folder()
    subscriptions = Subscriptions(folder / f"{identity}.filters", filters(settings))
    try:
        spool = Spool(folder / f"{identity}.spool", settings.storage.spool_size)
        former_filters = subscriptions.change()
    except (SpoolError, OSError) as error:
        log.error("the state folder %s cannot be used: %s ([Storage] state)", folder, error)
        return service.EXIT_FAILED
    writer = Writer(settings, database, spool)
    connection = broker.Broker(
        settings.mqtt,
        SCRIPT,
        filters=subscriptions.filters,
        former_filters=former_filters,
        on_messages=writer.take,
        session=broker.Session(
            window=settings.influxdb.window,
            expiry_s=settings.influxdb.session_expiry,
            may_read=writer.has_room,
        ),
    )
    writer.start(connection)
    connection.start()
    service.serve_until(stop, writer.status)
    if connection.connected:
        subscriptions.confirm()
    writer.stop()
    connection.stop()
    return service.EXIT_OK


def check(settings: config.Settings, database: influx.Database) -> int:
    """Try the broker and the database."""
    return service.check(
        [
            (
                f"broker {settings.mqtt.broker}:{settings.mqtt.port}",
                lambda: broker.try_connect(settings.mqtt, SCRIPT),
            ),
            (f"InfluxDB {database.name}", lambda: influx.try_to_write(database)),
        ]
    )


def filters(settings: config.Settings) -> list[str]:
    """Return the topic filters to subscribe to."""
    plain = settings.influxdb.topics or (topics.measurement_filter(settings.mqtt.prefix_update),)
    group = settings.influxdb.share_group
    return [f"$share/{group}/{each}" if group else each for each in plain]


class Subscriptions:
    """The filters that our session at the broker has, or may have: the broker cannot be asked.

    It keeps them with the session, so those that left the configuration must be unsubscribed.
    """

    def __init__(self, path: Path, filters: list[str]) -> None:
        """Remember in the file at `path`."""
        self.filters = filters
        self._path = path

    def change(self) -> list[str]:
        """Return filters to unsubscribe; remember that the session may now have the new ones."""
        known = self._path.read_text("utf-8").splitlines() if self._path.exists() else []
        self._write([*self.filters, *(each for each in known if each not in self.filters)])
        return [each for each in known if each not in self.filters]

    def confirm(self) -> None:
        """Remember that the session has the present filters, and no others."""
        self._write(self.filters)

    def _write(self, filters: list[str]) -> None:
        new = self._path.with_suffix(".new")
        new.write_text("\n".join(filters) + "\n", "utf-8")
        new.replace(self._path)


class Refusals:
    """Messages that cannot be points: counted, and logged once a minute for each cause."""

    def __init__(self) -> None:
        """Begin with none."""
        self.count = 0
        self._logged_at: dict[str, float] = {}

    def add(self, topic: str, cause: str) -> None:
        """Count a message."""
        self.count += 1
        now = time.monotonic()
        kind = re.sub(r"\d+", "", cause)  # the same error at another byte is no other cause
        if now - self._logged_at.get(kind, -REPORT_S) >= REPORT_S:
            if len(self._logged_at) >= MAX_CAUSES:
                self._logged_at.clear()
            self._logged_at[kind] = now
            log.warning("refused %.100r: %.200s (%d refused so far)", topic, cause, self.count)


class Points:
    """Turns messages into line protocol."""

    def __init__(self) -> None:
        """Begin without a series."""
        self.refusals = Refusals()
        # The part of a line that its series has in common, by topic and unit.
        self._heads: dict[tuple[str, str], str] = {}

    def line(self, message: broker.Message) -> str | None:
        """Return a message's line; None if it is none: refused, or a state without a time."""
        try:
            measurement = topics.decode_measurement(message.payload)
            if measurement.time is None and message.retain:
                return None
            time_ms = clock.time_of(measurement.time, message.arrived_ms)
            series = message.topic, measurement.unit
            head = self._heads.get(series) or self._head(*series)
        except topics.PayloadError as error:
            self.refusals.add(message.topic, str(error))
            return None
        return influx.line(head, measurement.value, time_ms)

    def _head(self, topic: str, unit: str) -> str:
        switch, quantity = topics.parse_measurement_topic(topic)
        if len(self._heads) >= MAX_SERIES:
            raise topics.PayloadError(f"there are {MAX_SERIES} series already")
        head = influx.line_head(quantity, {"switch": switch, "unit": unit}, quantity)
        self._heads[topic, unit] = head
        return head


class Batch(NamedTuple):
    """Lines to write, and the messages to acknowledge when they are safe."""

    lines: list[str]
    deliveries: list[tuple[mqtt.Client, int]]


class Sender:
    """Writes one job at a time in a thread of its own: a database that hangs holds nobody up."""

    def __init__(self, database: influx.Database, wake: threading.Event) -> None:
        """Prepare; sets `wake` when a job is done."""
        self._database = database
        self._wake = wake
        self._jobs: queue.SimpleQueue[list[str]] = queue.SimpleQueue()
        self._outcomes: queue.SimpleQueue[list[influx.Rejection] | influx.UnavailableError] = (
            queue.SimpleQueue()
        )
        self.began_s = 0.0

    def start(self) -> None:
        """Write from now on."""
        threading.Thread(target=self._run, name="sender", daemon=True).start()

    def send(self, lines: list[str]) -> None:
        """Begin to write."""
        self.began_s = time.monotonic()
        self._jobs.put(lines)

    def outcome(self) -> list[influx.Rejection] | influx.UnavailableError | None:
        """Return how the job ended: what was rejected, or why nothing was taken; None: not yet."""
        try:
            return self._outcomes.get_nowait()
        except queue.Empty:
            return None

    def _run(self) -> None:
        while True:
            lines = self._jobs.get()
            try:
                self._outcomes.put(influx.write(self._database.post, lines))
            except influx.UnavailableError as error:
                self._outcomes.put(error)
            self._wake.set()


class Writer:
    """Takes messages, has their points written, and acknowledges them when they are safe.

    A point is safe when the database has it, or, while that takes none, the spool. Whatever has
    arrived since the last write makes the next one. All of it happens in one thread, which never
    waits for the database: the sender does.
    """

    def __init__(self, settings: config.Settings, database: influx.Database, spool: Spool) -> None:
        """Prepare; `start` makes it work."""
        self._settings = settings.influxdb
        self._database = database
        self._spool = spool
        self._points = Points()
        self._wake = threading.Event()
        self._sender = Sender(database, self._wake)
        self._inbox: deque[broker.Message] = deque()
        self._waiting: deque[Batch] = deque()
        self._sending: Batch | Piece | None = None
        self._is_spool_turn = False
        self._stored = self._stored_before = 0
        self._asked_at_s = time.monotonic()
        self._report_at_s = time.monotonic() + REPORT_S
        self._backoff = Backoff()
        self._retry_at_s = 0.0
        self._database_trouble = ""
        self._spool_trouble = ""
        self._spool_retry_at_s = 0.0
        self._is_catching_up = False
        self._is_stopping = False
        self._thread = threading.Thread(target=self._run, name="writer", daemon=True)

    def start(self, connection: broker.Broker) -> None:
        """Work from now on, and acknowledge through `connection`."""
        self._connection = connection
        self._sender.start()
        self._thread.start()

    def stop(self) -> None:
        """Make everything taken so far safe, within 3 s whatever the database does."""
        self._is_stopping = True
        self._wake.set()
        self._thread.join(FLUSH_S + 1)

    def take(self, messages: list[broker.Message]) -> None:
        """Take messages; called in the network thread."""
        self._inbox.extend(messages)
        self._wake.set()

    def has_room(self) -> bool:
        """Whether more messages can be taken now."""
        return len(self._inbox) < 2 * self._settings.window and not self._is_stopping

    def status(self) -> str:
        """Return how it goes since it was asked last, for systemd."""
        now_s = time.monotonic()
        stored, self._stored_before = self._stored - self._stored_before, self._stored
        elapsed_s, self._asked_at_s = now_s - self._asked_at_s, now_s
        return f"{stored / elapsed_s:.0f} points/s, {self._count_waiting()} waiting"

    def _run(self) -> None:
        while not self._is_stopping:
            if not self._sending or time.monotonic() - self._sender.began_s < LONGEST_WRITE_S:
                service.beat(LONGEST_TURN_S)
            self._wake.wait(self._pause_s())
            self._wake.clear()
            self._advance()
            self._report()
        self._flush()

    def _advance(self) -> None:
        self._settle()
        self._collect()
        self._dispatch()
        self._relieve()

    def _pause_s(self) -> float:
        """Return how long nothing needs doing unless something happens."""
        if self._sending:
            return PATIENCE_S
        if self._database_trouble:
            return min(max(0.0, self._retry_at_s - time.monotonic()), 1.0)
        return 1.0

    def _report(self) -> None:
        """Log the counts once a minute."""
        if time.monotonic() >= self._report_at_s:
            self._report_at_s = time.monotonic() + REPORT_S
            log.info(
                "%d points stored, %d refused, %d waiting",
                self._stored,
                self._points.refusals.count,
                self._count_waiting(),
            )

    def _count_waiting(self) -> int:
        in_memory = len(self._inbox) + sum(len(batch.lines) for batch in self._waiting.copy())
        return len(self._spool) + in_memory

    def _settle(self) -> None:
        """Take note of how the sender's job ended."""
        outcome = self._sender.outcome()
        if outcome is None:
            return
        job, self._sending = self._sending, None
        if isinstance(outcome, influx.UnavailableError):
            self._note_trouble(outcome)
            if isinstance(job, Batch):
                self._waiting.appendleft(job)
            return
        self._note_recovery()
        for rejection in outcome:
            self._points.refusals.add(rejection.line, f"InfluxDB: {rejection.reason}")
        if isinstance(job, Batch):
            self._stored += len(job.lines) - len(outcome)
            self._connection.acknowledge(job.deliveries)
        elif isinstance(job, Piece):
            self._stored += sum(record.items for record in job.records) - len(outcome)
            self._forget(job)

    def _collect(self) -> None:
        """Make a batch of what has arrived, unless one is waiting already."""
        if self._waiting or not self._inbox:
            return
        batch = Batch([], [])
        while self._inbox and len(batch.lines) < self._settings.batch:
            message = self._inbox.popleft()
            line = self._points.line(message)
            if line is not None:
                batch.lines.append(line)
            if message.qos:
                batch.deliveries.append((message.client, message.message_id))
        if batch.lines:
            self._waiting.append(batch)
        else:
            self._connection.acknowledge(batch.deliveries)

    def _dispatch(self) -> None:
        """Give the sender its next job: new points and the spool's in turn."""
        if self._sending or time.monotonic() < self._retry_at_s:
            return
        self._is_spool_turn = not self._is_spool_turn
        if len(self._spool) and (self._is_spool_turn or not self._waiting):
            self._sending = self._spool.oldest(self._settings.batch)
        if self._sending is None and self._waiting:
            self._sending = self._waiting.popleft()
        if isinstance(self._sending, Batch):
            self._sender.send(self._sending.lines)
        elif self._sending:
            text = b"\n".join(record.content for record in self._sending.records)
            self._sender.send(text.decode().split("\n"))

    def _relieve(self) -> None:
        """Put on disk what the database does not take now, and what waits for too long a write."""
        is_slow = self._sending and time.monotonic() - self._sender.began_s > PATIENCE_S
        while self._waiting and (self._database_trouble or is_slow):
            if not self._keep(self._waiting[0]):
                return
            self._waiting.popleft()
            self._collect()

    def _keep(self, batch: Batch) -> bool:
        """Put a batch on disk; return whether it is safe there."""
        if time.monotonic() < self._spool_retry_at_s:
            return False
        try:
            self._spool.append([Record(len(batch.lines), "\n".join(batch.lines).encode())])
        except SpoolError as error:
            self._spool_retry_at_s = time.monotonic() + SPOOL_RETRY_S
            self._note_spool_trouble(str(error))
            return False
        self._note_spool_trouble("")
        self._connection.acknowledge(batch.deliveries)
        return True

    def _forget(self, piece: Piece) -> None:
        """Remove from disk what the database has."""
        try:
            self._spool.remove(piece)
        except SpoolError as error:
            self._note_spool_trouble(str(error))
        if not self._spool and self._is_catching_up:
            self._is_catching_up = False
            log.info("all points kept on disk are stored")

    def _flush(self) -> None:
        """Have the rest written, or at least put on disk."""
        deadline_s = time.monotonic() + FLUSH_S
        while (self._inbox or self._waiting or self._sending) and time.monotonic() < deadline_s:
            self._advance()
            self._wake.wait(0.02)
            self._wake.clear()
        if isinstance(self._sending, Batch):
            self._waiting.appendleft(self._sending)
        self._collect()
        while self._waiting and self._keep(self._waiting[0]):
            self._waiting.popleft()
            self._collect()

    def _note_trouble(self, error: influx.UnavailableError) -> None:
        delay_s = max(self._backoff.delay_s(), error.retry_after_s or 0.0)
        self._retry_at_s = time.monotonic() + delay_s
        if str(error) != self._database_trouble:
            setting = f" ({self._database.settings_named})" if error.is_configuration else ""
            log.warning(
                "InfluxDB %s takes no points: %s%s; keeping them on disk",
                self._database.name,
                error,
                setting,
            )
        self._database_trouble = str(error)

    def _note_recovery(self) -> None:
        self._backoff.reset()
        self._retry_at_s = 0.0
        if self._database_trouble:
            self._database_trouble = ""
            self._is_catching_up = True
            log.info("InfluxDB takes points again; %d wait on disk", len(self._spool))

    def _note_spool_trouble(self, trouble: str) -> None:
        if trouble and not self._spool_trouble:
            log.error("%s; the broker keeps new messages until there is room", trouble)
        elif self._spool_trouble and not trouble:
            log.info("the spool takes points again")
        self._spool_trouble = trouble


if __name__ == "__main__":
    sys.exit(main())
