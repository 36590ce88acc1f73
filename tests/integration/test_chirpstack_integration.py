"""ChirpStack's configuration as it is set up, with real Redis, broker, writer and database.

ChirpStack itself is not to be had from Debian: what it would do with its configuration is done
here, with the values that it would read.
"""

import copy
import os
import re
import shlex
import shutil
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from paho.mqtt.client import topic_matches_sub

from demo.parts import HOST, REPOSITORY, InfluxDB1, Mosquitto, Script, write_config
from demo.process import Program, find_program, free_port, wait_until
from openenergy.config import ButtonServer
from tests.integration.chirpstack_parts import FOLDER, Machine, RefusedError, make_spies, run
from tests.integration.running import mqtt_table, script_online_topic
from tests.mqtt_client import MqttClient
from tests.unit.lorawan.test_uplink import EVENTS

BROKER_FOLDER = REPOSITORY / "integrations" / "mosquitto"
GATEWAY = "b827ebfffe4a10c7"

# All keys that the programs know, by table: what is spelled otherwise they ignore without a word.
KEYS = REPOSITORY / "tests" / "fixtures" / "chirpstack"


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    machine = Machine(tmp_path / "machine")
    machine.configure()
    return machine


@pytest.mark.parametrize(
    ("file", "program"),
    [
        ("chirpstack.toml", "chirpstack"),
        ("region_eu868.toml", "chirpstack"),
        ("chirpstack-gateway-bridge.toml", "chirpstack-gateway-bridge"),
    ],
)
def test_every_key_is_one_that_its_program_knows(machine: Machine, file: str, program: str) -> None:
    known = {
        f"{table}.{key}"
        for line in (KEYS / f"{program}.keys").read_text().splitlines()
        if not line.startswith("#")
        for table, _, keys in [line.partition(": ")]
        for key in keys.split()
    }
    assert set(flat_keys(machine.read(file))) <= known


def flat_keys(value: object, prefix: str = "") -> Iterator[str]:
    match value:
        case dict():
            for key, item in value.items():
                yield from flat_keys(item, f"{prefix}.{key}" if prefix else key)
        case [dict(), *_]:
            for item in value:
                yield from flat_keys(item, prefix)
        case _:
            yield prefix


def test_files_are_for_their_service_alone(machine: Machine) -> None:
    for path in Machine.PATHS:
        file = machine.root / path
        file.unlink()
        if os.geteuid() == 0:  # others cannot give files away
            os.chown(file.parent, 4711, 4712)
        machine.configure()
        assert file.stat().st_mode & 0o777 == 0o640
        assert file.stat().st_gid == file.parent.stat().st_gid
        assert file.stat().st_uid == os.geteuid()
    assert machine.secrets.path.stat().st_mode & 0o777 == 0o600


def test_no_two_machines_have_a_secret_in_common(machine: Machine, tmp_path: Path) -> None:
    other = Machine(tmp_path / "other")
    other.configure()
    ours, theirs = machine.secrets.all(), other.secrets.all()
    assert ours.keys() == theirs.keys() == {"postgresql_chirpstack", "mqtt_chirpstack", "api"}
    assert len({*ours.values(), *theirs.values()}) == 6
    text, text_of_other = ("".join(each.files().values()) for each in (machine, other))
    for secret, secret_of_other in zip(ours.values(), theirs.values(), strict=True):
        assert secret in text
        text = text.replace(secret, secret_of_other)
    assert text == text_of_other


def test_no_place_is_left_empty(machine: Machine) -> None:
    for text in machine.files().values():
        assert not re.search(r"@\w+@", text)


def test_a_second_time_no_file_is_touched(machine: Machine) -> None:
    before, kept = machine.files(), machine.secrets.path.read_text()
    times = [(machine.root / path).stat().st_mtime_ns for path in Machine.PATHS]
    said = machine.configure()
    assert [line.split(":")[0] for line in said.splitlines()] == ["Unchanged"] * 3
    assert (machine.files(), machine.secrets.path.read_text()) == (before, kept)
    assert [(machine.root / path).stat().st_mtime_ns for path in Machine.PATHS] == times
    assert list(machine.root.rglob("*~")) == []


