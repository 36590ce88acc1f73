"""What is wrong with a configuration: all of it, each in one line that says what to write."""

import re
from collections.abc import Callable
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import pytest
from certifi import where

from openenergy import config
from openenergy.config import ConfigError
from tests.conftest import ConfigFile

Errors = Callable[..., list[str]]


@pytest.fixture
def errors(config_file: ConfigFile) -> Errors:
    """Return the errors of a configuration, without the file's path, which each begins with."""

    def errors_of(tables: Any, *needed: str) -> list[str]:
        path = config_file(tables)
        with pytest.raises(ConfigError) as caught:
            config.load(path, needed)
        assert str(caught.value) == "\n".join(caught.value.lines)
        assert all(line.startswith(f"{path}: ") and "\n" not in line for line in caught.value.lines)
        return [line.removeprefix(f"{path}: ") for line in caught.value.lines]

    return errors_of


# One key


@pytest.mark.parametrize(
    ("table", "key", "values", "expected"),
    [
        ("MQTT", "broker", ["", "a b", "a..b", ".a", "a/b", "x" * 64, "1:2:zz", 5], "host name or"),
        ("MQTT", "port", [0, -1, 65536, 1.5, "1883", True, 10**30], "a port, 1 to 65535"),
        ("MQTT", "username", [5, True, ["a"], "a\nb", "a\0", "x" * 1025], "text of one line"),
        ("MQTT", "tls", ["true", 1, 0, "", []], "true or false"),
        ("MQTT", "client_id", ["a b", "ä", "x" * 65, 5], "64 ASCII characters at most"),
        ("MQTT", "qos", [2, -1, "1", 1.0, True], "0 or 1"),
        ("MQTT", "retain", ["yes", 1], "true or false"),
        ("MQTT", "prefix_update", ["", "a/b", "+", "#", "a b", "$SYS"], "one topic level"),
        ("MQTT", "prefix_set", ["", "/", "a#", 5], "one topic level"),
        (
            "InfluxDB",
            "url",
            [
                *["", "localhost:8086", "influx", "ftp://a", "http://", "http:///a", "http://a b"],
                *["http://a:0", "http://a:65536", "http://a:x", "http://a..b", "//a", "http://[1"],
                *["http://a#b", "http://ä", " http://a", "http://a/b c", "http:\\\\a"],
            ],
            "http://HOST:PORT or https://HOST:PORT",
        ),
        ("InfluxDB", "timeout", [0, 0.01, -1, 86401, "10", True], "seconds, 0.05 to 86400"),
        ("InfluxDB", "batch", [0, -5, 50001, 1.5, "5000"], "points, 1 to 50000"),
        ("InfluxDB", "window", [0, 65536, True, "1"], "messages, 1 to 65535"),
        ("InfluxDB", "session_expiry", [-1, 2**32, 1.5], "whole seconds"),
        ("InfluxDB", "topics", ["#", [5], [["#"]], ["a\nb"]], "a list of texts"),
        ("InfluxDB", "topics", [[""], ["a#"], ["#/a"], ["a", "b+"]], "MQTT topic filters, which"),
        ("InfluxDB", "share_group", ["a/b", "+", "#", 5], "a name without"),
        ("MyStromSwitch", "name", ["", "a b", "a/b", "ä", "x" * 65, 5], "one topic level: letters"),
        (
            "MyStromSwitch",
            "host",
            ["a b", "a..b", "a:b", "http://a", "fd00::1", "[a", 5],
            "host name",
        ),
        ("MyStromSwitch", "host", ["a:0", "a:65536", "a:99999"], "an address and port that exist"),
        (
            "MyStromSwitch",
            "macAdress",
            ["64002D12345", "64002D1234567", "64002G123456", "12345", 123456],
            "a MAC address of 12 hexadecimal digits, or its last 6",
        ),
        ("MyStromSwitch", "domain", [".lan", "a..b", "a b", "/", 5], "a DNS domain"),
        ("MyStromSwitch", "interval", [0, 0.04, -1, 86401, "1", True], "seconds, 0.05 to 86400"),
        ("MyStromSwitch", "timeout", [0, 61, "2"], "seconds, 0.05 to 60"),
        ("MyStromSwitch", "read_only", [1, "true"], "true or false"),
        ("ButtonServer", "host", ["", "a b", "http://a"], "a host name or an address"),
        ("ButtonServer", "port", [0, 65536, "8080"], "a port, 1 to 65535"),
        ("ButtonServer", "allowed_origins", ["http://pi:3000", [5]], "a list of texts"),
        (
            "ButtonServer",
            "allowed_origins",
            [["*"], ["pi:3000"], ["http://pi:3000/"], ["http://pi/a"], ["null"]],
            'origins like "http://pi:3000", which',
        ),
        ("ButtonServer", "plugs", ["*", [1]], "a list of texts"),
        ("ButtonServer", "confirm_timeout", [0, 61, "3"], "seconds, 0.05 to 60"),
        ("HomeAssistant", "discovery", [1, "true"], "true or false"),
        (
            "HomeAssistant",
            "prefix",
            ["", "a/+", "#", "a b", "$SYS", "/a", "a/", "a//b", "a\nb", "é\x85", "x" * 65, 5],
            "topic levels without '+', '#' or spaces",
        ),
        ("Storage", "state", [5, "a\0b", True], "text of one line"),
        ("Storage", "state", ["~no-such-user/a"], "the home folder of a user that exists"),
        ("Storage", "spool_size", [0, 65535, -1, "1", 1e9], "bytes, 65536 or more"),
        ("LoRaWAN", "topics", ["#", [5]], "a list of texts"),
        ("LoRaWAN", "topics", [["a/#/b"]], "MQTT topic filters, which 'a/#/b' is not"),
    ],
)
def test_a_value_that_cannot_be_is_one_error_with_table_key_value_and_what_to_write(
    errors: Errors, table: str, key: str, values: list[Any], expected: str
) -> None:
    needed = {"name": "a", "host": "10.0.0.1"} if table == "MyStromSwitch" else {}
    for value in values:
        (error,) = errors({table: {**needed, key: value}})
        where, _, what = error.partition(": expected ")
        assert where == f"[{table}] {key} = {value!r:.80}"
        assert expected in what


