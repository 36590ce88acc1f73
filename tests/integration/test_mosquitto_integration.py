"""mosquitto with the very files that are shipped for it; only ports and paths are the test's."""

import json
import os
import re
import shutil
import signal
import socket
import ssl
import subprocess
import textwrap
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, Self

import pytest
import requests
from paho.mqtt.client import Client, MQTTMessage, MQTTv5, MQTTv311
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from demo.loads import constant
from demo.parts import HOST, REPOSITORY, InfluxDB1, Mosquitto, Script, write_config
from demo.process import Program, find_program, free_port, wait_until
from demo.switches import SimulatedSwitch, SimulatedSwitches, SwitchSpec
from tests.browser.parts import make_certificates
from tests.integration.restrictive_broker import RestrictiveBroker
from tests.integration.running import (
    Table,
    mqtt_table,
    now_ms,
    script_online_topic,
    switch_table,
    warnings,
)
from tests.integration.test_lorawan import lopy_uplink
from tests.integration.test_nginx import sign

SHIPPED = REPOSITORY / "integrations" / "mosquitto"
README = SHIPPED / "README.md"
SCRIPTS = ("plug_2_mqtt", "mqtt_2_influx", "button_server")
USERS = ("openenergy", *SCRIPTS, "chirpstack", "automation", "node_red", "reader")
# Stands for any address of the machine that others can reach.
ELSEWHERE = "127.0.0.2"


def password_of(user: str) -> str:
    return f"{user}: a password"


class InstalledMosquitto(Program):
    """mosquitto as Debian configures it, and openenergy.conf in its conf.d."""

    def __init__(self, folder: Path, changes: Mapping[str, str] | None = None) -> None:
        self.folder = folder / "openenergy"
        self.port, self.tls_port = free_port(), free_port()
        self.state = folder / "mosquitto.db"
        self.debians_log = folder / "mosquitto.log"
        self.certificates = make_certificates(folder / "tls", "localhost", HOST, ELSEWHERE)
        self.folder.mkdir()
        for file in (self.certificates.server, self.certificates.key, SHIPPED / "acl"):
            shutil.copy(file, self.folder)
        plugs = {
            "MQTT": {"username": "plug_2_mqtt", "password": password_of("plug_2_mqtt")},
            "MyStromSwitch": [{"name": "lamp"}, {"name": "tv"}],
        }
        create_users(self.folder, write_config(folder / "plugs.toml", plugs))
        for user in USERS:
            create_users(self.folder, user, typed=password_of(user))
        included = folder / "conf.d"
        included.mkdir()
        ours = {
            "/etc/mosquitto/openenergy/": f"{self.folder}/",
            "listener 1883 ": f"listener {self.port} ",
            "listener 8883\n": f"listener {self.tls_port}\n",
        }
        text = (SHIPPED / "openenergy.conf").read_text()
        (included / "openenergy.conf").write_text(replaced(text, ours | dict(changes or {})))
        debians = {
            "/run/mosquitto/": f"{folder}/",
            "/var/lib/mosquitto/": f"{folder}/",
            "/var/log/mosquitto/": f"{folder}/",
            "/etc/mosquitto/conf.d\n": f"{included}\n",
        }
        text = replaced(Path("/etc/mosquitto/mosquitto.conf").read_text(), debians)
        config = folder / "mosquitto.conf"
        config.write_text(f"{text}\nuser root\n")  # see demo.parts.Mosquitto
        argv = [find_program("mosquitto"), "-c", str(config)]
        super().__init__("mosquitto", argv, folder / "journal")

    def ready(self) -> bool:
        try:
            with socket.create_connection((HOST, self.port), timeout=1):
                return True
        except OSError:
            return False

    def reload(self) -> None:
        """Do what `systemctl reload mosquitto` does."""
        os.kill(self.pid, signal.SIGHUP)

    def wait_until_saved(self) -> None:
        """Wait for a save that began after now."""
        for _ in range(2):  # one may be under way
            last_ns = self._saved_ns()
            wait_until(partial(self._is_saved_since, last_ns), 10, "the broker's save")

    def _is_saved_since(self, last_ns: int) -> bool:
        return self._saved_ns() > last_ns

    def _saved_ns(self) -> int:
        return self.state.stat().st_mtime_ns if self.state.exists() else 0


