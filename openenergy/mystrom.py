"""The myStrom WiFi Switch: its HTTP API and its discovery broadcast.

From the vendor's API collection (https://api.mystrom.ch) and from what real switches do. They
speak plain HTTP/1.1, one request per connection, and are particular about it:

- Firmware from 3.82.56 can answer 404 to any request with an Accept-Encoding header (its filter
  against foreign web pages), so there must be none, which few HTTP libraries can do.
- `/relay` answers with an empty body; a missing or wrong token with 404, like an unknown path.
- What a model does not measure is missing from `/report`; whole numbers have no decimal point.
"""

import contextlib
import http.client
import io
import logging
import socket
import struct
import threading
import time
from collections.abc import Iterable
from typing import Annotated, Any, Final, NamedTuple
from urllib.parse import urlsplit

import msgspec
from msgspec import Meta

from openenergy import config

# The longest answer we use has 200 bytes.
MAX_ANSWER: Final = 65536
# More than a switch can count: 3680 W, the most it carries, for 86 years.
MAX_ENERGY_WS: Final = 1e13
HTTP_PORT: Final = 80
ANNOUNCEMENT_PORT: Final = 7979
# ip(7): where a packet was sent to, as struct in_pktinfo. Python has a name for it from 3.12 on.
IP_PKTINFO: Final = 8
PKTINFO: Final = struct.Struct("@i4s4s")
# An announcement: MAC (6 bytes), type, flags. One comes every 5 to 15 s.
ANNOUNCEMENT_SIZE: Final = 8
# Time for two or three of them, since some get lost.
ANNOUNCED_WITHIN_S: Final = 20.0
# Where a switch says who it is; the first model knows the second path alone.
INFO_PATHS: Final = ("/api/v1/info", "/info.json")
MODELS: Final = {
    101: "Switch CH v1",
    106: "Switch CH v2",
    107: "Switch EU",
    114: "Swisscom Home switch",
    120: "Switch Zero",
}

log = logging.getLogger("switch")


class SwitchError(Exception):
    """A switch did not do what it was asked for; says why."""


class Report(msgspec.Struct, frozen=True):
    """What `/report` says; None is what the model or its firmware does not report.

    `power` is in W now; `Ws`, in spite of its name, is the mean power in W since the previous
    report to anyone; `energy_since_boot` is in Ws, and zero again with every new `boot_id`.
    """

    relay: bool
    power: float | None = None
    Ws: float | None = None
    temperature: float | None = None
    boot_id: str | None = None
    energy_since_boot: Annotated[float, Meta(ge=0, le=MAX_ENERGY_WS)] | None = None


class Info(msgspec.Struct, frozen=True):
    """Who a switch says it is; `type` is missing from the first model."""

    mac: Annotated[str, Meta(pattern=r"^[0-9A-Fa-f]{12}\Z")]
    version: Annotated[str, Meta(pattern=r"^[!-~]{0,32}\Z")] = ""
    type: int | str | None = None


class Announcement(NamedTuple):
    """What a device says by broadcast: MAC address (12 lower-case digits), type, address."""

    mac: str
    type: int
    address: str


def open_receiver() -> socket.socket:
    """Return a socket that hears announcements; raises OSError.

    Other programs may listen beside us: each gets a copy of a broadcast.
    """
    receiver = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    try:
        receiver.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        receiver.setsockopt(socket.IPPROTO_IP, IP_PKTINFO, 1)
        receiver.bind(("", ANNOUNCEMENT_PORT))
    except OSError:
        receiver.close()
        raise
    return receiver


def receive_announcement(receiver: socket.socket) -> Announcement | None:
    """Wait for a packet; None if it is no announcement.

    Those are broadcast: what is sent to this very machine may come from anywhere, unless it comes
    from itself.
    """
    packet, [(_, _, told)], _, (address, _port) = receiver.recvmsg(
        ANNOUNCEMENT_SIZE + 1, socket.CMSG_SPACE(PKTINFO.size)
    )
    _, own_address, destination = PKTINFO.unpack(told)
    is_local = destination[0] == 127
    if len(packet) != ANNOUNCEMENT_SIZE or (destination == own_address and not is_local):
        return None
    return Announcement(packet[:6].hex(), packet[6], address)


class Announcements:
    """Where the switches are that announce themselves by broadcast (UDP port 7979)."""

    def __init__(self, macs: Iterable[str] = ()) -> None:
        """Care for the switches whose MAC address ends so (6 or 12 digits); `start` listens."""
        self._macs = frozenset(macs)
        self._addresses: dict[str, str] = {}

    def start(self) -> None:
        """Listen from now on, if there is anyone to listen for."""
        if not self._macs:
            return
        try:
            receiver = open_receiver()
        except OSError as error:
            log.warning("cannot listen on UDP port %d: %s", ANNOUNCEMENT_PORT, error.strerror)
            return
        threading.Thread(
            target=self._listen, args=(receiver,), name="announcements", daemon=True
        ).start()

    def address(self, mac: str) -> str | None:
        """Return where a switch said last that it is, None if it did not, or that was forgotten."""
        return self._addresses.get(mac)

    def forget(self, mac: str) -> None:
        """Know nothing of a switch until it announces itself again."""
        self._addresses.pop(mac, None)

    def _listen(self, receiver: socket.socket) -> None:
        while True:
            heard = receive_announcement(receiver)
            if heard:
                for mac in filter(heard.mac.endswith, self._macs):
                    self._addresses[mac] = heard.address


