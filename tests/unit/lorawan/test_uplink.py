"""Messages of ChirpStack 3, ChirpStack 4 and The Things Network become the same typed events."""

import base64
import copy
import json
from datetime import datetime
from typing import Any

import pytest

from openenergy.lorawan.events import Ignored, Status, Uplink, UplinkError
from openenergy.lorawan.uplink import parse
from tests.unit.lorawan import vectors

ARRIVAL = 1_800_000_000_000
EVENTS = {event["name"]: event for event in vectors.load("uplinks.jsonl")}
UPLINKS = [
    name
    for name, event in EVENTS.items()
    if "best_rssi" in event["expect"] or name == "ttn_up_simulated"
]
IGNORED = [
    name
    for name, event in EVENTS.items()
    if event["expect"]["action"].startswith(("ignore", "log"))
    and "best_rssi" not in event["expect"]
    if not event["expect"]["action"].startswith("log_and_drop")
]
BAD = [
    name for name, event in EVENTS.items() if event["expect"]["action"].startswith("log_and_drop")
]


def payload_of(event: dict[str, Any]) -> bytes:
    if "payload_base64" in event.get("expect", {}):
        return base64.b64decode(event["expect"]["payload_base64"])
    if "payload_text" in event:
        return bytes(event["payload_text"], "utf-8")
    return json.dumps(event["payload"]).encode()


def parse_event(name: str) -> Uplink | Status | Ignored:
    return parse(EVENTS[name]["topic"], payload_of(EVENTS[name]))


def parse_uplink(event: dict[str, Any]) -> Uplink:
    uplink = parse(event["topic"], payload_of(event))
    assert isinstance(uplink, Uplink)
    return uplink


def changed(name: str, *path: str | int, value: Any) -> dict[str, Any]:
    """Return an event with one thing in its payload set, or left out if it is `...`."""
    event = copy.deepcopy(EVENTS[name])
    node = event["payload"]
    for key in path[:-1]:
        node = node[key]
    if value is ...:
        del node[path[-1]]
    else:
        node[path[-1]] = value
    return event


def milliseconds(text: str) -> int:
    return int(datetime.fromisoformat(text).timestamp() * 1000)


def test_all_shapes_are_here() -> None:
    assert len(EVENTS) == 72
    assert (len(UPLINKS), len(IGNORED), len(BAD)) == (43, 17, 6)


@pytest.mark.parametrize("name", UPLINKS)
def test_uplinks(name: str) -> None:
    expected = EVENTS[name]["expect"]
    uplink = parse_uplink(EVENTS[name])
    assert uplink.device.dev_eui == expected["dev_eui"]
    assert uplink.device.name == expected["device_name"]
    assert uplink.device.application == expected["application"]
    assert (uplink.f_port, uplink.f_cnt) == (expected["f_port"], expected["f_cnt"])
    assert uplink.data.hex() == expected["data_hex"]
    assert uplink.decoded_by_server == expected.get("object")
    assert len(uplink.gateways) == expected["gateways"]
    assert max((g.rssi for g in uplink.gateways), default=None) == expected["best_rssi"]
    snrs = [g.snr for g in uplink.gateways if g.snr is not None]
    assert max(snrs, default=None) == expected["best_snr"]


@pytest.mark.parametrize("name", UPLINKS)
def test_times_of_reception(name: str) -> None:
    expected = EVENTS[name]["expect"]
    told = expected["server_time"] or expected.get("gateway_time")
    time = parse_uplink(EVENTS[name]).time(ARRIVAL)
    assert time == (milliseconds(told) if told else ARRIVAL)


@pytest.mark.parametrize(
    ("name", "spreading_factor"),
    [
        ("v4_up_lopy_first_frame", 12),
        ("v4_up_deltap_fsk", None),
        ("v3_json_analog_confirmed", 8),
        ("v3_jsonv3_lopy_object", 7),  # EU868, dr 5
        ("v3_jsonv3_old_rx_topic", 12),  # EU868, dr 0
        ("ttn_up_lopy_decoded", 10),
    ],
)
def test_spreading_factor(name: str, spreading_factor: int | None) -> None:
    assert parse_uplink(EVENTS[name]).spreading_factor == spreading_factor


def test_a_data_rate_of_another_region_says_nothing() -> None:
    event = changed("v3_jsonv3_lopy_object", "txInfo", value={"frequency": 902_300_000, "dr": 3})
    uplink = parse_uplink(event)
    assert (uplink.spreading_factor, uplink.gateways[0].snr) == (None, -9)


def test_data_rate_7_of_eu868_is_fsk() -> None:
    event = changed("v3_jsonv3_lopy_object", "txInfo", "dr", value=7)
    uplink = parse_uplink(event)
    assert (uplink.spreading_factor, uplink.gateways[0].snr) == (None, None)


