"""From messages of network servers to lines: what mqtt_2_influx.py writes, keeps, and refuses."""

import json
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import paho.mqtt.client as mqtt
import pytest
from paho.mqtt.enums import CallbackAPIVersion

from openenergy import config, lines, sensor_lines
from openenergy.broker import Message
from openenergy.lines import Lines, filters, plug_filters
from openenergy.lorawan import history
from openenergy.lorawan.sample import Decoded
from tests.conftest import ConfigFile
from tests.unit.lorawan.test_uplink import ARRIVAL, EVENTS, changed, payload_of

CLIENT = mqtt.Client(CallbackAPIVersion.VERSION2)
CHIRPSTACK = "application/+/device/+/event/+"
LOPY = "v4_up_lopy_with_object"
DEV_EUI = EVENTS[LOPY]["expect"]["dev_eui"]
UNSET_MS = 86_400_000
POWER = b'{"value": 5, "unit": "W", "time": %d}' % ARRIVAL

MakeLines = Callable[..., Lines]


def message(
    topic: str, payload: bytes, *, retain: bool = False, arrived_ms: int = ARRIVAL
) -> Message:
    return Message(topic, payload, 1, retain, CLIENT, 1, arrived_ms)


def event_message(event: dict[str, Any], **options: Any) -> Message:
    return message(event["topic"], payload_of(event), **options)


@pytest.fixture
def settings(config_file: ConfigFile) -> Callable[..., config.Settings]:
    def make(*topics: str, decoder: str = "lopy", **influxdb: object) -> config.Settings:
        rule = {"dev_eui": DEV_EUI, "decoder": decoder}
        tables = {
            "MQTT": {"broker": "localhost"},
            "InfluxDB": {"database": "energy", **influxdb},
            "LoRaWAN": {"topics": list(topics), "devices": [rule]},
        }
        return config.load(config_file(tables), ("MQTT", "InfluxDB"))

    return make


@pytest.fixture
def make(settings: Callable[..., config.Settings], tmp_path: Path) -> MakeLines:
    def lines_of(*topics: str, **options: Any) -> Lines:
        return Lines(settings(*(topics or (CHIRPSTACK,)), **options), tmp_path / "lorawan.json")

    return lines_of


def test_an_uplink_is_a_line_for_each_point(make: MakeLines) -> None:
    link, value = make().of(event_message(EVENTS[LOPY]))
    time_ms = int(datetime.fromisoformat("2024-03-13T09:12:32.267+00:00").timestamp() * 1000)
    tags = f"sensor=lopy-1,dev_eui={DEV_EUI},application=building-monitoring"
    assert value == f"temperature,{tags},unit=C temperature=19.510000228881836 {time_ms}"
    assert link.startswith(f"lorawan,{tags},gateway=")
    assert link.endswith(f" {time_ms}")
    fields = dict(pair.split("=") for pair in link.split(" ")[1].split(","))
    assert set(fields) == {"rssi", "snr", "spreading_factor", "frame_counter", "gateways"}
    assert all("." in number for number in fields.values())


def test_plugs_and_sensors_each_go_their_way(make: MakeLines) -> None:
    everything = make("#")
    power = message("@update/lamp/monitoring/power", POWER)
    assert everything.of(power) == (f"power,switch=lamp,unit=W power=5.0 {ARRIVAL}",)
    assert len(everything.of(event_message(EVENTS[LOPY]))) == 2
    # Another prefix, by [InfluxDB] topics: a plug's as long as no topic of sensors takes it.
    assert make().of(message("@other/lamp/monitoring/power", POWER)) != ()
    assert everything.refusals.count == 0


def test_filters_sensors_are_never_shared(settings: Callable[..., config.Settings]) -> None:
    shared = settings(CHIRPSTACK, share_group="writers", topics=["@update/a/#", "@update/b/#"])
    assert filters(shared) == [
        "$share/writers/@update/a/#",
        "$share/writers/@update/b/#",
        CHIRPSTACK,
    ]
    assert filters(settings()) == ["@update/+/monitoring/#"]