def test_what_somebody_wrote_is_replaced_but_kept(machine: Machine) -> None:
    path = machine.root / "etc/chirpstack/chirpstack.toml"
    ours = path.read_text()
    for edit in ("# mine\n", "# mine, again\n"):
        path.write_text(edit)
        said = machine.configure()
        assert said.splitlines()[:2] == [
            f"Replaced, but kept as chirpstack.toml.~NUMBER~: {path}",
            f"Written: {path}",
        ]
        assert path.read_text() == ours
    old = {each.name: each.read_text() for each in path.parent.glob("*~")}
    assert old == {"chirpstack.toml.~1~": "# mine\n", "chirpstack.toml.~2~": "# mine, again\n"}
    # ChirpStack reads every file whose name ends so.
    assert len(list(path.parent.glob("*.toml"))) == 2


def test_without_the_package_one_line_says_so(tmp_path: Path) -> None:
    machine = Machine(tmp_path / "machine")
    folder = machine.root / "etc/chirpstack"
    folder.rmdir()
    with pytest.raises(RefusedError) as refused:
        machine.configure()
    assert str(refused.value) == f"1: There is no {folder}: install the package chirpstack first."


def test_secrets_are_no_programs_arguments(machine: Machine, tmp_path: Path) -> None:
    machine.secrets.path.unlink()
    arguments = tmp_path / "arguments"
    programs = ["openssl", "install", "sed", "stat"]
    path = f"{make_spies(tmp_path / 'spies', arguments, programs)}:{os.environ['PATH']}"
    env = {"DESTDIR": str(machine.root), "PATH": path} | machine.secrets.env
    said = run(FOLDER / "configure.sh", env=env)
    seen = arguments.read_text()
    assert "openssl rand" in seen
    assert "install --backup" in seen
    for secret in machine.secrets.all().values():
        assert secret not in said + seen


def test_without_a_secret_nothing_is_written(tmp_path: Path) -> None:
    machine = Machine(tmp_path / "machine")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "openssl").symlink_to("/bin/false")
    path = f"{tmp_path / 'bin'}:{os.environ['PATH']}"
    env = {"DESTDIR": str(machine.root), "PATH": path} | machine.secrets.env
    for script in ("configure.sh", "database.sh"):
        with pytest.raises(RefusedError):
            run(FOLDER / script, env=env)
    assert machine.secrets.all() == {}
    assert list(machine.root.rglob("*.toml")) == []


def test_where_only_root_may_write_one_line_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for script in ("configure.sh", "database.sh"):
        with pytest.raises(
            RefusedError, match=r"\n.*secrets cannot be written. Only root can do that: sudo"
        ):
            run(FOLDER / script, env={"SECRETS": f"{tmp_path}/file/secrets"})


# --- What ChirpStack would do with it -----------------------------------------------------------


def test_the_pages_are_for_this_machine_until_told_otherwise(machine: Machine) -> None:
    address = machine.chirpstack["api"]["bind"]
    assert address == "127.0.0.1:8081"
    assert not address.endswith(f":{ButtonServer().port}")
    machine.configure("0.0.0.0:8082")
    assert machine.chirpstack["api"]["bind"] == "0.0.0.0:8082"
    assert "Written" not in machine.configure()
    machine.configure("127.0.0.1:8081")
    assert machine.chirpstack["api"]["bind"] == address


@pytest.mark.parametrize("address", ["8081", "pi:8081", "1.2.3.4", '"', "0.0.0.0:80 1"])
def test_a_wrong_web_address_changes_nothing(machine: Machine, address: str) -> None:
    before = machine.files()
    with pytest.raises(RefusedError, match=r"^2: Usage: .* for example 0\.0\.0\.0:8081"):
        machine.configure(address)
    assert machine.files() == before


