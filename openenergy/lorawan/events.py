"""What network servers publish: uplinks and other events, and what their messages have in common.

All times are milliseconds since 1970 UTC.
"""

import base64
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Final, TypeVar

import msgspec
from msgspec import Meta

from openenergy import clock

# The largest uplinks, heard by dozens of gateways, have some 50 kB.
MAX_PAYLOAD: Final = 262_144
EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
# No time after this is believed, even while our own clock is not set.
LATEST_MS: Final = int(datetime(2100, 1, 1, tzinfo=UTC).timestamp() * 1000)

Number = Annotated[int, Meta(ge=0, lt=2**32)]
Text = Annotated[str, Meta(max_length=1024)]
T = TypeVar("T")


class UplinkError(ValueError):
    """A message that cannot be understood; says in one line why."""


@dataclass(frozen=True, slots=True)
class Gateway:
    """A gateway that heard the uplink: dBm, and dB, which FSK has not."""

    name: str
    rssi: float
    snr: float | None


@dataclass(frozen=True, slots=True)
class Device:
    """Who sent a message. `dev_eui` has 16 lower-case hexadecimal digits."""

    dev_eui: str
    name: str
    application: str
    tags: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Uplink:
    """What a device sent. `data` is empty when there is nothing to decode.

    Times are milliseconds since 1970 UTC, of the server and of a gateway, as far as told; `key` is
    the same for all deliveries of an uplink.
    """

    device: Device
    key: str
    f_port: int
    f_cnt: int
    data: bytes
    decoded_by_server: Mapping[str, Any] | None
    server_time: int | None
    gateway_time: int | None
    gateways: tuple[Gateway, ...]
    spreading_factor: int | None

    @property
    def is_dated(self) -> bool:
        """Whether the message itself tells when it was received."""
        return self.server_time is not None or self.gateway_time is not None

    def time(self, arrival: int) -> int:
        """Return the most trustworthy time of reception; `arrival` is when the message came.

        A gateway without GPS may tell any time from 1970 to 2106. Raises PayloadError if nobody
        told the time and our own clock is not set.
        """
        return believable(arrival, self.server_time, self.gateway_time)


def believable(arrival: int, *told: int | None) -> int:
    """Return the first of the times told that is not far ahead of our clock, else `arrival`.

    Raises PayloadError if there is none and our own clock is not set.
    """
    is_our_clock_set = arrival >= clock.RELEASED_MS
    latest = arrival + clock.LATEST_AHEAD_MS if is_our_clock_set else LATEST_MS
    first = next((time for time in told if time is not None and time <= latest), None)
    return clock.time_of(None, arrival) if first is None else first


@dataclass(frozen=True, slots=True)
class Status:
    """A device's answer to the network's question: battery in %, None if not told, margin in dB."""

    device: Device
    battery: float | None
    margin: float
    server_time: int | None

    @property
    def is_dated(self) -> bool:
        """Whether the message itself tells when it was received."""
        return self.server_time is not None


@dataclass(frozen=True, slots=True)
class Ignored:
    """An event that holds no measurement. A `note` is worth a line in the log."""

    event: str
    note: str = ""


def decode_json(decoder: "msgspec.json.Decoder[T]", payload: bytes | str, what: str) -> T:
    """Decode JSON of limited size; raises UplinkError, which names `what` it was."""
    if len(payload) > MAX_PAYLOAD:
        raise UplinkError(f"{what} is longer than {MAX_PAYLOAD} bytes")
    try:
        return decoder.decode(payload)
    except ValueError as error:
        raise UplinkError(f"{what}: {error}") from error
    except RecursionError as error:
        raise UplinkError(f"{what} is nested too deeply") from error


def delivery_key(device: Device, f_cnt: int, data: bytes) -> str:
    """Return what all deliveries of an uplink have in common, where the server gives no name."""
    return f"{device.dev_eui}/{f_cnt}/{data.hex()}"


def canonical_eui(text: str) -> str:
    """Return a device's EUI as 16 lower-case hexadecimal digits."""
    eui = canonical_hex(text)
    if not re.fullmatch(r"[0-9a-f]{16}", eui):
        raise UplinkError("payload: the device's EUI is not 64 bits in hexadecimal or base64")
    return eui


def canonical_hex(text: str) -> str:
    """Return 64 bits in hexadecimal; anything else as it is.

    16 hexadecimal digits are base64 too, so they come first.
    """
    if re.fullmatch(r"[0-9A-Fa-f]{16}", text):
        return text.lower()
    if re.fullmatch(r"[A-Za-z0-9+/]{11}=", text):
        return base64.b64decode(text).hex()
    return text


def decode_base64(text: str, name: str) -> bytes:
    """Decode base64; raises UplinkError, which names the key."""
    try:
        return base64.b64decode(text, validate=True)
    except ValueError as error:
        raise UplinkError(f"payload: {name} is not base64") from error


def milliseconds(text: str | None) -> int | None:
    """Return a time of RFC 3339, None for none or one that no clock that is set can show."""
    if not text:
        return None
    try:
        time = datetime.fromisoformat(text)
        since_epoch = (time - EPOCH) // timedelta(milliseconds=1)
    except (ValueError, TypeError, OverflowError):
        # No such time, or one without a zone; its message has others.
        return None
    return since_epoch if since_epoch >= clock.EARLIEST_MS else None
