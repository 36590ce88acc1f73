"""The shipped configuration for The Things Network, against a stand-in as its sources have it.

TLS, MQTT 3.1.1, no word to who speaks MQTT 5, QoS 0, and one topic to read, none to write
(TheThingsIndustries/mystique, pkg/packet/connect.go; lorawan-stack, pkg/applicationserver/io/mqtt).
"""

import json
import re
import ssl
import subprocess
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import datetime
from functools import partial
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qs, urlsplit

import pytest
from paho.mqtt.publish import single

from demo.parts import HOST, REPOSITORY, InfluxDB1, Mosquitto, Script, write_config
from demo.process import find_program, wait_until
from tests.browser.parts import Certificates, make_certificates
from tests.integration.old_broker import REFUSALS, OldBroker
from tests.integration.running import mqtt_table, run_to_end, warnings
from tests.integration.test_mosquitto_integration import (
    InstalledMosquitto,
    password_of,
    run_readme,
)
from tests.unit.lorawan.test_uplink import EVENTS, payload_of

SHIPPED = REPOSITORY / "integrations" / "ttn" / "mqtt_2_influx@ttn.toml"
README = SHIPPED.with_name("README.md")
APPLICATION = "campus-building@ttn"
KEY = "NNSXS.SOMETHING.SECRET"
FILTER = "v3/+/devices/+/up"


class Ttn(NamedTuple):
    """The Things Network, as one of its users sees it."""

    broker: Mosquitto
    front: OldBroker
    certificates: Certificates

    def receive(self, event: dict[str, Any]) -> None:
        """Have a device's frame, or something else, go the way of its topic."""
        single(
            event["topic"],
            payload_of(event),
            qos=0,
            hostname=HOST,
            port=self.broker.port,
            auth={"username": "network", "password": KEY},
        )


@pytest.fixture
def ttn(tmp_path: Path) -> Iterator[Ttn]:
    folder = tmp_path / "ttn"
    folder.mkdir()
    users, rules = folder / "users", folder / "rules"
    for user, options in ((APPLICATION, ["-c", "-b"]), ("network", ["-b"])):
        argv = [find_program("mosquitto_passwd"), *options, str(users), user, KEY]
        subprocess.run(argv, check=True)
    rules.write_text(
        f"user {APPLICATION}\ntopic read v3/{APPLICATION}/devices/+/up\n"
        "user network\ntopic write v3/#\n"
    )
    rights = f"allow_anonymous false\npassword_file {users}\nacl_file {rules}\nmax_qos 0"
    certificates = make_certificates(folder / "tls", "localhost")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates.server, certificates.key)
    with ExitStack() as running:
        broker = running.enter_context(
            Mosquitto(folder / "mosquitto", extra_config=f"{rights}\nlog_type all")
        )
        front = running.enter_context(OldBroker(broker.port, REFUSALS["by silence"], context))
        yield Ttn(broker, front, certificates)


@pytest.fixture
def config(tmp_path: Path, ttn: Ttn, influxdb: InfluxDB1) -> Path:
    """Fill in the template as its user does."""
    text = SHIPPED.read_text()
    for old, new in {
        'broker = "eu1.cloud.thethings.network"': 'broker = "localhost"',
        "tls = true": f'tls = true\nport = {ttn.front.port}\nca_file = "{ttn.certificates.ca}"',
        "APPLICATION@ttn": APPLICATION,
        "NNSXS.KEY": KEY,
        "http://localhost:8086": influxdb.url,
    }.items():
        assert old in text
        text = text.replace(old, new)
    path = tmp_path / SHIPPED.name
    path.touch(0o600)
    path.write_text(text)
    return path


def test_uplinks_are_stored_and_nothing_else_is_asked_for(
    ttn: Ttn, config: Path, influxdb: InfluxDB1
) -> None:
    uplink = EVENTS["ttn_up_lopy_decoded"]
    dev_eui = uplink["expect"]["dev_eui"]
    with Script("mqtt_2_influx.py", config) as script:
        script.wait_for_log(r"connected to broker .*3\.1\.1", 30)
        ttn.broker.wait_for_log(r"Sending SUBACK to mqtt_2_influx")
        for event in (EVENTS["ttn_join"], EVENTS["ttn_up_open_source_topic"], uplink):
            ttn.receive(event)
        asked = f"SELECT * FROM lorawan WHERE dev_eui = '{dev_eui}'"  # noqa: S608 - of a fixture
        (link,) = wait_until(lambda: influxdb.query(asked, "energy"), 20, "the uplink's point")
        assert link["application"] == "campus-building"
        assert script.terminate().status == 0
        # MQTT 5 was hung up on, and nobody has said what the device is.
        expected = re.compile(r"connection lost|decoder = ")
        assert [line for line in warnings(script.log()) if not expected.search(line)] == []
        assert KEY not in script.log()
    # The uplink of another application is none of ours.
    assert len(influxdb.query("SELECT * FROM lorawan", "energy")) == 1
    # Publishing would have been denied; subscriptions and last wills mosquitto lists, indented.
    assert "Received PUBLISH from mqtt_2_influx" not in ttn.broker.log()
    assert re.findall(r"^\d+: \t(.*)", ttn.broker.log(), re.MULTILINE) == [f"{FILTER} (QoS 0)"]