class Redis(Program):
    """Redis as Debian configures it, but for the port and the folder."""

    def __init__(self, folder: Path, config: Path) -> None:
        folder.mkdir()
        self.port = free_port()
        options = f"--port {self.port} --dir {folder} --daemonize no --supervised no --save ''"
        options += f" --pidfile {folder}/pid --logfile ''"
        argv = [find_program("redis-server"), str(config), *shlex.split(options)]
        super().__init__("redis-server", argv, folder / "redis.log")

    def ready(self) -> bool:
        try:
            return self.ask(HOST, "PING") == "PONG"
        except OSError:
            return False

    def ask(self, host: str, command: str) -> str:
        """Return the answer to a command without arguments (RESP, simple strings)."""
        with socket.create_connection((host, self.port), timeout=2) as connection:
            connection.sendall(f"{command}\r\n".encode())
            return connection.recv(100).decode().strip().removeprefix("+")


def test_redis_answers_it_and_no_other_machine(machine: Machine, tmp_path: Path) -> None:
    config = Path("/etc/redis/redis.conf")
    if not os.access(config, os.R_OK):
        pytest.skip("Debian's configuration of Redis is for root and redis alone")
    (url,) = map(urlsplit, machine.chirpstack["redis"]["servers"])
    assert (url.scheme, url.port, url.password) == ("redis", 6379, None)
    with Redis(tmp_path / "redis", config) as redis:
        assert redis.ask(str(url.hostname), "PING") == "PONG"
        # Also this machine, but another address, as the network has it.
        with pytest.raises(ConnectionRefusedError):
            redis.ask("127.0.0.2", "PING")


def expand(template: str, **values: str) -> str:
    """Fill in {{ name }} as Handlebars, and {{ .Name }} as Go."""
    return re.sub(r"\{\{ *\.?(\w+) *\}\}", lambda match: values[match[1]], template)


def test_bridge_and_server_mean_the_same_topics(machine: Machine) -> None:
    bridge = machine.bridge["integration"]["mqtt"]
    server = machine.region["gateway"]["backend"]["mqtt"]
    for event in ("up", "stats", "ack"):
        topic = expand(bridge["event_topic_template"], GatewayID=GATEWAY, EventType=event)
        assert topic == f"eu868/gateway/{GATEWAY}/event/{event}"
        assert topic_matches_sub(server["event_topic"], topic)
    state = expand(bridge["state_topic_template"], GatewayID=GATEWAY, StateType="conn")
    assert state == f"eu868/gateway/{GATEWAY}/state/conn"
    heard = expand(bridge["command_topic_template"], GatewayID=GATEWAY)
    for command in ("down", "config"):
        topic = expand(server["command_topic"], gateway_id=GATEWAY, command=command)
        assert topic_matches_sub(heard, topic)
        assert not topic_matches_sub(heard, topic.replace(GATEWAY, "0" * 16))
    assert machine.bridge["backend"]["semtech_udp"]["udp_bind"].endswith(":1700")
    assert machine.chirpstack["network"]["enabled_regions"] == [machine.region["id"]]


def test_all_three_come_to_the_broker_as_the_same_user(machine: Machine) -> None:
    bridge = machine.bridge["integration"]["mqtt"]["auth"]["generic"]
    server = machine.region["gateway"]["backend"]["mqtt"]
    integration = machine.chirpstack["integration"]["mqtt"]
    users = {(each["username"], each["password"]) for each in (bridge, server, integration)}
    assert users == {("chirpstack", machine.secrets["mqtt_chirpstack"])}
    addresses = {
        urlsplit(url)[:2] for url in [*bridge["servers"], server["server"], integration["server"]]
    }
    assert addresses == {("tcp", "127.0.0.1:1883")}


def test_uplinks_are_confirmed_on_every_leg(machine: Machine) -> None:
    """What comes while the broker restarts is kept by its sender with QoS 1, dropped with 0."""
    bridge = machine.bridge["integration"]["mqtt"]["auth"]["generic"]
    server = machine.region["gateway"]["backend"]["mqtt"]
    integration = machine.chirpstack["integration"]["mqtt"]
    assert [leg["qos"] for leg in (bridge, server, integration)] == [1, 1, 1]


