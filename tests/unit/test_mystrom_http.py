"""The HTTP client of the switches: what it sends, and what it makes of any answer."""

import json
import socket
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from openenergy.config import MyStromSwitch
from openenergy.mystrom import Announcements, Report, Switch, SwitchError
from tests.unit.raw_server import HOST, RawServer, answering, http_answer, wait_for_close

FIXTURES = Path(__file__).resolve().parent.parent / "fixtures" / "mystrom"
REPORT = b'{"power":8.9,"Ws":1.9,"relay":true,"temperature":23.3}'
# Far above what any of these tests needs.
PATIENCE_S = 10.0


def switch_at(port: int, *, timeout: float = PATIENCE_S, token: str = "") -> Switch:
    settings = MyStromSwitch(name="plug", host=f"{HOST}:{port}", timeout=timeout, token=token)
    return Switch(settings, Announcements())


Wish = Callable[[Switch], object]


def read(switch: Switch) -> None:
    switch.report()


def turn_on(switch: Switch) -> None:
    switch.set_relay(closed=True)


def report_of(*pieces: bytes) -> Report:
    """Return the report of a switch that answers so."""
    with RawServer(answering(*pieces)) as server:
        return switch_at(server.port).report()


def error_of(*pieces: bytes) -> str:
    """Return why a switch that answers so gives no report."""
    with pytest.raises(SwitchError) as caught:
        report_of(*pieces)
    return str(caught.value)


# What it sends


def test_a_request_for_a_report_is_exactly_this() -> None:
    with RawServer(answering(http_answer(REPORT))) as server:
        switch_at(server.port).report()
    host = f"{HOST}:{server.port}".encode()
    assert server.requests == [
        b"GET /report HTTP/1.1\r\nHost: " + host + b"\r\nConnection: close\r\n\r\n"
    ]


@pytest.mark.parametrize(("closed", "state"), [(True, b"1"), (False, b"0")])
def test_a_command_is_exactly_this_and_its_answer_is_empty(closed: bool, state: bytes) -> None:
    empty = http_answer(b"", headers="Content-Type: text/plain\r\n")
    with RawServer(answering(empty)) as server:
        switch_at(server.port).set_relay(closed=closed)
    host = f"{HOST}:{server.port}".encode()
    assert server.requests == [
        b"GET /relay?state=" + state + b" HTTP/1.1\r\nHost: " + host + b"\r\n"
        b"Connection: close\r\n\r\n"
    ]


def test_a_token_goes_with_every_request() -> None:
    with RawServer(answering(http_answer(REPORT))) as server:
        switch = switch_at(server.port, token="s3cret:~!")
        switch.report()
        switch.set_relay(closed=True)
    assert len(server.requests) == 2
    for request in server.requests:
        assert request.endswith(b"\r\nConnection: close\r\nToken: s3cret:~!\r\n\r\n")


def test_each_request_has_a_connection_of_its_own() -> None:
    keep_alive = http_answer(REPORT).replace(b"Connection: close", b"Connection: keep-alive")
    with RawServer(answering(keep_alive)) as server:
        switch = switch_at(server.port)
        assert switch.report() == switch.report()
    assert len(server.requests) == 2


def test_port_80_and_the_name_without_a_port_are_meant_where_none_is_configured(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[tuple[str, int]] = []

    def no_such_host(host: str, port: int, *_hints: object, **_more: object) -> None:
        asked.append((host, port))
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", no_such_host)
    for host in ("plug.lan", "[fd00::7]:8001", "10.0.0.7:81"):
        settings = MyStromSwitch(name="plug", host=host)
        with pytest.raises(SwitchError, match="Name or service not known"):
            Switch(settings, Announcements()).report()
    assert asked == [("plug.lan", 80), ("fd00::7", 8001), ("10.0.0.7", 81)]


# Reports


@pytest.mark.parametrize("path", sorted(FIXTURES.glob("report-*.json")), ids=lambda path: path.stem)
def test_what_real_switches_said_is_understood(path: Path) -> None:
    body = path.read_bytes()
    report = report_of(http_answer(body))
    said = json.loads(body)
    for key in ("relay", "power", "Ws", "temperature", "boot_id", "energy_since_boot"):
        assert getattr(report, key) == said.get(key)
    numbers = (report.power, report.Ws, report.temperature, report.energy_since_boot)
    assert all(number is None or type(number) is float for number in numbers)


@pytest.mark.parametrize(
    ("body", "report"),
    [
        (b'{"relay":false}', Report(relay=False)),
        (b'{"relay":true,"power":0}', Report(relay=True, power=0.0)),
        (b'{"relay":true,"power":588,"Ws":588.5}', Report(relay=True, power=588.0, Ws=588.5)),
        (b'{"relay":true,"power":null}', Report(relay=True)),
        (b' {"relay" :\ttrue, "new":{"a":[1]}} \r\n', Report(relay=True)),
        (
            b'{"relay":true,"boot_id":"A425D9AD","energy_since_boot":7}',
            Report(relay=True, boot_id="A425D9AD", energy_since_boot=7.0),
        ),
    ],
)
def test_a_report_by_any_model_is_understood(body: bytes, report: Report) -> None:
    assert report_of(http_answer(body)) == report


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{}",
        b"[]",
        b"null",
        b"true",
        b'{"power":1}',
        b'{"relay":1}',
        b'{"relay":"true"}',
        b'{"relay":null}',
        b'{"relay":true,"power":"1"}',
        b'{"relay":true,"power":true}',
        b'{"relay":true,"power":NaN}',
        b'{"relay":true,"power":1e999}',
        b'{"relay":true,"power":1' + b"0" * 400 + b"}",
        b'{"relay":true,"boot_id":7}',
        b'{"relay":true,"boot_id":"A425D9AD","energy_since_boot":-1}',
        b'{"relay":true,"boot_id":"A425D9AD","energy_since_boot":1e300}',
        b'{"relay":true',
        b'{"relay":true}{"relay":true}',
        b'{"relay":true,"boot_id":"\xff\xfe"}',
        b'\xef\xbb\xbf{"relay":true}',
        b'{"relay":true,"x":' + b"[" * 30_000,
        b"<html><body>Welcome</body></html>",
        bytes(range(256)),
    ],
)
def test_a_body_that_is_no_report_is_an_error_of_one_line(body: bytes) -> None:
    error = error_of(http_answer(body))
    assert error.startswith("its report is not what a myStrom switch says: ")
    assert "\n" not in error
    assert len(error) < 300


