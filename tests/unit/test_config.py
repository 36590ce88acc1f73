"""What a configuration means: every key, its default, and the files that must stay valid."""

import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest
import tomli

from demo.parts import REPOSITORY
from openenergy import config
from openenergy.config import Settings
from tests.conftest import ConfigFile

# The tables of the contract, key for key, with their defaults.
DEFAULTS: dict[str, dict[str, Any]] = {
    "MQTT": {
        "broker": "localhost",
        "port": 1883,
        "username": "",
        "password": "",
        "tls": False,
        "ca_file": "",
        "client_id": "",
        "qos": 1,
        "retain": True,
        "prefix_update": "@update",
        "prefix_set": "@set",
    },
    "InfluxDB": {
        "url": "http://localhost:8086",
        "token": "",
        "org": "",
        "bucket": "energy",
        "database": "",
        "username": "",
        "password": "",
        "timeout": 10.0,
        "batch": 5000,
        "window": 5000,
        "session_expiry": 604800,
        "topics": (),
        "share_group": "",
    },
    "MyStromSwitch": {
        "name": "",
        "host": "",
        "macAdress": "",
        "domain": "",
        "token": "",
        "interval": 1.0,
        "timeout": 2.0,
        "read_only": False,
    },
    "ButtonServer": {
        "host": "127.0.0.1",
        "port": 8080,
        "token": "",
        "allowed_origins": (),
        "plugs": ("*",),
        "allow_get": False,
        "confirm_timeout": 3.0,
    },
    "HomeAssistant": {"discovery": False, "prefix": "homeassistant"},
    "Storage": {"state": "", "spool_size": 268435456},
    "LoRaWAN": {"topics": (), "devices": ()},
}
NEEDED_TABLES = {
    "plug_2_mqtt": ("MQTT", "MyStromSwitch"),
    "mqtt_2_influx": ("MQTT", "InfluxDB"),
    "button_server": ("MQTT",),
}

FOUNDING_DOCUMENT = """
[MQTT]
broker = "192.168.1.2"
username = "pi"
password = "raspberry"

[InfluxDB]
token = "abc=="
org = "home"
bucket = "energy"

[MyStromSwitch]
name = "my_strom-001"
macAdress = "64002D123456"
"""


@pytest.mark.parametrize(
    ("cls", "table"),
    [
        (config.Mqtt, "MQTT"),
        (config.InfluxDB, "InfluxDB"),
        (config.MyStromSwitch, "MyStromSwitch"),
        (config.ButtonServer, "ButtonServer"),
        (config.HomeAssistant, "HomeAssistant"),
        (config.Storage, "Storage"),
        (config.LoRaWAN, "LoRaWAN"),
    ],
)
def test_every_key_of_the_contract_has_exactly_its_default(cls: type[Any], table: str) -> None:
    defaults = dataclasses.asdict(cls())
    assert defaults == DEFAULTS[table]
    assert {key: type(value) for key, value in defaults.items()} == {
        key: type(value) for key, value in DEFAULTS[table].items()
    }


def test_a_lorawan_device_has_these_keys() -> None:
    assert list(dataclasses.asdict(config.LoRaWANDevice())) == ["dev_eui", "decoder", "period"]


def test_an_empty_file_is_all_defaults(config_file: ConfigFile) -> None:
    settings = config.load(config_file(""), ())
    assert settings == Settings(
        settings.path,
        config.Mqtt(),
        config.InfluxDB(),
        (),
        config.ButtonServer(),
        config.HomeAssistant(),
        config.Storage(),
        config.LoRaWAN(),
    )


def test_so_is_a_table_without_keys(config_file: ConfigFile) -> None:
    settings = config.load(config_file("[MQTT]\n[InfluxDB]\n"), ("MQTT", "InfluxDB"))
    assert settings.mqtt == config.Mqtt()


