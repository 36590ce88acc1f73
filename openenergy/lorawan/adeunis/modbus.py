"""Adeunis MODBUS 8240: registers of any Modbus device.

Sources: github.com/trarbr/adeunis, vendor adeunis in github.com/TheThingsNetwork/lorawan-devices.
"""

from typing import Final

from openenergy.lorawan.adeunis.common import (
    ACKNOWLEDGED,
    COMMON,
    CROSSED,
    INCONSISTENT,
    KEEP_ALIVE,
    READ_ERROR,
    REGISTER_ANSWER,
    VERSIONS,
    Model,
)
from openenergy.lorawan.layout import Draft, Part, Reader, info, rest, sequence
from openenergy.lorawan.sample import Sample


def modbus_registers(frame: int) -> Part:
    """Read registers as raw numbers; only the device's configuration knows what they mean.

    Channel "2.1" is the first register of the second periodic frame.
    """

    def read(reader: Reader, draft: Draft, _age: int) -> None:
        place = 0
        while place == 0 or reader.left:
            place += 1
            raw = float(reader.number("u16"))
            draft.samples.append(Sample("register", raw, channel=f"{frame}.{place}"))

    return read


_MODBUS: Final = {
    **COMMON,
    **REGISTER_ANSWER,
    **ACKNOWLEDGED,
    **VERSIONS,
    0x10: sequence(
        info("keep_alive_s", "u16", times=10),
        info("sending_period_s", "u16", times=10),
        info("alarm_reading_period", "u16"),
        info("link", "u8"),
        info("supply_time", "u16"),
    ),
    0x30: KEEP_ALIVE,
    0x45: sequence(
        info("alarm", "u8", texts=CROSSED),
        info("slave", "u8"),
        info("register", "u16"),
        rest("value"),
    ),
    0x5E: rest("registers"),
} | {
    code: modbus_registers(frame)
    for frame, code in enumerate((0x44, 0x5F, 0x60, 0x61, 0x62, 0x63), start=1)
}

MODELS: Final = {"modbus": Model(_MODBUS, flag_1=INCONSISTENT, flag_2=READ_ERROR)}
