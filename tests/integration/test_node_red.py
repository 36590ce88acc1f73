"""The flows for Node-RED, in the real Node-RED, with the maker's library for Adeunis devices."""

import base64
import contextlib
import json
import shutil
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from http import HTTPStatus
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import requests
from playwright.sync_api import sync_playwright

from demo.parts import HOST, REPOSITORY, Mosquitto
from demo.process import Program, find_program, free_port, wait_until
from demo.switches import SwitchSpec
from openenergy.lorawan.decoders import DECODERS
from openenergy.lorawan.sample import Decoded
from tests.integration.running import moves, plugs
from tests.mqtt_client import MqttClient
from tests.unit.lorawan import vectors

SHIPPED = REPOSITORY / "integrations" / "node-red"
DEV_EUI = "0018b24000000001"
AT_16_4_C = "3000 00a4 0186"  # of TEMP 4
UPLINK_MS = 1_763_763_243_123
UPLINK_TIME = "2025-11-21T22:14:03.123Z"
LONGEST_PERIOD_S = 31 * 86_400
READ_THOUGH_TOO_SHORT = {
    "30600511000002d21d010201903e00e802e3",
    "4000012103bd0000047d",
    "49e03234303234333239313035304b4354000004f0a301cc29d4059f06e3055f5b0800cebea400276edd024b8e43303100",
    "6b840000ed3a0b52",
}
WEBSOCKET = {
    "Connection": "Upgrade",
    "Upgrade": "websocket",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
}
# The library rounds analog values to three decimals, in V and mA.
ROUNDING = {"V": 0.0005, "A": 0.0005e-3}

Reading = dict[str, Any]
Readings = dict[tuple[str, int], Reading]
"""By quantity and time in ms since 1970 UTC."""


def flow(name: str, broker: Mosquitto, plug: str = "") -> list[dict[str, Any]]:
    """Return a shipped flow, with this broker's port and this plug's name."""
    nodes: list[dict[str, Any]] = json.loads((SHIPPED / f"{name}.json").read_text("utf-8"))
    (server,) = (node for node in nodes if node["type"] == "mqtt-broker")
    assert (server["broker"], server["port"]) == ("localhost", "1883")
    server |= {"broker": broker.host, "port": str(broker.port)}
    for node in nodes:
        for variable in node.get("env", []):
            if plug and variable["name"] == "PLUG":
                variable["value"] = plug
    return nodes


class NodeRed(Program):
    """Node-RED with the shipped settings and packages, in a folder of its own."""

    def __init__(self, folder: Path, flows: list[dict[str, Any]]) -> None:
        folder.mkdir()
        for name in ("package.json", "package-lock.json", "settings.js"):
            shutil.copy(SHIPPED / name, folder)
        (folder / "node_modules").symlink_to(SHIPPED / "node_modules")
        (folder / "flows.json").write_text(json.dumps(flows))
        self.url = f"http://{HOST}:{free_port()}"
        red = folder / "node_modules" / "node-red" / "red.js"
        argv = [find_program("node"), str(red), "--userDir", str(folder)]
        argv += ["--port", self.url.rpartition(":")[2]]
        super().__init__("node-red", argv, folder / "node-red.log")

    def ready(self) -> bool:
        """Whether its flows run, and are connected to the broker; it subscribes afterwards."""
        return "Started flows" in self.log() and "Connected to broker" in self.log()

    def press(self, node: str) -> None:
        """Press the button of an inject node, as the editor does."""
        requests.post(f"{self.url}/inject/{node}", timeout=10).raise_for_status()

    def context(self, tab: str, key: str) -> Any:
        """Return what a flow keeps under a key."""
        answer = requests.get(f"{self.url}/context/flow/{tab}/{key}", timeout=10)
        answer.raise_for_status()
        kept = answer.json()["msg"]
        return None if kept == "(undefined)" else json.loads(kept)