def replaced(text: str, replacements: Mapping[str, str]) -> str:
    for old, new in replacements.items():
        assert old in text
        text = text.replace(old, new)
    return text


def create_users(
    folder: Path, *sources: str | Path, typed: str = ""
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(SHIPPED / "create_users.py"), "--folder", str(folder), *map(str, sources)],
        check=False,
        capture_output=True,
        text=True,
        input=f"{typed}\n",
        timeout=20,
    )


def run_readme(readme: Path, text: str, replacements: Mapping[str, str], home: Path) -> str:
    """Run the commands among which `text` stands, as a user would; return what they print."""
    blocks = re.findall(r"^ *```\w*\n(.*?)^ *```$", readme.read_text(), re.DOTALL | re.MULTILINE)
    (commands,) = [textwrap.dedent(block) for block in blocks if text in block]
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", replaced(commands, replacements)],
        check=False,
        capture_output=True,
        text=True,
        cwd=readme.parent,
        env={"PATH": os.environ["PATH"], "HOME": str(home), "no_proxy": "*"},
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


class User:
    """A client with one user's rights; knows what the broker says to each of its packets."""

    def __init__(
        self,
        broker: InstalledMosquitto,
        name: str,
        password: str | None = None,
        *,
        client_id: str = "",
        will: str = "",
    ) -> None:
        self.received: list[str] = []
        self._broker = broker
        self._answers: dict[int, Any] = {}
        self._connected: list[Any] = []
        self._client = Client(
            CallbackAPIVersion.VERSION2, client_id, protocol=MQTTv5, reconnect_on_failure=False
        )
        if will:
            self._client.will_set(will, b"{}", 1)
        if name:
            self._client.username_pw_set(name, password_of(name) if password is None else password)
        self._client.on_connect = lambda *event: self._connected.append(event[2:4])
        self._client.on_publish = lambda *event: self._answers.update({event[2]: event[3]})
        self._client.on_subscribe = lambda *event: self._answers.update({event[2]: event[3]})
        self._client.on_message = self._remember

    def publish(
        self, topic: str, payload: str | bytes = b"{}", *, retain: bool = False, timeout: float = 10
    ) -> bool:
        """Publish; tell whether the broker takes it."""
        message_id = self._client.publish(topic, payload, 1, retain).mid
        return not self._answer(message_id, timeout).is_failure

    def subscribe(self, *filters: str) -> None:
        """Subscribe; whatever the broker had sent before its answer has been received then."""
        message_id = self._client.subscribe([(each, 1) for each in filters])[1]
        assert message_id is not None
        self._answer(message_id)

    def connect(self, port: int | None = None, **session: Any) -> bool:
        """Connect; tell whether the broker lets us in."""
        self._client.connect(HOST, port or self._broker.port, **session)
        self._client.loop_start()
        wait_until(lambda: self._connected, 10, "an answer")
        return not self._connected[0][1].is_failure

    def resume(self) -> bool:
        """Connect; tell whether the broker has kept the session, which it is asked to keep on."""
        properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]  # by paho
        properties.SessionExpiryInterval = 60
        assert self.connect(clean_start=False, properties=properties)
        return bool(self._connected[0][0].session_present)

    def leave(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()

    def vanish(self) -> None:
        """Hang up without a farewell: the broker then publishes the last will."""
        connection = self._client.socket()
        assert isinstance(connection, socket.socket)
        connection.shutdown(socket.SHUT_RDWR)
        self._client.loop_stop()

    def trust(self, authority: Path) -> None:
        self._client.tls_set(str(authority))

    def _answer(self, message_id: int, timeout: float = 10) -> Any:
        return wait_until(lambda: self._answers.get(message_id), timeout, "an answer", every=0.001)

    def _remember(self, _client: Client, _userdata: object, message: MQTTMessage) -> None:
        self.received.append(message.topic)

    def __enter__(self) -> Self:
        assert self.connect()
        return self

    def __exit__(self, *exception: object) -> None:
        self.leave()


def lets_in(broker: InstalledMosquitto, name: str, password: str) -> bool:
    user = User(broker, name, password)
    try:
        return user.connect()
    finally:
        user.leave()


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[InstalledMosquitto]:
    with InstalledMosquitto(tmp_path_factory.mktemp("broker")) as broker:
        yield broker


# --- What works -----------------------------------------------------------------------------------


class Home:
    """A lamp, and the three scripts, each with a file of its own."""

    def __init__(
        self,
        folder: Path,
        lamp: SimulatedSwitch,
        database: InfluxDB1,
        mqtt: Mapping[str, Table],
        **tables: Table,
    ) -> None:
        """Write the configurations; `mqtt` is [MQTT] of each script."""
        button_port = free_port()
        tables |= {
            "InfluxDB": {"url": database.url, "database": "energy"},
            "MyStromSwitch": switch_table(lamp),
            "ButtonServer": {"port": button_port},
        }
        self.configs = [
            write_config(folder / f"{name}.toml", {"MQTT": mqtt[name]} | tables) for name in SCRIPTS
        ]
        self._lamp = lamp
        self._database = database
        self._url = f"http://{HOST}:{button_port}/plugs/{lamp.name}/relay"
        self._scripts = [Script(f"{each.stem}.py", each) for each in self.configs]
        self._running = ExitStack()

    def use(self) -> None:
        """Show that readings reach the database, and buttons the lamp."""
        power = f"SELECT * FROM power WHERE switch = '{self._lamp.name}'"  # noqa: S608 - ours
        wait_until(lambda: self._database.query(power, "energy"), 20, "a reading in the database")
        wait_until(lambda: requests.get(self._url, timeout=5).ok, 20, "the button server's lamp")
        for value in ("open", "close"):
            answer = requests.post(self._url, json={"value": value}, timeout=10)
            assert answer.json()["confirmed"] is True
            assert self._lamp.relay is (value == "close")
        for name in SCRIPTS:
            online = script_online_topic(name).split("/")[1]
            asked = f"SELECT * FROM online WHERE switch = '{online}'"  # noqa: S608 - as above
            wait_until(partial(self._database.query, asked, "energy"), 10, f"{name} online")

    def end(self) -> list[str]:
        """End the scripts; return their complaints."""
        assert [script.terminate().status for script in self._scripts] == [0, 0, 0]
        return [line for script in self._scripts for line in warnings(script.log())]

    def __enter__(self) -> Self:
        for script in self._scripts:
            self._running.callback(show_log, script)
            self._running.enter_context(script)
            script.wait_for_log("connected to broker")
        return self

    def __exit__(self, *exception: object) -> None:
        self._running.close()


def show_log(script: Script) -> None:
    """Have pytest show the log of a test that fails."""
    print(script.log())


@pytest.mark.parametrize("users", ["a user each", "one user"])
def test_the_three_scripts_work(
    tmp_path: Path, broker: InstalledMosquitto, influxdb: InfluxDB1, users: str
) -> None:
    lamp_name = users.replace(" ", "-")
    by_tls = {
        "broker": "localhost",
        "port": broker.tls_port,
        "tls": True,
        "ca_file": str(broker.certificates.ca),
    }
    mqtt: dict[str, Table] = {}
    for name in SCRIPTS:
        user = "openenergy" if users == "one user" else name
        where = by_tls if name == "button_server" else mqtt_table(broker.port)
        mqtt[name] = where | {"username": user, "password": password_of(user)}
    with SimulatedSwitches([SwitchSpec(lamp_name, load=constant(24.5))]) as switches:
        lorawan = {"topics": ["application/+/device/+/event/+"]}
        home = Home(tmp_path, switches[lamp_name], influxdb, mqtt, LoRaWAN=lorawan)
        assert create_users(broker.folder, *home.configs).returncode == 0
        broker.reload()
        with User(broker, mqtt["plug_2_mqtt"]["username"]) as plug:
            topic = f"@update/{lamp_name}/monitoring/test"
            wait_until(lambda: plug.publish(topic, b'{"value": 1}'), 10, "the new rules")
        with home:
            home.use()
            uplink = lopy_uplink("ffff00000000abcd", datetime.now(UTC))
            with User(broker, "chirpstack") as chirpstack:
                assert chirpstack.publish(uplink["topic"], json.dumps(uplink["payload"]))
            wait_until(
                lambda: influxdb.query("SELECT * FROM lorawan", "energy"), 20, "the uplink's point"
            )
            assert [line for line in home.end() if "LoRaWAN" not in line] == []


def test_the_three_scripts_work_where_any_other_topic_is_cut_off(
    tmp_path: Path, mosquitto: Mosquitto, influxdb: InfluxDB1
) -> None:
    with (
        RestrictiveBroker(mosquitto.port) as broker,
        SimulatedSwitches([SwitchSpec("lamp", load=constant(24.5))]) as switches,
    ):
        mqtt = dict.fromkeys(SCRIPTS, mqtt_table(broker.port))
        with Home(tmp_path, switches["lamp"], influxdb, mqtt) as home:
            home.use()
            assert home.end() == []
        assert broker.cut_off == []


@pytest.mark.parametrize("protocol", [MQTTv311, MQTTv5])
@pytest.mark.parametrize("what", ["a will", "a subscription", "a message"])
def test_it_does_cut_off_any_other_topic(
    mosquitto: Mosquitto, protocol: MQTTProtocolVersion, what: str
) -> None:
    def name_it(client: Client, *_: object) -> None:
        if what == "a subscription":
            client.subscribe([("@set/+/control/relay", 1), ("other/#", 1)])
        elif what == "a message":
            client.publish("other/topic")

    client = Client(
        CallbackAPIVersion.VERSION2, "other", protocol=protocol, reconnect_on_failure=False
    )
    client.on_connect = name_it
    if what == "a will":
        client.will_set("other/topic")
    with RestrictiveBroker(mosquitto.port) as broker:
        client.connect(HOST, broker.port)
        client.loop_forever()  # until it is cut off
        assert broker.cut_off == ["other/#" if what == "a subscription" else "other/topic"]


# --- Who may do what ------------------------------------------------------------------------------

# A topic of each kind, and who may publish on it and read it.
WRITERS = {
    "@update/lamp/monitoring/power": {"openenergy", "plug_2_mqtt", "node_red"},
    "@update/lamp/monitoring/online": {"openenergy", *SCRIPTS, "node_red"},
    "@update/other/monitoring/power": {"openenergy", "node_red"},
    "@update/lamp": set(),
    "@set/lamp/control/relay": {"openenergy", "button_server", "automation", "node_red"},
    "@set/lamp/control/other": set(),
    "application/1/device/00ff/event/up": {"chirpstack"},
    "application/1/device/00ff/command/down": {"openenergy"},
    "v3/app@ttn/devices/lopy/up": {"openenergy"},
    "eu868/gateway/00ff/event/up": {"chirpstack"},
    "gateway/00ff/command/down": {"chirpstack"},
    "homeassistant/device/lamp/config": {"openenergy", "plug_2_mqtt", "automation"},
    "homeassistant/switch/lamp/config": set(),
    "homeassistant/status": {"automation"},
    "other/topic": set(),
}
READERS = {
    "@update/lamp/monitoring/power": {
        "openenergy",
        "mqtt_2_influx",
        "button_server",
        "automation",
        "node_red",
        "reader",
    },
    "@set/lamp/control/relay": {"openenergy", "plug_2_mqtt"},
    "application/1/device/00ff/event/up": {
        "openenergy",
        "mqtt_2_influx",
        "automation",
        "node_red",
        "reader",
    },
    "application/1/device/00ff/command/down": {"chirpstack"},
    "v3/app@ttn/devices/lopy/up": {"openenergy", "mqtt_2_influx"},
    "eu868/gateway/00ff/event/up": {"chirpstack"},
    "gateway/00ff/command/down": {"chirpstack"},
    "homeassistant/device/lamp/config": {"automation"},
    "homeassistant/status": {"openenergy", "plug_2_mqtt", "automation"},
}
for name in ("lamp/monitoring/online", "other/monitoring/power"):
    READERS[f"@update/{name}"] = READERS["@update/lamp/monitoring/power"]


@pytest.mark.parametrize("name", USERS)
def test_a_user_publishes_only_what_is_its_part(broker: InstalledMosquitto, name: str) -> None:
    with User(broker, name) as user:
        taken = {topic for topic in WRITERS if user.publish(topic)}
    assert taken == {topic for topic, names in WRITERS.items() if name in names}


@pytest.mark.parametrize("name", USERS)
def test_a_user_reads_only_what_is_its_part(broker: InstalledMosquitto, name: str) -> None:
    with ExitStack() as connected:
        user = connected.enter_context(User(broker, name))
        user.subscribe("#", "@update/#", "@set/#")
        for topic, names in WRITERS.items():
            if names:
                sender = connected.enter_context(User(broker, min(names)))
                assert sender.publish(topic)
        user.subscribe("fence")
        received = set(user.received) & WRITERS.keys()  # besides what earlier tests left behind
        assert received == {topic for topic, names in READERS.items() if name in names}


def test_a_last_will_needs_the_same_right(broker: InstalledMosquitto) -> None:
    allowed = "@update/plug_2_mqtt-cellar/monitoring/online"
    wills = (
        ("reader", "@set/cellar/control/relay"),
        ("mqtt_2_influx", "@set/cellar/control/relay"),
        ("plug_2_mqtt", "@update/cellar/monitoring/power"),
        ("plug_2_mqtt", allowed),
    )
    with User(broker, "openenergy") as watcher:
        watcher.subscribe("@update/+/monitoring/+", "@set/+/control/relay")
        for number, (name, will) in enumerate(wills):
            user = User(broker, name, client_id=f"will-{number}", will=will)
            assert user.connect()
            user.vanish()
            broker.wait_for_log(f"Client will-{number} closed its connection")
        wait_until(lambda: allowed in watcher.received, 10, "a last will")
        assert [topic for topic in watcher.received if "cellar" in topic] == [allowed]


def test_any_user_can_delete_what_waits_for_another(broker: InstalledMosquitto) -> None:
    """A fact of mosquitto, which the README tells: nobody owns a client identifier."""
    identity = "mqtt_2_influx-cellar"

    def writer_finds_its_session() -> bool:
        writer = User(broker, "mqtt_2_influx", client_id=identity)
        try:
            return writer.resume()
        finally:
            writer.leave()

    assert [writer_finds_its_session() for _ in range(2)] == [False, True]
    with User(broker, "reader", client_id=identity):
        pass
    assert not writer_finds_its_session()


@pytest.mark.parametrize("is_tls", [False, True])
@pytest.mark.parametrize(
    ("name", "password"),
    [("", None), ("reader", "guess"), ("reader", ""), ("root", "root: a password")],
)
def test_nobody_else_comes_in(
    broker: InstalledMosquitto, name: str, password: str | None, *, is_tls: bool
) -> None:
    stranger = User(broker, name, password)
    if is_tls:
        stranger.trust(broker.certificates.ca)
    try:
        assert not stranger.connect(broker.tls_port if is_tls else broker.port)
    finally:
        stranger.__exit__()


def test_other_machines_need_tls(broker: InstalledMosquitto) -> None:
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((ELSEWHERE, broker.port), timeout=5)
    with (
        socket.create_connection((ELSEWHERE, broker.tls_port), timeout=5) as plain,
        ssl.create_default_context(cafile=str(broker.certificates.ca)).wrap_socket(
            plain, server_hostname=ELSEWHERE
        ) as connection,
    ):
        assert connection.version() in ("TLSv1.2", "TLSv1.3")
    with socket.create_connection((ELSEWHERE, broker.tls_port), timeout=5) as plain:
        plain.sendall(b"\x10\x10\x00\x04MQTT\x05\x02\x00\x00\x00\x00\x03abc")
        assert is_cut_off(plain)


def test_a_script_does_not_speak_to_a_broker_it_cannot_trust(
    tmp_path: Path, broker: InstalledMosquitto
) -> None:
    other = make_certificates(tmp_path / "tls", "localhost")
    mqtt = {
        "broker": "localhost",
        "port": broker.tls_port,
        "tls": True,
        "ca_file": str(other.ca),
        "username": "plug_2_mqtt",
        "password": password_of("plug_2_mqtt"),
    }
    switch = {"name": "lamp", "host": f"{HOST}:{free_port()}"}
    config = write_config(tmp_path / "c.toml", {"MQTT": mqtt, "MyStromSwitch": switch})
    with Script("plug_2_mqtt.py", config) as script:
        script.wait_for_log("broker .*its certificate is not trusted")
        assert "connected to broker" not in script.log()


def is_cut_off(connection: socket.socket) -> bool:
    connection.settimeout(5)
    try:
        return connection.recv(1) == b""
    except ConnectionError:
        return True
    except TimeoutError:
        return False


# --- What it withstands ---------------------------------------------------------------------------


def test_what_was_published_survives_a_power_cut(tmp_path: Path, influxdb: InfluxDB1) -> None:
    """More is kept than by default, 1,000 messages; and it is on disk after a save."""
    soon = {"autosave_interval 60": "autosave_interval 1"}
    count = 1500
    with ExitStack() as running:
        broker = running.enter_context(InstalledMosquitto(tmp_path / "broker", soon))
        mqtt = {
            "broker": HOST,
            "port": broker.port,
            "username": "mqtt_2_influx",
            "password": password_of("mqtt_2_influx"),
        }
        tables = {"MQTT": mqtt, "InfluxDB": {"url": influxdb.url, "database": "energy"}}
        writer = Script("mqtt_2_influx.py", write_config(tmp_path / "writer.toml", tables))
        with writer:
            writer.wait_for_log("connected to broker")
            wait_until(
                lambda: influxdb.query("SELECT * FROM online", "energy"), 10, "its subscription"
            )
        with User(broker, "plug_2_mqtt") as plug:
            assert plug.publish("@update/tv/monitoring/relay", b'{"value": 1}', retain=True)
            began_ms = now_ms()
            for number in range(count):
                message = {"value": number, "unit": "W", "time": began_ms + number}
                assert plug.publish("@update/lamp/monitoring/power", json.dumps(message))
        broker.wait_until_saved()
        broker.kill()
        broker.start()
        with User(broker, "reader") as reader:
            reader.subscribe("@update/+/monitoring/relay")
            wait_until(lambda: reader.received, 5, "the retained state")
        running.enter_context(writer)

        def stored() -> int:
            (row,) = influxdb.query("SELECT count(power) FROM power", "energy") or [{"count": 0}]
            return int(row["count"])

        wait_until(lambda: stored() == count, 20, "all points stored")


def test_idle_connections_keep_no_program_of_this_machine_out(tmp_path: Path) -> None:
    with InstalledMosquitto(tmp_path / "broker") as broker, ExitStack() as strangers:
        for _ in range(200):
            address = (HOST, broker.tls_port)
            strangers.enter_context(socket.create_connection(address, timeout=5))
        with socket.create_connection((HOST, broker.tls_port), timeout=5) as one_more:
            assert is_cut_off(one_more)
        with User(broker, "reader"):
            pass


def test_huge_messages_are_refused(broker: InstalledMosquitto) -> None:
    with User(broker, "plug_2_mqtt") as plug, User(broker, "reader") as reader:
        reader.subscribe("@update/#")
        assert plug.publish("@update/lamp/monitoring/power", b"x" * 200_000)
        with pytest.raises(TimeoutError):
            plug.publish("@update/lamp/monitoring/power", b"x" * 300_000, timeout=1)
        reader.subscribe("fence")
        assert reader.received.count("@update/lamp/monitoring/power") == 1


def test_the_journal_has_no_line_for_each_message(tmp_path: Path) -> None:
    soon = {"autosave_interval 60": "autosave_interval 1"}
    with InstalledMosquitto(tmp_path / "broker", soon) as broker:
        with User(broker, "plug_2_mqtt") as plug:
            for _ in range(100):
                plug.publish("@update/lamp/monitoring/power")
        broker.wait_until_saved()
        User(broker, "").connect()
        broker.wait_for_log("not authorised")
        assert "u'plug_2_mqtt'" in broker.log()
        assert len(broker.log().splitlines()) < 20
        assert "Saving" not in broker.log()
        assert not broker.debians_log.exists()


# --- What the README has one type -----------------------------------------------------------------


def test_a_reload_takes_over_users_rules_and_certificate(tmp_path: Path) -> None:
    with (
        InstalledMosquitto(tmp_path / "broker") as broker,
        User(broker, "plug_2_mqtt") as plug,
        User(broker, "openenergy") as watcher,
    ):
        watcher.subscribe("@update/+/monitoring/+")
        acl = broker.folder / "acl"
        acl.write_text(f"{acl.read_text()}\nuser garden\ntopic write @update/pump/monitoring/+\n")
        secrets = {"garden": "a secret of the garden", "reader": "the reader's next secret"}
        create_users(broker.folder, *secrets, typed="\n".join(secrets.values()))
        other = make_certificates(tmp_path / "tls", "localhost")
        shutil.copy(other.server, broker.folder)
        shutil.copy(other.key, broker.folder)
        assert not lets_in(broker, "garden", secrets["garden"])
        assert lets_in(broker, "reader", password_of("reader"))
        broker.reload()
        wait_until(partial(lets_in, broker, "garden", secrets["garden"]), 10, "the new user")
        assert lets_in(broker, "reader", secrets["reader"])
        assert not lets_in(broker, "reader", password_of("reader"))
        assert certificate_of(broker) == other.server.read_text()
        with User(broker, "garden", secrets["garden"]) as garden:
            assert garden.publish("@update/pump/monitoring/power")
        # Nobody else notices.
        assert plug.publish("@update/lamp/monitoring/power")
        watcher.subscribe("fence")
        assert watcher.received[-2:] == [
            "@update/pump/monitoring/power",
            "@update/lamp/monitoring/power",
        ]


def test_the_certificate_is_renewed_weekly(tmp_path: Path) -> None:
    """Its job is the README's, but for the paths."""
    with InstalledMosquitto(tmp_path / "broker") as broker:
        before, made = certificate_of(broker), broker.certificates
        sign(made, "DNS:localhost", days=30)
        job = tmp_path / "openenergy-mosquitto"
        replacements = {
            "sudo ": "",
            "/etc/cron.weekly/openenergy-mosquitto": str(job),
            "-o mosquitto -g mosquitto ": "",
            "/etc/nginx/openenergy/": f"{made.server.parent}/",
            " /etc/mosquitto/openenergy ": f" {broker.folder} ",
            "systemctl reload mosquitto": f"kill -HUP {broker.pid}",
        }
        run_readme(README, "cron.weekly", replacements, tmp_path)
        subprocess.run([job], check=True, env={"TLS_FOLDER": str(made.server.parent)})
        wait_until(lambda: certificate_of(broker) != before, 10, "another certificate")
        assert certificate_of(broker) == made.server.read_text()


def certificate_of(broker: InstalledMosquitto) -> str:
    return ssl.get_server_certificate((HOST, broker.tls_port))


def test_mosquitto_sub_reads_its_password_from_a_file(
    tmp_path: Path, broker: InstalledMosquitto
) -> None:
    with User(broker, "plug_2_mqtt") as plug:
        assert plug.publish("@update/lamp/monitoring/relay", b'{"value": 1}', retain=True)
    secret = f"'-P {password_of('reader')}' '-p {broker.port}'"
    replacements = {"'-P PASSWORD'": secret, "_sub -v": "_sub -v -C 1"}
    shown = run_readme(README, "mosquitto_sub -v", replacements, tmp_path)
    assert re.fullmatch(r"@update/\S+/monitoring/\S+ \{.*\}\n", shown)
    assert (tmp_path / ".config/mosquitto_sub").stat().st_mode & 0o777 == 0o600


# --- create_users.py ------------------------------------------------------------------------------


class Users:
    """A folder with the access list, and configurations."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.passwords = folder / "passwords"
        shutil.copy(SHIPPED / "acl", folder)

    def config(self, name: str, user: object, password: object) -> Path:
        table = {"username": user, "password": password}
        return write_config(self.folder / name, {"MQTT": table})

    def plugs(self, *names: str) -> Path:
        """Write a configuration of plug_2_mqtt's own."""
        tables = {
            "MQTT": {"username": "plug_2_mqtt", "password": password_of("plug_2_mqtt")},
            "MyStromSwitch": [{"name": name} for name in names],
        }
        return write_config(self.folder / "plugs.toml", tables)

    def acl(self) -> dict[str, list[str]]:
        """Return the rules of each user."""
        sections = (self.folder / "acl").read_text().split("\nuser ")[1:]
        lines = (section.splitlines() for section in sections)
        return {name: [rule for rule in rest if "topic " in rule] for name, *rest in lines}

    def create(self, *sources: str | Path, typed: str = "") -> subprocess.CompletedProcess[str]:
        return create_users(self.folder, *sources, typed=typed)

    def hashes(self) -> dict[str, str]:
        return dict(line.split(":") for line in self.passwords.read_text().splitlines())


@pytest.fixture
def users(tmp_path: Path) -> Users:
    return Users(tmp_path)


def test_users_are_created_once(users: Users) -> None:
    secret = "naïve: $7$ 'secret'"
    config = users.config("credentials.toml", "openenergy", secret)
    first = users.create(config, "reader", typed="another secret")
    assert (first.returncode, first.stdout) == (0, "openenergy: set\nreader: set\n"), first.stderr
    content = users.passwords.read_bytes()
    again = users.create(config, "reader", typed="another secret")
    assert (again.returncode, again.stdout) == (0, "openenergy: unchanged\nreader: unchanged\n")
    assert users.passwords.read_bytes() == content
    assert users.passwords.stat().st_mode & 0o777 == 0o600
    if os.geteuid() == 0:
        assert users.passwords.owner() == users.passwords.group() == "mosquitto"
    for each in (first, again):
        for text in (secret, "another secret"):
            assert text not in each.stdout + each.stderr + content.decode()


def test_a_changed_password_changes_nobody_elses(users: Users) -> None:
    argv = [find_program("mosquitto_passwd"), "-c", "-b", str(users.passwords), "reader"]
    subprocess.run([*argv, "of mosquitto_passwd"], check=True)
    users.create(users.config("a.toml", "openenergy", "the first secret"))
    before = users.hashes()
    done = users.create(
        users.config("b.toml", "openenergy", "the second secret"),
        "reader",
        typed="of mosquitto_passwd",
    )
    assert done.stdout == "openenergy: set\nreader: unchanged\n"
    assert users.hashes()["openenergy"] != before["openenergy"]
    assert users.hashes()["reader"] == before["reader"]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "[MQTT] is missing: expected this table"),
        ("MQTT = 1", "[MQTT] is missing: expected this table"),
        ("[MQTT]", "[MQTT] username = '': expected one of openenergy, plug_2_mqtt, mqtt_2_influx,"),
        ("[MQTT]\nusername = 'pi'", "[MQTT] username = 'pi': expected one of openenergy, "),
        ("[MQTT]\nusername = 1", "[MQTT] username = 1: expected one of openenergy, "),
        ("[MQTT]\nusername = 'reader'", "[MQTT] password = (hidden): expected 12 printable"),
        ("[MQTT]\nusername = 'reader'\npassword = 'secret'", "[MQTT] password = (hidden): expec"),
        ("[MQTT]\nusername = 'reader'\npassword = 12", "[MQTT] password = (hidden): expected 12"),
        ("[MQTT]\nusername = 'reader'\npassword = \"secret\\n\"", "[MQTT] password = (hidden): "),
        ("[MQTT", "not TOML: "),
    ],
)
def test_a_wrong_configuration_is_one_clear_line(users: Users, text: str, reason: str) -> None:
    config = users.folder / "credentials.toml"
    config.write_text(text)
    refused = users.create(users.config("good.toml", "openenergy", "a good secret"), config)
    assert refused.returncode == 1
    assert refused.stderr.startswith(f"{config}: {reason}")
    assert len(refused.stderr.splitlines()) == 1
    assert "secret" not in refused.stderr
    assert not users.passwords.exists()


