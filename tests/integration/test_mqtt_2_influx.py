"""mqtt_2_influx.py between a real broker and real databases: what is stored, and never lost."""

import contextlib
import itertools
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import requests

from demo.parts import HOST, InfluxDB1, Mosquitto, Row, Script, VictoriaMetrics, write_config
from demo.process import free_port, wait_until
from tests.fault_proxy import FaultProxy
from tests.integration.running import (
    Table,
    median,
    mqtt_table,
    now_ms,
    script_online_topic,
    state_topic,
    warnings,
)
from tests.mqtt_client import MqttClient

SCRIPT = "mqtt_2_influx.py"
NOON = 1_763_763_243_123  # ms since 1970 UTC
INFLUXDB_1 = {"database": "energy"}
INFLUXDB_2 = {"token": "any-token", "org": "home", "bucket": "energy"}


def influxdb_points(database: InfluxDB1, quantity: str) -> list[Row]:
    """Return the points of a measurement; its one field, named as itself, as "value"."""
    rows = database.query(f'SELECT * FROM "{quantity}"', "energy")  # noqa: S608 - a name of ours
    return [
        # A series without a tag that others have shows it as null.
        {
            "value" if key == quantity else key: value
            for key, value in row.items()
            if value is not None
        }
        for row in rows
    ]


def victoria_points(database: VictoriaMetrics, quantity: str) -> list[Row]:
    return database.points(f"{quantity}_{quantity}")


class Bench(NamedTuple):
    """The script between a broker and a database, and a client that publishes."""

    client: MqttClient
    script: Script
    points_of: Callable[[str], list[Row]]  # by measurement

    def publish(self, switch: str, quantity: str, **payload: object) -> None:
        self.client.publish(state_topic(switch, quantity), payload)

    def points(self, switch: str, quantity: str) -> list[Row]:
        """Return a switch's points, oldest first, without the tag that names it."""
        rows = [row for row in self.points_of(quantity) if row["switch"] == switch]
        return sorted(
            ({key: row[key] for key in row if key != "switch"} for row in rows),
            key=lambda row: float(row["time"]),
        )

    def wait_for_points(self, switch: str, quantity: str, count: int, timeout: float = 15) -> Any:
        what = f"{count} points of {switch} {quantity}"
        wait_until(lambda: len(self.points(switch, quantity)) >= count, timeout, what)
        return self.points(switch, quantity)


@contextlib.contextmanager
def writing(  # noqa: PLR0913 - each by name
    folder: Path,
    url: str,
    points_of: Callable[[str], list[Row]],
    *,
    influxdb: Table = INFLUXDB_1,
    mqtt: Table | None = None,
    broker: Mosquitto | None = None,
) -> Iterator[Bench]:
    """Run the script and a broker; `influxdb` and `mqtt` are added to its configuration."""
    with contextlib.ExitStack() as running:
        broker = broker or running.enter_context(Mosquitto(folder / "mosquitto"))
        client = running.enter_context(MqttClient(broker.host, broker.port))
        tables = {
            "MQTT": mqtt_table(broker.port) | (mqtt or {}),
            "InfluxDB": {"url": url, "timeout": 2.0} | influxdb,
        }
        script = Script(SCRIPT, write_config(folder / "writer.toml", tables))
        running.enter_context(script)
        running.callback(lambda: print(script.log_path.read_text()))  # of a test that fails
        client.wait_for(script_online_topic("mqtt_2_influx"))
        yield Bench(client, script, points_of)


@contextlib.contextmanager
def writing_to_influxdb_1(folder: Path) -> Iterator[Bench]:
    with InfluxDB1(folder / "influxdb") as database:
        database.create_database("energy")
        with writing(folder, database.url, partial(influxdb_points, database)) as bench:
            yield bench


@contextlib.contextmanager
def writing_to_influxdb_2(folder: Path) -> Iterator[Bench]:
    """Run VictoriaMetrics, which takes what is meant for InfluxDB 2 and 3."""
    with contextlib.ExitStack() as running:
        database = running.enter_context(VictoriaMetrics(folder / "victoria-metrics"))
        points_of = partial(victoria_points, database)
        yield running.enter_context(writing(folder, database.url, points_of, influxdb=INFLUXDB_2))


names = (f"plug-{number}" for number in itertools.count())


@pytest.fixture
def plug() -> str:
    """Return a name that no other test uses."""
    return next(names)


