"""A household whose readings are simple enough to add up by hand, published on MQTT.

All times are Zurich's. Each reading is half a minute after the full minute.

- fridge: 60 W all day, on 25 and 26 October 2025 (the second of 25 hours) and from 27 March 2026
  on (the 29th of 23 hours), but for an outage on the 28th, 10:00 to 12:00; and one hour on
  10 March 2025 and on 10 February 2026. Its meter counts 10 Wh every ten minutes.
- my.tv-1: 120 W in the first half of each hour, 2 W and switched off in the second; the same days.
- lamp: a switch that measures nothing, read from 06:00 on 30 March, but for 09:00 to 09:30.
- kitchen: a sensor of LoRaWAN, every ten minutes of the last two days.
- air: the same, for CO2 too; its battery is at 15 %.
- flash: tells the voltage of its battery.
- water: a meter that counts 2 pulses every ten minutes, and starts again at 0 on 29 March, 12:00.
"""

import base64
import json
import struct
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

from openenergy import topics

ZONE = ZoneInfo("Europe/Zurich")
MINUTE = timedelta(minutes=1)
Message = tuple[bytes, bytes]


def local(year: int, month: int, day: int, hour: int = 0, minute: int = 0) -> datetime:
    return datetime(year, month, day, hour, minute, tzinfo=ZONE)


NOW = datetime(2026, 3, 30, 12, 8, tzinfo=ZONE)
WEEKEND = (local(2025, 10, 25), local(2025, 10, 27))
LAST_DAYS = (local(2026, 3, 27), NOW)
SPRING = (local(2025, 3, 10, 10), local(2025, 3, 10, 11))
WINTER = (local(2026, 2, 10, 10), local(2026, 2, 10, 11))
OUTAGE = (local(2026, 3, 28, 10), local(2026, 3, 28, 12))
METER_RESET = local(2026, 3, 29, 12)
# What Grafana's variables offer, and what "All" stands for.
ALL: dict[str, str | list[str]] = {
    "switch": ["fridge", "lamp", "my.tv-1"],
    "sensor": ["air", "flash", "kitchen", "water"],
}


def minutes(begin: datetime, end: datetime, every: int = 1) -> Iterator[datetime]:
    """Yield the middle of every so manieth minute, by the clock on no wall."""
    time = begin.astimezone(UTC) + MINUTE / 2
    while time < end.astimezone(UTC):
        yield time
        time += every * MINUTE


def reading(switch: str, quantity: str, value: float, time: datetime) -> Message:
    return (
        topics.measurement_topic("@update", switch, quantity).encode(),
        topics.encode_measurement(quantity, value, round(time.timestamp() * 1000)),
    )


def plug_messages() -> Iterator[Message]:
    yield from _fridge()
    yield from _tv()
    for time in minutes(local(2026, 3, 30, 6), NOW):
        if not local(2026, 3, 30, 9) <= time < local(2026, 3, 30, 9, 30):
            yield reading("lamp", "relay", 1, time)
    yield from _online()


def _fridge() -> Iterator[Message]:
    counted = 0
    for span in (SPRING, WEEKEND, WINTER, LAST_DAYS):
        for number, time in enumerate(minutes(*span)):
            if OUTAGE[0] <= time < OUTAGE[1]:
                continue
            yield reading("fridge", "power", 60, time)
            yield reading("fridge", "relay", 1, time)
            if number % 10 == 0:
                counted += 10
                yield reading("fridge", "energy", counted, time)
                yield reading("fridge", "average_power", 60, time)
                yield reading("fridge", "temperature", 21.5, time)


def _tv() -> Iterator[Message]:
    for span in (WEEKEND, LAST_DAYS):
        for time in minutes(*span):
            is_on = time.minute < 30
            yield reading("my.tv-1", "power", 120 if is_on else 2, time)
            yield reading("my.tv-1", "relay", is_on, time)


