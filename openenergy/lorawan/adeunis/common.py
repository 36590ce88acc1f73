"""What Adeunis products have in common: settings, answers to downlinks, digital inputs.

Sources: technical reference manuals of PULSE V3/V4, TEMP V4, COMFORT, COMFORT CO2 and MOTION V2,
user guides of PULSE, TEMP, ANALOG and DRY CONTACTS (adeunis.com), and, for the digital inputs of
products without a manual, the behaviour of npm @adeunis/codecs 1.6.1.
"""

from collections.abc import Mapping
from typing import Final, NamedTuple

from openenergy.lorawan.layout import (
    Bits,
    Draft,
    Flag,
    Part,
    Reader,
    Texts,
    flags,
    info,
    packed,
    rest,
    sequence,
    value,
)


class Model(NamedTuple):
    """A product: its frames by code, whether it can append a time stamp, its two status flags."""

    frames: Mapping[int, Part]
    has_stamp: bool = False
    flag_1: str = ""
    flag_2: str = ""


HEAD_SIZE: Final = 2
# What a missing or broken probe measures.
NO_PROBE: Final = -0x8000
INCONSISTENT: Final = "configuration_inconsistency"
READ_ERROR: Final = "read_error"
MODES: Final[Texts] = {0: "park", 1: "production", 2: "test", 3: "dead"}
ON_STATE: Final[Texts] = {0: "deactivated", 1: "activated"}
_DEBOUNCE_STEPS: Final = (
    *(0, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000),
    *(10_000, 20_000, 40_000, 60_000, 300_000, 600_000),
)
DEBOUNCE_MS: Final[Texts] = dict(enumerate(_DEBOUNCE_STEPS))
NUMBERS: Final[Texts] = {code: code for code in range(16)}
THRESHOLDS: Final[Texts] = {0: "none", 1: "low", 2: "high", 3: "both"}
EDGES: Final[Texts] = {0: "deactivated", 1: "high edge", 2: "low edge", 3: "both edges"}
CROSSED: Final[Texts] = {0: "none", 1: "high threshold", 2: "low threshold", 3: "input event"}
HEX_CODES: Final[Texts] = {code: f"0x{code:x}" for code in range(256)}
ACK_RESULTS: Final[Texts] = {
    1: "success",
    2: "error: generic",
    3: "error: wrong state",
    4: "error: invalid request",
} | dict.fromkeys((0, *range(5, 256)), "error: other reason")
REGISTER_RESULTS: Final[Texts] = {
    1: "success",
    2: "success, no update",
    3: "error: coherency",
    4: "error: invalid register",
    5: "error: invalid value",
    6: "error: truncated value",
    7: "error: access not allowed",
} | dict.fromkeys((0, *range(8, 256)), "error: other reason")


def timed(
    frame: Part, units: Mapping[str, tuple[int, int]], tests: tuple[str, ...] = ("test",)
) -> Part:
    """Turn settings into seconds: `units` has seconds per unit, and the same in test modes."""

    def read(reader: Reader, draft: Draft, age: int) -> None:
        frame(reader, draft, age)
        for name, (production, test) in units.items():
            seconds = test if draft.info["mode"] in tests else production
            draft.info[name] = int(draft.info[name]) * seconds

    return read


def sampled(frame: Part, product_of: tuple[str, ...], *series: str) -> Part:
    """Read a configuration: the product of these settings is the period of these series, in s."""

    def read(reader: Reader, draft: Draft, age: int) -> None:
        frame(reader, draft, age)
        period = 1.0
        for name in product_of:
            period *= float(draft.info[name])
        draft.periods.update(dict.fromkeys(series, period))

    return read


KEEP_ALIVE_PERIOD: Final = info("keep_alive_s", "u16", times=10)


def configuration(
    *series: str, first: Part = KEEP_ALIVE_PERIOD, more: tuple[Part, ...] = ()
) -> Part:
    """Read frame 0x10 of a product with registers S301, S320 and S321."""
    settings = sequence(
        first,
        info("values_per_frame", "u16"),
        info("readings_per_value", "u16"),
        info("reading_period_s", "u16", times=2),
        *more,
    )
    return sampled(settings, ("readings_per_value", "reading_period_s"), *series)


def temperature(channel: str = "", suffix: str = "") -> Part:
    """Read a temperature in tenths of a degree."""
    return value(f"temperature{suffix}", "C", "i16", per=10, channel=channel, absent=NO_PROBE)


def version(name: str) -> Part:
    """Read a version of three bytes."""

    def read(reader: Reader, draft: Draft, _age: int) -> None:
        draft.info[name] = ".".join(str(number) for number in reader.take(3))

    return read


def _digital_input_settings(number: int) -> Part:
    name = f"input_{number}"
    return sequence(
        packed(Bits(f"{name}_edges", 0x0F, EDGES), Bits(f"{name}_debounce_ms", 0xF0, DEBOUNCE_MS)),
        info(f"{name}_threshold", "u16"),
    )


def _digital_input(channel: str) -> Part:
    return sequence(
        flags(Flag("contact", 0x01, channel)),
        value("contact_count", "", "u32", channel=channel),
        info("count_since_last_frame", "u16"),
    )


REDUNDANCY: Final = info("repeated_values", "u8")
KEEP_ALIVE: Final = sequence()
PROVISIONING: Final = info("provisioning", "u8", texts={0: "ABP", 1: "OTAA"})
# The first generation (PULSE, TEMP, ANALOG, DRY CONTACTS) has neither class C nor the duty cycle.
FIRST_GENERATION: Final = {
    0x20: sequence(packed(Bits("adr", 0x01)), PROVISIONING),
    0x31: rest("registers"),
}
COMMON: Final = {
    0x20: sequence(
        packed(
            Bits("adr", 0x01),
            Bits("duty_cycle", 0x04, ON_STATE),
            Bits("class", 0x20, {0: "class A", 1: "class C"}),
        ),
        PROVISIONING,
    ),
    0x31: rest("registers"),
}
REGISTER_ANSWER: Final = {
    0x33: sequence(info("result", "u8", texts=REGISTER_RESULTS), info("register", "u16"))
}
ACKNOWLEDGED: Final = {
    0x2F: sequence(info("downlink", "u8", texts=HEX_CODES), info("result", "u8", texts=ACK_RESULTS))
}
VERSIONS: Final = {0x37: sequence(version("application_version"), version("radio_version"))}
DIGITAL_INPUTS: Final = {
    0x1F: sequence(_digital_input_settings(1), _digital_input_settings(2)),
    0x51: _digital_input("1"),
    0x52: _digital_input("2"),
}