def uplink(
    device: object = "x", decoder: object = "adeunis/temp4", frame: str = AT_16_4_C
) -> dict[str, Any]:
    """Return an event of ChirpStack."""
    return {
        "time": UPLINK_TIME,
        "deviceInfo": {"deviceName": device, "devEui": DEV_EUI, "tags": {"decoder": decoder}},
        "data": base64.b64encode(bytes.fromhex(frame)).decode(),
    }


class House(NamedTuple):
    """Node-RED with the LoRaWAN flow, and a client that plays ChirpStack and hears it all."""

    node_red: NodeRed
    client: MqttClient

    def send(self, device: str, product: str, frame: str, **changed: object) -> None:
        self.publish(uplink(device, f"adeunis/{product}", frame) | changed)

    def publish(self, payload: bytes | dict[str, Any]) -> None:
        self.client.publish(f"application/1/device/{DEV_EUI}/event/up", payload)

    def readings(self) -> dict[str, Readings]:
        """Return what was published, by device."""
        found: dict[str, Readings] = defaultdict(dict)
        for message in self.client.messages("@update/+/monitoring/+"):
            assert (message.qos, message.retain) == (1, False)
            reading = message.json
            _, device, _, quantity = message.topic.split("/")
            key = (quantity, reading.pop("time"))
            assert key not in found[device], f"twice: {message}"
            found[device][key] = reading
        return found

    def fence(self, name: str) -> None:
        """Wait until everything sent before has been published."""
        self.send(name, "temp4", AT_16_4_C)
        self.client.wait_for(f"@update/{name}/monitoring/temperature_1", timeout=60)

    def wait_until_heard(self) -> None:
        """Wait until Node-RED has subscribed: what is sent before its first start is lost."""

        def heard() -> bool:
            self.send("anybody", "temp4", AT_16_4_C)
            return bool(self.client.messages("@update/anybody/#"))

        wait_until(heard, 30, "an answer of Node-RED", every=0.2)
        self.fence("everybody")
        self.client.clear()


def open_house(running: contextlib.ExitStack, folder: Path, queue: int) -> House:
    """Start a broker that queues so many messages, and Node-RED with both flows."""
    limit = f"max_queued_messages {queue}\n"
    broker = running.enter_context(Mosquitto(folder / "mosquitto", extra_config=limit))
    client = running.enter_context(MqttClient(broker.host, broker.port))
    both = flow("lorawan_flow", broker) + flow("plug_flow", broker, "fridge")
    # As its README has it, with jq: the broker stands in both.
    once = list({node["id"]: node for node in both}.values())
    assert len(once) == len(both) - 1
    node_red = NodeRed(folder / "node-red", once)
    running.callback(lambda: print(node_red.log()[-5000:]))  # of a test that fails
    running.enter_context(node_red)
    house = House(node_red, client)
    house.wait_until_heard()
    return house


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    with contextlib.ExitStack() as running:
        # As integrations/mosquitto has it: here come thousands of uplinks at once.
        yield open_house(running, tmp_path_factory.mktemp("house"), queue=100_000)


def frames() -> list[tuple[str, str, str]]:
    """Return name of a device, product and frame of each vector."""
    return [
        (f"v{number}", vector["device"], vector["hex"])
        for number, vector in enumerate(vectors.load("adeunis.jsonl"))
    ]


def decode(product: str, frame: str) -> Decoded:
    return DECODERS[f"adeunis/{product}"](1, bytes.fromhex(frame))


def expected(decoded: Decoded, told_s: float = 0) -> Readings:
    """Return what shall be published of a frame, by quantity and time.

    `told_s` is the period that the device has told before.
    """
    found: Readings = {}
    period_s = decoded.periods.get(decoded.series, told_s)
    for sample in decoded.samples:
        if sample.age == 0 or period_s:
            channel = sample.channel.replace("+", "plus")
            quantity = sample.quantity + (f"_{channel}" if channel else "")
            rounding = ROUNDING.get(sample.unit, 0)
            reading: Reading = {"value": pytest.approx(float(sample.value), rel=1e-9, abs=rounding)}
            if sample.unit:
                reading["unit"] = sample.unit
            found[quantity, UPLINK_MS - round(sample.age * period_s * 1000)] = reading
    return found


