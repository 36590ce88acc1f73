"""Any file is settings that can be used, or errors; never anything else."""

import datetime as dt
import json
import random
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from demo.parts import REPOSITORY
from openenergy import broker, config, influx, mystrom, service
from openenergy.config import ConfigError, Settings
from tests.unit.test_config import DEFAULTS, NEEDED_TABLES

SECRET = "s3cretT0ken"
TEMPLATE = (REPOSITORY / "credentials.toml").read_bytes()


def toml(value: Any) -> str:
    match value:
        case dict():
            return (
                "{" + ", ".join(f"{toml(key)} = {toml(item)}" for key, item in value.items()) + "}"
            )
        case list():
            return "[" + ", ".join(map(toml, value)) + "]"
        case bool() | str():
            # TOML, unlike JSON, wants DEL escaped.
            return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
        case _:
            return str(value)


def document(tables: dict[str, Any]) -> bytes:
    return "".join(f"{toml(name)} = {toml(table)}\n" for name, table in tables.items()).encode()


WORDS = st.sampled_from(
    [
        *["", "a", "localhost", "pi.lan", "a..b", ".", "127.0.0.1", "0.0.0.0", "::1", "[::1]:80"],
        *["[1]", "[:::]", "fe80::1%eth0", "a:80", "a:99999", "http://pi:8086", "http://[:]:1"],
        *["http://a:b@c", "http://pi/x", "64:00:2D:12:34:56", "123456", "@update", "+/#", "a/+/b"],
        *[
            "~",
            "~root",
            "~nobody-here/x",
            "/var/lib",
            "\0",
            "€",
            "object",
            "adeunis/pulse4",
            "0018b2*",
        ],
        *["x" * 64, "x" * 300, "é" * 40, SECRET],
    ]
)
SCALARS = (
    WORDS
    | st.text(max_size=8)
    | st.booleans()
    | st.sampled_from([0, 1, 2, -1, 0.05, 1.5, 80, 1883, 65535, 65536, 10**9, 10**30, 5e-324])
    | st.integers()
    | st.floats()
    | st.just(dt.date(2026, 11, 1))
    | st.datetimes(timezones=st.none() | st.just(dt.UTC))
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=3),
    max_leaves=4,
)


def tables_of(keys: list[str]) -> st.SearchStrategy[dict[str, Any]]:
    return st.dictionaries(st.sampled_from([*keys, "macAddress"]), SCALARS | VALUES, max_size=4)


SWITCH = tables_of([*DEFAULTS["MyStromSwitch"]])
DEVICE = tables_of(["dev_eui", "decoder", "period"])
DOCUMENTS = st.fixed_dictionaries(
    {},
    optional={
        "MQTT": tables_of([*DEFAULTS["MQTT"]]),
        "InfluxDB": tables_of([*DEFAULTS["InfluxDB"]]),
        "MyStromSwitch": SWITCH | st.lists(SWITCH, max_size=3),
        "ButtonServer": tables_of([*DEFAULTS["ButtonServer"]]),
        "HomeAssistant": tables_of([*DEFAULTS["HomeAssistant"]]),
        "Storage": tables_of([*DEFAULTS["Storage"]]),
        "LoRaWAN": st.fixed_dictionaries(
            {}, optional={"topics": VALUES, "devices": st.lists(DEVICE, max_size=2) | VALUES}
        ),
        "Mqtt": VALUES,
    },
)


def load(data: bytes, needed: tuple[str, ...] = ()) -> Settings | None:
    """Return the settings, None after errors as they must be."""
    with TemporaryDirectory() as folder:
        path = Path(folder, "credentials.toml")
        path.write_bytes(data)
        try:
            return config.load(path, needed)
        except ConfigError as error:
            assert error.lines  # noqa: PT017 - most examples end here
            for line in error.lines:
                assert re.fullmatch(rf"{path}: [^\n\r\x00\x1b]{{1,1000}}", line), line
            return None


@pytest.fixture(scope="module", autouse=True)
def without_a_network() -> Iterator[None]:
    """Look names up as far as it goes without asking anybody."""

    def look_up(host: str | bytes, *_: object, **__: object) -> None:
        if isinstance(host, str):
            host.encode("idna")
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket, "getaddrinfo", look_up)
        yield


