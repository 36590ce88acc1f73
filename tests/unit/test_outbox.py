"""Measurements on their way to the broker: none is lost while it is away, states come first."""

import contextlib
import itertools
import json
import os
import signal
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple, cast

import paho.mqtt.client as mqtt
import pytest
from paho.mqtt.enums import CallbackAPIVersion

from demo.parts import Mosquitto
from demo.process import free_port, wait_until
from openenergy import outbox as outbox_module
from openenergy.broker import Broker
from openenergy.config import Mqtt
from openenergy.outbox import Message, Outbox
from openenergy.spool import Spool, SpoolError
from tests.mqtt_client import MqttClient

MIB = 1024 * 1024


class Published(NamedTuple):
    """What the broker was given, and by which name it confirms it."""

    topic: str
    payload: bytes
    retain: bool
    sent: tuple[mqtt.Client, int]


class BrokerByHand:
    """A broker that is there, and confirms, when the test says so."""

    def __init__(self) -> None:
        self.connected = False
        self.room = 1_000_000  # for so many more messages
        self.published: list[Published] = []
        self._mids = itertools.count(1)
        self._client = mqtt.Client(CallbackAPIVersion.VERSION2)

    def publish(
        self, topic: str, payload: bytes, *, retain: bool = False
    ) -> tuple[mqtt.Client, int] | None:
        if not (self.connected and self.room):
            return None
        self.room -= 1
        sent = (self._client, next(self._mids))
        self.published.append(Published(topic, payload, retain, sent))
        return sent

    def payloads(self) -> list[bytes]:
        return [each.payload for each in self.published]


class Bench:
    """An outbox with its spool and a broker by hand."""

    def __init__(self, path: Path, limit_bytes: int = 16 * MIB) -> None:
        self.broker = BrokerByHand()
        self.spool = Spool(path, limit_bytes)
        self.outbox = Outbox(self.spool)
        self.outbox.start(cast(Broker, self.broker))

    def connect(self) -> None:
        self.broker.connected = True
        self.outbox.connected()

    def disconnect(self) -> None:
        self.broker.connected = False
        self.outbox.disconnected()

    def confirm_everything(self) -> None:
        """Confirm what is published, and what is published because of that, until all is out."""
        confirmed = 0

        def confirm() -> bool:
            nonlocal confirmed
            published = self.broker.published[confirmed:]
            for each in published:
                self.outbox.confirmed(*each.sent)
            confirmed += len(published)
            return self.outbox.waiting == 0

        wait_until(confirm, 20, "delivery of everything")

    def wait_for(self, condition: Callable[[], object], what: str) -> None:
        wait_until(condition, 10, what)

    def wait_for_published(self, count: int) -> None:
        self.wait_for(lambda: len(self.broker.published) == count, f"{count} messages published")

    def has_waiting(self, count: int) -> bool:
        return self.outbox.waiting == count

    def close(self) -> None:
        self.outbox.stop()
        self.spool.close()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "some.spool"


@pytest.fixture
def bench(path: Path) -> Iterator[Bench]:
    bench = Bench(path)
    yield bench
    bench.close()


def readings(numbers: range) -> list[Message]:
    return [Message("@update/plug/monitoring/power", b"%d" % number) for number in numbers]


def publish(bench: Bench, messages: list[Message]) -> None:
    for message in messages:
        bench.outbox.publish(message)


def test_while_the_broker_is_there_messages_go_out_at_once_and_in_order(bench: Bench) -> None:
    bench.connect()
    publish(bench, readings(range(100)))
    bench.wait_for(lambda: len(bench.broker.published) == 100, "100 messages")
    assert bench.broker.payloads() == [b"%d" % number for number in range(100)]
    assert bench.outbox.waiting == 100
    bench.confirm_everything()
    assert len(bench.spool) == 0


def test_while_it_is_away_they_are_on_disk_and_then_go_out_in_order(bench: Bench) -> None:
    publish(bench, readings(range(1200)))
    bench.wait_for(lambda: len(bench.spool) == 1200, "1200 messages on disk")
    bench.connect()
    bench.confirm_everything()
    assert bench.broker.payloads() == [b"%d" % number for number in range(1200)]


def test_what_the_broker_has_not_confirmed_when_it_goes_is_kept(bench: Bench) -> None:
    bench.connect()
    publish(bench, readings(range(10)))
    bench.wait_for(lambda: len(bench.broker.published) == 10, "10 messages")
    for each in bench.broker.published[:4]:
        bench.outbox.confirmed(*each.sent)
    bench.disconnect()
    bench.wait_for(lambda: len(bench.spool) == 6, "6 messages on disk")
    bench.broker.published.clear()
    bench.connect()
    bench.confirm_everything()
    assert bench.broker.payloads() == [b"%d" % number for number in range(4, 10)]


