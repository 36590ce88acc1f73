"""Adeunis PULSE 8230: two pulse inputs for gas, water and electricity meters.

Sources: user guide PULSE V1, technical reference manuals PULSE V3 and V4.
"""

from typing import Final

from openenergy.lorawan.adeunis.common import (
    COMMON,
    FIRST_GENERATION,
    HEAD_SIZE,
    INCONSISTENT,
    MODES,
    REDUNDANCY,
    REGISTER_ANSWER,
    Model,
    sampled,
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
    info,
    optional,
    packed,
    sequence,
    value,
)
from openenergy.lorawan.sample import DecodeError, Sample

COUNTER_SIZE: Final = 2**32
CHANNELS: Final = ("A", "B")


def counter_history(channel: str) -> Part:
    """Read the counter now, then how much less it was, period by period."""

    def read(reader: Reader, draft: Draft, _age: int) -> None:
        draft.periodic = True
        count = reader.number("u32")
        age = 0
        draft.samples.append(Sample("pulses", float(count), "", channel, age))
        while reader.left:
            age += 1
            count = (count - reader.number("u16")) % COUNTER_SIZE
            draft.samples.append(Sample("pulses", float(count), "", channel, age))

    return read


# PULSE V1 sends the counts of 6 intervals of 10 minutes, or of 24 hours, in a sequence of frames.
# Which it is, and at which of the intervals (1 to 6, 1 to 24) the deltas of a frame start, follow
# from the frame's index and length. Frames 0 to 2 of 11 bytes fit both; they are taken as hours.
# Source: user guide PULSE, periodic frames with history.
TEN_MINUTES: Final = (6, 600.0)
HOURS: Final = (24, 3600.0)
# (index, length) -> intervals of the sequence, seconds of one, interval at which the deltas start
SEQUENCES: Final = {
    (0, 31): (*TEN_MINUTES, 1),
    (3, 7): (*TEN_MINUTES, 5),
    (0, 51): (*HOURS, 1),
    (1, 51): (*HOURS, 11),
    (2, 7): (*HOURS, 23),
    (12, 7): (*HOURS, 23),
    (0, 11): (*HOURS, 1),
    **{(index, 11): (*HOURS, 2 * index - 1) for index in range(1, 12)},
}


def interval_history(reader: Reader, draft: Draft, _age: int) -> None:
    """Read frame 0x48: totals where the frame has the first count, else what was added to it."""
    length = HEAD_SIZE + reader.left
    index = reader.number("u8")
    if (index, length) not in SEQUENCES:
        raise DecodeError(f"no history frame {index} has this length")
    intervals, seconds, interval = SEQUENCES[index, length]
    draft.periodic = True
    draft.periods["48"] = seconds
    draft.info |= {"frame_index": index, "first_interval": interval}
    totals = {}
    if index == 0:
        for channel in CHANNELS:
            totals[channel] = reader.number("u32")
            total = float(totals[channel])
            draft.samples.append(Sample("pulses", total, "", channel, intervals - interval))
    while reader.left:
        interval += 1
        for channel in CHANNELS:
            added = reader.number("u16")
            quantity, count = "pulses_added", added
            if totals:
                totals[channel] = (totals[channel] + added) % COUNTER_SIZE
                quantity, count = "pulses", totals[channel]
            draft.samples.append(Sample(quantity, float(count), "", channel, intervals - interval))


DEBOUNCE_MS: Final[Texts] = dict(
    enumerate((0, 1, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000))
)
_ENABLED: Final[Texts] = {0: "disabled", 1: "enabled"}
_METERS: Final[Texts] = {0: "other, pull-up off", 1: "gas, pull-up on"}


def _each_channel(name: str, kind: str = "u16", times: int = 1) -> Part:
    return sequence(*(info(f"{name}_{channel.lower()}", kind, times=times) for channel in CHANNELS))


