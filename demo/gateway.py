r"""A simulated LoRaWAN gateway with one of the simulated sensors, for a real ChirpStack.

python -m demo.gateway --server localhost --device "office 214" \
    --dev-addr 01020304 --nwk-s-key 32_HEX_DIGITS --app-s-key 32_HEX_DIGITS

In ChirpStack add a gateway with the EUI below, and a device of LoRaWAN 1.0.x that is activated by
personalisation (ABP), with this address, these keys, and frame-counter validation disabled. The
gateway speaks the Semtech UDP protocol of a RAK7246 or a LoPy nano-gateway.

Needs the package cryptography: pip install -r demo/requirements.txt. Sources: LoRaWAN 1.0.3
Specification, section 4; PROTOCOL.TXT of github.com/Lora-net/packet_forwarder.
"""

import argparse
import base64
import contextlib
import re
import secrets
import socket
import struct
import sys
import time
from typing import Any, Final, NamedTuple

import msgspec
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES128
from cryptography.hazmat.primitives.ciphers.modes import ECB
from cryptography.hazmat.primitives.cmac import CMAC

from demo.sensors import PERIOD_S, SENSORS, Sensor, frames

PORT: Final = 1700
GATEWAY_EUI: Final = "b827ebfffe4a10c7"
F_PORT: Final = 1
UNCONFIRMED_DATA_UP: Final = 0x40
BLOCK: Final = 16

# PROTOCOL.TXT, section 3.2 and 5.2: a version, two bytes of a token, what it is.
VERSION: Final = 2
PUSH_DATA, PUSH_ACK, PULL_DATA, PULL_RESP, PULL_ACK, TX_ACK = range(6)
KEEPALIVE_S: Final = 10.0
MAX_DATAGRAM: Final = 65535


class Session(NamedTuple):
    """What an ABP device and its network know: the address, and two keys of 16 bytes."""

    dev_addr: int
    nwk_s_key: bytes
    app_s_key: bytes


def phy_payload(session: Session, f_cnt: int, f_port: int, data: bytes) -> bytes:
    """Return an uplink as it goes on the air: encrypted, with its message integrity code."""
    header = struct.pack("<BIBHB", UNCONFIRMED_DATA_UP, session.dev_addr, 0, f_cnt & 0xFFFF, f_port)
    message = header + crypt(session.app_s_key, session.dev_addr, f_cnt, data)
    return message + integrity_code(session.nwk_s_key, session.dev_addr, f_cnt, message)


