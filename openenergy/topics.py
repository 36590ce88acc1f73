"""The plugs' topics and payloads: the only place that knows their form.

Measurements arrive on `PREFIX_UPDATE/DEVICE/monitoring/QUANTITY`, commands on
`PREFIX_SET/SWITCH/control/relay`; both carry a small JSON object.
"""

import re
from enum import StrEnum
from typing import Annotated, Final, NamedTuple, TypeVar

import msgspec
from msgspec import Meta

NAME_EXPECTED: Final = "one topic level: letters, digits, '_', '-', '.' (64 at most)"
NAME_PATTERN: Final = r"^[A-Za-z0-9_.-]{1,64}\Z"
# A payload of ours has about 60 bytes; nothing that is a measurement comes near this.
MAX_PAYLOAD: Final = 4096
# A command is sent once, whatever `[MQTT] qos` says of measurements.
COMMAND_QOS: Final = 1
# Longest life of a command: in the broker (message expiry), and against our clock.
COMMAND_EXPIRY_S: Final = 10
COMMAND_MAX_SKEW_S: Final = 30

# Units of what a plug measures, by quantity (topic level 4).
UNITS: Final = {
    "power": "W",
    "average_power": "W",
    "energy": "Wh",
    "temperature": "C",
    "relay": "",
    "online": "",
}

T = TypeVar("T")

# Quantities that are states: the broker keeps the latest for whoever comes later (retained).
STATES: Final = ("relay", "online")

_NAME = re.compile(NAME_PATTERN)
_UNIT = re.compile(r"[^\x00-\x1f\x7f\\]{0,16}")


class PayloadError(ValueError):
    """A message that cannot be understood; says what was expected of it."""


class Action(StrEnum):
    """What a command asks of a relay. A closed relay is on: current flows."""

    OPEN = "open"
    CLOSE = "close"
    TOGGLE = "toggle"


class Measurement(NamedTuple):
    """One value as published: finite, with the time it was measured (ms since 1970 UTC)."""

    value: float
    unit: str
    time: int | None


class Command(NamedTuple):
    """One relay command; `time` is when it was given (ms since 1970 UTC)."""

    action: Action
    time: int | None


# msgspec refuses what the standard library lets through: NaN, Infinity, 1e999, booleans as
# numbers. Programs that compute in floating point write times like 1763763243123.0.
class _MeasurementPayload(msgspec.Struct):
    value: float
    unit: str = ""
    time: Annotated[float, Meta(ge=0, lt=2**53)] | None = None


class _CommandPayload(msgspec.Struct):
    value: Action
    time: Annotated[float, Meta(ge=0, lt=2**53)] | None = None


_measurement_decoder = msgspec.json.Decoder(_MeasurementPayload)
_command_decoder = msgspec.json.Decoder(_CommandPayload)


def is_name(text: str) -> bool:
    """Whether `text` can name a switch or a quantity: one topic level of plain characters."""
    return _NAME.match(text) is not None


def as_name(text: str) -> str:
    """`text` with everything replaced that a topic level of ours may not hold."""
    return re.sub(r"[^A-Za-z0-9_.-]", "-", text)[:64]


def is_filter(text: str) -> bool:
    """Whether `text` is a topic filter (MQTT 5, section 4.7): '+' a whole level, '#' the last."""
    levels = text.split("/")
    return (
        0 < len(text.encode("utf-8", "replace")) <= 65535
        and "\0" not in text
        and all(level == "+" or "+" not in level for level in levels)
        and all("#" not in level for level in levels[:-1])
        and (levels[-1] == "#" or "#" not in levels[-1])
    )


def measurement_topic(prefix_update: str, device: str, quantity: str) -> str:
    """Topic of one quantity of a switch, or of a script's own `online`."""
    return f"{prefix_update}/{device}/monitoring/{quantity}"


def measurement_filter(prefix_update: str, quantity: str = "#") -> str:
    """Filter for one quantity, or all, of every device."""
    return f"{prefix_update}/+/monitoring/{quantity}"


def parse_measurement_topic(topic: str) -> tuple[str, str]:
    """Device and quantity of a measurement's topic.

    Raises PayloadError for any other shape.
    """
    levels = topic.split("/")
    if (
        len(levels) != 4
        or levels[2] != "monitoring"
        or not is_name(levels[1])
        or not is_name(levels[3])
    ):
        raise PayloadError("topic is not PREFIX/DEVICE/monitoring/QUANTITY")
    return levels[1], levels[3]


def command_topic(prefix_set: str, switch: str) -> str:
    """Topic on which a switch takes its relay commands."""
    return f"{prefix_set}/{switch}/control/relay"


def encode_measurement(quantity: str, value: float, time_ms: int | None) -> bytes:
    """Payload of one measurement. Only a last will has no time: nobody knows when it is sent."""
    # A relay's True must not become JSON's: a value is a number.
    number = int(value) if isinstance(value, bool) else value
    payload: dict[str, float | str] = {"value": number, "unit": UNITS[quantity]}
    if time_ms is not None:
        payload["time"] = time_ms
    return msgspec.json.encode(payload)


def decode_measurement(payload: bytes) -> Measurement:
    """Read one measurement's payload; raises PayloadError."""
    data = _decode(_measurement_decoder, payload)
    if not _UNIT.fullmatch(data.unit):
        raise PayloadError("unit is longer than 16 characters or has a control character")
    return Measurement(data.value, data.unit, None if data.time is None else int(data.time))


def encode_command(action: Action, time_ms: int) -> bytes:
    """Payload of one relay command."""
    return msgspec.json.encode({"value": action, "time": time_ms})


def decode_command(payload: bytes) -> Command:
    """Read one relay command's payload; raises PayloadError."""
    data = _decode(_command_decoder, payload)
    return Command(data.value, None if data.time is None else int(data.time))


def _decode(decoder: "msgspec.json.Decoder[T]", payload: bytes) -> T:
    if len(payload) > MAX_PAYLOAD:
        raise PayloadError(f"payload is longer than {MAX_PAYLOAD} bytes")
    try:
        return decoder.decode(payload)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise PayloadError(f"payload: {error}") from error
    except RecursionError as error:
        raise PayloadError("payload is nested too deeply") from error
