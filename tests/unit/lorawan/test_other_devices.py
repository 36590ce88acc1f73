"""LoPy, Cayenne LPP, Flash'O and the Adeunis products that the maker's decoder does not know."""

import struct
from collections.abc import Callable
from typing import Any

import pytest

from openenergy.lorawan.decoders import DECODERS, UnknownDecoderError, canonical
from openenergy.lorawan.object_ import decode as decode_object
from openenergy.lorawan.sample import Decoded, DecodeError
from tests.unit.lorawan import vectors

# Cayenne's types in our quantities and units: name, factor.
CAYENNE = {
    "digitalInput": ("digital_input", 1),
    "analogInput": ("analog_input", 1),
    "genericSensor": ("generic", 1),
    "illuminanceSensor": ("illuminance", 1),
    "presenceSensor": ("presence", 1),
    "temperatureSensor": ("temperature", 1),
    "humiditySensor": ("humidity", 1),
    "barometer": ("pressure", 100),
    "voltage": ("voltage", 1),
    "current": ("current", 1),
    "altitude": ("altitude", 1),
    "concentration": ("concentration", 1),
    "power": ("power", 1),
    "distance": ("distance", 1),
    "energy": ("energy", 1000),
    "unix_time": ("unix_time", 1),
}
FTD = {
    "temperature": ("temperature", 1),
    "latitude": ("latitude", 1),
    "longitude": ("longitude", 1),
    "satellites": ("satellites", 1),
    "uplinkCounter": ("uplinks", 1),
    "downlinkCounter": ("downlinks", 1),
    "batteryVoltage": ("battery", 0.001),
    "rssi": ("downlink_rssi", 1),
    "snr": ("downlink_snr", 1),
}

Found = dict[tuple[str, str, int], float]


def decode(name: str, payload: str, port: int = 1) -> Decoded:
    return DECODERS[name](port, bytes.fromhex(payload))


def samples(decoded: Decoded) -> Found:
    return {(s.quantity, s.channel, s.age): s.value for s in decoded.samples}


def expected_lopy(answer: dict[str, Any]) -> Found:
    return {("temperature", "", 0): answer["temperature"]}


def expected_ftd(answer: dict[str, Any]) -> Found:
    found: Found = {}
    for name, (quantity, factor) in FTD.items():
        if name in answer:
            node = answer[name]
            found[quantity, "", 0] = factor * (node["value"] if isinstance(node, dict) else node)
    return found


def expected_modbus(answer: dict[str, Any]) -> Found:
    raw = bytes.fromhex(answer.get("registers_hex", ""))
    registers = struct.unpack(f">{len(raw) // 2}H", raw)
    return {
        ("register", f"{answer['period']}.{place}", 0): register
        for place, register in enumerate(registers, start=1)
    }


def expected_analog(answer: dict[str, Any]) -> Found:
    units = {"V": ("voltage", 1.0), "mA": ("current", 0.001)}
    return {
        (units[node["unit"]][0], node["name"], age): value * units[node["unit"]][1]
        for node in answer["channels"]
        for age, value in enumerate(node["values"])
    }


def expected_serenity(answer: dict[str, Any]) -> Found:
    return {
        ("voc_index" if name == "voc" else name, "", age): value
        for name in ("temperature", "humidity", "co2", "voc")
        for age, value in enumerate(answer.get(name, []))
    }


def expected_flasho(answer: dict[str, Any]) -> Found:
    if "count" in answer:
        return {("pulses", "", 0): answer["count"]}
    if "presentValue" in answer:
        return {("contact", "", 0): answer["presentValue"]}
    return {("battery", "disposable", 0): answer["batteryVoltage"]["value"]}


def expected_cayenne(answer: dict[str, Any]) -> Found:
    found: Found = {}
    for name, channels in answer.items():
        for channel, node in channels.items():
            if isinstance(node, dict):
                found |= {(axis, channel, 0): value for axis, value in node.items()}
            else:
                quantity, factor = CAYENNE[name]
                found[quantity, channel, 0] = node * factor
    return found