class TestPoints:
    @pytest.fixture(
        scope="class",
        params=[writing_to_influxdb_1, writing_to_influxdb_2],
        ids=["InfluxDB 1", "InfluxDB 2"],
    )
    @classmethod
    def bench(
        cls, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
    ) -> Iterator[Bench]:
        with request.param(tmp_path_factory.mktemp("points")) as bench:
            yield bench

    def test_point_is_as_agreed(self, bench: Bench, plug: str) -> None:
        bench.publish(plug, "power", value=24.56, unit="W", time=NOON)
        assert bench.wait_for_points(plug, "power", 1) == [
            {"time": NOON, "value": 24.56, "unit": "W"}
        ]

    @pytest.mark.parametrize("unit", ["", None])
    def test_no_unit_is_no_tag(self, bench: Bench, plug: str, unit: str | None) -> None:
        payload = {} if unit is None else {"unit": unit}
        bench.publish(plug, "relay", value=1, time=NOON, **payload)
        assert bench.wait_for_points(plug, "relay", 1) == [{"time": NOON, "value": 1}]

    @pytest.mark.parametrize("unit", ["\u00b0C", "\u00b5g/m3", "a b,c=d", '"', "%"])
    def test_any_unit_is_a_tag(self, bench: Bench, plug: str, unit: str) -> None:
        bench.publish(plug, "air", value=1, unit=unit, time=NOON)
        assert bench.wait_for_points(plug, "air", 1)[0]["unit"] == unit

    @pytest.mark.parametrize(
        "value", [0, 24, -3.5, 1e-9, 1.7976931348623157e308, 12345678901234567890, 0.1 + 0.2]
    )
    def test_any_number_is_stored(self, bench: Bench, plug: str, value: float) -> None:
        bench.publish(plug, "level", value=value, time=NOON)
        assert bench.wait_for_points(plug, "level", 1)[0]["value"] == pytest.approx(value, rel=1e-9)

    @pytest.mark.parametrize("quantity", ["humidity", "co2", "Strom.L1-2_x", "0"])
    def test_any_quantity_is_a_measurement(self, bench: Bench, plug: str, quantity: str) -> None:
        bench.publish(
            plug, quantity, value=5, unit="x", time=NOON, sender="unknown keys are ignored"
        )
        wait_until(lambda: self.is_there(bench, plug, quantity), 10, quantity)

    def is_there(self, bench: Bench, plug: str, quantity: str) -> bool:
        return any(row["switch"] == plug for row in bench.points_of(quantity))

    def test_times_are_those_of_the_payloads(self, bench: Bench, plug: str) -> None:
        times = [NOON, NOON + 1, NOON + 1000, NOON - 86_400_000]
        for time_ms in times:
            bench.publish(plug, "power", value=1, time=time_ms)
        bench.publish(plug, "power", value=1, time=float(NOON + 5))
        stored = [row["time"] for row in bench.wait_for_points(plug, "power", 5)]
        assert stored == sorted([*times, NOON + 5])

    def test_without_a_time_that_of_arrival_counts(self, bench: Bench, plug: str) -> None:
        before = now_ms()
        bench.publish(plug, "power", value=1)
        (point,) = bench.wait_for_points(plug, "power", 1)
        assert before - 1 <= point["time"] <= now_ms()

    def test_same_message_twice_is_one_point(self, bench: Bench, plug: str) -> None:
        for value in (1, 1, 2):
            bench.publish(plug, "power", value=value, time=NOON + value)
        what = "the last one"
        wait_until(lambda: 2 in [row["value"] for row in bench.points(plug, "power")], 10, what)
        # VictoriaMetrics merges equal samples later (-dedup.minScrapeInterval).
        rows = bench.points(plug, "power")
        assert {(row["time"], row["value"]) for row in rows} == {(NOON + 1, 1), (NOON + 2, 2)}

    def test_point_is_there_within_a_second(self, bench: Bench, plug: str) -> None:
        delays = []
        for number in range(1, 6):
            published = time.monotonic()
            bench.publish(plug, "power", value=number, time=NOON + number)
            bench.wait_for_points(plug, "power", number)
            delays.append(time.monotonic() - published)
        assert median(delays) < 1

    def test_burst_is_stored_whole(self, bench: Bench, plug: str) -> None:
        for number in range(500):
            bench.publish(plug, "power", value=number, time=NOON + number)
        rows = bench.wait_for_points(plug, "power", 500)
        assert [row["value"] for row in rows] == list(range(500))


