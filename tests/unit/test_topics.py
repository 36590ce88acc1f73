"""Topics and payloads: we write what the contract says, and what we read is valid or refused."""

import json
import math
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from paho.mqtt.client import topic_matches_sub

from openenergy import topics
from openenergy.topics import Action, Command, Measurement, PayloadError

NAMES = st.from_regex(r"[A-Za-z0-9_.-]{1,64}", fullmatch=True)
TIMES = st.none() | st.integers(0, 2**53 - 1)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


# Topics


@pytest.mark.parametrize("name", ["my_strom-001", "a", "0", "Kitchen.Fridge", "x" * 64, ".", "-"])
def test_a_name_is_one_level_of_plain_characters(name: str) -> None:
    assert topics.is_name(name)
    assert topics.as_name(name) == name


@pytest.mark.parametrize(
    "text", ["", "x" * 65, "a/b", "a b", "+", "#", "kühl", "a\n", "a\0", "$SYS", "\u0661", "a,b"]
)
def test_anything_else_is_no_name(text: str) -> None:
    assert not topics.is_name(text)


@given(st.text())
def test_any_text_can_be_made_a_name_unless_it_is_empty(text: str) -> None:
    assert topics.is_name(topics.as_name(text)) or not text


def test_the_topics_are_those_of_the_contract() -> None:
    topic = topics.measurement_topic("@update", "my_strom-001", "power")
    assert topic == "@update/my_strom-001/monitoring/power"
    assert topics.command_topic("@set", "my_strom-001") == "@set/my_strom-001/control/relay"
    assert topics.measurement_filter("@update") == "@update/+/monitoring/#"
    assert topics.measurement_filter("@update", "relay") == "@update/+/monitoring/relay"


@given(prefix=NAMES, device=NAMES, quantity=NAMES)
def test_a_measurements_topic_can_be_read_again_and_fits_its_filters(
    prefix: str, device: str, quantity: str
) -> None:
    topic = topics.measurement_topic(prefix, device, quantity)
    assert topics.parse_measurement_topic(topic) == (device, quantity)
    assert topic_matches_sub(topics.measurement_filter(prefix), topic)
    assert topic_matches_sub(topics.measurement_filter(prefix, quantity), topic)


@pytest.mark.parametrize(
    "topic",
    [
        "",
        "/",
        "@update/a/monitoring",
        "@update/a/monitoring/",
        "@update//monitoring/power",
        "@update/a/control/relay",
        "@update/a/Monitoring/power",
        "@update/a/monitoring/power/x",
        "/@update/a/monitoring/power",
        "@update/a b/monitoring/power",
        "@update/a,b=c/monitoring/power",
        "@update/a/monitoring/power\n",
        "@update/a/monitoring/po\0wer",
        "@update/ä/monitoring/power",
        "@update/a/monitoring/" + "x" * 65,
        "a/" * 30_000,
    ],
)
def test_a_topic_of_another_shape_is_refused(topic: str) -> None:
    with pytest.raises(PayloadError, match="PREFIX/DEVICE/monitoring/QUANTITY"):
        topics.parse_measurement_topic(topic)


@given(st.lists(st.text() | st.sampled_from(["monitoring", "@update", "plug"])).map("/".join))
def test_any_topic_gives_two_names_or_is_refused(topic: str) -> None:
    try:
        device, quantity = topics.parse_measurement_topic(topic)
    except PayloadError:
        return
    assert topics.is_name(device)
    assert topics.is_name(quantity)
    assert topic.endswith(f"/{device}/monitoring/{quantity}")


@pytest.mark.parametrize(
    "topic_filter", ["#", "+", "a/#", "a/+/b", "+/+/#", "/", "a//b", "@update/+/monitoring/#", "ä"]
)
def test_a_filter_of_the_standard_is_one(topic_filter: str) -> None:
    assert topics.is_filter(topic_filter)


@pytest.mark.parametrize(
    "text",
    ["", "a#", "#/a", "a/#/b", "a+", "+a/b", "a/b+c", "##", "a\0b", "x" * 65536, "ä" * 32768],
)
def test_anything_else_is_no_filter(text: str) -> None:
    assert not topics.is_filter(text)


