"""Home Assistant finds the switches by itself: the only place that knows its discovery messages.

One retained message per switch, in the form for whole devices (Home Assistant 2024.11 or newer),
describes entities that use the topics of `topics.py`. Its source says what it takes:
home-assistant/core, homeassistant/components/mqtt (schemas.py, discovery.py, switch.py, sensor.py).
"""

import logging
import re
import zlib
from collections import Counter
from collections.abc import Iterable
from collections.abc import Set as AbstractSet
from typing import Any, Final, NamedTuple

import msgspec

from openenergy import __version__, broker, config, mystrom, topics

# What Home Assistant says, and where, when it has started. Its user may change both, but neither
# follows the prefix of discovery.
STATUS_TOPIC: Final = "homeassistant/status"
BIRTH: Final = b"online"
# A switch that has answered with a report so often, yet not with who it is, will never do.
INFO_ATTEMPTS: Final = 3

_POWER: Final = {"device_class": "power", "state_class": "measurement", "unit_of_measurement": "W"}
# By quantity. Those without a name get that of their device class, in the user's language.
SENSORS: Final[dict[str, dict[str, str]]] = {
    "power": _POWER,
    "average_power": _POWER | {"name": "Average power"},
    "energy": {
        "device_class": "energy",
        "state_class": "total_increasing",
        "unit_of_measurement": "Wh",
    },
    "temperature": {
        "device_class": "temperature",
        "state_class": "measurement",
        "unit_of_measurement": "°C",
    },
}

log = logging.getLogger("home_assistant")


class Plug(NamedTuple):
    """A switch as it is announced; `info` is None if it does not say who it is."""

    settings: config.MyStromSwitch
    info: mystrom.Info | None
    quantities: frozenset[str]


def object_id(plug: Plug) -> str:
    """Return what identifies a switch to Home Assistant for ever: its MAC address, else its name.

    Of [a-zA-Z0-9_-] alone.
    """
    if plug.info:
        return f"mystrom_{plug.info.mac.lower()}"
    configured = plug.settings.mac
    if len(configured) == 12:
        return f"mystrom_{configured}"
    name = plug.settings.name
    plain = name.replace(".", "_")
    return f"openenergy_{plain}" + ("" if plain == name else f"-{zlib.crc32(name.encode()):08x}")


def discovery_topic(prefix: str, plug: Plug) -> str:
    """Return the topic of a switch's message."""
    return f"{prefix}/device/{object_id(plug)}/config"


def discovery_payload(plug: Plug, mqtt: config.Mqtt, script: str) -> bytes:
    """Return a switch's message."""
    name = plug.settings.name
    available = {
        "value_template": "{{ value_json.value | int }}",
        "payload_available": "1",
        "payload_not_available": "0",
    }
    online_topics = (
        broker.online_topic(mqtt, script),
        topics.measurement_topic(mqtt.prefix_update, name, "online"),
    )
    return msgspec.json.encode(
        {
            "device": _device(plug),
            "origin": {"name": f"openenergy {script}", "sw_version": __version__},
            "availability": [{"topic": topic, **available} for topic in online_topics],
            "availability_mode": "all",
            "components": _relay(plug, mqtt) | _sensors(plug, mqtt),
        }
    )


def _device(plug: Plug) -> dict[str, Any]:
    identity = object_id(plug)
    device: dict[str, Any] = {
        "identifiers": [identity],
        "name": plug.settings.name,
        "manufacturer": "myStrom",
    }
    if mac := re.fullmatch(r"mystrom_([0-9a-f]{12})", identity):
        colons = ":".join(re.findall("..", mac[1]))
        device["connections"] = [["mac", colons]]
    if plug.info and plug.info.version:
        device["sw_version"] = plug.info.version
    if plug.info and isinstance(plug.info.type, int) and plug.info.type in mystrom.MODELS:
        device["model"] = mystrom.MODELS[plug.info.type]
    if plug.settings.host:  # else its address may change
        device["configuration_url"] = f"http://{plug.settings.host}/"
    return device


