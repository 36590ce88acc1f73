"""The real servers start, do their work and end: what the demo and the other tests stand on."""

import contextlib
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
from hypothesis import given
from hypothesis import strategies as st
from paho.mqtt.client import Client, MQTTv311
from paho.mqtt.enums import CallbackAPIVersion

from demo.parts import InfluxDB1, Mosquitto, VictoriaMetrics, write_config
from demo.process import find_program, free_port, wait_until
from tests.mqtt_client import MqttClient

NOON = 1_763_763_243_123  # ms since 1970 UTC


@contextlib.contextmanager
def persistent_subscriber(
    broker: Mosquitto, topic: str, *, acknowledge: bool = True
) -> Iterator[list[bytes]]:
    """Yield the payloads received at QoS 1 in an MQTT 3.1.1 session that the broker keeps."""
    payloads: list[bytes] = []
    subscribed: list[bool] = []
    client = Client(
        CallbackAPIVersion.VERSION2,
        "subscriber",
        clean_session=False,
        protocol=MQTTv311,
        manual_ack=not acknowledge,
    )
    client.on_connect = lambda client, *_: client.subscribe(topic, qos=1)
    client.on_subscribe = lambda *_: subscribed.append(True)
    client.on_message = lambda _client, _userdata, message: payloads.append(bytes(message.payload))
    client.connect(broker.host, broker.port)
    client.loop_start()
    wait_until(lambda: subscribed, 10, "subscription")
    yield payloads
    client.disconnect()
    client.loop_stop()


def write_point(influxdb: InfluxDB1, line: str, *, username: str = "", password: str = "") -> int:
    return requests.post(
        f"{influxdb.url}/write",
        params={"db": "energy", "precision": "ms", "u": username, "p": password},
        data=line,
        timeout=10,
    ).status_code


class TestMosquitto:
    def test_message_arrives_as_published(self, mqtt_client: MqttClient) -> None:
        mqtt_client.publish("@set/lamp/control/relay", {"value": "open"}, expiry=10)
        mqtt_client.publish("@update/lamp/monitoring/relay", {"value": 0}, retain=True)
        command = mqtt_client.wait_for("@set/#")
        state = mqtt_client.wait_for("@update/+/monitoring/relay", lambda m: m.json["value"] == 0)
        assert (command.json, command.qos, command.retain) == ({"value": "open"}, 1, False)
        assert command.expiry in {9, 10}  # the broker counts it down
        assert (state.qos, state.retain, state.expiry) == (1, True, None)
        assert mqtt_client.messages() == [command, state]
        mqtt_client.clear()
        assert mqtt_client.messages() == []

    def test_session_survives_a_restart(
        self, mosquitto: Mosquitto, mqtt_client: MqttClient
    ) -> None:
        with persistent_subscriber(mosquitto, "meter/#"):
            pass
        mqtt_client.publish("meter/1", b"while the subscriber is away")
        mosquitto.restart()
        with persistent_subscriber(mosquitto, "meter/#") as payloads:
            wait_until(lambda: payloads, 10, "the message kept in the session")
        assert payloads == [b"while the subscriber is away"]

    def test_independent_client_reconnects(
        self, mosquitto: Mosquitto, mqtt_client: MqttClient
    ) -> None:
        mosquitto.kill()
        with pytest.raises(TimeoutError, match="not within 0 s"):
            mqtt_client.wait_for("again", timeout=0)
        mosquitto.start()
        mqtt_client.wait_until_subscribed()
        mqtt_client.publish("again", b"")
        assert mqtt_client.wait_for("again").payload == b""

    @pytest.mark.parametrize(("extra_config", "window"), [("", 20), ("max_inflight_messages 5", 5)])
    def test_window_is_the_configured_one(
        self, tmp_path: Path, extra_config: str, window: int
    ) -> None:
        with (
            Mosquitto(tmp_path / "broker", extra_config=extra_config) as broker,
            MqttClient(broker.host, broker.port) as publisher,
            persistent_subscriber(broker, "meter/#", acknowledge=False) as payloads,
        ):
            for number in range(30):
                publisher.publish("meter/1", str(number))
            publisher.publish("meter/end", b"end", qos=0)  # no window holds QoS 0 back
            wait_until(lambda: b"end" in payloads, 10, "the last message")
            assert len(payloads) == window + 1

    def test_users_and_another_listener(self, tmp_path: Path) -> None:
        users = tmp_path / "users"
        subprocess.run(
            [find_program("mosquitto_passwd"), "-c", "-b", str(users), "pi", "secret"], check=True
        )
        port = free_port()
        extra_config = f"allow_anonymous false\npassword_file {users}\nlistener {port} 127.0.0.1"
        with Mosquitto(tmp_path / "broker", extra_config=extra_config) as broker:
            for listener in (broker.port, port):
                with MqttClient(broker.host, listener, username="pi", password="secret") as client:
                    client.publish("meter/1", str(listener))
                    assert client.wait_for("meter/1").payload == str(listener).encode()
            with (
                pytest.raises(TimeoutError),
                MqttClient(broker.host, broker.port, username="pi", password="x", timeout=1),
            ):
                pass
            broker.wait_for_log("not authorised")


