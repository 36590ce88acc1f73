"""Ten thousand requests that nobody should send leave the button server as it was.

It answers them with what is wrong (4xx) or not at all, switches nothing, keeps its memory, writes
little into its log, and goes on answering others.
"""

import contextlib
import json
import random
import re
import socket
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from http import HTTPStatus
from pathlib import Path

import pytest
import requests
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from demo.parts import HOST
from demo.process import wait_until
from demo.switches import SwitchSpec
from tests.browser.parts import TOKEN, ButtonServer, Home, home

MIB = 1024 * 1024


class Target:
    """The server, and a tally of how it answered."""

    def __init__(self, house: Home, server: ButtonServer) -> None:
        self.house = house
        self.server = server
        self.statuses: Counter[int] = Counter()

    def send(self, data: bytes) -> None:
        """Send bytes on a connection of their own, and see that the answer is one for a client."""
        with socket.create_connection((HOST, self.server.port), timeout=10) as connection:
            # A server that has seen enough may hang up while we still speak.
            with contextlib.suppress(OSError):
                connection.sendall(data)
                connection.shutdown(socket.SHUT_WR)
            answer = _read(connection)
        status = re.match(rb"HTTP/1\.[01] (\d{3}) ", answer)
        assert status or not answer, answer[:200]
        self.statuses[int(status[1]) if status else 0] += 1
        assert not answer.startswith((b"HTTP/1.1 500", b"HTTP/1.0 500")), data

    def memory(self) -> int:
        """Return how much the server has in use (bytes)."""
        for line in Path(f"/proc/{self.server.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) * 1024
        raise LookupError("VmRSS")

    def is_well(self) -> bool:
        """Whether it still answers, and nothing has moved."""
        answer = requests.get(f"{self.server.url}/plugs", headers=OWNER, timeout=10)
        return (
            answer.ok
            and [state["name"] for state in answer.json()] == ["lamp"]
            and self.house.commands() == []
            and self.house.moves() == []
        )


def _read(connection: socket.socket) -> bytes:
    """Read an answer to its end."""
    answer = b""
    with contextlib.suppress(ConnectionError):
        while piece := connection.recv(65536):
            answer += piece
    return answer


@pytest.fixture
def target(tmp_path: Path) -> Iterator[Target]:
    with home(tmp_path, [SwitchSpec("lamp")]) as house:
        yield Target(house, house.button_server(token=TOKEN, allow_get=True))


# --- What is sent -------------------------------------------------------------------------------

# Wrong tokens lock an address out: each comes from its own, by what a proxy would say.
OWNER = {"X-Api-Key": TOKEN, "X-Forwarded-For": "192.0.2.1"}
BURGLAR = {"X-Api-Key": "0123456789abcdef", "X-Forwarded-For": "198.51.100.1"}


def knowing(number: int) -> dict[str, str]:
    """Return what somebody sends who has the token, but may damage it."""
    return OWNER | {"X-Forwarded-For": f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}"}


Header = tuple[bytes, bytes]


def http(method: bytes, path: bytes, headers: Iterable[Header], body: bytes = b"") -> bytes:
    lines = [method + b" " + path + b" HTTP/1.1", *(name + b": " + text for name, text in headers)]
    return b"\r\n".join([*lines, b"", body])


def headers_of(caller: dict[str, str]) -> list[Header]:
    return [(name.encode(), text.encode()) for name, text in caller.items()]


# Words that mean something to a server, and any others. None switches.
anything = st.binary(max_size=60).filter(lambda data: not set(data) & set(b"\r\n"))
methods = st.sampled_from([b"GET", b"POST", b"PUT", b"DELETE", b"HEAD", b"OPTIONS", b"get", b"A B"])
paths = st.one_of(
    st.sampled_from([b"/plugs/lamp/relay", b"/plugs/relays", b"/plugs", b"/", b"//", b"*", b""]),
    st.builds(lambda value: b"/plugs/lamp/relay?value=" + value, anything),
    st.builds(lambda time: b"/plugs/power?since=" + time, anything),
    st.builds(lambda name: b"/plugs/" + name + b"/relay", anything),
    anything,
)
header_names = st.one_of(
    st.sampled_from(
        b"Host Origin Content-Type Content-Length Transfer-Encoding X-Api-Key Authorization"
        b" X-Forwarded-For Forwarded Expect Cookie Sec-Fetch-Site Connection".split()
    ),
    anything,
)
header_texts = st.one_of(
    st.sampled_from(
        b"localhost pi:99999 [ [::1 null application/json chunked 0 -1 99999999999999999999 1e3"
        b" 100-continue close".split()
    ),
    st.sampled_from([b"Basic !", b"Basic =", b"Bearer", b'for="[', b"a" * 9000, b"\xff\xfe", b""]),
    anything,
)
callers = st.one_of(st.integers(0, 2**24 - 1).map(knowing), st.just(BURGLAR))

values = st.one_of(st.text(max_size=20), st.integers(), st.none(), st.floats(), st.booleans())
contents = st.recursive(
    values,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(st.sampled_from(["value", "name", "x"]), inner, max_size=3),
    ),
    max_leaves=8,
)

