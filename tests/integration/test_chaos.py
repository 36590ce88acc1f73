"""Faults of every kind, at random and at the same time: in the end the published set is stored.

    OPENENERGY_CHAOS_SECONDS=600 OPENENERGY_CHAOS_SEED=7 tests/run.sh -s -k test_chaos

A seed repeats the course of the faults; what they hit differs, as the machine does.
"""

import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest

from tests.integration.chain import CONNECTED, Chain, running_chain

SECONDS: Final = float(os.environ.get("OPENENERGY_CHAOS_SECONDS", "60"))
SEED: Final = int(os.environ.get("OPENENERGY_CHAOS_SEED", "1"))
RATE: Final = 300.0
# mosquitto keeps 1,000 messages for a subscriber that is away, those included that it had in hand,
# and drops what comes then: the publisher, which knows nothing of that, must not send so many.
LESS_THAN_ITS_QUEUE: Final = 300


class Chaos:
    """A chain, and what can happen to it. The database's faults last while others happen."""

    def __init__(self, chain: Chain, chance: random.Random) -> None:
        self._chain = chain
        self._chance = chance
        self._began_s = time.monotonic()

    def run(self, seconds: float) -> None:
        while (age_s := time.monotonic() - self._began_s) < seconds:
            fault = self._chance.choice(
                [
                    self.restart_broker,
                    self.kill_writer,
                    self.terminate_writer,
                    self.freeze_writer,
                    self.change_database,
                    self.change_database,
                    self.change_way_to_database,
                    self.change_way_to_database,
                ]
            )
            print(f"{age_s:5.1f} s: {fault.__name__}")
            fault()
            time.sleep(self._chance.uniform(0, 1))
        self.heal()

    def heal(self) -> None:
        self._chain.proxy.pass_through()
        if not self._chain.database.running:
            self._chain.database.start()

    def restart_broker(self) -> None:
        with self._chain.publisher.at_most(LESS_THAN_ITS_QUEUE):
            beginning = len(self._chain.writer.log())
            self._chain.broker.stop()
            time.sleep(self._chance.uniform(0, 1))
            self._chain.broker.start()
            self._chain.writer.wait_for_log(CONNECTED, 60, after=beginning)

    def kill_writer(self) -> None:
        with self._chain.publisher.at_most(LESS_THAN_ITS_QUEUE):
            self._chain.writer.kill()
            self._chain.restart_writer()

    def terminate_writer(self) -> None:
        with self._chain.publisher.at_most(LESS_THAN_ITS_QUEUE):
            assert self._chain.writer.terminate().status == 0
            self._chain.restart_writer()

    def freeze_writer(self) -> None:
        with self._chain.publisher.at_most(LESS_THAN_ITS_QUEUE):
            os.kill(self._chain.writer.pid, signal.SIGSTOP)
            time.sleep(self._chance.uniform(0, 1.5))
            os.kill(self._chain.writer.pid, signal.SIGCONT)

    def change_database(self) -> None:
        if not self._chain.database.running:
            self._chain.database.start()
        elif self._chance.random() < 0.5:
            self._chain.database.kill()
        else:
            self._chain.database.stop()

    def change_way_to_database(self) -> None:
        proxy = self._chain.proxy
        ways: list[Callable[[], None]] = [
            proxy.pass_through,
            proxy.pass_through,
            lambda: proxy.pass_through(delay_s=0.2),
            proxy.refuse,
            proxy.hang,
            proxy.blackhole,
            lambda: proxy.answer(500),
            lambda: proxy.answer(429, {"Retry-After": "1"}),
            lambda: proxy.refuse_large(2000),
        ]
        self._chance.choice(ways)()


@pytest.mark.timeout(SECONDS + 240)
def test_chaos(tmp_path: Path) -> None:
    print(f"seed {SEED}")
    with running_chain(tmp_path, InfluxDB={"timeout": 2.0}) as chain:
        with chain.publisher.in_background(RATE):
            Chaos(chain, random.Random(SEED)).run(SECONDS)
        assert len(chain.publisher.points) > SECONDS * RATE / 4  # it was not away all the time
        chain.wait_until_stored(120)
        assert "Traceback" not in chain.writer.log_path.read_text()
