"""The simulated switch is no twin of our own client: it answers as real ones were recorded to.

tests/fixtures/mystrom/README.md tells where each recorded answer comes from.
"""

import asyncio
import contextlib
import http.client
import json
import os
import re
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule
from pymystrom.exceptions import MyStromConnectionError  # type: ignore[import-untyped]
from pymystrom.switch import MyStromSwitch  # type: ignore[import-untyped]
from yarl import URL

from demo.loads import Load, constant
from demo.switches import (
    MODELS,
    Device,
    Fault,
    Request,
    SimulatedSwitch,
    SimulatedSwitches,
    SwitchSpec,
)

REPOSITORY = Path(__file__).resolve().parent.parent.parent
RECORDED = REPOSITORY / "tests" / "fixtures" / "mystrom"
WAIT = 20.0  # s; nothing takes as long, and nothing waits as long in vain


class ManualClock:
    """Time as a test wants it."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Reply(NamedTuple):
    """What came back, taken apart."""

    status: str
    headers: dict[str, str]
    body: bytes


def open_request(
    switch: SimulatedSwitch, request: str, headers: str = "", body: str = ""
) -> socket.socket:
    """Send `request` ("GET /report") with just the `headers` given, and leave the answer unread."""
    connection = socket.create_connection((switch.host, switch.port), timeout=WAIT)
    length = f"Content-Length: {len(body)}\r\n" if body else ""
    lines = f"{request} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{headers}{length}\r\n"
    connection.sendall((lines + body).encode())
    return connection


def raw(connection: socket.socket) -> bytes:
    """Read until the switch closes the connection."""
    with connection, connection.makefile("rb") as stream:
        return stream.read()


def ask(switch: SimulatedSwitch, request: str, headers: str = "", body: str = "") -> Reply:
    head, _, content = raw(open_request(switch, request, headers, body)).partition(b"\r\n\r\n")
    status, *lines = head.decode().split("\r\n")
    return Reply(status, dict(line.split(": ", 1) for line in lines), content)


def report(switch: SimulatedSwitch) -> dict[str, Any]:
    values: dict[str, Any] = json.loads(ask(switch, "GET /report").body)
    return values


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def described(name: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((RECORDED / f"{name}.json").read_text())
    return content


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def switches(clock: ManualClock) -> Iterator[SimulatedSwitches]:
    """Give one switch of each model, named as its model, with a load of 100.5 W."""
    specs = [SwitchSpec(model, model=model, load=constant(100.5)) for model in MODELS]
    with SimulatedSwitches(specs, clock=clock) as switches:
        yield switches


@pytest.fixture
def switch(switches: SimulatedSwitches) -> SimulatedSwitch:
    return switches["v2"]


# --- Recorded answers ---------------------------------------------------------------------------

BODIES = [
    ("report-official", "v2", "GET /report"),
    ("report-v2-fw4.0.14", "v2", "GET /report"),
    ("report-user-2024", "v2", "GET /report"),
    ("report-collector-a", "v2", "GET /report"),
    ("report-collector-b", "v2", "GET /report"),
    ("report-collector-c", "v2", "GET /report"),
    ("report-v2-low-load", "v2-3.82", "GET /report"),
    ("report-v2-cold", "v2-3.82", "GET /report"),
    ("report-v2-idle", "v2-3.82", "GET /report"),
    ("report-eu-fw3.83.1-idle", "eu", "GET /report"),
    ("report-eu-fw3.83.1-off", "eu", "GET /report"),
    ("report-eu-fw3.83.1-on-first", "eu", "GET /report"),
    ("report-eu-fw3.83.1-on-later", "eu", "GET /report"),
    ("report-v1-2016", "v1", "GET /report"),
    ("report-v1-fw2.68.10", "v1", "GET /report"),
    ("report-zero-derived", "zero", "GET /report"),
    ("toggle", "v2", "GET /toggle"),
    ("temp-official", "v2", "GET /temp"),
    ("api-v1-temperature-official", "v2", "GET /api/v1/temperature"),
    ("api-v1-info-switch-eu", "eu", "GET /api/v1/info"),
    ("api-v1-info-swisscom-114", "swisscom", "GET /api/v1/info"),
    ("info-v1-fw2.68.10", "v1", "GET /info"),
    ("info-v1-fw2.68.10", "v1", "GET /info.json"),
    ("info-v2-fw4.0.7", "v2", "GET /info"),
    ("info-v2-fw4.0.7", "v2", "GET /info.json"),
    ("api-v1-settings-switch", "v2", "GET /api/v1/settings"),
    ("api-v1-monitor", "v2", "GET /api/v1/monitor"),
]
KEYS_SORTED_BY_POSTER = {"report-user-2024", *(f"report-collector-{plug}" for plug in "abc")}
WHITESPACE_LOST = {"report-v1-fw2.68.10"}


def recorded(name: str) -> bytes:
    return (RECORDED / f"{name}.json").read_bytes()


def skeleton(body: bytes) -> bytes:
    """Put its kind in place of each value; keys, their order and all whitespace stay."""

    def kind(token: re.Match[bytes]) -> bytes:
        if token[0].endswith(b":"):
            return token[0]
        return {b'"': b"text", b"t": b"bool", b"f": b"bool"}.get(token[0][:1], b"number")

    return re.sub(rb'"[^"]*":?|true|false|-?[0-9][0-9.]*', kind, body)


@pytest.mark.parametrize(("name", "model", "request_line"), BODIES)
def test_an_answer_has_keys_order_layout_and_kinds_as_recorded(
    switches: SimulatedSwitches, name: str, model: str, request_line: str
) -> None:
    ours, theirs = skeleton(ask(switches[model], request_line).body), skeleton(recorded(name))
    if name in KEYS_SORTED_BY_POSTER:
        assert sorted(ours.strip(b"{}").split(b",")) == theirs.strip(b"{}").split(b",")
    elif name in WHITESPACE_LOST:
        assert b"".join(ours.split()) == theirs
    else:
        assert ours == theirs


@pytest.mark.parametrize(("name", "model"), [(name, model) for name, model, _ in BODIES])
def test_recorded_values_are_written_byte_for_byte_as_recorded(name: str, model: str) -> None:
    written = MODELS[model].style.write(json.loads(recorded(name))).encode()
    assert (b"".join(written.split()) if name in WHITESPACE_LOST else written) == recorded(name)


SCAN = rb'\[("[^"]*",-[0-9]+(,(?=")|(?=\])))+\]'
NETWORK = rb'"([^"]+)":\{"name":"\2","signal":[0-9]+,"encryption-on":true,"encryption":"\w+"\}'
NETWORKS = rb"\{(" + NETWORK + rb'(,(?=")|(?=\})))+\}'


@pytest.mark.parametrize(
    ("name", "request_line", "form"),
    [
        ("api-v1-scan", "GET /api/v1/scan", SCAN),
        ("api-v1-scan-official", "GET /api/v1/scan", SCAN),
        ("networks-official", "GET /networks", NETWORKS),
    ],
)
def test_networks_are_listed_as_recorded(
    switch: SimulatedSwitch, name: str, request_line: str, form: bytes
) -> None:
    assert re.fullmatch(form, recorded(name))
    with open_request(switch, request_line) as connection:
        answer = http.client.HTTPResponse(connection)
        answer.begin()
        assert re.fullmatch(form, answer.read())


HEADERS = described("http-headers")


@pytest.mark.parametrize("model", ["v2", "v2-3.82", "eu"])
@pytest.mark.parametrize("request_line", HEADERS["v2_eu"])
def test_headers_are_as_recorded(
    switches: SimulatedSwitches, model: str, request_line: str
) -> None:
    expected = HEADERS["v2_eu"][request_line]
    reply = ask(switches[model], request_line)
    assert reply.status == "HTTP/1.1 200 OK"
    if "Content-Length" in expected:
        expected = expected | {"Content-Length": str(len(reply.body))}
    assert reply.headers == expected


@pytest.mark.parametrize(
    ("request_line", "length"),
    [
        ("GET /api/v1/settings", "72"),
        ("GET /api/v1/monitor", "107"),
        ("POST /timer?mode=on&time=5", "0"),
    ],
)
def test_a_body_of_few_choices_is_as_long_as_recorded(
    switch: SimulatedSwitch, request_line: str, length: str
) -> None:
    assert HEADERS["v2_eu"][request_line]["Content-Length"] == length
    assert ask(switch, request_line).headers["Content-Length"] == length


def test_v1_has_headers_of_its_own(switches: SimulatedSwitches) -> None:
    reply = ask(switches["v1"], "GET /report")
    expected = HEADERS["v1_2016"]["GET /report"]
    assert reply.status == expected.pop("status_line")
    assert reply.headers.keys() == expected.keys()
    assert reply.headers["Content-Type"] == expected["Content-Type"]
    assert reply.headers["Content-Length"] == str(len(reply.body))


@pytest.mark.parametrize(("model", "keeps_open"), [("v1", True), ("v2", False), ("eu", False)])
def test_only_v1_answers_twice_on_one_connection(
    switches: SimulatedSwitches, model: str, *, keeps_open: bool
) -> None:
    switch = switches[model]
    with socket.create_connection((switch.host, switch.port), timeout=WAIT) as connection:
        for _ in range(2):
            connection.sendall(b"GET /toggle HTTP/1.1\r\nHost: x\r\n\r\n")
            with contextlib.suppress(ConnectionResetError):
                connection.recv(4096)
        wait_until(lambda: len(switch.requests) == 1 + keeps_open)
    assert switch.relay == keeps_open


def test_switching_has_an_empty_answer(switch: SimulatedSwitch) -> None:
    reply = ask(switch, "GET /relay?state=0")
    assert reply.headers["Content-Type"] == "text/plain"
    assert (reply.status, reply.headers["Content-Length"], reply.body) == (
        "HTTP/1.1 200 OK",
        "0",
        b"",
    )


@pytest.mark.parametrize("model", [model for model in MODELS if model != "v1"])
def test_what_is_unknown_is_not_found_as_recorded(switches: SimulatedSwitches, model: str) -> None:
    reply = ask(switches[model], "GET /no/such/path")
    assert reply.status == "HTTP/1.1 404 Not Found"
    assert reply.body.decode() == described("error-404")["body"]


def test_v1_redirects_what_it_does_not_know_to_its_page(switches: SimulatedSwitches) -> None:
    reply = ask(switches["v1"], "GET /api/v1/info")
    assert reply.status == "HTTP/1.1 302 Found"
    assert ask(switches["v1"], f"GET {reply.headers['Location']}").body.startswith(b"<html>")


# --- Behaviour ----------------------------------------------------------------------------------


def test_the_first_report_after_switching_on_is_the_recorded_one(clock: ManualClock) -> None:
    spec = SwitchSpec("lamp", model="eu", load=constant(8.9), relay=False)
    with SimulatedSwitches([spec], clock=clock) as switches:
        lamp = switches["lamp"]
        clock.now += 70
        ask(lamp, "GET /relay?state=1")
        clock.now += 19
        values = rb'\{"power":8.9,"Ws":1.9,"relay":true,'
        assert re.match(values, recorded("report-eu-fw3.83.1-on-first"))
        assert re.match(values, ask(lamp, "GET /report").body)
        clock.now += 5
        assert report(lamp)["Ws"] == 8.9


def test_whole_numbers_have_no_decimal_point(
    switches: SimulatedSwitches, clock: ManualClock
) -> None:
    clock.now += 2
    assert b'"energy_since_boot":201,' in ask(switches["v2"], "GET /report").body
    assert b'"power":\t100.500000,' in ask(switches["v1"], "GET /report").body
    ask(switches["v1"], "GET /relay?state=0")
    assert b'"power":\t0,' in ask(switches["v1"], "GET /report").body


def test_ws_is_the_mean_power_since_anybody_asked(
    switch: SimulatedSwitch, clock: ManualClock
) -> None:
    clock.now += 10
    assert report(switch)["Ws"] == 100.5
    ask(switch, "GET /toggle")
    clock.now += 3
    ask(switch, "GET /toggle")
    clock.now += 1
    assert report(switch)["Ws"] == round(100.5 / 4, 2)
    clock.now += 1
    assert report(switch)["Ws"] == 100.5


def test_the_button_toggles_the_relay(switch: SimulatedSwitch) -> None:
    assert (switch.relay, report(switch)["relay"]) == (True, True)
    switch.press_button()
    assert (switch.relay, report(switch)["relay"], report(switch)["power"]) == (False, False, 0)


@pytest.mark.parametrize(
    ("request_line", "form", "before_at_once_and_later"),
    [
        ("GET /power_cycle?time=10", "", (True, False, True)),
        ("POST /timer?mode=on&time=10", "", (False, True, False)),
        ("POST /timer?mode=off&time=10", "", (False, False, True)),
        ("POST /timer?mode=toggle&time=10", "", (True, False, True)),
        ("POST /timer", "mode=toggle&time=10", (False, True, False)),
    ],
)
def test_the_relay_is_set_for_a_time(
    switch: SimulatedSwitch,
    clock: ManualClock,
    request_line: str,
    form: str,
    before_at_once_and_later: tuple[bool, bool, bool],
) -> None:
    before, at_once, later = before_at_once_and_later
    ask(switch, f"GET /relay?state={int(before)}")
    assert ask(switch, request_line, body=form).status == "HTTP/1.1 200 OK"
    assert switch.relay == at_once
    clock.now += 9.9
    assert switch.relay == at_once
    clock.now += 0.1
    assert switch.relay == later


def test_a_timer_can_be_cancelled(switch: SimulatedSwitch, clock: ManualClock) -> None:
    ask(switch, "POST /timer?mode=off&time=10")
    ask(switch, "POST /timer?mode=none")
    clock.now += 20
    assert not switch.relay


@pytest.mark.parametrize(
    "request_line",
    [
        "GET /relay",
        "GET /relay?state=2",
        "GET /power_cycle?time=0",
        "GET /power_cycle?time=3601",
        "POST /timer?mode=sometimes&time=5",
        "POST /timer?mode=off",
        "POST /relay?state=0",
        "GET /timer?mode=off&time=5",
    ],
)
def test_what_no_source_documents_is_not_found_and_switches_nothing(
    switch: SimulatedSwitch, request_line: str
) -> None:
    assert ask(switch, request_line).status == "HTTP/1.1 404 Not Found"
    assert switch.relay


def test_settings_are_changed_as_recorded(switch: SimulatedSwitch) -> None:
    before = report(switch)["temperature"]
    reply = ask(switch, "POST /api/v1/settings", body='{"temp_offset":"-1"}')
    assert reply.body == recorded("api-v1-settings-post-response")
    assert report(switch)["temperature"] == pytest.approx(before - 1)
    degrees = json.loads(ask(switch, "GET /temp").body)
    assert degrees["offset"] == -1
    assert degrees["compensated"] == pytest.approx(report(switch)["temperature"])


@pytest.mark.parametrize(
    "body", ["", "[]", '{"temp_offset":31}', '{"rest":"maybe"}', '{"name":5}', "[" * 4000]
)
def test_unusable_settings_are_refused(switch: SimulatedSwitch, body: str) -> None:
    assert ask(switch, "POST /api/v1/settings", body=body).status == "HTTP/1.1 400 Bad Request"
    assert ask(switch, "GET /api/v1/settings").body == recorded("api-v1-settings-switch")


def test_the_monitor_is_set_by_another_name_than_shown(switch: SimulatedSwitch) -> None:
    for changes in ('{"enable":true,"tryAt":20}', '{"enabled":false}'):
        reply = ask(switch, "POST /api/v1/monitor", body=changes)
        assert json.loads(reply.body) == json.loads(recorded("api-v1-monitor")) | {
            "enabled": True,
            "tryAt": 20,
        }


def test_closed_rest_and_panel_are_not_found(switch: SimulatedSwitch) -> None:
    ask(switch, "POST /api/v1/settings", body='{"rest":false}')
    assert ask(switch, "GET /report").status == "HTTP/1.1 404 Not Found"
    ask(switch, "POST /api/v1/settings", body='{"rest":true,"panel":false}')
    assert ask(switch, "GET /report").status == "HTTP/1.1 200 OK"
    assert ask(switch, "GET /api/v1/settings").status == "HTTP/1.1 404 Not Found"


# --- Who is let in ------------------------------------------------------------------------------

ENCODING = "Accept-Encoding: identity\r\n"
OWN = "http://127.0.0.1"


@pytest.mark.parametrize(
    ("request_line", "headers", "status"),
    [
        ("GET /report", "", 200),
        ("GET /report", ENCODING, 404),
        ("GET /report", "accept-encoding:\r\n", 404),
        ("GET /report", f"{ENCODING}Referer: {OWN}/\r\n", 200),
        ("GET /report", f"{ENCODING}Origin: {OWN}\r\n", 200),
        ("GET /report", f"{ENCODING}Origin: http://192.0.2.1\r\n", 404),
        ("GET /relay?state=0", f"{ENCODING}Origin: {OWN}\r\n", 404),
        ("GET /toggle", f"{ENCODING}Referer: {OWN}/\r\n", 404),
        ("GET /power_cycle?time=5", f"{ENCODING}Origin: {OWN}\r\n", 404),
        ("POST /timer?mode=on&time=5", f"{ENCODING}Origin: {OWN}\r\n", 200),
    ],
)
def test_the_filter_keeps_browsers_out(
    switch: SimulatedSwitch, request_line: str, headers: str, status: int
) -> None:
    assert ask(switch, request_line, headers).status.split()[1] == str(status)
    assert switch.relay


def test_the_filter_can_be_switched(switch: SimulatedSwitch) -> None:
    for action, status in (("disable", "200"), ("enable", "404")):
        assert ask(switch, f"POST /api/v1/protection/{action}").body == b""
        assert ask(switch, "GET /report", ENCODING).status.split()[1] == status


@pytest.mark.parametrize("model", ["v1", "zero", "swisscom"])
def test_other_models_have_no_filter(switches: SimulatedSwitches, model: str) -> None:
    assert ask(switches[model], "GET /report", ENCODING).status == "HTTP/1.1 200 OK"


def test_only_the_right_token_is_let_in() -> None:
    with SimulatedSwitches([SwitchSpec("lamp", token="s3cret")]) as switches:
        lamp = switches["lamp"]
        for headers, status in (("", "404"), ("Token: x\r\n", "404"), ("Token: s3cret\r\n", "200")):
            reply = ask(lamp, "GET /relay?state=1", headers)
            assert reply.status.split()[1] == status
        assert reply.headers["Content-Length"] == "0"
        assert b"token" not in ask(lamp, "GET /api/v1/settings", "Token: s3cret\r\n").body


# --- python-mystrom, an independent client ------------------------------------------------------


def client_of(switch: SimulatedSwitch, token: str | None = None) -> MyStromSwitch:
    client = MyStromSwitch(switch.host, token=token)
    client.uri = URL(f"http://{switch.host}:{switch.port}")
    return client


@pytest.mark.parametrize("model", MODELS)
def test_python_mystrom_reads_and_switches(model: str, clock: ManualClock) -> None:
    spec = SwitchSpec("plug", model=model, load=constant(100.5), request_filter=False)

    async def read_and_switch(plug: SimulatedSwitch) -> None:
        async with client_of(plug) as client:
            clock.now += 10
            await client.get_state()
            keys = MODELS[model].report.split()
            assert client.relay
            assert client.consumption == (100.5 if "power" in keys else None)
            assert client.consumedWs == (100.5 if "Ws" in keys else None)
            assert (client.temperature is None) == ("temperature" not in keys)
            assert client.energy_since_boot == (1005 if "energy_since_boot" in keys else None)
            assert client.time_since_boot == (10 if "time_since_boot" in keys else None)
            assert (client.boot_id is None) == ("boot_id" not in keys)
            assert client.firmware == MODELS[model].firmware
            assert client.mac == plug.mac
            names = {"v1": None, "swisscom": None, "eu": "Switch EU", "zero": "Switch Zero"}
            assert client.device_type == names.get(model, "Switch CH v2")
            await client.turn_off()
            assert (client.relay, plug.relay) == (False, False)
            await client.turn_on()
            assert (client.relay, plug.relay) == (True, True)
            await client.toggle()
            assert (client.relay, plug.relay) == (False, False)

    with SimulatedSwitches([spec], clock=clock) as switches:
        asyncio.run(read_and_switch(switches["plug"]))
        assert all("accept-encoding" in request.headers for request in switches["plug"].requests)


@pytest.mark.parametrize(
    "spec",
    [
        SwitchSpec("filters", request_filter=True),
        SwitchSpec("locked", token="s3cret", request_filter=False),
    ],
)
def test_python_mystrom_is_kept_out(spec: SwitchSpec) -> None:
    async def try_to_switch(plug: SimulatedSwitch) -> None:
        async with client_of(plug) as client:
            with pytest.raises(MyStromConnectionError, match="authenticating"):
                await client.turn_off()

    with SimulatedSwitches([spec]) as switches:
        asyncio.run(try_to_switch(switches[spec.name]))
        assert switches[spec.name].relay


def test_python_mystrom_brings_the_token() -> None:
    async def switch_off(plug: SimulatedSwitch) -> None:
        async with client_of(plug, token="s3cret") as client:
            await client.turn_off()

    with SimulatedSwitches([SwitchSpec("plug", token="s3cret", request_filter=False)]) as switches:
        asyncio.run(switch_off(switches["plug"]))
        assert not switches["plug"].relay


# --- Faults -------------------------------------------------------------------------------------


def test_hang_never_answers_and_holds_up_nobody_else(switches: SimulatedSwitches) -> None:
    hanging = switches["v2"]
    hanging.set_fault("hang")
    with open_request(hanging, "GET /relay?state=0") as connection:
        assert report(switches["eu"])["relay"]
        assert select.select([connection], [], [], 0.5) == ([], [], [])
        assert [request.path for request in hanging.requests] == ["/relay"]
        hanging.clear_fault()
        assert report(hanging)["relay"]


def test_drip_sends_the_right_answer_byte_by_byte(switch: SimulatedSwitch) -> None:
    healthy = raw(open_request(switch, "GET /report"))
    switch.set_fault("drip", interval=0.005)
    start = time.monotonic()
    assert raw(open_request(switch, "GET /report")) == healthy
    assert time.monotonic() - start > 0.005 * (len(healthy) - 1)


def test_garbage_is_no_http(switch: SimulatedSwitch) -> None:
    switch.set_fault("garbage")
    with (
        open_request(switch, "GET /report") as connection,
        pytest.raises(http.client.HTTPException),
    ):
        http.client.HTTPResponse(connection).begin()


@pytest.mark.parametrize(
    ("fault", "status"),
    [("html", "200 OK"), ("404", "404 Not Found"), ("500", "500 Internal Server Error")],
)
def test_pages_come_in_place_of_answers(switch: SimulatedSwitch, fault: Fault, status: str) -> None:
    switch.set_fault(fault)
    reply = ask(switch, "GET /relay?state=0")
    assert reply.status == f"HTTP/1.1 {status}"
    assert reply.headers["Content-Type"] == "text/html"
    assert reply.body.startswith(b"<html>")
    switch.clear_fault()
    assert report(switch)["relay"]


def test_endless_goes_on_for_ever(switch: SimulatedSwitch) -> None:
    switch.set_fault("endless")
    with open_request(switch, "GET /report") as connection:
        answer = http.client.HTTPResponse(connection)
        answer.begin()
        assert (answer.status, answer.length) == (200, None)
        assert len(answer.read(5_000_000)) == 5_000_000
    switch.clear_fault()
    assert report(switch)["relay"]


def test_refused_closes_the_port_and_keeps_it(switch: SimulatedSwitch) -> None:
    port = switch.port
    report(switch)
    for _ in range(3):
        switch.set_fault("refused")
        with pytest.raises(ConnectionRefusedError):
            ask(switch, "GET /report")
        with pytest.raises(OSError, match="in use"):
            socket.create_server((switch.host, port))
        switch.clear_fault()
        assert switch.port == port
        assert report(switch)["relay"]


def test_refused_cuts_connections_that_are_open(switch: SimulatedSwitch) -> None:
    switch.set_fault("hang")
    with open_request(switch, "GET /report") as connection:
        wait_until(lambda: len(switch.requests) == 1)
        switch.set_fault("refused")
        with contextlib.suppress(ConnectionResetError):
            assert connection.recv(1) == b""


def test_one_fault_takes_the_place_of_another(switch: SimulatedSwitch) -> None:
    for fault in ("refused", "500", "refused", "404"):
        switch.set_fault(fault)
    assert ask(switch, "GET /report").status == "HTTP/1.1 404 Not Found"


def test_a_reboot_starts_the_counters_anew(switch: SimulatedSwitch, clock: ManualClock) -> None:
    ask(switch, "GET /relay?state=0")
    ask(switch, "POST /timer?mode=on&time=60")
    clock.now += 20
    before = report(switch)
    assert (before["energy_since_boot"], before["time_since_boot"]) == (2010, 20)
    switch.reboot()
    after = report(switch)
    assert (after["energy_since_boot"], after["time_since_boot"]) == (0, 0)
    assert re.fullmatch("[0-9A-F]{8}", after["boot_id"])
    assert after["boot_id"] != before["boot_id"]
    clock.now += 100
    assert report(switch)["energy_since_boot"] == 10050  # nobody ended what the timer began


def test_a_rebooting_switch_may_be_away(switch: SimulatedSwitch) -> None:
    before = report(switch)["boot_id"]
    switch.reboot(away=0.5)
    with pytest.raises(ConnectionRefusedError):
        ask(switch, "GET /report")

    def is_back() -> bool:
        with contextlib.suppress(ConnectionRefusedError):
            return bool(report(switch)["boot_id"] != before)
        return False

    wait_until(is_back)


@pytest.mark.parametrize(
    "nonsense",
    [
        b"\r\n\r\n",
        b"GET\r\n\r\n",
        b"\xff" * 200_000,
        b"POST / HTTP/1.1\r\nContent-Length: 99999\r\n\r\n",
    ],
)
def test_nonsense_is_hung_up_on(switch: SimulatedSwitch, nonsense: bytes) -> None:
    with socket.create_connection((switch.host, switch.port), timeout=WAIT) as connection:
        try:
            connection.sendall(nonsense)
            assert connection.recv(1) == b""
        except ConnectionError:
            pass  # hung up on before all of it was sent
    assert report(switch)["relay"]


@settings(deadline=None)
@given(
    st.sampled_from(["GET", "POST", "PUT"]),
    st.sampled_from([*MODELS]),
    st.sampled_from(["/relay", "/timer", "/power_cycle", "/api/v1/settings", "/api/v1/monitor"]),
    st.text(),
    st.binary(),
)
def test_no_request_breaks_a_switch(
    method: str, model: str, path: str, query: str, body: bytes
) -> None:
    device = Device(SwitchSpec("plug", model=model), ManualClock())
    answer = device.answer(Request(0.0, method, path, query, {}, body))
    assert answer.startswith(b"HTTP/1.1 ")


# --- Energy -------------------------------------------------------------------------------------


class Energy(RuleBasedStateMachine):
    """Whatever happens to a plug, its energy is the integral of the power it serves."""

    @initialize(watts=st.lists(st.integers(0, 3680), min_size=2, max_size=8))
    def plug_in(self, watts: list[int]) -> None:
        self.clock = ManualClock()
        self.load = Load([*enumerate(watts)])
        self.device = Device(SwitchSpec("plug", load=self.load), self.clock)
        self.plugged_in = self.read_at = self.clock.now
        self.relay = True
        self.switches_on_at: float | None = None
        self.joules = self.joules_read = 0.0

    def get(self, path: str, query: str = "") -> bytes:
        answer = self.device.answer(Request(0.0, "GET", path, query, {}, b""))
        return answer.partition(b"\r\n\r\n")[2]

    def power(self, time: float) -> float:
        return self.load.power(time - self.plugged_in) if self.relay else 0.0

    @rule(relay=st.booleans())
    def switch(self, *, relay: bool) -> None:
        self.get("/relay", f"state={int(relay)}")
        self.relay = relay

    @rule(seconds=st.integers(1, 20))
    def power_cycle(self, seconds: int) -> None:
        self.get("/power_cycle", f"time={seconds}")
        if self.relay:
            self.relay = False
            self.switches_on_at = self.clock.now + seconds

    @rule(half_seconds=st.integers(1, 60))
    def wait(self, half_seconds: int) -> None:
        for _ in range(half_seconds):
            # The load is straight within half a second: the power in its middle is exact.
            self.joules += self.power(self.clock.now + 0.25) * 0.5
            self.clock.now += 0.5
            if self.clock.now == self.switches_on_at:
                self.relay = True
                self.switches_on_at = None

    @rule()
    def restart(self) -> None:
        self.device.restart()
        self.joules = self.joules_read = 0.0
        self.read_at = self.clock.now
        self.switches_on_at = None

    @rule()
    def read(self) -> None:
        values = json.loads(self.get("/report"))
        passed = self.clock.now - self.read_at
        power = self.power(self.clock.now)
        mean = (self.joules - self.joules_read) / passed if passed else power
        assert values["power"] == pytest.approx(power, abs=0.006)
        assert values["Ws"] == pytest.approx(mean, abs=0.006)
        assert values["energy_since_boot"] == pytest.approx(self.joules, abs=0.006)
        assert values["relay"] == self.relay
        self.read_at, self.joules_read = self.clock.now, self.joules

    def teardown(self) -> None:
        self.read()


TestEnergy = Energy.TestCase


# --- Many, the program, announcements -----------------------------------------------------------


def processor_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_the_program_serves_a_hundred_switches_a_hundred_times_a_second() -> None:
    command = [sys.executable, "-m", "demo.switches", "--count", "100", "--port", "0"]
    command += ["--model", "eu"]
    with subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True) as program:
        assert program.stdout
        lines = [program.stdout.readline().split() for _ in range(100)]
        assert [name for name, _ in lines] == [f"my_strom-{i:03d}" for i in range(1, 101)]
        ports = [int(port) for _, port in lines]

        def power(port: int) -> float:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=WAIT)
            connection.putrequest("GET", "/report", skip_accept_encoding=True)
            connection.endheaders()
            with contextlib.closing(connection):
                return float(json.loads(connection.getresponse().read())["power"])

        start, worked = time.monotonic(), processor_seconds(program.pid)
        with ThreadPoolExecutor(20) as pool:
            powers = [*pool.map(power, ports * 5)]
        assert time.monotonic() - start < 5
        assert processor_seconds(program.pid) - worked < 2.5  # half of one core at this pace
        assert len(powers) == 500
        assert len(set(powers)) > 30

        with socket.create_connection(("127.0.0.1", ports[0])):  # a client that never asks
            program.send_signal(signal.SIGTERM)
            assert program.wait(WAIT) == 0


def test_too_many_switches_are_one_line_not_a_traceback() -> None:
    command = "ulimit -n 50 && exec $0 -m demo.switches --count 100 --port 0"
    program = subprocess.run(
        ["sh", "-c", command, sys.executable],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=WAIT,
        check=False,
    )
    assert program.returncode == 2
    assert program.stderr.splitlines()[-1].endswith("Too many open files")
    assert "Traceback" not in program.stderr


def test_switches_announce_themselves_as_recorded() -> None:
    specs = [SwitchSpec(model, model=model, host="127.0.0.2") for model in ("eu", "v1", "v2")]
    with socket.socket(type=socket.SOCK_DGRAM) as receiver:
        receiver.bind(("127.0.0.1", 0))
        receiver.settimeout(WAIT)
        with SimulatedSwitches(
            specs, announce_to=receiver.getsockname(), announce_interval=0.05
        ) as switches:
            received = [receiver.recvfrom(100) for _ in range(6)]
        announced = {datagram for datagram, _ in received}
        theirs = bytes.fromhex(described("udp-announce")["payload_hex"])
        assert bytes.fromhex(switches["eu"].mac) + theirs[6:] in announced
        assert bytes.fromhex(switches["v2"].mac) + bytes([106]) + theirs[7:] in announced
        assert len(announced) == 2  # v1 does not
        assert {address for _, (address, _) in received} == {"127.0.0.2"}


@pytest.mark.parametrize(
    ("specs", "error"),
    [
        ([SwitchSpec("a"), SwitchSpec("a")], ValueError),
        ([SwitchSpec("a", model="v9")], KeyError),
        ([SwitchSpec("a", load="toaster")], KeyError),
    ],
)
def test_an_impossible_switch_is_refused(specs: list[SwitchSpec], error: type[Exception]) -> None:
    with pytest.raises(error):
        SimulatedSwitches(specs)


def test_a_port_in_use_is_told() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        spec = SwitchSpec("plug", port=other.getsockname()[1])
        with pytest.raises(OSError, match="in use"), SimulatedSwitches([spec]):
            pass
