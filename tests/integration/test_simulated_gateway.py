"""The simulated gateway as a network server sees it: datagrams, frames, and what it answers."""

import base64
import json
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from typing import Any, NamedTuple

import pytest

from demo.gateway import Session, crypt, integrity_code, phy_payload
from demo.parts import HOST, REPOSITORY
from demo.process import wait_until
from demo.sensors import SENSORS
from openenergy.lorawan.decoders import DECODERS

# Published with github.com/anthonykirby/lora-packet (README, and its decoder on RunKit):
# PHYPayload, NwkSKey, AppSKey, DevAddr, counter, port, decrypted payload.
VECTORS = [
    (
        "40f17dbe4900020001954378762b11ff0d",
        Session(
            0x49BE7DF1,
            bytes.fromhex("44024241ed4ce9a68c6a8bc055233fd3"),
            bytes.fromhex("ec925802ae430ca77fd3dd73cb2cc588"),
        ),
        2,
        b"test",
    ),
    (
        "40ae130426800000016f895d98810714e3268295",
        Session(
            0x260413AE,
            bytes.fromhex("99d58493d1205b43eff938f0f66c339e"),
            bytes.fromhex("0a501524f8ea5fcbf9bdb5ad7d126f75"),
        ),
        0,
        b"abcdefg",
    ),
]
SESSION = Session(0x01020304, bytes(range(16)), bytes(range(16, 32)))


@pytest.mark.parametrize(("frame_hex", "session", "f_cnt", "content"), VECTORS)
def test_published_frames(frame_hex: str, session: Session, f_cnt: int, content: bytes) -> None:
    frame = bytes.fromhex(frame_hex)
    message, code = frame[:-4], frame[-4:]
    assert integrity_code(session.nwk_s_key, session.dev_addr, f_cnt, message) == code
    assert crypt(session.app_s_key, session.dev_addr, f_cnt, message[9:]) == content
    if frame[5] == 0:  # the other device had asked for adaptive data rate
        assert phy_payload(session, f_cnt, 1, content) == frame


def test_a_payload_of_several_blocks_and_a_counter_beyond_16_bits() -> None:
    data = bytes(range(51))
    frame = phy_payload(SESSION, 0x12345, 7, data)
    assert frame[6:9] == b"\x45\x23\x07"
    assert crypt(SESSION.app_s_key, SESSION.dev_addr, 0x12345, frame[9:-4]) == data
    code = integrity_code(SESSION.nwk_s_key, SESSION.dev_addr, 0x12345, frame[:-4])
    assert frame[-4:] == code
    assert code != integrity_code(SESSION.nwk_s_key, SESSION.dev_addr, 0x2345, frame[:-4])


class Datagram(NamedTuple):
    """What a gateway sent: PROTOCOL.TXT of Lora-net/packet_forwarder, sections 3.2 and 5.2."""

    kind: int
    token: bytes
    eui: str
    content: Any


class Server:
    """A network server's end of the Semtech UDP protocol."""

    def __init__(self, port: int = 0) -> None:
        self.datagrams: list[Datagram] = []
        self.is_answering = True
        self._address: tuple[str, int] | None = None
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind((HOST, port))
        self.port = self._socket.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def close(self) -> None:
        self._socket.close()

    def send_downlink(self, data: bytes) -> None:
        content = {"txpk": {"imme": True, "data": base64.b64encode(data).decode()}}
        assert self._address
        self._socket.sendto(b"\x02\xaa\xbb\x03" + json.dumps(content).encode(), self._address)

    def of_kind(self, kind: int) -> list[Datagram]:
        return [each for each in self.datagrams if each.kind == kind]

    def wait_for(self, kind: int, count: int = 1) -> list[Datagram]:
        what = f"{count} datagrams of kind {kind}"
        wait_until(lambda: len(self.of_kind(kind)) >= count, 20, what)
        return self.of_kind(kind)

    def _serve(self) -> None:
        while True:
            try:
                datagram, self._address = self._socket.recvfrom(65535)
            except OSError:
                return
            version, token, kind = datagram[0], datagram[1:3], datagram[3]
            assert version == 2
            content = json.loads(datagram[12:]) if datagram[12:] else None
            self.datagrams.append(Datagram(kind, token, datagram[4:12].hex(), content))
            answer = {0: 1, 2: 4}.get(kind)
            if answer is not None and self.is_answering:
                self._socket.sendto(b"\x02" + token + bytes([answer]), self._address)


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.close()


@pytest.fixture
def gateway(server: Server) -> Iterator[subprocess.Popen[str]]:
    argv = [sys.executable, "-m", "demo.gateway", "--server", HOST, "--port", str(server.port)]
    argv += ["--dev-addr", "01020304", "--nwk-s-key", SESSION.nwk_s_key.hex()]
    argv += ["--app-s-key", SESSION.app_s_key.hex(), "--first-counter", "65534"]
    with subprocess.Popen(
        argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=REPOSITORY
    ) as process:
        yield process
        process.kill()


def test_a_server_gets_frames_that_it_can_read(
    server: Server, gateway: subprocess.Popen[str]
) -> None:
    (keepalive,) = server.wait_for(2)
    assert (keepalive.eui, keepalive.content) == ("b827ebfffe4a10c7", None)
    (sensor,) = (sensor for sensor in SENSORS if sensor.name == "office 214")
    series = []
    for f_cnt, datagram in enumerate(server.wait_for(0, 2)[:2], 65534):
        (packet,) = datagram.content["rxpk"]
        assert packet["modu"] == "LORA"
        assert (packet["freq"], packet["datr"], packet["stat"]) == (868.1, "SF7BW125", 1)
        frame = base64.b64decode(packet["data"])
        assert packet["size"] == len(frame)
        code = integrity_code(SESSION.nwk_s_key, SESSION.dev_addr, f_cnt, frame[:-4])
        assert frame[-4:] == code
        data = crypt(SESSION.app_s_key, SESSION.dev_addr, f_cnt, frame[9:-4])
        series.append(DECODERS[sensor.decoder](frame[8], data).series)
    assert series == ["", "4c"]
    assert datagram.eui == keepalive.eui

    server.send_downlink(b"\x60")
    (acknowledged,) = server.wait_for(5)
    assert acknowledged.token == b"\xaa\xbb"
    assert acknowledged.content == {"txpk_ack": {"error": "NONE"}}
    gateway.terminate()
    output, errors = gateway.communicate(timeout=10)
    assert "downlink YA==" in output
    assert errors == ""


def test_a_server_that_is_away_is_told_of_and_used_when_it_is_back(
    server: Server, gateway: subprocess.Popen[str]
) -> None:
    server.is_answering = False
    server.wait_for(0)
    server.close()  # the gateway's machine is told that nobody listens
    assert gateway.stderr
    line = gateway.stderr.readline()  # with the next keepalive
    assert line.startswith("no answer to ")
    with closing(Server(server.port)) as server_again:
        server_again.wait_for(0)


def test_wrong_usage_is_one_line() -> None:
    argv = [
        sys.executable,
        "-m",
        "demo.gateway",
        "--dev-addr",
        "1",
        "--nwk-s-key",
        "",
        "--app-s-key",
    ]
    done = subprocess.run(
        [*argv, ""], capture_output=True, text=True, check=False, cwd=REPOSITORY, timeout=30
    )
    assert done.returncode == 2
    assert "--dev-addr: expected 8 hexadecimal digits" in done.stderr
    assert "Traceback" not in done.stderr