@pytest.mark.parametrize(
    ("devices", "error"),
    [
        ("5", "[LoRaWAN.devices] = 5: expected a table"),
        ("['a']", "[[LoRaWAN.devices]] number 1 = 'a': expected a table"),
        (
            "[{dev_eui = 5, decoder = 'object'}]",
            (
                "[[LoRaWAN.devices]] number 1 dev_eui = 5: expected 16 hexadecimal digits with"
                " nothing between them, or a shell pattern of them"
            ),
        ),
        (
            "[{dev_eui = '*', decoder = 'object', period = -1}]",
            "[[LoRaWAN.devices]] number 1 period = -1: expected seconds",
        ),
        (
            "[{dev_eui = '*', decoder = 'object'}, {dev_eui = '*', decoder = 'object', perod = 1}]",
            "[[LoRaWAN.devices]] number 2 'perod': unknown key; did you mean 'period'?",
        ),
    ],
)
def test_a_device_is_checked_like_a_table(errors: Errors, devices: str, error: str) -> None:
    assert errors(f"[LoRaWAN]\ndevices = {devices}\n") == [error]


@pytest.mark.parametrize(
    "dev_eui",
    [
        *["00-18-B2-40-00-00-01-23", "00:18:b2:40:00:00:01:23", "00 18 b2 40 00 00 01 23"],
        *["0018b240", "0018b240000001234", "0018b2400000012?3", "0018b2400000012[34", "0018g*"],
    ],
)
def test_a_dev_eui_that_no_device_can_have_is_an_error(errors: Errors, dev_eui: str) -> None:
    (error,) = errors(f"[LoRaWAN]\ndevices = [{{dev_eui = '{dev_eui}', decoder = 'object'}}]\n")
    assert f"dev_eui = '{dev_eui}': expected 16 hexadecimal digits with nothing between" in error


