"""Several writers share the load: by their topic filters, or by the broker."""

import contextlib
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from demo.parts import InfluxDB1, Mosquitto, Script
from tests.integration.chain import write_writer_config
from tests.integration.running import script_online_topic
from tests.mqtt_client import MqttClient
from tests.publishing import SWITCHES, Point, Publisher, stored, wait_until_stored

ALL = [f"plug-{number}" for number in range(SWITCHES)]
SOME, OTHERS = ALL[:3], ALL[3:]


@pytest.fixture
def publisher(mosquitto: Mosquitto) -> Iterator[Publisher]:
    with Publisher(mosquitto.port) as publisher:
        yield publisher


class Writers:
    """Writers with a database of their own each, so that what is stored twice can be seen."""

    def __init__(
        self, folder: Path, broker: Mosquitto, influxdb: InfluxDB1, client: MqttClient
    ) -> None:
        self._folder = folder
        self._broker = broker
        self._influxdb = influxdb
        self._client = client

    @contextlib.contextmanager
    def running(self, name: str, switches: list[str], **influxdb: object) -> Iterator[Script]:
        """Run one whose session, too, has that name; its subscriptions are made."""
        self._influxdb.create_database(name)
        config = write_writer_config(
            self._folder / f"{name}.toml",
            self._broker.port,
            {
                "MQTT": {"client_id": name},
                "InfluxDB": {
                    "url": self._influxdb.url,
                    "database": name,
                    "topics": [f"@update/{switch}/monitoring/#" for switch in switches],
                    **influxdb,
                },
            },
        )
        self._client.clear()
        with Script("mqtt_2_influx.py", config) as script:
            # It says so on the same connection, after it has subscribed.
            self._client.wait_for(
                script_online_topic("mqtt_2_influx"), lambda each: each.json["value"] == 1
            )
            yield script

    def stored(self, name: str) -> set[Point]:
        return stored(self._influxdb, name)


@pytest.fixture
def writers(
    tmp_path: Path, mosquitto: Mosquitto, influxdb: InfluxDB1, mqtt_client: MqttClient
) -> Writers:
    return Writers(tmp_path, mosquitto, influxdb, mqtt_client)


def of(points: set[Point], switches: list[str]) -> set[Point]:
    return {point for point in points if point.switch in switches}


def test_sharded_by_filters_everything_is_stored_once(
    writers: Writers, publisher: Publisher
) -> None:
    with writers.running("some", SOME) as some, writers.running("others", OTHERS):
        publisher.publish(1000)
        some.kill()
        publisher.publish(500)
        some.start()
        publisher.publish(500)
        for name, switches in (("some", SOME), ("others", OTHERS)):
            published = of(publisher.points, switches)
            assert len(published) > 800
            wait_until_stored(partial(writers.stored, name), published)


def test_shared_by_the_broker_everything_is_stored_once(
    writers: Writers, publisher: Publisher
) -> None:
    with (
        writers.running("first", ALL, share_group="writers"),
        writers.running("second", ALL, share_group="writers"),
    ):
        publisher.publish(2000)
        wait_until_stored(
            lambda: writers.stored("first") | writers.stored("second"), publisher.points
        )
        assert writers.stored("first")
        assert writers.stored("second")
        assert not writers.stored("first") & writers.stored("second")


def test_changed_filters_take_effect_although_the_session_persists(
    writers: Writers, publisher: Publisher
) -> None:
    def publish() -> set[Point]:
        before = publisher.points
        publisher.publish(200)
        return publisher.points - before

    with writers.running("one", SOME):
        expected = of(publish(), SOME)
    with writers.running("one", OTHERS) as script:
        expected |= of(publish(), OTHERS)
        script.kill()  # so that it cannot take a note of what it has changed
    with writers.running("one", OTHERS):
        expected |= of(publish(), OTHERS)
        wait_until_stored(partial(writers.stored, "one"), expected)


@pytest.mark.parametrize("damage", [b"\xff\xfe\n", b"\0\0\n", b"a+b#c\n", b"\x01/a\n"], ids=repr)
def test_what_a_disk_made_of_the_former_filters_stops_nobody(
    writers: Writers, publisher: Publisher, tmp_path: Path, damage: bytes
) -> None:
    """They are unsubscribed, and a broker hangs up on who names what is no filter."""
    with writers.running("one", SOME):
        pass
    (path,) = tmp_path.glob("*/one.filters")
    path.write_bytes(damage + path.read_bytes())
    with writers.running("one", OTHERS):
        publisher.publish(200)
        wait_until_stored(partial(writers.stored, "one"), of(publisher.points, OTHERS))
    assert path.read_text().splitlines() == [f"@update/{switch}/monitoring/#" for switch in OTHERS]
