"""The simulated sensors' frames say what they measured, to the decoders that users configure."""

import itertools
import re

import pytest

from demo.sensors import LOST, NEW_SAMPLES, PERIOD_S, SENSORS, Frame, Sensor, frames, uplink_event
from openenergy.lorawan.decoders import DECODERS

EACH_SENSOR = pytest.mark.parametrize("sensor", SENSORS, ids=lambda sensor: sensor.name)
COUNT = 400


def first_frames(sensor: Sensor, seed: int = 1) -> list[Frame]:
    return list(itertools.islice(frames(sensor, seed), COUNT))


@EACH_SENSOR
def test_a_frame_says_what_was_measured(sensor: Sensor) -> None:
    for frame in first_frames(sensor):
        decoded = DECODERS[sensor.decoder](1, frame.data)
        found = {
            (sample.age, sample.quantity, sample.channel): sample.value
            for sample in decoded.samples
            if sample.quantity != "battery_low"
        }
        assert found == pytest.approx(
            {
                (age, quantity, channel): value
                for age, values in enumerate(frame.samples)
                for (quantity, channel), value in values.items()
            },
            rel=1e-6,
        )


@EACH_SENSOR
def test_the_first_frame_of_an_adeunis_device_tells_the_period(sensor: Sensor) -> None:
    setup, following = first_frames(sensor)[:2]
    if sensor.decoder.startswith("adeunis/"):
        periods = DECODERS[sensor.decoder](1, setup.data).periods
        series = DECODERS[sensor.decoder](1, following.data).series
        assert periods[series] == PERIOD_S
        assert setup.deliveries == 1


@EACH_SENSOR
def test_frames_are_lost_and_repeat_samples(sensor: Sensor) -> None:
    sent = [frame for frame in first_frames(sensor) if frame.samples]
    lost = sum(frame.deliveries == 0 for frame in sent)
    assert 0.5 * LOST < lost / len(sent) < 1.5 * LOST
    assert any(frame.deliveries == 2 for frame in sent)
    for before, after in itertools.pairwise(sent):
        assert after.slot - before.slot == NEW_SAMPLES
        if sensor.samples_in_frame > 1:
            assert after.samples[NEW_SAMPLES:] == before.samples[: len(after.samples) - NEW_SAMPLES]


def test_a_seed_makes_the_same_network_again() -> None:
    assert first_frames(SENSORS[0]) == first_frames(SENSORS[0])
    assert first_frames(SENSORS[0]) != first_frames(SENSORS[0], seed=2)


def test_an_uplink_of_several_deliveries_keeps_its_name() -> None:
    frame = first_frames(SENSORS[0])[0]
    one, again, other = (uplink_event(SENSORS[0], frame, f_cnt, 1.8e9) for f_cnt in (7, 7, 8))
    assert one == again
    assert one["deduplicationId"] != other["deduplicationId"]
    assert re.fullmatch(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", one["deduplicationId"])
