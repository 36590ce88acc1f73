"""Real servers, our scripts and an independent client, one of each per test."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from demo.parts import InfluxDB1, Mosquitto, Script, VictoriaMetrics, write_config
from tests.mqtt_client import MqttClient

ConfigFile = Callable[..., Path]
RunScript = Callable[..., Script]


@pytest.fixture
def mosquitto(tmp_path: Path) -> Iterator[Mosquitto]:
    with Mosquitto(tmp_path / "mosquitto") as broker:
        yield broker


@pytest.fixture
def influxdb(tmp_path: Path) -> Iterator[InfluxDB1]:
    with InfluxDB1(tmp_path / "influxdb") as database:
        database.create_database("energy")
        yield database


@pytest.fixture
def victoria_metrics(tmp_path: Path) -> Iterator[VictoriaMetrics]:
    with VictoriaMetrics(tmp_path / "victoria-metrics") as database:
        yield database


@pytest.fixture
def mqtt_client(mosquitto: Mosquitto) -> Iterator[MqttClient]:
    with MqttClient(mosquitto.host, mosquitto.port) as client:
        yield client


@pytest.fixture
def config_file(tmp_path: Path) -> ConfigFile:
    """Write a configuration: from tables, or TOML text as it is."""

    def write(tables: Mapping[str, Any] | str, name: str = "credentials.toml") -> Path:
        path = tmp_path / name
        if isinstance(tables, str):
            path.touch(mode=0o600)
            path.write_text(tables)
            return path
        return write_config(path, tables)

    return write


@pytest.fixture
def run_script() -> Iterator[RunScript]:
    """Start scripts, arguments as of `demo.parts.Script`; those that still run are stopped."""
    scripts: list[Script] = []
    with ExitStack() as running:

        def run(name: str, config_path: Path, **options: Any) -> Script:
            script = Script(name, config_path, **options)
            scripts.append(running.enter_context(script))
            return script

        yield run
    for script in scripts:  # pytest shows this of a test that failed
        print(f"--- {script.log_path}\n{script.log_path.read_text()}")
