"""Pycom LoPy as a sensor: `struct.pack("f", temperature)` on the board."""

import math
import struct

from openenergy.lorawan.sample import Decoded, DecodeError, Sample

FLOAT = struct.Struct("<f")


def decode(data: bytes) -> Decoded:
    """Decode one little-endian float, in degrees Celsius; raises DecodeError."""
    if len(data) != FLOAT.size:
        raise DecodeError(f"{len(data)} bytes: expected a float of {FLOAT.size}")
    (temperature,) = FLOAT.unpack(data)
    if not math.isfinite(temperature):
        raise DecodeError(f"{temperature} is no measurement")
    return Decoded((Sample("temperature", temperature, "C"),))
