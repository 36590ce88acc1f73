"""Uplinks become points: values with their own times, link quality, and one line for a problem."""

import json
from dataclasses import replace
from datetime import datetime
from typing import Any

import pytest

from openenergy.config import LoRaWANDevice
from openenergy.lorawan.decoders import DECODERS, UnknownDecoderError
from openenergy.lorawan.events import Status, Uplink
from openenergy.lorawan.history import History
from openenergy.lorawan.sensors import Point, Received, Sensors, status_points
from openenergy.lorawan.uplink import parse
from tests.unit.lorawan.test_uplink import ARRIVAL, EVENTS, UPLINKS, changed, parse_uplink

LOPY = "v4_up_lopy_with_object"
DECODER_NAMES = {"lopy_float32": "lopy", "nke_flasho": "flasho", "cayenne_lpp": "cayenne_lpp"}


def receive(event: dict[str, Any], *rules: LoRaWANDevice, arrival: int = ARRIVAL) -> Received:
    return Sensors(rules, History()).receive(parse_uplink(event), arrival)


def measurements(received: Received) -> list[str]:
    return [measurement for measurement, _, _, _ in received.points]


def milliseconds(text: str) -> int:
    return int(datetime.fromisoformat(text).timestamp() * 1000)


@pytest.mark.parametrize("name", UPLINKS)
def test_uplinks_of_every_server_end_in_their_points(name: str) -> None:
    expected = EVENTS[name]["expect"]
    codec = expected["codec"]
    decoder = DECODER_NAMES.get(codec, f"adeunis/{codec}" if codec else "lopy")
    rule = LoRaWANDevice(expected["dev_eui"], decoder, period=600)
    uplink = parse_uplink(EVENTS[name])
    received = Sensors([rule], History()).receive(uplink, ARRIVAL)
    link, *values = received.points
    assert_link(link, expected)
    action = expected["action"]
    assert bool(received.problem) == (action == "log_and_keep_radio")
    if action in {"radio_only", "log_and_keep_radio"}:
        assert values == []
        return
    decoded = DECODERS[decoder](uplink.f_port, uplink.data)
    newest = link[3]
    tags = {key: value for key, value in link[1].items() if key != "gateway"}
    assert values == [
        (
            sample.quantity,
            {
                **tags,
                **({"unit": sample.unit} if sample.unit else {}),
                **({"channel": sample.channel} if sample.channel else {}),
            },
            {sample.quantity: sample.value},
            newest - sample.age * (3_600_000 if codec == "pulse" else 600_000),
        )
        for sample in decoded.samples
    ]


def assert_link(link: Point, expected: dict[str, Any]) -> None:
    measurement, tags, fields, time = link
    told = expected["server_time"] or expected.get("gateway_time")
    assert measurement == "lorawan"
    assert time == (milliseconds(told) if told else ARRIVAL)
    assert tags["dev_eui"] == expected["dev_eui"]
    assert tags["sensor"] == expected["device_name"]
    assert tags["application"] == expected["application"]
    assert fields["frame_counter"] == expected["f_cnt"]
    assert fields["gateways"] == expected["gateways"]
    assert fields.get("rssi") == expected["best_rssi"]
    assert fields.get("snr") == expected["best_snr"]
    assert ("gateway" in tags) == bool(expected["gateways"])


def test_the_gateway_is_the_one_that_heard_best() -> None:
    _, tags, fields, _ = receive(EVENTS["v3_json_temp4_history"]).points[0]
    # The better SNR is the other gateway's.
    assert tags["gateway"] == "b827ebfffe4a10c7"
    assert (fields["rssi"], fields["snr"], fields["spreading_factor"]) == (-100, 4.5, 12)


def test_one_gateway_on_two_channels_is_one_gateway() -> None:
    heard = EVENTS[LOPY]["payload"]["rxInfo"][0]
    event = changed(LOPY, "rxInfo", value=[heard, {**heard, "rssi": -60}])
    _, _, fields, _ = receive(event).points[0]
    assert (fields["gateways"], fields["rssi"]) == (1, -60)


class TestSequence:
    """A configuration frame, then frames with repeated samples; one lost, one delivered twice."""

    EVENT = EVENTS["v4_sequence_temp4_redundancy"]

    def points(self, *, restart: bool) -> list[Point]:
        history = History()
        found = []
        for event in self.EVENT["events"]:
            if restart:
                history = History(json.loads(json.dumps(history.dump())))
            sensors = Sensors([LoRaWANDevice("0018b240010a3ce1", "adeunis/temp4")], history)
            received = sensors.receive(parse_uplink(event), ARRIVAL)
            assert not received.problem
            found += received.points
        return found

    @pytest.mark.parametrize("restart", [False, True])
    def test_every_sample_of_the_grid_is_stored_once(self, restart: bool) -> None:
        stored = {
            time: fields["temperature"]
            for measurement, _, fields, time in self.points(restart=restart)
            if measurement == "temperature"
        }
        expected = self.EVENT["expect"]["points"]
        assert sorted(stored) == [min(stored) + slot * 900_000 for slot in range(len(expected))]
        for time, point in zip(sorted(stored), expected, strict=True):
            assert stored[time] == point["temperature"]
            assert abs(time - milliseconds(point["time"])) <= 5000

    def test_a_repeated_sample_is_the_same_point(self) -> None:
        values = [p for p in self.points(restart=False) if p[0] == "temperature"]
        assert len(values) == 52
        assert len({(time, fields["temperature"]) for _, _, fields, time in values}) == 28