class Switch:
    """One switch, asked over HTTP; not for several threads at once."""

    def __init__(self, settings: config.MyStromSwitch, announcements: Announcements) -> None:
        """Prepare; the switch need not be there yet."""
        self.settings = settings
        self._announcements = announcements
        self._last_announced: str | None = None

    def __str__(self) -> str:
        """Name and address, as a log shows them."""
        return f"{self.settings.name} at {self.settings.host or self.settings.macAdress}"

    def report(self) -> Report:
        """Ask for a report; raises SwitchError."""
        body = self._get("/report")
        try:
            return msgspec.json.decode(body, type=Report)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise SwitchError(f"its report is not what a myStrom switch says: {error}") from error

    def info(self) -> Info:
        """Ask who it is; raises SwitchError."""
        for path in INFO_PATHS:
            try:
                return msgspec.json.decode(self._get(path), type=Info)
            except SwitchError as error:
                failure = error
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
                failure = SwitchError(f"its {path} is not what a myStrom switch says: {error}")
        raise failure

    def set_relay(self, *, closed: bool) -> None:
        """Close (on) or open (off) the relay; raises SwitchError. Can be repeated without harm."""
        self._get(f"/relay?state={closed:d}")

    def doubt_address(self) -> None:
        """Look for it by its name, until it announces itself again: it does not answer.

        An old address is asked for ever otherwise, where its broadcasts do not reach us any more.
        """
        self._announcements.forget(self.settings.mac)

    def try_report(self) -> None:
        """Ask for a report, for `--check`; raises OSError with the reason.

        A switch that is known by its MAC address alone gets the time to announce itself.
        """
        deadline = time.monotonic() + ANNOUNCED_WITHIN_S
        while not self._is_found() and time.monotonic() < deadline:
            time.sleep(1)
        try:
            self.report()
        except SwitchError as error:
            raise OSError(str(error)) from error

    def _is_found(self) -> bool:
        try:
            self._address()
        except SwitchError:
            return False
        return True

    def _get(self, path: str) -> bytes:
        host, port = self._address()
        deadline = time.monotonic() + self.settings.timeout
        connection = http.client.HTTPConnection(host, port)
        try:
            with contextlib.closing(_connect(host, port, deadline)) as wire:
                connection.sock = _BoundedSocket(wire, deadline)
                connection.putrequest("GET", path, skip_accept_encoding=True)
                connection.putheader("Connection", "close")
                if self.settings.token:
                    connection.putheader("Token", self.settings.token)
                connection.endheaders()
                response = connection.getresponse()
                # Asked for without a limit, it would make room for any Content-Length.
                body = response.read(MAX_ANSWER)
        except TimeoutError as error:
            raise SwitchError(f"no answer within {self.settings.timeout:g} s") from error
        except (http.client.HTTPException, ValueError) as error:
            raise SwitchError(f"its answer is not HTTP: {error!r:.100}") from error
        except OSError as error:
            raise SwitchError(error.strerror or str(error)) from error
        if response.status == http.HTTPStatus.NOT_FOUND:
            raise SwitchError(
                "status 404: a wrong or missing token, its request filter"
                f" (protection), or a device that has no {path.partition('?')[0]}"
            )
        if response.status != http.HTTPStatus.OK:
            raise SwitchError(f"status {response.status} {response.reason:.40}")
        return body

    def _address(self) -> tuple[str, int]:
        """Where the switch is: as configured, as announced, or as its DHCP name says.

        Without a name, where it was announced last: better an address in doubt than none.
        """
        if self.settings.host:
            return configured_address(self.settings)
        if announced := self._announcements.address(self.settings.mac):
            self._last_announced = announced
            return announced, HTTP_PORT
        name = f"mystrom-switch-{self.settings.mac[-6:]}"
        if self.settings.domain:
            name = f"{name}.{self.settings.domain}"
        try:
            socket.getaddrinfo(name, HTTP_PORT)
        except OSError as error:
            if self._last_announced:
                return self._last_announced, HTTP_PORT
            raise SwitchError(
                f"not found: there is no host {name}, and nothing was announced on UDP port"
                f" {ANNOUNCEMENT_PORT} yet"
            ) from error
        return name, HTTP_PORT


def configured_address(settings: config.MyStromSwitch) -> tuple[str, int]:
    """Return the address or name in `host`, and the port."""
    parts = urlsplit(f"//{settings.host}")
    return parts.hostname or "", parts.port or HTTP_PORT


class _BoundedSocket(io.RawIOBase):
    """A connection with one deadline for everything, and a limit on what it receives.

    The time limits of HTTP libraries are for each read: a switch that sends a byte now and then
    would hold its thread for ever.
    """

    def __init__(self, wire: socket.socket, deadline: float) -> None:
        self._wire = wire
        self._deadline = deadline
        self._received = 0

    def sendall(self, data: bytes) -> None:
        self._wire.settimeout(_remaining_s(self._deadline))
        self._wire.sendall(data)

    def makefile(self, _mode: str) -> io.BufferedReader:
        return io.BufferedReader(self)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        self._wire.settimeout(_remaining_s(self._deadline))
        size = self._wire.recv_into(buffer)
        self._received += size
        if self._received > MAX_ANSWER:
            raise OSError(f"its answer is longer than {MAX_ANSWER} bytes")
        return size

    def close(self) -> None:
        """Stay open: http.client closes before it reads the body; our caller closes the wire."""


def _connect(host: str, port: int, deadline: float) -> socket.socket:
    """Connect to the first address of a host that answers, all within one deadline."""
    failure = OSError("its name has no address")
    for family, kind, protocol, _, address in socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM
    ):
        wire = socket.socket(family, kind, protocol)
        try:
            wire.settimeout(_remaining_s(deadline))
            wire.connect(address)
        except OSError as error:
            wire.close()
            failure = error
        else:
            return wire
    raise failure


def _remaining_s(deadline: float) -> float:
    remaining_s = deadline - time.monotonic()
    if remaining_s <= 0:
        raise TimeoutError
    return remaining_s