# Measurements


@pytest.mark.parametrize(
    ("quantity", "value", "text"),
    [
        ("power", 24.56, '{"value":24.56,"unit":"W","time":1763763243123}'),
        ("temperature", 21.5, '{"value":21.5,"unit":"C","time":1763763243123}'),
        ("average_power", 0, '{"value":0,"unit":"W","time":1763763243123}'),
        ("energy", 1234.5, '{"value":1234.5,"unit":"Wh","time":1763763243123}'),
        ("relay", 1, '{"value":1,"unit":"","time":1763763243123}'),
        ("online", 0, '{"value":0,"unit":"","time":1763763243123}'),
    ],
)
def test_a_measurement_is_written_as_the_contract_says(
    quantity: str, value: float, text: str
) -> None:
    assert topics.encode_measurement(quantity, value, 1763763243123).decode() == text


def test_a_last_will_has_no_time() -> None:
    assert topics.encode_measurement("online", 0, None) == b'{"value":0,"unit":""}'


@pytest.mark.parametrize(("closed", "text"), [(True, "1"), (False, "0")])
def test_a_truth_value_is_written_as_a_number(closed: bool, text: str) -> None:
    payload = topics.encode_measurement("relay", closed, None)
    assert payload.decode() == f'{{"value":{text},"unit":""}}'
    assert topics.decode_measurement(payload).value == closed


@given(
    quantity=st.sampled_from(sorted(topics.UNITS)),
    value=st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(2**53), 2**53),
    time_ms=TIMES,
)
def test_what_is_written_can_be_read_again(
    quantity: str, value: float, time_ms: int | None
) -> None:
    payload = topics.encode_measurement(quantity, value, time_ms)
    assert len(payload) < topics.MAX_PAYLOAD
    assert topics.decode_measurement(payload) == (value, topics.UNITS[quantity], time_ms)


@pytest.mark.parametrize(
    ("payload", "measurement"),
    [
        (b'{"value":1}', Measurement(1.0, "", None)),
        (b'{"value":-0.5e-3,"unit":"W"}', Measurement(-0.0005, "W", None)),
        (b'{"value":1,"time":null}', Measurement(1.0, "", None)),
        (b'{"value":1,"time":1763763243123.0}', Measurement(1.0, "", 1763763243123)),
        (b'{"value":1,"time":1763763243123.9}', Measurement(1.0, "", 1763763243123)),
        (b'{"value":1,"other":[{"a":{}}],"name":"x"}', Measurement(1.0, "", None)),
        ('{"value":1,"unit":"µg/m³"}'.encode(), Measurement(1.0, "µg/m³", None)),
        (b'{"value":1,"unit":"0123456789abcdef"}', Measurement(1.0, "0123456789abcdef", None)),
        (b'{"value":12345678901234567890}', Measurement(12345678901234567890.0, "", None)),
        (b' {\n"value"\t:1 } ', Measurement(1.0, "", None)),
        (b'{"value":1' + b" " * 4085 + b"}", Measurement(1.0, "", None)),
    ],
)
def test_every_form_of_a_measurement_is_read(payload: bytes, measurement: Measurement) -> None:
    read = topics.decode_measurement(payload)
    assert read == measurement
    assert type(read.value) is float


BAD_JSON = [
    b"",
    b"1",
    b"null",
    b"[]",
    b"{}",
    b"{",
    b"on",
    b'{"value":1}x',
    b'{"value":1,}',
    b"{'value':1}",
    b"\xef\xbb\xbf{}",
    b"\xff\xfe{\0}\0",
    b'{"value":' + b"[" * 4000,
    b"[" * 4096,
    b'{"a":' * 800,
    bytes(1024 * 1024),
]


