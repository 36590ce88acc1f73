"""Dashboard "LoRaWAN": climate, meters, batteries and radio links of sensors."""

from functools import partial

from grafana.source import queries
from grafana.source.board import dashboard, query_variable, text_variable
from grafana.source.energy import ZONE
from grafana.source.panels import Json, columns, lines, override, table, target, timeline

SENSOR = query_variable("sensor", "Sensors", 'SHOW TAG VALUES FROM "lorawan" WITH KEY = "sensor"')
CHANNELS = '"sensor", "channel"'
# Sensors that send once an hour may miss a frame or two.
curve = partial(lines, span_ms=3 * 3_600_000)
OF_CHANNEL = "$tag_sensor $tag_channel"


def build() -> Json:
    """Return the dashboard."""
    return dashboard(
        "lorawan",
        "LoRaWAN",
        [
            _climate("Temperature", "temperature", "celsius"),
            _climate("Humidity", "humidity", "humidity"),
            _climate("CO2", "co2", "ppm"),
            _meters("hour", "1h"),
            _meters("day", "1d"),
            *_batteries(),
            _link("RSSI", "rssi", "sensor", "dBm"),
            _link("SNR", "snr", "sensor", "dB"),
            _link("RSSI by gateway", "rssi", "gateway", "dBm"),
            columns(
                "Frames received by gateway, by hour",
                target(queries.frames_by_gateway(), "$tag_gateway"),
                size=(12, 8),
                interval="1h",
                description="Each frame with the gateway that heard it best.",
            ),
            _sensors(),
        ],
        variables=[
            SENSOR,
            text_variable("pulse_value", "Value of a pulse", "1"),
            text_variable("pulse_unit", "Unit of a pulse", "pulses"),
            ZONE,
        ],
        time_from="now-7d/d",
        refresh="5m",
        description="Climate, meters, batteries and links of LoRaWAN sensors",
    )


def _climate(title: str, quantity: str, unit: str) -> Json:
    query = queries.of_sensors(quantity, more=', "channel"')
    return curve(title, target(query, OF_CHANNEL), size=(8, 8), unit=unit, interval="10m")


def _meters(name: str, every: str) -> Json:
    query = queries.increments("pulses", queries.SENSORS, CHANNELS, every, " * $pulse_value")
    return columns(
        f"Meters by {name}, ${{pulse_unit}}",
        target(query, OF_CHANNEL),
        interval=every,
        description="What the pulses counted, times the value of a pulse.",
    )


def _batteries() -> list[Json]:
    return [
        curve(
            "Battery",
            target(queries.of_sensors("battery", "last"), "$tag_sensor"),
            size=(8, 8),
            unit="volt",
            interval="1h",
        ),
        curve(
            "Battery level",
            target(queries.of_sensors("battery_level", "last"), "$tag_sensor"),
            size=(8, 8),
            unit="percent",
            interval="1h",
            span_ms=3 * 86_400_000,
            description="Of devices that ChirpStack asks for it, as a rule once a day.",
        ),
        timeline(
            "Battery low",
            target(queries.of_sensors("battery_low", "max", "none"), "$tag_sensor"),
            size=(8, 8),
            mappings=((0, "good", "green"), (1, "low", "red")),
            interval="1h",
        ),
    ]


def _link(title: str, field: str, tag: str, unit: str) -> Json:
    query = queries.link(field, "mean", tag)
    return curve(title, target(query, f"$tag_{tag}"), size=(8, 8), unit=unit, interval="10m")


def _sensors() -> Json:
    return table(
        "Sensors",
        target(queries.last_frames(), table=True),
        key="sensor",
        size=(12, 8),
        overrides=[
            override("Time", displayName="Last frame", unit="dateTimeFromNow"),
            override("sensor", displayName="Sensor"),
            override("frame", displayName="Frame counter"),
            override("gateways", displayName="Gateways"),
            override("spreading_factor", displayName="Spreading factor"),
            override("rssi", displayName="RSSI", unit="dBm"),
            override("snr", displayName="SNR", unit="dB"),
        ],
    )