def test_a_piece_of_the_spool_is_kept_until_all_of_it_is_confirmed(bench: Bench) -> None:
    publish(bench, readings(range(10)))
    bench.wait_for(lambda: len(bench.spool) == 10, "10 messages on disk")
    bench.connect()
    bench.wait_for(lambda: len(bench.broker.published) == 10, "10 messages")
    for each in bench.broker.published[:9]:
        bench.outbox.confirmed(*each.sent)
    bench.disconnect()
    bench.connect()
    bench.wait_for(lambda: len(bench.broker.published) == 20, "the same again")
    assert bench.broker.payloads()[10:] == bench.broker.payloads()[:10]
    assert len(bench.spool) == 10
    bench.confirm_everything()
    assert len(bench.spool) == 0


def test_when_the_broker_is_back_the_present_states_come_first_and_alone_are_retained(
    bench: Bench,
) -> None:
    relay = "@update/plug/monitoring/relay"
    publish(bench, [Message(relay, b"1", retain=True), *readings(range(3))])
    publish(bench, [Message(relay, b"0", retain=True)])
    bench.wait_for(lambda: len(bench.spool) == 5, "5 messages on disk")
    bench.connect()
    bench.confirm_everything()
    first, *others = bench.broker.published
    assert (first.topic, first.payload, first.retain) == (relay, b"0", True)
    assert [each.payload for each in others] == [b"1", b"0", b"1", b"2", b"0"]
    assert not any(each.retain for each in others)


def test_new_messages_do_not_wait_for_the_spool(bench: Bench) -> None:
    publish(bench, readings(range(2000)))
    bench.wait_for(lambda: len(bench.spool) == 2000, "2000 messages on disk")
    bench.connect()
    bench.outbox.publish(Message("@update/plug/monitoring/relay", b"new", retain=True))
    bench.wait_for(lambda: b"new" in bench.broker.payloads(), "the new message")
    assert len(bench.broker.published) < 1000
    bench.confirm_everything()
    assert len(bench.broker.published) == 2001


def test_a_broker_that_confirms_nothing_has_the_rest_put_on_disk(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox_module, "MAX_UNCONFIRMED", 50)
    bench.connect()
    publish(bench, readings(range(80)))
    bench.wait_for(lambda: len(bench.spool) == 30, "30 messages on disk")
    bench.confirm_everything()
    assert {int(payload) for payload in bench.broker.payloads()} == set(range(80))


def test_a_broker_with_too_much_on_its_way_is_tried_again(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox_module, "RETRY_S", 0.1)
    bench.connect()
    bench.broker.room = 0
    publish(bench, readings(range(80)))
    bench.wait_for(lambda: len(bench.spool) == 80, "80 messages on disk")
    bench.broker.room = 1000
    bench.confirm_everything()
    assert bench.broker.payloads() == [b"%d" % number for number in range(80)]


def test_stopping_puts_on_disk_what_is_not_confirmed(path: Path) -> None:
    bench = Bench(path)
    bench.connect()
    publish(bench, readings(range(5)))
    bench.wait_for(lambda: len(bench.broker.published) == 5, "5 messages")
    bench.broker.connected = False
    bench.close()
    again = Bench(path)
    again.connect()
    again.confirm_everything()
    assert again.broker.payloads() == [b"%d" % number for number in range(5)]
    again.close()