def test_gateways_behind_packet_broker_have_their_own_name() -> None:
    gateways = parse_uplink(EVENTS["ttn_up_comfort2_packetbroker"]).gateways
    assert [gateway.name for gateway in gateways] == ["b827ebfffe4a10c7", "aa555a0000089abc"]


def test_tags_of_a_device() -> None:
    assert parse_uplink(EVENTS["v4_up_pulse4_counters"]).device.tags == {
        "meter": "gas",
        "unit": "m3",
    }
    assert parse_uplink(EVENTS["v3_jsonv3_temp_two_gateways"]).device.tags == {"room": "B12"}


def test_deliveries_of_one_uplink_have_one_key() -> None:
    first, again = (
        parse_uplink(EVENTS[name]) for name in ("v4_up_redelivered", "v4_up_redelivered_again")
    )
    assert first == again
    keys = {parse_uplink(EVENTS[name]).key for name in UPLINKS}
    # v4_bad… come from one message; one pair is the same on purpose.
    assert len(keys) == len(UPLINKS) - 1


class TestTimes:
    NO_SERVER_TIME = "v3_jsonv3_lopy_object"

    @pytest.mark.parametrize(
        "time",
        [
            "1970-01-01T00:00:00Z",
            "1980-01-06T00:00:00Z",
            "2106-02-07T06:28:15Z",
            "0001-01-01T00:00:00Z",
            "2024-03-13T15:04:44",
            "yesterday",
            "",
            None,
            ...,
        ],
    )
    def test_a_gateway_without_a_clock(self, time: Any) -> None:
        event = changed(self.NO_SERVER_TIME, "rxInfo", 0, "time", value=time)
        assert parse_uplink(event).time(ARRIVAL) == ARRIVAL

    def test_a_gateway_with_one(self) -> None:
        event = changed(self.NO_SERVER_TIME, "rxInfo", 0, "time", value="2027-01-15T07:59:00.5Z")
        assert parse_uplink(event).time(ARRIVAL) == ARRIVAL - 59_500

    def test_the_server_goes_before_the_gateway(self) -> None:
        event = changed(
            "v3_json_temp4_history", "rxInfo", 0, "time", value="2024-03-13T10:00:00.000Z"
        )
        assert parse_uplink(event).time(ARRIVAL) == milliseconds("2024-03-13T15:26:12.975+00:00")

    def test_a_server_in_the_future_is_not_believed(self) -> None:
        event = changed("v4_up_temp4_two_probes", "time", value="2027-01-15T09:01:00+00:00")
        assert parse_uplink(event).time(ARRIVAL) == ARRIVAL
        # Our own clock is not set: a Pi without network shows the day of its last shutdown.
        assert parse_uplink(event).time(1_700_000_000_000) == ARRIVAL + 3_660_000


class TestNothingToDecode:
    @pytest.mark.parametrize("port", [0, None, ...])
    def test_no_port_means_commands_of_the_network(self, port: int | None) -> None:
        uplink = parse_uplink(changed("v4_up_lopy_with_object", "fPort", value=port))
        assert (uplink.data, uplink.decoded_by_server) == (b"", None)

    @pytest.mark.parametrize("port", [0, ...])
    def test_no_port_of_the_things_network(self, port: int | None) -> None:
        event = changed("ttn_up_lopy_decoded", "uplink_message", "f_port", value=port)
        uplink = parse_uplink(event)
        assert (uplink.data, uplink.decoded_by_server) == (b"", None)

    @pytest.mark.parametrize("data", ["", None, ...])
    def test_no_data_has_no_object_either(self, data: str | None) -> None:
        uplink = parse_uplink(changed("v4_up_lopy_with_object", "data", value=data))
        assert (uplink.data, uplink.decoded_by_server) == (b"", None)

    def test_end_to_end_encrypted_data(self) -> None:
        context = {"sessionKeyId": "AXfPGVRYbV2wGB0=", "appSKey": None}
        event = changed("v4_up_lopy_with_object", "joinServerContext", value=context)
        assert parse_uplink(event).data == b""

    def test_an_object_that_is_none(self) -> None:
        for value in (None, [1, 2], "text", 5):
            event = changed("v4_up_lopy_with_object", "object", value=value)
            assert parse_uplink(event).decoded_by_server is None


@pytest.mark.parametrize("name", IGNORED)
def test_other_events_are_no_measurements(name: str) -> None:
    assert isinstance(parse_event(name), Ignored)


def test_what_the_server_complains_about_is_noted_unless_it_is_everyday() -> None:
    assert parse_event("v4_log_codec_error") == Ignored(
        "log", "0018b240020a3c3b: UPLINK_CODEC: JS error: TypeError: cannot read property"
    )
    assert parse_event("v4_log_retransmission") == Ignored("log")
    assert parse_event("v3_jsonv3_error_retransmission") == Ignored("log")


