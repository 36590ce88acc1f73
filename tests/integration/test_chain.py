"""The three scripts together, as on a Raspberry Pi: one configuration, a broker, a database."""

import base64
import contextlib
import os
import re
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import requests

from demo.loads import constant
from demo.parts import HOST, InfluxDB1, Mosquitto, Row, Script, write_config
from demo.process import find_program, free_port, wait_until
from demo.switches import SimulatedSwitch, SimulatedSwitches, SwitchSpec
from tests.integration.old_broker import REFUSALS, OldBroker
from tests.integration.running import (
    Table,
    interrupt,
    median,
    mqtt_table,
    now_ms,
    retained_value,
    script_online_topic,
    switch_table,
    warnings,
)
from tests.mqtt_client import MqttClient

SCRIPTS = ("plug_2_mqtt", "mqtt_2_influx", "button_server")


class Chain(NamedTuple):
    """The three scripts, and what a user sees of them."""

    scripts: dict[str, Script]
    button_url: str
    database: InfluxDB1

    def points(self, quantity: str, switch: str = "lamp") -> list[Row]:
        query = f"SELECT * FROM \"{quantity}\" WHERE switch = '{switch}'"  # noqa: S608 - names of ours
        return self.database.query(query, "energy")

    def wait_for_points(self, quantity: str, since_ms: int = 0) -> list[Row]:
        """Return the points that were measured since then, when there are any."""

        def points() -> list[Row]:
            return [row for row in self.points(quantity) if row["time"] >= since_ms]

        return wait_until(points, 30, f"points of {quantity}")

    def press(self, value: str, **headers: str) -> requests.Response:
        url = f"{self.button_url}/plugs/lamp/relay"
        return requests.post(url, json={"value": value}, headers=headers, timeout=20)

    def is_ready(self) -> bool:
        """Tell whether the button server knows the lamp."""
        answer = requests.get(f"{self.button_url}/plugs/lamp/relay", timeout=10)
        return answer.ok or answer.status_code == 401

    def log(self) -> str:
        return "".join(script.log_path.read_text() for script in self.scripts.values())


@contextlib.contextmanager
def chain(  # noqa: PLR0913 - each by name
    folder: Path,
    broker_port: int,
    database: InfluxDB1,
    lamp: SimulatedSwitch,
    *,
    more: dict[str, Table] | None = None,
    arguments: Sequence[str] = (),
) -> Iterator[Chain]:
    """Run the scripts; `more` is added to the tables of their configuration."""
    port = free_port()
    tables: dict[str, Table] = {
        "MQTT": mqtt_table(broker_port),
        "InfluxDB": {"url": database.url, "database": "energy"},
        "MyStromSwitch": switch_table(lamp),
        "ButtonServer": {"port": port},
    }
    for name, table in (more or {}).items():
        tables[name] = tables[name] | table
    config = write_config(folder / "credentials.toml", tables)
    with contextlib.ExitStack() as running:
        scripts = {name: Script(f"{name}.py", config, args=arguments) for name in SCRIPTS}
        result = Chain(scripts, f"http://{HOST}:{port}", database)
        running.callback(lambda: print(result.log()))  # of a test that fails
        for script in scripts.values():
            running.enter_context(script)
        scripts["button_server"].wait_for_log("listening")
        yield result


@pytest.fixture
def lamp() -> Iterator[SimulatedSwitch]:
    with SimulatedSwitches([SwitchSpec("lamp", load=constant(24.5))]) as switches:
        yield switches["lamp"]


def see_it_work(chain: Chain, lamp: SimulatedSwitch) -> None:
    """See a reading stored, a button move the relay, and the new state stored."""
    wait_until(chain.is_ready, 30, "the button server")
    chain.wait_for_points("power")
    for value in ("open", "close"):
        pressed = now_ms()
        answer = chain.press(value)
        assert answer.json()["confirmed"] is True
        assert lamp.relay is (value == "close")
        wait_until_stored(chain, value, pressed)


def wait_until_stored(chain: Chain, value: str, since_ms: int) -> None:
    """Wait for a state of the relay that was read since then."""

    def newest() -> Row:
        return chain.wait_for_points("relay", since_ms)[-1]

    wait_until(lambda: newest()["relay"] == (value == "close"), 10, f"{value} in the database")


