"""The database fails: its points wait on disk, and the broker is relieved of them meanwhile."""

import email.utils
import re
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import requests
from paho.mqtt.publish import multiple

from demo.parts import HOST, InfluxDB1, VictoriaMetrics
from demo.process import wait_until
from tests.fault_proxy import FaultProxy
from tests.integration.chain import running_chain
from tests.integration.running import warnings
from tests.publishing import Point, stored, wait_until_stored

LIMIT_MIB = 60


def peak_mib(pid: int) -> float:
    """Return the most memory that a process had resident so far (proc(5), VmHWM)."""
    status = Path(f"/proc/{pid}/status").read_text()
    (line,) = (line for line in status.splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) / 1024


@pytest.mark.parametrize("kind", [InfluxDB1, VictoriaMetrics])
def test_outage_of_100_000_messages(
    tmp_path: Path, kind: type[InfluxDB1] | type[VictoriaMetrics]
) -> None:
    """That is a hundred times what the broker keeps; memory stays as it is."""
    with kind(tmp_path / "database") as database:
        if isinstance(database, InfluxDB1):
            database.create_database("energy")
        with running_chain(tmp_path, database=database) as chain:
            chain.publisher.publish(500)
            chain.wait_until_stored()
            database.stop()
            chain.publisher.publish(100_000, rate=12_000)
            assert peak_mib(chain.writer.pid) < LIMIT_MIB
            log = chain.writer.log()
            assert re.search("takes no points: (it hung up|connection refused); keeping them", log)
            database.start()
            chain.writer.terminate()  # which need not be; but its next attempt might be 30 s away
            chain.restart_writer()
            chain.publisher.publish(500)
            chain.wait_until_stored(60)
            assert peak_mib(chain.writer.pid) < LIMIT_MIB


def test_memory_is_bounded_whatever_comes_while_the_spool_is_full(tmp_path: Path) -> None:
    with running_chain(tmp_path, Storage={"spool_size": 65536}) as chain:
        chain.proxy.refuse()
        chain.publisher.publish(2000, rate=2000)
        chain.writer.wait_for_log("ERROR .*full, at 65536 bytes")
        large = ("@update/large/monitoring/power", bytes(1024 * 1024), 1, False)
        multiple([large] * 200, hostname=HOST, port=chain.broker.port)
        last_mib = 0.0

        def has_taken_all_it_wants() -> bool:
            nonlocal last_mib
            before_mib, last_mib = last_mib, peak_mib(chain.writer.pid)
            return before_mib == last_mib > LIMIT_MIB

        wait_until(has_taken_all_it_wants, 30, "end of its growth", every=0.5)
        assert last_mib < LIMIT_MIB + 100
        chain.proxy.pass_through()
        chain.publisher.publish(100)
        chain.wait_until_stored()
        assert peak_mib(chain.writer.pid) < LIMIT_MIB + 100


def http_date(ahead_s: float) -> str:
    return email.utils.formatdate(time.time() + ahead_s, usegmt=True)


FAULTS: dict[str, Callable[[FaultProxy], None]] = {
    "refused": FaultProxy.refuse,
    "hangs": FaultProxy.hang,
    "swallows": FaultProxy.blackhole,
    "500": lambda proxy: proxy.answer(500, body=b'{"error": "out of luck"}'),
    "403": lambda proxy: proxy.answer(403, body=b'{"error": "\\"pi\\" not authorized"}'),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_database_fails(tmp_path: Path, fault: str) -> None:
    with running_chain(tmp_path, InfluxDB={"timeout": 1.0}) as chain:
        chain.publisher.publish(100)
        chain.wait_until_stored()
        FAULTS[fault](chain.proxy)
        chain.publisher.publish(1500, rate=1500)
        chain.writer.wait_for_log("takes no points: .*; keeping them on disk")
        chain.publisher.publish(100)
        chain.proxy.pass_through()
        chain.publisher.publish(100)
        chain.wait_until_stored()
        log = chain.writer.log()
        assert len(warnings(log)) == 1
        assert (fault == "403") == ("([InfluxDB] database, username, password)" in log)


def test_influxdb_2_fails_in_one_way_after_the_other(
    tmp_path: Path, victoria_metrics: VictoriaMetrics
) -> None:
    with running_chain(
        tmp_path, database=victoria_metrics, InfluxDB={"timeout": 1.0, "token": "secret"}
    ) as chain:
        for fault in ("hangs", "500"):
            FAULTS[fault](chain.proxy)
            beginning = len(chain.writer.log())
            chain.publisher.publish(2000, rate=2000)
            chain.writer.wait_for_log("takes no points", after=beginning)
            chain.proxy.pass_through()
            chain.wait_until_stored()


@pytest.mark.parametrize("retry_after", [lambda: "2", lambda: http_date(3)])
def test_database_says_when_to_come_again(tmp_path: Path, retry_after: Callable[[], str]) -> None:
    with running_chain(tmp_path) as chain:
        chain.proxy.answer(429, {"Retry-After": retry_after()})
        refused_before = chain.proxy.requests
        chain.publisher.publish(1)
        wait_until(lambda: chain.proxy.requests > refused_before, 10, "the refused write")
        refused_at = time.monotonic()
        chain.proxy.pass_through()
        chain.publisher.publish(200)
        chain.wait_until_stored()
        assert time.monotonic() - refused_at > 1.9


def test_database_takes_only_small_requests(tmp_path: Path) -> None:
    with running_chain(tmp_path) as chain:
        chain.proxy.answer(503)
        chain.publisher.publish(3000, rate=10_000)
        chain.writer.wait_for_log("takes no points")
        chain.proxy.refuse_large(1500)
        chain.wait_until_stored()
        assert "refused" not in chain.writer.log()


def test_type_conflicts_are_dropped_and_everything_around_them_is_stored(tmp_path: Path) -> None:
    """The first writer of a field settles its type, and InfluxDB refuses any other from then on."""
    with running_chain(tmp_path) as chain:
        assert isinstance(chain.database, InfluxDB1)
        first = Point.number(0, "temperature")
        integer = f"temperature,switch={first.switch} temperature=1i {first.time}"
        write = {"db": "energy", "precision": "ms"}
        requests.post(f"{chain.database.url}/write", integer, params=write, timeout=10)
        chain.proxy.answer(503)
        for _ in range(20):
            chain.publisher.publish(100, rate=5000)
            chain.publisher.publish(5, rate=5000, quantity="temperature")
        chain.writer.wait_for_log("takes no points")
        chain.proxy.pass_through()
        chain.publisher.publish(100)
        sound = {point for point in chain.publisher.points if point.quantity == "power"}
        assert len(sound) == 20 * 100 + 100
        wait_until_stored(lambda: stored(chain.database), sound)
        chain.writer.wait_for_log(
            "refused .*InfluxDB: .*type float, already exists as type integer", 30
        )
        chain.writer.wait_for_log("all points kept on disk are stored", 30)
        assert stored(chain.database, quantity="temperature") == {first._replace(value=1)}
        assert len(warnings(chain.writer.log())) == 2  # the 503, and all refusals in one
