"""An InfluxDB that our own writer has filled with a household."""

import contextlib
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import requests

from demo.parts import InfluxDB1, Mosquitto, Script, write_config
from demo.process import wait_until
from grafana.source import queries
from tests.bench.load import Publisher
from tests.grafana import household
from tests.grafana.household import Message
from tests.mqtt_client import MqttClient

DATABASE = "energy"


class Series(NamedTuple):
    """One series of an answer."""

    name: str
    tags: dict[str, str]
    columns: list[str]
    values: list[list[Any]]

    def rows(self) -> list[dict[str, Any]]:
        """Return the points that have a value."""
        rows = [dict(zip(self.columns, each, strict=True)) for each in self.values]
        return [row for row in rows if any(row[key] is not None for key in row if key != "time")]


class Household(NamedTuple):
    """The database, asked as Grafana asks it."""

    influxdb: InfluxDB1
    database: str = DATABASE

    def ask(self, query: str) -> list[Series]:
        """Return the series of an answer; an error of the database fails."""
        answer = requests.get(
            f"{self.influxdb.url}/query",
            params={"db": self.database, "epoch": "ms", "q": query},
            timeout=60,
        )
        content = json.loads(answer.text)
        assert answer.ok, (content, query)
        series = []
        for result in content["results"]:
            assert "error" not in result, (result["error"], query)
            series += result.get("series", [])
        return [
            Series(each["name"], each.get("tags", {}), each["columns"], each["values"])
            for each in series
        ]

    def numbers(self, query: str) -> list[float]:
        """Return the values of a query for one field, of all series."""
        return [row for each in self.ask(query) for *_, row in each.values if row is not None]


@contextlib.contextmanager
def filled(
    folder: Path, plug_messages: Iterable[Message], sensor_messages: Iterable[Message]
) -> Iterator[Household]:
    """Run broker, writer and database until everything is stored; then the database alone."""
    plugs, sensors = list(plug_messages), list(sensor_messages)
    with (
        InfluxDB1(folder / "influxdb") as influxdb,
        Mosquitto(folder / "mosquitto", extra_config="max_queued_messages 0") as broker,
    ):
        influxdb.create_database(DATABASE)
        tables = {
            "MQTT": {
                "broker": broker.host,
                "port": broker.port,
                "client_id": "mqtt_2_influx-pi",
            },
            "InfluxDB": {"url": influxdb.url, "database": DATABASE},
            "LoRaWAN": household.LORAWAN,
        }
        with Script("mqtt_2_influx.py", write_config(folder / "writer.toml", tables)) as writer:
            writer.wait_for_log("connected to broker", 30)
            publisher = Publisher(broker.port, 1)
            publisher.publish(plugs)
            publisher.close()
            with MqttClient(broker.host, broker.port) as client:
                for topic, payload in sensors:
                    client.publish(topic.decode(), payload)
            _wait_until_stored(influxdb, len(plugs), len(sensors))
        for source in queries.AGGREGATES:
            past = "time >= '2025-01-01' AND time < '2026-04-01'"
            influxdb.query(queries.quarter_hours(source, past), DATABASE)
        yield Household(influxdb)


def _wait_until_stored(influxdb: InfluxDB1, plugs: int, sensors: int) -> None:
    def count(measurement: str, field: str) -> int:
        statement = f'SELECT count("{field}") FROM "{measurement}"'  # noqa: S608 - names of ours
        return sum(row["count"] for row in influxdb.query(statement, DATABASE))

    def is_complete() -> bool:
        quantities = ("power", "relay", "energy", "average_power", "online")
        stored = sum(count(name, name) for name in quantities)
        statement = 'SELECT count("temperature") FROM "temperature" WHERE "switch" =~ /./'
        stored += sum(row["count"] for row in influxdb.query(statement, DATABASE))
        frames, events = count("lorawan", "frame_counter"), count("battery_level", "battery_level")
        return stored >= plugs and frames + events >= sensors

    wait_until(is_complete, 60, f"{plugs} points of plugs, {sensors} of sensors")