class TestWhichDecoder:
    def test_the_first_rule_that_fits(self) -> None:
        rules = [LoRaWANDevice("70B3D549*", "lopy"), LoRaWANDevice("*", "flasho")]
        assert measurements(receive(EVENTS[LOPY], *rules)) == ["lorawan", "temperature"]

    def test_the_devices_tag_where_no_rule_fits(self) -> None:
        event = changed(LOPY, "deviceInfo", "tags", value={"decoder": "lopy"})
        received = receive(event, LoRaWANDevice("0018*", "flasho"))
        assert measurements(received) == ["lorawan", "temperature"]

    def test_a_tag_that_names_no_decoder(self) -> None:
        event = changed(LOPY, "deviceInfo", "tags", value={"decoder": "lopi"})
        received = receive(event)
        assert measurements(received) == ["lorawan"]
        assert "device 70b3d549900a3cc9: no decoder 'lopi': did you mean" in received.problem

    def test_a_rule_that_names_no_decoder(self) -> None:
        with pytest.raises(UnknownDecoderError, match="did you mean 'adeunis/pulse"):
            Sensors([LoRaWANDevice("*", "adeunis/pulse9")], History())

    def test_values_decoded_by_the_server(self) -> None:
        link, value = receive(EVENTS[LOPY], LoRaWANDevice("*", "object")).points
        assert value == (
            "temperature",
            {
                "sensor": "lopy-1",
                "dev_eui": "70b3d549900a3cc9",
                "application": "building-monitoring",
            },
            {"temperature": 19.51},
            link[3],
        )

    def test_a_server_that_decoded_nothing(self) -> None:
        received = receive(EVENTS["v4_up_lopy_first_frame"], LoRaWANDevice("*", "object"))
        assert measurements(received) == ["lorawan"]
        assert "the network server has decoded nothing" in received.problem


class TestUnknownDevice:
    def test_it_is_stored_with_what_the_server_decoded(self) -> None:
        received = receive(EVENTS["v4_up_cayenne_object"])
        assert measurements(received)[0] == "lorawan"
        assert set(measurements(received)[1:]) == {
            "temperatureSensor_3",
            "temperatureSensor_2",
            "current_1",
            "distance_4",
        }

    def test_it_is_named_once_with_the_line_to_add(self) -> None:
        sensors = Sensors([], History())
        uplink = parse_uplink(EVENTS[LOPY])
        assert '[[LoRaWAN.devices]] with dev_eui = "70b3d549900a3cc9"' in (
            sensors.receive(uplink, ARRIVAL).introduction
        )
        assert not sensors.receive(uplink, ARRIVAL).introduction

    def test_its_name_cannot_break_the_log(self) -> None:
        event = changed(LOPY, "deviceInfo", "deviceName", value="a\nb\x1b[31m" + "x" * 500)
        introduction = receive(event).introduction
        assert introduction.isprintable()
        assert len(introduction) < 300


def test_a_frame_that_cannot_be_decoded_says_why() -> None:
    received = receive(EVENTS["v4_up_undecodable_frame"], LoRaWANDevice("*", "adeunis/comfort2"))
    assert received.problem == "device 0018b240020a3c3b: unknown frame code 0xff"


def test_names_that_are_empty_make_no_tags() -> None:
    event = changed(LOPY, "deviceInfo", "deviceName", value="")
    _, tags, _, _ = receive(event, LoRaWANDevice("*", "lopy")).points[1]
    assert tags == {
        "dev_eui": "70b3d549900a3cc9",
        "application": "building-monitoring",
        "unit": "C",
    }


class TestDeliveredAgain:
    # No time anywhere in the message.
    UPLINK = parse_uplink(EVENTS["v3_json_drycontacts2_no_published_at"])

    def points(self, sensors: Sensors, uplink: Uplink, arrival: int) -> list[Point]:
        return sensors.receive(uplink, arrival).points

    def test_it_makes_the_same_points(self) -> None:
        sensors = Sensors([LoRaWANDevice("*", "adeunis/drycontacts2")], History())
        first = self.points(sensors, self.UPLINK, ARRIVAL)
        assert first[0][3] == ARRIVAL
        assert self.points(sensors, self.UPLINK, ARRIVAL + 60_000) == first

    def test_after_some_minutes_it_is_another_uplink(self) -> None:
        sensors = Sensors([], History())
        self.points(sensors, self.UPLINK, ARRIVAL)
        later = ARRIVAL + 3_600_000
        assert self.points(sensors, self.UPLINK, later)[0][3] == later

    def test_only_the_last_uplinks_are_remembered(self) -> None:
        sensors = Sensors([], History())
        self.points(sensors, self.UPLINK, ARRIVAL)
        for number in range(10_000):
            other = replace(self.UPLINK, key=str(number))
            self.points(sensors, other, ARRIVAL)
        assert self.points(sensors, self.UPLINK, ARRIVAL + 1)[0][3] == ARRIVAL + 1


class TestStatus:
    def points(self, name: str) -> dict[str, tuple[float, str, int]]:
        status = parse(EVENTS[name]["topic"], json.dumps(EVENTS[name]["payload"]).encode())
        assert isinstance(status, Status)
        return {
            measurement: (fields[measurement], tags["unit"], time)
            for measurement, tags, fields, time in status_points(status, ARRIVAL)
        }

    def test_battery_and_margin(self) -> None:
        time = milliseconds("2024-03-13T11:02:13.142+00:00")
        assert self.points("v4_status_battery") == {
            "battery_level": (55.51, "%", time),
            "link_margin": (23, "dB", time),
        }

    def test_no_battery_where_it_means_nothing(self) -> None:
        assert self.points("v4_status_external_power").keys() == {"link_margin"}

    def test_without_a_time_of_the_server(self) -> None:
        assert self.points("v3_jsonv3_status")["battery_level"] == (70.17, "%", ARRIVAL)
