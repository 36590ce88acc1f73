#!/usr/bin/env python3
"""Subscribe to measurements on MQTT and write them to InfluxDB; lose none."""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections import deque
from typing import Final, NamedTuple

import paho.mqtt.client as mqtt

from openenergy import broker, config, influx, service
from openenergy.backoff import Backoff
from openenergy.lines import Lines, filters, plug_filters
from openenergy.sender import Sender
from openenergy.spool import Piece, Record, Spool, SpoolError
from openenergy.subscriptions import Subscriptions

SCRIPT: Final = "mqtt_2_influx"
# A write that takes longer has its messages, and those behind it, put on disk: after a second, and
# before so fast a stream has used up the broker's window.
PATIENCE_S: Final = 1.0
FAST_STREAM: Final = 300  # messages/s
# A write that takes longer than this, with all its splitting, has come to nothing.
LONGEST_WRITE_S: Final = 600.0
LONGEST_TURN_S: Final = 60.0
FLUSH_S: Final = 2.0
SPOOL_RETRY_S: Final = 2.0
REPORT_S: Final = 60.0
# Messages in memory, beside their number: a packet may have 2 MiB.
MAX_INBOX_BYTES: Final = 64 * 1024 * 1024

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
        lines = Lines(settings, folder / f"{identity}.lorawan.json")
    except (SpoolError, OSError) as error:
        log.error("the state folder %s cannot be used: %s ([Storage] state)", folder, error)
        return service.EXIT_FAILED
    writer = Writer(settings.influxdb, database, spool, lines)
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
        is_announced=bool(plug_filters(settings)),
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
            broker.attempt(settings.mqtt, SCRIPT),
            (f"InfluxDB {database.name}", lambda: influx.try_to_write(database)),
        ]
    )


class Batch(NamedTuple):
    """Lines to write, and the messages to acknowledge when they are safe."""

    lines: list[str]
    deliveries: list[tuple[mqtt.Client, int]]


# Stands for a batch that was put on disk while it was being written: it will be written again.
KEPT: Final = Batch([], [])


class Writer:
    """Takes messages, has their points written, and acknowledges them when they are safe.

    A point is safe when the database has it, or, while that takes none, the spool. Whatever has
    arrived since the last write makes the next one. All of it happens in one thread, which never
    waits for the database: the sender does.
    """

    def __init__(
        self, settings: config.InfluxDB, database: influx.Database, spool: Spool, lines: Lines
    ) -> None:
        """Prepare; `start` makes it work."""
        self._settings = settings
        self._database = database
        self._spool = spool
        self._lines = lines
        self._wake = threading.Event()
        self._sender = Sender(database, settings.batch, self._wake)
        self._inbox: deque[broker.Message] = deque()
        self._taken_bytes = 0  # by the network's thread
        self._collected_bytes = 0  # by ours
        self._waiting: deque[Batch] = deque()
        self._sending: Batch | Piece | None = None
        self._is_spool_turn = False
        self._stored = 0
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
        self._taken_bytes += sum(len(message.payload) for message in messages)
        self._wake.set()

    def has_room(self) -> bool:
        """Whether more messages can be taken now."""
        return (
            len(self._inbox) < 2 * self._settings.window
            and self._taken_bytes - self._collected_bytes < MAX_INBOX_BYTES
            and not self._is_stopping
        )

    def status(self) -> str:
        """Return how it goes since the start, for systemd and the log."""
        in_memory = len(self._inbox) + sum(len(batch.lines) for batch in self._waiting.copy())
        return (
            f"{self._stored} points stored, {self._lines.refusals.count} refused,"
            f" {len(self._spool) + in_memory} waiting"
        )

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
            return self._patience_s()
        if self._database_trouble:
            return min(max(0.0, self._retry_at_s - time.monotonic()), 1.0)
        return 1.0

    def _patience_s(self) -> float:
        return min(PATIENCE_S, self._connection.window / FAST_STREAM)

    def _report(self) -> None:
        """Log the counts once a minute."""
        if time.monotonic() >= self._report_at_s:
            self._report_at_s = time.monotonic() + REPORT_S
            log.info("%s", self.status())

    def _settle(self) -> None:
        """Take note of how the sender's job ended."""
        outcome = self._sender.outcome()
        if outcome is None:
            return
        job, self._sending = self._sending, None
        if isinstance(outcome, influx.UnavailableError):
            self._note_trouble(outcome)
            if isinstance(job, Batch) and job is not KEPT:
                self._waiting.appendleft(job)
            return
        self._note_recovery()
        if job is KEPT:
            return
        for rejection in outcome:
            self._lines.refusals.add(rejection.line, f"InfluxDB: {rejection.reason}")
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
            self._collected_bytes += len(message.payload)
            batch.lines.extend(self._lines.of(message))
            if message.qos:
                batch.deliveries.append((message.client, message.message_id))
        self._lines.save()
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
        """Put on disk what the database does not take now, and what waits for too long a write.

        What is being written goes there first: it takes its part of the broker's window, which may
        be 20 messages, until it is acknowledged.
        """
        is_slow = self._sending and time.monotonic() - self._sender.began_s > self._patience_s()
        if is_slow and isinstance(self._sending, Batch) and self._sending is not KEPT:
            if not self._keep(self._sending):
                return
            self._sending = KEPT
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
        self._spool.remove(piece)
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
        if isinstance(self._sending, Batch) and self._sending is not KEPT:
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