def _relay(plug: Plug, mqtt: config.Mqtt) -> dict[str, dict[str, Any]]:
    """Return the relay as a switch, or as a state that can only be seen.

    The one that it is not, with nothing but its platform, is removed if it was there before.
    """
    name = plug.settings.name
    state = {
        "unique_id": f"{object_id(plug)}_relay",
        "name": None,  # that of the device
        "state_topic": topics.measurement_topic(mqtt.prefix_update, name, "relay"),
        "value_template": "{{ 'close' if value_json.value else 'open' }}",
        "payload_on": str(topics.Action.CLOSE),
        "payload_off": str(topics.Action.OPEN),
        "qos": mqtt.qos,
    }
    if plug.settings.read_only:
        return {
            "relay": {"platform": "switch"},
            "relay_state": {"platform": "binary_sensor", "device_class": "power", **state},
        }
    command = {
        "command_topic": topics.command_topic(mqtt.prefix_set, name),
        "command_template": '{"time": {{ (now().timestamp() * 1000) | int }},'
        ' "value": "{{ value }}"}',
        "qos": topics.COMMAND_QOS,  # states come with that of whoever publishes them, if less
        "retain": False,
        "state_on": str(topics.Action.CLOSE),
        "state_off": str(topics.Action.OPEN),
    }
    return {
        "relay": {"platform": "switch", "device_class": "outlet", **state, **command},
        "relay_state": {"platform": "binary_sensor"},
    }


def _sensors(plug: Plug, mqtt: config.Mqtt) -> dict[str, dict[str, Any]]:
    return {
        quantity: {
            "platform": "sensor",
            "unique_id": f"{object_id(plug)}_{quantity}",
            "state_topic": topics.measurement_topic(
                mqtt.prefix_update, plug.settings.name, quantity
            ),
            "value_template": "{{ value_json.value }}",
            "qos": mqtt.qos,
            **kind,
        }
        for quantity, kind in SENSORS.items()
        if quantity in plug.quantities
    }


class Discovery:
    """Announces the switches, and again when the broker or Home Assistant was away.

    Without `discovery = true` it does nothing: some brokers allow no topics but ours.
    """

    def __init__(self, settings: config.Settings, script: str) -> None:
        """Know no switch yet; `start` tells where to publish."""
        self._settings = settings.home_assistant
        self._mqtt = settings.mqtt
        self._script = script
        self._broker: broker.Broker | None = None
        self._attempts: Counter[str] = Counter()
        self._plugs: dict[str, Plug] = {}

    @property
    def filters(self) -> list[str]:
        """Topics to subscribe to."""
        return [STATUS_TOPIC] if self._settings.discovery else []

    def start(self, connection: broker.Broker) -> None:
        """Publish by a broker that hands its messages to `take`."""
        self._broker = connection

    def see(self, switch: mystrom.Switch, quantities: AbstractSet[str]) -> None:
        """Announce a switch that has just measured `quantities`, unless all of that is known.

        Called in the switch's own thread, since the switch is asked who it is.
        """
        if not self._settings.discovery:
            return
        name = switch.settings.name
        plug = self._plugs.get(name) or self._identify(switch)
        if plug and not quantities <= plug.quantities:
            self._plugs[name] = plug._replace(quantities=plug.quantities | quantities)
            self._announce(self._plugs[name])

    def announce_all(self) -> None:
        """Announce all switches to a broker that may have forgotten them."""
        for plug in self._plugs.copy().values():
            self._announce(plug)

    def take(self, messages: Iterable[broker.Message]) -> None:
        """Announce all switches when Home Assistant has started.

        Whether its word is retained does not matter: to repeat ourselves does no harm.
        """
        if any(each.topic in self.filters and each.payload == BIRTH for each in messages):
            log.info("Home Assistant has started: announcing %d switches", len(self._plugs))
            self.announce_all()

    def _identify(self, switch: mystrom.Switch) -> Plug | None:
        """Ask a switch who it is; None if it is to be asked again."""
        info = None
        try:
            info = switch.info()
        except mystrom.SwitchError as error:
            self._attempts[switch.settings.name] += 1
            if self._attempts[switch.settings.name] < INFO_ATTEMPTS:
                return None
            log.info("%s does not say who it is: %s", switch, error)
        return Plug(switch.settings, info, frozenset())

    def _announce(self, plug: Plug) -> None:
        if self._broker:  # while it is away nothing is sent, and `announce_all` follows
            self._broker.publish(
                discovery_topic(self._settings.prefix, plug),
                discovery_payload(plug, self._mqtt, self._script),
                retain=True,
            )
