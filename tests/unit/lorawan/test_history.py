"""Every sample gets one time, whichever frame brings it, near the moment when it was taken."""

import json
import random
from collections import defaultdict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openenergy.lorawan.history import LONGEST_PERIOD, History
from openenergy.lorawan.sample import Decoded, Sample

DEVICE = "0018b240010a3ce1"
START = 1_750_000_000_000
MINUTE = 60_000


def frame(numbers: list[int], series: str = "57") -> Decoded:
    """Return a frame that brings these samples, newest first; a sample's value is its number."""
    samples = [Sample("temperature", number, "C", "1", age) for age, number in enumerate(numbers)]
    return Decoded(tuple(samples), series)


def told(period: float) -> Decoded:
    return Decoded((), periods={"57": period})


def times(history: History, numbers: list[int], received: int, period: float = 0) -> list[int]:
    return [time for _, time in history.times(DEVICE, frame(numbers), received, period)]


def restarted(history: History) -> History:
    return History(json.loads(json.dumps(history.dump())))


def test_samples_are_one_period_apart() -> None:
    assert times(History(), [9, 8, 7], START, 900) == [
        START,
        START - 15 * MINUTE,
        START - 30 * MINUTE,
    ]


def test_repeated_samples_keep_their_times_and_a_lost_frame_leaves_no_gap() -> None:
    history = History()
    first = times(history, [2, 1, 0], START, 900)
    later = times(history, [6, 5, 4, 3, 2], START + 4 * 15 * MINUTE + 2718, 900)
    assert later[-1] == first[0]
    assert later == [START + slot * 15 * MINUTE for slot in (4, 3, 2, 1, 0)]


def test_the_devices_own_word_goes_before_the_configuration() -> None:
    history = History()
    assert history.times(DEVICE, told(900), START, 3600) == []
    assert times(history, [1, 0], START, 3600) == [START, START - 15 * MINUTE]


def test_without_a_period_only_the_newest_sample_has_a_time() -> None:
    assert times(History(), [2, 1, 0], START) == [START]


@pytest.mark.parametrize("period", [0, -1, LONGEST_PERIOD + 1, 65535 * 65535 * 2.0])
def test_a_senseless_period_is_none(period: float) -> None:
    history = History()
    history.times(DEVICE, told(period), START)
    assert times(history, [2, 1, 0], START) == [START]


def test_a_frame_without_rhythm_is_dated_when_it_came() -> None:
    history = History()
    times(history, [0], START, 900)
    alarm = Decoded((Sample("temperature", 30, "C"), Sample("battery_low", 0)))
    received = START + 7 * MINUTE
    assert [time for _, time in history.times(DEVICE, alarm, received, 900)] == [received] * 2


def test_a_new_period_begins_a_new_grid() -> None:
    history = History()
    history.times(DEVICE, told(900), START)
    times(history, [1, 0], START)
    history.times(DEVICE, told(600), START + MINUTE)
    assert times(history, [1, 0], START + 7 * MINUTE) == [START + 7 * MINUTE, START - 3 * MINUTE]


def test_asking_for_the_configuration_moves_no_sample() -> None:
    history = History()
    history.times(DEVICE, told(900), START)
    times(history, [1, 0], START)
    history.times(DEVICE, told(900), START + MINUTE)
    assert times(history, [2, 1, 0], START + 15 * MINUTE + 3000)[1:] == [
        START,
        START - 15 * MINUTE,
    ]


def test_series_and_devices_do_not_disturb_each_other() -> None:
    history = History()
    times(history, [0], START, 3600)
    other_series = history.times(DEVICE, frame([0], "55"), START + MINUTE, 3600)
    other_device = history.times("0018b240010a3ce2", frame([0]), START + MINUTE, 3600)
    assert other_series[0][1] == other_device[0][1] == START + MINUTE
    assert times(history, [1], START + 60 * MINUTE + 1000, 3600) == [START + 60 * MINUTE]


def test_a_device_that_starts_anew_gets_a_new_grid() -> None:
    history = History()
    times(history, [1, 0], START, 900)
    received = START + 55 * MINUTE  # 5 minutes off the grid
    assert times(history, [4, 3], received, 900) == [received, received - 15 * MINUTE]
    assert times(history, [1, 0], START + 500, 900) == [START, START - 15 * MINUTE]


