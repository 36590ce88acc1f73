"""An MQTT client that knows nothing of our code: it hears everything and remembers it."""

import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self

from paho.mqtt.client import Client, MQTTMessage, MQTTv5, topic_matches_sub
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.subscribeoptions import SubscribeOptions

from demo.process import wait_until


@dataclass(frozen=True)
class Message:
    """One message as it arrived; `retain` as its publisher set it, `expiry` in s."""

    topic: str
    payload: bytes
    qos: int
    retain: bool
    expiry: int | None
    arrived: float  # s since 1970 UTC

    @property
    def json(self) -> Any:
        return json.loads(self.payload)


class MqttClient:
    """Connected and subscribed to everything once it is entered; reconnects within 1 s."""

    def __init__(
        self, host: str, port: int, *, username: str = "", password: str = "", timeout: float = 10.0
    ) -> None:
        self._host = host
        self._port = port
        self._timeout = timeout
        self._messages: list[Message] = []
        self._subscribed = threading.Event()
        self._client = Client(CallbackAPIVersion.VERSION2, protocol=MQTTv5)
        self._client.reconnect_delay_set(1, 1)
        if username:
            self._client.username_pw_set(username, password)
        self._client.on_connect = self._subscribe
        self._client.on_subscribe = lambda *_: self._subscribed.set()
        self._client.on_disconnect = lambda *_: self._subscribed.clear()
        self._client.on_message = self._remember

    def messages(self, topic_filter: str = "#") -> list[Message]:
        """Return what arrived since the start or `clear`, in order."""
        return [m for m in list(self._messages) if topic_matches_sub(topic_filter, m.topic)]

    def clear(self) -> None:
        """Forget what arrived so far."""
        self._messages.clear()

    def wait_for(
        self,
        topic_filter: str,
        condition: Callable[[Message], bool] = lambda _: True,
        *,
        timeout: float = 10.0,
    ) -> Message:
        """Return the first message since the start or `clear` that meets the condition."""
        return wait_until(
            lambda: next(filter(condition, self.messages(topic_filter)), None),
            timeout,
            f"message on {topic_filter}",
        )

    def wait_until_subscribed(self) -> None:
        """Wait until messages are heard (again)."""
        broker = f"{self._host}:{self._port}"
        wait_until(self._subscribed.is_set, self._timeout, f"subscription at {broker}")

    def publish(
        self,
        topic: str,
        payload: bytes | str | dict[str, Any],
        *,
        qos: int = 1,
        retain: bool = False,
        expiry: int | None = None,
    ) -> None:
        """Publish (a dict as JSON) and wait until the broker has it."""
        properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]  # by paho
        if expiry is not None:
            properties.MessageExpiryInterval = expiry
        data = json.dumps(payload) if isinstance(payload, dict) else payload
        self._client.publish(topic, data, qos, retain, properties).wait_for_publish(10)

    def __enter__(self) -> Self:
        self._client.connect(self._host, self._port)
        self._client.loop_start()
        try:
            self.wait_until_subscribed()
        except TimeoutError:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exception: object) -> None:
        self._client.disconnect()
        self._client.loop_stop()

    def _subscribe(self, client: Client, *_: object) -> None:
        client.subscribe("#", options=SubscribeOptions(qos=1, retainAsPublished=True))

    def _remember(self, _client: Client, _userdata: object, message: MQTTMessage) -> None:
        expiry = getattr(message.properties, "MessageExpiryInterval", None)
        payload = bytes(message.payload)
        self._messages.append(
            Message(message.topic, payload, message.qos, message.retain, expiry, time.time())
        )
