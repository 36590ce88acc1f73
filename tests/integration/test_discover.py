"""plug_2_mqtt.py --discover: the switches in this network, as lines to configure them."""

import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import tomli

from demo.parts import REPOSITORY, Mosquitto, Script, write_config
from demo.process import wait_until
from demo.switches import SimulatedSwitches, SwitchSpec
from tests.integration.running import mqtt_table

BROADCAST = ("255.255.255.255", 7979)


@pytest.fixture
def switches() -> Iterator[SimulatedSwitches]:
    """Announce three switches; each test has its own, as others may be announced meanwhile."""
    salt, host = random.randrange(10**9), f"127.78.{random.randrange(256)}.{{}}"
    specs = [
        SwitchSpec(f"{name}-{salt}", model=model, host=host.format(number))
        for number, (name, model) in enumerate([("a", "v2"), ("b", "zero"), ("c", "eu")], 1)
    ]
    with SimulatedSwitches(specs, announce_to=BROADCAST, announce_interval=0.2) as running:
        yield running


def discover(folder: Path, config: Path, macs: list[str]) -> tuple[int, str, str]:
    """Run until all are heard, then press Ctrl-C; return status, output, errors."""
    output, errors = folder / "output", folder / "errors"
    with output.open("wb") as out, errors.open("wb") as err:
        process = subprocess.Popen(
            [
                # Where the tests run in the background of a shell, Ctrl-C is ignored and inherited.
                *("env", "--default-signal=INT"),
                *(sys.executable, str(REPOSITORY / "plug_2_mqtt.py"), "--discover"),
                *("--config", config),
            ],
            stdout=out,
            stderr=err,
        )
    try:
        wait_until(lambda: all(mac in output.read_text() for mac in macs), 15, "all switches")
        process.send_signal(signal.SIGINT)
        status = process.wait(10)
    finally:
        process.kill()
        process.wait()
    return status, output.read_text(), errors.read_text()


def test_the_lines_to_paste_are_a_configuration(
    tmp_path: Path, switches: SimulatedSwitches
) -> None:
    macs = [switch.mac for switch in switches.values()]
    status, output, errors = discover(tmp_path, tmp_path / "none.toml", macs)
    assert status == 0
    assert errors.startswith("listening on UDP port 7979 for 20 s")
    assert "Traceback" not in errors
    found = {each["macAdress"]: each for each in tomli.loads(output)["MyStromSwitch"]}
    for switch, model in zip(
        switches.values(), ("Switch CH v2", "Switch Zero", "Switch EU"), strict=True
    ):
        entry = {"name": f"mystrom-switch-{switch.mac[-6:].lower()}", "macAdress": switch.mac}
        assert found[switch.mac] == entry
        assert f"[[MyStromSwitch]]  # {model}, at {switch.host}\n" in output
        assert output.count(switch.mac) == 1


def test_what_is_configured_is_marked_and_who_listens_already_goes_on(
    tmp_path: Path, mosquitto: Mosquitto, switches: SimulatedSwitches
) -> None:
    by_mac, by_address, new = switches.values()
    config = write_config(
        tmp_path / "plugs.toml",
        {
            "MQTT": mqtt_table(mosquitto.port),
            "MyStromSwitch": [
                {"name": "by-mac", "macAdress": by_mac.mac[-6:]},
                {"name": "by-address", "host": by_address.host},
            ],
        },
    )
    with Script("plug_2_mqtt.py", config) as script:
        script.wait_for_log("reading 2 switches")
        macs = [switch.mac for switch in switches.values()]
        status, output, _ = discover(tmp_path, config, macs)
        assert script.running
        assert "cannot listen" not in script.log()
    assert status == 0
    assert f"# configured as by-mac: Switch CH v2, MAC {by_mac.mac}" in output
    assert f"# configured as by-address: Switch Zero, MAC {by_address.mac}" in output
    assert f'macAdress = "{new.mac}"' in output
