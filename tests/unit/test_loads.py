"""The loads of simulated switches are what they claim to be, and their energy is exact."""

import itertools
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from demo.loads import LOADS, Load, Meter, constant, fridge, lamp, room_temperature, washing_machine

DAY = 86400
SEEDS = range(20)


@st.composite
def curves(draw: st.DrawFn) -> Load:
    """Return a curve with a knot at most every second, steps among them."""
    pieces = draw(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 3680)), min_size=1))
    times = itertools.accumulate((seconds for seconds, _ in pieces), initial=0)
    watts = [draw(st.integers(0, 3680)), *(watts for _, watts in pieces)]
    knots = [*zip(times, watts, strict=True)]
    last_time, last_watts = knots[-1]
    return Load([*knots, (last_time + 1, last_watts)], offset=draw(st.integers(0, 100)))


def joules_of_power(load: Load, start: float, end: float, step: float) -> float:
    """Add up `load.power` in the middle of each step: exact while no knot lies within one."""
    steps = round((end - start) / step)
    return sum(load.power(start + (i + 0.5) * step) for i in range(steps)) * step


@settings(deadline=None)
@given(curves(), st.integers(0, 200), st.integers(0, 200))
def test_energy_is_the_integral_of_power(load: Load, start: int, seconds: int) -> None:
    expected = joules_of_power(load, start, start + seconds, step=1)
    assert load.energy(start, start + seconds) == pytest.approx(expected, rel=1e-9, abs=1e-6)


@settings(deadline=None)
@given(curves(), st.lists(st.floats(0, 1e6), min_size=2, max_size=10))
def test_energy_does_not_depend_on_how_often_it_is_asked_for(
    load: Load, times: list[float]
) -> None:
    times.sort()
    asked_often = sum(load.energy(start, end) for start, end in itertools.pairwise(times))
    assert asked_often == pytest.approx(load.energy(times[0], times[-1]), rel=1e-6, abs=1e-3)


@pytest.mark.parametrize("name", LOADS)
def test_a_household_load_is_the_same_for_the_same_seed_alone(name: str) -> None:
    def course(seed: int) -> list[float]:
        load = LOADS[name](seed)
        return [load.power(second) for second in range(0, DAY, 60)]

    assert course(1) == course(1)
    assert course(1) != course(2)


@pytest.mark.parametrize("name", LOADS)
def test_a_household_load_is_possible_at_any_second_and_its_energy_true(name: str) -> None:
    for seed in SEEDS:
        load = LOADS[name](seed)
        assert all(0 <= load.power(second) <= 3680 for second in range(0, DAY, 37))
        expected = joules_of_power(load, 0, 7200, step=0.25)
        # An inrush of a second and the steps of a drum lie within the steps of the sum.
        assert load.energy(0, 7200) == pytest.approx(expected, rel=2e-3)


def test_a_fridge_cycles() -> None:
    for seed in SEEDS:
        load = fridge(seed)
        powers = [load.power(second) for second in range(0, DAY, 5)]
        running = [power > 50 for power in powers]
        starts = sum(now and not before for before, now in itertools.pairwise(running))
        assert 24 < starts < 60
        assert 0.2 < sum(running) / len(running) < 0.5
        assert 0.5 < load.energy(0, DAY) / 3.6e6 < 1.5  # kWh a day
        assert min(powers) < 2


def test_a_lamp_shines_evenly() -> None:
    for seed in SEEDS:
        load = lamp(seed)
        powers = [load.power(second) for second in range(0, DAY, 60)]
        assert 4.9 < min(powers) <= max(powers) < 12.5
        assert max(powers) < 1.06 * min(powers)


def test_a_washing_machine_heats_turns_spins_and_rests() -> None:
    for seed in SEEDS:
        load = washing_machine(seed)
        powers = [load.power(second) for second in range(4800)]
        assert 7 * 60 < sum(power > 1800 for power in powers) < 17 * 60
        assert sum(300 < power < 500 for power in powers) > 5 * 60
        assert sum(power < 3 for power in powers) > 10 * 60
        assert 0.4 < load.energy(0, 4800) / 3.6e6 < 0.9  # kWh


@pytest.mark.parametrize(
    ("knots", "offset"),
    [
        ([], 0),
        ([(0, 5)], 0),
        ([(1, 5), (2, 5)], 0),
        ([(0, 5), (2, 5), (1, 5)], 0),
        ([(0, 5), (1, -5)], 0),
        ([(0, 5), (1, float("nan"))], 0),
        ([(0, 5), (float("inf"), 5)], 0),
        ([(0, 5), (1, 5)], -1),
    ],
)
def test_an_impossible_load_is_refused(knots: list[tuple[float, float]], offset: float) -> None:
    with pytest.raises(ValueError, match="load"):
        Load(knots, offset)


def test_rooms_are_of_a_temperature_to_live_in() -> None:
    degrees = [room_temperature(seed, time) for seed in SEEDS for time in range(0, DAY, 600)]
    assert 17 < min(degrees) < max(degrees) < 25


def test_an_open_relay_lets_no_energy_through() -> None:
    meter = Meter(constant(100), 50.0, relay=True)
    meter.advance(60.0)
    meter.relay = False
    meter.advance(90.0)
    assert (meter.power(), meter.energy) == (0, 1000)
    meter.relay = True
    meter.advance(91.0)
    assert (meter.power(), meter.energy) == (100, 1100)


def test_mean_power_is_that_since_the_previous_call() -> None:
    meter = Meter(constant(100), 0.0, relay=True)
    meter.advance(10.0)
    assert meter.mean_power() == 100
    meter.relay = False
    meter.advance(13.0)
    meter.relay = True
    meter.advance(14.0)
    assert meter.mean_power() == 25
    assert meter.mean_power() == 100  # no time has passed: the power of the moment


@pytest.mark.parametrize("late", [0.0, 0.5, 500.0])
def test_planned_switching_happens_at_its_moment_however_late_one_looks(late: float) -> None:
    meter = Meter(constant(100), 0.0, relay=True)
    meter.switch_for(30, relay=False)
    meter.advance(30 + late)
    assert meter.relay
    assert meter.energy == pytest.approx(100 * late)


@pytest.mark.parametrize(
    "forget", [Meter.cancel, lambda meter: meter.restart(10.0)], ids=["cancel", "restart"]
)
def test_planned_switching_can_be_forgotten(forget: Callable[[Meter], None]) -> None:
    meter = Meter(constant(100), 0.0, relay=True)
    meter.switch_for(30, relay=False)
    meter.advance(10.0)
    forget(meter)
    meter.advance(100.0)
    assert not meter.relay


def test_a_restart_begins_at_zero() -> None:
    meter = Meter(constant(100), 0.0, relay=True)
    meter.advance(10.0)
    meter.restart(10.0)
    assert (meter.energy, meter.started) == (0, 10)
    meter.advance(12.0)
    assert meter.energy == 200
    assert meter.mean_power() == 100
