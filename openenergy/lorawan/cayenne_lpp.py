"""Cayenne Low Power Payload: channel, type and value, repeated.

Source: the Cayenne LPP documentation, types as in ChirpStack's codec (codec/cayenne_lpp.rs).
Units are ours: Pa, Wh.
"""

from collections.abc import Callable
from typing import Final

from openenergy.lorawan.layout import Draft, Part, Reader, sequence, value
from openenergy.lorawan.sample import Decoded, DecodeError

# A type, and what it holds on a given channel.
Layout = Callable[[str], Part]


def _one(quantity: str, unit: str, kind: str, *, per: int = 1, times: int = 1) -> Layout:
    return lambda channel: value(quantity, unit, kind, per=per, times=times, channel=channel)


def _several(*layouts: Layout) -> Layout:
    return lambda channel: sequence(*(layout(channel) for layout in layouts))


def _axes(quantity: str, unit: str, per: int) -> Layout:
    return _several(*(_one(f"{quantity}_{axis}", unit, "i16", per=per) for axis in "xyz"))


TYPES: Final[dict[int, Layout]] = {
    0: _one("digital_input", "", "u8"),
    1: _one("digital_output", "", "u8"),
    2: _one("analog_input", "", "i16", per=100),
    3: _one("analog_output", "", "i16", per=100),
    100: _one("generic", "", "u32"),
    101: _one("illuminance", "lx", "u16"),
    102: _one("presence", "", "u8"),
    103: _one("temperature", "C", "i16", per=10),
    104: _one("humidity", "%", "u8", per=2),
    113: _axes("acceleration", "g", 1000),
    115: _one("pressure", "Pa", "u16", times=10),
    116: _one("voltage", "V", "u16", per=100),
    117: _one("current", "A", "u16", per=1000),
    118: _one("frequency", "Hz", "u32"),
    120: _one("percentage", "%", "u8"),
    121: _one("altitude", "m", "i16"),
    125: _one("concentration", "ppm", "u16"),
    128: _one("power", "W", "u16"),
    130: _one("distance", "m", "u32", per=1000),
    131: _one("energy", "Wh", "u32"),
    132: _one("direction", "deg", "u16"),
    133: _one("unix_time", "s", "u32"),
    134: _axes("rotation", "deg/s", 100),
    135: _several(*(_one(colour, "", "u8") for colour in ("red", "green", "blue"))),
    136: _several(
        _one("latitude", "deg", "i24", per=10_000),
        _one("longitude", "deg", "i24", per=10_000),
        _one("altitude", "m", "i24", per=100),
    ),
    142: _one("switch", "", "u8"),
}


def decode(data: bytes) -> Decoded:
    """Decode one payload; raises DecodeError, also for an unknown type: its length is unknown."""
    reader, draft = Reader(data), Draft()
    if not reader.left:
        raise DecodeError("empty")
    while reader.left:
        channel, kind = reader.take(2)
        layout = TYPES.get(kind)
        if layout is None:
            raise DecodeError(f"unknown type {kind} on channel {channel}")
        layout(str(channel))(reader, draft, 0)
    return Decoded(tuple(draft.samples))
