"""NKE Watteco Flash'O, which reads the flashing light of an electricity meter: standard reports.

Source: support.nke-watteco.com, frames of the ZCL-like application layer on port 125.
"""

from collections.abc import Callable
from typing import Final

from openenergy.lorawan.layout import Draft, Reader
from openenergy.lorawan.sample import Decoded, DecodeError, Sample

PORT: Final = 125
STANDARD: Final = 0x01
READ_ANSWER: Final = 0x01
REPORT: Final = 0x0A
# A report with an alarm: what caused it follows the value.
ALARM: Final = 0x8A
CONFIGURATION_ANSWERS: Final = frozenset({0x07, 0x09})
# The mask of a battery report; each source present has its voltage.
SOURCES: Final = ("mains", "rechargeable", "disposable", "solar", "tic")


def _count(reader: Reader, draft: Draft, channel: str) -> None:
    draft.samples.append(Sample("pulses", float(reader.number("u32")), channel=channel))


def _input(reader: Reader, draft: Draft, channel: str) -> None:
    draft.samples.append(Sample("contact", float(reader.number("u8") != 0), channel=channel))


def _battery(reader: Reader, draft: Draft, _channel: str) -> None:
    power = Reader(reader.take(reader.number("u8")))
    draft.info["power_mode"] = power.number("u8")
    mask = power.number("u8")
    for bit, source in enumerate(SOURCES):
        if mask & 1 << bit:
            volts = power.number("u16") / 1000
            draft.samples.append(Sample("battery", volts, "V", source))
    draft.info["power_source"] = power.number("u8")
    power.finish()


# (cluster, attribute, type) -> how to read the value
ATTRIBUTES: Final[dict[tuple[int, int, int], Callable[[Reader, Draft, str], None]]] = {
    (0x000F, 0x0402, 0x23): _count,
    (0x000F, 0x0055, 0x10): _input,
    (0x0050, 0x0006, 0x41): _battery,
}


def decode(port: int, data: bytes) -> Decoded:
    """Decode one frame; batch reports and answers are recognised, and empty. Raises DecodeError."""
    if port != PORT:
        raise DecodeError(f"port {port}: expected {PORT}")
    reader, draft = Reader(data), Draft()
    control = reader.number("u8")
    if not control & STANDARD:
        return Decoded((), info={"frame": "batch report: compressed, not decoded"})
    command = reader.number("u8")
    if command in CONFIGURATION_ANSWERS:
        return Decoded((), info={"frame": f"configuration answer 0x{command:02x}"})
    if command not in (READ_ANSWER, REPORT, ALARM):
        raise DecodeError(f"unknown command 0x{command:02x}")
    cluster, attribute = reader.number("u16"), reader.number("u16")
    draft.info["frame"] = f"0x{command:02x} cluster 0x{cluster:04x} attribute 0x{attribute:04x}"
    if command == READ_ANSWER and reader.number("u8"):
        return Decoded((), info=draft.info)
    read = ATTRIBUTES.get((cluster, attribute, reader.number("u8")))
    if read is None:
        return Decoded((), info=draft.info)
    endpoint = control >> 5 | (control & 0x06) << 2
    read(reader, draft, str(endpoint) if endpoint else "")
    if command != ALARM:
        reader.finish()
    return Decoded(tuple(draft.samples), info=draft.info)
