"""What the tests of the scripts share: their configuration, and ways to look at what they do."""

import contextlib
import json
import os
import random
import signal
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from paho.mqtt.client import Client, MQTTMessage, MQTTv5
from paho.mqtt.enums import CallbackAPIVersion

from demo.parts import HOST, REPOSITORY, Mosquitto, Script, write_config
from demo.process import Ended, wait_until
from demo.switches import SimulatedSwitch, SimulatedSwitches, SwitchSpec
from tests.mqtt_client import Message, MqttClient

Table = dict[str, Any]


def mqtt_table(port: int, **options: object) -> Table:
    return {"broker": HOST, "port": port, **options}


def switch_table(switch: SimulatedSwitch, **options: object) -> Table:
    """Describe a switch, which is read often: a test has no time to lose."""
    host = f"{switch.host}:{switch.port}"
    return {"name": switch.name, "host": host, "interval": 0.1, "timeout": 0.5, **options}


def command_topic(switch: str) -> str:
    return f"@set/{switch}/control/relay"


def state_topic(switch: str, quantity: str) -> str:
    return f"@update/{switch}/monitoring/{quantity}"


def script_online_topic(script: str) -> str:
    return state_topic(f"{script}-{socket.gethostname()}", "online")


def now_ms() -> int:
    return time.time_ns() // 1_000_000


def moves(switch: SimulatedSwitch) -> list[str]:
    """Return the requests that were more than a question."""
    return [f"{each.path}?{each.query}" for each in switch.requests if each.path != "/report"]


def readings(switch: SimulatedSwitch) -> list[float]:
    """Return when the switch was read (monotonic, s)."""
    return [each.time for each in list(switch.requests) if each.path == "/report"]


def wait_for_readings(switch: SimulatedSwitch, count: int, timeout: float = 15) -> None:
    """Wait for `count` readings more."""
    target = len(readings(switch)) + count
    what = f"{count} readings of {switch.name}"
    wait_until(lambda: len(readings(switch)) >= target, timeout, what)


def warnings(log: str) -> list[str]:
    return [line for line in log.splitlines() if " WARNING " in line or " ERROR " in line]


def retained(broker: Mosquitto) -> dict[str, MQTTMessage]:
    """Return what the broker has for those who come now, by topic."""
    messages: dict[str, MQTTMessage] = {}
    fence_passed = threading.Event()

    def remember(_client: Client, _userdata: object, message: MQTTMessage) -> None:
        if message.retain:  # by default that is not as published: what is new comes without
            messages[message.topic] = message
        elif message.topic == "fence":
            fence_passed.set()

    client = Client(CallbackAPIVersion.VERSION2, protocol=MQTTv5)
    client.on_connect = lambda client, *_: client.subscribe("#", 1)
    client.on_subscribe = lambda client, *_: client.publish("fence", b"", 1)
    client.on_message = remember
    client.connect(broker.host, broker.port)
    client.loop_start()
    try:
        wait_until(fence_passed.is_set, 10, "retained messages")
    finally:
        client.disconnect()
        client.loop_stop()
    return messages


def retained_value(broker: Mosquitto, topic: str) -> float | None:
    message = retained(broker).get(topic)
    return None if message is None else float(json.loads(message.payload)["value"])


def interrupt(script: Script) -> Ended:
    """Send SIGINT, as Ctrl-C does."""
    sent = time.monotonic()
    os.kill(script.pid, signal.SIGINT)
    wait_until(lambda: not script.running, 15, f"end of {script.name}")
    return Ended(script.terminate().status, time.monotonic() - sent)


def run_to_end(
    script: str, *arguments: str | Path, env: Mapping[str, str] | None = None, cwd: Path
) -> subprocess.CompletedProcess[str]:
    """Run a script that ends by itself, in the folder `cwd`, with little but `env` around it."""
    return subprocess.run(
        [sys.executable, str(REPOSITORY / script), *map(str, arguments)],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
        cwd=cwd,
        env={"PATH": os.defpath, "LANG": "C.UTF-8", "HOME": str(cwd)} | dict(env or {}),
    )


def median(values: Iterable[float]) -> float:
    return statistics.median(values)


@contextlib.contextmanager
def announced_switch(name: str, *, is_heard: bool = True) -> Iterator[SimulatedSwitch]:
    """Run a switch that says every 0.2 s where it is. Such switches are always at port 80."""
    host = f"127.79.{random.randrange(256)}.{random.randrange(1, 255)}"
    switches = SimulatedSwitches(
        [SwitchSpec(name, host=host, port=80)],
        announce_to=("255.255.255.255", 7979) if is_heard else None,
        announce_interval=0.2,
    )
    with contextlib.ExitStack() as running:
        try:
            running.enter_context(switches)
        except PermissionError:
            pytest.skip("port 80 is for root alone")
        yield switches[name]


class Bench(NamedTuple):
    """plug_2_mqtt.py between simulated switches and a broker, and a client that hears it all."""

    broker: Mosquitto
    client: MqttClient
    switches: SimulatedSwitches
    script: Script

    def command(self, switch: str, value: str) -> None:
        self.client.publish(command_topic(switch), {"value": value})

    def values(self, switch: str, quantity: str) -> list[float]:
        """Return what was published, in order."""
        return [each.json["value"] for each in self.client.messages(state_topic(switch, quantity))]

    def wait_for_values(self, switch: str, quantity: str, count: int) -> list[float]:
        """Wait until `count` values were published since the start, or since `client.clear()`."""
        what = f"{count} values of {switch} {quantity}"
        wait_until(lambda: len(self.values(switch, quantity)) >= count, 15, what)
        return self.values(switch, quantity)

    def wait_for_value(self, switch: str, quantity: str, value: float) -> Message:
        """Return the first message with `value` since the start, or since `client.clear()`."""
        topic = state_topic(switch, quantity)
        return self.client.wait_for(topic, lambda each: each.json["value"] == value)


@contextlib.contextmanager
def plugs(
    folder: Path,
    specs: Sequence[SwitchSpec],
    *,
    mqtt: Table | None = None,
    options: Mapping[str, Table] | None = None,
    broker: Mosquitto | None = None,
) -> Iterator[Bench]:
    """Run it all; `mqtt` is added to [MQTT], `options` by name to the switches."""
    with contextlib.ExitStack() as running:
        broker = broker or running.enter_context(Mosquitto(folder / "mosquitto"))
        client = running.enter_context(MqttClient(broker.host, broker.port))
        switches = running.enter_context(SimulatedSwitches(specs))
        config = write_config(
            folder / "plugs.toml",
            {
                "MQTT": mqtt_table(broker.port) | (mqtt or {}),
                "MyStromSwitch": [
                    switch_table(switch, **(options or {}).get(name, {}))
                    for name, switch in switches.items()
                ],
            },
        )
        script = running.enter_context(Script("plug_2_mqtt.py", config))
        running.callback(lambda: print(script.log_path.read_text()))  # of a test that fails
        yield Bench(broker, client, switches, script)
