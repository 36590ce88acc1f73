"""Frames of Adeunis products decode as the maker's own decoder does, where it is right."""

import re
from collections import defaultdict
from typing import Any

import pytest

from openenergy.lorawan.decoders import DECODERS
from openenergy.lorawan.sample import Decoded, DecodeError
from tests.unit.lorawan import vectors

BATTERY_LOW = ("battery_low", "", "", 0)


def decode(model: str, payload: str) -> Decoded:
    return DECODERS[f"adeunis/{model}"](1, bytes.fromhex(payload))


def samples(decoded: Decoded) -> dict[vectors.Key, float]:
    found = {(s.quantity, s.unit, s.channel, s.age): s.value for s in decoded.samples}
    assert len(found) == len(decoded.samples), "a sample came twice"
    return found


def by_frame() -> dict[str, list[dict[str, Any]]]:
    groups = defaultdict(list)
    for vector in vectors.load("adeunis.jsonl"):
        groups[f"{vector['device']}-0x{vector['hex'][:2]}"].append(vector)
    return groups


FRAMES = by_frame()


def test_every_product_and_frame_has_its_vectors() -> None:
    assert len(FRAMES) == 150
    assert sum(map(len, FRAMES.values())) == 1560


@pytest.mark.parametrize("frame", FRAMES)
def test_samples_are_those_of_the_makers_decoder(frame: str) -> None:
    # The maker rounds analog values to three decimals.
    tolerance = 0.0005 if frame.startswith("analog-") else 1e-9
    for vector in FRAMES[frame]:
        found = samples(decode(vector["device"], vector["hex"]))
        assert found.pop(BATTERY_LOW) == bool(vector["decoded"]["status"].get("lowBattery"))
        expected = vectors.expected_samples(vector["decoded"])
        assert found == pytest.approx(expected, rel=1e-12, abs=tolerance), vector["hex"]


# What the maker's answer says of a probe that is off, or beside the measurements.
NOT_OURS = {"calculatedSendingPeriod", "unit", "name", "alarmStatus", "state", "deltaValues"}
SPELLINGS = {
    "errorAccesNotAllowed": "error: access not allowed",
    "lowTreshold": "low threshold",
    "highTreshold": "high threshold",
    "historicLogEvery10min": "600",
    "historicLogEvery1h": "3600",
    "notFound": "",
}


def plain(text: str) -> str:
    return re.sub(r"[^a-z0-9]", "", text.lower())


@pytest.mark.parametrize("frame", FRAMES)
def test_settings_and_texts_of_the_makers_decoder_are_told(frame: str) -> None:
    for vector in FRAMES[frame]:
        decoded = decode(vector["device"], vector["hex"])
        told = [*decoded.info.values(), *decoded.periods.values()]
        told += [sample.value for sample in decoded.samples]
        texts = [plain(str(item)) for item in told] + [plain(s.channel) for s in decoded.samples]
        numbers = [item for item in told if isinstance(item, int | float)]
        answer = {key: node for key, node in vector["decoded"].items() if key != "type"}
        for name, leaf in vectors.leaves(answer):
            is_probe_that_is_off = vector["device"] == "temp" and name == "temperatures"
            if name in NOT_OURS or isinstance(leaf, bool) or is_probe_that_is_off:
                continue
            if isinstance(leaf, str):
                assert any(plain(SPELLINGS.get(leaf, leaf)) in text for text in texts), (name, leaf)
            elif name != "channel":  # 0x41 numbers the channels that we name A to D
                scaled = (leaf, leaf / 1000, leaf * 1000)
                assert any(
                    number == pytest.approx(each, rel=1e-9, abs=0.0005)
                    for each in scaled
                    for number in numbers
                ), (name, leaf, vector["hex"])


MALFORMED = [
    vector
    for vector in vectors.load("adeunis_malformed.jsonl")
    # The command line refuses the others; no decoder sees them.
    if re.fullmatch("([0-9a-f]{2})*", vector["hex"])
]


@pytest.mark.parametrize(
    "vector",
    MALFORMED,
    ids=lambda vector: f"{vector['device']}-{vector['hex']}",
)
def test_malformed_frames_are_refused_with_the_reason(vector: dict[str, Any]) -> None:
    if vector["expect"] == "ignore":
        assert samples(decode(vector["device"], vector["hex"])).keys() == {BATTERY_LOW}
    else:
        with pytest.raises(
            DecodeError, match=r"truncated|too long|unknown frame code|no history frame 3"
        ):
            decode(vector["device"], vector["hex"])


