"""The plugs as they describe themselves on MQTT, for whoever shows or switches them."""

import logging
import threading
import time
from collections import deque
from collections.abc import Iterable
from typing import Final, NamedTuple

from openenergy import broker, clock, topics
from openenergy.topics import Action

QUANTITIES: Final = ("relay", "online", "power")
# Plugs that a broker can make us remember.
MAX_PLUGS: Final = 1000
# The clocks of the machine that reads the plugs and of ours differ by no more than this.
MAX_CLOCK_DIFFERENCE_MS: Final = 2000
# The course of a plug's power: ten minutes.
SAMPLE_EVERY_MS: Final = 3000
MAX_SAMPLES: Final = 200

log = logging.getLogger("plugs")


class State(NamedTuple):
    """What a plug said last; `power` in W, `time` of its last reading in ms since 1970 UTC.

    None is what it has not said yet.
    """

    name: str
    relay: Action | None = None
    online: bool | None = None
    power: float | None = None
    time: int | None = None


class Sent(NamedTuple):
    """When a command was sent: by a clock that nobody sets (s), and in ms since 1970 UTC."""

    monotonic_s: float
    unix_ms: int

    @classmethod
    def now(cls) -> "Sent":
        """Return the present moment."""
        return cls(time.monotonic(), clock.now_ms())


class _Report(NamedTuple):
    """That a relay is in some position: when we heard it, and when it was so."""

    heard_s: float
    measured_ms: int


class _Plug:
    """What one plug has said so far."""

    def __init__(self, name: str, lock: threading.Lock) -> None:
        self.state = State(name)
        self.changed = threading.Condition(lock)
        self.power = deque[tuple[int, float]](maxlen=MAX_SAMPLES)
        self._newest_ms: dict[str, int] = {}
        self._reports: dict[Action, _Report] = {}

    def take(self, quantity: str, measurement: topics.Measurement, *, is_retained: bool) -> None:
        """Take note of a measurement; a retained one shows a state, but reports nothing new."""
        time_ms = measurement.time
        if time_ms is None and not is_retained:
            time_ms = clock.now_ms()
        if time_ms is not None:
            if self._is_outdated(quantity, time_ms):
                return
            self._newest_ms[quantity] = time_ms
        match quantity:
            case "online":  # known of the plug, not read from it
                self.state = self.state._replace(online=bool(measurement.value))
                return
            case "power":
                self.state = self.state._replace(power=measurement.value)
                if time_ms is not None:
                    self._sample_power(time_ms, measurement.value)
            case "relay":
                relay = Action.CLOSE if measurement.value else Action.OPEN
                self.state = self.state._replace(relay=relay)
                if time_ms is not None and not is_retained:
                    self._reports[relay] = _Report(time.monotonic(), time_ms)
        self.state = self.state._replace(time=time_ms or self.state.time)

    def confirms(self, relay: Action, sent: Sent) -> bool:
        """Whether its relay was reported in this position since a command was sent."""
        report = self._reports.get(relay)
        return (
            report is not None
            and report.heard_s >= sent.monotonic_s
            and report.measured_ms >= sent.unix_ms - MAX_CLOCK_DIFFERENCE_MS
        )

    def _is_outdated(self, quantity: str, time_ms: int) -> bool:
        """Whether a newer one came before: readings kept while the broker was away come late.

        After a clock was ahead and set right, its next readings only seem to be older.
        """
        newest_ms = self._newest_ms.get(quantity, 0)
        return time_ms < min(newest_ms, clock.now_ms() - MAX_CLOCK_DIFFERENCE_MS)

    def _sample_power(self, time_ms: int, power: float) -> None:
        if time_ms > clock.now_ms() + MAX_CLOCK_DIFFERENCE_MS:
            return  # whoever asks for what came since would get nothing until then
        if not self.power or abs(time_ms - self.power[-1][0]) >= SAMPLE_EVERY_MS:
            self.power.append((time_ms, power))


class Plugs:
    """All plugs on the broker. A plug is what has reported a relay."""

    def __init__(self) -> None:
        """Know none yet."""
        self._lock = threading.Lock()
        self._plugs: dict[str, _Plug] = {}

    def take(self, messages: Iterable[broker.Message]) -> None:
        """Take note of measurements; called in the network thread."""
        with self._lock:
            for message in messages:
                try:
                    self._take(message)
                except topics.PayloadError as error:
                    log.debug("not a measurement: %.200s", error)

    def _take(self, message: broker.Message) -> None:
        name, quantity = topics.parse_measurement_topic(message.topic)
        measurement = topics.decode_measurement(message.payload)
        if name in self._plugs or len(self._plugs) < MAX_PLUGS:
            plug = self._plugs.setdefault(name, _Plug(name, self._lock))
            plug.take(quantity, measurement, is_retained=message.retain)
            plug.changed.notify_all()

    def state(self, name: str) -> State | None:
        """Return what a plug said last, None if it was never seen."""
        with self._lock:
            plug = self._plugs.get(name)
            return plug.state if plug and plug.state.relay else None

    def states(self) -> list[State]:
        """Return what every plug said last, by name."""
        with self._lock:
            return sorted(plug.state for plug in self._plugs.values() if plug.state.relay)

    def power_since(self, time_ms: int) -> dict[str, list[tuple[int, float]]]:
        """Return the course of every plug's power after a time, as (ms since 1970 UTC, W)."""
        with self._lock:
            return {
                name: [sample for sample in plug.power if sample[0] > time_ms]
                for name, plug in self._plugs.items()
                if plug.state.relay
            }

    def wait_until_reported(self, name: str, relay: Action, sent: Sent, timeout_s: float) -> bool:
        """Wait until a plug reports the position that a command asked for."""
        with self._lock:
            plug = self._plugs[name]
            return plug.changed.wait_for(lambda: plug.confirms(relay, sent), timeout_s)

    def summary(self) -> str:
        """Return the counts for systemd."""
        states = self.states()
        return f"{len(states)} plugs, {sum(state.online is True for state in states)} online"