@pytest.mark.parametrize(
    "dev_eui",
    ["0018B24000000123", "0018b2400000012?", "0018b240000001[!3-9a]3", "*", "0018b2*[0-3]"],
)
def test_a_dev_eui_that_a_device_can_have_is_none(config_file: ConfigFile, dev_eui: str) -> None:
    text = f"[LoRaWAN]\ndevices = [{{dev_eui = '{dev_eui}', decoder = 'object'}}]\n"
    (device,) = config.load(config_file(text), ()).lorawan.devices
    assert fnmatchcase("0018b24000000123", device.dev_eui.lower())


@pytest.mark.parametrize("value", ["nan", "inf", "-inf"])
def test_a_number_that_is_none_is_an_error(errors: Errors, value: str) -> None:
    (error,) = errors(f"[MyStromSwitch]\nname = 'a'\nhost = 'b'\ninterval = {value}\n")
    assert error == f"[MyStromSwitch] interval = {value}: expected seconds, 0.05 to 86400"


def test_a_date_is_no_text(errors: Errors) -> None:
    (error,) = errors("[InfluxDB]\norg = 2026-11-01\n")
    assert error.startswith("[InfluxDB] org = datetime.date(2026, 11, 1): expected text")


# Keys that do not go together


@pytest.mark.parametrize(
    ("tables", "error"),
    [
        (
            {"MQTT": {"password": "s3cret"}},
            "[MQTT] password = (hidden): expected a username with it",
        ),
        (
            {"MQTT": {"prefix_set": "@update"}},
            "[MQTT] prefix_set = '@update': expected another prefix than prefix_update",
        ),
        (
            {"MQTT": {"tls": True, "ca_file": "/no/such/file"}},
            "[MQTT] ca_file = '/no/such/file': expected a readable file of PEM certificates",
        ),
        (
            {"MQTT": {"tls": True, "ca_file": "/etc/hostname"}},
            "[MQTT] ca_file = '/etc/hostname': expected a readable file of PEM certificates",
        ),
        (
            {"MQTT": {"tls": True, "ca_file": "x" * 1000}},
            f"[MQTT] ca_file = '{'x' * 79}: expected a readable file of PEM certificates",
        ),
        (
            {"InfluxDB": {"database": "a", "bucket": "b"}},
            (
                "[InfluxDB] bucket = 'b': expected either database (InfluxDB 1.x) or token, org and"
                " bucket (2 and 3)"
            ),
        ),
        (
            {"InfluxDB": {"database": "a", "token": "s3cret"}},
            (
                "[InfluxDB] token = (hidden): expected either database (InfluxDB 1.x) or token,"
                " org and bucket (2 and 3)"
            ),
        ),
        (
            {"InfluxDB": {"username": "me"}},
            (
                "[InfluxDB] username = 'me': expected database with it (InfluxDB 1.x; InfluxDB 2"
                " and 3 take a token)"
            ),
        ),
        (
            {"MyStromSwitch": {"host": "10.0.0.1"}},
            (
                "[MyStromSwitch] name = '': expected one topic level: letters, digits, '_', '-',"
                " '.' (64 at most)"
            ),
        ),
        (
            {"MyStromSwitch": {"name": "a"}},
            "[MyStromSwitch] host = '': expected the switch's address, or its macAdress",
        ),
        (
            {"ButtonServer": {"host": "0.0.0.0"}},
            (
                "[ButtonServer] token = '': expected a token, since host = '0.0.0.0' can be reached"
                " from other machines"
            ),
        ),
        (
            {"ButtonServer": {"token": "s3cret"}},
            "[ButtonServer] token = (hidden): expected 12 characters or more",
        ),
        (
            {"MQTT": {"retain": False}, "HomeAssistant": {"discovery": True}},
            (
                "[HomeAssistant] discovery = True: expected retain = true in [MQTT] with it: Home"
                " Assistant asks nobody for states, it only hears those that are retained"
            ),
        ),
        (
            {"HomeAssistant": {"discovery": True, "prefix": "@update/ha"}},
            (
                "[HomeAssistant] prefix = '@update/ha': expected another first level than"
                " prefix_update and prefix_set of [MQTT]"
            ),
        ),
        (
            {
                "MQTT": {"prefix_set": "homeassistant"},
                "HomeAssistant": {"discovery": True},
            },
            (
                "[HomeAssistant] prefix = 'homeassistant': expected another first level than"
                " prefix_update and prefix_set of [MQTT]"
            ),
        ),
        (
            {"LoRaWAN": {"devices": [{"decoder": "object"}]}},
            "[[LoRaWAN.devices]] number 1 dev_eui = '': expected a value: it has no default",
        ),
    ],
)
def test_keys_that_do_not_go_together(errors: Errors, tables: dict[str, Any], error: str) -> None:
    assert errors(tables) == [error]