VECTORS = vectors.load("other_devices.jsonl")
# Names of the vectors' devices: their decoders, and what their answers mean.
DEVICES: dict[str, tuple[str, Callable[[dict[str, Any]], Found]]] = {
    "lopy_float32": ("lopy", expected_lopy),
    "nke_flasho": ("flasho", expected_flasho),
    "cayenne_lpp": ("cayenne_lpp", expected_cayenne),
    "adeunis_ftd": ("adeunis/ftd", expected_ftd),
    "adeunis_modbus": ("adeunis/modbus", expected_modbus),
    "adeunis_analog2": ("adeunis/analog2", expected_analog),
    "adeunis_comfort_serenity": ("adeunis/comfortSerenity", expected_serenity),
}
# Recognised, and not a measurement.
NO_MEASUREMENT = ("1101000000020000", "3203032cd2dc")


@pytest.mark.parametrize("vector", VECTORS, ids=lambda v: f"{v['device']}-{v['hex'] or 'empty'}")
def test_vectors(vector: dict[str, Any]) -> None:
    name, expected = DEVICES[vector["device"]]
    if vector["decoded"] is not None:
        found = samples(decode(name, vector["hex"], vector["fport"]))
        found.pop(("battery_low", "", 0), None)
        # Positions are given to seven decimals.
        assert found == pytest.approx(expected(vector["decoded"]), rel=1e-9, abs=1e-7)
    elif vector["hex"].startswith(NO_MEASUREMENT):
        assert decode(name, vector["hex"], vector["fport"]).samples == ()
    else:
        with pytest.raises(DecodeError, match=r"truncated|unknown type|expected|empty|is no"):
            decode(name, vector["hex"], vector["fport"])


@pytest.mark.parametrize(
    ("name", "payload", "reason"),
    [
        ("lopy", "0000c07f", "nan is no measurement"),
        ("lopy", "0000807f", "inf is no measurement"),
        ("lopy", "", "0 bytes: expected a float of 4"),
        ("cayenne_lpp", "", "empty"),
        ("cayenne_lpp", "01", "1 bytes are missing"),
        ("cayenne_lpp", "0168640199", "unknown type 153 on channel 1"),
        ("adeunis/ftd", "", "1 bytes are missing"),
        ("adeunis/ftd", "8c24cb1700", "1 bytes too many"),
        ("adeunis/ftd", "104a159690005534502720", "4a15969 is no position"),
        ("adeunis/ftd", "1091159690005534502720", "9115969 is no position"),
        ("adeunis/ftd", "1045609690005534502720", "4560969 is no position"),
        ("adeunis/modbus", "4402", "2 bytes are missing"),
        ("adeunis/modbus", "440200", "1 bytes are missing"),
        ("adeunis/analog2", "7100000001", "neither channel is active"),
        ("adeunis/analog2", "71000500010002", ""),
        ("adeunis/analog2", "710005000100020003", "2 bytes are missing"),
    ],
)
def test_bad_payloads_are_refused_with_the_reason(name: str, payload: str, reason: str) -> None:
    if not reason:
        assert len(samples(decode(name, payload))) == 3
        return
    with pytest.raises(DecodeError) as refused:
        decode(name, payload)
    assert reason in str(refused.value)


class TestFlasho:
    def test_only_port_125(self) -> None:
        with pytest.raises(DecodeError, match="port 1: expected 125"):
            decode("flasho", "110a000f0402230000005a", port=1)

    def test_an_alarm_report_has_its_cause_behind_the_value(self) -> None:
        found = samples(decode("flasho", "118a000f0402230000005a00010203", port=125))
        assert found == {("pulses", "", 0): 90}

    @pytest.mark.parametrize(("control", "channel"), [("11", ""), ("31", "1"), ("13", "8")])
    def test_the_input_of_a_device_with_several(self, control: str, channel: str) -> None:
        found = samples(decode("flasho", f"{control}0a000f0402230000005a", port=125))
        assert found == {("pulses", channel, 0): 90}

    def test_a_read_answer_has_a_status_before_the_type(self) -> None:
        found = samples(decode("flasho", "1101000f040200230000005a", port=125))
        assert found == {("pulses", "", 0): 90}
        assert decode("flasho", "1101000f04028623", port=125).samples == ()

    def test_two_supplies(self) -> None:
        found = samples(decode("flasho", "110a00500006410703051388138804", port=125))
        assert found == {("battery", "mains", 0): 5.0, ("battery", "disposable", 0): 5.0}

    def test_batch_reports_and_configuration_answers_are_recognised(self) -> None:
        assert "batch report" in str(decode("flasho", "3203032cd2dc", port=125).info["frame"])
        assert decode("flasho", "1107000f040200", port=125).samples == ()

    @pytest.mark.parametrize("payload", ["", "11", "110a000f", "110a000f0402230000", "11ff000f"])
    def test_truncated_and_unknown_reports(self, payload: str) -> None:
        with pytest.raises(DecodeError, match=r"truncated|unknown command"):
            decode("flasho", payload, port=125)

    def test_a_report_that_is_too_long(self) -> None:
        with pytest.raises(DecodeError, match="too long"):
            decode("flasho", "110a000f0402230000005a00", port=125)


