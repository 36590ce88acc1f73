"""The plugs as the button server shows them, whatever the broker says of them."""

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion

from openenergy import clock
from openenergy.broker import Message
from openenergy.plugs import MAX_CLOCK_DIFFERENCE_MS, SAMPLE_EVERY_MS, Plugs

CLIENT = mqtt.Client(CallbackAPIVersion.VERSION2)


def said(quantity: str, value: float, time_ms: int) -> Message:
    topic = f"@update/lamp/monitoring/{quantity}"
    payload = b'{"value": %g, "time": %d}' % (value, time_ms)
    return Message(topic, payload, 1, False, CLIENT, 1, time_ms)


def test_a_reading_from_the_future_does_not_hide_those_that_follow() -> None:
    now_ms, a_year_ms = clock.now_ms(), 365 * 86_400_000
    plugs = Plugs()
    plugs.take([said("relay", 1, now_ms)])
    for time_ms in (
        now_ms - SAMPLE_EVERY_MS,
        now_ms + a_year_ms,
        now_ms,
        now_ms + MAX_CLOCK_DIFFERENCE_MS * 10,
    ):
        plugs.take([said("power", 5, time_ms)])
    assert plugs.power_since(0) == {"lamp": [(now_ms - SAMPLE_EVERY_MS, 5.0), (now_ms, 5.0)]}