# Forms of HTTP


@pytest.mark.parametrize(
    "pieces",
    [
        pytest.param(
            [b"HTTP/1.1 200 OK\r\n\r\n", REPORT[:9], REPORT[9:]], id="no length: until it closes"
        ),
        pytest.param([b"HTTP/1.0 200 OK\r\n\r\n" + REPORT], id="HTTP/1.0"),
        pytest.param([b"HTTP/1.1 200\r\n\r\n" + REPORT], id="no reason"),
        pytest.param(
            [
                b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
                b"%x\r\n%b\r\n" % (len(REPORT[:20]), REPORT[:20]),
                b"%x;note=1\r\n%b\r\n" % (len(REPORT[20:]), REPORT[20:]),
                b"0\r\n\r\n",
            ],
            id="chunked",
        ),
        pytest.param([b"HTTP/1.1 100 Continue\r\n\r\n" + http_answer(REPORT)], id="100 Continue"),
        pytest.param([bytes([each]) for each in http_answer(REPORT)], id="one byte in each packet"),
        pytest.param([http_answer(REPORT) + b"more than was announced"], id="more than its length"),
    ],
)
def test_a_report_is_read_in_every_form_of_http(pieces: list[bytes]) -> None:
    assert report_of(*pieces).power == 8.9


def test_a_server_that_keeps_the_connection_open_is_not_waited_for() -> None:
    def answer_and_stay(connection: socket.socket) -> None:
        connection.sendall(http_answer(REPORT))
        wait_for_close(connection)

    with RawServer(answer_and_stay) as server:
        began = time.monotonic()
        switch_at(server.port).report()
        switch_at(server.port).set_relay(closed=True)
        assert time.monotonic() - began < PATIENCE_S


def test_a_redirect_is_not_followed() -> None:
    with RawServer(answering(http_answer(REPORT))) as elsewhere:
        location = f"Location: http://{HOST}:{elsewhere.port}/report\r\n"
        for status in ("301 Moved Permanently", "302 Found", "307 Temporary Redirect"):
            assert error_of(http_answer(REPORT, status=status, headers=location)) == (
                f"status {status}"
            )
    assert elsewhere.requests == []


@pytest.mark.parametrize("status", ["204 No Content", "401 Unauthorized", "500 Oops", "999 What"])
def test_any_status_but_200_is_an_error(status: str) -> None:
    assert error_of(http_answer(b"", status=status)) == f"status {status}"


@pytest.mark.parametrize(("wish", "path"), [(read, "/report"), (turn_on, "/relay")])
def test_404_names_the_token_the_filter_and_the_path(wish: Wish, path: str) -> None:
    page = b"<html><head><title>Error</title></head><body><h1>404 Not Found</h1></body></html>"
    with RawServer(answering(http_answer(page, status="404 Not Found"))) as server:
        switch = switch_at(server.port, token="s3cret")
        with pytest.raises(SwitchError) as caught:
            wish(switch)
    error = str(caught.value)
    assert "404" in error
    assert "token" in error
    assert "request filter" in error
    assert path in error
    assert "?" not in error
    assert "s3cret" not in error


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"\r\n",
        b"hello\r\n\r\n",
        b"SSH-2.0-dropbear\r\n",
        b"HTTP/1.1 abc OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 54\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"A: 1\r\n" * 101 + b"\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-5\r\nabc",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n36\r\n" + REPORT[:5],
    ],
)
def test_what_is_not_http_is_an_error_of_one_line(answer: bytes) -> None:
    error = error_of(answer)
    assert "\n" not in error
    assert len(error) < 300


def test_an_answer_that_ends_early_is_an_error() -> None:
    complete = http_answer(REPORT)
    assert error_of(complete[:-1])
    assert report_of(complete)
