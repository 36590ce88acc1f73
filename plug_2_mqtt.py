#!/usr/bin/env python3
"""Read myStrom switches, publish what they measure to MQTT, obey relay commands from MQTT."""

from __future__ import annotations

import logging
import queue
import sqlite3
import sys
import threading
import time
from collections import deque
from collections.abc import Collection, Iterator, Mapping
from typing import Final, NamedTuple

from openenergy import (
    broker,
    clock,
    config,
    discover,
    home_assistant,
    meter,
    mystrom,
    service,
    topics,
)
from openenergy.backoff import Backoff
from openenergy.outbox import Message, Outbox
from openenergy.spool import Spool, SpoolError

SCRIPT: Final = "plug_2_mqtt"
# One failure is nothing: real switches miss a request now and then.
FAILURES_UNTIL_OFFLINE: Final = 3
# A command to a switch that does not answer is tried again, for as long as it is expected.
ORDER_LIFE_S: Final = 4.0
MAX_ORDERS_WAITING: Final = 10
# A turn of a switch's thread: the longest back-off, a command, name look-ups that get no answer.
LONGEST_TURN_S: Final = 120.0
# Readings of so long are kept while our clock is not set, at one a second.
MAX_READINGS_WITHOUT_CLOCK: Final = 3600

log = logging.getLogger(SCRIPT)


def main() -> int:
    """Poll every switch in a thread of its own until told to stop."""
    actions = {"--discover": ("list the switches in this network, then exit", discover.run)}
    arguments, settings = service.start(SCRIPT, __doc__ or "", ("MQTT", "MyStromSwitch"), actions)
    announcements = mystrom.Announcements(
        switch.mac for switch in settings.switches if not switch.host
    )
    announcements.start()
    if arguments.check:
        return check(settings, announcements)

    stop = service.stop_event()
    folder = settings.storage.folder()
    identity = service.file_name(broker.client_id(settings.mqtt, SCRIPT))
    try:
        spool = Spool(folder / f"{identity}.spool", settings.storage.spool_size)
        meters = meter.MeterStore(folder / f"{identity}.meters")
    except (SpoolError, OSError, sqlite3.Error) as error:
        log.error("the state folder %s cannot be used: %s ([Storage] state)", folder, error)
        return service.EXIT_FAILED
    outbox = Outbox(spool)
    discovery = home_assistant.Discovery(settings, SCRIPT)
    pollers = {
        topics.command_topic(settings.mqtt.prefix_set, switch.name): Poller(
            mystrom.Switch(switch, announcements),
            settings.mqtt.prefix_update,
            outbox,
            meters,
            discovery,
        )
        for switch in settings.switches
    }

    def on_connected() -> None:
        outbox.connected()
        discovery.announce_all()

    def on_messages(messages: list[broker.Message]) -> None:
        take_commands(messages, pollers)
        discovery.take(messages)

    connection = broker.Broker(
        settings.mqtt,
        SCRIPT,
        filters=[*pollers, *discovery.filters],
        on_messages=on_messages,
        on_connected=on_connected,
        on_disconnected=outbox.disconnected,
        on_published=outbox.confirmed,
        on_refused=outbox.refused,
        keep_retain_flag=True,
    )
    outbox.start(connection)
    discovery.start(connection)
    connection.start()
    for number, poller in enumerate(pollers.values()):
        poller.start(delay_s=number / len(pollers))
    log.info("reading %d switches", len(pollers))
    service.serve_until(stop, lambda: summary(pollers.values(), outbox))
    connection.stop()
    outbox.stop()
    return service.EXIT_OK


def summary(pollers: Collection[Poller], outbox: Outbox) -> str:
    """Return how it goes, for systemd."""
    online = sum(poller.is_online for poller in pollers)
    return f"{len(pollers)} switches, {online} online, {outbox.waiting} readings waiting"


def check(settings: config.Settings, announcements: mystrom.Announcements) -> int:
    """Try the broker and every switch."""
    attempts = [broker.attempt(settings.mqtt, SCRIPT)]
    for one in settings.switches:
        switch = mystrom.Switch(one, announcements)
        attempts.append((f"switch {switch}", switch.try_report))
    return service.check(attempts)


class Order(NamedTuple):
    """A command that waits for its switch, and when it arrived (monotonic, s)."""

    action: topics.Action
    arrived_s: float


def take_commands(messages: list[broker.Message], pollers: Mapping[str, Poller]) -> None:
    """Hand commands to their switches' threads, unless they must not be obeyed."""
    for message in messages:
        poller = pollers.get(message.topic)
        if poller is None:
            continue
        try:
            poller.take(Order(fresh_action(message), time.monotonic()))
        except topics.PayloadError as error:
            log.warning("%s: command refused: %.200s", poller.name, error)


def fresh_action(message: broker.Message) -> topics.Action:
    """Return what a command asks for; raises PayloadError if it was not meant for now."""
    command = topics.decode_command(message.payload)
    if message.retain:
        raise topics.PayloadError("it is retained, so it would come with every connection")
    if command.time is not None and clock.is_set():
        age_s = (clock.now_ms() - command.time) / 1000
        if abs(age_s) > topics.COMMAND_MAX_SKEW_S:
            raise topics.PayloadError(f"by its time it was given {age_s:.0f} s ago")
    return command.action


