"""Adeunis TEMP 8180, TEMP 2S 8181: one or two temperature probes.

Sources: user guide TEMP V1, technical reference manual TEMP V4.
"""

from typing import Final

from openenergy.lorawan.adeunis.common import (
    ACKNOWLEDGED,
    COMMON,
    CROSSED,
    FIRST_GENERATION,
    INCONSISTENT,
    MODES,
    NUMBERS,
    REDUNDANCY,
    REGISTER_ANSWER,
    THRESHOLDS,
    VERSIONS,
    Model,
    configuration,
    temperature,
    timed,
)
from openenergy.lorawan.layout import Bits, Draft, Part, Reader, history, info, packed, sequence

TWO_PROBES: Final = 0x10
# The lower half of a probe's byte: its state; in old firmware its number, 2 of the second probe.
SECOND_PROBE: Final = 2


def probes(with_one: Part, with_two: Part) -> Part:
    """Use the layout that fits the number of active probes, told by the status byte."""

    def read(reader: Reader, draft: Draft, age: int) -> None:
        (with_two if draft.status & TWO_PROBES else with_one)(reader, draft, age)

    return read


def first_generation_probes(reader: Reader, draft: Draft, age: int) -> None:
    """Read two temperatures, each after its probe's state. A probe that is off measures nothing."""
    probe_1, probe_2 = Reader(reader.take(3)), Reader(reader.take(3))
    states = probe_1.number("u8"), probe_2.number("u8")
    has_states = states[1] & 0x0F != SECOND_PROBE
    for channel, probe, state in (("1", probe_1, states[0]), ("2", probe_2, states[1])):
        draft.info[f"probe_{channel}_id"] = state >> 4
        if state & 0x01 or not has_states:
            temperature(channel)(probe, draft, age)


def _thresholds(name: str) -> Part:
    return sequence(
        info(f"{name}_high", "i16", per=10),
        info(f"{name}_high_hysteresis", "u8", per=10),
        info(f"{name}_low", "i16", per=10),
        info(f"{name}_low_hysteresis", "u8", per=10),
    )


def _probe_settings(name: str) -> Part:
    return sequence(
        packed(Bits(f"{name}_id", 0xF0, NUMBERS)),
        packed(Bits(f"{name}_thresholds", 0x03, THRESHOLDS)),
    )


def _alarm(channel: str) -> Part:
    return sequence(info(f"alarm_{channel}", "u8", texts=CROSSED), temperature(channel))


_FIRST: Final = {
    **FIRST_GENERATION,
    0x10: timed(
        sequence(
            info("keep_alive_s", "u8"),
            info("sending_period_s", "u8"),
            _probe_settings("probe_1"),
            _probe_settings("probe_2"),
            info("mode", "u8", texts=MODES),
            packed(Bits("probe_1_active", 0x01), Bits("probe_2_active", 0x02)),
            info("reading_period_s", "u8"),
        ),
        {"keep_alive_s": (600, 20), "sending_period_s": (600, 20), "reading_period_s": (60, 10)},
    ),
    0x11: sequence(_thresholds("probe_1"), info("oversampling", "u8")),
    0x12: _thresholds("probe_2"),
    0x30: first_generation_probes,
    0x43: first_generation_probes,
}
_THIRD: Final = {
    **COMMON,
    **REGISTER_ANSWER,
    0x10: configuration("57", more=(REDUNDANCY,)),
    0x30: probes(temperature("1"), sequence(temperature("1"), temperature("2"))),
    0x57: probes(history(temperature("1")), history(temperature("1"), temperature("2"))),
    0x58: probes(_alarm("1"), sequence(_alarm("1"), _alarm("2"))),
}
_FOURTH: Final = {
    **_THIRD,
    **ACKNOWLEDGED,
    **VERSIONS,
    0x36: info("alert", "u8", texts={0: "normal state", 1: "uplink, downlink forbidden"}),
}

MODELS: Final = {
    "temp": Model(_FIRST, flag_1="alarm_probe_1", flag_2="alarm_probe_2"),
    "temp3": Model(_THIRD, flag_1=INCONSISTENT, flag_2="two_probes"),
    "temp4": Model(_FOURTH, has_stamp=True, flag_1=INCONSISTENT, flag_2="two_probes"),
}