def test_a_broker_of_sensors_alone_is_asked_for_nothing_else(
    settings: Callable[..., config.Settings],
) -> None:
    uplinks = "v3/+/devices/+/up"
    alone = settings(uplinks, topics=[uplinks], share_group="writers")
    assert (filters(alone), plug_filters(alone)) == ([uplinks], [])
    assert plug_filters(settings(uplinks)) == ["@update/+/monitoring/#"]


def test_without_topics_all_is_plugs(config_file: ConfigFile, tmp_path: Path) -> None:
    none = Lines(config.load(config_file({}), ()), tmp_path / "state.json")
    assert none.of(event_message(EVENTS[LOPY])) == ()
    assert none.refusals.count == 1
    none.save()
    assert not (tmp_path / "state.json").exists()


@pytest.mark.parametrize("name", ["v3_jsonv3_comfort2_no_gateway_time", "v3_jsonv3_status"])
def test_a_time_that_nobody_told_is_ours(make: MakeLines, name: str) -> None:
    found = make().of(event_message(EVENTS[name]))
    assert found
    assert all(line.endswith(f" {ARRIVAL}") for line in found)
    assert make().of(event_message(EVENTS[name], retain=True)) == []
    unset = make()
    assert unset.of(event_message(EVENTS[name], arrived_ms=UNSET_MS)) == []
    assert unset.refusals.count == 1


def test_a_time_that_was_told_counts_while_our_clock_is_not_set(make: MakeLines) -> None:
    event = event_message(EVENTS[LOPY], arrived_ms=UNSET_MS)
    assert make().of(event) == make().of(event_message(EVENTS[LOPY]))


def test_a_value_without_a_name_costs_the_others_nothing(make: MakeLines) -> None:
    event = changed(LOPY, "object", value={"#": 1, "a": 2, "\n": 3, "b": True})
    found = make(decoder="object")
    assert [line.partition(",")[0] for line in found.of(event_message(event))] == [
        "lorawan",
        *("b", "a"),
    ]
    assert found.refusals.count == 2


def test_series_are_limited(make: MakeLines, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sensor_lines, "MAX_SERIES", 5)
    found = make(decoder="object")
    for key in "abcdefgh":
        event = changed(LOPY, "object", value={key: 1})
        assert len(found.of(event_message(event))) == (2 if key < "e" else 1)
    assert found.refusals.count == 4
    monkeypatch.setattr(lines, "MAX_SERIES", 1)
    assert found.of(message("@update/lamp/monitoring/power", POWER))
    assert not found.of(message("@update/lamp/monitoring/current", POWER))


def test_an_event_that_tells_a_human_something_is_logged_and_no_refusal(
    make: MakeLines, caplog: pytest.LogCaptureFixture
) -> None:
    found = make()
    for _ in range(3):
        assert found.of(event_message(EVENTS["v4_log_codec_error"])) == []
    assert found.refusals.count == 0
    (record,) = caplog.records
    assert "UPLINK_CODEC: JS error" in record.getMessage()


SEQUENCE = EVENTS["v4_sequence_temp4_redundancy"]
SETUP, *UPLINKS = SEQUENCE["events"]