def test_every_field_is_a_float(tmp_path: Path) -> None:
    with InfluxDB1(tmp_path / "influxdb") as database:
        database.create_database("energy")
        with writing(tmp_path, database.url, partial(influxdb_points, database)) as bench:
            for number, quantity in enumerate(["power", "relay", "humidity"]):
                bench.publish("lamp", quantity, value=number, time=NOON)
                bench.wait_for_points("lamp", quantity, 1)
            assert {
                (row["fieldKey"], row["fieldType"])
                for row in database.query("SHOW FIELD KEYS", "energy")
            } >= {("power", "float"), ("relay", "float"), ("humidity", "float")}


def test_retained_message_without_time_is_no_point(
    tmp_path: Path, mosquitto: Mosquitto, mqtt_client: MqttClient, influxdb: InfluxDB1
) -> None:
    mqtt_client.publish(state_topic("lamp", "relay"), {"value": 1, "unit": ""}, retain=True)
    mqtt_client.publish(state_topic("tv", "relay"), {"value": 1, "time": NOON}, retain=True)
    with writing(
        tmp_path, influxdb.url, partial(influxdb_points, influxdb), broker=mosquitto
    ) as bench:
        assert bench.wait_for_points("tv", "relay", 1) == [{"time": NOON, "value": 1}]
        bench.publish("lamp", "relay", value=0, time=NOON)
        assert bench.wait_for_points("lamp", "relay", 1) == [{"time": NOON, "value": 0}]
        assert warnings(bench.script.log()) == []


GOOD_TOPIC = state_topic("lamp", "power")
GARBAGE = [
    b"",
    b"on",
    b"24.5",
    b'"24.5"',
    b"null",
    b"[]",
    b"{}",
    b'{"value": 1',
    b'{"value": 1}}',
    b"{'value': 1}",
    b'\xff{"value": 1}',
    b'{"value": 1, "unit": "\xe9"}',
    b'{"value": "1"}',
    b'{"value": true}',
    b'{"value": null}',
    b'{"value": [1]}',
    b'{"value": NaN}',
    b'{"value": Infinity}',
    b'{"value": -1e999}',
    b'{"value": 1e999}',
    b'{"value": ' + 4000 * b"9" + b"}",
    b'{"value": ' + 2000 * b"[",
    b'{"Value": 1}',
    b'{"value": 1, "unit": 1}',
    b'{"value": 1, "unit": "longer than any unit there is"}',
    b'{"value": 1, "unit": "\\n"}',
    b'{"value": 1, "unit": "\\\\"}',
    b'{"value": 1, "time": "now"}',
    b'{"value": 1, "time": -1}',
    b'{"value": 1, "time": 0}',
    b'{"value": 1, "time": 1763763243}',
    b'{"value": 1, "time": 99999999999999}',
    b'{"value": 1, "time": 1e999}',
    b'{"value": 1, "more": "' + 5000 * b"x" + b'"}',
    1024 * 1024 * b"\x00",
]
ODD_TOPICS = [
    "@update/lamp/monitoring",
    "@update/lamp/monitoring/",
    "@update/lamp/monitoring/power/now",
    "@update//monitoring/power",
    "@update/the lamp/monitoring/power",
    "@update/lamp,unit=W/monitoring/power",
    "@update/lamp/monitoring/po wer",
    "@update/l\u00e4mp/monitoring/power",
    "@update/" + 65 * "x" + "/monitoring/power",
]


def test_what_cannot_be_a_point_is_refused_and_what_can_is_stored(tmp_path: Path) -> None:
    with writing_to_influxdb_1(tmp_path) as bench:
        rounds = 3
        good = itertools.count(NOON)
        for _ in range(rounds):
            for payload in GARBAGE:
                bench.client.publish(GOOD_TOPIC, payload)
                bench.publish("lamp", "power", value=1, time=next(good))
            for topic in ODD_TOPICS:
                bench.client.publish(topic, {"value": 1, "time": NOON})
        published = next(good) - NOON
        points = bench.wait_for_points("lamp", "power", published)
        assert [row["time"] for row in points] == list(range(NOON, NOON + published))

        log = bench.script.log()
        assert "Traceback" not in log
        refusals = [line.partition("refused ")[2] for line in warnings(log)]
        causes = [line.partition(": ")[2].rpartition(" (")[0] for line in refusals]
        assert len(causes) == len(set(causes))
        assert any("topic" in cause for cause in causes)
        assert any("malformed" in cause for cause in causes)
        assert any("longer than" in cause for cause in causes)
        assert max(map(len, refusals)) < 500
        # A cause that was not there before tells the count.
        bench.client.publish(GOOD_TOPIC, b'{"value": {}}')
        count = rounds * (len(GARBAGE) + len(ODD_TOPICS)) + 1
        bench.script.wait_for_log(rf"got `object`.*\({count} refused so far\)")