def crypt(key: bytes, dev_addr: int, f_cnt: int, data: bytes) -> bytes:
    """Encrypt an uplink's FRMPayload, or decrypt it: LoRaWAN 1.0.3, section 4.3.3."""
    blocks = b"".join(
        struct.pack("<B4xBIIxB", 0x01, 0, dev_addr, f_cnt, number)
        for number in range(1, -(-len(data) // BLOCK) + 1)
    )
    stream = Cipher(AES128(key), ECB()).encryptor().update(blocks)  # noqa: S305 - as specified
    return bytes(byte ^ mask for byte, mask in zip(data, stream, strict=False))


def integrity_code(key: bytes, dev_addr: int, f_cnt: int, message: bytes) -> bytes:
    """Return an uplink's MIC: LoRaWAN 1.0.3, section 4.4."""
    code = CMAC(AES128(key))
    code.update(struct.pack("<B4xBIIxB", 0x49, 0, dev_addr, f_cnt, len(message)))
    code.update(message)
    return code.finalize()[:4]


class Gateway:
    """Forwards what it hears to a server, and keeps the way back open."""

    def __init__(self, host: str, port: int, eui: str = GATEWAY_EUI) -> None:
        """Take a socket; OSError if the name of the server is unknown."""
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0]
        self._socket = socket.socket(family, kind)
        self._socket.connect(address)
        self._eui = bytes.fromhex(eui)
        self._unanswered: dict[bytes, int] = {}
        self._keepalive_at_s = 0.0

    def close(self) -> None:
        """Give the socket back."""
        self._socket.close()

    def forward(self, frame: bytes) -> None:
        """Send a frame to the server, as heard just now with a good signal."""
        packet = {
            "tmst": time.monotonic_ns() // 1000 % 2**32,
            "freq": 868.1,
            "chan": 0,
            "rfch": 0,
            "stat": 1,
            "modu": "LORA",
            "datr": "SF7BW125",
            "codr": "4/5",
            "rssi": -71,
            "lsnr": 8.5,
            "size": len(frame),
            "data": base64.b64encode(frame).decode(),
        }
        self._ask(PUSH_DATA, msgspec.json.encode({"rxpk": [packet]}))

    def serve_until(self, moment_s: float) -> None:
        """Keep the way back open and take what comes, until time.monotonic() says so."""
        while (now_s := time.monotonic()) < moment_s:
            if now_s >= self._keepalive_at_s:
                self._keepalive_at_s = now_s + KEEPALIVE_S
                if self._unanswered:
                    print(f"no answer to {len(self._unanswered)} datagrams", file=sys.stderr)
                    self._unanswered.clear()
                self._ask(PULL_DATA)
            self._socket.settimeout(max(0.01, min(moment_s, self._keepalive_at_s) - now_s))
            try:
                self._take(self._socket.recv(MAX_DATAGRAM))
            except TimeoutError:
                pass
            except ConnectionRefusedError:
                time.sleep(0.1)  # nobody listens there; the datagrams count as unanswered

    def _ask(self, kind: int, content: bytes = b"") -> None:
        token = secrets.token_bytes(2)
        self._unanswered[token] = PUSH_ACK if kind == PUSH_DATA else PULL_ACK
        self._send(kind, token, content)

    def _send(self, kind: int, token: bytes, content: bytes) -> None:
        datagram = bytes([VERSION]) + token + bytes([kind]) + self._eui + content
        with contextlib.suppress(ConnectionRefusedError):  # of the one before; see serve_until
            self._socket.send(datagram)

    def _take(self, datagram: bytes) -> None:
        if len(datagram) < 4 or datagram[0] != VERSION:
            return
        token, kind = datagram[1:3], datagram[3]
        if self._unanswered.get(token) == kind:
            del self._unanswered[token]
        elif kind == PULL_RESP:
            print(f"downlink {_downlink(datagram[4:])}")
            self._send(TX_ACK, token, b'{"txpk_ack":{"error":"NONE"}}')


def _downlink(content: bytes) -> Any:
    try:
        return msgspec.json.decode(content)["txpk"]["data"]
    except (ValueError, KeyError, TypeError):
        return "that cannot be read"


def run(gateway: Gateway, sensor: Sensor, session: Session, first_counter: int, seed: int) -> None:
    """Send the sensor's frames for ever, each when it is due."""
    began_s = time.monotonic()
    for f_cnt, frame in enumerate(frames(sensor, seed), first_counter):
        gateway.serve_until(began_s + frame.slot * PERIOD_S + frame.delay_s)
        if frame.deliveries:
            gateway.forward(phy_payload(session, f_cnt, F_PORT, frame.data))
        outcome = "sent" if frame.deliveries else "lost on the air"
        print(f"frame {f_cnt} of {sensor.name}, {frame.data.hex()}: {outcome}", flush=True)


def _hexadecimal(digits: int) -> Any:
    def parse(text: str) -> str:
        if not re.fullmatch(f"[0-9A-Fa-f]{{{digits}}}", text):
            raise argparse.ArgumentTypeError(f"expected {digits} hexadecimal digits")
        return text

    return parse


def main() -> None:
    """Run until Ctrl-C."""
    parser = argparse.ArgumentParser("python -m demo.gateway", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    sensors = {sensor.name: sensor for sensor in SENSORS}
    parser.add_argument("--server", default="localhost", help="host of ChirpStack's gateway bridge")
    parser.add_argument("--port", type=int, default=PORT)
    parser.add_argument("--gateway-eui", type=_hexadecimal(16), default=GATEWAY_EUI)
    parser.add_argument("--device", choices=sensors, default="office 214")
    parser.add_argument("--dev-addr", type=_hexadecimal(8), required=True)
    parser.add_argument("--nwk-s-key", type=_hexadecimal(32), required=True)
    parser.add_argument("--app-s-key", type=_hexadecimal(32), required=True)
    parser.add_argument("--first-counter", type=int, default=0, help="frame counter to begin with")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    session = Session(
        int(options.dev_addr, 16),
        bytes.fromhex(options.nwk_s_key),
        bytes.fromhex(options.app_s_key),
    )
    try:
        gateway = Gateway(options.server, options.port, options.gateway_eui)
        run(gateway, sensors[options.device], session, options.first_counter, options.seed)
    except OSError as error:
        sys.exit(f"{options.server}:{options.port}: {error}")
    except KeyboardInterrupt:
        pass


if __name__ == "__main__":
    main()