def test_golden_vectors_become_the_readings_of_our_own_decoder(house: House) -> None:
    sent = frames()
    assert len(sent) == 1560
    for device, product, frame in sent:
        house.send(device, product, frame)
    house.fence("all-vectors")
    found = house.readings()
    wrong = {
        (device, product, frame): found[device]
        for device, product, frame in sent
        if found[device] != expected(decode(product, frame))
    }
    assert not wrong


def test_a_history_gets_its_times_once_the_device_has_told_its_period(house: House) -> None:
    """Whatever a product's configuration frames say (0x10, 0x11), its next history obeys."""
    histories: dict[tuple[str, str], str] = {}
    configurations = defaultdict(list)
    for _, product, frame in frames():
        decoded = decode(product, frame)
        is_configuration = frame.startswith(("10", "11"))
        if is_configuration and decoded.periods and all(decoded.periods.values()):
            configurations[product].append(frame)
        if any(sample.age for sample in decoded.samples):
            key = (product, decoded.series)
            histories[key] = max(histories.get(key, ""), frame, key=len)
    tried = [
        (f"{product}-{series}-{number}", product, configuration, history)
        for (product, series), history in histories.items()
        for number, configuration in enumerate(configurations[product])
    ]
    assert {product for _, product, _, _ in tried} >= {"pulse3", "pulse4", "temp4", "deltap"}
    for device, product, configuration, history in tried:
        house.send(device, product, configuration, time="2025-01-01T00:00:00Z")
        house.send(device, product, history)
    house.fence("all-histories")
    published = house.readings()
    for device, product, configuration, history in tried:
        decoded = decode(product, history)
        told = decode(product, configuration).periods.get(decoded.series, 0)
        found = published[device]
        del found[("battery_low", 1_735_689_600_000)]  # of the configuration frame itself
        period_s = told if told <= LONGEST_PERIOD_S else 0
        assert found == expected(decoded, period_s), (device, configuration)


def test_samples_that_a_frame_repeats_are_published_once(house: House) -> None:
    every_minute = "102101000ab2001e56000a02eb8d25c5b3054f0366035c161520cf06"
    house.send("meter", "pulse4", every_minute, time="2025-11-21T19:00:00Z")
    # A count of four bytes, then how much it grew since the sample before, each of two bytes.
    for time, frame in (
        ("2025-11-21T20:00:00Z", "5a20 00000102 0001 0001"),
        ("2025-11-21T20:02:02Z", "5a40 00000104 0001 0001 0001"),
    ):
        house.send("meter", "pulse4", frame, time=time)
    house.fence("repeated")
    pulses = sorted(
        (time, reading["value"])
        for (quantity, time), reading in house.readings()["meter"].items()
        if quantity == "pulses_A"
    )
    assert [value for _, value in pulses] == [0x100, 0x101, 0x102, 0x103, 0x104]
    assert len({time for time, _ in pulses}) == len(pulses)


def test_an_alarm_between_two_frames_costs_no_sample(house: House) -> None:
    every_21_hours = "10b100010012000715180d"
    house.send("cellar-door", "temp4", every_21_hours, time="2025-11-01T00:00:00Z")
    for time, frame in (
        ("2025-11-10T00:00:00Z", "5700 0010 0011 0012"),
        ("2025-11-12T12:00:00Z", "5820 01 0013"),
        ("2025-11-12T15:00:00Z", "5740 0013 0014 0015"),
    ):
        house.send("cellar-door", "temp4", frame, time=time)
    house.fence("alarm")
    found = house.readings()["cellar-door"]
    values = [found[key]["value"] for key in sorted(found) if key[0] == "temperature_1"]
    assert values == [1.8, 1.7, 1.6, 2.1, 2.0, 1.9, 1.9]


