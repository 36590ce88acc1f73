"""The broker is away, and plug_2_mqtt.py too: what was read is published in the end."""

import os
import random
import re
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from demo.parts import Mosquitto
from demo.process import wait_until
from demo.switches import SwitchSpec
from openenergy import service
from openenergy.spool import Record, Spool
from tests.integration.readings import Stream, published_times, recorded, wait_until_published
from tests.integration.running import (
    Bench,
    command_topic,
    plugs,
    readings,
    script_online_topic,
    state_topic,
)

SPECS = [SwitchSpec(name) for name in ("lamp", "tv", "heater")]
# They are read ten times a second, and none is missed because the machine is slow.
OPTIONS = {spec.name: {"timeout": 5.0} for spec in SPECS}
# What was read so shortly before SIGKILL may not have got to the disk.
UNSAFE_S = 1.0
LATER = r"published \d+ readings kept on disk"


@contextmanager
def three_plugs(folder: Path) -> Iterator[tuple[Bench, Stream]]:
    """Run the script with three switches, and a recorder for which the broker keeps everything."""
    config = "max_queued_messages 1000000"
    with (
        Mosquitto(folder / "mosquitto", extra_config=config) as broker,
        recorded(broker) as stream,
        plugs(folder, SPECS, options=OPTIONS, broker=broker) as bench,
    ):
        yield bench, stream


def wait_for_readings_of_all(bench: Bench, count: int) -> None:
    targets = [(switch, len(readings(switch)) + count) for switch in bench.switches.values()]
    wait_until(
        lambda: all(len(readings(switch)) >= target for switch, target in targets),
        30,
        f"{count} readings of each switch",
    )


def test_every_reading_is_published_though_the_broker_is_away(tmp_path: Path) -> None:
    with three_plugs(tmp_path) as (bench, stream):
        wait_for_readings_of_all(bench, 5)
        bench.broker.stop()
        wait_for_readings_of_all(bench, 20)
        beginning = len(bench.script.log())
        bench.broker.start()
        bench.script.wait_for_log(LATER, 30, after=beginning)
        wait_for_readings_of_all(bench, 5)
        assert bench.script.terminate().status == 0
        for switch in bench.switches.values():
            # The last one was perhaps on its way to us when the script ended.
            wait_until_published(switch, stream, unless=readings(switch)[-1].__eq__)
            times = published_times(stream, switch.name)
            assert len(times) >= 30
            for quantity in ("relay", "average_power", "temperature", "energy"):
                assert published_times(stream, switch.name, quantity) == times


def test_script_is_killed_while_the_broker_is_away(tmp_path: Path) -> None:
    chance = random.Random(1)
    with three_plugs(tmp_path) as (bench, stream):
        wait_for_readings_of_all(bench, 5)
        bench.broker.stop()
        ends = []
        for _ in range(2):
            wait_for_readings_of_all(bench, 15)
            time.sleep(chance.uniform(0, 0.1))
            bench.script.kill()
            ends.append(time.monotonic())
            bench.script.start()
        wait_for_readings_of_all(bench, 5)
        bench.broker.start()
        bench.script.wait_for_log(LATER, 30)
        assert bench.script.terminate().status == 0
        ends.append(time.monotonic())

        def is_unsafe(taken: float) -> bool:
            return any(end - UNSAFE_S < taken < end for end in ends)

        for switch in bench.switches.values():
            wait_until_published(switch, stream, unless=is_unsafe)
            assert len([each for each in readings(switch) if not is_unsafe(each)]) >= 15


def test_script_is_killed_while_the_broker_hangs(tmp_path: Path) -> None:
    """It looks connected, as it does for most of a minute when the network is gone."""
    with three_plugs(tmp_path) as (bench, stream):
        wait_for_readings_of_all(bench, 5)
        os.kill(bench.broker.pid, signal.SIGSTOP)
        wait_for_readings_of_all(bench, 40)
        bench.script.kill()
        killed = time.monotonic()
        os.kill(bench.broker.pid, signal.SIGCONT)
        bench.script.start()
        bench.script.wait_for_log(LATER, 30)
        assert bench.script.terminate().status == 0
        ended = time.monotonic()

        def is_unsafe(taken: float) -> bool:
            return killed - 2 * UNSAFE_S < taken < killed or taken > ended - UNSAFE_S

        for switch in bench.switches.values():
            wait_until_published(switch, stream, unless=is_unsafe)


def test_command_is_confirmed_at_once_while_a_large_spool_drains(tmp_path: Path) -> None:
    kept = 20_000
    spool = Spool(
        tmp_path / "plugs-plug_2_mqtt" / f"plug_2_mqtt-{service.hostname()}.spool", 100_000_000
    )
    old = state_topic("old", "power")
    payloads = [b'{"value": 1, "time": %d}' % number for number in range(kept)]
    spool.append([Record(1, msgspec.json.encode((old, each))) for each in payloads])
    spool.close()
    with three_plugs(tmp_path) as (bench, stream):
        bench.client.wait_for(script_online_topic("plug_2_mqtt"))
        asked = time.monotonic()
        bench.client.publish(command_topic("lamp"), {"value": "open"})
        bench.wait_for_value("lamp", "relay", 0)
        confirmed_s = time.monotonic() - asked
        assert not re.search(LATER, bench.script.log())  # it was in the middle of that
        assert confirmed_s < 3
        bench.script.wait_for_log(LATER, 60)
        expected = {number / 1000 for number in range(kept)}
        wait_until(lambda: published_times(stream, "old") == expected, 30, "all", every=0.5)