class Poller:
    """One switch: reads it on a fixed schedule, and switches it in between."""

    def __init__(
        self,
        switch: mystrom.Switch,
        prefix_update: str,
        outbox: Outbox,
        meters: meter.MeterStore,
        discovery: home_assistant.Discovery,
    ) -> None:
        """Prepare; `start` begins to read."""
        self.name = switch.settings.name
        self.is_online = False
        self._settings = switch.settings
        self._switch = switch
        self._prefix_update = prefix_update
        self._outbox = outbox
        self._meters = meters
        self._discovery = discovery
        self._meter = meters.load(self.name)
        self._orders: queue.Queue[Order] = queue.Queue(MAX_ORDERS_WAITING)
        self._failures = 0
        self._backoff = Backoff(first_s=min(self._settings.interval, 1.0))
        self._unpublished: deque[tuple[float, mystrom.Report]] = deque(
            maxlen=MAX_READINGS_WITHOUT_CLOCK
        )

    def start(self, delay_s: float) -> None:
        """Read from now on; `delay_s` spreads the switches so that they do not burst."""
        name = f"switch {self.name}"
        threading.Thread(target=self._run, args=(delay_s,), name=name, daemon=True).start()

    def take(self, order: Order) -> None:
        """Carry out an order soon; raises PayloadError if that cannot be."""
        if self._settings.read_only:
            raise topics.PayloadError("the switch is read_only")
        try:
            self._orders.put_nowait(order)
        except queue.Full:
            raise topics.PayloadError(f"{MAX_ORDERS_WAITING} others wait already") from None

    def _run(self, delay_s: float) -> None:
        beginning_s = next_s = time.monotonic() + delay_s
        while True:
            service.beat(self._settings.interval + LONGEST_TURN_S)
            try:
                order = self._orders.get(timeout=max(0.0, next_s - time.monotonic()))
            except queue.Empty:
                self._read()
                next_s = self._next_reading(beginning_s)
            else:
                self._obey(order)
                self._read()

    def _next_reading(self, beginning_s: float) -> float:
        """Return when to read again: on the schedule's next tick, later if it does not answer."""
        now_s = time.monotonic()
        if self._failures:
            return now_s + self._backoff.delay_s()
        ticks = (now_s - beginning_s) // self._settings.interval + 1
        return beginning_s + ticks * self._settings.interval

    def _read(self) -> None:
        try:
            report = self._switch.report()
        except mystrom.SwitchError as error:
            self._note_failure(error)
        else:
            self._note_success()
            self._unpublished.append((time.monotonic(), report))
            self._discovery.see(self._switch, self._publish_readings())

    def _note_failure(self, error: mystrom.SwitchError) -> None:
        self._failures += 1
        if self._failures >= FAILURES_UNTIL_OFFLINE:
            self._switch.doubt_address()
        if self._failures == FAILURES_UNTIL_OFFLINE:
            self.is_online = False
            log.warning("%s: offline: %s", self._switch, error)
            self._publish("online", 0, clock.now_if_set_ms())

    def _note_success(self) -> None:
        self._failures = 0
        self._backoff.reset()
        if not self.is_online:
            self.is_online = True
            log.info("%s: online", self._switch)
            self._publish("online", 1, clock.now_if_set_ms())

    def _publish_readings(self) -> set[str]:
        """Publish what was read, each with its own time; return the quantities.

        Readings from before our clock is set wait until their time can be told; the state of the
        relay does not wait.
        """
        published = {"relay"}
        if not clock.is_set():
            self._publish("relay", self._unpublished[-1][1].relay, None)
            return published
        offset_ms = clock.now_ms() - time.monotonic() * 1000
        while self._unpublished:
            taken_s, report = self._unpublished.popleft()
            for quantity, value in self._measurements(report):
                self._publish(quantity, value, round(offset_ms + taken_s * 1000))
                published.add(quantity)
        return published

    def _measurements(self, report: mystrom.Report) -> Iterator[tuple[str, float]]:
        """Yield what the switch measured; what its model does not report is not there."""
        yield "relay", int(report.relay)
        if report.power is not None:
            yield "power", report.power
        if report.Ws is not None:
            yield "average_power", report.Ws
        if report.temperature is not None:
            yield "temperature", report.temperature
        if report.boot_id is not None and report.energy_since_boot is not None:
            self._meter = meter.advance(self._meter, report.boot_id, report.energy_since_boot)
            self._meters.save(self.name, self._meter)
            yield "energy", self._meter.total_ws / 3600

    def _publish(self, quantity: str, value: float, time_ms: int | None) -> None:
        self._outbox.publish(
            Message(
                topics.measurement_topic(self._prefix_update, self.name, quantity),
                topics.encode_measurement(quantity, value, time_ms),
                retain=quantity in topics.STATES,
            )
        )

    def _obey(self, order: Order) -> None:
        """Move the relay, unless the switch cannot be reached while that is still expected."""
        closed = order.action is topics.Action.CLOSE
        is_decided = order.action is not topics.Action.TOGGLE
        backoff = Backoff(first_s=0.2, longest_s=1.0)
        reason = "the switch did not answer in time"
        while time.monotonic() - order.arrived_s < ORDER_LIFE_S:
            try:
                if not is_decided:  # asked once: a repeated toggle would undo itself
                    closed = not self._switch.report().relay
                    is_decided = True
                self._switch.set_relay(closed=closed)
            except mystrom.SwitchError as error:
                reason = str(error)
                time.sleep(backoff.delay_s())
            else:
                log.info("%s: relay %s", self._switch, "closed (on)" if closed else "open (off)")
                return
        log.warning("%s: %s not carried out: %s", self._switch, order.action, reason)


if __name__ == "__main__":
    sys.exit(main())
