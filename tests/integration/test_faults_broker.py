"""The broker fails: what it has confirmed to a publisher is stored, as far as it keeps it itself.

mosquitto runs as Debian configures it: 1,000 messages wait for a subscriber that is away, and its
memory is saved when it ends, and every 30 minutes.
"""

import os
import re
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from demo.parts import HOST, InfluxDB1, Script
from demo.process import free_port
from tests.fault_proxy import FaultProxy
from tests.integration.chain import (
    CONNECTED,
    chain_behind_a_route,
    running_chain,
    write_writer_config,
)
from tests.integration.old_broker import REFUSALS, OldBroker
from tests.publishing import Point, publish_packet
from tests.unit.test_broker_paho import read_packet

IDENTITY = f"mqtt_2_influx-{socket.gethostname()}"


def test_broker_is_restarted_in_the_middle_of_the_stream(tmp_path: Path) -> None:
    """At 300 messages a second its queue lasts 3.3 s: we must be back before it is full."""
    with running_chain(tmp_path) as chain:
        with chain.publisher.in_background(300):
            chain.wait_for_more(150)
            chain.broker.stop()
            time.sleep(6)  # so that the pauses between our attempts have grown
            chain.broker.start()
            chain.wait_for_more(1500)
        chain.wait_until_stored()


def test_broker_that_is_killed_forgets_our_session_and_we_subscribe_again(tmp_path: Path) -> None:
    with running_chain(tmp_path) as chain:
        chain.publisher.publish(500)
        chain.wait_until_stored()
        chain.broker.kill()
        chain.broker.start()
        chain.publisher.publish(500)
        chain.wait_until_stored()


def test_broker_that_is_killed_does_not_lose_what_it_had_sent(tmp_path: Path) -> None:
    """We read what is on the way to us, though our acknowledgements reach nobody any more."""
    with running_chain(tmp_path) as chain:
        for _ in range(2):
            chain.publisher.publish(100)
            os.kill(chain.writer.pid, signal.SIGSTOP)
            chain.publisher.publish(200)
            chain.broker.kill()
            chain.broker.start()
            os.kill(chain.writer.pid, signal.SIGCONT)
            chain.wait_until_stored()


def test_broker_that_is_killed_loses_what_it_has_not_saved_and_no_more(tmp_path: Path) -> None:
    """With `autosave_interval 1` it confirms up to 2 s of messages that it has not on disk.

    Nobody but their publisher can bring these back, which is what ours does.
    """
    with running_chain(tmp_path, broker_config="autosave_interval 1", distrust_s=4.0) as chain:
        with chain.publisher.in_background(200):
            for _ in range(2):
                chain.wait_for_more(300)
                chain.broker.kill()
                chain.broker.start()
            chain.wait_for_more(300)
        chain.wait_until_stored()


def test_messages_that_come_again_are_one_point_each(tmp_path: Path) -> None:
    """What we had received, and not acknowledged, when the connection broke comes with DUP set."""
    with chain_behind_a_route(tmp_path, broker_config="log_type all") as (chain, route):
        chain.publisher.publish(100)
        chain.wait_until_stored()
        os.kill(chain.writer.pid, signal.SIGSTOP)
        chain.publisher.publish(300)
        route.refuse()
        route.pass_through()
        beginning = len(chain.writer.log())
        os.kill(chain.writer.pid, signal.SIGCONT)
        chain.writer.wait_for_log(CONNECTED, after=beginning)
        chain.wait_until_stored()
        again = re.findall(rf"Sending PUBLISH to {IDENTITY} \(d1,", chain.broker.log())
        assert len(again) >= 300


@pytest.mark.parametrize("fault", [FaultProxy.refuse, FaultProxy.hang])
def test_mqtt_3_1_1_with_its_window_of_20(
    tmp_path: Path, fault: Callable[[FaultProxy], None]
) -> None:
    """A write that takes its time must not keep the next 20 from us."""
    port = free_port()
    listener = f"listener {port} {HOST}"
    with (
        OldBroker(port, REFUSALS["as of 3.1.1"]) as old,
        running_chain(tmp_path, broker_config=listener, MQTT={"port": old.port}) as chain,
    ):
        chain.writer.wait_for_log(r"connected to broker .* \(MQTT 3.1.1\)")
        with chain.publisher.in_background(400):
            chain.wait_for_more(200)
            fault(chain.proxy)
            chain.wait_for_more(1400)  # more than the broker would keep
            chain.broker.restart()
            chain.wait_for_more(300)
            chain.proxy.pass_through()
        chain.wait_until_stored()


def acknowledged_within(seconds: float, wire: socket.socket, window: int) -> int:
    """Send messages, never more than `window` before they are acknowledged; count those."""
    wire.settimeout(30)
    deadline = time.monotonic() + seconds
    count = 0
    while time.monotonic() < deadline:
        points = [Point.number(count + each) for each in range(window)]
        wire.sendall(b"".join(publish_packet(1 + each, point) for each, point in enumerate(points)))
        for _ in points:
            assert read_packet(wire)[0] == 0x40
        count += window
    return count


@pytest.mark.parametrize("window", [20, 5])
def test_slow_writes_do_not_use_a_small_window_up(
    tmp_path: Path, influxdb: InfluxDB1, window: int
) -> None:
    """Else that window for each write, of 0.5 s here, is all that comes, and the queue overflows.

    A broker by hand keeps to its window, as mosquitto does from 2.0.13 on.
    """
    with (
        FaultProxy(influxdb.port) as proxy,
        socket.create_server((HOST, 0)) as listener,
    ):
        proxy.pass_through(delay_s=0.5)
        config = write_writer_config(
            tmp_path / "writer.toml",
            listener.getsockname()[1],
            {"InfluxDB": {"url": proxy.url, "database": "energy", "window": window}},
        )
        with Script("mqtt_2_influx.py", config):
            wire, _ = listener.accept()
            with wire:
                for answer in (b"\x20\x03\0\0\0", b"\x90\x04\0\x01\0\x01", b"\x40\x02\0\x02"):
                    read_packet(wire)  # CONNECT, SUBSCRIBE, PUBLISH
                    wire.sendall(answer)
                assert acknowledged_within(3, wire, window) > 20 * window
