"""ThingsBoard's real gateway, with the files shipped for it, between our broker and a stand-in.

ThingsBoard itself is not at hand: a mosquitto has the topics of its MQTT API for gateways
(https://thingsboard.io/docs/reference/gateway-mqtt-api/) and hears whoever has the token.
"""

import base64
import contextlib
import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Self

import pytest
from paho.mqtt.client import Client, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion

from demo.loads import constant
from demo.parts import HOST, REPOSITORY, Mosquitto
from demo.process import Program, find_program, free_port, wait_until
from demo.switches import SimulatedSwitch, SwitchSpec
from tests.browser.parts import Certificates, make_certificates
from tests.fault_proxy import FaultProxy
from tests.integration.running import (
    Bench,
    command_topic,
    moves,
    now_ms,
    plugs,
    script_online_topic,
    state_topic,
)
from tests.mqtt_client import MqttClient
from tests.unit.test_thingsboard_files import values_of

SHIPPED = REPOSITORY / "integrations" / "thingsboard"
VENV = REPOSITORY / ".venv-thingsboard"
TOKEN = "atokenofonetest"
PLUG = "fridge"
READING = state_topic(PLUG, "power")
SCRIPT = script_online_topic("plug_2_mqtt").split("/")[1]
WATTS = 24.5

Reading = tuple[str, str, float, int]
"""Device, quantity, value, time in ms since 1970 UTC."""

_request_ids = itertools.count(1)


class ThingsBoard:
    """What its MQTT API looks like to a gateway: the topics are open to its token alone."""

    def __init__(self, folder: Path, *, certificates: Certificates | None = None) -> None:
        folder.mkdir()
        acl = folder / "acl"
        acl.write_text(
            f"user platform\ntopic readwrite #\nuser {TOKEN}\n"
            # No permission to read what it writes: ThingsBoard has no echo.
            "topic write v1/gateway/connect\ntopic write v1/gateway/disconnect\n"
            "topic write v1/gateway/telemetry\ntopic write v1/gateway/attributes\n"
            "topic readwrite v1/gateway/rpc\n"
            "topic write v1/devices/me/telemetry\ntopic write v1/devices/me/attributes\n"
            "topic write v1/devices/me/rpc/request/+\ntopic read v1/devices/me/rpc/response/+\n"
        )
        config = f"acl_file {acl}\n"
        self.tls_port = free_port()
        if certificates:
            config += f"listener {self.tls_port} {HOST}\n"
            config += f"certfile {certificates.server}\nkeyfile {certificates.key}\n"
        self.broker = Mosquitto(folder, extra_config=config)
        self._messages: list[tuple[str, Any]] = []
        self._subscribed = threading.Event()
        # A session that lasts, so that nothing is missed when the broker restarts.
        self._client = Client(CallbackAPIVersion.VERSION2, "platform", clean_session=False)
        self._client.username_pw_set("platform")
        self._client.reconnect_delay_set(1, 1)
        self._client.on_connect = lambda client, *_: client.subscribe("v1/#", 1)
        self._client.on_subscribe = lambda *_: self._subscribed.set()
        self._client.on_message = self._receive

    def heard(self, topic: str) -> list[Any]:
        """Return what was published under a topic, in order."""
        return [message for name, message in list(self._messages) if name == f"v1/{topic}"]

    def readings(self) -> list[Reading]:
        """Return what arrived as telemetry of devices, in order."""
        return [
            (device, quantity, value, entry["ts"])
            for message in self.heard("gateway/telemetry")
            for device, entries in message.items()
            for entry in entries
            for quantity, value in entry["values"].items()
        ]

    def profiles(self) -> dict[str, str]:
        return {each["device"]: each["type"] for each in self.heard("gateway/connect")}

    def wait_for(self, expected: set[Reading], timeout: float = 30) -> None:
        with contextlib.suppress(TimeoutError):
            wait_until(lambda: expected <= set(self.readings()), timeout, "telemetry")
        assert expected - set(self.readings()) == set()

    def request(self, device: str, method: object, params: object) -> dict[str, Any]:
        """Send an RPC to a device as ThingsBoard does; return the gateway's answer."""
        number = next(_request_ids)
        request = {"id": number, "method": method, "params": params}
        self.publish("gateway/rpc", {"device": device, "data": request})
        (answer,) = wait_until(lambda: self._answers(number), 15, "answer")
        assert answer["device"] == device
        data = answer["data"]
        return data if isinstance(data, dict) else json.loads(data)

    def _answers(self, number: int) -> list[Any]:
        return [each for each in self.heard("gateway/rpc") if each.get("id") == number]

    def publish(self, topic: str, message: dict[str, Any]) -> None:
        self._client.publish(f"v1/{topic}", json.dumps(message), 1)

    def _receive(self, _client: Client, _userdata: object, message: MQTTMessage) -> None:
        content = json.loads(message.payload)
        self._messages.append((message.topic, content))
        # The gateway asks for the limits of its session before it sends anything.
        if message.topic.startswith("v1/devices/me/rpc/request/"):
            assert content["method"] == "getSessionLimits"
            limits = {"maxPayloadSize": 65536, "maxInflightMessages": 100, "rateLimits": {}}
            self.publish(f"devices/me/rpc/response/{message.topic.rpartition('/')[2]}", limits)

    def __enter__(self) -> Self:
        self.broker.start()
        self._client.connect(HOST, self.broker.port)
        self._client.loop_start()
        wait_until(self._subscribed.is_set, 10, "subscription")
        return self

    def __exit__(self, *exception: object) -> None:
        self._client.disconnect()
        self._client.loop_stop()
        self.broker.stop()