class TestWhereTheMakersDecoderIsDoubtful:
    """Frames that @adeunis/codecs 1.6.1 reads otherwise than the manuals say."""

    def test_sensor_error_of_breath_is_its_own_bit_alone(self) -> None:
        low_battery = "6d2402fa012f00fb01c1031e021a00f802a0009501130029002e01a002f2ffffffff023b00a6"
        assert decode("breath", low_battery + "0289004d").info["sensor_error"] is False
        assert decode("breath", "6d1002fa012f00fb01c1").info["sensor_error"] is True

    def test_debounce_code_3_is_50_ms(self) -> None:
        info = decode("comfort", "1fe93207c5c126a8").info
        assert (info["input_1_debounce_ms"], info["input_2_debounce_ms"]) == (50, 40_000)
        assert (info["input_1_edges"], info["input_1_threshold"]) == ("low edge", 1989)
        assert decode("deltap", "1fcb3205a2f204f8").info["input_1_debounce_ms"] == 50

    def test_co2_in_an_alarm_is_unsigned(self) -> None:
        assert samples(decode("comfortCo2", "6b012000e243d213"))["co2", "ppm", "", 0] == 53779

    def test_counts_of_motion_are_unsigned(self) -> None:
        assert samples(decode("motion", "4e21072c951356"))["presence", "", "", 0] == 38163

    def test_test_mode_of_pulse_is_byte_2(self) -> None:
        test = decode("pulse", "10e00205a00b0242013b042280000d74000004b9c4c8").info
        assert (test["mode"], test["sending_period_s"]) == ("test", 1440 * 20)
        production = decode("pulse", "100001003cba025502008000ab890501030502d10264").info
        assert (production["mode"], production["sending_period_s"]) == ("production", 3600)
        assert production["flow_period_s"] == 512 * 60

    @pytest.mark.parametrize(
        ("model", "payload"),
        [
            ("drycontacts", "4045ffff013a027805fec9"),
            ("motion", "4e4601f606cd3d"),
            ("pulse3", "46ad00479f9300469aec"),
        ],
    )
    def test_hardware_error_is_bit_2_of_products_without_time_stamp(
        self, model: str, payload: str
    ) -> None:
        assert decode(model, payload).info["hardware_error"] is True

    def test_date_of_all_zeros_is_not_found(self) -> None:
        payload = (
            "492300000000000004b6c98e023372aa00000001000000013943008000000004c32dd20149"
            "4187046214b604cd3f3805c1ee22"
        )
        decoded = decode("ticPmePmi", payload)
        assert "DATE" not in decoded.info
        assert samples(decoded)["energy", "Wh", "EA_s", 0] == 79_088_014

    def test_digital_input_with_bit_2_and_without_time_stamp(self) -> None:
        found = samples(decode("deltap", "51c5031aa27c3f057f"))
        assert found["contact", "", "1", 0] == 1
        assert found["contact_count", "", "1", 0] == 0x1AA27C3F

    def test_analog_values_keep_their_precision(self) -> None:
        assert samples(decode("analog", "42200100f42400000000"))["voltage", "V", "A", 0] == 0.0625
        assert samples(decode("analog", "42200106acfc00000000"))["voltage", "V", "A", 0] == 0.4375

    @pytest.mark.parametrize(
        ("model", "payload"),
        [
            ("breath", "308004d3002000190014"),
            ("pulse3", "10000100021b070822003c"),
            ("comfort2", "206002"),
            ("comfortCo2", "101000010001000107080001"),
        ],
    )
    def test_lengths_of_sigfox_frames_are_refused(self, model: str, payload: str) -> None:
        with pytest.raises(DecodeError, match="truncated"):
            decode(model, payload)

    def test_a_counter_that_went_through_zero(self) -> None:
        found = samples(decode("pulse4", "5a2000000001000300010000"))
        assert [found["pulses", "", "A", age] for age in range(4)] == [
            1,
            2**32 - 2,
            2**32 - 3,
            2**32 - 3,
        ]


def test_sampling_periods_are_told_by_configuration_frames() -> None:
    # S320 = 1 and S321 = 450 x 2 s; S320 = 2 and S321 = 1800 x 2 s.
    assert decode("temp4", "100021c00004000101c204").periods == {"57": 900}
    assert decode("temp3", "101021c000030002070800").periods == {"57": 7200}
    assert decode("pulse3", "10000100021b070822003c" + "00" * 17).periods == {
        "5a": 3600,
        "5b": 3600,
    }
    assert decode("deltap", "11a1000b00010004").periods == {"55": 22}
    assert decode("breath", "10a100001625c6012b9a0f").periods == {"6d": 9670}


def test_a_time_stamp_does_not_date_samples_but_is_shown() -> None:
    decoded = decode("pulse4", "5a6500139967002600290000000c0037003d150f3b28")
    assert decoded.info["device_time"] == "2024-03-13T08:22:00"
    assert [sample.value for sample in decoded.samples[:-1]] == [
        1284455,
        1284417,
        1284376,
        1284376,
        1284364,
        1284309,
        1284248,
    ]


def test_a_missing_probe_measures_nothing() -> None:
    found = samples(decode("temp4", "57b000c9800000cb8000"))
    assert found == {
        ("temperature", "C", "1", 0): 20.1,
        ("temperature", "C", "1", 1): 20.3,
        BATTERY_LOW: 0,
    }


def test_a_duration_alarm_names_its_channel() -> None:
    info = decode("drycontacts2", "414403001414aba3e9").info
    assert (info["channel"], info["longest_s"]) == ("D", 1200)


def test_energy_of_a_pme_meter_is_in_wh() -> None:
    payload = (
        "49601504140d2b05000002c30000009800000002000002eb485045000692cc00025caa0000053700068db8"
        "00025b8200000528"
    )
    found = samples(decode("ticPmePmi", payload))
    assert found["energy", "Wh", "EAP_s", 0] == 430_796_000
    assert found["apparent_energy", "VAh", "EAPP_s", 0] == 747
