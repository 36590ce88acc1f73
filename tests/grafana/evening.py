"""An evening on which everything goes wrong that there is an alert for, and all of it only nearly.

It is 3 February 2026 in Zurich. Plugs are read half a minute after each full minute, sensors send
half a minute after each full ten, and at 21:00 the last plug falls silent.
"""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

from tests.grafana.household import Message, comfort, local, minutes, reading, status, uplink

HALF_MINUTE = timedelta(seconds=30)


def at(hour: int, minute: int = 0) -> datetime:
    return local(2026, 2, 3, hour, minute)


BEGIN = at(18)
SILENCE = at(21)
END = at(22)
SENSORS = {
    name: f"00000000000000b{number}" for number, name in enumerate(("air", "hall", "office"))
}
# A meter that sends once a day, and one that sends every hour but for these 27.
DAILY, HOURLY = "00000000000000b8", "00000000000000b9"
HOURLY_SILENCE = (datetime(2026, 2, 1, 12, 1, tzinfo=UTC), datetime(2026, 2, 2, 15, tzinfo=UTC))


def plug_messages() -> Iterator[Message]:
    """Yield the readings of plugs, and what plugs and scripts say of themselves."""
    for time in minutes(BEGIN, SILENCE):
        yield from _plug("fridge", time, watts=60, celsius=25)
        is_hot, draws_much = at(19, 5) <= time < at(19, 25), at(19) <= time < at(19, 20)
        yield from _plug("heater", time, 2301 if draws_much else 20, 61 if is_hot else 30)
        # Above the limits for four minutes, and at them before and after.
        is_boiling = at(19) <= time < at(19, 4)
        yield from _plug("kettle", time, 2400 if is_boiling else 2300, 65 if is_boiling else 60)
        # Away for 45 minutes, and once for 8.
        if not at(19) <= time < at(19, 45) and not at(20, 20) <= time < at(20, 28):
            yield from _plug("lamp", time, watts=5, celsius=25)
    for name, value, time in (
        ("fridge", 1, at(18)),
        ("fridge", 0, at(19)),  # a plug, not a script
        ("plug_2_mqtt-pi", 1, at(18)),
        ("plug_2_mqtt-pi", 0, at(19)),
        ("plug_2_mqtt-pi", 1, at(20)),
        ("plug_2_mqtt-attic", 0, at(19)),  # a restart
        ("plug_2_mqtt-attic", 1, at(19, 3)),
        ("mqtt_2_influx-pi", 1, at(18)),
        ("button_server-pi", 0, at(19)),
    ):
        yield reading(name, "online", value, time + HALF_MINUTE)


def _plug(name: str, time: datetime, watts: float, celsius: float) -> Iterator[Message]:
    yield reading(name, "power", watts, time)
    yield reading(name, "temperature", celsius, time)
    yield reading(name, "relay", 1, time)


def sensor_messages() -> Iterator[Message]:
    """Yield the uplinks of sensors."""
    for number, time in enumerate(minutes(BEGIN, END, every=10)):
        co2 = {
            "air": 1401 if at(19) <= time < at(19, 40) else 800,
            "hall": 1401 if at(19) <= time < at(19, 10) else 800,
            "office": 1400,
        }
        for name, dev_eui in SENSORS.items():
            is_low = name == "hall" and at(19) <= time < at(20)
            yield uplink(dev_eui, name, number, time, comfort(co2[name], is_low=is_low))
    for name, level, time in (("air", 19, at(19)), ("air", 100, at(20)), ("office", 20, at(19))):
        yield status(SENSORS[name], name, level, time + HALF_MINUTE)
    noon = datetime(2026, 1, 30, 12, tzinfo=UTC)
    for number, time in enumerate(minutes(noon, BEGIN, every=60)):
        if number % 24 == 0:
            yield uplink(DAILY, "daily", number, time, comfort(co2=800))
        if not HOURLY_SILENCE[0] <= time < HOURLY_SILENCE[1]:
            yield uplink(HOURLY, "hourly", number, time, comfort(co2=800))
