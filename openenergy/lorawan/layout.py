"""Frame layouts as tables: each part reads some bytes, and parts are put together to frames.

sequence(value("pulses", "", "u32", channel="A"), value("pulses", "", "u32", channel="B"))
history(value("temperature", "C", "i16", per=10, absent=-0x8000))
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from openenergy.lorawan.sample import DecodeError, Info, Sample

Texts = Mapping[int, Info]

OFF_ON: Final[Texts] = {0: False, 1: True}


class Reader:
    """Bytes, read once from front to back; numbers are big endian."""

    def __init__(self, data: bytes) -> None:
        """Start at the first byte."""
        self._data = data
        self._at = 0

    @property
    def left(self) -> int:
        """Return the number of bytes not yet read."""
        return len(self._data) - self._at

    def take(self, size: int) -> bytes:
        """Return the next `size` bytes; raises DecodeError if they are not there."""
        if size > self.left:
            raise DecodeError(f"truncated: {size - self.left} bytes are missing")
        self._at += size
        return self._data[self._at - size : self._at]

    def number(self, kind: str) -> int:
        """Return the next number; `kind` is u or i (signed) and its bits: "u24", "i16"."""
        return int.from_bytes(self.take(int(kind[1:]) // 8), "big", signed=kind[0] == "i")

    def split(self, size: int) -> "tuple[Reader, Reader]":
        """Return what is left in two parts, the second of `size` bytes."""
        first = self.take(max(self.left - size, 0))
        return Reader(first), Reader(self.take(size))

    def finish(self) -> None:
        """Raise DecodeError if bytes are left."""
        if self.left:
            raise DecodeError(f"too long: {self.left} bytes too many")


@dataclass
class Draft:
    """What a frame has said so far. `status` is the second byte of an Adeunis frame."""

    status: int = 0
    periodic: bool = False
    samples: list[Sample] = field(default_factory=list)
    periods: dict[str, float] = field(default_factory=dict)
    info: dict[str, Info] = field(default_factory=dict)


# Reads its bytes as measured `age` periods ago.
Part = Callable[[Reader, Draft, int], None]


def sequence(*parts: Part) -> Part:
    """Read parts one after the other."""

    def read(reader: Reader, draft: Draft, age: int) -> None:
        for part in parts:
            part(reader, draft, age)

    return read


def optional(part: Part) -> Part:
    """Read a part if there is one: newer firmware appends it."""

    def read(reader: Reader, draft: Draft, age: int) -> None:
        if reader.left:
            part(reader, draft, age)

    return read


def history(*record: Part) -> Part:
    """Read records up to the end of the frame, one at least, newest first, a period apart."""

    def read(reader: Reader, draft: Draft, _age: int) -> None:
        draft.periodic = True
        age = 0
        while age == 0 or reader.left:
            for part in record:
                part(reader, draft, age)
            age += 1

    return read


def value(  # noqa: PLR0913 - a row of a table has so many columns
    quantity: str,
    unit: str,
    kind: str,
    *,
    per: int = 1,
    times: int = 1,
    channel: str = "",
    absent: int | None = None,
) -> Part:
    """Read a measurement: raw * times / per; the raw number `absent` means that there is none."""

    def read(reader: Reader, draft: Draft, age: int) -> None:
        raw = reader.number(kind)
        if raw != absent:
            draft.samples.append(Sample(quantity, raw * times / per, unit, channel, age))

    return read


def info(name: str, kind: str, *, times: int = 1, per: int = 1, texts: Texts | None = None) -> Part:
    """Read a setting: raw * times / per, or what `texts` says that a code means."""

    def read(reader: Reader, draft: Draft, _age: int) -> None:
        raw = reader.number(kind)
        if texts is None:
            draft.info[name] = raw * times if per == 1 else raw * times / per
        else:
            draft.info[name] = texts.get(raw, f"code {raw}")

    return read


def text(name: str, size: int) -> Part:
    """Read a text of `size` bytes; all zero means that there is none."""

    def read(reader: Reader, draft: Draft, _age: int) -> None:
        if content := reader.take(size).rstrip(b"\0").decode("latin-1"):
            draft.info[name] = content

    return read


class Bits(NamedTuple):
    """Some bits of a byte that hold a setting."""

    name: str
    mask: int
    texts: Texts = OFF_ON


def packed(*fields: Bits) -> Part:
    """Read a byte that holds several settings."""

    def read(reader: Reader, draft: Draft, _age: int) -> None:
        byte = reader.number("u8")
        for name, mask, texts in fields:
            # The lowest bit of the mask tells how far the code is shifted.
            code = (byte & mask) // (mask & -mask)
            draft.info[name] = texts.get(code, f"code {code}")

    return read


class Flag(NamedTuple):
    """A bit of a byte that is a measured state."""

    quantity: str
    mask: int
    channel: str = ""


def flags(*states: Flag) -> Part:
    """Read a byte of which each bit is a measured state, 1 or 0."""

    def read(reader: Reader, draft: Draft, age: int) -> None:
        byte = reader.number("u8")
        for quantity, mask, channel in states:
            draft.samples.append(
                Sample(quantity, float(bool(byte & mask)), channel=channel, age=age)
            )

    return read


def rest(name: str) -> Part:
    """Read whatever is left, as hexadecimal: what it means, the frame does not tell."""

    def read(reader: Reader, draft: Draft, _age: int) -> None:
        draft.info[name] = reader.take(reader.left).hex()

    return read
