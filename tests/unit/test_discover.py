"""--discover in a network of our own: a free port, and packets as anyone may send them."""

import argparse
import re
import socket
import threading
from pathlib import Path

import pytest

from openenergy import config, discover, mystrom
from openenergy.mystrom import Announcement

HOST, EVERYBODY = "127.0.0.1", "255.255.255.255"
# Sent by a real switch (bts-lasalle-avignon-ressources/myStrom): MAC, type 107, flags.
REAL = bytes.fromhex("083af271e8006b04")


@pytest.fixture(autouse=True)
def port(monkeypatch: pytest.MonkeyPatch) -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
    monkeypatch.setattr(mystrom, "ANNOUNCEMENT_PORT", port)
    monkeypatch.setattr(mystrom, "ANNOUNCED_WITHIN_S", 1.0)
    return port


def run_while_sending(port: int, *packets: bytes, path: Path = Path("none.toml")) -> int:
    done = threading.Event()

    def send() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sender.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
            sender.bind((HOST, 0))  # also keeps the broadcast on this machine
            while not done.wait(0.05):
                for packet in packets:
                    sender.sendto(packet, (EVERYBODY, port))

    sending = threading.Thread(target=send)
    sending.start()
    try:
        return discover.run(argparse.Namespace(config=path))
    finally:
        done.set()
        sending.join()


def test_nothing_heard_is_one_line_and_status_1(capsys: pytest.CaptureFixture[str]) -> None:
    assert discover.run(argparse.Namespace(config=Path("none.toml"))) == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.splitlines()[1:] == [
        "no switch heard: they are heard in the same network only, and the first model never"
    ]


def test_other_devices_and_packets_are_no_switches_that_we_know(
    port: int, capsys: pytest.CaptureFixture[str]
) -> None:
    button, unknown = REAL[:5] + b"\x01\x68\0", REAL[:5] + b"\x02\xff\0"
    assert run_while_sending(port, button, unknown, b"\x1b[2J", REAL + b"\0", b"") == 1
    assert sorted(capsys.readouterr().out.splitlines()) == [
        f"# no switch: Button, MAC 083AF271E801, at {HOST}",
        f"# unknown device: type 255, MAC 083AF271E802, at {HOST}",
    ]


def test_a_flood_ends_and_nothing_of_it_controls_the_terminal(
    port: int, capsys: pytest.CaptureFixture[str]
) -> None:
    flood = [b"\x1b[2J" + number.to_bytes(2, "big") + b"\x6b\x1b" for number in range(300)]
    assert run_while_sending(port, *flood) == 0
    output = capsys.readouterr().out
    assert output.count("[[MyStromSwitch]]") <= discover.MAX_DEVICES
    assert re.fullmatch(r"[\n -~]*", output)


def test_a_port_that_is_taken_is_one_line_and_status_1(
    port: int, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.bind(("", port))
        assert discover.run(argparse.Namespace(config=Path("none.toml"))) == 1
    expected = f"cannot listen on UDP port {port}: Address already in use\n"
    assert capsys.readouterr().err == expected


def test_a_configuration_with_errors_is_no_obstacle(
    port: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "credentials.toml"
    path.write_text("[MQTT")
    assert run_while_sending(port, REAL, path=path) == 0
    said = capsys.readouterr()
    assert said.err.startswith(f"{path} has errors (--check)")
    assert 'macAdress = "083AF271E800"' in said.out


@pytest.mark.parametrize("mac", ["08:3A:F2:71:E8:00", "71e800", "083a.f271.e800", "71-E8-00"])
def test_a_configured_mac_address_is_known_however_it_is_written(mac: str) -> None:
    device = Announcement("083af271e800", 107, "192.0.2.10")
    lamp = config.MyStromSwitch(name="lamp", macAdress=mac)
    other = config.MyStromSwitch(name="other", host="192.0.2.11")
    said = "# configured as lamp: Switch EU, MAC 083AF271E800, at 192.0.2.10"
    assert discover.entry(device, [other, lamp]) == said
    assert discover.entry(device, [other]).startswith("[[MyStromSwitch]]")


@pytest.mark.parametrize("host", ["192.0.2.10", "192.0.2.10:80"])
def test_a_configured_address_is_known_however_it_is_written(host: str) -> None:
    device = Announcement("083af271e800", 107, "192.0.2.10")
    lamp = config.MyStromSwitch(name="lamp", host=host)
    said = "# configured as lamp: Switch EU, MAC 083AF271E800, at 192.0.2.10"
    assert discover.entry(device, [lamp]) == said