class Gateway(Program):
    """The gateway as thingsboard-gateway.service runs it; only ports and paths are the test's."""

    def __init__(
        self,
        folder: Path,
        broker_port: int,
        port: int,
        env: Mapping[str, str] | None = None,
        security: Mapping[str, str] | None = None,
    ) -> None:
        self.config = folder / "config"
        self.config.mkdir(parents=True)
        for name in ("tb_gateway.json", "logs.json"):
            shutil.copy(SHIPPED / name, self.config)
        settings = json.loads((SHIPPED / "mqtt.json").read_text())
        settings["broker"]["port"] = broker_port
        settings["broker"]["security"] = security or settings["broker"]["security"]
        (self.config / "mqtt.json").write_text(json.dumps(settings))
        # The package with our part in it, so that the environment stays as it was installed.
        (installed,) = VENV.glob("lib/python3*/site-packages/thingsboard_gateway")
        packages = folder / "packages"
        shutil.copytree(installed, packages / installed.name)
        self.extension = packages / installed.name / "extensions/openenergy/openenergy_connector.py"
        self.extension.parent.mkdir()
        shutil.copy(SHIPPED / self.extension.name, self.extension)
        environment = {
            "PATH": os.defpath,
            "LANG": "C.UTF-8",
            "HOME": str(folder),
            "PYTHONPATH": str(packages),
            "TB_GW_CONFIG_DIR": f"{self.config}/",
            "TB_GW_HOST": HOST,
            "TB_GW_PORT": str(port),
            "TB_GW_ACCESS_TOKEN": TOKEN,
        }
        super().__init__(
            "thingsboard-gateway",
            [str(VENV / "bin" / "thingsboard-gateway")],
            folder / "gateway.log",
            env=environment | dict(env or {}),
            cwd=folder,
        )

    def wait_until_connected(self) -> None:
        self.wait_for_log("subscription success", 30)
        self.wait_for_log("Gateway started", 30)

    def stored(self) -> set[Reading]:
        """Return the readings in its storage: lines of JSON in base64."""
        lines = [
            json.loads(base64.b64decode(line))
            for file in sorted((self.config.parent / "data").glob("data_*.txt"))
            for line in file.read_bytes().splitlines()
        ]
        return {
            (line["deviceName"], quantity, value, entry["ts"])
            for line in lines
            for entry in line["telemetry"]
            for quantity, value in entry["values"].items()
        }

    def end(self) -> int:
        """End it as systemd does; return its status."""
        os.kill(self.pid, signal.SIGINT)
        wait_until(lambda: not self.running, 20, "end of the gateway")
        return self.terminate().status


