"""Uplinks of The Things Network (The Things Stack 3). What is 0, false or empty is left out.

Sources: "Data Formats" and "MQTT Server" of TheThingsIndustries/lorawan-stack-docs,
api/metadata.proto of TheThingsNetwork/lorawan-stack.
"""

from typing import Any

import msgspec
from msgspec import Struct

from openenergy.lorawan.events import (
    Device,
    Gateway,
    Number,
    Text,
    Uplink,
    canonical_eui,
    decode_base64,
    decode_json,
    delivery_key,
    milliseconds,
)


class _ApplicationIds(Struct):
    application_id: Text = ""


class _EndDeviceIds(Struct):
    dev_eui: Text
    device_id: Text = ""
    application_ids: _ApplicationIds | None = None


class _GatewayIds(Struct):
    gateway_id: Text = ""
    eui: Text = ""


class _PacketBroker(Struct):
    forwarder_gateway_eui: Text = ""
    forwarder_gateway_id: Text = ""


class _RxMetadata(Struct):
    gateway_ids: _GatewayIds | None = None
    packet_broker: _PacketBroker | None = None
    rssi: float = 0.0
    snr: float | None = None


class _TtnLora(Struct):
    spreading_factor: Number | None = None


class _DataRate(Struct):
    lora: _TtnLora | None = None


class _TtnSettings(Struct):
    data_rate: _DataRate | None = None


class _UplinkMessage(Struct):
    f_port: Number = 0
    f_cnt: Number = 0
    frm_payload: str | None = None
    decoded_payload: Any = None
    rx_metadata: list[_RxMetadata] | None = None
    settings: _TtnSettings | None = None
    received_at: str | None = None


class _TtnUp(Struct):
    end_device_ids: _EndDeviceIds
    uplink_message: _UplinkMessage
    received_at: str | None = None


_decoder = msgspec.json.Decoder(_TtnUp)


def parse(payload: bytes) -> Uplink:
    """Read an uplink; raises UplinkError."""
    message = decode_json(_decoder, payload, "payload")
    ids, up = message.end_device_ids, message.uplink_message
    application = ids.application_ids.application_id if ids.application_ids else ""
    device = Device(canonical_eui(ids.dev_eui), ids.device_id, application)
    data = decode_base64(up.frm_payload or "", "frm_payload") if up.f_port else b""
    rate = up.settings and up.settings.data_rate
    lora = rate and rate.lora
    return Uplink(
        device=device,
        key=delivery_key(device, up.f_cnt, data),
        f_port=up.f_port,
        f_cnt=up.f_cnt,
        data=data,
        decoded_by_server=(
            up.decoded_payload if data and isinstance(up.decoded_payload, dict) else None
        ),
        server_time=milliseconds(up.received_at) or milliseconds(message.received_at),
        gateway_time=None,
        gateways=tuple(
            Gateway(_gateway(rx), rx.rssi, (rx.snr or 0.0) if lora else None)
            for rx in up.rx_metadata or []
        ),
        spreading_factor=lora.spreading_factor if lora else None,
    )


def _gateway(reception: _RxMetadata) -> str:
    """Return the gateway's EUI, else its name; behind Packet Broker the real gateway's."""
    ids = reception.gateway_ids or _GatewayIds()
    broker = reception.packet_broker or _PacketBroker()
    name = broker.forwarder_gateway_id or ids.gateway_id
    return (ids.eui or broker.forwarder_gateway_eui).lower() or name