def _online() -> Iterator[Message]:
    for name, value, time in (
        ("fridge", 1, LAST_DAYS[0]),
        ("my.tv-1", 1, LAST_DAYS[0]),
        ("plug_2_mqtt-pi", 1, LAST_DAYS[0]),
        ("fridge", 0, OUTAGE[0]),
        ("fridge", 1, OUTAGE[1]),
        ("lamp", 1, local(2026, 3, 30, 6)),
        ("lamp", 0, local(2026, 3, 30, 9)),
        ("lamp", 1, local(2026, 3, 30, 9, 30)),
    ):
        yield reading(name, "online", value, time)


LOW_BATTERY = 0x02  # a bit of the second byte of Adeunis' frames
# A report of NKE Flash'O: its disposable battery has 3.6 V.
FLASH = bytes.fromhex("110a 0050 0006 41 05 01 04 0e10 04")
# Decoders as a user of LoRaWAN configures them.
LORAWAN = {
    "topics": ["application/+/device/+/event/+"],
    "devices": [
        {"dev_eui": "00000000000000a*", "decoder": "cayenne_lpp"},
        {"dev_eui": "00000000000000b*", "decoder": "adeunis/comfortCo2"},
        {"dev_eui": "00000000000000c*", "decoder": "adeunis/pulse4"},
        {"dev_eui": "00000000000000d*", "decoder": "flasho"},
    ],
}


def sensor_messages() -> Iterator[Message]:
    """Yield uplinks as ChirpStack 4 publishes them."""
    count = 0
    for number, time in enumerate(minutes(NOW - timedelta(days=2), NOW, every=10)):
        # Two channels of temperature (2 x 0x67, tenths) and one of humidity (0x68, halves of a %).
        frame = bytes.fromhex("016700d7 026700c8 03685a")
        yield uplink("00000000000000a1", "kitchen", number, time, frame)
        yield uplink("00000000000000b1", "air", number, time, comfort(co2=800))
        count = 0 if count and time - 10 * MINUTE < METER_RESET <= time else count + 2
        yield uplink("00000000000000c1", "water", number, time, meter(count))
        yield uplink("00000000000000d1", "flash", number, time, FLASH, port=125)
    yield status("00000000000000b1", "air", 15, NOW - timedelta(hours=3))


def comfort(co2: int, *, is_low: bool = False) -> bytes:
    """Return frame 0x6A of Adeunis COMFORT CO2: 21.5 C, 45 %; `is_low` is its battery."""
    return struct.pack(">BBhBH", 0x6A, LOW_BATTERY if is_low else 0, 215, 45, co2)


def meter(count: int) -> bytes:
    """Return frame 0x5A of Adeunis PULSE V4, whose battery is low."""
    return struct.pack(">BBI", 0x5A, LOW_BATTERY, count)


def status(dev_eui: str, name: str, battery_level: float, time: datetime) -> Message:
    """Return the event in which ChirpStack tells of a device's battery, %."""
    event = {
        "time": time.isoformat(),
        "deviceInfo": {"applicationName": "home", "deviceName": name, "devEui": dev_eui},
        "batteryLevel": float(battery_level),
        "margin": 10,
    }
    return f"application/1/device/{dev_eui}/event/status".encode(), json.dumps(event).encode()


def uplink(  # noqa: PLR0913 - each by its place
    dev_eui: str, name: str, count: int, time: datetime, data: bytes, *, port: int = 1
) -> Message:
    """Return an uplink of a frame."""
    event = {
        "deduplicationId": f"{dev_eui}-{count}",
        "time": time.isoformat(),
        "deviceInfo": {"applicationName": "home", "deviceName": name, "devEui": dev_eui},
        "fCnt": count,
        "fPort": port,
        "data": base64.b64encode(data).decode(),
        "rxInfo": [{"gatewayId": f"gateway-{count % 2}", "rssi": -80 - count % 2, "snr": 7.5}],
        "txInfo": {"frequency": 868100000, "modulation": {"lora": {"spreadingFactor": 7}}},
    }
    return f"application/1/device/{dev_eui}/event/up".encode(), json.dumps(event).encode()