class TestSerenityAndAnalogV2:
    def test_alarm_with_voc(self) -> None:
        decoded = decode("adeunis/comfortSerenity", "70804000fa2d03e80064")
        assert samples(decoded) == {
            ("temperature", "", 0): 25.0,
            ("humidity", "", 0): 45,
            ("co2", "", 0): 1000,
            ("voc_index", "", 0): 100,
            ("battery_low", "", 0): 0,
        }
        assert decoded.info["voc_alarm"] is True

    def test_day_with_voc(self) -> None:
        payload = "38800202" + "00fa03e82d0064" + "00c801901e0032" + "00dc025823004b"
        found = samples(decode("adeunis/comfortSerenity", payload))
        assert found["bad_air_time", "", 0] == 20
        assert [found[f"voc_index_{kind}", "", 0] for kind in ("max", "min", "mean")] == [
            100,
            50,
            75,
        ]
        assert found["temperature_mean", "", 0] == 22.0

    def test_alarm_of_one_of_two_channels(self) -> None:
        decoded = decode("adeunis/analog2", "72800d011fbb0014ea")
        assert samples(decoded)["voltage", "A", 0] == 8.123
        assert samples(decoded)["current", "B", 0] == pytest.approx(0.005354)
        assert (decoded.info["alarm_a"], decoded.info["alarm_b"]) == ("high threshold", "none")

    def test_keep_alive(self) -> None:
        assert samples(decode("adeunis/analog2", "3880041fbb"))["voltage", "B", 0] == 8.123


class TestDecodedByServer:
    def test_paths_of_keys_become_names(self) -> None:
        answer = {"temperatureSensor": {"3": 41.7, "2": 31.9}, "list": [1, {"x": 2}], "on": True}
        found = {sample.quantity: sample.value for sample in decode_object(answer).samples}
        assert found == {
            "temperatureSensor_3": 41.7,
            "temperatureSensor_2": 31.9,
            "list_0": 1.0,
            "list_1_x": 2.0,
            "on": 1.0,
        }

    def test_texts_and_nothing_are_left_out(self) -> None:
        answer: dict[str, Any] = {"a": "22.5", "b": None, "c": {}, "d": [], "": {"": ""}}
        assert decode_object(answer).samples == ()

    def test_more_than_a_sensor_sends(self) -> None:
        with pytest.raises(DecodeError, match="more than 1000 values"):
            decode_object({"list": list(range(1001))})

    def test_a_number_that_no_float_holds(self) -> None:
        with pytest.raises(DecodeError, match="'a_0' is too large a number"):
            decode_object({"a": [10**400]})


@pytest.mark.parametrize(
    ("written", "name"),
    [
        ("adeunis/comfortCo2", "adeunis/comfortCo2"),
        ("adeunis/comfort_co2", "adeunis/comfortCo2"),
        ("Adeunis/PULSE4", "adeunis/pulse4"),
        ("cayenne-lpp", "cayenne_lpp"),
        ("object", "object"),
    ],
)
def test_spellings_of_a_decoder(written: str, name: str) -> None:
    assert canonical(written) == name


def test_unknown_decoders_get_a_hint() -> None:
    with pytest.raises(UnknownDecoderError, match="did you mean 'adeunis/comfortCo2'"):
        canonical("adeunis/comfortCo3")
    with pytest.raises(UnknownDecoderError, match="known are adeunis/pulse, "):
        canonical("xyz")