def test_a_full_spool_is_one_error_and_drains_when_the_broker_is_back(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    bench = Bench(path, limit_bytes=65536)
    for first in range(0, 2000, 500):
        publish(bench, readings(range(first, first + 500)))
        bench.wait_for(partial(bench.has_waiting, first + 500), "this batch")
    bench.wait_for(lambda: caplog.messages, "the error")
    assert 0 < len(bench.spool) < 2000
    bench.connect()
    bench.confirm_everything()
    assert {int(payload) for payload in bench.broker.payloads()} == set(range(2000))
    errors = [record for record in caplog.records if record.levelname == "ERROR"]
    assert len(errors) == 1
    assert "full" in errors[0].message
    bench.close()


def test_a_full_spool_is_not_tried_again_with_every_message(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = Bench(path, limit_bytes=65536)
    publish(bench, readings(range(2000)))
    bench.wait_for(partial(bench.has_waiting, 2000), "2000 messages")
    attempts = 0

    def append(_records: object) -> None:
        nonlocal attempts
        attempts += 1
        raise SpoolError("full")

    monkeypatch.setattr(bench.spool, "append", append)
    for number in range(2000, 2100):
        publish(bench, readings(range(number, number + 1)))
        bench.wait_for(partial(bench.has_waiting, number + 1), "one more")
    assert attempts < 20
    bench.close()


def test_memory_is_bounded_while_the_spool_is_full(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox_module, "MAX_HELD", 300)
    bench = Bench(path, limit_bytes=65536)
    publish(bench, readings(range(20_000)))
    bench.outbox.stop()
    assert bench.outbox.waiting < 5000
    bench.spool.close()


QUOTA_EXCEEDED, NOT_AUTHORIZED = 0x97, 0x87


def refuse(bench: Bench, each: Published, reason: int) -> None:
    bench.outbox.refused(*each.sent, reason)


@pytest.fixture
def short_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbox_module, "REFUSAL_PAUSE_S", 0.5)


@pytest.mark.usefixtures("short_pause")
@pytest.mark.parametrize("reason", [QUOTA_EXCEEDED, NOT_AUTHORIZED])
def test_what_a_broker_refuses_that_takes_nothing_is_on_disk_until_it_does(
    bench: Bench, reason: int
) -> None:
    bench.connect()
    publish(bench, readings(range(10)))
    for tried in (10, 20, 30):
        bench.wait_for_published(tried)
        for each in bench.broker.published[-10:]:
            refuse(bench, each, reason)
        bench.wait_for(lambda: len(bench.spool) == 10, "10 messages on disk")
    bench.confirm_everything()
    assert bench.broker.payloads()[30:] == [b"%d" % number for number in range(10)]


@pytest.mark.usefixtures("short_pause")
def test_a_quota_that_is_used_up_within_a_piece_is_waited_for(bench: Bench) -> None:
    """What is refused goes behind the others; none is lost, and none is published for ever."""
    publish(bench, readings(range(40)))
    bench.wait_for(lambda: len(bench.spool) == 40, "40 messages on disk")
    bench.connect()
    taken: list[bytes] = []
    published = 0
    for waiting in (40, 30, 20, 10):
        published += waiting
        bench.wait_for_published(published)
        tried = bench.broker.published[-waiting:]
        for each in tried[:10]:
            taken.append(each.payload)
            bench.outbox.confirmed(*each.sent)
        for each in tried[10:]:
            refuse(bench, each, QUOTA_EXCEEDED)
        bench.wait_for(partial(bench.has_waiting, waiting - 10), "the others")
    assert taken == [b"%d" % number for number in range(40)]


@pytest.mark.usefixtures("short_pause")
def test_a_topic_that_is_never_allowed_holds_up_no_other_and_fills_no_disk(bench: Bench) -> None:
    """Here one of two switches: what was read while the broker was away, and what is read now."""
    taken: set[bytes] = set()
    answered = 0

    def answer() -> None:
        nonlocal answered
        published = bench.broker.published[answered:]
        answered += len(published)
        for each in published:
            if each.topic.startswith("@update/forbidden/"):
                refuse(bench, each, NOT_AUTHORIZED)
            else:
                taken.add(each.payload)
                bench.outbox.confirmed(*each.sent)

    def is_all_done() -> bool:
        answer()
        return len(taken) == 1000 and bench.outbox.waiting == 0

    forbidden = [Message("@update/forbidden/monitoring/power", b"%d" % n) for n in range(3000)]
    publish(bench, forbidden[:2000] + readings(range(500)))
    bench.wait_for(lambda: len(bench.spool) == 2500, "2500 messages on disk")
    bench.connect()
    for number in range(500):
        publish(bench, [forbidden[2000 + number], *readings(range(500 + number, 501 + number))])
        answer()
    wait_until(is_all_done, 20, "the end of all that waits")


@pytest.mark.parametrize("reason", [QUOTA_EXCEEDED, NOT_AUTHORIZED])
def test_a_broker_that_begins_to_refuse_everything_loses_nothing_of_what_is_on_disk(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, reason: int
) -> None:
    """It has confirmed something just before, and refuses each reading several times."""
    monkeypatch.setattr(outbox_module, "REFUSAL_PAUSE_S", 0.5)
    monkeypatch.setattr(outbox_module, "TAKES_OTHERS_S", 0.3)
    publish(bench, readings(range(1200)))
    bench.wait_for(lambda: len(bench.spool) == 1200, "1200 messages on disk")
    bench.connect()
    bench.wait_for_published(500)
    for each in bench.broker.published[:100]:
        bench.outbox.confirmed(*each.sent)
    for each in bench.broker.published[100:]:
        refuse(bench, each, reason)
    for tried in (1000, 1500, 2000):
        bench.wait_for_published(tried)
        for each in bench.broker.published[-500:]:
            refuse(bench, each, reason)
    bench.wait_for(partial(bench.has_waiting, 1100), "all that it does not have")
    before = len(bench.broker.published)
    bench.confirm_everything()
    taken = bench.broker.payloads()[:100] + bench.broker.payloads()[before:]
    assert {int(payload) for payload in taken} == set(range(1200))


def test_a_full_spool_keeps_what_a_broker_refuses(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox_module, "REFUSAL_PAUSE_S", 0.1)
    bench = Bench(path, limit_bytes=65536)
    publish(bench, readings(range(300)))
    bench.wait_for(lambda: len(bench.spool) == 300, "300 messages on disk")
    publish(bench, readings(range(300, 2000)))  # for which there is no room
    bench.wait_for(partial(bench.has_waiting, 2000), "the others in memory")
    bench.connect()
    refused = 0

    def have_been_refused_three_times() -> bool:
        nonlocal refused
        from_disk = [each for each in bench.broker.published if int(each.payload) < 300]
        for each in from_disk[refused:]:
            refuse(bench, each, QUOTA_EXCEEDED)
        refused = len(from_disk)
        return refused >= 900

    wait_until(have_been_refused_three_times, 10, "three refusals of each")
    assert len(bench.spool) == 300
    bench.close()


def test_a_queue_that_is_full_in_the_middle_of_a_piece_publishes_none_of_it_again(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox_module, "RETRY_S", 0.1)
    publish(bench, readings(range(300)))
    bench.wait_for(lambda: len(bench.spool) == 300, "300 messages on disk")
    bench.broker.room = 70
    bench.connect()
    for taken in (70, 140, 210, 280):
        bench.wait_for_published(taken)
        bench.broker.room = 70
        for each in bench.broker.published[-70:]:
            bench.outbox.confirmed(*each.sent)
    bench.broker.room = 1000
    bench.confirm_everything()
    assert bench.broker.payloads() == [b"%d" % number for number in range(300)]


@contextlib.contextmanager
def at_work_with(mosquitto: Mosquitto, spool: Spool) -> Iterator[Outbox]:
    outbox = Outbox(spool)
    broker = Broker(
        Mqtt(broker=mosquitto.host, port=mosquitto.port),
        "plug_2_mqtt",
        on_messages=lambda _: None,
        on_connected=outbox.connected,
        on_disconnected=outbox.disconnected,
        on_published=outbox.confirmed,
        on_refused=outbox.refused,
    )
    outbox.start(broker)
    broker.start()
    yield outbox
    broker.stop()
    outbox.stop()
    spool.close()


@pytest.mark.usefixtures("short_pause")
def test_a_real_broker_whose_access_list_allows_nothing_gets_everything_once_it_does(
    tmp_path: Path, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rules = tmp_path / "rules"
    rules.write_text("topic read #\n")
    rules.chmod(0o700)
    spool = Spool(path, MIB)
    with (
        Mosquitto(tmp_path / "mosquitto", extra_config=f"acl_file {rules}") as mosquitto,
        MqttClient(mosquitto.host, mosquitto.port) as client,
        at_work_with(mosquitto, spool) as outbox,
    ):
        for message in readings(range(100)):
            outbox.publish(message)
        wait_until(lambda: len(spool) == 100, 10, "100 messages on disk")
        rules.write_text("topic readwrite #\n")
        os.kill(mosquitto.pid, signal.SIGHUP)
        wait_until(lambda: outbox.waiting == 0, 10, "delivery")
        client.publish("the/last", b"")
        client.wait_for("the/last")
        heard = {message.payload for message in client.messages("@update/plug/#")}
    assert heard == {b"%d" % number for number in range(100)}
    (refusal,) = [each.getMessage() for each in caplog.records if each.levelname == "ERROR"]
    assert "refuses a message of ours: Not authorized (@update/" in refusal


def test_against_a_real_broker_that_comes_goes_and_comes_again(tmp_path: Path, path: Path) -> None:
    mosquitto = Mosquitto(tmp_path / "mosquitto", port=free_port())
    spool = Spool(path, MIB)
    with at_work_with(mosquitto, spool) as outbox:
        numbers = iter(range(1000))

        def publish_10() -> set[int]:
            published = set(itertools.islice(numbers, 10))
            for number in published:
                payload = json.dumps({"value": number}).encode()
                outbox.publish(Message("@update/plug/monitoring/power", payload))
            return published

        expected = publish_10()
        wait_until(lambda: len(spool) == 10, 10, "10 messages on disk")
        heard: set[int] = set()
        for _ in range(2):
            mosquitto.start()
            with MqttClient(mosquitto.host, mosquitto.port) as client:
                expected |= publish_10()
                wait_until(lambda: outbox.waiting == 0, 20, "delivery")
                client.publish("the/last", b"")
                client.wait_for("the/last")
                heard |= {message.json["value"] for message in client.messages("@update/plug/#")}
            assert heard == expected
            mosquitto.kill()
            expected |= publish_10()
        wait_until(lambda: len(spool) == 10, 10, "10 messages on disk")