def test_one_cause_is_logged_once_however_it_varies(tmp_path: Path) -> None:
    with writing_to_influxdb_1(tmp_path) as bench:
        for number in range(30):
            bench.client.publish(GOOD_TOPIC, number * b" " + b"x")
        bench.publish("lamp", "power", value=1, time=NOON)
        bench.wait_for_points("lamp", "power", 1)
        assert len(warnings(bench.script.log())) == 1


def test_only_the_point_that_the_database_rejects_is_dropped(
    tmp_path: Path, influxdb: InfluxDB1
) -> None:
    with writing(tmp_path, influxdb.url, partial(influxdb_points, influxdb)) as bench:
        line = 'mixed,switch=tv mixed="text"'
        requests.post(f"{influxdb.url}/write?db=energy", line, timeout=10).raise_for_status()
        for number in range(20):
            bench.publish("lamp", "power", value=number, time=NOON + number)
            bench.publish("lamp", "mixed", value=number, time=now_ms())
        bench.wait_for_points("lamp", "power", 20)
        bench.script.wait_for_log("refused 'mixed.*InfluxDB: .*type")
        assert bench.points("lamp", "mixed") == []


class TestAbsence:
    """Neither broker nor database has to be there, and nothing is lost meanwhile."""

    @pytest.mark.parametrize("first", ["broker", "database"])
    def test_they_come_after_the_script(self, tmp_path: Path, first: str) -> None:
        broker = Mosquitto(tmp_path / "mosquitto")
        database = InfluxDB1(tmp_path / "influxdb")
        tables = {
            "MQTT": mqtt_table(broker.port),
            "InfluxDB": {"url": database.url, "database": "energy"},
        }
        with (
            Script(SCRIPT, write_config(tmp_path / "c.toml", tables)) as script,
            contextlib.ExitStack() as running,
        ):
            script.wait_for_log("broker .*refused")

            def come_database() -> None:
                running.enter_context(database)
                database.create_database("energy")

            if first == "database":
                come_database()
            running.enter_context(broker)
            client = running.enter_context(MqttClient(broker.host, broker.port))
            client.wait_for(script_online_topic("mqtt_2_influx"), timeout=20)
            wait_until(lambda: "connected" in script.log(), 10, "subscription")
            client.publish(GOOD_TOPIC, {"value": 1, "time": NOON})
            if first == "broker":
                script.wait_for_log("InfluxDB .*refused")
                come_database()
            wait_until(lambda: influxdb_points(database, "power"), 20, "the point")
            assert script.terminate().status == 0

    def test_sigkill_while_the_database_is_away(self, tmp_path: Path, influxdb: InfluxDB1) -> None:
        with (
            FaultProxy(influxdb.port) as way,
            writing(tmp_path, way.url, partial(influxdb_points, influxdb)) as bench,
        ):
            bench.publish("lamp", "power", value=0, time=NOON)
            bench.wait_for_points("lamp", "power", 1)
            way.refuse()
            for number in range(1, 100):
                bench.publish("lamp", "power", value=number, time=NOON + number)
            bench.script.wait_for_log("takes no points.*refused")
            bench.script.kill()
            bench.script.start()
            bench.client.clear()
            bench.client.wait_for(script_online_topic("mqtt_2_influx"))
            for number in range(100, 200):
                bench.publish("lamp", "power", value=number, time=NOON + number)
            bench.script.kill()  # whatever it was at
            for number in range(200, 300):
                bench.publish("lamp", "power", value=number, time=NOON + number)
            way.pass_through()
            bench.script.start()
            points = bench.wait_for_points("lamp", "power", 300)
            assert [row["value"] for row in points] == list(range(300))

    def test_sigkill_while_the_database_hangs(self, tmp_path: Path, influxdb: InfluxDB1) -> None:
        with (
            FaultProxy(influxdb.port) as way,
            writing(tmp_path, way.url, partial(influxdb_points, influxdb)) as bench,
        ):
            way.blackhole()
            for number in range(100):
                bench.publish("lamp", "power", value=number, time=NOON + number)
            wait_until(lambda: way.requests, 10, "an attempt to write")
            bench.script.kill()
            way.refuse()
            way.pass_through()
            bench.script.start()
            points = bench.wait_for_points("lamp", "power", 100)
            assert [row["value"] for row in points] == list(range(100))

    def test_measurements_of_the_script_s_own_absence(self, tmp_path: Path) -> None:
        with writing_to_influxdb_1(tmp_path) as bench:
            assert bench.script.terminate().status == 0
            for number in range(50):
                bench.publish("lamp", "power", value=number, time=NOON + number)
            bench.script.start()
            bench.wait_for_points("lamp", "power", 50)