def use(settings: Settings) -> None:
    """Do with settings what the scripts do, up to the network."""
    settings.storage.folder()
    assert len(service.file_name(broker.client_id(settings.mqtt, "button_server"))) < 220
    with pytest.raises(OSError, match="Name or service not known"):
        broker.try_connect(settings.mqtt, "button_server")
    for switch in settings.switches:
        with pytest.raises(mystrom.SwitchError, match=r"Name or service|not found"):
            mystrom.Switch(switch, mystrom.Announcements()).report()
    with pytest.raises(influx.UnavailableError):
        influx.connect(settings.influxdb).post(b"a b=1.0 1")


@settings(max_examples=200)
@given(DOCUMENTS)
def test_any_values_are_errors_or_can_be_used(tables: dict[str, Any]) -> None:
    loaded = load(document(tables))
    if loaded:
        use(loaded)


@pytest.mark.parametrize("table", ["MQTT", "InfluxDB", "MyStromSwitch"])
def test_any_word_is_an_error_or_can_be_used(table: str) -> None:
    @settings(max_examples=80)
    @given(key=st.sampled_from([*DEFAULTS[table]]), word=WORDS | st.text(max_size=4))
    @example(key="host", word="[1]")
    @example(key="domain", word=".lan")
    def is_an_error_or_can_be_used(key: str, word: str) -> None:
        by_mac = key in ("domain", "macAdress")
        switch = {"name": "a", "macAdress": "123456"} if by_mac else {"name": "a", "host": "a"}
        needed = switch if table == "MyStromSwitch" else {}
        loaded = load(document({table: {**needed, key: word}}))
        if loaded:
            use(loaded)

    is_an_error_or_can_be_used()


@given(
    st.binary(max_size=200) | st.text(alphabet="[]={}\"'\n#.,a1 \\", max_size=60).map(str.encode)
)
def test_any_bytes_are_settings_or_errors(data: bytes) -> None:
    load(data)


@settings(max_examples=200)
@given(st.integers(0, 2**32))
def test_a_template_with_typing_errors_is_settings_or_errors(seed: int) -> None:
    chance = random.Random(seed)
    data = bytearray(
        re.sub(rb"(?m)^# (?=\w+ = |\[)", b"", TEMPLATE).replace(b'""', b'"s3cretT0ken"')
    )
    for _ in range(chance.randrange(1, 6)):
        start = chance.randrange(len(data))
        data[start : start + chance.randrange(4)] = chance.choice(
            [b"", b'"', b"'", b"=", b"[", b"]", b"\n", b"#", b"5", b"true", b"\xff", b"a", b" "]
        )
    load(bytes(data))


# The scripts say it so


WRONG_VALUES = b'[MQTT]\nport = "1883"\npasword = "s3cretT0ken"\n[Sorage]\n'


@pytest.mark.parametrize(
    ("script", "data"),
    [
        *((script, WRONG_VALUES) for script in NEEDED_TABLES),
        ("plug_2_mqtt", b"[MQTT\n"),
        ("plug_2_mqtt", bytes(range(256))),
        ("mqtt_2_influx", b"a = " + b"[" * 100_000),
    ],
    ids=lambda value: value if isinstance(value, str) else f"{len(value)} bytes",
)
def test_a_script_ends_with_78_and_one_line_for_each_error(
    tmp_path: Path, script: str, data: bytes
) -> None:
    path = tmp_path / "credentials.toml"
    path.touch(mode=0o600)
    path.write_bytes(data)
    ended = subprocess.run(
        [sys.executable, str(REPOSITORY / f"{script}.py"), "--config", str(path)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        cwd=tmp_path,
    )
    assert ended.returncode == 78
    assert ended.stdout == ""
    assert "Traceback" not in ended.stderr
    assert SECRET not in ended.stderr
    lines = ended.stderr.splitlines()
    assert all(re.match(rf"\d\d:\d\d:\d\d ERROR service: {path}: ", line) for line in lines)
    missing = len(NEEDED_TABLES[script]) - 1
    assert len(lines) == (3 + missing if data == WRONG_VALUES else 1)