_INPUTS: Final = packed(
    Bits("input_a", 0x01, _ENABLED),
    Bits("meter_a", 0x02, _METERS),
    Bits("tamper_a", 0x08),
    Bits("input_b", 0x10, _ENABLED),
    Bits("meter_b", 0x20, _METERS),
    Bits("tamper_b", 0x80),
)
_DEBOUNCE: Final = packed(
    Bits("debounce_a_ms", 0x0F, DEBOUNCE_MS), Bits("debounce_b_ms", 0xF0, DEBOUNCE_MS)
)
_OVERFLOW_AND_LEAK: Final = sequence(
    _each_channel("overflow_threshold"), _each_channel("leak_threshold")
)
_TAMPER: Final = sequence(
    *(
        sequence(
            info(f"tamper_period_{channel}_s", "u8", times=10),
            info(f"tamper_threshold_{channel}", "u8"),
        )
        for channel in "ab"
    )
)
_PULSE_V1_SETTINGS: Final = timed(
    sequence(
        info("mode", "u8", texts=MODES),
        info("sending_period_s", "u16"),
        _INPUTS,
        info("history_period_s", "u8", texts={0: "no historic", 1: 600, 2: 3600}),
        _DEBOUNCE,
        info("flow_period_s", "u16"),
        _OVERFLOW_AND_LEAK,
        _each_channel("daily_periods_below"),
    ),
    {"sending_period_s": (60, 20), "flow_period_s": (60, 20)},
)
_PULSE_SETTINGS: Final = timed(
    sequence(
        info("mode", "u8", texts=MODES),
        info("values_per_frame", "u16"),
        _INPUTS,
        info("period_s", "u16", times=2),
        _DEBOUNCE,
        info("flow_period_s", "u16"),
        _OVERFLOW_AND_LEAK,
        _each_channel("daily_periods_below"),
        _TAMPER,
        REDUNDANCY,
    ),
    {"flow_period_s": (60, 20)},
)


def pulse_v1_configuration(reader: Reader, draft: Draft, age: int) -> None:
    """Read frame 0x10 of PULSE V1; it tells a period only if it keeps a history."""
    _PULSE_V1_SETTINGS(reader, draft, age)
    period = draft.info["history_period_s"]
    if isinstance(period, int):
        draft.periods["48"] = float(period)


def _values(quantity: str, unit: str, kind: str) -> Part:
    return sequence(*(value(quantity, unit, kind, channel=channel) for channel in CHANNELS))


_PULSE_DATA: Final = {
    0x11: _OVERFLOW_AND_LEAK,
    0x30: sequence(
        flags(
            Flag("overflow_alarm", 0x01, "A"),
            Flag("overflow_alarm", 0x02, "B"),
            Flag("tamper_alarm", 0x04, "A"),
            Flag("tamper_alarm", 0x08, "B"),
            Flag("leak_alarm", 0x10, "A"),
            Flag("leak_alarm", 0x20, "B"),
        ),
        _values("flow_max", "pulses/h", "u16"),
        _values("flow_min", "pulses/h", "u16"),
    ),
    0x46: _values("pulses", "", "u32"),
    0x47: _values("flow", "pulses/h", "u16"),
}
_PULSE_V3: Final = {
    **COMMON,
    **REGISTER_ANSWER,
    **_PULSE_DATA,
    0x10: sampled(_PULSE_SETTINGS, ("period_s",), "5a", "5b"),
    0x12: sequence(_each_channel("daily_periods_below"), _TAMPER, optional(REDUNDANCY)),
    0x5A: counter_history("A"),
    0x5B: counter_history("B"),
}

MODELS: Final = {
    "pulse": Model(
        {
            **FIRST_GENERATION,
            **_PULSE_DATA,
            0x10: pulse_v1_configuration,
            0x12: _each_channel("daily_periods_below"),
            0x48: interval_history,
        }
    ),
    "pulse3": Model(_PULSE_V3, flag_1=INCONSISTENT),
    "pulse4": Model(_PULSE_V3, has_stamp=True, flag_1=INCONSISTENT),
}
