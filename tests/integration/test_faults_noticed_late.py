"""Faults that take up to a minute to be noticed, or to be over: they are waited for together."""

import socket
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from paho.mqtt.client import Client, MQTTMessage, MQTTv5
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from demo.parts import HOST, Mosquitto
from demo.process import wait_until
from demo.switches import SwitchSpec
from tests.fault_proxy import FaultProxy
from tests.integration.chain import CONNECTED, chain_behind_a_route, running_chain
from tests.integration.readings import recorded, wait_until_published
from tests.integration.running import plugs, readings, wait_for_readings

LATER = r"published \d+ readings kept on disk"


def network_of_the_writer_swallows_everything(folder: Path) -> None:
    """Check that it is noticed: TCP alone would not for hours, or ever."""
    with chain_behind_a_route(folder) as (chain, route):
        chain.publisher.publish(200)
        route.blackhole()
        began = time.monotonic()
        chain.publisher.publish(900)
        chain.writer.wait_for_log("connection lost", 90)
        assert time.monotonic() - began < 60
        route.refuse()  # the old connection is never heard of again
        route.pass_through()
        chain.wait_until_stored()


def network_of_the_plugs_swallows_everything(folder: Path) -> None:
    config = "max_queued_messages 1000000"  # for the recorder, which needs not keep up
    with (
        Mosquitto(folder / "mosquitto", extra_config=config) as broker,
        recorded(broker) as stream,
        FaultProxy(broker.port, http=False) as route,
        plugs(
            folder,
            [SwitchSpec("lamp")],
            mqtt={"port": route.port},
            options={"lamp": {"timeout": 5.0}},
            broker=broker,
        ) as bench,
    ):
        lamp = bench.switches["lamp"]
        wait_for_readings(lamp, 10)
        route.blackhole()
        began = time.monotonic()
        bench.script.wait_for_log("connection lost", 90)
        assert time.monotonic() - began < 60
        beginning = len(bench.script.log())
        route.refuse()
        route.pass_through()
        bench.script.wait_for_log(LATER, 30, after=beginning)
        assert bench.script.terminate().status == 0
        wait_until_published(lamp, stream, unless=readings(lamp)[-1].__eq__)


def another_client_takes_our_identifier(folder: Path) -> None:
    """Let it come back whenever we do; it then leaves, and takes nothing with it."""
    with running_chain(folder) as chain:
        chain.publisher.publish(200)
        identity = f"mqtt_2_influx-{socket.gethostname()}"
        received: list[MQTTMessage] = []
        other = Client(CallbackAPIVersion.VERSION2, identity, protocol=MQTTv5, manual_ack=True)
        other.on_message = lambda _client, _userdata, message: received.append(message)
        lasting = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]  # by paho
        lasting.SessionExpiryInterval = 3600
        other.connect(HOST, chain.broker.port, clean_start=False, properties=lasting)
        other.loop_start()
        suspicion = f"another program connects with our client_id '{identity}'"
        with chain.publisher.in_background(20):
            chain.writer.wait_for_log(suspicion, 60)
            beginning, began = len(chain.writer.log()), time.monotonic()
            wait_until(lambda: received, 10, "a message at the other client")
            other.disconnect()
            other.loop_stop()
            chain.writer.wait_for_log(CONNECTED, 60, after=beginning)
            assert time.monotonic() - began > 15  # else each cuts the other off all the time
        chain.wait_until_stored()
        assert chain.writer.log().count(suspicion) == 1
        assert chain.writer.log().count(CONNECTED) < 10


SCENARIOS: list[Callable[[Path], None]] = [
    network_of_the_writer_swallows_everything,
    network_of_the_plugs_swallows_everything,
    another_client_takes_our_identifier,
]


@pytest.mark.timeout(240)
def test_faults_that_are_noticed_late(tmp_path: Path) -> None:
    def run(scenario: Callable[[Path], None]) -> None:
        folder = tmp_path / scenario.__name__
        folder.mkdir()
        scenario(folder)

    with ThreadPoolExecutor(len(SCENARIOS)) as executor:
        for outcome in [executor.submit(run, scenario) for scenario in SCENARIOS]:
            outcome.result()
