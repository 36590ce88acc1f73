"""Where a switch without a configured address is: as announced, else as its name says."""

import logging
import re
import socket
from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from demo.process import wait_until
from openenergy import mystrom
from openenergy.config import MyStromSwitch
from openenergy.mystrom import Announcements, Switch, SwitchError
from tests.unit.raw_server import HOST, RawServer, answering, http_answer

# Sent by a real switch (bts-lasalle-avignon-ressources/myStrom): MAC, type 107, flags.
ANNOUNCEMENT = bytes.fromhex("083af271e8006b04")
SENTINEL = bytes.fromhex("0000000000016a00")
EVERYBODY = "255.255.255.255"
MACS = ("083af271e800", "71e800", SENTINEL[:6].hex())

# Sends a packet from an address of this machine to another, or to everybody.
Announce = Callable[..., None]


@pytest.fixture(autouse=True)
def port(monkeypatch: pytest.MonkeyPatch) -> int:
    """Listen on a free port instead of 7979, where real switches may be heard."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
    monkeypatch.setattr(mystrom, "ANNOUNCEMENT_PORT", port)
    return port


@pytest.fixture
def announcements() -> Announcements:
    announcements = Announcements(MACS)
    announcements.start()
    return announcements


@pytest.fixture
def announce(port: int) -> Announce:
    def announce(packet: bytes, sender: str = HOST, receiver: str = EVERYBODY) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as channel:
            channel.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
            channel.bind((sender, 0))  # also keeps the broadcast on this machine
            channel.sendto(packet, (receiver, port))

    return announce


def wait_for(announcements: Announcements, mac: str) -> str:
    return wait_until(lambda: announcements.address(mac), 10, f"announcement of {mac}")


@pytest.mark.parametrize("mac", ["083af271e800", "71e800"])
def test_an_announcement_tells_the_address_of_a_mac_or_its_end(
    announcements: Announcements, announce: Announce, mac: str
) -> None:
    assert announcements.address(mac) is None
    announce(ANNOUNCEMENT)
    assert wait_for(announcements, mac) == HOST


@pytest.mark.parametrize("receiver", ["127.0.0.1", "127.255.255.255"])
def test_this_machine_itself_is_heard(
    announcements: Announcements, announce: Announce, receiver: str
) -> None:
    announce(ANNOUNCEMENT, receiver=receiver)
    assert wait_for(announcements, "083af271e800") == HOST


def test_what_is_no_broadcast_is_not_heard_since_it_may_come_from_anywhere(
    announcements: Announcements, announce: Announce
) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(("192.0.2.1", 9))  # sends nothing, but chooses an address of ours
        own_address = probe.getsockname()[0]
    announce(ANNOUNCEMENT, sender=own_address, receiver=own_address)
    announce(SENTINEL)
    wait_for(announcements, SENTINEL[:6].hex())
    assert announcements.address("083af271e800") is None


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@example([b"", b"\0", ANNOUNCEMENT[:7], ANNOUNCEMENT + b"\0", b"\xff" * 1400])
@given(st.lists(st.binary(max_size=20).filter(lambda packet: len(packet) != 8), max_size=5))
def test_packets_of_another_size_are_no_announcements(
    announcements: Announcements, announce: Announce, packets: list[bytes]
) -> None:
    announcements.forget(SENTINEL[:6].hex())
    for packet in packets:
        announce(packet)
    announce(SENTINEL)
    wait_for(announcements, SENTINEL[:6].hex())
    assert announcements.address("083af271e800") is None


def test_a_flood_of_announcements_hides_no_switch_from_us(
    announcements: Announcements, announce: Announce
) -> None:
    for number in range(2, 1052):
        announce(number.to_bytes(6, "big") + b"\x6a\0")
        if number % 50 == 0:  # not more than the kernel keeps for us
            announce(SENTINEL)
            wait_for(announcements, SENTINEL[:6].hex())
            announcements.forget(SENTINEL[:6].hex())
    announce(ANNOUNCEMENT)
    assert wait_for(announcements, "71e800") == HOST
    announce(ANNOUNCEMENT, sender="127.0.0.2")
    wait_until(lambda: announcements.address("71e800") == "127.0.0.2", 10, "its new address")
    assert announcements.address(f"{1051:012x}") is None


def test_a_port_that_is_taken_is_a_warning(port: int, caplog: pytest.LogCaptureFixture) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other, caplog.at_level(logging.INFO):
        other.bind(("", port))
        Announcements().start()
        assert caplog.messages == []  # nobody to listen for
        Announcements(MACS).start()
    assert caplog.messages == [f"cannot listen on UDP port {port}: Address already in use"]


def test_an_announced_switch_is_asked_at_its_address(
    announcements: Announcements, announce: Announce, monkeypatch: pytest.MonkeyPatch
) -> None:
    announce(ANNOUNCEMENT)
    wait_for(announcements, "71e800")
    with RawServer(answering(http_answer(b'{"relay":true}'))) as server:
        monkeypatch.setattr(mystrom, "HTTP_PORT", server.port)
        for mac in ("08:3A:F2:71:E8:00", "083af271e800", "083a.f271.e800", "71-E8-00"):
            switch = Switch(MyStromSwitch(name="plug", macAdress=mac), announcements)
            assert switch.report().relay
    assert len(server.requests) == 4


@pytest.mark.parametrize(
    ("domain", "name"),
    [("", "mystrom-switch-71e800"), ("home.lan", "mystrom-switch-71e800.home.lan")],
)
def test_a_switch_that_was_not_announced_is_found_by_its_name(
    monkeypatch: pytest.MonkeyPatch, domain: str, name: str
) -> None:
    names: list[str] = []

    def look_up(host: str, port: int, *_hints: object, **_more: object) -> object:
        names.append(host)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (HOST, port))]

    with RawServer(answering(http_answer(b'{"relay":true}'))) as server:
        monkeypatch.setattr(mystrom, "HTTP_PORT", server.port)
        monkeypatch.setattr(socket, "getaddrinfo", look_up)
        settings = MyStromSwitch(name="plug", macAdress="08:3A:F2:71:E8:00", domain=domain)
        assert Switch(settings, Announcements()).report().relay
    assert set(names) == {name}
    assert f"\r\nHost: {name}:{server.port}\r\n".encode() in server.requests[0]


def test_a_switch_that_is_nowhere_is_an_error_that_names_both_ways(
    monkeypatch: pytest.MonkeyPatch, port: int
) -> None:
    def look_up(*_hints: object, **_more: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    switch = Switch(MyStromSwitch(name="plug", macAdress="71e800", domain="lan"), Announcements())
    with pytest.raises(SwitchError) as caught:
        switch.report()
    assert str(caught.value) == (
        "not found: there is no host mystrom-switch-71e800.lan, and nothing was announced on"
        f" UDP port {port} yet"
    )
    assert str(switch) == "plug at 71e800"


def test_a_switch_in_doubt_is_asked_at_its_name_until_it_announces_itself_again(
    announcements: Announcements, announce: Announce, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = {HOST: HOST}
    look_up = socket.getaddrinfo

    def look_up_here(host: str, port: int, **more: int) -> object:
        if host not in known:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return look_up(known[host], port, **more)

    def hosts() -> list[str]:
        """Return whom the requests were meant for."""
        return re.findall(r"Host: (.*):", b"".join(server.requests).decode())

    switch = Switch(MyStromSwitch(name="plug", macAdress="083AF271E800"), announcements)
    monkeypatch.setattr(socket, "getaddrinfo", look_up_here)
    announce(ANNOUNCEMENT)
    wait_for(announcements, "083af271e800")
    with RawServer(answering(http_answer(b'{"relay":true}'))) as server:
        monkeypatch.setattr(mystrom, "HTTP_PORT", server.port)
        switch.report()
        switch.doubt_address()
        switch.report()  # its name is not known yet
        known["mystrom-switch-71e800"] = HOST
        switch.report()
        announce(ANNOUNCEMENT)
        wait_for(announcements, "083af271e800")
        switch.report()
    assert hosts() == [HOST, HOST, "mystrom-switch-71e800", HOST]
