# ruff: noqa: INP001  (the gateway loads it as a single file)
"""Part of ThingsBoard's gateway: the plugs' topics to telemetry, and its RPC to commands.

The gateway's own MQTT connector takes a whole batch of messages down with one that it cannot
convert, reports a command as done that it could not publish, and publishes to whatever topic an
RPC named `set` asks for. This one keeps its connection and its configuration (mqtt.json), and
replaces both ends. It also has the gateway forget a reading only when ThingsBoard has confirmed
it. Written for thingsboard-gateway 3.8.5.
"""

import json
import math
import os
import re
import time
from collections.abc import Sequence
from typing import Any

from paho.mqtt.client import MQTTMessageInfo
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from tb_device_mqtt import TBPublishInfo
from thingsboard_gateway.connectors.mqtt.mqtt_connector import MqttConnector
from thingsboard_gateway.gateway.entities.converted_data import ConvertedData
from thingsboard_gateway.gateway.entities.datapoint_key import DatapointKey
from thingsboard_gateway.gateway.entities.telemetry_entry import TelemetryEntry

TOPIC = re.compile(r"[^/]+/([\w.-]{1,64})/monitoring/([\w.-]{1,64})", re.ASCII)
PAYLOAD_SIZE = 512
"""Bytes at most; ours have 60."""
TELL_EVERY_S = 60.0
LARGEST = 1e18
"""Integers beyond that do not fit ThingsBoard's long."""

EARLIEST_MS = 1_577_836_800_000
"""2020-01-01 UTC: clocks that show less are not set."""
MAX_AHEAD_MS = 3_600_000
"""A reading from the future would stay ThingsBoard's latest one until then."""

SCRIPTS = ("plug_2_mqtt-", "mqtt_2_influx-", "button_server-")
PLUG_PROFILE = "openenergy plug"
SCRIPT_PROFILE = "openenergy script"

METHOD = "setRelay"
COMMANDS = ("open", "close", "toggle")
COMMAND_EXPIRY_S = 10
CONFIRM_TIMEOUT_S = 2.0
DELIVERY_TIMEOUT_S = 10.0


def is_confirmed(publications: Sequence[MQTTMessageInfo], timeout_s: float) -> bool:
    """Wait for the broker's word on all of them."""
    deadline = time.monotonic() + timeout_s
    try:
        for each in publications:
            each.wait_for_publish(max(0.0, deadline - time.monotonic()))
        return all(each.is_published() for each in publications)
    except (RuntimeError, ValueError):  # not even written: the connection has just gone
        return False


def delivery_state(self: Any) -> int:
    """Return TB_ERR_SUCCESS once ThingsBoard has confirmed a publication, else what makes a retry.

    The gateway's own version waits for a second, and then takes what was written to a connection
    for delivered, also when nobody is at its other end any more.
    """
    infos = self.message_info if isinstance(self.message_info, list) else [self.message_info]
    is_delivered = is_confirmed(infos, DELIVERY_TIMEOUT_S)
    return int(self.TB_ERR_SUCCESS if is_delivered else self.TB_ERR_AGAIN)


TBPublishInfo.get = delivery_state


class OpenEnergyConverter:
    """What plug_2_mqtt.py publishes -> telemetry, at the time of the measurement."""

    SUPPORTS_BYTES_PAYLOAD = True

    def __init__(self, _config: dict[str, Any], log: Any) -> None:
        """Take what the gateway gives to every converter."""
        self._log = log
        self._told: dict[str, float] = {}

    def convert(self, topic: str, payload: bytes) -> ConvertedData | list[ConvertedData]:
        """Return one reading, or none: what is raised here costs all messages waiting behind."""
        try:
            device, quantity, value, time_ms = read(topic, payload)
        except ValueError as error:
            self._tell(str(error), topic, payload)
            return []
        profile = SCRIPT_PROFILE if device.startswith(SCRIPTS) else PLUG_PROFILE
        data = ConvertedData(device, profile)
        data.add_to_telemetry(TelemetryEntry({DatapointKey(quantity): value}, time_ms))
        return data

    def _tell(self, cause: str, topic: str, payload: bytes) -> None:
        """Log what is wrong, each cause once a minute: who errs does so with every message."""
        now = time.monotonic()
        if now >= self._told.get(cause, -math.inf) + TELL_EVERY_S:
            self._told[cause] = now
            self._log.warning("%.100r: %s: %.100r", topic, cause, payload)


