"""A switch's meter never goes back, whatever is restarted."""

import math
import sqlite3
import threading
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from openenergy.meter import Meter, MeterStore, advance
from openenergy.mystrom import MAX_ENERGY_WS

BOOT_IDS = st.sampled_from(["A425D9AD", "389A7653", "00000000"])
ENERGIES = st.floats(0, MAX_ENERGY_WS) | st.integers(0, 1000).map(float)


def test_a_meter_begins_with_what_the_switch_counted_already() -> None:
    assert advance(None, "A425D9AD", 31719494.64) == Meter("A425D9AD", 0.0, 31719494.64)


def test_a_restart_of_the_switch_goes_on_from_the_total() -> None:
    meter = advance(None, "A425D9AD", 500.0)
    meter = advance(meter, "A425D9AD", 700.0)
    meter = advance(meter, "389A7653", 10.0)
    assert meter == Meter("389A7653", 700.0, 710.0)
    assert advance(meter, "389A7653", 25.5).total_ws == 725.5


def test_a_counter_that_goes_back_under_the_same_boot_id_is_a_new_start() -> None:
    meter = advance(Meter("A425D9AD", 0.0, 700.0), "A425D9AD", 10.0)
    assert meter.total_ws == 710.0
    assert advance(meter, "A425D9AD", 15.0).total_ws == 715.0


@given(st.lists(st.tuples(BOOT_IDS, ENERGIES)))
def test_a_meter_never_goes_back(readings: list[tuple[str, float]]) -> None:
    meter: Meter | None = None
    for boot_id, energy_ws in readings:
        advanced = advance(meter, boot_id, energy_ws)
        assert advanced.boot_id == boot_id
        assert math.isfinite(advanced.total_ws)
        assert advanced.total_ws >= energy_ws
        assert meter is None or advanced.total_ws >= meter.total_ws
        meter = advanced


@given(st.lists(st.lists(st.integers(0, 1000), min_size=1), min_size=1))
def test_nothing_that_was_counted_is_missing_or_counted_twice(boots: list[list[int]]) -> None:
    meter: Meter | None = None
    for number, increments in enumerate(boots):
        energy_ws = 0
        for increment in increments:
            energy_ws += increment
            meter = advance(meter, f"{number:08X}", energy_ws)
    assert meter is not None
    assert meter.total_ws == sum(map(sum, boots))


class MetersOfAHome(RuleBasedStateMachine):
    """Two switches that count, are restarted, and are read by a script that is restarted too."""

    switches = st.sampled_from(["fridge", "lamp"])

    def __init__(self) -> None:
        super().__init__()
        self.consumed = {"fridge": 0.0, "lamp": 0.0}  # since the first reading: what must be shown
        self.counter = {"fridge": 0.0, "lamp": 0.0}
        self.boots = {"fridge": 0, "lamp": 0}
        self.shown: dict[str, Meter] = {}
        self.folder = TemporaryDirectory()
        self.start_the_script()

    def start_the_script(self) -> None:
        self.store = MeterStore(Path(self.folder.name, "state", "some.meters"))
        self.meters = {switch: self.store.load(switch) for switch in self.consumed}

    @rule(switch=switches, ws=st.integers(0, 10_000))
    def read(self, switch: str, ws: int) -> None:
        self.counter[switch] += ws
        self.consumed[switch] += ws
        boot_id = f"{self.boots[switch]:08X}"
        meter = advance(self.meters[switch], boot_id, self.counter[switch])
        self.store.save(switch, meter)
        self.meters[switch] = self.shown[switch] = meter

    @rule(switch=switches)
    def restart_the_switch(self, switch: str) -> None:
        self.counter[switch] = 0.0
        self.boots[switch] += 1

    @rule()
    def restart_the_script(self) -> None:
        self.store.close()
        self.start_the_script()

    @invariant()
    def all_is_counted(self) -> None:
        for switch, meter in self.shown.items():
            assert meter.total_ws == self.consumed[switch]

    def teardown(self) -> None:
        self.store.close()
        self.folder.cleanup()


TestMetersOfAHome = MetersOfAHome.TestCase
TestMetersOfAHome.settings = settings(max_examples=20, stateful_step_count=20)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "some.meters"


def test_a_switch_that_was_never_read_has_no_meter(path: Path) -> None:
    with closing(MeterStore(path)) as store:
        assert store.load("plug") is None


def test_several_threads_may_save(path: Path) -> None:
    with closing(MeterStore(path)) as store:

        def save(switch: int) -> None:
            for reading in range(100):
                store.save(f"{switch}", Meter("A425D9AD", 0.0, float(reading)))

        threads = [threading.Thread(target=save, args=(switch,)) for switch in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert all(store.load(f"{switch}") == Meter("A425D9AD", 0.0, 99.0) for switch in range(8))


def test_a_damaged_file_is_put_aside(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path.parent.mkdir()
    path.write_bytes(b"not a database " * 1000)
    with closing(MeterStore(path)) as store:
        store.save("plug", Meter("A425D9AD", 0.0, 5.0))
        assert store.load("plug") == Meter("A425D9AD", 0.0, 5.0)
    (aside,) = path.parent.glob("some.meters.damaged-*")
    assert aside.read_bytes().startswith(b"not a database")
    (message,) = caplog.messages
    assert message.startswith(f"{path} is damaged")
    assert str(aside) in message


def test_a_file_that_takes_nothing_is_one_error_and_stops_no_reading(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with closing(MeterStore(path)) as store, closing(sqlite3.connect(path)) as other:
        other.execute("DROP TABLE meter")
        for reading in range(3):
            store.save("plug", Meter("A425D9AD", 0.0, float(reading)))
        (message,) = caplog.messages
        assert message.startswith(f"{path}: no such table: meter")
        other.execute("CREATE TABLE meter (switch TEXT PRIMARY KEY, a TEXT, b REAL, c REAL)")
        store.save("plug", Meter("A425D9AD", 0.0, 5.0))
        assert other.execute("SELECT * FROM meter").fetchall() == [("plug", "A425D9AD", 0.0, 5.0)]