@pytest.mark.parametrize(
    ("table", "faulty", "others"),
    [
        ("MyStromSwitch", {"macAddress": "12"}, {"name": "a"}),
        ("MQTT", {"username": 5}, {"password": "s3cret"}),
        ("MQTT", {"tls": "yes"}, {"ca_file": where()}),
        ("MQTT", {"prefix_update": ""}, {"prefix_set": "@update"}),
        ("InfluxDB", {"database": 5}, {"username": "me", "password": "s3cret"}),
    ],
)
def test_an_error_has_no_other_in_its_train(
    errors: Errors, table: str, faulty: dict[str, Any], others: dict[str, Any]
) -> None:
    (error,) = errors({table: {**faulty, **others}})
    assert error.startswith(f"[{table}] {next(iter(faulty))} = ")


def test_without_discovery_home_assistant_asks_for_nothing(config_file: ConfigFile) -> None:
    tables = {"MQTT": {"retain": False, "prefix_set": "homeassistant"}, "HomeAssistant": {}}
    assert config.load(config_file(tables), ()).mqtt.prefix_set == "homeassistant"


def test_a_ca_file_without_tls_is_an_error(errors: Errors) -> None:
    assert "[MQTT] ca_file = '/etc/hostname': expected tls = true with it" in errors(
        {"MQTT": {"ca_file": "/etc/hostname"}}
    )


def test_both_spellings_of_the_mac_address_are_one_too_many(errors: Errors) -> None:
    switch = {"name": "a", "macAdress": "123456", "macAddress": "123456"}
    assert errors({"MyStromSwitch": switch}) == [
        "[MyStromSwitch] macAddress: expected only one of the two spellings of macAdress"
    ]


def test_the_error_names_the_spelling_that_was_used(errors: Errors) -> None:
    (error,) = errors({"MyStromSwitch": {"name": "a", "host": "b", "macAddress": "1"}})
    assert error.startswith("[MyStromSwitch] macAddress = '1': expected a MAC address")


def test_each_switch_needs_a_name_of_its_own(errors: Errors) -> None:
    switches = [{"name": name, "host": "10.0.0.1"} for name in "abcbab"]
    assert errors({"MyStromSwitch": switches}) == [
        "[MyStromSwitch] name = 'a': expected another name for each switch",
        "[MyStromSwitch] name = 'b': expected another name for each switch",
    ]


# Tables

TABLES = ["MQTT", "InfluxDB", "ButtonServer", "HomeAssistant", "Storage", "LoRaWAN"]


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize("value", ["5", "'text'", "[1, 2]", "true", "[]"])
def test_a_value_in_place_of_a_table_is_an_error(errors: Errors, table: str, value: str) -> None:
    (error,) = errors(f"{table} = {value}\n")
    assert re.fullmatch(rf"\[{table}\] = .*: expected a table", error)


@pytest.mark.parametrize("table", TABLES)
def test_so_is_an_array_of_tables(errors: Errors, table: str) -> None:
    assert errors(f"[[{table}]]\n[[{table}]]\n") == [f"[{table}] = (a table): expected a table"]


@pytest.mark.parametrize("value", ["5", "'text'", "true"])
def test_a_switch_is_a_table(errors: Errors, value: str) -> None:
    (error,) = errors(f"MyStromSwitch = {value}\n")
    assert error.startswith("[MyStromSwitch] = ")
    (error,) = errors(f"MyStromSwitch = [{{name = 'a', host = 'b'}}, {value}]\n")
    assert error.startswith("[[MyStromSwitch]] number 2 = ")
    assert error.endswith(": expected a table")


