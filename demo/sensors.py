"""Simulated LoRaWAN sensors, and the network that brings their uplinks to the broker.

The sensors send the frames of real products: a sample every period, some of them in each frame,
older ones repeated. The network loses frames, delivers some twice, and publishes the rest as
ChirpStack 4 does. The same seed makes the same samples, losses and delays.
"""

import base64
import random
import struct
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import pairwise
from math import pi, sin
from typing import Any, Final, NamedTuple, Self

import msgspec
import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion

APPLICATION_ID: Final = "73ab4876-7734-47c1-87fd-e805ec99108d"
GATEWAYS: Final = ("b827ebfffe4a10c7", "30aea4fffe2f81b4")
# What Adeunis registers count in: the shortest period there is.
PERIOD_S: Final = 2
NEW_SAMPLES: Final = 2
REPEATED_SAMPLES: Final = 4
LOST: Final = 0.25
REDELIVERED: Final = 0.1
# Radio and server take so long (s) at least, and at most.
DELAY: Final = (0.1, 0.5)

Sample = dict[tuple[str, str], float]
"""Values by quantity and channel, measured at the same time."""


@dataclass(frozen=True)
class Sensor:
    """A device: what it measures in a slot of its clock, and its frames.

    `encode` takes samples, the newest first, and the number of the frame; `setup` is the frame
    that it begins with, if any.
    """

    name: str
    dev_eui: str
    decoder: str
    measure: Callable[[int], Sample]
    encode: Callable[[list[Sample], int], bytes]
    setup: bytes = b""
    samples_in_frame: int = NEW_SAMPLES + REPEATED_SAMPLES


def wave(seed: int, slot: int, middle: float, swing: float) -> float:
    """Return a value that swings slowly, with some noise, in tenths as a sensor tells it."""
    noise = random.Random(f"{seed}/{slot}").uniform(-0.1, 0.1)
    return round(middle + swing * (sin(2 * pi * slot / 300) + noise), 1)


def water_meter(slot: int) -> Sample:
    """Count the litres: a tap that is open for a minute, then closed for two."""
    rounds, rest = divmod(slot, 90)
    return {("pulses", "A"): 102_400.0 + 30 * rounds + min(rest, 30)}


def heating(slot: int) -> Sample:
    """Measure the pipes that come from the boiler and lead back."""
    supply = wave(1, slot, 52, 4)
    return {
        ("temperature", "1"): supply,
        ("temperature", "2"): round(supply - wave(2, slot, 9, 2), 1),
    }


def office(slot: int) -> Sample:
    """Measure the air of a room."""
    humidity = float(round(wave(3, slot, 45, 6)))
    return {("temperature", ""): wave(4, slot, 21.5, 1), ("humidity", ""): humidity}


def fridge(slot: int) -> Sample:
    """Measure inside a fridge."""
    return {("temperature", ""): wave(5, slot, 5, 1.5)}


# Adeunis frames begin with a code and a status: a counter of frames in its upper three bits.


def _adeunis(code: int, number: int, content: bytes, flags: int = 0) -> bytes:
    return bytes([code, number % 8 << 5 | flags]) + content


def pulse4(samples: list[Sample], number: int) -> bytes:
    """Return frame 0x5A of PULSE V4: the newest count, then how much less it was before."""
    counts = [int(sample["pulses", "A"]) for sample in samples]
    steps = [newer - older for newer, older in pairwise(counts)]
    return _adeunis(0x5A, number, struct.pack(f">I{len(steps)}H", counts[0], *steps))


def temp4(samples: list[Sample], number: int) -> bytes:
    """Return frame 0x57 of TEMP V4 with two probes, in tenths of a degree."""
    tenths = [round(10 * celsius) for sample in samples for celsius in sample.values()]
    return _adeunis(0x57, number, struct.pack(f">{len(tenths)}h", *tenths), flags=0x10)


def comfort2(samples: list[Sample], number: int) -> bytes:
    """Return frame 0x4C of COMFORT V2: tenths of a degree, percent."""
    pairs = [
        struct.pack(">hB", round(10 * celsius), int(percent))
        for celsius, percent in (tuple(sample.values()) for sample in samples)
    ]
    return _adeunis(0x4C, number, b"".join(pairs))


def lopy(samples: list[Sample], _number: int) -> bytes:
    """Return what `struct.pack` makes on the board."""
    return struct.pack("<f", samples[0]["temperature", ""])


_PERIOD = PERIOD_S // 2
# Frame 0x10: what the device is set to; it tells the period.
PULSE_SETUP: Final = _adeunis(
    0x10,
    0,
    struct.pack(
        ">BHBHBH6H5B", 1, NEW_SAMPLES, 0x01, _PERIOD, 0, 60, *[0] * 6, *[0] * 4, REPEATED_SAMPLES
    ),
)
SETUP: Final = _adeunis(
    0x10, 0, struct.pack(">4HB", 8640, NEW_SAMPLES, 1, _PERIOD, REPEATED_SAMPLES)
)

SENSORS: Final = [
    Sensor("water meter", "0018b24000000001", "adeunis/pulse4", water_meter, pulse4, PULSE_SETUP),
    Sensor("heating", "0018b24001000002", "adeunis/temp4", heating, temp4, SETUP),
    Sensor("office 214", "0018b24002000003", "adeunis/comfort2", office, comfort2, SETUP),
    Sensor("lab fridge", "70b3d54990000004", "lopy", fridge, lopy, samples_in_frame=1),
]


