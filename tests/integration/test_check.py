"""The command line of each script: --check, --config, --version, and what it says of mistakes."""

import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import requests

from demo.parts import HOST, REPOSITORY, InfluxDB1, Mosquitto, Script, VictoriaMetrics, write_config
from demo.process import free_port, wait_until
from demo.switches import SimulatedSwitches, SwitchSpec
from tests.integration.running import (
    Table,
    announced_switch,
    moves,
    mqtt_table,
    run_to_end,
    script_online_topic,
    state_topic,
    switch_table,
)
from tests.mqtt_client import MqttClient

SCRIPTS = ("plug_2_mqtt.py", "mqtt_2_influx.py", "button_server.py")
INFLUXDB_1 = {"database": "energy"}
INFLUXDB_2 = {"token": "a-token", "org": "home", "bucket": "energy"}


def check(script: str, folder: Path, tables: dict[str, Any]) -> tuple[int, list[str]]:
    """Run --check; return its exit status and its lines."""
    config = write_config(folder / "check.toml", tables)
    done = run_to_end(script, "--config", config, "--check", cwd=folder)
    assert "Traceback" not in done.stderr
    return done.returncode, done.stdout.splitlines()


@pytest.fixture
def lamp() -> Iterator[SimulatedSwitches]:
    with SimulatedSwitches([SwitchSpec("lamp"), SwitchSpec("tv", token="right")]) as switches:
        yield switches


