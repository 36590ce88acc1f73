"""Adeunis DRY CONTACTS 8170 and ANALOG 8180: contacts, outputs, 0-10 V and 4-20 mA.

Sources: user guides DRY CONTACTS and ANALOG, the behaviour of npm @adeunis/codecs 1.6.1; for
ANALOG V2 vendor adeunis in github.com/TheThingsNetwork/lorawan-devices.
"""

from typing import Final

from openenergy.lorawan.adeunis.common import (
    ACKNOWLEDGED,
    COMMON,
    CROSSED,
    DEBOUNCE_MS,
    FIRST_GENERATION,
    INCONSISTENT,
    KEEP_ALIVE,
    MODES,
    NUMBERS,
    REDUNDANCY,
    REGISTER_ANSWER,
    THRESHOLDS,
    Model,
    configuration,
    timed,
)
from openenergy.lorawan.layout import (
    Bits,
    Draft,
    Flag,
    Part,
    Reader,
    Texts,
    flags,
    history,
    info,
    packed,
    sequence,
    value,
)
from openenergy.lorawan.sample import DecodeError

CHANNELS: Final = "ABCD"


def _channel_settings(types: Texts) -> Part:
    return sequence(
        *(
            packed(
                Bits(f"channel_{name}", 0x0F, types),
                Bits(f"channel_{name}_debounce_ms", 0xF0, DEBOUNCE_MS),
            )
            for name in CHANNELS.lower()
        )
    )


_CHANNEL_TYPES: Final[Texts] = {
    0: "disabled",
    1: "input periodic, high edge",
    2: "input periodic, low edge",
    3: "input periodic, both edges",
    4: "input event, high edge",
    5: "input event, low edge",
    6: "input event, both edges",
    7: "output, high",
    8: "output, low",
}
_CHANNEL_TYPES_2: Final[Texts] = {
    0: "disabled",
    1: "input, high edge",
    2: "input, low edge",
    3: "input, both edges",
    4: "output",
    5: "disabled",
}
_COUNTS: Final = sequence(*(value("contact_count", "", "u16", channel=name) for name in CHANNELS))


def _states(bits_apart: int) -> Part:
    return flags(
        *(Flag("contact", 1 << place * bits_apart, name) for place, name in enumerate(CHANNELS))
    )


def closed_times(reader: Reader, draft: Draft, age: int) -> None:
    """Read how long contacts were closed, of those that the first byte names."""
    mask = reader.number("u8")
    for place, name in enumerate(CHANNELS):
        if mask & 1 << place:
            value("contact_time", "s", "u32", channel=name)(reader, draft, age)


_PERIODS: Final = {"keep_alive_s": (600, 20), "sending_period_s": (600, 20)}
_DRY_CONTACTS: Final = {
    **FIRST_GENERATION,
    **REGISTER_ANSWER,
    **ACKNOWLEDGED,
    0x10: timed(
        sequence(
            info("keep_alive_s", "u8"),
            info("sending_period_s", "u8"),
            _channel_settings(_CHANNEL_TYPES),
            info("mode", "u8", texts=MODES),
        ),
        _PERIODS,
        tests=("park", "test", "dead"),
    ),
    0x30: KEEP_ALIVE,
    0x40: sequence(_COUNTS, _states(2)),
}
_DRY_CONTACTS_2: Final = {
    **COMMON,
    **REGISTER_ANSWER,
    **ACKNOWLEDGED,
    0x10: sequence(
        info("keep_alive_s", "u16", times=10),
        info("sending_period_s", "u16", times=10),
        _channel_settings(_CHANNEL_TYPES_2),
    ),
    0x30: sequence(_COUNTS, _states(1)),
    0x40: sequence(_COUNTS, _states(2)),
    0x41: sequence(
        info("channel", "u8", texts=dict(enumerate(CHANNELS))),
        info("longest_s", "u16", times=60),
    ),
    0x59: closed_times,
}

VOLTS: Final = 1
AMPERES: Final = 2


