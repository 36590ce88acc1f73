"""Run the whole chain on this machine: simulated switches and sensors, everything else for real.

On a terminal it shows what happens until Ctrl-C; otherwise, or with --seconds, it runs that long,
presses a button, checks that every point arrived, and says so with its exit status.
"""

import argparse
import contextlib
import signal
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import paho.mqtt.client as mqtt
import requests
from paho.mqtt.enums import CallbackAPIVersion

from demo.parts import HOST, InfluxDB1, Mosquitto, Script, write_config
from demo.process import free_port, wait_until
from demo.sensors import Network, Series
from demo.stored import DATABASE, are_stored, points_by_switch, points_stored, samples_stored
from demo.switches import SimulatedSwitches, SwitchSpec

SWITCHES = [
    SwitchSpec(name="fridge", model="v2", load="fridge"),
    SwitchSpec(name="lamp", model="eu", load="lamp"),
    SwitchSpec(name="washing_machine", model="v2-3.82", load="washing_machine"),
    SwitchSpec(name="old_lamp", model="v1", load="lamp"),
    SwitchSpec(name="door", model="zero", load="lamp"),
]
PRESSED = "lamp"
SCRIPTS = ("mqtt_2_influx.py", "plug_2_mqtt.py", "button_server.py")
WRITER_ONLINE = f"@update/mqtt_2_influx-{socket.gethostname()}/monitoring/online"
LORAWAN_TOPIC = "application/+/device/+/event/+"


class Chain(NamedTuple):
    """Everything that runs."""

    folder: Path
    switches: SimulatedSwitches
    broker: Mosquitto
    database: InfluxDB1
    scripts: list[Script]
    button_url: str
    listener: "Listener"
    sensors: Network


class Listener:
    """Counts what is published, beside the writer: topic and time name a measurement."""

    def __init__(self, port: int) -> None:
        """Subscribe."""
        self._lock = threading.Lock()
        self._measurements: set[tuple[str, int]] = set()
        self._client = mqtt.Client(CallbackAPIVersion.VERSION2)
        self._client.on_connect = lambda client, *_: client.subscribe("@update/+/monitoring/#", 1)
        self._client.on_message = self._count
        self._client.connect(HOST, port)
        self._client.loop_start()

    def close(self) -> None:
        """Disconnect."""
        self._client.disconnect()
        self._client.loop_stop()

    def __len__(self) -> int:
        """Measurements published so far."""
        with self._lock:
            return len(self._measurements)

    def _count(self, _client: mqtt.Client, _userdata: Any, message: mqtt.MQTTMessage) -> None:
        measurement = msgspec.json.decode(message.payload)
        if message.topic == WRITER_ONLINE and measurement["value"] == 0:
            return  # its farewell: it stores no more
        with self._lock:
            self._measurements.add((message.topic, measurement["time"]))


def main() -> int:
    """Run the demo; return its exit status."""
    parser = argparse.ArgumentParser(prog="demo/run.sh", description=__doc__)
    parser.add_argument("--seconds", type=float, help="run so long, check everything, then end")
    seconds = parser.parse_args().seconds
    if seconds is None and not sys.stdout.isatty():
        seconds = 30.0
    ended = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: ended.set())
    with (
        tempfile.TemporaryDirectory(prefix="openenergy-demo-") as folder,
        running_chain(Path(folder)) as chain,
    ):
        if seconds is None:
            watch(chain, ended)
            return 0
        was_interrupted = ended.wait(seconds)
        return 1 if was_interrupted else check(chain)


@contextlib.contextmanager
def running_chain(folder: Path) -> Iterator[Chain]:
    """Start everything, in the order of the data; end it in the opposite order."""
    with contextlib.ExitStack() as stack:
        switches = stack.enter_context(SimulatedSwitches(SWITCHES))
        broker = stack.enter_context(Mosquitto(folder / "mosquitto"))
        database = stack.enter_context(InfluxDB1(folder / "influxdb"))
        database.create_database(DATABASE)
        listener = Listener(broker.port)
        stack.callback(listener.close)
        button_port = free_port()
        config = write_config(
            folder / "credentials.toml",
            {
                "MQTT": {"broker": broker.host, "port": broker.port},
                "InfluxDB": {"url": database.url, "database": DATABASE},
                "MyStromSwitch": [
                    {"name": switch.name, "host": f"{HOST}:{switch.port}"}
                    for switch in switches.values()
                ],
                "ButtonServer": {"port": button_port},
                "LoRaWAN": {"topics": [LORAWAN_TOPIC]},
            },
        )
        scripts = []
        for name in SCRIPTS:
            scripts.append(stack.enter_context(Script(name, config)))
            # The writer first: what is published before it ever subscribed is not for it.
            scripts[-1].wait_for_log("connected to broker")
        button_url = f"http://{HOST}:{button_port}"
        wait_until(lambda: _is_healthy(button_url), 15, "button server")
        sensors = stack.enter_context(Network(broker.host, broker.port))
        yield Chain(folder, switches, broker, database, scripts, button_url, listener, sensors)


