"""Orders to Adeunis devices, and how to publish them on ChirpStack 3 and 4 and The Things Network.

Sources: "Downlink frame format" of the technical reference manuals PULSE V3 and MOTION V2
(0x01, 0x41), github.com/trarbr/adeunis (0x48; the MODBUS 8240's period in tens of seconds).
Topics and messages: chirpstack/chirpstack-docs (integrations/mqtt.md), "MQTT Server" of
TheThingsIndustries/lorawan-stack-docs.
"""

import base64
import re
from collections.abc import Callable
from typing import Any, Final, NamedTuple

from openenergy.lorawan import adeunis

PORT: Final = 1
ASK_CONFIGURATION: Final = 0x01
SET_REGISTERS: Final = 0x41
REBOOT: Final = 0x48
# Registers are numbered from S300.
VALUES_PER_FRAME: Final = 301 - 300
SAMPLING_PERIOD: Final = 321 - 300
SAMPLING_UNIT_S: Final = 2
SENDING_UNIT_S: Final = 10
LARGEST: Final = 0xFFFF

# Products that take a sample every S321 x 2 s, and send S301 of them together.
SAMPLING: Final = frozenset(
    {"pulse3", "pulse4", "temp3", "temp4", "comfort", "comfort2", "comfortCo2"}
    | {"comfortSerenity", "motion", "deltap", "analog2"}
)
# Products that send every S301 x 10 s.
SENDING: Final = frozenset({"drycontacts2", "modbus"})


class OrderError(ValueError):
    """An order that a device would not understand; says what was expected."""


def ask_configuration(_model: str) -> bytes:
    """Ask for frame 0x10, which tells the sampling period."""
    return bytes([ASK_CONFIGURATION])


def reboot(_model: str, delay_minutes: int = 1) -> bytes:
    """Start the device anew, after a delay."""
    return bytes([REBOOT]) + _u16(delay_minutes, "the delay in minutes")


def sampling_period(model: str, seconds: int) -> bytes:
    """Set the time between two samples. The device then starts anew."""
    if model not in SAMPLING:
        raise OrderError(f"adeunis/{model} has no sampling period: expected {_one_of(SAMPLING)}")
    return bytes([SET_REGISTERS]) + _sampling_register(seconds)


def sending_period(model: str, seconds: int, sampling_seconds: int = 0) -> bytes:
    """Set the time between two frames, and between the samples in them. The device starts anew."""
    if model in SENDING:
        tens = _u16(_whole(seconds, SENDING_UNIT_S), f"seconds / {SENDING_UNIT_S}")
        return bytes([SET_REGISTERS, VALUES_PER_FRAME]) + tens
    if model not in SAMPLING:
        known = _one_of(SAMPLING | SENDING)
        raise OrderError(f"adeunis/{model} has no such register: expected {known}")
    step = sampling_seconds or seconds
    values = _u16(_whole(seconds, step), "sending period / sampling period")
    head = bytes([SET_REGISTERS])
    return head + _sampling_register(step) + bytes([VALUES_PER_FRAME]) + values


class Order(NamedTuple):
    """An order, and how many numbers it can have."""

    encode: Callable[..., bytes]
    numbers: range


ORDERS: Final = {
    "configuration": Order(ask_configuration, range(1)),
    "sampling-period": Order(sampling_period, range(1, 2)),
    "sending-period": Order(sending_period, range(1, 3)),
    "reboot": Order(reboot, range(2)),
}


def _sampling_register(seconds: int) -> bytes:
    value = _u16(_whole(seconds, SAMPLING_UNIT_S), f"seconds / {SAMPLING_UNIT_S}")
    return bytes([SAMPLING_PERIOD]) + value


def _whole(value: int, unit: int) -> int:
    if unit <= 0 or value % unit:
        raise OrderError(f"{value}: expected a multiple of {max(unit, 1)}")
    return value // unit


def _u16(value: int, what: str) -> bytes:
    if not 1 <= value <= LARGEST:
        raise OrderError(f"{what} = {value}: expected 1 to {LARGEST}")
    return value.to_bytes(2, "big")


def _one_of(models: frozenset[str]) -> str:
    return ", ".join(model for model in adeunis.MODELS if model in models)


class Message(NamedTuple):
    """An MQTT message, to be published as JSON."""

    topic: str
    payload: dict[str, Any]


def chirpstack_3(application: str, device: str, data: bytes) -> Message:
    """Return the command for a device, by application ID and DevEUI."""
    if not re.fullmatch(r"[0-9A-Fa-f]{16}", device):
        raise OrderError(f"device {device!r}: expected a DevEUI of 16 hexadecimal digits")
    topic = f"application/{application}/device/{device.lower()}/command/down"
    return Message(topic, {"confirmed": False, "fPort": PORT, "data": _base64(data)})


def chirpstack_4(application: str, device: str, data: bytes) -> Message:
    """Return the command for a device, by application ID and DevEUI."""
    topic, payload = chirpstack_3(application, device, data)
    return Message(topic, {"devEui": device.lower(), **payload})


def ttn(application: str, device: str, data: bytes) -> Message:
    """Return the command for a device, by application ("APP@TENANT") and device ID."""
    downlink = {
        "f_port": PORT,
        "frm_payload": _base64(data),
        "priority": "NORMAL",
        "confirmed": False,
    }
    return Message(f"v3/{application}/devices/{device}/down/push", {"downlinks": [downlink]})


SERVERS: Final[dict[str, Callable[[str, str, bytes], Message]]] = {
    "chirpstack4": chirpstack_4,
    "chirpstack3": chirpstack_3,
    "ttn": ttn,
}


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")