def analog_channel(channel: str) -> Part:
    """Read a channel's type, then its value in microvolts or in units of 10 nA."""
    kinds = {
        VOLTS: value("voltage", "V", "u24", per=1_000_000, channel=channel),
        AMPERES: value("current", "A", "u24", per=100_000_000, channel=channel),
    }

    def read(reader: Reader, draft: Draft, age: int) -> None:
        kind = kinds.get(reader.number("u8") & 0x0F)
        if kind is None:
            reader.take(3)
        else:
            kind(reader, draft, age)

    return read


def _analog_settings(name: str) -> Part:
    return sequence(
        packed(
            Bits(f"{name}_type", 0x0F, {0: "deactivated", VOLTS: "0-10 V", AMPERES: "4-20 mA"}),
            Bits(f"{name}_id", 0xF0, NUMBERS),
        ),
        packed(
            Bits(f"{name}_threshold", 0x03, THRESHOLDS),
            Bits(f"{name}_trigger", 0x0C, THRESHOLDS),
            Bits(f"{name}_trigger_debounce_ms", 0xF0, DEBOUNCE_MS),
        ),
    )


def _analog_threshold(name: str) -> Part:
    return sequence(info(f"{name}_uV_or_10nA", "u24"), info("hysteresis_uV_or_10nA", "u24"))


_ANALOG_VALUES: Final = sequence(analog_channel("A"), analog_channel("B"))
_ANALOG: Final = {
    **FIRST_GENERATION,
    0x10: timed(
        sequence(
            info("keep_alive_s", "u8"),
            info("sending_period_s", "u8"),
            _analog_settings("channel_a"),
            _analog_settings("channel_b"),
            info("mode", "u8", texts=MODES),
        ),
        _PERIODS,
    ),
    0x11: _analog_threshold("channel_a_high"),
    0x12: _analog_threshold("channel_a_low"),
    0x13: _analog_threshold("channel_b_high"),
    0x14: _analog_threshold("channel_b_low"),
    0x30: _ANALOG_VALUES,
    0x42: _ANALOG_VALUES,
}


# ANALOG V2: of each channel a bit that it is active, and a bit that it measures a current.
_INPUTS_2: Final = (("A", 0x01, 0x02), ("B", 0x04, 0x08))


def _active_inputs(reader: Reader) -> dict[str, Part]:
    mask = reader.number("u8")
    parts = {
        channel: value("current", "A", "u16", per=1_000_000, channel=channel)
        if mask & is_current
        else value("voltage", "V", "u16", per=1000, channel=channel)
        for channel, is_active, is_current in _INPUTS_2
        if mask & is_active
    }
    if not parts:
        raise DecodeError("neither channel is active")
    return parts


def analog_2_history(reader: Reader, draft: Draft, age: int) -> None:
    """Read the values of the active channels."""
    history(*_active_inputs(reader).values())(reader, draft, age)


def analog_2_alarm(reader: Reader, draft: Draft, age: int) -> None:
    """Read of each active channel which threshold it crossed, and its value."""
    for channel, part in _active_inputs(reader).items():
        info(f"alarm_{channel.lower()}", "u8", texts=CROSSED)(reader, draft, age)
        part(reader, draft, age)


def analog_2_keep_alive(reader: Reader, draft: Draft, age: int) -> None:
    """Read the present values of the active channels."""
    sequence(*_active_inputs(reader).values())(reader, draft, age)


_ANALOG_2: Final = {
    **COMMON,
    **REGISTER_ANSWER,
    0x10: configuration("71", more=(REDUNDANCY,)),
    0x38: analog_2_keep_alive,
    0x71: analog_2_history,
    0x72: analog_2_alarm,
}

MODELS: Final = {
    "drycontacts": Model(_DRY_CONTACTS),
    "drycontacts2": Model(_DRY_CONTACTS_2, has_stamp=True),
    "analog": Model(_ANALOG, flag_1="alarm_channel_a", flag_2="alarm_channel_b"),
    "analog2": Model(_ANALOG_2, has_stamp=True, flag_1=INCONSISTENT),
}
