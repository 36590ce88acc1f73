"""What hangs on a simulated plug: loads as pure functions of time, and the meter that counts them.

A load is made of straight lines, so its energy is exact however seldom anybody asks for it.
"""

import random
from bisect import bisect_right
from collections.abc import Callable, Sequence
from itertools import accumulate, pairwise
from math import isfinite, pi, sin

MINUTE = 60.0
HOUR = 3600.0
DAY = 86400.0


class Load:
    """Power over time: straight lines between knots, from the last one again as from the first.

    Knots are (s, W), beginning at 0 s; two knots at the same time are a step. `offset` (s, not
    negative) is how far into the curve time 0 lies. Raises ValueError for an impossible curve.
    """

    def __init__(self, knots: Sequence[tuple[float, float]], offset: float = 0.0) -> None:
        """Sum up the energy to each knot once, so that later questions cost no more than a look."""
        self._times = [time for time, _ in knots]
        self._watts = [watts for _, watts in knots]
        if not knots or self._times[0] != 0 or self._times[-1] <= 0 or offset < 0:
            raise ValueError("a load lasts from 0 s to its last knot, and its offset is positive")
        if any(later < earlier for earlier, later in pairwise(self._times)):
            raise ValueError("the knots of a load are in order of time")
        if not all(isfinite(value) and value >= 0 for knot in knots for value in knot):
            raise ValueError("the knots of a load are finite and not negative")
        self._joules = list(
            accumulate(
                ((w0 + w1) / 2 * (t1 - t0) for (t0, w0), (t1, w1) in pairwise(knots)), initial=0.0
            )
        )
        self._offset = offset

    def power(self, time: float) -> float:
        """W at `time` (s, not negative); on a step the value after it."""
        _, knot, into = self._locate(time)
        return self._watts[knot] + self._slope(knot) * into

    def energy(self, start: float, end: float) -> float:
        """J from `start` to `end` (s)."""
        return self._total(end) - self._total(start)

    def _total(self, time: float) -> float:
        rounds, knot, into = self._locate(time)
        line = (self._watts[knot] + self._slope(knot) * into / 2) * into
        return rounds * self._joules[-1] + self._joules[knot] + line

    def _locate(self, time: float) -> tuple[float, int, float]:
        """Return rounds completed, the last knot passed, and s since then."""
        rounds, time = divmod(time + self._offset, self._times[-1])
        knot = bisect_right(self._times, time) - 1
        return rounds, knot, time - self._times[knot]

    def _slope(self, knot: int) -> float:
        rise = self._watts[knot + 1] - self._watts[knot]
        return rise / (self._times[knot + 1] - self._times[knot])


class _Sketch:
    """Draws the knots of a load, stretch by stretch."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.knots: list[tuple[float, float]] = []
        self.time = 0.0

    def draw(self, seconds: float, first: float, last: float, ripple: float = 0.0) -> None:
        """Go from `first` to `last` W, straying by the share `ripple` every 20 s."""
        pieces = max(1, round(seconds / 20)) if ripple else 1
        for piece in range(pieces + 1):
            share = piece / pieces
            stray = 1 + self.random.uniform(-ripple, ripple)
            watts = first + (last - first) * share
            self.knots.append((self.time + seconds * share, watts * stray))
        self.time += seconds

    def load(self, latest_start: float) -> Load:
        """Give the curve drawn so far, time 0 being anywhere in its first `latest_start` s."""
        return Load(self.knots, offset=self.random.uniform(0, latest_start))


def constant(watts: float) -> Load:
    """Draw `watts`, always."""
    return Load([(0, watts), (HOUR, watts)])


def fridge(seed: int) -> Load:
    """Cycle as a fridge does: the compressor's inrush, its run getting lighter, then a rest."""
    sketch = _Sketch(seed)
    for _ in range(12):
        sketch.draw(1.5, sketch.random.uniform(450, 650), 96)
        sketch.draw(sketch.random.uniform(10, 16) * MINUTE, 96, 78, ripple=0.02)
        sketch.draw(sketch.random.uniform(18, 30) * MINUTE, 1.1, 1.1)
    return sketch.load(latest_start=sketch.time)


