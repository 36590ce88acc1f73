"""Machines with openenergy installed, and what it measures and talks to, on the host's loopback."""

import functools
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import requests

from demo.parts import HOST, InfluxDB1, Mosquitto, write_config
from demo.process import free_port, wait_until
from demo.switches import SimulatedSwitches, SwitchSpec
from tests.system.machine import Machine, debian, obstacle

SERVICES = ("button_server", "mqtt_2_influx", "plug_2_mqtt")
INSTALL = "/home/pi/openenergy/systemd/install.sh"
UNINSTALL = "/home/pi/openenergy/systemd/uninstall.sh"
CONFIGURATION = "/etc/openenergy/credentials.toml"


class Installation(NamedTuple):
    """What install.sh did on a new machine, and the machine's files after it was shut down."""

    layers: tuple[Path, ...]
    status: int
    output: str
    states: tuple[str, ...]


class Surroundings:
    """What the machine is connected to: one switch, the broker, the database; and a user."""

    def __init__(self, folder: Path, switches: SimulatedSwitches, database: InfluxDB1) -> None:
        self.switch = switches["fridge"]
        self.database = database
        self.broker = Mosquitto(folder / "mosquitto")
        self.button_url = f"http://{HOST}:{(port := free_port())}"
        self.tables: dict[str, dict[str, Any]] = {
            "MQTT": {"broker": HOST, "port": self.broker.port},
            "InfluxDB": {"url": database.url, "database": "energy"},
            "MyStromSwitch": {"name": "fridge", "host": f"{HOST}:{self.switch.port}"},
            "ButtonServer": {"port": port},
        }

    def count_points(self, database: str = "energy") -> int:
        """Return how many readings of the switch's power are stored."""
        rows = self.database.query("SELECT count(power) FROM power", database)
        return int(rows[0]["count"]) if rows else 0

    def wait_for_points(self, more: int, database: str = "energy") -> None:
        """Wait until so many more readings are stored than now."""
        wanted = self.count_points(database) + more
        wait_until(
            lambda: self.count_points(database) >= wanted, 60 + more, f"{more} points", every=0.5
        )

    def press_button(self) -> None:
        """Switch the relay over by REST, as Grafana does; wait until the button server knows it."""
        relay = f"{self.button_url}/plugs/fridge/relay"
        wait_until(lambda: _answers(relay), 30, "the plug at the button server", every=0.2)
        was_closed = self.switch.relay
        answer = requests.post(relay, json={"value": "toggle"}, timeout=10)
        assert answer.ok, answer.text
        assert self.switch.relay is not was_closed


def _answers(url: str) -> bool:
    try:
        return requests.get(url, timeout=5).ok
    except requests.ConnectionError:
        return False


def use_free_ports(machine: Machine) -> None:
    """Change the ports in the user's template: those of the host, which we share, may be in use."""
    template = machine.path("/home/pi/openenergy/credentials.toml")
    ports = re.compile(r"# (port = )\d+|(localhost:)\d+")
    text = ports.sub(lambda port: f"{port[1] or port[2]}{free_port()}", template.read_text())
    template.write_text(text)


def configure(
    machine: Machine, tables: Mapping[str, Mapping[str, Any]], file: str = CONFIGURATION
) -> None:
    """Write a configuration of the machine."""
    machine.path(file).parent.mkdir(parents=True, exist_ok=True)
    write_config(machine.path(file), tables)


InstalledOn = Callable[[str], Installation]
BootMachine = Callable[..., Machine]


@pytest.fixture(scope="session")
def installed_on(tmp_path_factory: pytest.TempPathFactory) -> Iterator[InstalledOn]:
    """Install everything on a new machine with the given Debian, once per session."""
    if reason := obstacle():
        pytest.skip(reason)
    folder = tmp_path_factory.mktemp("installed")

    @functools.cache
    def install(suite: str) -> Installation:
        machine = Machine(folder / suite, [debian(suite)])
        machine.copy_project()
        use_free_ports(machine)
        with machine:
            done = machine.run(INSTALL, timeout=300)
            states = tuple(machine.show(name, "ActiveState") for name in SERVICES)
            machine.power_off()
        return Installation(machine.layers, done.returncode, done.stdout, states)

    yield install
    shutil.rmtree(folder)


@pytest.fixture
def surroundings(tmp_path: Path, influxdb: InfluxDB1) -> Iterator[Surroundings]:
    with SimulatedSwitches([SwitchSpec("fridge", "v2", "fridge")]) as switches:
        around = Surroundings(tmp_path, switches, influxdb)
        with around.broker:
            yield around


@pytest.fixture
def boot(
    tmp_path: Path, installed_on: InstalledOn, surroundings: Surroundings
) -> Iterator[BootMachine]:
    """Boot a machine with openenergy installed, and configured for the surroundings."""
    machines: list[Machine] = []

    def boot_machine(suite: str = "bookworm") -> Machine:
        machine = Machine(tmp_path / "machine", installed_on(suite).layers)
        machines.append(machine)
        configure(machine, surroundings.tables)
        return machine.start()

    yield boot_machine
    for machine in machines:
        if machine.running:
            print(machine.run("journalctl", "--quiet", "--no-pager", "--priority=notice").stdout)
        machine.stop()
    shutil.rmtree(tmp_path / "machine", ignore_errors=True)