class Site(NamedTuple):
    """A plug, plug_2_mqtt.py, our broker, the gateway, ThingsBoard."""

    bench: Bench
    gateway: Gateway
    thingsboard: ThingsBoard
    route: FaultProxy | None

    @property
    def switch(self) -> SimulatedSwitch:
        return self.bench.switches[PLUG]

    def publish(self, count: int) -> set[Reading]:
        """Publish so many readings of a meter, 1 ms apart; return how they shall arrive."""
        start = now_ms() - count
        readings = {("meter", "power", 0.5 + each, start + each) for each in range(count)}
        for device, quantity, value, time_ms in sorted(readings):
            message = {"value": value, "unit": "W", "time": time_ms}
            self.bench.client.publish(state_topic(device, quantity), message)
        return readings

    def commands(self) -> list[Any]:
        return [each.json for each in self.bench.client.messages(command_topic("+"))]


@contextlib.contextmanager
def running_site(folder: Path, *, through_proxy: bool = False) -> Iterator[Site]:
    with contextlib.ExitStack() as running:
        thingsboard = running.enter_context(ThingsBoard(folder / "thingsboard"))
        spec = SwitchSpec(PLUG, load=constant(WATTS))
        bench = running.enter_context(plugs(folder, [spec]))
        port, route = thingsboard.broker.port, None
        if through_proxy:
            route = running.enter_context(FaultProxy(port, http=False))
            port = route.port
        gateway = Gateway(folder / "gateway", bench.broker.port, port)
        running.callback(lambda: print(gateway.log_path.read_text()))  # of a test that fails
        running.enter_context(gateway)
        gateway.wait_until_connected()
        yield Site(bench, gateway, thingsboard, route)


@pytest.fixture(scope="module")
def shared_site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with running_site(tmp_path_factory.mktemp("site")) as site:
        wait_until(site.thingsboard.readings, 20, "the first reading")
        yield site


@pytest.fixture
def site(shared_site: Site) -> Site:
    """Return the site as it runs, with the plug on, and nothing heard yet on our broker."""
    if not shared_site.switch.relay:
        shared_site.bench.command(PLUG, "close")
        wait_until(lambda: shared_site.switch.relay, 10, "plug on")
    shared_site.switch.requests.clear()
    shared_site.bench.client.clear()
    return shared_site


# --- Readings -----------------------------------------------------------------------------------


def test_every_reading_of_a_plug_arrives_with_its_value_and_time(site: Site) -> None:
    client = site.bench.client
    wait_until(lambda: len(client.messages(READING)) >= 10, 15, "readings")
    published = {
        (PLUG, message.topic.rpartition("/")[2], message.json["value"], message.json["time"])
        for message in client.messages(state_topic(PLUG, "+"))
    }
    assert {quantity for _, quantity, *_ in published} >= {"power", "energy", "temperature"}
    site.thingsboard.wait_for(published)
    assert (PLUG, "power", WATTS) in {reading[:3] for reading in site.thingsboard.readings()}


def test_readings_in_quick_succession_are_each_kept(site: Site) -> None:
    site.thingsboard.wait_for(site.publish(500))


def test_a_reading_without_time_gets_that_of_its_arrival(site: Site) -> None:
    before = now_ms()
    site.bench.client.publish(state_topic("old", "power"), {"value": 7})
    (found,) = wait_until(lambda: _readings_of(site, "old"), 15, "reading")
    assert found[:3] == ("old", "power", 7)
    assert before <= found[3] <= now_ms()


