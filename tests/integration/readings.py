"""Which readings of simulated switches were published, by their times."""

import json
import time
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from paho.mqtt.client import Client, MQTTMessage, MQTTv5
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from demo.parts import Mosquitto
from demo.process import wait_until
from demo.switches import SimulatedSwitch
from tests.integration.running import readings, state_topic

ROUNDING_S = 0.001  # times are published in whole milliseconds

Stream = list[tuple[str, bytes]]
"""Topics and payloads as a broker gave them to a subscriber."""


@contextmanager
def recorded(broker: Mosquitto) -> Iterator[Stream]:
    """Record everything, in a session that the broker keeps through its restarts."""
    stream: Stream = []

    def remember(_client: Client, _userdata: object, message: MQTTMessage) -> None:
        stream.append((message.topic, bytes(message.payload)))

    subscribed: list[bool] = []
    client = Client(CallbackAPIVersion.VERSION2, "recorder", protocol=MQTTv5)
    client.reconnect_delay_set(1, 1)
    client.on_connect = lambda client, *_: client.subscribe("#", 1)
    client.on_subscribe = lambda *_: subscribed.append(True)
    client.on_message = remember
    lasting = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]  # by paho
    lasting.SessionExpiryInterval = 3600
    client.connect(broker.host, broker.port, clean_start=False, properties=lasting)
    client.loop_start()
    try:
        wait_until(lambda: subscribed, 10, "subscription")
        yield stream
    finally:
        client.disconnect()
        client.loop_stop()


def published_times(stream: Stream, switch: str, quantity: str = "power") -> set[float]:
    """Return the times that the published readings say of themselves, s since 1970 UTC."""
    topic = state_topic(switch, quantity)
    return {json.loads(payload)["time"] / 1000 for each, payload in list(stream) if each == topic}


def unpublished(switch: SimulatedSwitch, stream: Stream) -> list[float]:
    """Return when the switch was read without anything published of it (monotonic, s).

    A reading's time is that of the switch's answer: after its request, and before the next one.
    """
    taken = readings(switch)
    offset = time.time() - time.monotonic()
    requests = [
        bisect_right(taken, each - offset + ROUNDING_S) - 1
        for each in published_times(stream, switch.name)
    ]
    assert set(Counter(requests).values()) <= {1}
    return [each for number, each in enumerate(taken) if number not in requests]


def wait_until_published(
    switch: SimulatedSwitch,
    stream: Stream,
    *,
    unless: Callable[[float], bool] = lambda _: False,
) -> None:
    """Wait until every reading is published, unless it is excused by its time (monotonic, s)."""
    wait_until(
        lambda: all(map(unless, unpublished(switch, stream))),
        20,
        f"all readings of {switch.name}",
        every=0.2,
    )