def test_a_table_that_is_needed_must_be_there(errors: Errors) -> None:
    assert errors("", "MQTT", "MyStromSwitch") == [
        "[MQTT] is missing: expected this table",
        "[MyStromSwitch] is missing: expected this table",
    ]
    (error,) = errors("MyStromSwitch = []\n", "MyStromSwitch")
    assert error == "[MyStromSwitch] is missing: expected this table"


# Near misses


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        *[("mqtt", "MQTT"), ("Mqtt", "MQTT"), ("MQQT", "MQTT"), ("influxdb", "InfluxDB")],
        *[("InfluxDb", "InfluxDB"), ("Influx", "InfluxDB"), ("mystromswitch", "MyStromSwitch")],
        *[("MyStromSwitches", "MyStromSwitch"), ("Buttonserver", "ButtonServer")],
        *[("storage", "Storage"), ("Lorawan", "LoRaWAN"), ("LoRaWan", "LoRaWAN")],
    ],
)
def test_a_table_nearly_right_gets_a_suggestion(errors: Errors, written: str, meant: str) -> None:
    assert errors({written: {}}) == [f"{written!r} is no table; did you mean {meant!r}?"]


@pytest.mark.parametrize(
    ("table", "written", "meant"),
    [
        *[("MQTT", "brokr", "broker"), ("MQTT", "Broker", "broker"), ("MQTT", "user", "username")],
        *[("MQTT", "pasword", "password"), ("MQTT", "clientid", "client_id")],
        *[("InfluxDB", "URL", "url"), ("InfluxDB", "buckets", "bucket")],
        *[("MyStromSwitch", "macadress", "macAdress"), ("MyStromSwitch", "intervall", "interval")],
        *[("MyStromSwitch", "readonly", "read_only"), ("MyStromSwitch", "MacAddress", "macAdress")],
        *[("ButtonServer", "allowed_origin", "allowed_origins")],
    ],
)
def test_a_key_nearly_right_gets_a_suggestion(
    errors: Errors, table: str, written: str, meant: str
) -> None:
    needed = {"name": "a", "host": "10.0.0.1"} if table == "MyStromSwitch" else {}
    assert errors({table: {**needed, written: "s3cret"}}) == [
        f"[{table}] {written!r}: unknown key; did you mean {meant!r}?"
    ]


def test_one_that_is_far_off_gets_none(errors: Errors) -> None:
    assert errors("[MQTT]\nzzz = 1\n[Unknown]\n") == [
        "'Unknown' is no table",
        "[MQTT] 'zzz': unknown key",
    ]


# The file


def test_all_errors_come_at_once_and_in_the_same_order_every_time(errors: Errors) -> None:
    text = """
        surplus = 1
        [MQTT]
        broker = ""
        port = "1883"
        tsl = true
        [InfluxDB]
        url = "localhost"
        timeout = 0
        [[MyStromSwitch]]
        name = "a"
        [[MyStromSwitch]]
        name = "a b"
        host = "10.0.0.1"
        [Storrage]
        [ButtonServer]
        host = "0.0.0.0"
        token = "short"
        [LoRaWAN]
        topics = ["a#"]
        [[LoRaWAN.devices]]
        dev_eui = "xyz"
    """
    found = errors(text)
    assert [error.split(" = ")[0].split(":")[0] for error in found] == [
        "'surplus' is no table",
        "'Storrage' is no table; did you mean 'Storage'?",
        "[MQTT] broker",
        "[MQTT] port",
        "[MQTT] 'tsl'",
        "[InfluxDB] timeout",
        "[InfluxDB] url",
        "[[MyStromSwitch]] number 1 host",
        "[[MyStromSwitch]] number 2 name",
        "[ButtonServer] token",
        "[[LoRaWAN.devices]] number 1 dev_eui",
        "[[LoRaWAN.devices]] number 1 decoder",
        "[LoRaWAN] topics",
    ]