def test_a_time_in_floating_point_is_a_time(site: Site) -> None:
    time_ms = now_ms()
    site.bench.client.publish(state_topic("floaty", "power"), {"value": 7, "time": float(time_ms)})
    site.thingsboard.wait_for({("floaty", "power", 7, time_ms)})


def test_plugs_and_scripts_have_profiles_of_their_own(site: Site) -> None:
    wait_until(lambda: SCRIPT in site.thingsboard.profiles(), 15, "the script")
    assert site.thingsboard.profiles()[PLUG] == "openenergy plug"
    assert site.thingsboard.profiles()[SCRIPT] == "openenergy script"


NOW = now_ms()
GARBAGE = {
    "not JSON": b"garbage",
    "not UTF-8": b"\xff\xfe",
    "empty": b"",
    "no object": b"[1]",
    "a number": b"1",
    "no value": b'{"time": 1763763243123}',
    "a text": b'{"value": "1"}',
    "a truth": b'{"value": true}',
    "NaN": b'{"value": NaN}',
    "infinite": b'{"value": 1e999}',
    "immense": b'{"value": 1%s}' % (b"0" * 400),
    "beyond long": b'{"value": 10000000000000000000}',
    "deep": b"[" * 500,
    "long": b'{"value": 1, "unit": "%s"}' % (b"W" * 600),
    "time is text": b'{"value": 1, "time": "now"}',
    "time is a truth": b'{"value": 1, "time": true}',
    "time is infinite": b'{"value": 1, "time": 1e999}',
    "before 2020": b'{"value": 1, "time": 1000}',
    "tomorrow": b'{"value": 1, "time": %d}' % (NOW + 86_400_000),
}


def test_garbage_is_told_and_stops_nothing(site: Site) -> None:
    for payload in itertools.chain(GARBAGE.values(), [b"garbage"] * 100):
        site.bench.client.publish(state_topic("liar", "power"), payload)
    for device in ("x" * 65, "a b", "a\u00e9", "x" * 9000):
        site.bench.client.publish(state_topic(device, "power"), {"value": 1})
    site.thingsboard.wait_for(site.publish(3))
    assert site.thingsboard.profiles().keys() <= {PLUG, "meter", "old", "floaty", SCRIPT}
    told = re.findall(r"WARNING openenergy_converter: .*: ([^:]+): b['\"]", site.gateway.log())
    assert sorted(told) == [  # each once
        "a time that cannot be true",
        "no number as its value",
        "no topic of a reading",
        "not JSON",
        "too long",
    ]
    assert "Traceback" not in site.gateway.log()


def _readings_of(site: Site, device: str) -> list[Reading]:
    return [reading for reading in site.thingsboard.readings() if reading[0] == device]


# --- Commands -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "relay"), [("close", True), ("open", False), ("toggle", False)]
)
def test_a_command_moves_the_plug_and_is_answered(site: Site, command: str, relay: bool) -> None:
    before = now_ms()
    assert site.thingsboard.request(PLUG, "setRelay", command) == {"success": True}
    wait_until(lambda: moves(site.switch), 10, "the plug's move")
    wait_until(lambda: site.switch.relay is relay, 10, "the plug's new state")
    (sent,) = site.bench.client.messages(command_topic(PLUG))
    assert sent.json["value"] == command
    assert before <= sent.json["time"] <= now_ms()
    assert (sent.qos, sent.retain, sent.expiry) == (1, False, 10)


def test_the_new_state_reaches_thingsboard_at_once(site: Site) -> None:
    pressed = now_ms()
    site.thingsboard.request(PLUG, "setRelay", "open")
    wait_until(
        lambda: [
            each
            for each in site.thingsboard.readings()
            if each[:3] == (PLUG, "relay", 0) and each[3] >= pressed
        ],
        5,
        "the relay's new state",
    )


