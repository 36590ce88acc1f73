"""From LoRaWAN messages to lines of line protocol."""

import logging
from pathlib import Path
from typing import Final

from paho.mqtt.client import topic_matches_sub

from openenergy import config, influx
from openenergy.broker import Message
from openenergy.lorawan import sensors, uplink
from openenergy.lorawan.events import Ignored, Status, UplinkError
from openenergy.lorawan.history_file import HistoryFile
from openenergy.refusals import Refusals
from openenergy.topics import PayloadError

# Nobody has more; a codec that makes names up must not fill the database with them.
MAX_SERIES: Final = 100_000

log = logging.getLogger("lorawan")


class SensorLines:
    """Turns events of network servers into lines; an uplink has several."""

    def __init__(self, settings: config.Settings, state: Path, refusals: Refusals) -> None:
        """Read what devices told before from the file `state`; raises OSError if it cannot."""
        self._filters = settings.lorawan.topics
        self._plugs = f"{settings.mqtt.prefix_update}/"
        self._file = HistoryFile(state)
        self._sensors = sensors.Sensors(settings.lorawan.devices, self._file.history)
        self._refusals = refusals
        # The part of a line that its series has in common, by measurement and tags.
        self._series: dict[str, str] = {}

    def takes(self, topic: str) -> bool:
        """Whether a message is for us: under our topics, and not a plug's."""
        return not topic.startswith(self._plugs) and any(
            topic_matches_sub(each, topic) for each in self._filters
        )

    def lines(self, message: Message) -> list[str]:
        """Return a message's lines; none if it is no measurement, or refused."""
        try:
            points = self._points(message)
        except (UplinkError, PayloadError) as error:
            self._refusals.add(message.topic, str(error))
            return []
        lines = []
        for measurement, tags, fields, time_ms in points:
            try:
                series = self._series_of(measurement, tags)
                lines.append(influx.line_of_fields(series, fields, time_ms))
            except PayloadError as error:
                self._refusals.add(message.topic, str(error))
        return lines

    def save(self) -> None:
        """Have what was learnt from the messages so far on the disk."""
        self._file.save()

    def _points(self, message: Message) -> list[sensors.Point]:
        event = uplink.parse(message.topic, message.payload)
        if isinstance(event, Ignored):
            if event.note:
                self._refusals.note(message.topic, event.note)
            return []
        if message.retain and not event.is_dated:
            return []  # of any time before we came
        if isinstance(event, Status):
            return sensors.status_points(event, message.arrived_ms)
        received = self._sensors.receive(event, message.arrived_ms)
        if received.problem:
            self._refusals.add(message.topic, received.problem)
        if received.introduction:
            log.warning("%s", received.introduction)
        return received.points

    def _series_of(self, measurement: str, tags: dict[str, str]) -> str:
        key = f"{measurement}\0{tags}"
        if key not in self._series:
            if len(self._series) >= MAX_SERIES:
                raise PayloadError(f"there are {MAX_SERIES} series of sensors already")
            self._series[key] = influx.series(measurement, tags)
        return self._series[key]