@pytest.mark.parametrize(
    "text",
    [
        *["[MQTT", "[MQTT]\nbroker = localhost\n", "broker", "= 1", "a = 'b", "a = [1", "\0"],
        *["[MQTT]\nbroker='a'\nbroker='b'\n", "[MQTT]\n[MQTT]\n", "a = 1\n[a]\n", "a = 2026-13-45"],
        *["a = " + "[" * 100_000, "a = " + "{b=" * 50_000, "a = 1" + "0" * 5000, "a = '\\ud800'x"],
    ],
    ids=lambda text: repr(text[:20]),
)
def test_what_is_not_toml_is_one_error(errors: Errors, text: str) -> None:
    (error,) = errors(text)
    assert error.startswith("not TOML: ")
    assert len(error) < 200


def test_the_error_of_toml_says_where(errors: Errors) -> None:
    assert errors("[MQTT]\nbroker = localhost\n") == [
        "not TOML: Invalid value (at line 2, column 10)"
    ]


@pytest.mark.parametrize("data", [b"\xff\xfe", b"a = '\xe4'", b"\x80"])
def test_a_file_that_is_not_utf_8_is_an_error(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "credentials.toml"
    path.write_bytes(data)
    with pytest.raises(ConfigError, match="expected UTF-8 text"):
        config.load(path, ())


def test_a_file_that_cannot_be_read_is_an_error_that_says_why(tmp_path: Path) -> None:
    for path, reason in (
        (tmp_path / "none.toml", "No such file or directory"),
        (tmp_path, "Is a directory"),
        (tmp_path / ("x" * 300), "File name too long"),
    ):
        with pytest.raises(ConfigError) as caught:
            config.load(path, ())
        assert caught.value.lines == (f"{path}: cannot be read: {reason}",)


# Secrets


@pytest.mark.parametrize(
    "text",
    [
        "[MQTT]\npassword = 's3cret'\n",
        "[MQTT]\npassword = ['s3cret']\n",
        "[MQTT]\npassword = {a = 's3cret'}\n",
        '[MQTT]\nusername = "a"\npassword = "s3cret\\n"\n',
        "[MQTT]\npasswort = 's3cret'\n",
        "[MQTT]\nbroker = {password = 's3cret'}\n",
        "[[MQTT]]\npassword = 's3cret'\n",
        "[mqtt]\npassword = 's3cret'\n",
        "password = 's3cret'\n",
        "[MQTT]\npassword = s3cret\n",
        "[MQTT]\npassword = 's3cret\n",
        "[MQTT]\npassword = 's3cret' x\n",
        "[InfluxDB]\ntoken = 's3cret with a space'\n",
        "[InfluxDB]\ntoken = 's3cret€'\n",
        "[InfluxDB]\ndatabase = 'a'\ntoken = 's3cret'\n",
        "[InfluxDB]\npassword = 's3cret'\n",
        "[InfluxDB]\nurl = 'http://me:s3cret@pi:8086'\n",
        "[InfluxDB]\nurl = 'http://me:a/s3cret@pi:8086'\n",
        "[InfluxDB]\nurl = 'http://me:a@s3cret@pi:8086'\n",
        "[InfluxDB]\nurl = 'http://pi:8086/write?u=me&p=s3cret'\n",
        "[InfluxDB]\nurl = {a = 's3cret'}\n",
        "[[MyStromSwitch]]\nname = 'a'\nhost = 'b'\ntoken = 's3cretä'\n",
        "[MyStromSwitch]\nname = 'a'\nhost = 'http://me:s3cret@b'\n",
        "[ButtonServer]\ntoken = 's3cret'\n",
        "[ButtonServer]\ntoken = ['s3cret']\n",
        "[ButtonServer]\nallowed_origins = ['http://me:s3cret@pi']\n",
        "[LoRaWAN]\ndevices = [[{password = 's3cret'}]]\n",
    ],
)
def test_a_secret_is_never_shown(errors: Errors, text: str) -> None:
    assert "s3cret" not in "\n".join(errors(text))


def test_a_long_value_is_shortened(errors: Errors) -> None:
    (error,) = errors({"MQTT": {"broker": "x" * 100_000}})
    assert len(error) < 200
    (error,) = errors({"MQTT": {"x" * 100_000: 1}})
    assert len(error) < 200
    (error,) = errors({"x" * 100_000: {}})
    assert len(error) < 200