class Frame(NamedTuple):
    """What a sensor sends: in which slot, after which delay (s), and how often it is delivered."""

    slot: int
    data: bytes
    samples: list[Sample]
    delay_s: float
    deliveries: int


def frames(sensor: Sensor, seed: int) -> Iterator[Frame]:
    """Yield all frames of a sensor. The setup is repeated until it arrives: it is never lost."""
    chance = random.Random(f"{seed}/{sensor.dev_eui}")
    if sensor.setup:
        yield Frame(0, sensor.setup, [], chance.uniform(*DELAY), 1)
    number, slot = 1, NEW_SAMPLES - 1
    while True:
        ages = range(min(sensor.samples_in_frame, slot + 1))
        samples = [sensor.measure(slot - age) for age in ages]
        is_lost, is_redelivered = chance.random() < LOST, chance.random() < REDELIVERED
        deliveries = 0 if is_lost else 1 + is_redelivered
        data = sensor.encode(samples, number)
        yield Frame(slot, data, samples, chance.uniform(*DELAY), deliveries)
        number, slot = number + 1, slot + NEW_SAMPLES


def uplink_event(sensor: Sensor, frame: Frame, f_cnt: int, received_s: float) -> dict[str, Any]:
    """Return the event `up` of ChirpStack 4; the device's tag names the decoder."""
    moment = datetime.fromtimestamp(received_s, UTC).isoformat()
    chance = random.Random(f"{sensor.dev_eui}/{f_cnt}")
    return {
        "deduplicationId": str(uuid.UUID(int=chance.getrandbits(128), version=4)),
        "time": moment,
        "deviceInfo": {
            "tenantName": "ChirpStack",
            "applicationId": APPLICATION_ID,
            "applicationName": "demo",
            "deviceName": sensor.name,
            "devEui": sensor.dev_eui,
            "tags": {"decoder": sensor.decoder},
        },
        "devAddr": sensor.dev_eui[-8:],
        "adr": True,
        "dr": 5,
        "fCnt": f_cnt,
        "fPort": 1,
        "confirmed": False,
        "data": base64.b64encode(frame.data).decode(),
        "rxInfo": [
            {
                "gatewayId": gateway,
                "gwTime": moment,
                "rssi": chance.randint(-115, -60),
                "snr": chance.randint(-20, 40) / 4,
                "crcStatus": "CRC_OK",
            }
            for gateway in GATEWAYS[: chance.randint(1, 2)]
        ],
        "txInfo": {
            "frequency": 868100000,
            "modulation": {"lora": {"bandwidth": 125000, "spreadingFactor": 7}},
        },
    }


class Series(NamedTuple):
    """One value of one sensor."""

    sensor: Sensor
    quantity: str
    channel: str


class Network:
    """Publishes the sensors' uplinks in real time, from a thread of its own."""

    def __init__(self, host: str, port: int, seed: int = 1) -> None:
        """Connect to the broker."""
        self.sent = self.lost = 0
        self._seed = seed
        self._delivered: dict[Series, dict[int, float]] = {}
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._client = mqtt.Client(CallbackAPIVersion.VERSION2)
        self._client.connect(host, port)
        self._client.loop_start()
        self._thread = threading.Thread(target=self._run, name="network", daemon=True)

    def delivered(self) -> dict[Series, dict[int, float]]:
        """Return every sample that came through, in at least one frame, by time (ms)."""
        with self._lock:
            return {series: dict(samples) for series, samples in self._delivered.items()}

    def stop(self) -> None:
        """Publish no more."""
        self._ended.set()
        self._thread.join(10)
        self._client.disconnect()
        self._client.loop_stop()

    def __enter__(self) -> Self:
        """Start."""
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        """Stop."""
        self.stop()

    def _run(self) -> None:
        began_s = time.time()
        coming = [(sensor, frames(sensor, self._seed), 0) for sensor in SENSORS]
        due = [(next(each), sensor, each, f_cnt) for sensor, each, f_cnt in coming]
        while True:
            due.sort(key=lambda entry: entry[0].slot * PERIOD_S + entry[0].delay_s)
            frame, sensor, following, f_cnt = due.pop(0)
            received_s = began_s + frame.slot * PERIOD_S + frame.delay_s
            if self._ended.wait(max(0.0, received_s - time.time())):
                return
            self._deliver(sensor, frame, f_cnt, received_s)
            self._note(sensor, frame, began_s)
            due.append((next(following), sensor, following, f_cnt + 1))

    def _deliver(self, sensor: Sensor, frame: Frame, f_cnt: int, received_s: float) -> None:
        topic = f"application/{APPLICATION_ID}/device/{sensor.dev_eui}/event/up"
        payload = msgspec.json.encode(uplink_event(sensor, frame, f_cnt, received_s))
        for _ in range(frame.deliveries):
            self._client.publish(topic, payload, qos=1).wait_for_publish(10)

    def _note(self, sensor: Sensor, frame: Frame, began_s: float) -> None:
        with self._lock:
            self.sent += 1
            self.lost += not frame.deliveries
            for age, sample in enumerate(frame.samples if frame.deliveries else []):
                time_ms = round((began_s + (frame.slot - age) * PERIOD_S) * 1000)
                for (quantity, channel), value in sample.items():
                    series = Series(sensor, quantity, channel)
                    self._delivered.setdefault(series, {})[time_ms] = value
