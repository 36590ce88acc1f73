"""Events of ChirpStack 3 and 4 in JSON.

Version 4, and `marshaler = "json"` of version 3, write the JSON mapping of protobuf; the default of
version 3, "json_v3", a form of its own on the same topics. Sources: chirpstack/chirpstack-docs
(integrations/events.md), api/proto of chirpstack/chirpstack, brocaar/chirpstack-docs,
internal/integration/models of brocaar/chirpstack-application-server.
"""

import re
from typing import Any, Final

import msgspec
from msgspec import Struct

from openenergy.lorawan.events import (
    Device,
    Gateway,
    Ignored,
    Number,
    Status,
    Text,
    Uplink,
    UplinkError,
    canonical_eui,
    canonical_hex,
    decode_base64,
    decode_json,
    delivery_key,
    milliseconds,
)

LONGEST_NOTE: Final = 200
NOT_JSON: Final = (
    "payload is no JSON object: if it is protobuf, set json=true in ChirpStack 4,"
    ' marshaler="json" in ChirpStack 3'
)
# The server's word that it dropped a repeated frame: everyday news.
REPETITIONS: Final = frozenset({"UPLINK_FCNT_RETRANSMISSION", "UPLINK_F_CNT_RETRANSMISSION"})

# What we read of each message. Servers leave out zeros, or write null for what is missing.


class _DeviceInfo(Struct, rename="camel"):
    dev_eui: Text
    device_name: Text = ""
    application_name: Text = ""
    tags: dict[str, str] | None = None


class _Reception(Struct, rename="camel"):
    gateway_id: Text = ""
    gateway_id_v3: Text = msgspec.field(name="gatewayID", default="")
    rssi: float = 0.0
    snr: float | None = None
    snr_v3: float | None = msgspec.field(name="loRaSNR", default=None)
    gw_time: str | None = None
    time: str | None = None


class _Lora(Struct, rename="camel"):
    spreading_factor: Number | None = None


class _Modulation(Struct):
    lora: _Lora | None = None


class _Transmission(Struct, rename="camel"):
    frequency: Number = 0
    # Version 3 has a name here ("LORA", "FSK"), version 4 an object.
    modulation: _Modulation | str | None = None
    lora_v3: _Lora | None = msgspec.field(name="loRaModulationInfo", default=None)
    dr: Number | None = None


class _ChirpStackEvent(Struct, rename="camel"):
    """All events of version 4, `deviceInfo`, and of version 3, which has its content on top."""

    device_info: _DeviceInfo | None = None
    dev_eui_v3: Text = msgspec.field(name="devEUI", default="")
    device_name: Text = ""
    application_name: Text = ""
    tags: dict[str, str] | None = None
    deduplication_id: Text = ""
    time: str | None = None
    published_at: str | None = None
    f_port: Number | None = 0
    f_cnt: Number = 0
    data: str | None = None
    object: Any = None
    object_json: str | None = msgspec.field(name="objectJSON", default=None)
    rx_info: list[_Reception] | None = None
    tx_info: _Transmission | None = None
    # With this the data is still encrypted.
    join_server_context: Any = None
    margin: float = 0.0
    battery_level: float = 0.0
    battery_level_unavailable: bool = False
    external_power_source: bool = False
    code: Text = ""
    type: Text = ""
    description: str = ""
    error: str = ""


_event_decoder = msgspec.json.Decoder(_ChirpStackEvent)
_object_decoder = msgspec.json.Decoder()


def parse(eui_in_topic: str, event: str, payload: bytes) -> Uplink | Status | Ignored:
    """Read an event of a device; raises UplinkError."""
    if event not in {"up", "rx", "status", "log", "error"}:
        return Ignored(event)
    if not payload.startswith(b"{"):
        raise UplinkError(NOT_JSON)
    message = decode_json(_event_decoder, payload, "payload")
    device = _device(message)
    if device.dev_eui != eui_in_topic:
        raise UplinkError(f"payload: device {device.dev_eui} on the topic of {eui_in_topic}")
    if event in {"log", "error"}:
        return _log(device, message)
    time = milliseconds(message.time) or milliseconds(message.published_at)
    if event == "status":
        is_known = not (message.battery_level_unavailable or message.external_power_source)
        return Status(device, message.battery_level if is_known else None, message.margin, time)
    return _uplink(device, message, time)


def _device(message: _ChirpStackEvent) -> Device:
    if info := message.device_info:
        return Device(
            canonical_eui(info.dev_eui), info.device_name, info.application_name, info.tags or {}
        )
    if not message.dev_eui_v3:
        raise UplinkError("payload has neither deviceInfo nor devEUI")
    name, application = message.device_name, message.application_name
    return Device(canonical_eui(message.dev_eui_v3), name, application, message.tags or {})


def _log(device: Device, message: _ChirpStackEvent) -> Ignored:
    code = message.code or message.type
    if code in REPETITIONS:
        return Ignored("log")
    text = f"{device.dev_eui}: {code}: {message.description or message.error}"
    return Ignored("log", re.sub(r"[^ -~]+", " ", text)[:LONGEST_NOTE])


def _uplink(device: Device, message: _ChirpStackEvent, time: int | None) -> Uplink:
    port = message.f_port or 0
    data = b""
    if port and message.join_server_context is None:
        data = decode_base64(message.data or "", "data")
    decoded = message.object
    if data and message.object_json:
        decoded = decode_json(_object_decoder, message.object_json, "objectJSON")
    receptions = message.rx_info or []
    is_lora, spreading_factor = _radio(message.tx_info or _Transmission())
    gateway_times = [milliseconds(rx.gw_time or rx.time) for rx in receptions]
    return Uplink(
        device=device,
        key=message.deduplication_id or delivery_key(device, message.f_cnt, data),
        f_port=port,
        f_cnt=message.f_cnt,
        data=data,
        decoded_by_server=decoded if data and isinstance(decoded, dict) else None,
        server_time=time,
        gateway_time=max((t for t in gateway_times if t is not None), default=None),
        gateways=tuple(
            Gateway(_gateway_id(rx), rx.rssi, (rx.snr or rx.snr_v3 or 0.0) if is_lora else None)
            for rx in receptions
        ),
        spreading_factor=spreading_factor,
    )


# Data rates of EU868 that are LoRa (LoRaWAN Regional Parameters, section 2.4.3).
EU868: Final = range(863_000_000, 870_000_001)
EU868_SPREADING_FACTORS: Final = {0: 12, 1: 11, 2: 10, 3: 9, 4: 8, 5: 7, 6: 7}


def _radio(sent: _Transmission) -> tuple[bool, int | None]:
    """Return whether the modulation is LoRa, and the spreading factor."""
    modulation = sent.modulation
    if isinstance(modulation, _Modulation):
        lora = modulation.lora
        return lora is not None, lora.spreading_factor if lora else None
    if sent.lora_v3:
        return True, sent.lora_v3.spreading_factor
    if sent.dr is not None and sent.frequency in EU868:
        return sent.dr in EU868_SPREADING_FACTORS, EU868_SPREADING_FACTORS.get(sent.dr)
    return modulation != "FSK", None


def _gateway_id(reception: _Reception) -> str:
    """Return a gateway's 16 hexadecimal digits, which version 3 may write as base64."""
    return canonical_hex(reception.gateway_id or reception.gateway_id_v3)