@pytest.mark.parametrize("script", NEEDED_TABLES)
def test_the_template_is_valid_for_every_script_and_all_local(script: str) -> None:
    settings = config.load(REPOSITORY / "credentials.toml", NEEDED_TABLES[script])
    assert settings.mqtt == config.Mqtt()
    assert settings.influxdb == config.InfluxDB(database="energy")
    assert [switch.host for switch in settings.switches] == ["localhost:8001"]
    assert settings.button_server == config.ButtonServer()


def test_the_template_shows_every_key_with_its_default() -> None:
    template = (REPOSITORY / "credentials.toml").read_text()
    shown = tomli.loads(re.sub(r"(?m)^# (?=\w+ = |\[)", "", template))
    (shown["MyStromSwitch"],) = shown["MyStromSwitch"]
    examples = {"database": "energy", "name": "my_strom-001", "host": "localhost:8001"}
    assert {table: set(keys) for table, keys in shown.items()} == {
        table: set(keys) for table, keys in DEFAULTS.items()
    }
    for table in DEFAULTS.keys() - {"LoRaWAN"}:
        for key, value in shown[table].items():
            default = DEFAULTS[table][key]
            assert value in (
                list(default) if isinstance(default, tuple) else default,
                examples.get(key),
            )


@pytest.mark.parametrize("script", NEEDED_TABLES)
def test_the_founding_documents_file_is_valid_for_every_script(
    config_file: ConfigFile, script: str
) -> None:
    settings = config.load(config_file(FOUNDING_DOCUMENT), NEEDED_TABLES[script])
    assert settings.mqtt == config.Mqtt(broker="192.168.1.2", username="pi", password="raspberry")
    assert settings.influxdb == config.InfluxDB(token="abc==", org="home", bucket="energy")
    assert settings.switches == (
        config.MyStromSwitch(name="my_strom-001", macAdress="64002D123456"),
    )


@pytest.mark.parametrize("spelling", ["macAdress", "macAddress"])
@pytest.mark.parametrize(
    "mac",
    [
        *["64002D123456", "64002d123456", "64:00:2D:12:34:56", "64-00-2d-12-34-56"],
        *["64 00 2D 12 34 56", "6400.2D12.3456", "123456", "12:34:56"],
    ],
)
def test_a_mac_address_in_any_usual_spelling(
    config_file: ConfigFile, spelling: str, mac: str
) -> None:
    path = config_file({"MyStromSwitch": {"name": "a", spelling: mac}})
    assert config.load(path, ()).switches == (config.MyStromSwitch(name="a", macAdress=mac),)


def test_one_switch_is_a_table_and_several_are_an_array_of_tables(config_file: ConfigFile) -> None:
    one = {"name": "a", "host": "10.0.0.1"}
    other = {"name": "b", "host": "10.0.0.2", "interval": 5, "read_only": True}
    as_table = config.load(config_file({"MyStromSwitch": one}), ())
    as_array = config.load(config_file({"MyStromSwitch": [one]}, "array.toml"), ())
    assert as_table.switches == as_array.switches == (config.MyStromSwitch("a", "10.0.0.1"),)
    both = config.load(config_file({"MyStromSwitch": [one, other]}, "both.toml"), ())
    assert [switch.name for switch in both.switches] == ["a", "b"]
    assert both.switches[1].interval == 5.0
    assert both.switches[1].read_only


def test_lorawan_devices_are_read_in_their_order(config_file: ConfigFile) -> None:
    text = """
        [LoRaWAN]
        topics = ["application/+/device/+/event/+", "v3/+/devices/+/up"]
        [[LoRaWAN.devices]]
        dev_eui = "0018b2400*"
        decoder = "adeunis/pulse4"
        period = 3600
        [[LoRaWAN.devices]]
        dev_eui = "*"
        decoder = "object"
    """
    assert config.load(config_file(text), ()).lorawan == config.LoRaWAN(
        ("application/+/device/+/event/+", "v3/+/devices/+/up"),
        (
            config.LoRaWANDevice("0018b2400*", "adeunis/pulse4", 3600.0),
            config.LoRaWANDevice("*", "object"),
        ),
    )


