"""Home Assistant, as far as our discovery messages go: what it accepts, and what it makes of it.

After home-assistant/core, components/mqtt: schemas.py, config.py, switch.py, sensor.py,
binary_sensor.py, and components/sensor/const.py, in their state of 2026 and, since `switch` has
its `command_template` from 2024.8 and devices are announced from 2024.11, at commit 0f5c1b54 too.
Stricter than the original, which drops unknown keys of a component without a word.
"""

import contextlib
import json
import re
from datetime import UTC, datetime
from typing import Annotated, Any, Final, Literal, NamedTuple

import jinja2
import jinja2.sandbox
import msgspec
from msgspec import Meta

from tests.mqtt_client import Message, MqttClient

DISCOVERY_TOPIC: Final = re.compile(r"(?P<prefix>.+)/device/(?P<object_id>[a-zA-Z0-9_-]+)/config")

# sensor/const.py: DEVICE_CLASS_UNITS and DEVICE_CLASS_STATE_CLASSES, as far as plugs go.
UNITS: Final = {
    "power": {"mW", "W", "kW", "MW", "GW", "TW"},
    "energy": {"J", "kJ", "MJ", "GJ", "mWh", "Wh", "kWh", "MWh", "GWh", "TWh", "cal", "kcal"},
    "temperature": {"°C", "°F", "K"},
}
STATE_CLASSES: Final = {
    "power": {"measurement"},
    "energy": {"total", "total_increasing"},
    "temperature": {"measurement"},
}

Topic = Annotated[str, Meta(min_length=1, max_length=65535, pattern=r"^[^+#\x00]+\Z")]
Url = Annotated[str, Meta(pattern=r"^https?://[^/\s]+/?\Z")]
Mac = Annotated[str, Meta(pattern=r"^([0-9a-f]{2}:){5}[0-9a-f]{2}\Z")]
Qos = Literal[0, 1, 2]


class _Strict(msgspec.Struct, forbid_unknown_fields=True):
    pass


class Origin(_Strict, kw_only=True):
    name: str
    sw_version: str = ""
    support_url: Url = "http://none"


class DeviceInfo(_Strict, kw_only=True):
    identifiers: Annotated[list[str], Meta(min_length=1)]
    connections: list[tuple[Literal["mac"], Mac]] = []
    name: str
    manufacturer: str = ""
    model: str = ""
    model_id: str = ""
    sw_version: str = ""
    hw_version: str = ""
    serial_number: str = ""
    suggested_area: str = ""
    configuration_url: Url = "http://none"


class Availability(_Strict, kw_only=True):
    topic: Topic
    payload_available: str = "online"
    payload_not_available: str = "offline"
    value_template: str = ""


class _Entity(_Strict, kw_only=True, tag_field="platform"):
    unique_id: str
    name: str | None = ""
    qos: Qos = 0
    state_topic: Topic
    value_template: str = "{{ value }}"


class Switch(_Entity, kw_only=True, tag="switch"):
    device_class: Literal["outlet", "switch"] | None = None
    command_topic: Topic
    command_template: str = "{{ value }}"
    payload_on: str = "ON"
    payload_off: str = "OFF"
    state_on: str = ""
    state_off: str = ""
    optimistic: bool = False
    retain: bool = False

    def is_on(self, payload: bytes) -> bool | None:
        """Return what a payload says of the state."""
        states = {self.state_on or self.payload_on: True, self.state_off or self.payload_off: False}
        return states.get(render(self.value_template, payload))

    def command(self, *, on: bool) -> str:
        """Return what is published to switch."""
        return render(self.command_template, self.payload_on if on else self.payload_off)


class BinarySensor(_Entity, kw_only=True, tag="binary_sensor"):
    device_class: Literal["power", "plug", "running"] | None = None
    payload_on: str = "ON"
    payload_off: str = "OFF"

    def is_on(self, payload: bytes) -> bool | None:
        """Return what a payload says of the state."""
        states = {self.payload_on: True, self.payload_off: False}
        return states.get(render(self.value_template, payload))