@pytest.mark.parametrize(
    "payload",
    [
        *BAD_JSON,
        b'{"Value":1}',
        b'{"value":null}',
        b'{"value":true}',
        b'{"value":"1"}',
        b'{"value":[1]}',
        b'{"value":NaN}',
        b'{"value":Infinity}',
        b'{"value":-Infinity}',
        b'{"value":1e999}',
        b'{"value":-1e999}',
        b'{"value":1' + b"0" * 400 + b"}",
        b'{"value":0x10}',
        b'{"value":01}',
        b'{"value":1,"unit":5}',
        b'{"value":1,"unit":null}',
        b'{"value":1,"unit":"0123456789abcdefg"}',
        b'{"value":1,"unit":"W\\n"}',
        b'{"value":1,"unit":"W\\u0000"}',
        b'{"value":1,"unit":"a\\\\b"}',
        b'{"value":1,"unit":"\\ud800"}',
        b'{"value":1,"unit":"\xff"}',
        b'{"value":1,"time":-1}',
        b'{"value":1,"time":9007199254740992}',
        b'{"value":1,"time":1e300}',
        b'{"value":1,"time":"1763763243123"}',
        b'{"value":1,"time":true}',
        b'{"value":1' + b" " * 4086 + b"}",
    ],
)
def test_a_payload_that_is_no_measurement_is_refused(payload: bytes) -> None:
    with pytest.raises(PayloadError) as caught:
        topics.decode_measurement(payload)
    assert str(caught.value).startswith(("payload", "unit"))
    assert "\n" not in str(caught.value)


def read_or_refuse(payload: bytes) -> None:
    try:
        measurement = topics.decode_measurement(payload)
    except PayloadError:
        return
    assert math.isfinite(measurement.value)
    assert len(measurement.unit) <= 16
    assert measurement.unit.encode().decode() == measurement.unit  # no lone surrogate
    assert not set(measurement.unit) & set("\n\r\0\\\x1b")
    assert measurement.time is None or 0 <= measurement.time < 2**53


@given(st.binary())
@example(b'{"value":1,"unit":"\\ud800\\udc00"}')
def test_any_bytes_are_a_measurement_or_refused(payload: bytes) -> None:
    read_or_refuse(payload)


@settings(max_examples=150)
@given(value=JSON, unit=JSON, time=JSON)
def test_any_values_are_a_measurement_or_refused(value: Any, unit: Any, time: Any) -> None:
    payload = json.dumps({"value": value, "unit": unit, "time": time}, ensure_ascii=False)
    read_or_refuse(payload.encode("utf-8", "surrogatepass"))


# Commands


@pytest.mark.parametrize("action", Action)
def test_a_command_is_written_as_the_contract_says(action: Action) -> None:
    payload = topics.encode_command(action, 1763763243123)
    assert payload.decode() == f'{{"value":"{action.value}","time":1763763243123}}'
    assert topics.decode_command(payload) == Command(action, 1763763243123)


def test_the_actions_are_these() -> None:
    assert {action.value for action in Action} == {"open", "close", "toggle"}


@pytest.mark.parametrize(
    ("payload", "command"),
    [
        (b'{"value":"open"}', Command(Action.OPEN, None)),
        (b'{"value":"close","time":null}', Command(Action.CLOSE, None)),
        (b'{"value":"toggle","time":1.0,"by":"me"}', Command(Action.TOGGLE, 1)),
    ],
)
def test_every_form_of_a_command_is_read(payload: bytes, command: Command) -> None:
    assert topics.decode_command(payload) == command


@pytest.mark.parametrize(
    "payload",
    [
        *BAD_JSON,
        b'{"value":"on"}',
        b'{"value":"OPEN"}',
        b'{"value":"open "}',
        b'{"value":""}',
        b'{"value":1}',
        b'{"value":true}',
        b'{"value":["open"]}',
        b'{"value":null}',
        b'"open"',
        b"open",
        b'{"value":"open","time":"now"}',
        b'{"value":"open","time":-5}',
        b'{"value":"open","time":1e999}',
    ],
)
def test_a_payload_that_is_no_command_is_refused(payload: bytes) -> None:
    with pytest.raises(PayloadError):
        topics.decode_command(payload)


@given(st.binary() | st.builds(lambda value: json.dumps({"value": value}).encode(), JSON))
def test_any_bytes_are_a_command_or_refused(payload: bytes) -> None:
    try:
        command = topics.decode_command(payload)
    except PayloadError:
        return
    assert command.action in Action