def test_what_comes_meanwhile_is_lost(ttn: Ttn, config: Path, influxdb: InfluxDB1) -> None:
    """The README says so: QoS 0 is not kept, whatever session we ask for."""
    before, meanwhile, after = (
        EVENTS[f"ttn_up_{name}"]
        for name in ("lopy_decoded", "pulse4_counters", "comfort2_packetbroker")
    )
    script = Script("mqtt_2_influx.py", config)
    for event in (before, after):
        with script:
            script.wait_for_log("connected to broker", 30)
            wait_until(lambda: is_subscribed(ttn.broker.log()), 10, "its subscription")
            ttn.receive(event)
            wait_until(partial(is_stored, influxdb, event), 20, "the uplink's point")
        wait_until(lambda: not is_subscribed(ttn.broker.log()), 10, "its farewell")
        ttn.receive(meanwhile)
    assert not is_stored(influxdb, meanwhile)


@contextmanager
def storage_integration(*events: dict[str, Any]) -> Iterator[str]:
    """Serve stored uplinks as TTN documents it, to whoever has the key; yield its address."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            url = urlsplit(self.path)
            application = APPLICATION.removesuffix("@ttn")
            assert url.path == (
                f"/api/v3/as/applications/{application}/packages/storage/uplink_message"
            )
            assert datetime.fromisoformat(parse_qs(url.query)["after"][0])
            assert self.headers["Accept"] == "text/event-stream"
            is_ours = self.headers["Authorization"] == f"Bearer {KEY}"
            self.send_response(HTTPStatus.OK if is_ours else HTTPStatus.UNAUTHORIZED)
            self.end_headers()
            for event in events if is_ours else ():
                # Two ends of lines: lorawan-stack, pkg/jsonpb, TTNEventStream.
                self.wfile.write(json.dumps({"result": event["payload"]}).encode() + b"\n\n")

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer((HOST, 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://{HOST}:{server.server_port}"
        server.shutdown()


def test_a_gap_is_filled_by_the_commands_of_the_readme(tmp_path: Path, influxdb: InfluxDB1) -> None:
    events = [EVENTS[f"ttn_up_{name}"] for name in ("lopy_decoded", "pulse4_counters")]
    broker = InstalledMosquitto(tmp_path / "broker")
    user = {"username": "openenergy", "password": password_of("openenergy")}
    tables = {
        "MQTT": mqtt_table(broker.port, **user),
        "InfluxDB": {"url": influxdb.url, "database": "energy"},
        "LoRaWAN": {"topics": [FILTER]},
    }
    config = write_config(tmp_path / "credentials.toml", tables)
    (tmp_path / ".config").mkdir()
    (tmp_path / ".config" / "mosquitto_pub").write_text(
        f"-u {user['username']}\n-P {user['password']}\n-p {broker.port}\n"
    )
    header = tmp_path / "ttn.header"
    with (
        storage_integration(*events) as url,
        broker,
        Script("mqtt_2_influx.py", config) as script,
    ):
        script.wait_for_log("connected to broker")
        replacements = {
            "https://eu1.cloud.thethings.network": url,
            "NNSXS.KEY": KEY,
            "APPLICATION@ttn": APPLICATION,
            "/APPLICATION/": f"/{APPLICATION.removesuffix('@ttn')}/",
            "ttn.header": str(header),
        }
        for _ in range(2):  # what is there already is stored as the same points
            run_readme(README, "curl", replacements, tmp_path)
        for event in events:
            wait_until(partial(is_stored, influxdb, event), 20, "the uplink's point")
        assert header.stat().st_mode & 0o777 == 0o600
        assert script.terminate().status == 0  # all that has come is stored
    links = influxdb.query("SELECT * FROM lorawan", "energy")
    assert {(link["dev_eui"], link["time"]) for link in links} == {
        (event["expect"]["dev_eui"], milliseconds(event["expect"]["server_time"]))
        for event in events
    }
    assert len(links) == len(events)


def milliseconds(time: str) -> int:
    return int(datetime.fromisoformat(time).timestamp() * 1000)


def is_subscribed(log: str) -> bool:
    """Whether the script's last word with the broker was about its subscription."""
    last = re.findall(r"(?:Sending|Received) (\w+) (?:to|from) mqtt_2_influx", log)[-1:]
    return last == ["SUBACK"]


def is_stored(influxdb: InfluxDB1, event: dict[str, Any]) -> bool:
    dev_eui = event["expect"]["dev_eui"]
    asked = f"SELECT * FROM lorawan WHERE dev_eui = '{dev_eui}'"  # noqa: S608 - of a fixture
    return bool(influxdb.query(asked, "energy"))


def test_check_finds_a_wrong_key(ttn: Ttn, config: Path) -> None:
    good = run_to_end("mqtt_2_influx.py", "--check", "--config", config, cwd=config.parent)
    assert (good.returncode, "ok broker localhost" in good.stdout) == (0, True), good.stdout
    config.write_text(config.read_text().replace(KEY, "NNSXS.WRONG"))
    bad = run_to_end("mqtt_2_influx.py", "--check", "--config", config, cwd=config.parent)
    assert bad.returncode == 1
    assert "[MQTT] username, password" in bad.stdout
    assert ttn.front.refused >= 2
