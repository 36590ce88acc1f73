"""Adeunis TIC 8250: the customer output of French electricity meters.

Channels are the meter's own labels. Source: user guide TIC, with the configurations that the
maker supplies for Linky meters (one phase, three phases) and for PME-PMI meters.
"""

from typing import Final

from openenergy.lorawan.adeunis.common import (
    COMMON,
    INCONSISTENT,
    KEEP_ALIVE,
    MODES,
    READ_ERROR,
    Model,
    timed,
)
from openenergy.lorawan.layout import Draft, Part, Reader, info, sequence, text, value

NOT_FOUND: Final = 0x8000_0000


def _label(name: str, quantity: str, unit: str, times: int = 1) -> Part:
    return value(quantity, unit, "u32", times=times, channel=name, absent=NOT_FOUND)


def meter_date(reader: Reader, draft: Draft, _age: int) -> None:
    """Read day, month, year, hour, minute, second by the meter's clock; all zero: not found."""
    day, month, year, *time = reader.take(6)
    if any((day, month, year, *time)):
        clock = ":".join(f"{number:02}" for number in time)
        draft.info["DATE"] = f"20{year:02}-{month:02}-{day:02}T{clock}"


def alarm_value(reader: Reader, draft: Draft, _age: int) -> None:
    """Read the value of a label: text of the length that the label has in the meter."""
    content = reader.take(reader.left)
    if content != NOT_FOUND.to_bytes(4, "big"):
        draft.info["value"] = content.rstrip(b"\0").decode("latin-1")


_TIC: Final = {
    **COMMON,
    0x10: timed(
        sequence(
            info("keep_alive_s", "u8"),
            info("values_per_frame", "u16"),
            info("mode", "u8", texts=MODES),
            info("reading_period_s", "u16"),
        ),
        {"keep_alive_s": (600, 20), "reading_period_s": (60, 20)},
    ),
    0x30: KEEP_ALIVE,
    0x4A: sequence(
        text("label", 10),
        info(
            "alarm",
            "u8",
            texts={
                0: "manual trigger",
                1: "label appearance",
                2: "label disappearance",
                3: "high threshold",
                4: "low threshold",
                5: "end threshold alarm",
                6: "delta positive",
                7: "delta negative",
            },
        ),
        alarm_value,
    ),
}
_LINKY_MONO: Final = sequence(
    text("ADCO", 12),
    text("OPTARIF", 4),
    _label("BASE", "energy", "Wh"),
    _label("ISOUSC", "current", "A"),
    _label("IINST", "current", "A"),
    _label("IMAX", "current", "A"),
    _label("PAPP", "apparent_power", "VA"),
    _label("HCHC", "energy", "Wh"),
    _label("HCHP", "energy", "Wh"),
    text("PTEC", 4),
)
_LINKY_TRI: Final = sequence(
    text("ADCO", 12),
    _label("BASE", "energy", "Wh"),
    *(_label(f"{name}{phase}", "current", "A") for name in ("IINST", "IMAX") for phase in "123"),
    _label("PMAX", "power", "W"),
    _label("PAPP", "apparent_power", "VA"),
)
_PME_PMI: Final = sequence(
    meter_date,
    _label("EA_s", "energy", "Wh"),
    _label("ER+_s", "reactive_energy", "varh"),
    _label("ER-_s", "reactive_energy", "varh"),
    _label("EAPP_s", "apparent_energy", "VAh"),
    text("PTCOUR1", 3),
    _label("EAP_s", "energy", "Wh", 1000),
    _label("ER+P_s", "reactive_energy", "varh", 1000),
    _label("ER-P_s", "reactive_energy", "varh", 1000),
    _label("EaP-1_s", "energy", "Wh", 1000),
    _label("ER+P-1_s", "reactive_energy", "varh", 1000),
    _label("ER-P-1_s", "reactive_energy", "varh", 1000),
)

MODELS: Final = {
    name: Model({**_TIC, 0x49: data}, flag_1=INCONSISTENT, flag_2=READ_ERROR)
    for name, data in (
        ("ticCbeLinkyMono", _LINKY_MONO),
        ("ticCbeLinkyTri", _LINKY_TRI),
        ("ticPmePmi", _PME_PMI),
    )
}
