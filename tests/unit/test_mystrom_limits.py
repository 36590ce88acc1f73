"""What a switch that is slow, endless or mad cannot do to us."""

import json
import socket
import time
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from demo.process import free_port
from openenergy import mystrom
from openenergy.config import MyStromSwitch
from openenergy.mystrom import Announcements, Report, Switch, SwitchError
from tests.unit.raw_server import HOST, Behaviour, RawServer, answering, wait_for_close

REPORT = b'{"power":8.9,"Ws":1.9,"relay":true,"temperature":23.3}'
# Far above what any of these tests needs, far below what a client without a deadline takes.
PATIENCE_S = 10.0


def switch_at(port: int, *, timeout: float = PATIENCE_S) -> Switch:
    return Switch(
        MyStromSwitch(name="plug", host=f"{HOST}:{port}", timeout=timeout), Announcements()
    )


def read(switch: Switch) -> None:
    switch.report()


def turn_on(switch: Switch) -> None:
    switch.set_relay(closed=True)


def error_of(answer: bytes) -> str:
    """Return why a switch that answers so gives no report."""
    with RawServer(answering(answer)) as server, pytest.raises(SwitchError) as caught:
        switch_at(server.port).report()
    return str(caught.value)


@pytest.mark.parametrize(
    "size", ["100000", f"{10**11}", f"{10**18}", f"{10**30}", "9" * 5000], ids=lambda size: size[:9]
)
def test_a_gigantic_length_takes_neither_memory_nor_the_process(size: str) -> None:
    assert error_of(f"HTTP/1.1 200 OK\r\nContent-Length: {size}\r\n\r\n{{".encode())


@pytest.mark.parametrize("size", ["7fffffffffffffff", "f" * 30], ids=len)
def test_a_gigantic_chunk_takes_neither_memory_nor_the_process(size: str) -> None:
    assert error_of(f"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{size}\r\n{{".encode())


def endless(beginning: bytes, piece: bytes) -> Behaviour:
    def behave(connection: socket.socket) -> None:
        connection.sendall(beginning)
        while True:
            connection.sendall(piece)

    return behave


@pytest.mark.parametrize(
    ("beginning", "piece"),
    [
        pytest.param(b"HTTP/1.1 200 OK\r\n\r\n", b" " * 4096, id="body"),
        pytest.param(
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\n \r\n", id="chunks"
        ),
        pytest.param(b"HTTP/1.1 200 OK\r\nA: ", b"a" * 4096, id="header"),
        pytest.param(b"", b"HTTP/1.1 100 Continue\r\n\r\n", id="100 Continue"),
    ],
)
def test_an_endless_answer_is_given_up_after_64_kib(beginning: bytes, piece: bytes) -> None:
    with RawServer(endless(beginning, piece)) as server:
        began = time.monotonic()
        with pytest.raises(SwitchError):
            switch_at(server.port, timeout=60).report()
        assert time.monotonic() - began < 30


def drip(beginning: bytes) -> Behaviour:
    """Send something now and then, for ever: no single read takes long."""

    def behave(connection: socket.socket) -> None:
        connection.sendall(beginning)
        while True:
            connection.sendall(b" ")
            time.sleep(0.02)  # the pace of the drip, not a wait for anything

    return behave


@pytest.mark.parametrize(
    "behaviour",
    [
        pytest.param(wait_for_close, id="hang"),
        pytest.param(drip(b"HTTP/1.1 200 "), id="drip in the status line"),
        pytest.param(drip(b"HTTP/1.1 200 OK\r\nA:"), id="drip in the head"),
        pytest.param(drip(b"HTTP/1.1 200 OK\r\n\r\n"), id="drip in the body"),
        pytest.param(drip(b"HTTP/1.1 200 OK\r\nContent-Length: 9999\r\n\r\n"), id="known length"),
    ],
)
@pytest.mark.parametrize("wish", [read, turn_on])
def test_the_time_limit_is_for_the_whole_request(
    behaviour: Behaviour, wish: Callable[[Switch], None]
) -> None:
    with RawServer(behaviour) as server:
        switch = switch_at(server.port, timeout=0.15)
        began = time.monotonic()
        with pytest.raises(SwitchError, match=r"^no answer within 0\.15 s$"):
            wish(switch)
        assert 0.14 < time.monotonic() - began < PATIENCE_S


def test_the_time_limit_is_for_all_addresses_of_a_name_together(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with socket.socket() as listener:
        listener.bind((HOST, 0))
        listener.listen(0)
        address = listener.getsockname()
        with socket.create_connection(address):  # the queue is full: others get no answer at all
            found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", address)] * 20
            monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
            began = time.monotonic()
            with pytest.raises(SwitchError, match="no answer within"):
                switch_at(address[1], timeout=0.15).report()
            assert time.monotonic() - began < 3


def test_a_switch_that_refuses_connections_is_an_error() -> None:
    with pytest.raises(SwitchError, match=r"^Connection refused$"):
        switch_at(free_port()).report()


def test_a_switch_that_cuts_the_connection_is_an_error() -> None:
    def reset(connection: socket.socket) -> None:
        linger_0 = b"\1\0\0\0\0\0\0\0"
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger_0)

    with RawServer(reset) as server, pytest.raises(SwitchError, match="Connection reset"):
        switch_at(server.port).report()


def test_for_check_the_reason_is_an_oserror() -> None:
    with pytest.raises(OSError, match=r"^Connection refused$"):
        switch_at(free_port()).try_report()


# Anything at all

HEADS = st.sampled_from(
    [
        b"",
        b"HTTP/1.1 200 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 20\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"HTTP/1.1 ",
        b"HTTP/1.1 200 OK\r\n",
    ]
)
WORDS = st.sampled_from(
    [b"0\r\n", b"f\r\n", b"8000000000000000\r\n", b"\r\n", b": "]
) | st.sampled_from(
    [REPORT, b'{"relay":', b"true", b',"power":', b"1e400", b"-", b"}", b"[", b'"\\ud800"', b"\xff"]
)
ANSWERS = st.tuples(HEADS, st.lists(WORDS | st.binary(max_size=20), max_size=12).map(b"".join)).map(
    b"".join
)


@settings(max_examples=100)
@given(answers=st.lists(ANSWERS, min_size=1, max_size=5))
def test_any_bytes_are_a_report_or_a_switch_error(answers: list[bytes]) -> None:
    with RawServer(answering()) as server:
        switch = switch_at(server.port)
        for answer in answers:
            server.behaviour = answering(answer)
            try:
                assert isinstance(switch.report(), Report)
            except SwitchError as error:
                assert len(str(error)) < 400  # noqa: PT017 - most examples end here


@settings(max_examples=50)
@given(body=st.recursive(st.none() | st.booleans() | st.floats() | st.text(), st.lists))
def test_any_values_are_a_report_or_a_switch_error(body: object) -> None:
    report = {"relay": True, "power": body, "boot_id": body, "energy_since_boot": body}
    switch = Switch(MyStromSwitch(name="plug", host=HOST), Announcements())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Switch, "_get", lambda *_: json.dumps(report).encode())
        try:
            assert switch.report().relay
        except SwitchError:
            assert body is not None


def test_the_limit_on_an_answer_is_64_kib() -> None:
    head = b"HTTP/1.1 200 OK\r\n\r\n"
    fill = b" " * (mystrom.MAX_ANSWER - len(head) - len(REPORT))
    with RawServer(answering(head + REPORT + fill)) as server:
        assert switch_at(server.port).report().relay
    assert "65536 bytes" in error_of(head + REPORT + fill + b" ")
