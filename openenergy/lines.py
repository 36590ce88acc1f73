"""From messages to lines of line protocol: those of plugs, and those of LoRaWAN sensors."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from openenergy import clock, config, influx, topics
from openenergy.broker import Message
from openenergy.refusals import Refusals

if TYPE_CHECKING:
    from openenergy.sensor_lines import SensorLines

# Nobody has more series; a sender that makes names up must not fill the database with them.
MAX_SERIES: Final = 20_000


def filters(settings: config.Settings) -> list[str]:
    """Return the topic filters to subscribe to.

    Several writers can share the plugs. A sensor's uplinks must all come to the same one, which
    knows the times of the samples before.
    """
    group = settings.influxdb.share_group
    return [
        *(f"$share/{group}/{each}" if group else each for each in plug_filters(settings)),
        *settings.lorawan.topics,
    ]


def plug_filters(settings: config.Settings) -> list[str]:
    """Return the topic filters of plugs.

    There are none if [InfluxDB] has the same topics as [LoRaWAN]: then the broker belongs to
    others, like The Things Network's, and knows no topic of ours.
    """
    plugs = settings.influxdb.topics or (topics.measurement_filter(settings.mqtt.prefix_update),)
    return [each for each in plugs if each not in settings.lorawan.topics]


class Lines:
    """Turns messages into lines."""

    def __init__(self, settings: config.Settings, sensors_state: Path) -> None:
        """Prepare for plugs, and for sensors if there are topics of them.

        What sensors tell is kept in the file `sensors_state`; raises OSError if it cannot be used.
        """
        self.refusals = Refusals()
        self._sensors = _sensor_lines(settings, sensors_state, self.refusals)
        # The part of a line that its series has in common, by topic and unit.
        self._heads: dict[tuple[str, str], str] = {}

    def of(self, message: Message) -> Sequence[str]:
        """Return a message's lines; none if it is refused, or no measurement."""
        if self._sensors and self._sensors.takes(message.topic):
            return self._sensors.lines(message)
        try:
            return self._of_plug(message)
        except topics.PayloadError as error:
            self.refusals.add(message.topic, str(error))
            return ()

    def save(self) -> None:
        """Keep what the messages so far have taught; before they are acknowledged."""
        if self._sensors:
            self._sensors.save()

    def _of_plug(self, message: Message) -> Sequence[str]:
        measurement = topics.decode_measurement(message.payload)
        if measurement.time is None and message.retain:
            return ()  # a state, not a measurement
        time_ms = clock.time_of(measurement.time, message.arrived_ms)
        series = message.topic, measurement.unit
        head = self._heads.get(series) or self._head(*series)
        return (influx.line(head, measurement.value, time_ms),)

    def _head(self, topic: str, unit: str) -> str:
        switch, quantity = topics.parse_measurement_topic(topic)
        if len(self._heads) >= MAX_SERIES:
            raise topics.PayloadError(f"there are {MAX_SERIES} series already")
        head = influx.line_head(quantity, {"switch": switch, "unit": unit}, quantity)
        self._heads[topic, unit] = head
        return head


def _sensor_lines(
    settings: config.Settings, state: Path, refusals: Refusals
) -> "SensorLines | None":
    if not settings.lorawan.topics:
        return None
    from openenergy.sensor_lines import SensorLines  # noqa: PLC0415 - memory that plugs don't need

    return SensorLines(settings, state, refusals)
