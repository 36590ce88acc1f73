"""Simulated myStrom switches: as many as wanted, served on loopback by one event loop.

They answer byte for byte as real ones were recorded to answer (tests/fixtures/mystrom). Sources:
[API] the vendor's description, https://api.mystrom.ch, and on GitHub
[PYM] home-assistant-ecosystem/python-mystrom, [HA] home-assistant/core,
[OH] openhab/openhab-addons, [BTS] bts-lasalle-avignon-ressources/myStrom.
What none of them tells is answered with 404, which a client has to live with anyway.

`python -m demo.switches --count 3` serves three until SIGTERM, from port 8001 on, where
credentials.toml looks for the first.
"""

import argparse
import asyncio
import contextlib
import email.utils
import json
import logging
import random
import re
import signal
import socket
import threading
import time
import zlib
from collections import deque
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from itertools import cycle
from typing import Annotated, Any, Final, Literal, NamedTuple, Self, TypeVar
from urllib.parse import parse_qsl

import msgspec

from demo.loads import LOADS, Load, Meter, room_temperature

log = logging.getLogger("demo.switches")

Clock = Callable[[], float]
Fault = Literal["hang", "drip", "garbage", "html", "404", "500", "endless", "refused"]


# --- Models -------------------------------------------------------------------------------------


