"""Gives each buffered sample its own time, on the grid on which the device takes its samples.

A frame brings its newest sample and older ones, each one period earlier, some of them repeated
from frames before. Frames arrive some seconds after their newest sample, never equally many, and
the device's clock drifts. A sample must get the same time whichever frame brings it, else it is
stored twice. So the first frame fixes a grid, later frames only tell which of its slots are new;
and when they stray from it (drift, a restart of the device), a new grid begins with the new slots,
while older samples keep their slots on the grid before.
"""

from bisect import bisect_right
from typing import Any, Final

import msgspec
from msgspec import Struct

from openenergy.lorawan.sample import Decoded, Sample

# How far, in ms, a frame may be from the grid: radio and server delay it by seconds, and a
# device's crystal drifts by some seconds a day.
LEAST_TOLERANCE: Final = 5_000
MOST_TOLERANCE: Final = 60_000
TOLERANCE_PER_PERIOD: Final = 50
# Longer periods (s) than this come from senseless settings.
LONGEST_PERIOD: Final = 31 * 86_400
# Grids that repeated samples may still belong to; a frame reaches back a few dozen slots.
GRIDS_KEPT: Final = 8
# Nobody has more; a sender that makes devices up must not fill the memory.
DEVICES_KEPT: Final = 20_000


class Series(Struct):
    """The grids of one rhythm of a device, all times in ms.

    `period` is what the device told, 0 if nothing; `step` what the grids have. Each grid begins
    with a slot in `origins`, in order of time. `latest` is the last slot that got a sample.
    """

    period: int = 0
    step: int = 0
    origins: list[int] = []
    latest: int = 0

    def __post_init__(self) -> None:
        """Refuse a state that cannot be ours."""
        if self.origins and (self.step <= 0 or self.origins != sorted(self.origins)):
            raise ValueError("no grid has these slots")

    def place(self, time: int, step: int) -> bool:
        """Make sure that a grid fits a frame of this time; return whether it took a new one."""
        is_new = step != self.step or not self.origins
        if is_new:
            self.step, self.origins, self.latest = step, [time], time
        elif time > self.latest and abs(time - self.slot(time)) > self._tolerance():
            is_new = True
            new_slots = max(1, round((time - self.latest) / step))
            self.origins = [*self.origins, time - (new_slots - 1) * step][-GRIDS_KEPT:]
        self.latest = max(self.latest, self.slot(time))
        return is_new

    def slot(self, time: int) -> int:
        """Return the slot nearest to `time`, on the last grid that had begun by then."""
        grid = bisect_right(self.origins, time + self.step // 2) - 1
        origin = self.origins[max(grid, 0)]
        return origin + (time - origin + self.step // 2) // self.step * self.step

    def _tolerance(self) -> int:
        return min(max(LEAST_TOLERANCE, self.step // TOLERANCE_PER_PERIOD), MOST_TOLERANCE)


class History:
    """The rhythms of all devices, by DevEUI and series.

    `revision` grows whenever something changes that must not be lost: a period that a device told
    (it does so only when it starts), or a grid. What else changes can be found again.
    """

    def __init__(self, state: Any = None) -> None:
        """Start with what `dump` once returned; raises ValueError for anything else."""
        plain = {} if state is None else state
        self._devices = msgspec.convert(plain, dict[str, dict[str, Series]])
        self.revision = 0

    def dump(self) -> dict[str, Any]:
        """Return the state as plain data, fit for JSON."""
        plain: dict[str, Any] = msgspec.to_builtins(self._devices)
        return plain

    def times(
        self, dev_eui: str, decoded: Decoded, received: int, configured_period: float = 0
    ) -> list[tuple[Sample, int]]:
        """Return the samples that can be dated with their times, in ms.

        `received` is the time of the frame. `configured_period`, in s, counts while the device has
        not told its own. Without either, only the newest sample can be dated.
        """
        self._learn(dev_eui, decoded)
        if not decoded.series:
            return [(sample, received) for sample in decoded.samples]
        series = self._series(dev_eui, decoded.series)
        step = series.period or _milliseconds(configured_period)
        if not step:
            return [(sample, received) for sample in decoded.samples if sample.age == 0]
        if series.place(received, step):
            self.revision += 1
        return [(sample, series.slot(received - sample.age * step)) for sample in decoded.samples]

    def _learn(self, dev_eui: str, decoded: Decoded) -> None:
        for name, period in decoded.periods.items():
            series = self._series(dev_eui, name)
            told = _milliseconds(period)
            if series.period != told:
                series.period = told
                self.revision += 1

    def _series(self, dev_eui: str, name: str) -> Series:
        if dev_eui not in self._devices and len(self._devices) >= DEVICES_KEPT:
            del self._devices[next(iter(self._devices))]
        return self._devices.setdefault(dev_eui, {}).setdefault(name, Series())


def _milliseconds(period: float) -> int:
    return round(period * 1000) if 0 < period <= LONGEST_PERIOD else 0