def test_a_note_is_one_short_line() -> None:
    event = changed("v4_log_codec_error", "description", value="line\nline\x1b[31m" + "x" * 500)
    ignored = parse(event["topic"], payload_of(event))
    assert isinstance(ignored, Ignored)
    assert len(ignored.note) == 200
    assert ignored.note.isprintable()


@pytest.mark.parametrize(
    ("name", "battery", "margin"),
    [
        ("v4_status_battery", 55.51, 23),
        ("v4_status_battery_unavailable", None, 0),
        ("v4_status_external_power", None, -3),
        ("v3_json_status", 75.5, 6),
        ("v3_jsonv3_status", 70.17, 14),
    ],
)
def test_status(name: str, battery: float | None, margin: float) -> None:
    status = parse_event(name)
    assert isinstance(status, Status)
    assert (status.battery, status.margin) == (battery, margin)
    assert status.device.dev_eui == EVENTS[name]["expect"]["dev_eui"]


@pytest.mark.parametrize("name", BAD)
def test_bad_messages_are_refused_with_one_line(name: str) -> None:
    with pytest.raises(UplinkError) as refused:
        parse_event(name)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("path", "value", "reason"),
    [
        (("deviceInfo", "devEui"), "0018b240010a3cee", "on the topic of 0018b240000a3c67"),
        (("deviceInfo", "devEui"), "0018", "not 64 bits"),
        (("deviceInfo", "devEui"), ..., "missing required field `devEui`"),
        (("deviceInfo", "tags"), {"a": 1}, "Expected `str`, got `int`"),
        (("deviceInfo",), None, "neither deviceInfo nor devEUI"),
        (("data",), "Rk==A", "data is not base64"),
        (("data",), 5, "Expected `str | null`, got `int`"),
        (("fCnt",), -1, "`int` >= 0"),
        (("fPort",), "1", "Expected `int | null`, got `str`"),
        (("rxInfo",), {}, "Expected `array | null`, got `object`"),
        (("rxInfo", 0, "rssi"), "loud", "Expected `float`, got `str`"),
    ],
)
def test_what_is_wrong_is_named(path: tuple[str | int, ...], value: Any, reason: str) -> None:
    event = changed("v4_up_pulse4_counters", *path, value=value)
    with pytest.raises(UplinkError) as refused:
        parse(event["topic"], payload_of(event))
    assert reason in str(refused.value)


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (b"", "no JSON object"),
        (b"\n$e7dd5eed", "if it is protobuf, set json=true"),
        (b"[]", "no JSON object"),
        (b"{", "Input data was truncated"),
        (b'{"fCnt": NaN}', "malformed"),
        (b'{"data": "\xff"}', "payload: "),
        (b'{"object": ' + b"[" * 100_000, "nested too deeply"),
        (b'{"object": 1e999}', "out of range"),
        (b"{" + b" " * 300_000 + b"}", "longer than 262144 bytes"),
    ],
)
def test_what_is_no_message(payload: bytes, reason: str) -> None:
    with pytest.raises(UplinkError) as refused:
        parse("application/7/device/0018b240000a3c67/event/up", payload)
    assert reason in str(refused.value)


def test_an_object_as_text_may_be_broken_too() -> None:
    event = changed("v3_json_lopy_objectjson", "objectJSON", value='{"temperature": ')
    with pytest.raises(UplinkError, match="objectJSON: Input data was truncated"):
        parse(event["topic"], payload_of(event))


@pytest.mark.parametrize(
    "topic",
    [
        "",
        "application/7/device/0018b24000/event/up",
        "application/7/device/0018b240000a3c67/event/up/more",
        "@update/plug/monitoring/power",
        "v3/app@ttn/devices/dev",
        "gateway/b827ebfffe4a10c7",
    ],
)
def test_topics_of_nobody(topic: str) -> None:
    with pytest.raises(UplinkError, match="the topic is neither"):
        parse(topic, b"{}")


@pytest.mark.parametrize(
    "topic",
    [
        "chirpstack/application/7/device/0018b240000a3c67/event/up",
        "application/7/device/0018B240000A3C67/event/up",
        "application/7/device/0018b240000a3c67/rx",
    ],
)
def test_topics_of_an_uplink(topic: str) -> None:
    event = EVENTS["v4_up_pulse4_counters"]
    assert isinstance(parse(topic, payload_of(event)), Uplink)


@pytest.mark.parametrize(
    ("topic", "event"),
    [
        ("application/7/device/0018b240000a3c67/tx", "tx"),
        ("application/7/device/0018b240000a3c67/event/integration", "integration"),
        ("v3/app/devices/dev/location/solved", "location/solved"),
        ("v3/app/devices/dev/service/data", "service/data"),
        ("eu868/gateway/b827ebfffe4a10c7/state/conn", "gateway"),
    ],
)
def test_topics_of_other_events(topic: str, event: str) -> None:
    assert parse(topic, b"\xff not JSON") == Ignored(event)