def test_an_uplink_reaches_the_database(machine: Machine, tmp_path: Path) -> None:
    """Published as ChirpStack is told, through the broker's access list, to a running writer."""
    integration = machine.chirpstack["integration"]["mqtt"]
    assert integration["json"] is True
    assert "mqtt" in machine.chirpstack["integration"]["enabled"]
    event = copy.deepcopy(EVENTS["v4_up_pulse4_counters"])
    event["payload"]["deviceInfo"]["tags"]["decoder"] = "adeunis/pulse4"
    device = event["payload"]["deviceInfo"]
    names = {"application_id": device["applicationId"], "dev_eui": device["devEui"]}
    uplink_topic = expand(integration["event_topic"], event="up", **names)
    order_topic = expand(integration["command_topic"], command="down", **names)
    assert uplink_topic == event["topic"]
    user = integration["username"], integration["password"]
    writer = "openenergy", "writer's password"
    with (
        Mosquitto(tmp_path / "mosquitto", extra_config=only_for(tmp_path, user, writer)) as broker,
        InfluxDB1(tmp_path / "influxdb") as database,
        MqttClient(HOST, broker.port, username=user[0], password=user[1]) as chirpstack,
        MqttClient(HOST, broker.port, username=writer[0], password=writer[1]) as orders,
    ):
        database.create_database("energy")
        tables = {
            "MQTT": mqtt_table(broker.port, username=writer[0], password=writer[1]),
            "InfluxDB": {"url": database.url, "database": "energy"},
            "LoRaWAN": {"topics": ["application/+/device/+/event/+"]},
        }
        with Script("mqtt_2_influx.py", write_config(tmp_path / "writer.toml", tables)):
            orders.wait_for(script_online_topic("mqtt_2_influx"))
            chirpstack.publish(uplink_topic, event["payload"], qos=integration["qos"])
            query = "SELECT channel, pulses, sensor, dev_eui FROM pulses ORDER BY time"
            rows = wait_until(lambda: database.query(query, "energy"), 20, "the uplink's points")
        orders.publish(order_topic, {"fPort": 1, "data": "AQ=="})
        chirpstack.wait_for(order_topic)
    assert {(row["channel"], row["pulses"]) for row in rows} == {("A", 1284417), ("B", 90233)}
    assert {row["sensor"] for row in rows} == {"gas meter boiler room"}
    assert {row["dev_eui"] for row in rows} == {"0018b240000a3c67"}


def test_gateway_traffic_passes_the_broker(machine: Machine, tmp_path: Path) -> None:
    bridge = machine.bridge["integration"]["mqtt"]
    server = machine.region["gateway"]["backend"]["mqtt"]
    user = server["username"], server["password"]
    up = expand(bridge["event_topic_template"], GatewayID=GATEWAY, EventType="up")
    conn = expand(bridge["state_topic_template"], GatewayID=GATEWAY, StateType="conn")
    down = expand(server["command_topic"], gateway_id=GATEWAY, command="down")
    with (
        Mosquitto(tmp_path / "mosquitto", extra_config=only_for(tmp_path, user)) as broker,
        MqttClient(HOST, broker.port, username=user[0], password=user[1]) as chirpstack,
    ):
        for topic in (up, conn, down):
            chirpstack.publish(topic, b"protobuf")
            chirpstack.wait_for(topic)


def only_for(folder: Path, *users: tuple[str, str]) -> str:
    """Give these users passwords, as the broker's README says; return its configuration."""
    shutil.copy(BROKER_FOLDER / "acl", folder)
    create = [sys.executable, str(BROKER_FOLDER / "create_users.py"), "--folder", str(folder)]
    passwords = "".join(f"{password}\n" for _, password in users)
    run(*create, *(name for name, _ in users), text=passwords)
    return f"allow_anonymous false\npassword_file {folder}/passwords\nacl_file {folder}/acl"
