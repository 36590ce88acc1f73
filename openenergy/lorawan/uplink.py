"""Messages of LoRaWAN network servers, told apart by their topics."""

import re
from typing import Final

from openenergy.lorawan import chirpstack, ttn
from openenergy.lorawan.events import Ignored, Status, Uplink, UplinkError

# application/ID/device/EUI/event/up, before version 3.11 application/ID/device/EUI/rx; orders to
# devices come on .../command/down, once .../tx. Servers may put levels of their own in front.
CHIRPSTACK_TOPIC: Final = re.compile(
    r"(?:.*/)?application/[^/]+/device/([0-9A-Fa-f]{16})/(?:(event|command)/)?([a-z]+)"
)
# v3/APP@TENANT/devices/DEVICE/up
TTN_TOPIC: Final = re.compile(r"(?:.*/)?v3/[^/]+/devices/[^/]+/([a-z/]+)")
# gateway/ID/event/stats, in version 4 eu868/gateway/ID/event/stats
GATEWAY_TOPIC: Final = re.compile(r"(?:[^/]+/)?gateway/[^/]+/(?:event|state|command)/[a-z]+")


def parse(topic: str, payload: bytes) -> Uplink | Status | Ignored:
    """Read one message; raises UplinkError."""
    if match := CHIRPSTACK_TOPIC.fullmatch(topic):
        dev_eui, kind, event = match.groups()
        if kind == "command":
            return Ignored(kind)
        return chirpstack.parse(dev_eui.lower(), event, payload)
    if match := TTN_TOPIC.fullmatch(topic):
        return ttn.parse(payload) if match[1] == "up" else Ignored(match[1])
    if GATEWAY_TOPIC.fullmatch(topic):
        return Ignored("gateway")
    raise UplinkError("the topic is neither ChirpStack's nor The Things Network's")