class TestInfluxDB1:
    def test_point_is_found_with_its_tags(self, influxdb: InfluxDB1) -> None:
        assert write_point(influxdb, f"power,switch=lamp,unit=W power=24.56 {NOON}") == 204
        row = {"time": NOON, "power": 24.56, "switch": "lamp"}
        assert influxdb.query("SELECT * FROM power", "energy") == [row | {"unit": "W"}]
        assert influxdb.query("SELECT power FROM power GROUP BY switch", "energy") == [row]
        assert influxdb.query("SELECT * FROM humidity", "energy") == []

    def test_points_survive_sigkill(self, influxdb: InfluxDB1) -> None:
        url = influxdb.url
        assert write_point(influxdb, f"power power=1 {NOON}") == 204
        influxdb.kill()
        assert not influxdb.running
        influxdb.start()
        assert influxdb.url == url
        assert influxdb.query("SELECT power FROM power", "energy") == [{"time": NOON, "power": 1}]

    @pytest.mark.parametrize("wrong", ["SELECT", "SELECT no_such_function(power) FROM power"])
    def test_wrong_query_is_an_error(self, influxdb: InfluxDB1, wrong: str) -> None:
        write_point(influxdb, "power power=1")
        with pytest.raises(RuntimeError, match=r"error parsing query|undefined function"):
            influxdb.query(wrong, "energy")

    def test_users(self, tmp_path: Path) -> None:
        with InfluxDB1(tmp_path, username="admin", password="secret") as influxdb:
            influxdb.create_database("energy")
            assert write_point(influxdb, "power power=1") == 401
            assert write_point(influxdb, "power power=1", username="admin", password="x") == 401
            influxdb.query("CREATE USER reader WITH PASSWORD 'r'; GRANT READ ON energy TO reader")
            assert write_point(influxdb, "power power=1", username="reader", password="r") == 403
            influxdb.restart()
            assert (
                write_point(influxdb, "power power=1", username="admin", password="secret") == 204
            )
            assert len(influxdb.query("SELECT power FROM power", "energy")) == 1


class TestVictoriaMetrics:
    def test_point_written_for_influxdb_2_is_found(self, victoria_metrics: VictoriaMetrics) -> None:
        line = f"power,switch=lamp,unit=W power=24.56 {NOON}\npower,switch=tv power=7 {NOON + 1}"
        answer = requests.post(
            f"{victoria_metrics.url}/api/v2/write",
            params={"bucket": "energy", "precision": "ms"},
            headers={"Authorization": "Token t"},
            data=line,
            timeout=10,
        )
        assert answer.status_code == 204
        points = sorted(victoria_metrics.points("power_power"), key=lambda row: row["switch"])
        assert points == [
            {"switch": "lamp", "unit": "W", "value": 24.56, "time": NOON},
            {"switch": "tv", "value": 7, "time": NOON + 1},
        ]
        assert victoria_metrics.points("humidity_humidity") == []


keys = st.text("abcXYZ019_-", min_size=1, max_size=8)
scalars = st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False) | st.text()
inline_tables = st.dictionaries(keys, scalars, min_size=1, max_size=3)
values = scalars | st.lists(scalars | inline_tables, max_size=3)
tables = st.dictionaries(keys, values, max_size=3)


@given(tables=st.dictionaries(keys, tables | st.lists(tables, min_size=1, max_size=3), max_size=3))
def test_written_configuration_is_read_back(
    tmp_path_factory: pytest.TempPathFactory, tables: dict[str, object]
) -> None:
    path = write_config(tmp_path_factory.getbasetemp() / "c.toml", tables)
    assert tomllib.loads(path.read_text(encoding="utf-8")) == tables