class TestEnd:
    @pytest.mark.parametrize(
        ("broker", "database"),
        [
            ("pass_through", "pass_through"),
            ("pass_through", "hang"),
            ("pass_through", "refuse"),
            ("blackhole", "pass_through"),
            ("blackhole", "blackhole"),
        ],
    )
    def test_sigterm(
        self, tmp_path: Path, mosquitto: Mosquitto, influxdb: InfluxDB1, broker: str, database: str
    ) -> None:
        with (
            FaultProxy(mosquitto.port, http=False) as to_broker,
            FaultProxy(influxdb.port) as to_database,
            writing(
                tmp_path,
                to_database.url,
                partial(influxdb_points, influxdb),
                broker=mosquitto,
                mqtt={"port": to_broker.port},
                influxdb={"database": "energy", "timeout": 30.0},
            ) as bench,
        ):
            getattr(to_database, database)()
            for number in range(50):
                bench.publish("lamp", "power", value=number, time=NOON + number)
            if database != "refuse":
                wait_until(lambda: to_database.requests, 10, "an attempt to write")
            getattr(to_broker, broker)()
            ended = bench.script.terminate()
            assert ended.status == 0
            assert ended.seconds < 5
            assert "Traceback" not in bench.script.log()

            for way in (to_broker, to_database):
                way.refuse()
                way.pass_through()
            bench.script.start()
            points = bench.wait_for_points("lamp", "power", 50)
            assert [row["value"] for row in points] == list(range(50))

    def test_sigterm_while_nothing_was_ever_there(self, tmp_path: Path) -> None:
        tables = {
            "MQTT": mqtt_table(free_port()),
            "InfluxDB": {"url": f"http://{HOST}:{free_port()}", "database": "energy"},
        }
        with Script(SCRIPT, write_config(tmp_path / "c.toml", tables)) as script:
            script.wait_for_log("broker .*refused")
            ended = script.terminate()
            assert ended.status == 0
            assert ended.seconds < 5


class TestRefusedByTheDatabase:
    """What is wrong with the configuration is told by its name, and mended without a loss."""

    def test_users_of_influxdb_1(self, tmp_path: Path) -> None:
        with InfluxDB1(tmp_path / "influxdb", username="pi", password="right-secret") as database:
            database.create_database("energy")
            wrong = INFLUXDB_1 | {"username": "pi", "password": "wrong-secret"}
            with writing(
                tmp_path, database.url, partial(influxdb_points, database), influxdb=wrong
            ) as bench:
                bench.publish("lamp", "power", value=1, time=NOON)
                bench.script.wait_for_log(r"401.*\[InfluxDB\] database, username, password")
                bench.script.terminate()
                assert bench.script.log().count("401") == 1
                config = tmp_path / "writer.toml"
                config.write_text(config.read_text().replace("wrong-secret", "right-secret"))
                bench.script.start()
                bench.wait_for_points("lamp", "power", 1)
                for secret in ("wrong-secret", "right-secret"):
                    assert secret not in bench.script.log_path.read_text()

    def test_database_that_is_not_there_yet(self, tmp_path: Path) -> None:
        with (
            InfluxDB1(tmp_path / "influxdb") as database,
            writing(tmp_path, database.url, partial(influxdb_points, database)) as bench,
        ):
            bench.publish("lamp", "power", value=1, time=NOON)
            bench.script.wait_for_log(r"404.*\[InfluxDB\] database, username, password")
            database.create_database("energy")
            bench.wait_for_points("lamp", "power", 1, timeout=20)

    def test_token_of_influxdb_2(self, tmp_path: Path, victoria_metrics: VictoriaMetrics) -> None:
        points_of = partial(victoria_points, victoria_metrics)
        table = INFLUXDB_2 | {"token": "secret-token"}
        with (
            FaultProxy(victoria_metrics.port) as way,
            writing(tmp_path, way.url, points_of, influxdb=table) as bench,
        ):
            body = b'{"code": "unauthorized", "message": "unauthorized access"}'
            way.answer(401, {"Content-Type": "application/json"}, body)
            bench.publish("lamp", "power", value=1, time=NOON)
            bench.script.wait_for_log(r"401.*unauthorized access.*\[InfluxDB\] token, org, bucket")
            way.pass_through()
            bench.wait_for_points("lamp", "power", 1, timeout=20)
            assert "secret-token" not in bench.script.log()
