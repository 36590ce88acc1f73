"""Adeunis MOTION 8276, BREATH 8377 and DELTA P 8283: presence, pollution, ventilation.

Sources: technical reference manual MOTION V2; the behaviour of npm @adeunis/codecs 1.6.1.
"""

from typing import Final

from openenergy.lorawan.adeunis.common import (
    ACK_RESULTS,
    COMMON,
    DIGITAL_INPUTS,
    INCONSISTENT,
    KEEP_ALIVE,
    REDUNDANCY,
    REGISTER_ANSWER,
    VERSIONS,
    Model,
    configuration,
    sampled,
)
from openenergy.lorawan.layout import (
    Bits,
    Flag,
    Part,
    flags,
    history,
    info,
    packed,
    sequence,
    value,
)

_COMMON: Final = {**COMMON, **REGISTER_ANSWER, **DIGITAL_INPUTS}

_LIGHT: Final = value("light", "%", "u8")
_PRESENCE_COUNT: Final = value("presence_count", "", "u16")
_DETECTIONS: Final = value("presence", "", "u16")
_PRESENCE_NOW: Final = flags(Flag("presence_now", 0xFF))
_MOTION: Final = {
    **_COMMON,
    0x10: configuration("4e", "5c", more=(info("inhibition_s", "u16", times=10),)),
    0x30: KEEP_ALIVE,
    0x4E: sequence(_PRESENCE_COUNT, history(_DETECTIONS, _LIGHT)),
    0x4F: sequence(_PRESENCE_COUNT, _DETECTIONS),
    0x50: sequence(packed(Bits("light_alarm", 0x01)), _LIGHT),
    0x5C: sequence(_PRESENCE_NOW, history(value("presence", "%", "u8"), _LIGHT)),
    0x5D: sequence(_PRESENCE_NOW, _LIGHT),
}

_POLLUTANTS: Final = ("tvoc", "pm10", "pm2_5", "pm1")
_CONCENTRATIONS: Final = tuple(value(name, "ug/m3", "u16") for name in _POLLUTANTS)


def _day(name: str) -> Part:
    return sequence(*(value(f"{name}_{kind}", "ug/m3", "u16") for kind in ("min", "max", "mean")))


_BREATH: Final = {
    **_COMMON,
    **VERSIONS,
    0x10: sampled(
        sequence(
            info("daily_frame", "u8"),
            info("values_per_frame", "u16"),
            info("period_s", "u16"),
            info("alarm_repeats", "u8"),
            info("alarm_repeat_period_s", "u16"),
            REDUNDANCY,
        ),
        ("period_s",),
        "6d",
    ),
    0x30: sequence(
        *(
            sequence(_day(name), value(f"{name}_high_time", "min", "u16"))
            for name in _POLLUTANTS[:3]
        ),
        _day("pm1"),
    ),
    0x6D: history(*_CONCENTRATIONS),
    0x6E: sequence(
        packed(*(Bits(f"{name}_alarm", 1 << bit) for bit, name in enumerate(_POLLUTANTS))),
        *_CONCENTRATIONS,
    ),
}

_PRESSURE: Final = value("pressure", "Pa", "i16")
_VOLTAGE: Final = value("voltage", "V", "i16", per=1000)
_ALARM: Final = packed(Bits("alarm", 0x01))
_DELTA_P: Final = {
    **_COMMON,
    0x10: configuration("53"),
    0x11: sampled(
        sequence(
            info("readings_per_value", "u16"),
            info("reading_period_s", "u16", times=2),
            info("values_per_frame", "u16"),
        ),
        ("readings_per_value", "reading_period_s"),
        "55",
    ),
    0x2F: info("result", "u8", texts=ACK_RESULTS),
    0x30: KEEP_ALIVE,
    0x53: history(_PRESSURE),
    0x54: sequence(_ALARM, _PRESSURE),
    0x55: history(_VOLTAGE),
    0x56: sequence(_ALARM, _VOLTAGE),
}

MODELS: Final = {
    "motion": Model(_MOTION, flag_1=INCONSISTENT),
    "breath": Model(_BREATH, flag_1=INCONSISTENT, flag_2="sensor_error"),
    "deltap": Model(_DELTA_P, flag_1=INCONSISTENT),
}