class TestRestrictiveBroker:
    """A broker that knows two prefixes only, as some in the cloud do."""

    @pytest.fixture
    def broker(self, tmp_path: Path) -> Iterator[Mosquitto]:
        rules = tmp_path / "acl"
        rules.write_text("topic readwrite @update/#\ntopic readwrite @set/#\n")
        rules.chmod(0o600)
        extra_config = f"acl_file {rules}\nlog_type all"
        with Mosquitto(tmp_path / "mosquitto", extra_config=extra_config) as broker:
            yield broker

    def test_everything_works(
        self, tmp_path: Path, broker: Mosquitto, influxdb: InfluxDB1, lamp: SimulatedSwitch
    ) -> None:
        with chain(tmp_path, broker.port, influxdb, lamp) as running:
            see_it_work(running, lamp)
            for script in running.scripts.values():
                assert script.terminate().status == 0
            assert warnings(running.log()) == []
        assert "Denied" not in broker.log()
        # mosquitto denies no subscription: it lists them, and the last wills, indented.
        topics = re.findall(r"^\d+: \t(\S+)", broker.log(), re.MULTILINE)
        assert len(topics) >= 2 * len(SCRIPTS)
        assert all(topic.startswith(("@update/", "@set/")) for topic in topics), topics
        with MqttClient(broker.host, broker.port) as client:
            client.publish("other/topic", b"")
            broker.wait_for_log("Denied PUBLISH")  # or the line above would say nothing


def test_points_come_soon_and_are_complete(
    tmp_path: Path, mosquitto: Mosquitto, influxdb: InfluxDB1, lamp: SimulatedSwitch
) -> None:
    with chain(tmp_path, mosquitto.port, influxdb, lamp) as running:
        running.wait_for_points("energy")
        ages = []
        for _ in range(10):
            newest = running.wait_for_points("power", since_ms=now_ms() - 50)[-1]
            ages.append(now_ms() - newest["time"])
        assert median(ages) < 1000

        for quantity, unit in (
            ("power", "W"),
            ("average_power", "W"),
            ("temperature", "C"),
            ("energy", "Wh"),
            ("relay", None),
            ("online", None),
        ):
            point = running.points(quantity)[-1]
            assert point["switch"] == "lamp"
            assert point.get("unit") == unit
            assert isinstance(point[quantity], (int, float))
        assert running.points("power")[-1]["power"] == 24.5
        for name in SCRIPTS:
            topic = script_online_topic(name)
            assert retained_value(mosquitto, topic) == 1
            assert running.points("online", topic.split("/")[1])[-1]["online"] == 1


@pytest.mark.parametrize("order", ["broker database switch", "switch database broker"])
def test_scripts_are_there_first(tmp_path: Path, order: str) -> None:
    with contextlib.ExitStack() as running:
        broker = Mosquitto(tmp_path / "mosquitto")
        database = InfluxDB1(tmp_path / "influxdb")
        switches = running.enter_context(
            SimulatedSwitches([SwitchSpec("lamp", load=constant(24.5))])
        )
        lamp = switches["lamp"]
        lamp.set_fault("refused")
        scripts = running.enter_context(chain(tmp_path, broker.port, database, lamp))
        for script in scripts.scripts.values():
            script.wait_for_log("broker .*refused")
        for part in order.split():
            match part:
                case "broker":
                    running.enter_context(broker)
                    scripts.scripts["plug_2_mqtt"].wait_for_log("connected", 20)
                case "database":
                    running.enter_context(database)
                    database.create_database("energy")
                case "switch":
                    lamp.clear_fault()
                    scripts.scripts["plug_2_mqtt"].wait_for_log("lamp at .*: online", 20)
        see_it_work(scripts, lamp)
        for script in scripts.scripts.values():
            assert script.terminate().status == 0


@pytest.mark.parametrize("refusal", REFUSALS)
def test_broker_from_before_mqtt_5(
    tmp_path: Path, mosquitto: Mosquitto, influxdb: InfluxDB1, lamp: SimulatedSwitch, refusal: str
) -> None:
    with (
        OldBroker(mosquitto.port, REFUSALS[refusal]) as old_broker,
        chain(tmp_path, old_broker.port, influxdb, lamp) as running,
    ):
        see_it_work(running, lamp)
        assert old_broker.refused >= len(SCRIPTS)
        for name, script in running.scripts.items():
            script.wait_for_log(r"connected to broker .*3\.1\.1")
            assert retained_value(mosquitto, script_online_topic(name)) == 1
            assert script.terminate().status == 0
            assert retained_value(mosquitto, script_online_topic(name)) == 0


