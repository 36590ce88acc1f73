"""Adeunis COMFORT 8275, COMFORT CO2 8373, COMFORT SERENITY: the air of a room.

Sources: technical reference manuals COMFORT and COMFORT CO2; for COMFORT SERENITY vendor adeunis
in github.com/TheThingsNetwork/lorawan-devices.
"""

from typing import Final

from openenergy.lorawan.adeunis.common import (
    COMMON,
    DIGITAL_INPUTS,
    INCONSISTENT,
    KEEP_ALIVE,
    REDUNDANCY,
    REGISTER_ANSWER,
    VERSIONS,
    Model,
    configuration,
    temperature,
)
from openenergy.lorawan.layout import (
    Bits,
    Part,
    history,
    info,
    optional,
    packed,
    sequence,
    value,
)


def humidity(suffix: str = "") -> Part:
    """Read relative humidity."""
    return value(f"humidity{suffix}", "%", "u8")


def co2(suffix: str = "") -> Part:
    """Read carbon dioxide."""
    return value(f"co2{suffix}", "ppm", "u16")


def voc(suffix: str = "") -> Part:
    """Read the sensor's index of volatile organic compounds."""
    return value(f"voc_index{suffix}", "", "u16")


_ALARMS: Final = (
    Bits("humidity_alarm", 0x01),
    Bits("temperature_alarm", 0x10),
    Bits("co2_alarm", 0x20),
    Bits("voc_alarm", 0x40),
)
_COMMON: Final = {**COMMON, **REGISTER_ANSWER, **DIGITAL_INPUTS}
_COMFORT: Final = {
    **_COMMON,
    0x10: configuration("4c"),
    0x30: KEEP_ALIVE,
    0x4C: history(temperature(), humidity()),
    0x4D: sequence(
        packed(
            Bits("humidity_alarm", 0x01),
            Bits("temperature_alarm", 0xF0, {code: code > 0 for code in range(16)}),
        ),
        temperature(),
        humidity(),
    ),
}
_COMFORT_2: Final = {
    **_COMFORT,
    **VERSIONS,
    0x10: configuration("4c", more=(REDUNDANCY,)),
}
_OF_A_DAY: Final = ("_max", "_min", "_mean")
_AIR_QUALITY: Final = sequence(info("icon", "u8"), value("bad_air_time", "min", "u8", times=10))
_BLACK_OUT: Final = sequence(info("black_out_h", "u8"), info("black_out_start_h", "u8"))
_CO2: Final = {
    **_COMMON,
    **VERSIONS,
    0x10: configuration(
        "6a", first=info("daily_frame", "u16"), more=(REDUNDANCY, optional(_BLACK_OUT))
    ),
    0x30: sequence(
        _AIR_QUALITY,
        *(sequence(temperature(suffix=day), co2(day), humidity(day)) for day in _OF_A_DAY),
    ),
    0x6A: history(temperature(), humidity(), co2()),
    0x6B: sequence(packed(*_ALARMS[:3]), temperature(), humidity(), co2()),
}
_SERENITY: Final = {
    **_CO2,
    0x10: configuration(
        *("6a", "6f"), first=info("daily_frame", "u16"), more=(REDUNDANCY, optional(_BLACK_OUT))
    ),
    0x38: sequence(
        _AIR_QUALITY,
        *(
            sequence(temperature(suffix=day), co2(day), humidity(day), voc(day))
            for day in _OF_A_DAY
        ),
    ),
    0x6F: history(temperature(), humidity(), co2(), voc()),
    0x70: sequence(packed(*_ALARMS), temperature(), humidity(), co2(), voc()),
}

MODELS: Final = {
    "comfort": Model(_COMFORT, flag_1=INCONSISTENT),
    "comfort2": Model(_COMFORT_2, has_stamp=True, flag_1=INCONSISTENT),
    "comfortCo2": Model(_CO2, has_stamp=True, flag_1=INCONSISTENT),
    "comfortSerenity": Model(_SERENITY, has_stamp=True, flag_1=INCONSISTENT),
}