def test_each_frame_of_a_sequence_tells_its_own_hours(house: House) -> None:
    for time, frame in (
        ("2025-11-21T20:00:00Z", "482001 0001 0000 0002 0000"),
        ("2025-11-21T20:01:00Z", "482002 0003 0000 0004 0000"),
    ):
        house.send("gas", "pulse", frame, time=time)
    house.fence("sequence")
    found = house.readings()["gas"]
    added = [found[key]["value"] for key in sorted(found) if key[0] == "pulses_added_A"]
    assert added == [1, 2, 3, 4]


@pytest.mark.parametrize("end", [NodeRed.stop, NodeRed.kill])
def test_uplinks_wait_for_node_red_and_readings_of_plugs_take_not_their_place(
    tmp_path: Path, end: Callable[[NodeRed], None]
) -> None:
    with contextlib.ExitStack() as running:
        house = open_house(running, tmp_path, queue=10)
        end(house.node_red)
        for number in range(20):
            house.client.publish("@update/fridge/monitoring/power", {"value": number})
        sent = {f"sensor-{number}" for number in range(5)}
        for device in sent:
            house.send(device, "temp4", AT_16_4_C)
        house.node_red.start()
        house.fence("back")
        topics = {message.topic for message in house.client.messages("@update/#")}
        assert {f"@update/{device}/monitoring/temperature_1" for device in sent} <= topics


def test_a_period_outlives_a_restart(house: House) -> None:
    configuration = next(
        frame
        for _, product, frame in frames()
        if product == "temp4" and any(decode(product, frame).periods.values())
    )
    house.send("cellar", "temp4", configuration)
    house.fence("before-restart")
    periods = house.node_red.context("openenergylorawan", "periods")
    assert periods["cellar/"] > 0
    house.node_red.stop()
    house.node_red.start()
    assert house.node_red.context("openenergylorawan", "periods") == periods


@pytest.mark.parametrize(
    ("what", "payload"),
    [
        ("Failed to parse JSON string", b"{not json"),
        ("Invalid JSON string", b"\xff\xfe\x00"),
        (None, b"null"),
        (None, b"[]"),
        (None, b'"text"'),
        ("without deviceName or time", {"deviceInfo": {"tags": {"decoder": "adeunis/temp4"}}}),
        ("without deviceName or time", uplink({"toString": 5})),
        ("without deviceName or time", uplink() | {"time": "yesterday"}),
        ("knows no frame", uplink(decoder="adeunis/nonsense")),
        ("knows no frame", uplink(decoder="adeunis/toString")),
        ("knows no frame", uplink() | {"data": "!!!!"}),
        ("knows no frame", uplink(frame="5700" + 121 * "0010")),  # longer than LoRaWAN can carry
        ("knows no frame", uplink() | {"data": {"toString": 5}}),
        (None, uplink(decoder=["adeunis/temp4"])),
        (None, uplink(decoder={"toString": 5})),
        (None, uplink(decoder="lopy")),
        (None, b"[" * 100_000),
    ],
)
def test_garbage_is_told_and_stops_nothing(
    house: House, what: str | None, payload: bytes | dict[str, Any]
) -> None:
    heard = len(house.node_red.log())
    house.client.clear()
    house.publish(payload)
    house.fence("after-garbage")
    devices = {each.topic.split("/")[1] for each in house.client.messages("@update/#")}
    assert devices == {"after-garbage"}
    assert "Error: " not in house.node_red.log()[heard:]
    if what:
        wait_until(lambda: what in house.node_red.log()[heard:], 10, what)


def test_malformed_frames_publish_nothing_but_four_that_the_library_reads(house: House) -> None:
    bad = [
        vector
        for vector in vectors.load("adeunis_malformed.jsonl")
        if vector["expect"] == "reject" and is_hex(vector)
    ]
    for number, vector in enumerate(bad):
        house.send(f"bad{number}", vector["device"], vector["hex"])
    house.fence("after-malformed")
    found = house.readings()
    published = {
        vector["hex"]
        for number, vector in enumerate(bad)
        if any(quantity != "battery_low" for quantity, _ in found[f"bad{number}"])
    }
    assert published == READ_THOUGH_TOO_SHORT