def check(chain: Chain) -> int:
    """Press a button, end the scripts, and compare what was published with what is stored."""
    problems = [f"{script.name} has ended" for script in chain.scripts if not script.running]
    press_ms = press(chain)
    if press_ms is None:
        problems.append(f"the button for {PRESSED} did not move its relay")
    chain.sensors.stop()
    # The writer is ended last: what is published until then is its to store.
    for script in (*chain.scripts[1:], chain.scripts[0]):
        ended = script.terminate()
        if ended.status != 0:
            problems.append(f"{script.name} ended with status {ended.status}:\n{script.log()}")
    stored = points_stored(chain.database)
    with contextlib.suppress(TimeoutError):
        wait_until(lambda: len(chain.listener) >= stored, 5, "the same messages at the listener")
    published = len(chain.listener)
    if published != stored or stored == 0:
        problems.append("not everything that was published is stored")
    silent = chain.switches.keys() - set(points_by_switch(chain.database))
    if silent:
        problems.append(f"no points of {', '.join(sorted(silent))}")
    wanted = chain.sensors.delivered()
    problems += [
        f"{series.sensor.name}: not each {series.quantity} {series.channel} is stored once"
        for series, samples in wanted.items()
        if not are_stored(samples, samples_stored(chain.database, series))
    ]
    if not wanted:
        problems.append("no sensor sent anything")
    print(f"messages published  {published}")
    print(f"points stored       {stored}")
    print(f"sensor frames       {chain.sensors.sent}, of which lost {chain.sensors.lost}")
    print(f"samples in them     {sum(map(len, wanted.values()))}, those repeated counted once")
    print(f"button to relay     {'failed' if press_ms is None else f'{press_ms:.0f} ms'}")
    print("\n".join(problems) if problems else "everything works")
    return 1 if problems else 0


def press(chain: Chain) -> float | None:
    """Switch the lamp over; return how long it took until it was confirmed (ms), None if not."""
    switch = chain.switches[PRESSED]
    wanted = not switch.relay
    began = time.monotonic()
    answer = requests.post(
        f"{chain.button_url}/plugs/{PRESSED}/relay", json={"value": "toggle"}, timeout=10
    )
    took_ms = (time.monotonic() - began) * 1000
    return took_ms if answer.ok and answer.json()["confirmed"] and switch.relay is wanted else None


def watch(chain: Chain, ended: threading.Event) -> None:
    """Show what happens, once a second, until told to end."""
    while not ended.wait(1):
        plugs = requests.get(f"{chain.button_url}/plugs", timeout=5).json()
        stored = points_by_switch(chain.database)
        lines = [f"{'switch':18}{'relay':8}{'power':>10}{'points':>10}"]
        for plug in plugs:
            relay = "on" if plug["relay"] == "close" else "off"
            power = "" if plug["power"] is None else f"{plug['power']:.1f} W"
            lines.append(f"{plug['name']:18}{relay:8}{power:>10}{stored.get(plug['name'], 0):>10}")
        lines += ["", f"{'sensor':18}{'':8}{'newest':>10}{'samples':>10}"]
        lines += [sensor_line(chain.database, series) for series in chain.sensors.delivered()]
        lines += [
            "",
            f"broker    {chain.broker.host}:{chain.broker.port}",
            f"InfluxDB  {chain.database.url}, database {DATABASE}",
            f"buttons   {chain.button_url}/",
            "",
            "Try, in another terminal:",
            f'  curl --json \'{{"value": "toggle"}}\' {chain.button_url}/plugs/{PRESSED}/relay',
            f"  mosquitto_sub -p {chain.broker.port} -v -t '@update/#' -t '{LORAWAN_TOPIC}'",
            f"  influx -port {chain.database.port} -database {DATABASE} -execute 'SHOW SERIES'",
            "",
            "Ctrl-C ends everything and removes it.",
        ]
        # Home, each line with the rest of it erased, then everything below erased.
        print(
            "\033[H" + "".join(f"{line}\033[K\n" for line in lines) + "\033[J", end="", flush=True
        )
        for script in chain.scripts:
            if not script.running:
                raise SystemExit(f"{script.name} has ended:\n{script.log()}")


def sensor_line(database: InfluxDB1, series: Series) -> str:
    """Return what a sensor measured last, and how many samples of it are stored."""
    stored = samples_stored(database, series)
    newest = f"{stored[max(stored)]:.1f}" if stored else ""
    name = f"{series.sensor.name}: {series.quantity} {series.channel}"
    return f"{name:26}{newest:>10}{len(stored):>10}"


def _is_healthy(button_url: str) -> bool:
    try:
        return requests.get(f"{button_url}/health", timeout=1).ok
    except requests.RequestException:
        return False


if __name__ == "__main__":
    sys.exit(main())