def test_plugs_may_measure_for_the_switches_of_their_configurations(users: Users) -> None:
    shipped = users.acl()
    for names in (["lamp", "tv"], ["tv", "pump"]):
        users.create(users.plugs(*names))
    own = [f"topic write @update/{name}/monitoring/+" for name in ("pump", "lamp", "tv")]
    assert users.acl() == shipped | {"plug_2_mqtt": own + shipped["plug_2_mqtt"]}
    assert (users.folder / "acl").stat().st_mode & 0o777 == 0o600
    again = users.create(users.plugs("tv"))
    assert again.stdout == "plug_2_mqtt: unchanged\n"


@pytest.mark.parametrize("name", ["", "+", "#", "a/b", "a b", "a\ntopic write #", "a\u2028"])
def test_no_name_of_a_switch_widens_the_rules(users: Users, name: str) -> None:
    shipped = users.acl()
    refused = users.create(users.plugs(name))
    assert refused.returncode == 1
    assert f": [MyStromSwitch] name = {name!r}: expected one level of a topic" in refused.stderr
    assert users.acl() == shipped


def test_a_user_has_one_password(users: Users) -> None:
    one = users.config("one.toml", "openenergy", "the first secret")
    other = users.config("other.toml", "openenergy", "the second secret")
    refused = users.create(one, other)
    assert refused.returncode == 1
    assert refused.stderr.startswith(f"{other}: [MQTT] password: expected the one")
    assert not users.passwords.exists()


def test_a_missing_file_is_named(users: Users) -> None:
    refused = users.create(users.folder / "missing.toml")
    assert refused.returncode == 1
    assert refused.stderr == f"{users.folder}/missing.toml: No such file or directory\n"