def is_hex(vector: Mapping[str, str]) -> bool:
    try:
        bytes.fromhex(vector["hex"])
    except ValueError:
        return False
    return True


@pytest.mark.parametrize(
    ("name", "level"),
    [
        ("Büro 2/+#", "B-ro-2---"),
        ("constructor", "constructor"),
        ("toString", "toString"),
        ("__proto__", "__proto__"),
    ],
)
def test_names_become_topic_levels(house: House, name: str, level: str) -> None:
    house.send(name, "temp4", AT_16_4_C)
    reading = house.client.wait_for(f"@update/{level}/monitoring/temperature_1")
    assert reading.json == {"value": 16.4, "unit": "C", "time": UPLINK_MS}


@pytest.mark.parametrize(
    "stranger",
    [
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Origin": "https://evil.example"},
        {"Origin": "http://localhost:3000"},
        {"Origin": "null"},
        {"Host": "evil.example"},
        {"Host": "localhost.evil.example", "Origin": "http://localhost.evil.example"},
    ],
)
def test_other_web_pages_get_nothing_from_the_editor(
    house: House, stranger: dict[str, str]
) -> None:
    url = house.node_red.url
    flows = requests.post(f"{url}/flows", json=[], headers=stranger, timeout=10)
    assert flows.status_code == HTTPStatus.FORBIDDEN
    comms = requests.get(f"{url}/comms", headers=WEBSOCKET | stranger, timeout=10)
    assert comms.status_code == HTTPStatus.BAD_REQUEST


def test_a_browser_opens_the_editor_and_lets_no_other_page_use_it(house: House) -> None:
    url = house.node_red.url
    press = "url => fetch(url, {method: 'POST'}).then(answer => answer.status)"
    button = f"{url}/inject/oeplugtoggle"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=find_program("chromium"), args=["--no-sandbox"]
        )
        page = browser.new_page()
        assert page.evaluate(press, button) == HTTPStatus.FORBIDDEN
        statuses: set[int] = set()
        page.on("response", lambda answer: statuses.add(answer.status))
        page.goto(url)
        # Below a node: what the editor is told through its websocket.
        page.get_by_text("connected", exact=True).first.wait_for()
        page.wait_for_load_state("networkidle")
        assert statuses <= {HTTPStatus.OK, HTTPStatus.SWITCHING_PROTOCOLS, HTTPStatus.NO_CONTENT}
        assert page.evaluate(press, button) == HTTPStatus.OK
        browser.close()


def test_injected_commands_switch_a_plug_and_its_state_is_shown(tmp_path: Path) -> None:
    with plugs(tmp_path, [SwitchSpec("washer")]) as bench:
        switch = bench.switches["washer"]
        nodes = flow("plug_flow", bench.broker, "washer")
        with NodeRed(tmp_path / "node-red", nodes) as node_red:
            for button, relay in (("close", 1), ("open", 0), ("toggle", 1)):
                node_red.press(f"oeplug{button}")
                bench.wait_for_value("washer", "relay", relay)
                wait_until(
                    lambda relay=relay: (  # type: ignore[misc]
                        (node_red.context("openenergyplug", "plug") or {}).get("relay") == relay
                    ),
                    10,
                    "the relay's state in Node-RED",
                )
                bench.client.clear()
            shown = node_red.context("openenergyplug", "plug")
            assert shown["online"] == 1
            assert shown["power"] >= 0
        assert len(moves(switch)) == 3


def test_a_command_is_fresh_and_never_retained(tmp_path: Path) -> None:
    with (
        Mosquitto(tmp_path / "mosquitto") as broker,
        MqttClient(broker.host, broker.port) as client,
        NodeRed(tmp_path / "node-red", flow("plug_flow", broker, "fridge")) as node_red,
    ):
        node_red.press("oeplugopen")
        command = client.wait_for("@set/fridge/control/relay")
        assert command.json.keys() == {"value", "time"}
        assert command.json["value"] == "open"
        assert command.json["time"] == pytest.approx(command.arrived * 1000, abs=5000)
        assert (command.qos, command.retain, command.expiry) == (1, False, 10)
