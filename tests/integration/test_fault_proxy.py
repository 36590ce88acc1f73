"""The fault proxy does to a connection what its modes say, and nothing else."""

import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import pytest
import requests

from demo.parts import InfluxDB1, Mosquitto
from demo.process import wait_until
from tests.fault_proxy import FaultProxy
from tests.mqtt_client import MqttClient


@pytest.fixture
def proxy(influxdb: InfluxDB1) -> Iterator[FaultProxy]:
    with FaultProxy(influxdb.port) as proxy:
        yield proxy


@pytest.fixture
def http() -> Iterator[requests.Session]:
    """Give a client that keeps its connection, as the writers do."""
    with requests.Session() as session:
        yield session


@pytest.fixture
def in_background() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor() as executor:
        yield executor


def write(http: requests.Session, url: str, power: float) -> requests.Response:
    return http.post(f"{url}/write?db=energy", data=f"power power={power}", timeout=30)


def stored(influxdb: InfluxDB1) -> list[float]:
    return [row["power"] for row in influxdb.query("SELECT power FROM power", "energy")]


def test_pass_through_counts_requests(
    influxdb: InfluxDB1, proxy: FaultProxy, http: requests.Session
) -> None:
    for power in (1.0, 2.0, 3.0):
        assert write(http, proxy.url, power).status_code == 204
    assert stored(influxdb) == [1, 2, 3]
    assert (proxy.requests, proxy.connections) == (3, 1)


def test_large_body_arrives_whole(proxy: FaultProxy, http: requests.Session) -> None:
    lines = "\n".join(f"power power={number} {number}" for number in range(50_000))
    answer = http.post(f"{proxy.url}/write?db=energy", data=lines, timeout=30)
    assert (answer.status_code, proxy.requests) == (204, 1)
    query = {"q": "SELECT power FROM power", "db": "energy"}
    rows = http.get(f"{proxy.url}/query", params=query, timeout=30).json()
    assert len(rows["results"][0]["series"][0]["values"]) == 50_000


def test_refuse_cuts_and_refuses_until_it_passes_again(
    influxdb: InfluxDB1, proxy: FaultProxy, http: requests.Session
) -> None:
    assert write(http, proxy.url, 1).status_code == 204
    proxy.refuse()
    for _ in range(3):
        with pytest.raises(requests.ConnectionError):
            write(http, proxy.url, 2)
    proxy.pass_through()
    assert write(http, proxy.url, 3).status_code == 204
    assert stored(influxdb) == [1, 3]


def test_hang_reaches_the_server_but_does_not_answer(
    influxdb: InfluxDB1,
    proxy: FaultProxy,
    http: requests.Session,
    in_background: ThreadPoolExecutor,
) -> None:
    proxy.hang()
    answer = in_background.submit(write, http, proxy.url, 1)
    wait_until(lambda: stored(influxdb) == [1], 10, "the point")
    stays_unanswered(answer)
    proxy.pass_through()
    assert answer.result(timeout=10).status_code == 204


def test_blackhole_holds_everything(
    influxdb: InfluxDB1,
    proxy: FaultProxy,
    http: requests.Session,
    in_background: ThreadPoolExecutor,
) -> None:
    proxy.blackhole()
    answer = in_background.submit(write, http, proxy.url, 1)
    wait_until(lambda: proxy.requests == 1, 10, "the request")
    stays_unanswered(answer)
    assert stored(influxdb) == []
    proxy.pass_through()
    assert answer.result(timeout=10).status_code == 204
    assert stored(influxdb) == [1]


def stays_unanswered(answer: Future[requests.Response]) -> None:
    with pytest.raises(TimeoutError):
        answer.result(timeout=0.3)


def test_refuse_drops_what_a_blackhole_held(
    influxdb: InfluxDB1,
    proxy: FaultProxy,
    http: requests.Session,
    in_background: ThreadPoolExecutor,
) -> None:
    proxy.blackhole()
    answer = in_background.submit(write, http, proxy.url, 1)
    wait_until(lambda: proxy.requests == 1, 10, "the request")
    proxy.refuse()
    assert isinstance(answer.exception(timeout=10), requests.ConnectionError)
    assert stored(influxdb) == []


def test_answer_is_given_without_the_server(
    influxdb: InfluxDB1, proxy: FaultProxy, http: requests.Session
) -> None:
    proxy.answer(429, {"Retry-After": "7"}, b'{"message": "slow down"}')
    influxdb.stop()
    for _ in range(2):
        answer = write(http, proxy.url, 1)
        assert (answer.status_code, answer.reason) == (429, "Too Many Requests")
        assert answer.headers["Retry-After"] == "7"
        assert answer.json() == {"message": "slow down"}
    influxdb.start()
    proxy.pass_through()
    assert write(http, proxy.url, 2).status_code == 204
    assert stored(influxdb) == [2]
    assert (proxy.requests, proxy.connections) == (3, 1)


def test_large_requests_are_refused_and_others_pass(
    influxdb: InfluxDB1, proxy: FaultProxy, http: requests.Session
) -> None:
    proxy.refuse_large(2000)
    large = "\n".join(f"power power={number} {number}" for number in range(2000))
    answer = http.post(f"{proxy.url}/write?db=energy", data=large, timeout=30)
    assert answer.status_code == 413
    assert write(http, proxy.url, 1).status_code == 204
    assert stored(influxdb) == [1]


def test_delay_holds_each_request_back(
    influxdb: InfluxDB1, proxy: FaultProxy, http: requests.Session
) -> None:
    proxy.pass_through(delay_s=0.3)
    began = time.monotonic()
    assert [write(http, proxy.url, power).status_code for power in (1, 2)] == [204, 204]
    assert time.monotonic() - began >= 0.6
    assert stored(influxdb) == [1, 2]


def test_server_that_is_down_cuts_the_connection(
    influxdb: InfluxDB1, proxy: FaultProxy, http: requests.Session
) -> None:
    influxdb.stop()
    with pytest.raises(requests.ConnectionError):
        write(http, proxy.url, 1)


def test_mqtt_connection_half_open(mosquitto: Mosquitto, mqtt_client: MqttClient) -> None:
    with (
        FaultProxy(mosquitto.port, http=False) as proxy,
        MqttClient(mosquitto.host, proxy.port) as behind,
    ):
        mqtt_client.publish("meter/1", b"1")
        behind.wait_for("meter/1")
        proxy.blackhole()
        mqtt_client.publish("meter/2", b"2")
        mqtt_client.wait_for("meter/2")
        time.sleep(0.3)  # there is nothing to wait for: the message must not arrive
        assert behind.messages("meter/2") == []
        proxy.pass_through()
        behind.wait_for("meter/2")
        assert proxy.connections == 1