def test_no_log_has_a_secret(tmp_path: Path) -> None:
    secrets = {
        name: f"{name}-secret-{number}"
        for number, name in enumerate(["broker", "database", "switch", "button"])
    }
    users = tmp_path / "users"
    arguments = ["-c", "-b", str(users), "pi", secrets["broker"]]
    subprocess.run([find_program("mosquitto_passwd"), *arguments], check=True)
    for_users = f"allow_anonymous false\npassword_file {users}"
    more: dict[str, Table] = {
        "MQTT": {"username": "pi", "password": secrets["broker"]},
        "InfluxDB": {"username": "pi", "password": secrets["database"]},
        "MyStromSwitch": {"token": secrets["switch"]},
        "ButtonServer": {"token": secrets["button"]},
    }
    with contextlib.ExitStack() as parts:
        broker = parts.enter_context(Mosquitto(tmp_path / "mosquitto", extra_config=for_users))
        database = parts.enter_context(
            InfluxDB1(tmp_path / "influxdb", username="pi", password=secrets["database"])
        )
        database.create_database("energy")
        switches = parts.enter_context(
            SimulatedSwitches([SwitchSpec("lamp", token=secrets["switch"])])
        )
        lamp = switches["lamp"]
        running = parts.enter_context(
            chain(
                tmp_path, broker.port, database, lamp, more=more, arguments=["--log-level", "debug"]
            )
        )
        token = {"Authorization": f"Bearer {secrets['button']}"}
        running.wait_for_points("power")
        assert running.press("open", **token).status_code == 200
        assert running.press("open", **{"X-Api-Key": f"{secrets['button']}x"}).status_code == 401
        # What a log may say when nothing works any more.
        lamp.set_fault("404")
        database.kill()
        broker.kill()
        running.scripts["plug_2_mqtt"].wait_for_log("offline: .*404")
        for script in running.scripts.values():
            script.wait_for_log("broker .*refused")
        assert running.press("open", **token).status_code == 503
        for script in running.scripts.values():
            assert script.terminate().status == 0
        log = running.log()
        assert "connected" in log
        for secret in secrets.values():
            assert secret not in log
            for text in (f"pi:{secret}", f":{secret}", secret):
                assert base64.b64encode(text.encode()).decode().rstrip("=")[:-1] not in log


class TestService:
    """What systemd sees of each script."""

    @pytest.fixture
    def systemd(self) -> Iterator[socket.socket]:
        """Listen as systemd does for those it has started with NOTIFY_SOCKET (sd_notify(3))."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
            listener.bind(f"\0openenergy-test-{os.getpid()}-{time.monotonic_ns()}")
            listener.settimeout(10)
            yield listener

    @pytest.mark.parametrize("name", SCRIPTS)
    def test_ready_before_anybody_else_is_there(
        self, tmp_path: Path, systemd: socket.socket, name: str
    ) -> None:
        tables: dict[str, Any] = {
            "MQTT": mqtt_table(free_port()),
            "InfluxDB": {"url": f"http://{HOST}:{free_port()}", "database": "energy"},
            "MyStromSwitch": {"name": "lamp", "host": f"{HOST}:{free_port()}"},
            "ButtonServer": {"port": free_port()},
        }
        address = systemd.getsockname().decode().replace("\0", "@")
        config = write_config(tmp_path / "c.toml", tables)
        journal = tmp_path / f"c-{name}" / f"{name}.log"
        journal.parent.mkdir()
        journal.touch()
        stream = f"{journal.stat().st_dev}:{journal.stat().st_ino}"
        env = {"NOTIFY_SOCKET": address, "JOURNAL_STREAM": stream}
        with Script(f"{name}.py", config, env=env, cwd=Path("/")) as script:
            self.wait_for(systemd, "READY=1")
            script.wait_for_log("broker .*refused")
            ended = interrupt(script)
            assert ended.status == 0
            assert ended.seconds < 5
            self.wait_for(systemd, "STOPPING=1")
            # The journal's own time and priority (sd-daemon(3)) stand for ours.
            for line in script.log().splitlines():
                assert line.startswith(("<4>", "<6>"))

    def wait_for(self, systemd: socket.socket, message: str) -> None:
        """Receive until the message comes; TimeoutError if none comes any more."""
        while message not in systemd.recv(4096).decode().splitlines():
            pass