many = settings(max_examples=500, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@many
@given(
    caller=callers,
    method=methods,
    path=paths,
    headers=st.lists(st.tuples(header_names, header_texts), max_size=4),
    body=anything,
)
def send_any_request(  # noqa: PLR0913, PLR0917 - a request has so many parts
    target: Target,
    caller: dict[str, str],
    method: bytes,
    path: bytes,
    headers: list[Header],
    body: bytes,
) -> None:
    target.send(http(method, path, [(b"Host", b"localhost"), *headers_of(caller), *headers], body))


@many
@given(path=st.sampled_from([b"/plugs/lamp/relay", b"/plugs/relays"]), content=contents)
def send_any_json(target: Target, path: bytes, content: object) -> None:
    # As carelessly as some programs write it: NaN, and halves of characters.
    body = json.dumps(content, ensure_ascii=False).encode("utf-8", "surrogatepass")
    headers = [*headers_of(OWNER), (b"Host", b"localhost"), (b"Content-Type", b"application/json")]
    length = [(b"Content-Length", str(len(body)).encode())]
    target.send(http(b"POST", path, headers + length, body))


def send_damaged_requests(target: Target, count: int) -> None:
    """Send what would be understood, but for some bytes of it."""
    chance = random.Random(4)
    body = b'{"value": "explode", "x": [1, null]}'
    length = str(len(body)).encode()
    for number in range(count):
        headers = [
            *headers_of(knowing(number)),
            (b"Host", b"localhost"),
            (b"Content-Type", b"application/json"),
            (b"Content-Length", length),
        ]
        data = bytearray(http(b"POST", b"/plugs/lamp/relay", headers, body))
        for _ in range(chance.randint(1, 4)):
            start = chance.randrange(len(data))
            end = start + chance.choice([0, 1, 1, 1, 20])
            data[start:end] = chance.randbytes(chance.choice([0, 1, 1, 1, 3]))
        target.send(bytes(data))


def send_noise(target: Target, count: int) -> None:
    """Send what is no HTTP at all."""
    chance = random.Random(5)
    openings = [b"", b"\x16\x03\x01", b"GET ", b"\r\n\r\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"]
    for _ in range(count):
        target.send(chance.choice(openings) + chance.randbytes(chance.choice([0, 1, 50, 20_000])))


# --- What becomes of it -------------------------------------------------------------------------


def test_ten_thousand_requests_that_nobody_should_send(target: Target) -> None:
    send_damaged_requests(target, 1000)  # by now it has all the memory that it needs
    memory_before = target.memory()
    send_damaged_requests(target, 6000)
    send_noise(target, 2000)
    send_any_request(target)
    send_any_json(target)
    growth = target.memory() - memory_before
    log = target.server.log()
    print(
        f"{target.statuses.total()} requests: {dict(target.statuses)};"
        f" memory {memory_before / MIB:.1f} MiB {growth / MIB:+.1f}; log {len(log)} bytes"
    )
    assert target.statuses.total() >= 10_000
    assert target.is_well()
    assert growth < 8 * MIB
    assert "Traceback" not in log
    assert TOKEN not in log
    assert len(log) < 100_000  # a line for each address that tries a token


def test_slow_clients_are_sent_away_and_keep_nobody_waiting(target: Target) -> None:
    beginnings = [b"", b"POST /plugs/la", b"GET /plugs HTTP/1.1\r\nHost: localhost\r\nX-"]
    headers = [*headers_of(OWNER), (b"Host", b"localhost"), (b"Content-Length", b"1000")]
    beginnings.append(http(b"POST", b"/plugs/lamp/relay", headers, b'{"val'))
    with contextlib.ExitStack() as connections:
        slow = []
        for number in range(60):
            connection = connections.enter_context(
                socket.create_connection((HOST, target.server.port), timeout=40)
            )
            connection.sendall(beginnings[number % len(beginnings)])
            slow.append(connection)
        began = time.monotonic()
        assert target.is_well()
        assert time.monotonic() - began < 5
        for connection in slow:  # until it hangs up on each of them
            _read(connection)
        print(f"60 slow clients were gone after {time.monotonic() - began:.0f} s")
    assert target.is_well()


def test_more_connections_than_it_takes_only_delay_others(target: Target) -> None:
    with contextlib.ExitStack() as connections:
        for _ in range(300):
            address = (HOST, target.server.port)
            connections.enter_context(socket.create_connection(address, timeout=5))
        assert target.server.running
    wait_until(target.is_well, 40, "an answer after the flood")


@pytest.mark.parametrize("size", [4097, 20_000, 900_000, 5_000_000])
def test_a_large_body_is_refused(target: Target, size: int) -> None:
    try:
        answer = requests.post(
            f"{target.server.url}/plugs/lamp/relay",
            data=b'{"value": "open", "x": "' + b"x" * size,
            headers=OWNER | {"Content-Type": "application/json"},
            timeout=10,
        )
    except requests.ConnectionError:
        pass  # it need not read all of it to know
    else:
        assert answer.status_code == HTTPStatus.REQUEST_ENTITY_TOO_LARGE
    assert target.is_well()


def test_tokens_are_not_guessed_by_trying(target: Target) -> None:
    url = f"{target.server.url}/plugs"
    statuses: Counter[int] = Counter()
    for number in range(200):
        guess = BURGLAR | {"X-Api-Key": f"guess-{number:06}"}
        statuses[requests.get(url, headers=guess, timeout=5).status_code] += 1
    assert statuses == {HTTPStatus.UNAUTHORIZED: 5, HTTPStatus.TOO_MANY_REQUESTS: 195}
    lines = [line for line in target.server.log().splitlines() if "wrong token" in line]
    assert len(lines) == 2
    assert target.is_well()