@pytest.mark.parametrize(
    ("method", "params"),
    [
        ("setRelay", "explode"),
        ("setRelay", "Close"),
        ("setRelay", None),
        ("setRelay", 1),
        ("setRelay", True),
        ("setRelay", ["close"]),
        ("setRelay", {"value": "close"}),
        (None, "close"),
        (["setRelay"], "close"),
        ("setrelay", "close"),
        ("getRelay", "close"),
        # Of the gateway's own MQTT connector: publishes anything anywhere.
        ("set", f'requestTopicExpression=@set/{PLUG}/control/relay;value={{"value":"open"}};'),
        ("openenergy_set", "requestTopicExpression=@set/x/control/relay;value=1;"),
    ],
)
def test_any_other_request_moves_nothing_and_says_why(
    site: Site, method: object, params: object
) -> None:
    answer = site.thingsboard.request(PLUG, method, params)
    assert answer["success"] is False
    assert answer["error"].startswith(("setRelay takes one of", "The only method is"))
    assert site.thingsboard.request(PLUG, "setRelay", "close") == {"success": True}
    wait_until(site.commands, 10, "the command after it")
    assert [command["value"] for command in site.commands()] == ["close"]


@pytest.mark.parametrize(
    "content",
    [
        {},
        {"data": None},
        {"data": {}},
        {"data": {"method": "setRelay"}},
        {"data": {"method": "setRelay", "params": "explode"}},
        {"method": "setRelay", "params": {"value": "open"}},
    ],
)
def test_what_is_no_request_moves_nothing_and_stops_nothing(
    site: Site, content: dict[str, Any]
) -> None:
    site.thingsboard.publish("gateway/rpc", {"device": PLUG, **content})
    assert site.thingsboard.request(PLUG, "setRelay", "close") == {"success": True}
    wait_until(site.commands, 10, "the command after it")
    assert [command["value"] for command in site.commands()] == ["close"]


def test_a_command_that_was_not_confirmed_tells_when_it_was_given(site: Site) -> None:
    """So that plug_2_mqtt.py refuses it when that is too long ago."""
    pressed = now_ms()
    with frozen(site.bench.broker):
        answer = site.thingsboard.request(PLUG, "setRelay", "open")
        answered = now_ms()
    assert answer == {"error": "The broker did not confirm the command.", "success": False}
    (sent,) = wait_until(site.commands, 10, "the command")
    assert pressed <= sent["time"] <= answered