def test_a_frame_that_came_late_moves_no_sample_that_is_known() -> None:
    history = History()
    found = defaultdict(set)
    delays = [0, 240_000, 0, 2000, 300_000, 310_000, 1000]  # confirmed frames are sent again
    for number, delay in enumerate(delays):
        newest = 4 * number
        received = START + newest * 15 * MINUTE + delay
        numbers = list(range(newest, newest - 8, -1))
        for sample, time in history.times(DEVICE, frame(numbers), received, 900):
            found[sample.value].add(time)
    assert all(len(slots) == 1 for slots in found.values())
    assert len({time for slots in found.values() for time in slots}) == len(found)


def test_a_message_from_before_is_put_where_it_belongs() -> None:
    history = History()
    times(history, [0], START, 900)
    times(history, [8, 7], START + 8 * 15 * MINUTE, 900)
    assert times(history, [4, 3, 2], START + 4 * 15 * MINUTE + 2000, 900) == [
        START + slot * 15 * MINUTE for slot in (4, 3, 2)
    ]


def test_a_clock_that_drifts_for_a_year_is_followed() -> None:
    history, noise = History(), random.Random(7)
    step = 3_600_000
    seen: dict[float, int] = {}
    for number in range(365 * 24):
        taken = START + number * step + number * 150  # 42 ppm: 3.6 s a day
        received = taken + noise.randrange(3000)
        numbers = [number, number - 1, number - 2]
        for sample, time in history.times(DEVICE, frame(numbers), received, 3600):
            assert seen.setdefault(sample.value, time) == time
        assert abs(seen[number] - taken) <= 66_000
    assert len(set(seen.values())) == len(seen)


def test_what_must_be_saved() -> None:
    history = History()
    history.times(DEVICE, told(900), START)
    assert history.revision == 1
    times(history, [0], START)
    assert history.revision == 2
    times(history, [1, 0], START + 15 * MINUTE + 1000)
    history.times(DEVICE, told(900), START)
    assert history.revision == 2
    times(history, [2], START + 38 * MINUTE)
    assert history.revision == 3


def test_the_state_of_a_device_is_small() -> None:
    history = History()
    for number in range(100):
        times(history, [number], START + number * 22 * MINUTE, 900)
    assert len(json.dumps(history.dump())) < 400


@pytest.mark.parametrize(
    "state",
    [
        [],
        "text",
        {"a": 1},
        {"a": {"57": {"period": "1"}}},
        {"a": {"57": {"origins": [1.5]}}},
        {"a": {"57": {"step": 0, "origins": [5]}}},
        {"a": {"57": {"step": 5, "origins": [5, 2]}}},
    ],
)
def test_a_state_that_is_none_of_ours_is_refused(state: object) -> None:
    with pytest.raises(ValueError, match=r"Expected|grid"):
        History(state)


@settings(max_examples=300, deadline=None)
@given(
    step=st.sampled_from([60, 600, 900, 3600, 86_400]),
    per_frame=st.integers(1, 6),
    repeated=st.integers(0, 6),
    drift=st.integers(-50, 50),
    seed=st.integers(0, 10**6),
    lost=st.sets(st.integers(0, 30)),
    again=st.sets(st.integers(0, 30)),
    restarts=st.sets(st.integers(0, 30)),
)
def test_any_device(  # noqa: PLR0913, PLR0917 - a device has so many ways
    step: int,
    per_frame: int,
    repeated: int,
    drift: int,
    seed: int,
    lost: set[int],
    again: set[int],
    restarts: set[int],
) -> None:
    """Lost, repeated and delayed frames, a drifting clock (ppm), our own restarts."""
    history, noise = History(), random.Random(seed)
    seen: dict[float, int] = {}
    taken = {}
    for number in range(30):
        newest = (number + 1) * per_frame
        for each in range(newest - per_frame + 1, newest + 1):
            taken[each] = START + round(each * step * 1000 * (1 + drift / 1e6))
        received = taken[newest] + noise.randrange(3000)
        if number in lost:
            continue
        if number in restarts:
            history = restarted(history)
        numbers = [n for n in range(newest, newest - per_frame - repeated, -1) if n > 0]
        for _ in range(2 if number in again else 1):
            for sample, time in history.times(DEVICE, frame(numbers), received, step):
                assert seen.setdefault(sample.value, time) == time, "stored twice"
    assert len(set(seen.values())) == len(seen), "one sample hides another"
    assert all(abs(time - taken[int(number)]) <= 66_000 for number, time in seen.items())
