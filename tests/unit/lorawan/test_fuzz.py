"""Anything a network can bring gives a result or the one error, and nothing else.

Hypothesis draws seeds, each of ten cases: to build 10,000 documents it would need minutes.
"""

import copy
import itertools
import json
import math
import random
import string
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openenergy.lorawan import adeunis
from openenergy.lorawan.decoders import DECODERS
from openenergy.lorawan.events import Ignored, Status, Uplink, UplinkError
from openenergy.lorawan.history import History
from openenergy.lorawan.object_ import decode as decode_object
from openenergy.lorawan.sample import Decoded, DecodeError
from openenergy.lorawan.sensors import Point, Sensors, status_points
from openenergy.lorawan.uplink import parse
from tests.unit.lorawan import vectors

SETTINGS = settings(max_examples=1000, deadline=None, database=None)


def ten_random_cases(seed: int) -> list[random.Random]:
    return [random.Random(10 * seed + number) for number in range(10)]


DICE = st.integers(0, 2**63).map(ten_random_cases)
ARRIVAL = 1_800_000_000_000
CODES = sorted({code for model in adeunis.MODELS.values() for code in model.frames})


@SETTINGS
@given(DICE)
def test_random_bytes_to_every_decoder(cases: list[random.Random]) -> None:
    for dice, decode in itertools.product(cases, DECODERS.values()):
        data = dice.randbytes(dice.randrange(64))
        if dice.random() < 0.8:
            data = bytes([dice.choice(CODES)]) + data[:52]
        try:
            decoded = decode(dice.choice((1, 2, 125)), data)
        except DecodeError as error:
            assert_one_line(str(error))
        else:
            assert_sound(decoded)


def assert_one_line(text: str) -> None:
    assert text.isprintable()
    assert 0 < len(text) < 300


def assert_sound(decoded: Decoded) -> None:
    for sample in decoded.samples:
        assert isinstance(sample.value, float)
        assert math.isfinite(sample.value)
        assert 0 <= sample.age < 60
    assert all(period >= 0 for period in decoded.periods.values())
    json.dumps(dict(decoded.info), allow_nan=False)


def random_text(dice: random.Random) -> str:
    alphabet = string.printable + "é€\u2028\U0001f50c"
    return "".join(dice.choices(alphabet, k=dice.randrange(8)))


def random_json(dice: random.Random, depth: int = 3) -> Any:
    kind = dice.randrange(10 if depth else 7)
    if kind >= 7:
        count = dice.randrange(4)
        if kind == 7:
            return [random_json(dice, depth - 1) for _ in range(count)]
        return {random_text(dice): random_json(dice, depth - 1) for _ in range(count)}
    return dice.choice(
        (
            None,
            dice.random() < 0.5,
            dice.randrange(-5, 300),
            dice.choice((2**31, 2**64, -(2**63) - 1, 10**30, 10**400, -0.0, 1e308, 5e-324)),
            dice.uniform(-200, 200),
            random_text(dice),
            dice.choice(("", "AA==", "0018b240000a3c67", "ABiyQAAKPGc=", "2024-03-13T00:00:00Z")),
        )
    )


@SETTINGS
@given(DICE)
def test_random_objects_of_a_server(cases: list[random.Random]) -> None:
    for dice in cases:
        try:
            assert_sound(decode_object({random_text(dice): random_json(dice) for _ in range(3)}))
        except DecodeError as error:
            assert_one_line(str(error))


EVENTS = [event for event in vectors.load("uplinks.jsonl") if "payload" in event]


def paths(node: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the paths to all parts of a document."""
    if isinstance(node, dict):
        parts = node
    elif isinstance(node, list):
        parts = dict(enumerate(node))
    else:
        return [path]
    return [path, *(found for key, part in parts.items() for found in paths(part, (*path, key)))]


PATHS = {event["name"]: paths(event["payload"])[1:] for event in EVENTS}


def damage(dice: random.Random, event: dict[str, Any]) -> bytes:
    """Put anything in some places of a real message, or take parts of it away."""
    payload = copy.deepcopy(event["payload"])
    for path in dice.choices(PATHS[event["name"]], k=dice.choice((1, 1, 2, 5))):
        node = payload
        try:
            for key in path[:-1]:
                node = node[key]
            if dice.random() < 0.2:
                del node[path[-1]]
            else:
                node[path[-1]] = random_json(dice)
        except (KeyError, IndexError, TypeError):
            continue  # an earlier damage took this place away
    return json.dumps(payload).encode()


def assert_handled(topic: str, payload: bytes) -> None:
    """Parse a message and follow it to its points."""
    points: list[Point] = []
    try:
        event = parse(topic, payload)
    except UplinkError as error:
        assert_one_line(str(error))
        return
    match event:
        case Uplink():
            received = Sensors([], History()).receive(event, ARRIVAL)
            assert received.problem.isprintable()
            points = received.points
        case Status():
            points = status_points(event, ARRIVAL)
        case Ignored():
            assert event.note.isprintable()
    for measurement, tags, fields, time in points:
        assert measurement
        assert all(tags.values())
        assert all(math.isfinite(field) for field in fields.values())
        assert 1_500_000_000_000 < time <= ARRIVAL + 3_600_000


@pytest.mark.parametrize("server", ["chirpstack-v4", "chirpstack-v3", "ttn-v3"])
def test_real_messages_with_anything_in_any_place(server: str) -> None:
    events = [event for event in EVENTS if event["server"] == server]

    @SETTINGS
    @given(DICE)
    def check(cases: list[random.Random]) -> None:
        for dice in cases:
            event = dice.choice(events)
            assert_handled(event["topic"], damage(dice, event))

    check()


TOPICS = [
    "application/7/device/0018b240000a3c67/event/up",
    "application/7/device/0018b240000a3c67/event/status",
    "application/7/device/0018b240000a3c67/event/log",
    "v3/campus-building@ttn/devices/eui-0018b240000a3c67/up",
]


@SETTINGS
@given(DICE)
def test_random_json(cases: list[random.Random]) -> None:
    for dice in cases:
        assert_handled(dice.choice(TOPICS), json.dumps(random_json(dice)).encode())


@SETTINGS
@given(st.sampled_from(TOPICS) | st.text(max_size=60), st.binary(max_size=60))
def test_random_bytes_on_any_topic(topic: str, payload: bytes) -> None:
    assert_handled(topic, payload)