def lamp(seed: int) -> Load:
    """Shine as an LED lamp of 5 to 12 W: a little brighter while it is cold."""
    sketch = _Sketch(seed)
    watts = sketch.random.uniform(5, 12)
    sketch.draw(20 * MINUTE, watts * 1.03, watts, ripple=0.004)
    sketch.draw(5 * HOUR, watts, watts, ripple=0.004)
    return sketch.load(latest_start=0)


def washing_machine(seed: int) -> Load:
    """Wash: fill, heat with 2 kW, turn the drum to and fro, rinse, spin, and wait to be emptied."""
    sketch = _Sketch(seed)
    heater = sketch.random.uniform(1950, 2150)
    sketch.draw(2 * MINUTE, 7, 7, ripple=0.05)
    sketch.draw(sketch.random.uniform(11, 16) * MINUTE, heater * 1.01, heater, ripple=0.005)
    _turn_drum(sketch, turns=80)
    for _ in range(3):
        sketch.draw(MINUTE, 32, 32, ripple=0.05)
        _turn_drum(sketch, turns=15)
    sketch.draw(2 * MINUTE, 90, 480, ripple=0.03)
    sketch.draw(6 * MINUTE, 430, 410, ripple=0.03)
    sketch.draw(30 * MINUTE, 1.9, 1.9)
    return sketch.load(latest_start=5 * MINUTE)


def _turn_drum(sketch: _Sketch, turns: int) -> None:
    for _ in range(turns):
        sketch.draw(12, sketch.random.uniform(240, 280), sketch.random.uniform(170, 210))
        sketch.draw(5, 6, 6)


LOADS: dict[str, Callable[[int], Load]] = {
    "fridge": fridge,
    "lamp": lamp,
    "washing_machine": washing_machine,
}


def room_temperature(seed: int, time: float) -> float:
    """Degrees C of a room between 18 and 24 degrees, coldest a quarter of a day before `time` 0."""
    return 19.5 + seed % 30 / 10 + 1.5 * sin(2 * pi * time / DAY)


class Meter:
    """The relay of a plug, and the energy that has gone through it since the plug started.

    Times are those of any clock, in s, and must not go back.
    """

    def __init__(self, load: Load, time: float, *, relay: bool) -> None:
        """Start counting at `time`, which is the load's time 0."""
        self.relay = relay
        self._load = load
        self._origin = time
        self.restart(time)

    def restart(self, time: float) -> None:
        """Count from zero and forget planned switching, as after a start of the plug."""
        self.now = self.started = time
        self.energy = 0.0  # J
        self._window = (time, 0.0)
        self._planned: tuple[float, bool] | None = None

    def advance(self, time: float) -> None:
        """Count the energy up to `time`; what was planned for a moment before happens at it."""
        if self._planned and self._planned[0] <= time:
            moment, relay = self._planned
            self._planned = None
            self._count(moment)
            self.relay = relay
        self._count(time)

    def _count(self, time: float) -> None:
        if self.relay:
            self.energy += self._load.energy(self.now - self._origin, time - self._origin)
        self.now = time

    def switch_for(self, seconds: float, *, relay: bool) -> None:
        """Set the relay, and plan its reverse in place of what was planned."""
        self.relay = relay
        self._planned = (self.now + seconds, not relay)

    def cancel(self) -> None:
        """Forget planned switching."""
        self._planned = None

    def power(self) -> float:
        """W at the time advanced to."""
        return self._load.power(self.now - self._origin) if self.relay else 0.0

    def mean_power(self) -> float:
        """W on average since the previous call or the start; no time passed: the power now."""
        start, energy_then = self._window
        self._window = (self.now, self.energy)
        seconds = self.now - start
        return (self.energy - energy_then) / seconds if seconds > 0 else self.power()
