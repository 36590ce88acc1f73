"""Dashboard "LoRaWAN": climate, meters, batteries and radio links of sensors."""

from grafana.source import queries
from grafana.source.energy import ZONE
from grafana.source.panels import (
    Json,
    columns,
    dashboard,
    lines,
    override,
    query_variable,
    table,
    target,
    text_variable,
    timeline,
)

SENSOR = query_variable("sensor", "Sensors", 'SHOW TAG VALUES FROM "lorawan" WITH KEY = "sensor"')
CHANNEL = ', "channel"'
NAMED = "$tag_sensor $tag_channel"


def build() -> Json:
    """Return the dashboard."""
    return dashboard(
        "lorawan",
        "LoRaWAN",
        [
            *(
                lines(
                    title,
                    target(queries.of_sensors(quantity, more=CHANNEL), NAMED),
                    size=(8, 8),
                    unit=unit,
                    interval="10m",
                )
                for title, quantity, unit in (
                    ("Temperature", "temperature", "celsius"),
                    ("Humidity", "humidity", "humidity"),
                    ("CO2", "co2", "ppm"),
                )
            ),
            *(
                columns(
                    f"Meters by {name}, ${{pulse_unit}}",
                    target(
                        queries.increments(
                            "pulses",
                            queries.SENSORS,
                            '"sensor", "channel"',
                            every,
                            " * $pulse_value",
                        ),
                        NAMED,
                    ),
                    interval=every,
                    description="What the pulses counted, times the value of a pulse.",
                )
                for name, every in (("hour", "1h"), ("day", "1d"))
            ),
            lines(
                "Battery",
                target(queries.of_sensors("battery", "last"), "$tag_sensor"),
                size=(12, 8),
                unit="volt",
                interval="1h",
            ),
            timeline(
                "Battery low",
                target(queries.of_sensors("battery_low", "max", "none"), "$tag_sensor"),
                size=(12, 8),
                mappings=((0, "good", "green"), (1, "low", "red")),
                interval="1h",
            ),
            *(
                lines(title, target(query, alias), size=(8, 8), unit=unit, interval="10m")
                for title, query, alias, unit in (
                    ("RSSI", queries.link("rssi", "mean", "sensor"), "$tag_sensor", "dBm"),
                    ("SNR", queries.link("snr", "mean", "sensor"), "$tag_sensor", "dB"),
                    (
                        "RSSI by gateway",
                        queries.link("rssi", "mean", "gateway"),
                        "$tag_gateway",
                        "dBm",
                    ),
                )
            ),
            columns(
                "Frames received by gateway, by hour",
                target(queries.frames_by_gateway(), "$tag_gateway"),
                size=(12, 8),
                interval="1h",
                description="Each frame with the gateway that heard it best.",
            ),
            table(
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
            ),
        ],
        variables=[
            SENSOR,
            text_variable("pulse_value", "Value of a pulse", "1"),
            text_variable("pulse_unit", "Unit of a pulse", "pulses"),
            ZONE,
        ],
        time_from="now-7d",
        refresh="5m",
        description="Climate, meters, batteries and links of LoRaWAN sensors",
    )