class TestCheckOfPlugs:
    def test_all_is_well(
        self, tmp_path: Path, mosquitto: Mosquitto, mqtt_client: MqttClient, lamp: SimulatedSwitches
    ) -> None:
        tables = {
            "MQTT": mqtt_table(mosquitto.port),
            "MyStromSwitch": [
                switch_table(lamp["lamp"]),
                switch_table(lamp["tv"], token="right", read_only=True),
            ],
        }
        assert check("plug_2_mqtt.py", tmp_path, tables) == (
            0,
            [
                f"ok broker {HOST}:{mosquitto.port}",
                f"ok switch lamp at {HOST}:{lamp['lamp'].port}",
                f"ok switch tv at {HOST}:{lamp['tv'].port}",
            ],
        )
        assert moves(lamp["lamp"]) == moves(lamp["tv"]) == []
        assert mqtt_client.messages() == []

    def test_each_failure_is_told(self, tmp_path: Path) -> None:
        names = ["hang", "refused", "404", "html", "well"]
        with SimulatedSwitches([SwitchSpec(name) for name in names]) as switches:
            for name in ("hang", "refused", "404", "html"):
                switches[name].set_fault(name)
            port = free_port()
            tables = {
                "MQTT": mqtt_table(port),
                "MyStromSwitch": [switch_table(switch) for switch in switches.values()],
            }
            status, lines = check("plug_2_mqtt.py", tmp_path, tables)
        assert status == 1
        ports = {name: switches[name].port for name in names}
        assert lines[:3] == [
            f"FAILED broker {HOST}:{port}: Connection refused",
            f"FAILED switch hang at {HOST}:{ports['hang']}: no answer within 0.5 s",
            f"FAILED switch refused at {HOST}:{ports['refused']}: Connection refused",
        ]
        assert lines[3].startswith(f"FAILED switch 404 at {HOST}:{ports['404']}: status 404")
        assert all(word in lines[3] for word in ("token", "filter", "/report"))
        assert lines[4].startswith(f"FAILED switch html at {HOST}:{ports['html']}: ")
        assert lines[5:] == [f"ok switch well at {HOST}:{ports['well']}"]

    def test_switch_that_is_known_by_its_mac_address(
        self, tmp_path: Path, mosquitto: Mosquitto
    ) -> None:
        with announced_switch("lamp") as lamp:
            tables = {
                "MQTT": mqtt_table(mosquitto.port),
                "MyStromSwitch": {"name": "lamp", "macAdress": lamp.mac},
            }
            status, lines = check("plug_2_mqtt.py", tmp_path, tables)
            assert (status, lines[1]) == (0, f"ok switch lamp at {lamp.mac}")

    def test_template_finds_the_first_of_the_simulated_switches(self, tmp_path: Path) -> None:
        program = """
            ip link set lo up && mkfifo "$1" || exit
            "$0" -m demo.switches >"$1" & exec 3<"$1" && read first <&3
            "$0" plug_2_mqtt.py --check
            kill $!
        """
        # In a network of its own: others may have taken its ports.
        command = ["unshare", "--map-root-user", "--net", "sh", "-c", program, sys.executable]
        done = subprocess.run(
            [*command, str(tmp_path / "fifo")],
            cwd=REPOSITORY,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        if done.stderr.startswith("unshare:"):
            pytest.skip(f"this machine allows no network of one's own: {done.stderr}")
        assert "ok switch my_strom-001 at localhost:8001" in done.stdout.splitlines()


class TestCheckOfWriter:
    def test_all_is_well_with_influxdb_1(
        self, tmp_path: Path, mosquitto: Mosquitto, mqtt_client: MqttClient, influxdb: InfluxDB1
    ) -> None:
        tables = {
            "MQTT": mqtt_table(mosquitto.port),
            "InfluxDB": {"url": influxdb.url, **INFLUXDB_1},
        }
        status, lines = check("mqtt_2_influx.py", tmp_path, tables)
        assert status == 0
        assert lines[0] == f"ok broker {HOST}:{mosquitto.port}"
        assert lines[1].startswith(f"ok InfluxDB {influxdb.url}")
        assert len(lines) == 2
        assert influxdb.query("SHOW MEASUREMENTS", "energy") == []
        assert mqtt_client.messages() == []

    def test_all_is_well_with_influxdb_2(
        self, tmp_path: Path, mosquitto: Mosquitto, victoria_metrics: VictoriaMetrics
    ) -> None:
        tables = {
            "MQTT": mqtt_table(mosquitto.port),
            "InfluxDB": {"url": victoria_metrics.url, **INFLUXDB_2},
        }
        status, lines = check("mqtt_2_influx.py", tmp_path, tables)
        assert status == 0
        assert lines[1].startswith(f"ok InfluxDB {victoria_metrics.url}")
        requests.get(f"{victoria_metrics.url}/internal/force_flush", timeout=10)
        series = requests.get(
            f"{victoria_metrics.url}/api/v1/export", {"match[]": '{__name__!=""}'}, timeout=10
        )
        assert series.text == ""

    def test_each_failure_is_told(self, tmp_path: Path) -> None:
        for_users = "allow_anonymous false"
        with (
            Mosquitto(tmp_path / "mosquitto", extra_config=for_users) as closed_broker,
            InfluxDB1(tmp_path / "influxdb", username="pi", password="right-secret") as database,
            SimulatedSwitches([SwitchSpec("switch")]) as switches,
        ):
            database.create_database("energy")
            user = {"username": "pi", "password": "right-secret"}
            wrong_user = {"username": "pi", "password": "wrong-secret"}
            broker_password = {"username": "pi", "password": "broker-secret"}
            url = {"url": database.url}
            no_database = {"url": f"http://{HOST}:{switches['switch'].port}"}
            nowhere = {"url": f"http://{HOST}:{free_port()}", "timeout": 1.0}
            closed = mqtt_table(closed_broker.port)
            for mqtt, influxdb, statuses, words in [
                (closed | broker_password, url | INFLUXDB_1 | user, "FAILED ok", "username"),
                (closed, url | INFLUXDB_1 | wrong_user, "FAILED FAILED", "401 password"),
                (closed, url | {"database": "none"} | user, "FAILED FAILED", "404 database"),
                (closed, no_database | INFLUXDB_2, "FAILED FAILED", "404 bucket"),
                (closed, nowhere | INFLUXDB_1, "FAILED FAILED", "refused"),
            ]:
                tables = {"MQTT": mqtt, "InfluxDB": influxdb}
                status, lines = check("mqtt_2_influx.py", tmp_path, tables)
                text = "\n".join(lines)
                assert status == 1
                assert [line.split()[0] for line in lines] == statuses.split(), text
                assert [line.split()[1] for line in lines] == ["broker", "InfluxDB"]
                assert all(word in text for word in words.split()), text
                assert "secret" not in text

    def test_nothing_is_taken_from_the_running_script(
        self, tmp_path: Path, mosquitto: Mosquitto, mqtt_client: MqttClient, influxdb: InfluxDB1
    ) -> None:
        tables = {
            "MQTT": mqtt_table(mosquitto.port),
            "InfluxDB": {"url": influxdb.url, **INFLUXDB_1},
        }
        config = write_config(tmp_path / "c.toml", tables)
        with Script("mqtt_2_influx.py", config) as script:
            script.wait_for_log("connected")
            mqtt_client.wait_for(script_online_topic("mqtt_2_influx"))
            assert check("mqtt_2_influx.py", tmp_path, tables)[0] == 0
            assert len(script.log().splitlines()) == 1
            script.terminate()
            mqtt_client.publish(state_topic("lamp", "power"), {"value": 1})
            assert check("mqtt_2_influx.py", tmp_path, tables)[0] == 0
            assert influxdb.query("SELECT * FROM power", "energy") == []
            script.start()
            wait_until(lambda: influxdb.query("SELECT * FROM power", "energy"), 10, "the point")


def test_check_of_button_server(tmp_path: Path, mosquitto: Mosquitto) -> None:
    port = free_port()
    web = {"host": "0.0.0.0", "token": "secret-enough"}
    tables = {"MQTT": mqtt_table(mosquitto.port), "ButtonServer": web}
    assert check("button_server.py", tmp_path, tables) == (
        0,
        [f"ok broker {HOST}:{mosquitto.port}"],
    )
    tables = {"MQTT": mqtt_table(port), "ButtonServer": web}
    assert check("button_server.py", tmp_path, tables) == (
        1,
        [f"FAILED broker {HOST}:{port}: Connection refused"],
    )


WRONG = """
[MQTT]
broker = 5
prot = 1883
password = "secret-1"

[InfluxDB]
url = "ftp://somewhere"
token = ["secret-2"]
window = 0

[[MyStromSwitch]]
name = "the lamp"
host = "192.168.1.40"

[[MyStromSwitch]]
name = "tv"
intervall = 2

[ButtonServer]
host = "0.0.0.0"
port = "http"

[Grafana]
"""
ERRORS = [
    ("[MQTT]", "broker", "5"),
    ("[MQTT]", "prot", "'port'"),
    ("[MQTT]", "password", "username"),
    ("[InfluxDB]", "url", "ftp://somewhere"),
    ("[InfluxDB]", "token", "expected"),
    ("[InfluxDB]", "window", "0"),
    ("MyStromSwitch", "name", "the lamp"),
    ("MyStromSwitch", "host", "macAdress"),
    ("MyStromSwitch", "intervall", "'interval'"),
    ("[ButtonServer]", "token"),
    ("[ButtonServer]", "port", "http"),
    ("Grafana",),
]


class TestMistakes:
    @pytest.mark.parametrize(
        ("script", "options"), [*((script, []) for script in SCRIPTS), (SCRIPTS[0], ["--check"])]
    )
    def test_every_error_of_a_configuration_is_told(
        self, tmp_path: Path, script: str, options: Sequence[str]
    ) -> None:
        config = tmp_path / "c.toml"
        config.write_text(WRONG)
        done = run_to_end(script, "--config", config, *options, cwd=tmp_path)
        assert done.returncode == 78
        assert done.stdout == ""
        lines = done.stderr.splitlines()
        assert all(" ERROR " in line and str(config) in line for line in lines)
        for words in ERRORS:
            assert any(all(word in line for word in words) for line in lines), words
        assert len(lines) == len(ERRORS)
        assert "secret" not in done.stderr

    @pytest.mark.parametrize(
        "content",
        [None, b"", b"[MQTT", b"MQTT = 1", b'[MQTT]\nbroker = "\xff"', b"[[MQTT]]", b"\x00"],
        ids=str,
    )
    def test_file_that_is_no_configuration(self, tmp_path: Path, content: bytes | None) -> None:
        config = tmp_path / "c.toml"
        if content is not None:
            config.write_bytes(content)
        done = run_to_end("plug_2_mqtt.py", "--config", config, cwd=tmp_path)
        assert done.returncode == 78
        lines = done.stderr.splitlines()
        assert lines
        assert all(" ERROR " in line and str(config) in line for line in lines)

    @pytest.mark.parametrize("script", SCRIPTS)
    def test_missing_table(self, tmp_path: Path, script: str) -> None:
        needed = {
            "plug_2_mqtt.py": ["MQTT", "MyStromSwitch"],
            "mqtt_2_influx.py": ["MQTT", "InfluxDB"],
            "button_server.py": ["MQTT"],
        }[script]
        config = write_config(tmp_path / "c.toml", {"Storage": {"spool_size": 1_000_000}})
        done = run_to_end(script, "--config", config, cwd=tmp_path)
        assert done.returncode == 78
        for table in needed:
            assert f"[{table}]" in done.stderr
        assert len(done.stderr.splitlines()) == len(needed)

    @pytest.mark.parametrize(
        ("script", "arguments"),
        [
            ("plug_2_mqtt.py", ["--chek-it"]),
            ("mqtt_2_influx.py", ["--log-level", "loud"]),
            ("button_server.py", ["--config"]),
            ("plug_2_mqtt.py", ["credentials.toml"]),
        ],
    )
    def test_usage(self, tmp_path: Path, script: str, arguments: Sequence[str]) -> None:
        done = run_to_end(script, *arguments, cwd=tmp_path)
        assert done.returncode == 2
        assert done.stderr.startswith(f"usage: {script}")

    @pytest.mark.parametrize("script", SCRIPTS)
    def test_version(self, tmp_path: Path, script: str) -> None:
        version = run_to_end(script, "--version", cwd=tmp_path)
        assert version.returncode == 0
        assert version.stdout.split()[0] == script
        assert version.stdout.split()[1].count(".") == 2

    def test_help(self, tmp_path: Path) -> None:
        done = run_to_end("plug_2_mqtt.py", "--help", cwd=tmp_path)
        assert done.returncode == 0
        for option in ("--config", "--check", "--log-level", "--version"):
            assert option in done.stdout


class TestWhereTheConfigurationIs:
    """Whatever the working directory."""

    @pytest.fixture
    def tables(self, mosquitto: Mosquitto) -> dict[str, Table]:
        return {"MQTT": mqtt_table(mosquitto.port)}

    def ok(self, mosquitto: Mosquitto) -> str:
        return f"ok broker {HOST}:{mosquitto.port}\n"

    def test_systemd_s_credential(
        self, tmp_path: Path, mosquitto: Mosquitto, tables: dict[str, Table]
    ) -> None:
        write_config(tmp_path / "credentials.toml", tables)
        (tmp_path / "elsewhere").mkdir()
        env = {"CREDENTIALS_DIRECTORY": str(tmp_path)}
        done = run_to_end("button_server.py", "--check", env=env, cwd=tmp_path / "elsewhere")
        assert (done.returncode, done.stdout) == (0, self.ok(mosquitto))

    def test_path_is_relative_to_the_working_directory(
        self, tmp_path: Path, mosquitto: Mosquitto, tables: dict[str, Table]
    ) -> None:
        write_config(tmp_path / "mine.toml", tables)
        done = run_to_end("button_server.py", "--check", "--config", "mine.toml", cwd=tmp_path)
        assert (done.returncode, done.stdout) == (0, self.ok(mosquitto))

    @pytest.mark.parametrize("has_empty_credentials", [False, True])
    def test_file_beside_the_script(self, tmp_path: Path, *, has_empty_credentials: bool) -> None:
        env = {"CREDENTIALS_DIRECTORY": str(tmp_path)} if has_empty_credentials else {}
        done = run_to_end("plug_2_mqtt.py", "--check", env=env, cwd=tmp_path)
        lines = done.stdout.splitlines()
        assert done.returncode in (0, 1)
        assert [line.split()[1] for line in lines] == ["broker", "switch"]
        assert "localhost:1883" in lines[0]
        assert "my_strom-001 at localhost:8001" in lines[1]

    def test_founding_document_s_file_is_valid(self, tmp_path: Path) -> None:
        config = tmp_path / "credentials.toml"
        config.write_text(
            '[MQTT]\nbroker = "broker.invalid"\nusername = "pi"\npassword = "x"\n'
            '[InfluxDB]\ntoken = "x"\norg = "home"\nbucket = "energy"\n'
            '[MyStromSwitch]\nname = "my_strom-001"\nmacAdress = "08:3A:F2:00:00:01"\n'
        )
        for name in SCRIPTS:
            with Script(name, config) as script:
                script.wait_for_log(r"broker broker\.invalid:1883: ", timeout=30)
                assert script.terminate().status == 0

    def test_file_that_everybody_can_read_is_a_warning(
        self, tmp_path: Path, mosquitto: Mosquitto, tables: dict[str, Table]
    ) -> None:
        config = write_config(tmp_path / "c.toml", tables)
        for mode, is_warned in ((0o600, False), (0o640, False), (0o644, True)):
            config.chmod(mode)
            done = run_to_end("button_server.py", "--config", config, "--check", cwd=tmp_path)
            assert (done.returncode, done.stdout) == (0, self.ok(mosquitto))
            assert (" WARNING " in done.stderr) is is_warned