@pytest.mark.parametrize(
    ("table", "port"),
    [({}, 1883), ({"tls": True}, 8883), ({"tls": True, "port": 1883}, 1883), ({"port": 99}, 99)],
)
def test_the_port_is_that_of_the_protocol_unless_given(
    config_file: ConfigFile, table: dict[str, Any], port: int
) -> None:
    assert config.load(config_file({"MQTT": table}), ()).mqtt.port == port


@pytest.mark.parametrize(
    "host",
    [
        *[
            "localhost",
            "pi",
            "pi.lan",
            "pi.lan.",
            "my_pi-1.home.arpa",
            "192.168.1.2",
            "xn--kln-sna",
        ],
        *["::1", "fd00::2", "fe80::1%eth0", "::ffff:192.168.1.2", "a" * 63],
    ],
)
def test_hosts_that_can_be(config_file: ConfigFile, host: str) -> None:
    path = config_file(
        {"MQTT": {"broker": host}, "ButtonServer": {"host": host, "token": "x" * 12}}
    )
    assert config.load(path, ()).mqtt.broker == host


@pytest.mark.parametrize(
    "host", ["10.0.0.1", "10.0.0.1:80", "plug.lan:8080", "[fd00::2]", "[::1]:65535", "plug"]
)
def test_addresses_of_switches_that_can_be(config_file: ConfigFile, host: str) -> None:
    path = config_file({"MyStromSwitch": {"name": "a", "host": host}})
    assert config.load(path, ()).switches[0].host == host


@pytest.mark.parametrize(
    "url",
    [
        *["http://localhost:8086", "https://influx.example.org", "http://[::1]:8086"],
        *[
            "https://eu-central-1-1.aws.cloud2.influxdata.com",
            "http://pi/influx/",
            "http://1.2.3.4",
        ],
    ],
)
def test_urls_that_can_be(config_file: ConfigFile, url: str) -> None:
    assert config.load(config_file({"InfluxDB": {"url": url}}), ()).influxdb.url == url


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.9.10", "localhost", "::1"])
def test_the_button_server_needs_no_token_on_a_loopback_address(
    config_file: ConfigFile, host: str
) -> None:
    path = config_file({"ButtonServer": {"host": host}})
    assert config.load(path, ()).button_server.is_loopback()


def test_the_state_folder_is_the_one_configured_else_systemds_else_the_users(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HOME", "/home/pi")
    monkeypatch.setenv("STATE_DIRECTORY", "/var/lib/openenergy:/var/lib/other")
    assert config.Storage(state="/data").folder() == Path("/data")
    assert config.Storage(state="~/data").folder() == Path("/home/pi/data")
    assert config.Storage().folder() == Path("/var/lib/openenergy")
    monkeypatch.delenv("STATE_DIRECTORY")
    assert config.Storage().folder() == Path("/home/pi/.local/state/openenergy")


@pytest.mark.parametrize(
    ("mode", "exposed"), [(0o600, False), (0o640, False), (0o644, True), (0o604, True)]
)
def test_a_file_that_others_can_read_is_exposed(
    config_file: ConfigFile, mode: int, exposed: bool
) -> None:
    path = config_file("")
    path.chmod(mode)
    assert config.is_exposed(path) is exposed


def test_secrets_are_not_in_what_settings_print(config_file: ConfigFile) -> None:
    path = config_file(
        {
            "MQTT": {"username": "me", "password": "s3cret"},
            "InfluxDB": {"token": "s3cret"},
            "MyStromSwitch": {"name": "a", "host": "b", "token": "s3cret"},
            "ButtonServer": {"token": "s3cret-s3cret"},
        }
    )
    settings = config.load(path, ())
    assert settings.mqtt.password == settings.influxdb.token == "s3cret"
    assert "s3cret" not in f"{settings!r}{settings}"