def _two_decimals_summed(value: float) -> str:
    # Adding the hundredths last makes 3.7800000000000002 of 3.78, as recorded in [HA] issue 95979.
    hundredths = round(value * 100)
    return repr(hundredths // 100 + hundredths % 100 / 100)


class JsonStyle(NamedTuple):
    """How a firmware writes JSON: compact, or indented with tabs."""

    decimals: Callable[[float], str]
    indented: bool = False
    colon: str = ":"

    def write(self, value: object, depth: int = 1) -> str:
        """Return `value` as the firmware writes it. Whole numbers have no decimal point."""
        if isinstance(value, dict):
            line = "\n" + "\t" * depth if self.indented else ""
            members = (
                f'{line}"{name}"{self.colon}{self.write(member, depth + 1)}'
                for name, member in value.items()
            )
            return f"{{{','.join(members)}{line[:-1]}}}"
        if isinstance(value, float):
            text = self.decimals(value)
            return f"{float(text):.0f}" if float(text).is_integer() else text
        return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


_COMPACT: Final = JsonStyle(lambda value: repr(round(value, 2)))

_INFO: Final = "version mac ssid ip mask gw dns static connected type connectionStatus"
_INFO_NAMED: Final = _INFO.replace("type", "type name")
_INFO_V1: Final = "version mac ssid ip mask gateway dns static connected connectionStatus"
_INFO_114: Final = (
    "version mac type ssid ip mask gw dns static connected signal refresh_state upgrade_allowed"
)

_CONTROL: Final = ("/report", "/relay", "/toggle", "/power_cycle", "/timer")
_PANEL: Final = ("/", "/index.html")
_TEMPERATURE: Final = ("/temp", "/api/v1/temperature")
_SWITCHING_BY_GET: Final = ("GET /relay", "GET /toggle", "GET /power_cycle")
_SETTINGS: Final = (
    *("/api/v1/settings", "/api/v1/monitor", "/api/v1/scan", "/networks", "/networks.json"),
    *("/api/v1/protection/enable", "/api/v1/protection/disable"),
)


@dataclass(frozen=True)
class Model:
    """One kind of switch with one firmware: what it is and answers, keys in their order."""

    type: int
    literal: str
    firmware: str
    report: str
    info: Mapping[str, str]  # path: keys
    paths: tuple[str, ...] = _PANEL + _CONTROL
    style: JsonStyle = _COMPACT
    mac_prefix: str = "083AF2"
    is_v1: bool = False  # headers of its own, a redirect for unknown paths, no broadcast
    can_filter: bool = False  # [API] names its firmware for the filter of browsers' requests


_V2: Final = Model(
    type=106,
    literal="WS2",
    firmware="4.0.14",
    report="power Ws relay temperature boot_id energy_since_boot time_since_boot",
    info={"/api/v1/info": _INFO, "/info": _INFO_NAMED, "/info.json": _INFO_NAMED},
    paths=_PANEL + _CONTROL + _TEMPERATURE + _SETTINGS,
    can_filter=True,
)

MODELS: Final = {
    "v2": _V2,
    "v2-3.82": replace(
        _V2,
        firmware="3.82.60",
        report="power Ws relay temperature",
        style=JsonStyle(_two_decimals_summed),
    ),
    "eu": replace(
        _V2,
        type=107,
        literal="WSE",
        firmware="3.83.1",
        report="power Ws relay temperature",
        info={"/api/v1/info": _INFO},
        style=JsonStyle(lambda value: repr(round(value, 1))),
    ),
    "v1": Model(
        type=101,
        literal="WSW",
        firmware="2.68.10",
        report="power relay",
        info={"/info": _INFO_V1, "/info.json": _INFO_V1},
        style=JsonStyle("{:f}".format, indented=True, colon=":\t"),
        mac_prefix="64002D",
        is_v1=True,
    ),
    # Not recorded: the firmware of Switch Zero; which of v2's settings Zero and 114 have.
    "zero": Model(
        type=120,
        literal="LCS",
        firmware="4.0.14",
        report="relay",
        info={"/api/v1/info": _INFO},
    ),
    "swisscom": Model(
        type=114,
        literal="",
        firmware="1.0.8",
        report="relay",
        info={"/api/v1/info": _INFO_114},
        style=_COMPACT._replace(indented=True, colon=": "),
    ),
}


# --- HTTP ---------------------------------------------------------------------------------------


class Request(NamedTuple):
    """A request as it came. `time` is time.monotonic(), names of headers are in lower case."""

    time: float
    method: str
    path: str
    query: str
    headers: dict[str, str]
    body: bytes

    @property
    def route(self) -> str:
        """Return method and path."""
        return f"{self.method} {self.path}"

    @property
    def parameters(self) -> dict[str, str]:
        """Return those of the query and, as [API] allows for POST, of a form."""
        form = self.body.decode("latin-1") if self.method == "POST" else ""
        return dict(parse_qsl(self.query) + parse_qsl(form))


class NotHttpError(Exception):
    """What a client has sent cannot be read."""


async def read_request(reader: asyncio.StreamReader) -> Request:
    """Read one request. Raises NotHttpError, or EOFError if the client leaves before its end."""
    try:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    except asyncio.LimitOverrunError as reason:
        raise NotHttpError("its headers have no end") from reason
    first, *lines = head.split("\r\n")[:-2]
    if not (words := re.fullmatch(r"([A-Z]+) ([^ ?]+)\??([^ ]*) HTTP/1\.[01]", first)):
        raise NotHttpError(f"it begins with {first[:40]!r}")
    fields = (line.partition(":") for line in lines)
    headers = {name.lower(): value.strip() for name, _, value in fields}
    length = headers.get("content-length", "0")
    if not re.fullmatch(r"[0-9]{1,4}", length):
        raise NotHttpError(f"its body has a length of {length[:40]!r}")
    body = await reader.readexactly(int(length))
    method, path, query = words.groups()
    return Request(time.monotonic(), method, path, query, headers, body)


_NO_CACHE: Final = ("Pragma: no-cache", "Cache-Control: no-store, no-cache")
_ERROR: Final = "<html><head><title>Error</title></head><body><h1>%s</h1></body></html>"
_PAGE: Final = b"<html><head><title>myStrom</title></head><body>WiFi Switch</body></html>"


def response(model: Model, content: bytes, content_type: str, status: str = "200 OK") -> bytes:
    """Return the bytes of an answer with the headers of `model` ([API]; v1: README of [PYM])."""
    lines = [f"HTTP/1.1 {status}", f"Content-Type: {content_type}"]
    lines.append(f"Content-Length: {len(content)}")
    if model.is_v1:
        lines.append(f"Date: {email.utils.formatdate(usegmt=True)}")
    else:
        lines += [*_NO_CACHE, "Connection: close"]
    if status.startswith("302"):
        lines.append("Location: /index.html")
    return "\r\n".join([*lines, "", ""]).encode() + content


def error(model: Model, status: str) -> bytes:
    """Return an error page; its words are recorded for 404, its content type is not."""
    return response(model, (_ERROR % status).encode(), "text/html", status)


def chunked(content: bytes) -> bytes:
    """Return the answer to a scan of the radio networks, the only one in chunks ([API])."""
    lines = ["HTTP/1.1 200 OK", *_NO_CACHE, "Content-Type: application/json"]
    head = "\r\n".join([*lines, "Transfer-Encoding: chunked", "", ""]).encode()
    return head + b"%x\r\n%b\r\n0\r\n\r\n" % (len(content), content)


# --- The firmware -------------------------------------------------------------------------------


@dataclass(frozen=True)
class SwitchSpec:
    """A switch to simulate. Its MAC address, its load's course, its boot ids follow from `name`."""

    name: str
    model: str = "v2"  # one of MODELS
    load: str | Load = "lamp"  # one of LOADS, or a load of one's own
    relay: bool = True
    token: str = ""
    request_filter: bool = True  # as after a factory reset, where the firmware has it
    host: str = "127.0.0.1"
    port: int = 0  # 0: a free one


class _Settings(msgspec.Struct):
    """What can be set ([API], "Settings"). Like a plug we take numbers as text: "-1"."""

    rest: bool = True
    panel: bool = True
    hap_disable: bool = False
    name: Annotated[str, msgspec.Meta(max_length=32)] = ""
    temp_offset: Annotated[float, msgspec.Meta(ge=-30, le=30)] = 0.0
    token: Annotated[str, msgspec.Meta(max_length=256)] = ""  # never shown


class _Monitor(msgspec.Struct, rename="camel"):
    """When to switch a router off and on again ([API], "Internet monitor"); we never do."""

    address: str = ""
    try_at: int = 15
    attempts: Annotated[int, msgspec.Meta(ge=1, le=255)] = 3
    inhibit_time: int = 60
    ping_timeout: int = 3000
    relay_off_time: int = 5
    enabled: bool = False


_Changeable = TypeVar("_Changeable", _Settings, _Monitor)


def _changed(current: _Changeable, changes: Mapping[str, object]) -> _Changeable:
    """Return `current` with `changes`. Raises msgspec.ValidationError if one is unusable."""
    changed = msgspec.to_builtins(current) | changes
    return msgspec.convert(changed, type(current), strict=False)


_NETWORKS: Final = {"Home": -49, "Home-IoT": -49, "Neighbour": -71}  # dBm
_CONNECTION: Final = ("ntp", "dns", "connection", "handshake", "login")


class Device:
    """A plug as its firmware behaves: requests in, answers out. No socket; any clock.

    Several threads may use it.
    """

    def __init__(self, spec: SwitchSpec, clock: Clock) -> None:
        """Start it up. Raises KeyError if there is no such model or load."""
        self.model = MODELS[spec.model]
        self._seed = zlib.crc32(spec.name.encode())
        self.mac = f"{self.model.mac_prefix}{self._seed & 0xFFFFFF:06X}"
        self._host = spec.host
        self._clock = clock
        self._lock = threading.Lock()
        load = LOADS[spec.load](self._seed) if isinstance(spec.load, str) else spec.load
        self._meter = Meter(load, clock(), relay=spec.relay)
        self._random = random.Random(self._seed)
        self._boot_id = self._new_boot_id()
        self._filter = spec.request_filter and self.model.can_filter
        self._settings = _Settings(token=spec.token)
        self._monitor = _Monitor()
        self._answers = self._answers_of_model()

    def _new_boot_id(self) -> str:
        return f"{self._random.getrandbits(32):08X}"

    @property
    def relay(self) -> bool:
        """Whether the relay is closed, that is, the load is on."""
        with self._lock:
            self._meter.advance(self._clock())
            return self._meter.relay

    def press_button(self) -> None:
        """Toggle the relay, as a finger on the plug does."""
        with self._lock:
            self._meter.advance(self._clock())
            self._meter.relay = not self._meter.relay

    def restart(self) -> None:
        """Start up anew: another boot id, counters at zero. The relay stays (not documented)."""
        with self._lock:
            now = self._clock()
            self._meter.advance(now)
            self._meter.restart(now)
            self._boot_id = self._new_boot_id()

    def answer(self, request: Request) -> bytes:
        """Do what `request` asks for and return the answer, headers and all."""
        with self._lock:
            self._meter.advance(self._clock())
            if not self._admits(request):
                return self._refused()
            if answer := self._answers.get(request.route):
                try:
                    return answer(request)
                except (msgspec.MsgspecError, RecursionError):
                    return error(self.model, "400 Bad Request")
            if self.model.is_v1:  # [OH] issue 10432
                return response(self.model, b"", "text/html", "302 Found")
            return self._refused()

    def _admits(self, request: Request) -> bool:
        """Tell whether token, filter of browsers' requests and settings let `request` pass."""
        if self._settings.token and request.headers.get("token") != self._settings.token:
            return False
        if self._filter and "accept-encoding" in request.headers:
            senders = (request.headers.get("referer", ""), request.headers.get("origin", ""))
            if not any(sender.startswith(f"http://{self._host}") for sender in senders):
                return False
            if request.route in _SWITCHING_BY_GET:
                return False
        if request.path in _CONTROL:
            return self._settings.rest
        return self._settings.panel or request.path not in (*_PANEL, "/api/v1/settings")

    def _answers_of_model(self) -> dict[str, Callable[[Request], bytes]]:
        answers = {
            "GET /": self._page,
            "GET /index.html": self._page,
            "GET /report": self._report,
            "GET /relay": self._set_relay,
            "GET /toggle": self._toggle,
            "GET /power_cycle": self._power_cycle,
            "POST /timer": self._timer,
            "GET /temp": self._temperatures,
            "GET /api/v1/temperature": self._temperatures,
            "GET /api/v1/settings": self._common_settings,
            "POST /api/v1/settings": self._common_settings,
            "GET /api/v1/monitor": self._internet_monitor,
            "POST /api/v1/monitor": self._internet_monitor,
            "GET /api/v1/scan": self._scan,
            "GET /networks": self._networks,
            "GET /networks.json": self._networks,
            "POST /api/v1/protection/enable": self._set_filter,
            "POST /api/v1/protection/disable": self._set_filter,
        }
        of_model = {
            route: answers[route] for route in answers if route.split()[1] in self.model.paths
        }
        return of_model | {f"GET {path}": self._info for path in self.model.info}

    def _json(self, value: object) -> bytes:
        return response(self.model, self.model.style.write(value).encode(), "application/json")

    def _done(self) -> bytes:
        return response(self.model, b"", "text/plain")

    def _refused(self) -> bytes:
        return error(self.model, "404 Not Found")

    def _page(self, _: Request) -> bytes:
        return response(self.model, _PAGE, "text/html")

    def _report(self, _: Request) -> bytes:
        meter = self._meter
        values = {
            "power": meter.power(),
            "Ws": meter.mean_power(),
            "relay": meter.relay,
            "temperature": self._celsius()["compensated"],
            "boot_id": self._boot_id,
            "energy_since_boot": meter.energy,
            "time_since_boot": int(meter.now - meter.started),
        }
        return self._json({key: values[key] for key in self.model.report.split()})

    def _set_relay(self, request: Request) -> bytes:
        state = request.parameters.get("state")
        if state not in {"0", "1"}:
            return self._refused()
        self._meter.relay = state == "1"
        return self._done()

    def _toggle(self, _: Request) -> bytes:
        self._meter.relay = not self._meter.relay
        return self._json({"relay": self._meter.relay})

    def _power_cycle(self, request: Request) -> bytes:
        return self._switch_for_a_time(False if self._meter.relay else None, request)

    def _timer(self, request: Request) -> bytes:
        mode = request.parameters.get("mode", "")
        if mode == "none":
            self._meter.cancel()
            return self._done()
        modes = {"on": True, "off": False, "toggle": not self._meter.relay}
        return self._switch_for_a_time(modes.get(mode), request)

    def _switch_for_a_time(self, relay: bool | None, request: Request) -> bytes:
        seconds = request.parameters.get("time", "")
        if relay is None or not re.fullmatch("[0-9]{1,4}", seconds):
            return self._refused()
        if not 1 <= int(seconds) <= 3600:
            return self._refused()
        self._meter.switch_for(int(seconds), relay=relay)
        return self._done()

    def _celsius(self) -> dict[str, float]:
        room = room_temperature(self._seed, self._meter.now)
        warmth = 18.6 + self._seed % 7 / 10  # the plug's own
        # The difference of what is written, not of what is meant, is what is written ([API]).
        measured, compensation = (
            float(self.model.style.decimals(value)) for value in (room + warmth, warmth)
        )
        offset = self._settings.temp_offset
        compensated = measured - compensation + offset
        return {
            "measured": measured,
            "compensation": compensation,
            "compensated": compensated,
            "offset": offset,
        }

    def _temperatures(self, _: Request) -> bytes:
        return self._json(self._celsius())

    def _info(self, request: Request) -> bytes:
        values = {
            "version": self.model.firmware,
            "mac": self.mac,
            "ssid": "simulated",
            "ip": self._host,
            "mask": "255.0.0.0",
            "gw": "127.0.0.1",
            "gateway": "127.0.0.1",
            "dns": "127.0.0.1",
            "static": False,
            "connected": True,
            "type": self.model.type if request.path == "/api/v1/info" else self.model.literal,
            "name": "WiFi Switch v2 CH",
            "connectionStatus": dict.fromkeys(_CONNECTION, True),
            "signal": 100,
            "refresh_state": True,
            "upgrade_allowed": True,
        }
        return self._json({key: values[key] for key in self.model.info[request.path].split()})

    def _common_settings(self, request: Request) -> bytes:
        if request.method == "POST":
            changes = msgspec.json.decode(request.body, type=dict[str, object])
            self._settings = _changed(self._settings, changes)
        shown = msgspec.to_builtins(self._settings)
        del shown["token"]
        return self._json(shown)

    def _internet_monitor(self, request: Request) -> bytes:
        if request.method == "POST":
            changes = msgspec.json.decode(request.body, type=dict[str, object])
            # Shown as "enabled", it is set as "enable" ([API] calls that a mistake to be mended).
            changes["enabled"] = changes.pop("enable", self._monitor.enabled)
            self._monitor = _changed(self._monitor, changes)
        return self._json(msgspec.to_builtins(self._monitor))

    def _scan(self, _: Request) -> bytes:
        flat = [item for network in _NETWORKS.items() for item in network]
        return chunked(self.model.style.write(flat).encode())

    def _networks(self, _: Request) -> bytes:
        return self._json(
            {
                name: {
                    "name": name,
                    "signal": min(100, 2 * (100 + dbm)),
                    "encryption-on": True,
                    "encryption": "WPA2_PSK",
                }
                for name, dbm in _NETWORKS.items()
            }
        )

    def _set_filter(self, request: Request) -> bytes:
        self._filter = request.path.endswith("/enable")
        return self._done()


# --- The switches on the network ----------------------------------------------------------------


class SimulatedSwitch(Device):
    """A device behind its own port, and the handle by which a test or the demo works it."""

    def __init__(
        self, spec: SwitchSpec, clock: Clock, run: Callable[[Coroutine[Any, Any, None]], None]
    ) -> None:
        """Leave the port closed for now; `run` runs a coroutine in the loop that will serve it."""
        super().__init__(spec, clock)
        self.name = spec.name
        self.host = spec.host
        self.port = spec.port
        self.requests: deque[Request] = deque(maxlen=10_000)  # the latest, whatever came of them
        self._run = run
        self._fault: Fault | None = None
        self._interval = 0.0
        self._server: asyncio.Server | None = None
        self._placeholder: socket.socket | None = None
        self._connections: set[asyncio.StreamWriter] = set()
        self._return: asyncio.Task[None] | None = None

    def set_fault(self, fault: Fault, *, interval: float = 0.1) -> None:
        """Fail every request from now on; only "drip" still does what it is asked for.

        hang: accept and never answer. drip: the right answer, one byte every `interval` s.
        garbage: bytes that are no HTTP. html: a page with status 200. 404, 500: an error page.
        endless: a body without end. refused: the port is closed, and later the same one opens.
        """
        self.clear_fault()
        self._fault, self._interval = fault, interval
        if fault == "refused":
            self._run(self._close_port())

    def clear_fault(self) -> None:
        """Be healthy again; an answer that hangs or drips already goes on doing so."""
        was_refused, self._fault = self._fault == "refused", None
        if was_refused:
            self._run(self.open_port())

    def reboot(self, away: float = 0.0) -> None:
        """Start up anew, after `away` s with the port closed; this does not wait for it."""
        if away:
            self._run(self._leave(away))
        else:
            self.restart()

    async def _leave(self, away: float) -> None:
        await self._close_port()
        self._return = asyncio.create_task(self._return_after(away))

    async def _return_after(self, away: float) -> None:
        await asyncio.sleep(away)
        self.restart()
        if self._fault != "refused":
            await self.open_port()

    async def open_port(self) -> None:
        """Listen, on the same port as before if there was one. Raises OSError."""
        if self._server:
            return
        port = socket.create_server((self.host, self.port), backlog=128, reuse_port=True)
        self._server = await asyncio.start_server(self._serve, sock=port)
        self.port = port.getsockname()[1]
        if self._placeholder:
            self._placeholder.close()

    async def _close_port(self) -> None:
        if not self._server:
            return
        # A socket that is bound but does not listen refuses connections, and nobody else gets
        # the port meanwhile.
        self._placeholder = socket.socket()
        self._placeholder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        self._placeholder.bind((self.host, self.port))
        # Who was accepted already gets a transport before the server closes: without one, nobody
        # would close the connection (Python 3.11, asyncio.Server).
        for port in self._server.sockets:
            asyncio.get_running_loop().remove_reader(port)
        await asyncio.sleep(0)
        self._server.close()
        self._server = None
        for connection in self._connections:
            connection.transport.abort()

    def unplug(self) -> None:
        """Give the port up."""
        for port in (self._server, self._placeholder):
            if port:
                port.close()

    def announce(self, receiver: tuple[str, int]) -> None:
        """Send the datagram that says "I am here": MAC address, type, flags ([BTS], [PYM])."""
        if self.model.is_v1 or not self._server:
            return
        flags = 0b100  # connected to the cloud; neither registered nor part of a mesh
        datagram = bytes.fromhex(self.mac) + bytes([self.model.type, flags])
        with socket.socket(type=socket.SOCK_DGRAM) as sender:
            sender.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
            sender.bind((self.host, 0))
            sender.sendto(datagram, receiver)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._connections.add(writer)
        # A client may leave when it likes, as may the switch; that is not worth a word.
        with contextlib.closing(writer), contextlib.suppress(EOFError, ConnectionError):
            try:
                while await self._keeps_open_after_reply(reader, writer):
                    pass
            except NotHttpError as reason:
                log.warning("%s: not a request: %s", self.name, reason)
            except asyncio.CancelledError:
                writer.transport.abort()  # the client may never take the rest
                raise
            finally:
                self._connections.discard(writer)

    async def _keeps_open_after_reply(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> bool:
        request = await read_request(reader)
        self.requests.append(request)
        await self._reply(request, reader, writer)
        # v1 does not say "Connection: close", so by HTTP/1.1 it is the client who closes.
        asked_to_close = request.headers.get("connection", "").lower() == "close"
        return self.model.is_v1 and not asked_to_close and not self._fault

    async def _reply(
        self, request: Request, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        match self._fault:
            case None | "refused":
                writer.write(self.answer(request))
            case "hang":
                while await reader.read(4096):
                    pass
            case "drip":
                for byte in self.answer(request):
                    writer.write(bytes([byte]))
                    await writer.drain()
                    await asyncio.sleep(self._interval)
            case "endless":
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n[0")
                while True:
                    writer.write(b",0" * 8192)
                    await writer.drain()
            case fault:
                writer.write(self._wrong_answer(fault))

    def _wrong_answer(self, fault: Literal["garbage", "html", "404", "500"]) -> bytes:
        return {
            "garbage": random.Random(self.name).randbytes(500),
            "html": response(self.model, _PAGE, "text/html"),
            "404": error(self.model, "404 Not Found"),
            "500": error(self.model, "500 Internal Server Error"),
        }[fault]


class SimulatedSwitches(dict[str, SimulatedSwitch]):
    """Switches by name, served from a thread of their own while the `with` block lasts.

    `clock` (s) drives loads, meters and timers, so that a test can move it by hand. With
    `announce_to`, an (address, port), each switch says every `announce_interval` s that it is
    there, as real ones do in a broadcast to port 7979.
    """

    def __init__(
        self,
        specs: Iterable[SwitchSpec],
        *,
        clock: Clock = time.monotonic,
        announce_to: tuple[str, int] | None = None,
        announce_interval: float = 5.0,
    ) -> None:
        """Raise KeyError for an unknown model or load, ValueError for a name that comes twice."""
        super().__init__()
        for spec in specs:
            if spec.name in self:
                raise ValueError(f"two switches are named {spec.name}")
            self[spec.name] = SimulatedSwitch(spec, clock, self._run_in_loop)
        self._announce_to = announce_to
        self._announce_interval = announce_interval
        self._started = Future[None]()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), daemon=True)

    def __enter__(self) -> Self:
        """Open all ports. Raises OSError if one is taken."""
        self._thread.start()
        try:
            self._started.result()
        except OSError:
            self._thread.join()  # it is giving back the ports that were free
            raise
        return self

    def __exit__(self, *_: object) -> None:
        """Close all ports and connections."""
        self._loop.call_soon_threadsafe(self._ended.set)
        self._thread.join()

    def _run_in_loop(self, action: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(action, self._loop).result(timeout=10)

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._ended = asyncio.Event()
        try:
            for switch in self.values():
                await switch.open_port()
        except Exception as reason:  # noqa: BLE001 - the thread that waits raises it
            self._started.set_exception(reason)
        else:
            announcing = asyncio.create_task(self._announce())
            self._started.set_result(None)
            await self._ended.wait()
            announcing.cancel()
        finally:
            for switch in self.values():
                switch.unplug()

    async def _announce(self) -> None:
        while self._announce_to:
            for switch in self.values():
                switch.announce(self._announce_to)
            await asyncio.sleep(self._announce_interval)


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve switches until SIGTERM or SIGINT; print name and port of each."""
    parser = argparse.ArgumentParser(prog="python -m demo.switches", description=main.__doc__)
    parser.add_argument("--count", type=int, default=3)
    parser.add_argument("--model", choices=MODELS, default="v2")
    parser.add_argument("--port", type=int, default=8001, help="of the first; 0: any free ones")
    options = parser.parse_args(arguments)
    ended = threading.Event()
    for signal_number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signal_number, lambda *_: ended.set())
    specs = [
        SwitchSpec(
            name=f"my_strom-{number:03d}",
            model=options.model,
            load=load,
            port=options.port and options.port + number - 1,
        )
        for number, load in zip(range(1, options.count + 1), cycle(LOADS), strict=False)
    ]
    try:
        with SimulatedSwitches(specs) as switches:
            for switch in switches.values():
                print(switch.name, switch.port, flush=True)
            ended.wait()
    except OSError as reason:  # too many for the open files a process may have, or a port is taken
        parser.error(f"cannot serve {options.count} switches: {reason}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