@contextlib.contextmanager
def frozen(program: Program) -> Iterator[None]:
    os.kill(program.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(program.pid, signal.SIGCONT)


# --- The dashboard and the profile --------------------------------------------------------------


def shipped(name: str) -> Any:
    return json.loads((SHIPPED / name).read_text())


def test_all_that_the_dashboard_and_the_profile_use_is_sent(site: Site) -> None:
    sent = {quantity for device, quantity, *_ in site.thingsboard.readings() if device == PLUG}
    shown = itertools.chain(*values_of("dataKeys", shipped("dashboard.json")))
    assert {key["name"] for key in shown if key["type"] == "timeseries"} == sent
    profile = shipped("device_profile.json")
    watched = [key for key in values_of("key", profile) if isinstance(key, dict)]
    assert {key["key"] for key in watched if key["type"] == "TIME_SERIES"} <= sent
    # ThingsBoard's own: whether something came from the device lately.
    assert {key["key"] for key in watched if key["type"] == "ATTRIBUTE"} == {"active"}
    assert site.thingsboard.profiles()[PLUG] == profile["name"]


@pytest.mark.parametrize(("state", "relay"), [("offUpdateState", False), ("onUpdateState", True)])
def test_the_dashboards_switch_moves_the_plug(site: Site, state: str, relay: bool) -> None:
    site.bench.command(PLUG, "open" if relay else "close")
    wait_until(lambda: site.switch.relay is not relay, 10, "the state before")
    (action,) = values_of(state, shipped("dashboard.json"))
    method, value = action["executeRpc"]["method"], action["valueToData"]["constantValue"]
    assert site.thingsboard.request(PLUG, method, value) == {"success": True}
    wait_until(lambda: site.switch.relay is relay, 10, "the state after")


# --- What is away, and comes back ---------------------------------------------------------------


@pytest.fixture
def own_site(tmp_path: Path) -> Iterator[Site]:
    with running_site(tmp_path) as site:
        yield site


def test_what_is_measured_while_thingsboard_is_away_arrives_later(own_site: Site) -> None:
    own_site.thingsboard.broker.stop()
    expected = own_site.publish(300)
    own_site.thingsboard.broker.start()
    expected |= own_site.publish(10)
    own_site.thingsboard.wait_for(expected, 40)


def test_what_a_silent_connection_swallowed_is_sent_again(tmp_path: Path) -> None:
    with running_site(tmp_path, through_proxy=True) as site:
        assert site.route is not None
        site.thingsboard.wait_for(site.publish(1))
        site.route.blackhole()
        expected = site.publish(50)
        wait_until(lambda: expected <= site.gateway.stored(), 20, "readings on disk")
        # Long enough for the gateway to believe, as it does by itself, that all was delivered.
        time.sleep(4)
        site.route.refuse()
        site.route.pass_through()
        site.thingsboard.wait_for(expected, 40)


def test_what_waits_on_disk_outlives_the_gateway(own_site: Site) -> None:
    own_site.thingsboard.broker.stop()
    expected = own_site.publish(300)
    wait_until(lambda: expected <= own_site.gateway.stored(), 20, "readings on disk")
    own_site.gateway.kill()
    own_site.thingsboard.broker.start()
    own_site.gateway.start()
    own_site.thingsboard.wait_for(expected, 40)


def test_what_is_measured_while_the_gateway_is_away_arrives_later(own_site: Site) -> None:
    assert own_site.gateway.end() == 0
    expected = own_site.publish(300)
    own_site.gateway.start()
    own_site.thingsboard.wait_for(expected, 40)


def test_a_gateway_that_starts_without_thingsboard_leaves_readings_where_they_are_safe(
    own_site: Site,
) -> None:
    own_site.gateway.end()
    own_site.thingsboard.broker.stop()
    own_site.gateway.start()
    own_site.gateway.wait_for_log("Connection refused", 20)
    expected = own_site.publish(300)
    own_site.gateway.kill()
    own_site.thingsboard.broker.start()
    own_site.gateway.start()
    own_site.thingsboard.wait_for(expected, 40)


def test_our_broker_may_restart(own_site: Site) -> None:
    own_site.bench.broker.restart()
    own_site.bench.client.wait_until_subscribed()
    own_site.thingsboard.wait_for(own_site.publish(10), 40)
    assert own_site.thingsboard.request(PLUG, "setRelay", "open") == {"success": True}


def test_a_command_without_broker_fails_and_is_not_made_up_for(own_site: Site) -> None:
    own_site.thingsboard.wait_for(own_site.publish(1))
    own_site.bench.broker.stop()
    answer = own_site.thingsboard.request(PLUG, "setRelay", "open")
    assert answer == {"error": "The broker is away.", "success": False}
    own_site.bench.broker.start()
    own_site.bench.client.wait_until_subscribed()
    own_site.thingsboard.wait_for(own_site.publish(1), 40)
    assert own_site.commands() == []
    assert moves(own_site.switch) == []


# Between two lines of the connector: too short a moment to be met from outside.
CONNECTION_GOES_AS_A_COMMAND_IS_SENT = """

from paho.mqtt.client import Client

publish = Client.publish


def publish_too_late(self, topic, *arguments, **options):
    if topic.endswith("/control/relay"):
        self._sock_close()
    return publish(self, topic, *arguments, **options)


Client.publish = publish_too_late
"""


def test_a_connection_that_goes_at_the_wrong_moment_does_not_end_all_commands(
    own_site: Site,
) -> None:
    own_site.gateway.end()
    with own_site.gateway.extension.open("a") as extension:
        extension.write(CONNECTION_GOES_AS_A_COMMAND_IS_SENT)
    own_site.gateway.start()
    own_site.gateway.wait_until_connected()
    own_site.thingsboard.wait_for(own_site.publish(1))
    for _ in range(2):
        answer = own_site.thingsboard.request(PLUG, "setRelay", "open")
        assert answer == {"error": "The broker did not confirm the command.", "success": False}
        wait_until(own_site.commands, 20, "the next connection")
        own_site.bench.client.clear()


# --- Who may listen -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("tls"), "localhost", HOST)


@contextlib.contextmanager
def gateway_over_tls(
    folder: Path, certificates: Certificates, ca: Path
) -> Iterator[tuple[MqttClient, Gateway, ThingsBoard]]:
    with (
        ThingsBoard(folder / "thingsboard", certificates=certificates) as thingsboard,
        Mosquitto(folder / "mosquitto") as broker,
        MqttClient(HOST, broker.port) as client,
    ):
        env = {"TB_GW_CA_CERT": str(ca)}
        gateway = Gateway(folder / "gateway", broker.port, thingsboard.tls_port, env)
        with gateway:
            yield client, gateway, thingsboard
            print(gateway.log())


def test_thingsboard_over_tls(tmp_path: Path, certificates: Certificates) -> None:
    with gateway_over_tls(tmp_path, certificates, certificates.ca) as (client, gateway, board):
        gateway.wait_until_connected()
        reading = {"value": 1, "time": now_ms()}
        client.publish(READING, reading)
        board.wait_for({(PLUG, "power", reading["value"], reading["time"])})


def shipped_secrets() -> dict[str, str]:
    lines = (SHIPPED / "secrets.env").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


@pytest.mark.parametrize("believed", ["another authority", "those of secrets.env"])
def test_a_stranger_does_not_get_the_token(
    tmp_path: Path, certificates: Certificates, believed: str
) -> None:
    if believed == "another authority":
        ca = make_certificates(tmp_path / "foreign", "localhost", HOST).ca
    else:
        ca = Path(shipped_secrets()["TB_GW_CA_CERT"])
    with gateway_over_tls(tmp_path, certificates, ca) as (_, gateway, board):
        gateway.wait_for_log("CERTIFICATE_VERIFY_FAILED", 20)
        assert TOKEN not in board.broker.log()
        assert TOKEN not in gateway.log()


def test_our_broker_over_tls_with_the_account_of_the_environment(
    tmp_path: Path, certificates: Certificates
) -> None:
    passwords = tmp_path / "passwords"
    passwords.write_text("automation:a password\nsomebody:else\n")
    passwords.chmod(0o600)
    subprocess.run([find_program("mosquitto_passwd"), "-U", str(passwords)], check=True)
    tls_port = free_port()
    config = (
        f"allow_anonymous false\npassword_file {passwords}\nlistener {tls_port} {HOST}\n"
        f"certfile {certificates.server}\nkeyfile {certificates.key}"
    )
    account = {"MQTT_USERNAME": "automation", "MQTT_PASSWORD": "a password"}
    security = {"type": "certificates", "pathToCACert": str(certificates.ca)}
    with (
        ThingsBoard(tmp_path / "thingsboard") as board,
        Mosquitto(tmp_path / "mosquitto", extra_config=config) as broker,
        MqttClient(HOST, broker.port, username="somebody", password="else") as client,
        Gateway(tmp_path / "gateway", tls_port, board.broker.port, account, security) as gateway,
    ):
        gateway.wait_until_connected()
        time_ms = now_ms()
        client.publish(READING, {"value": 1, "time": time_ms})
        board.wait_for({(PLUG, "power", 1, time_ms)})
        assert "a password" not in gateway.log()