class TestHistoryFile:
    """What devices told of their periods outlives a restart."""

    @pytest.fixture
    def start(self, tmp_path: Path, config_file: ConfigFile) -> Callable[[], Lines]:
        rule = {"dev_eui": SEQUENCE["expect"]["dev_eui"], "decoder": "adeunis/temp4"}
        tables = {"LoRaWAN": {"topics": [CHIRPSTACK], "devices": [rule]}}
        settings = config.load(config_file(tables), ())
        return lambda: Lines(settings, tmp_path / "state" / "lorawan.json")

    def test_what_is_saved_is_known_again(self, start: Callable[[], Lines]) -> None:
        before = start()
        before.of(event_message(SETUP))
        before.save()
        first, second = (event_message(uplink) for uplink in UPLINKS[:2])
        expected = before.of(first), before.of(second)
        after = start()
        assert (after.of(first), after.of(second)) == expected
        assert len(expected[0]) > 4

    def test_it_is_written_only_when_something_changed(
        self, start: Callable[[], Lines], tmp_path: Path
    ) -> None:
        found, path = start(), tmp_path / "state" / "lorawan.json"
        found.save()
        assert not path.exists()
        for event in (SETUP, UPLINKS[0]):
            found.of(event_message(event))
        found.save()
        written = path.stat().st_ino
        assert json.loads(path.read_bytes())[SEQUENCE["expect"]["dev_eui"]]
        for event in (UPLINKS[0], UPLINKS[1], SETUP):
            found.of(event_message(event))
            found.save()
        assert path.stat().st_ino == written
        assert [each.name for each in path.parent.iterdir()] == [path.name]

    @pytest.mark.parametrize(
        "content", [b"", b"{", b"[]", b'{"a": 1}', b"\xff", b'{"a": {"": []}}']
    )
    def test_a_damaged_file_is_put_aside(
        self,
        start: Callable[[], Lines],
        tmp_path: Path,
        content: bytes,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        folder = tmp_path / "state"
        folder.mkdir()
        (folder / "lorawan.json").write_bytes(content)
        found = start()
        (record,) = caplog.records
        assert "is damaged" in record.getMessage()
        (aside,) = folder.glob("lorawan.json.damaged-*")
        assert aside.read_bytes() == content
        assert found.of(event_message(UPLINKS[0]))

    def test_a_disk_that_does_not_take_it_is_tried_again(
        self,
        start: Callable[[], Lines],
        tmp_path: Path,
        caplog: pytest.LogCaptureFixture,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr("openenergy.lorawan.history_file.RETRY_S", 0.0)
        found, path = start(), tmp_path / "state" / "lorawan.json"
        obstacle = path.with_name(f"{path.name}.new")
        obstacle.mkdir()
        found.of(event_message(SETUP))
        for _ in range(3):
            found.save()
        assert len(caplog.records) == 1
        assert not path.exists()
        obstacle.rmdir()
        found.save()
        assert path.exists()

    def test_devices_that_are_made_up_do_not_fill_the_memory(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(history, "DEVICES_KEPT", 3)
        kept = history.History()
        decoded = Decoded((), "57", {"57": 600.0})
        for number in range(10):
            kept.times(str(number), decoded, ARRIVAL)
        assert list(kept.dump()) == ["7", "8", "9"]


def test_decoders_that_do_not_exist_are_errors_of_the_configuration(
    config_file: ConfigFile,
) -> None:
    path = config_file(
        """
        [MQTT]
        brocker = "x"
        [LoRaWAN]
        topics = ["a/#/b"]
        [[LoRaWAN.devices]]
        dev_eui = "*"
        decoder = "adeunis/puls4"
        [[LoRaWAN.devices]]
        dev_eui = "0018b2*"
        decoder = "Adeunis/Comfort_CO2"
        [[LoRaWAN.devices]]
        decoder = "zigbee"
        """
    )
    with pytest.raises(config.ConfigError) as raised:
        config.load(path, ())
    text = "\n".join(raised.value.lines)
    assert len(raised.value.lines) == 5
    assert "[MQTT] 'brocker': unknown key" in text
    assert "[LoRaWAN] topics" in text
    wrong = (
        "decoder = 'adeunis/puls4': expected the name of a decoder; did you mean 'adeunis/pulse4'?"
    )
    assert f"{path}: [[LoRaWAN.devices]] number 1 {wrong}" in text
    assert "number 3 dev_eui = ''" in text
    assert "number 3 decoder = 'zigbee': expected the name of a decoder; known are " in text