class Sensor(_Entity, kw_only=True, tag="sensor"):
    device_class: str | None = None
    state_class: str | None = None
    unit_of_measurement: str | None = None

    def value(self, payload: bytes) -> float:
        """Return the number that a payload says."""
        return float(render(self.value_template, payload))


Component = Switch | BinarySensor | Sensor


class Device(_Strict, kw_only=True):
    device: DeviceInfo
    origin: Origin
    availability: Annotated[list[Availability], Meta(min_length=1)]
    availability_mode: Literal["all", "any", "latest"] = "latest"
    components: dict[str, Component]


class Announcement(NamedTuple):
    """A device, its object_id, and the components that are to be removed, by their platform."""

    object_id: str
    device: Device
    removed: dict[str, str]


def read(topic: str, payload: bytes) -> Announcement:
    """Read a discovery message. Raises an error for what Home Assistant would not take."""
    matched = DISCOVERY_TOPIC.fullmatch(topic)
    assert matched, topic
    content: dict[str, Any] = json.loads(payload)
    removed = {
        key: component.pop("platform")
        for key, component in content["components"].items()
        if component.keys() == {"platform"}
    }
    for key in removed:
        del content["components"][key]
    assert set(removed.values()) <= {"switch", "binary_sensor", "sensor"}
    device = msgspec.convert(content, Device)
    identities = [each.unique_id for each in device.components.values()]
    assert len(set(identities)) == len(identities)
    for component in device.components.values():
        if isinstance(component, Sensor):
            assert component.unit_of_measurement in UNITS[str(component.device_class)]
            assert component.state_class in STATE_CLASSES[str(component.device_class)]
    return Announcement(matched["object_id"], device, removed)


def render(template: str, value: bytes | str) -> str:
    """Render a template of a payload as Home Assistant does, yet let nothing be undefined."""
    text = value.decode() if isinstance(value, bytes) else value
    variables: dict[str, Any] = {"value": text, "now": lambda: datetime.now(UTC)}
    with contextlib.suppress(ValueError):
        variables["value_json"] = json.loads(text)
    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(undefined=jinja2.StrictUndefined)
    return environment.from_string(template).render(variables).strip()


class HomeAssistant:
    """What its user would see, by the messages of a broker."""

    def __init__(self, client: MqttClient, prefix: str = "homeassistant") -> None:
        self._client = client
        self._prefix = prefix

    def announced(self) -> dict[str, Announcement]:
        """Return the announced devices by their names, as said last."""
        messages = self._client.messages(f"{self._prefix}/#")
        read_all = [read(each.topic, each.payload) for each in messages if is_discovery(each)]
        return {each.device.device.name: each for each in read_all}

    def is_available(self, device: Device) -> bool:
        """Whether the device is available; nothing heard means no."""
        assert device.availability_mode == "all"
        return all(
            (payload := self.last(each.topic)) is not None
            and self._is_available(each, render(each.value_template, payload))
            for each in device.availability
        )

    def last(self, topic: str) -> bytes | None:
        """Return the latest payload of a topic."""
        messages = self._client.messages(topic)
        return messages[-1].payload if messages else None

    def is_on(self, component: Component) -> bool | None:
        """Return the state of a relay; None if unknown."""
        assert not isinstance(component, Sensor)
        payload = self.last(component.state_topic)
        return None if payload is None else component.is_on(payload)

    def switch(self, component: Component, *, on: bool) -> None:
        """Do what a click on the switch does."""
        assert isinstance(component, Switch)
        command = component.command(on=on)
        self._client.publish(
            component.command_topic, command, qos=component.qos, retain=component.retain
        )

    def start(self, *, retain: bool = False) -> None:
        """Say that it has started."""
        self._client.publish(f"{self._prefix}/status", "online", retain=retain)

    @staticmethod
    def _is_available(said: Availability, payload: str) -> bool:
        assert payload in {said.payload_available, said.payload_not_available}
        return payload == said.payload_available


def is_discovery(message: Message) -> bool:
    return DISCOVERY_TOPIC.fullmatch(message.topic) is not None and bool(message.payload)
