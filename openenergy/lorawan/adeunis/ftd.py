"""Adeunis Field Test Device (EU868): position, battery and what it hears of the gateway.

Source: user guides of the Field Test Device; checked against CampusIoT/payload-codec, which reads
the SNR unsigned where the guide says signed. There is no frame code: the first byte tells what
follows, in this order.
"""

from typing import Final

from openenergy.lorawan.layout import Bits, Draft, Part, Reader, packed, sequence, value
from openenergy.lorawan.sample import Decoded, DecodeError, Sample

MINUTES: Final = 60


def _degrees(digits: str, degree_digits: int, greatest: int) -> float:
    """Read degrees, minutes and decimals of a minute: "4515969" -> 45.26615."""
    minutes_end = degree_digits + 2
    if not digits.isdecimal():
        raise DecodeError(f"{digits} is no position")
    degrees = int(digits[:degree_digits])
    minutes = float(f"{digits[degree_digits:minutes_end]}.{digits[minutes_end:]}")
    if degrees + minutes / MINUTES > greatest or minutes >= MINUTES:
        raise DecodeError(f"{digits} is no position")
    return degrees + minutes / MINUTES


def position(reader: Reader, draft: Draft, age: int) -> None:
    """Read latitude, longitude (binary coded decimals, then the hemisphere) and their quality."""
    for quantity, degree_digits, greatest in (("latitude", 2, 90), ("longitude", 3, 180)):
        digits = reader.take(4).hex()
        degrees = _degrees(digits[:-1], degree_digits, greatest)
        sign = -1 if int(digits[-1], 16) & 0x01 else 1
        draft.samples.append(Sample(quantity, sign * degrees, "deg", age=age))
    quality = reader.number("u8")
    draft.info["gps_quality"] = quality >> 4
    draft.samples.append(Sample("satellites", float(quality & 0x0F), age=age))


def decode(data: bytes) -> Decoded:
    """Decode one frame; raises DecodeError."""
    reader, draft = Reader(data), Draft()
    flags = data[:1]
    packed(Bits("by_accelerometer", 0x40), Bits("by_button", 0x20))(reader, draft, 0)
    for flag, part in PARTS:
        if flags[0] & flag:
            part(reader, draft, 0)
    reader.finish()
    return Decoded(tuple(draft.samples), info=draft.info)


PARTS: Final[tuple[tuple[int, Part], ...]] = (
    (0x80, value("temperature", "C", "i8")),
    (0x10, position),
    (0x08, value("uplinks", "", "u8")),
    (0x04, value("downlinks", "", "u8")),
    (0x02, value("battery", "V", "u16", per=1000)),
    (
        0x01,
        sequence(value("downlink_rssi", "dBm", "u8", times=-1), value("downlink_snr", "dB", "i8")),
    ),
)
