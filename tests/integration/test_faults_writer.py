"""mqtt_2_influx.py ends at any moment, or its disk fails: everything is stored in the end."""

import contextlib
import os
import random
import resource
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from demo.parts import HOST, Script
from demo.process import wait_until
from openenergy.spool import Spool
from tests.integration.chain import CONNECTED, Chain, running_chain
from tests.mqtt_client import MqttClient
from tests.publishing import stored, wait_until_stored

# The broker keeps 1,000 messages while we are away, those included that we had in hand.
LESS_THAN_ITS_QUEUE = 300
SMALL_BATCHES = {"batch": 20, "timeout": 1.0}


def kill(writer: Script) -> None:
    writer.kill()


def terminate(writer: Script) -> None:
    ended = writer.terminate()
    assert ended.status == 0
    assert ended.seconds < 5


def end_at_random_moments(chain: Chain, seed: int) -> None:
    chance = random.Random(seed)
    for end in (kill, terminate, kill, terminate):
        time.sleep(chance.uniform(0.05, 0.7))  # any moment is as good as another
        with chain.publisher.at_most(LESS_THAN_ITS_QUEUE):
            end(chain.writer)
            chain.restart_writer()


def test_writer_ends_while_points_flow(tmp_path: Path) -> None:
    with running_chain(tmp_path) as chain:
        with chain.publisher.in_background(300):
            end_at_random_moments(chain, 1)
        chain.wait_until_stored()


def test_writer_ends_while_the_database_is_away(tmp_path: Path) -> None:
    with running_chain(tmp_path) as chain:
        chain.database.stop()
        with chain.publisher.in_background(300):
            end_at_random_moments(chain, 2)
        chain.database.start()
        chain.wait_until_stored()


def test_writer_ends_while_the_database_hangs(tmp_path: Path) -> None:
    with running_chain(tmp_path) as chain:
        chain.proxy.hang()
        with chain.publisher.in_background(200):
            end_at_random_moments(chain, 3)
        chain.proxy.pass_through()
        chain.wait_until_stored()


def test_writer_ends_while_it_drains_the_spool(tmp_path: Path) -> None:
    with running_chain(tmp_path, InfluxDB=SMALL_BATCHES) as chain:
        chain.proxy.refuse()
        chain.publisher.publish(4000, rate=4000)
        chain.proxy.pass_through(delay_s=0.05)
        chain.writer.wait_for_log("takes points again")
        with chain.publisher.in_background(100):
            end_at_random_moments(chain, 4)
            assert "all points kept on disk are stored" not in chain.writer.log()
        chain.proxy.pass_through()
        chain.wait_until_stored()


def test_writer_ends_while_broker_and_database_are_away(tmp_path: Path) -> None:
    with running_chain(tmp_path) as chain:
        with chain.publisher.in_background(300):
            for fault, end in ((chain.proxy.refuse, kill), (chain.proxy.hang, terminate)):
                fault()
                chain.wait_for_more(200)
                chain.broker.stop()
                with chain.publisher.at_most(LESS_THAN_ITS_QUEUE):
                    end(chain.writer)
                    chain.writer.start()
                    chain.broker.start()
                    chain.writer.wait_for_log(CONNECTED, 30)
                chain.wait_for_more(200)
                chain.proxy.pass_through()
        chain.wait_until_stored()


def test_spool_is_full(tmp_path: Path) -> None:
    """Then the messages stay at the broker: those in our window, and 1,000 more."""
    with running_chain(tmp_path, Storage={"spool_size": 65536}) as chain:
        chain.proxy.refuse()
        chain.publisher.publish(4000, rate=2000)
        chain.writer.wait_for_log("ERROR .*full, at 65536 bytes")
        chain.publisher.publish(500)
        chain.proxy.pass_through()
        chain.wait_until_stored()
        assert chain.writer.log().count(" ERROR ") == 1
        chain.writer.wait_for_log("the spool takes points again|all points kept on disk are stored")
        # It works as before.
        chain.proxy.refuse()
        chain.publisher.publish(500)
        kill(chain.writer)
        chain.writer.start()
        chain.proxy.pass_through()
        chain.wait_until_stored()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Mount a file system of 1 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("file systems cannot be mounted here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.parametrize(("end", "gets_room"), [(kill, True), (terminate, False)])
def test_disk_is_full(
    small_disk: Path, tmp_path: Path, end: Callable[[Script], None], *, gets_room: bool
) -> None:
    """The messages stay at the broker; a restart does not need the disk either."""
    with running_chain(tmp_path, Storage={"state": str(small_disk)}) as chain:
        chain.proxy.refuse()
        ballast = small_disk / "ballast"
        with contextlib.suppress(OSError):
            ballast.write_bytes(bytes(2_000_000))
        chain.publisher.publish(3000, rate=2000)
        chain.writer.wait_for_log(" ERROR .* disk is full|disk I/O error")
        assert chain.writer.log().count(" ERROR ") == 1
        end(chain.writer)
        if gets_room:
            ballast.unlink()
        chain.restart_writer()
        chain.publisher.publish(500)
        chain.proxy.pass_through()
        chain.publisher.publish(500)
        chain.wait_until_stored()


def times_in(path: Path) -> set[int]:
    """Return the times of the points in a spool that nobody uses now."""
    spool = Spool(path, 2**30)
    piece = spool.oldest(10_000)
    spool.close()
    lines = (
        [line for record in piece.records for line in record.content.split(b"\n")] if piece else []
    )
    return {int(line.rsplit(b" ", 1)[1]) for line in lines}


def test_spool_is_garbage(tmp_path: Path) -> None:
    """What was in it is lost, if not to a specialist: it is put aside."""
    with running_chain(tmp_path) as chain:
        chain.publisher.publish(100)
        chain.wait_until_stored()
        chain.proxy.refuse()
        chain.publisher.publish(500)
        chain.writer.wait_for_log("keeping them on disk")
        terminate(chain.writer)
        (spool,) = tmp_path.glob("writer-mqtt_2_influx/*.spool")
        lost_times = times_in(spool)
        assert lost_times
        spool.write_bytes(random.Random(5).randbytes(spool.stat().st_size))
        chain.restart_writer()
        (error,) = (line for line in chain.writer.log().splitlines() if " ERROR " in line)
        (aside,) = tmp_path.glob("writer-mqtt_2_influx/*.spool.damaged-*")
        assert f"{spool} is damaged" in error
        assert f"put aside as {aside}" in error
        chain.publisher.publish(500)
        chain.proxy.pass_through()
        kept = {point for point in chain.publisher.points if point.time not in lost_times}
        wait_until_stored(lambda: stored(chain.database), kept)


def test_thread_that_dies_ends_the_process(tmp_path: Path) -> None:
    """Out of memory, the network's thread cannot read a large message: systemd starts us again."""
    with running_chain(tmp_path) as chain:
        chain.publisher.publish(100)
        chain.wait_until_stored()
        resource.prlimit(chain.writer.pid, resource.RLIMIT_DATA, (1024 * 1024, -1))
        with MqttClient(HOST, chain.broker.port) as client:
            client.publish("@update/large/monitoring/power", bytes(1_900_000))
        wait_until(lambda: not chain.writer.running, 30, "end of the writer")
        assert chain.writer.terminate().status == 1
        assert "CRITICAL service: network failed; the process ends" in chain.writer.log()
        assert "Traceback (most recent call last)" in chain.writer.log()
        assert "MemoryError" in chain.writer.log()
        chain.restart_writer()
        chain.publisher.publish(100)
        chain.wait_until_stored()
