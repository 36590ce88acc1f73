"""What a frame says: samples of physical quantities, in the units of the README's table."""

from collections.abc import Mapping
from dataclasses import dataclass, field

# A quantity that is not measured: a setting, a state of the device, a name.
Info = str | int | float | bool


class DecodeError(Exception):
    """A frame that cannot be decoded; says in one line why."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One measured value.

    `channel` is named as on the device, "" where it has only one. `age` counts sampling periods
    before the frame: 0 is the newest.
    """

    quantity: str
    value: float
    unit: str = ""
    channel: str = ""
    age: int = 0


@dataclass(frozen=True, slots=True)
class Decoded:
    """What a frame says.

    `series` names the sampling rhythm that the samples belong to, and is "" for a frame that the
    device sends when it likes. `periods` maps series to seconds between two samples, where the
    frame tells it. `info` is everything else.
    """

    samples: tuple[Sample, ...]
    series: str = ""
    periods: Mapping[str, float] = field(default_factory=dict)
    info: Mapping[str, Info] = field(default_factory=dict)
