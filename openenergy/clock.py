"""Which times can be believed: a Raspberry Pi has no clock while it is off.

Until the network has set it, its clock stands at 1970, at the build date of systemd, or at the
last shutdown. systemd's time-sync.target helps with the last; the others are recognised here.
"""

import time
from datetime import UTC, datetime
from typing import Final

from openenergy.topics import PayloadError

# Our own clock is not set while it shows a time before this program existed.
RELEASED_MS: Final = int(datetime(2026, 11, 1, tzinfo=UTC).timestamp() * 1000)
# Others may bring older measurements, yet none from before these sensors existed.
EARLIEST_MS: Final = int(datetime(2020, 1, 1, tzinfo=UTC).timestamp() * 1000)
# A sender's clock may be ahead of ours by so much.
LATEST_AHEAD_MS: Final = 3_600_000


def now_ms() -> int:
    """Return milliseconds since 1970 UTC, by our own clock, set or not."""
    return time.time_ns() // 1_000_000


def is_set() -> bool:
    """Whether our own clock has been set since the machine was started."""
    return now_ms() >= RELEASED_MS


def now_if_set_ms() -> int | None:
    """Return the time to stamp a message of ours with, None while there is none to believe."""
    return now_ms() if is_set() else None


def time_of(measured_ms: int | None, arrival_ms: int) -> int:
    """Return when a measurement was made, in ms since 1970 UTC: as it says, else on its arrival.

    Raises PayloadError for a time that only a wrong clock can have made, the sender's or ours.
    """
    if measured_ms is None:
        if arrival_ms < RELEASED_MS:
            raise PayloadError("it has no time, and our clock is not set yet")
        return arrival_ms
    if measured_ms < EARLIEST_MS:
        raise PayloadError("its time is before 2020: the sender's clock was not set")
    if arrival_ms >= RELEASED_MS and measured_ms > arrival_ms + LATEST_AHEAD_MS:
        raise PayloadError("its time is more than an hour ahead of our clock")
    return measured_ms