def read(topic: str, payload: bytes) -> tuple[str, str, float, int]:
    """Return device, quantity, value and time (ms since 1970 UTC), ValueError if it is none."""
    names = TOPIC.fullmatch(topic)
    if names is None:
        raise ValueError("no topic of a reading")
    if len(payload) > PAYLOAD_SIZE:
        raise ValueError("too long")
    now_ms = time.time_ns() // 1_000_000
    try:
        message = json.loads(payload)
    except ValueError:
        raise ValueError("not JSON") from None
    match message:
        case {"value": value} if _is_number(value):
            time_ms = message.get("time", now_ms)
        case _:
            raise ValueError("no number as its value")
    if not (_is_number(time_ms) and EARLIEST_MS <= time_ms <= now_ms + MAX_AHEAD_MS):
        raise ValueError("a time that cannot be true")
    return names[1], names[2], value, int(time_ms)


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) < LARGEST and math.isfinite(value)


class OpenEnergyConnector(MqttConnector):
    """The gateway's MQTT connector, for our topics and our commands alone."""

    def __init__(self, gateway: Any, config: dict[str, Any], connector_type: str) -> None:
        """Add the account to the configuration, which everybody may read, from the environment."""
        if username := os.environ.get("MQTT_USERNAME"):
            account = {"username": username, "password": os.environ.get("MQTT_PASSWORD", "")}
            config["broker"].setdefault("security", {}).update(account)
        self._gateway = gateway
        self._prefix_set = config["prefixSet"]
        super().__init__(gateway, config, connector_type)

    def run(self) -> None:
        """Leave readings to the broker until ThingsBoard was there once.

        Only from then on does the gateway write to disk what it takes.
        """
        while not (self.is_stopped() or self._is_thingsboard_there()):
            time.sleep(0.2)
        super().run()

    def _is_thingsboard_there(self) -> bool:
        client = self._gateway.tb_client
        return client is not None and bool(client.is_connected())

    def server_side_rpc_handler(self, content: dict[str, Any]) -> dict[str, str] | None:
        """Carry out an RPC. What is returned is the gateway's answer, None: it has been given.

        What is raised here ends the gateway's thread, and with it all commands until its restart.
        """
        device, request = content.get("device"), content.get("data")
        if not isinstance(request, dict):
            return {"error": "Not a request to a plug."}
        try:
            self._switch(device, request.get("method"), request.get("params"))
        except ValueError as error:
            return {"error": str(error)}
        self._gateway.send_rpc_reply(device=device, req_id=request.get("id"), success_sent=True)
        return None

    def _switch(self, device: object, method: object, value: object) -> None:
        """Send a command; ValueError unless the broker has taken it."""
        if not isinstance(device, str) or not re.fullmatch(r"[\w.-]{1,64}", device, re.ASCII):
            raise ValueError("Not a plug.")
        if method != METHOD:
            raise ValueError(f"The only method is {METHOD}.")
        if value not in COMMANDS:
            raise ValueError(f"{METHOD} takes one of {', '.join(COMMANDS)}.")
        # What is published without a connection would wait in the client, and switch much later.
        if not self._client.is_connected():
            raise ValueError("The broker is away.")
        command = json.dumps({"value": value, "time": time.time_ns() // 1_000_000})
        properties = None
        if self._mqtt_version == 5:
            properties = Properties(PacketTypes.PUBLISH)
            properties.MessageExpiryInterval = COMMAND_EXPIRY_S
        topic = f"{self._prefix_set}/{device}/control/relay"
        sent = self._client.publish(topic, command, qos=1, properties=properties)
        if not is_confirmed([sent], CONFIRM_TIMEOUT_S):
            raise ValueError("The broker did not confirm the command.")
