"""What stands around the button server in these tests: a home with plugs, nginx, Grafana's part."""

import base64
import contextlib
import hashlib
import json
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from http.cookies import SimpleCookie
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple, Self
from urllib.parse import parse_qs, urlsplit

import requests

from demo.parts import HOST, REPOSITORY, Mosquitto, Script, write_config
from demo.process import Program, find_program, free_port, wait_until
from demo.switches import SimulatedSwitches, SwitchSpec
from tests.mqtt_client import Message, MqttClient

NGINX_FOLDER = REPOSITORY / "integrations" / "nginx"
TOKEN = "0123456789abcdef0123456789abcdef"


class ButtonServer(Script):
    """The script under test, and how to ask it. It waits for nothing but its port."""

    def __init__(self, config_path: Path, port: int, token: str) -> None:
        super().__init__("button_server.py", config_path)
        self.port = port
        self.url = f"http://{HOST}:{port}"
        self._headers = {"X-Api-Key": token.encode()} if token else {}

    def ready(self) -> bool:
        try:
            requests.get(f"{self.url}/health", timeout=1)
        except requests.ConnectionError:
            return False
        return True

    def states(self) -> dict[str, dict[str, Any]]:
        """Return what it says of each plug."""
        answer = requests.get(f"{self.url}/plugs", headers=self._headers, timeout=5)
        assert answer.status_code == HTTPStatus.OK, answer.text
        return {state["name"]: state for state in answer.json()}

    def press(self, plug: str, value: str) -> requests.Response:
        return requests.post(
            f"{self.url}/plugs/{plug}/relay",
            json={"value": value},
            headers=self._headers,
            timeout=30,
        )


@dataclass
class Home:
    """Simulated plugs, read by plug_2_mqtt.py; button servers are started as a test needs them."""

    folder: Path
    broker: Mosquitto
    client: MqttClient
    switches: SimulatedSwitches
    plug_script: Script
    _running: contextlib.ExitStack
    _servers: int = field(default=0)

    def button_server(self, *, token: str = "", **options: object) -> ButtonServer:
        """Start a button server that knows all plugs."""
        self._servers += 1
        port = free_port()
        config = write_config(
            self.folder / f"buttons-{self._servers}.toml",
            {
                "MQTT": {
                    "broker": HOST,
                    "port": self.broker.port,
                    "client_id": f"buttons-{self._servers}",
                },
                "ButtonServer": {"port": port, "token": token, **options},
            },
        )
        server = self._running.enter_context(ButtonServer(config, port, token))
        wait_until(lambda: server.states().keys() >= self.switches.keys(), 15, "all plugs")
        return server

    def now_ms(self) -> int:
        return time.time_ns() // 1_000_000

    def commands(self, plug: str = "+") -> list[Message]:
        """Return the commands on the broker since the start, or since `client.clear()`."""
        self.client.publish("fence", b"")
        self.client.wait_for("fence")
        return self.client.messages(f"@set/{plug}/control/relay")

    def moves(self) -> list[str]:
        """Return which plugs were told to switch, by whomever, in all their life."""
        return [
            f"{name} {request.query}"
            for name, switch in self.switches.items()
            for request in list(switch.requests)
            if request.path != "/report"
        ]


@contextlib.contextmanager
def home(
    folder: Path,
    specs: Sequence[SwitchSpec],
    *,
    interval: float = 0.2,
    read_only: Collection[str] = (),
) -> Iterator[Home]:
    """Run it all but the button server."""
    folder.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as running:
        broker = running.enter_context(Mosquitto(folder / "mosquitto"))
        client = running.enter_context(MqttClient(broker.host, broker.port))
        switches = running.enter_context(SimulatedSwitches(specs))
        config = write_config(
            folder / "plugs.toml",
            {
                "MQTT": {"broker": HOST, "port": broker.port},
                "MyStromSwitch": [
                    {
                        "name": name,
                        "host": f"{switch.host}:{switch.port}",
                        "interval": interval,
                        "timeout": 0.5,
                        "read_only": name in read_only,
                    }
                    for name, switch in switches.items()
                ],
            },
        )
        script = running.enter_context(Script("plug_2_mqtt.py", config))
        yield Home(folder, broker, client, switches, script, running)


# --- nginx and its certificates -----------------------------------------------------------------


class Certificates(NamedTuple):
    """What make_certificate.sh leaves in a folder."""

    folder: Path

    @property
    def ca(self) -> Path:
        return self.folder / "ca.crt"

    @property
    def server(self) -> Path:
        return self.folder / "server.crt"

    @property
    def key(self) -> Path:
        return self.folder / "server.key"


def make_certificates(folder: Path, *names: str) -> Certificates:
    """Run the script that is shipped."""
    run_make_certificate(folder, *names, check=True)
    return Certificates(folder)


def run_make_certificate(
    folder: Path, *names: str, check: bool = False
) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        ["bash", str(NGINX_FOLDER / "make_certificate.sh"), *names],
        check=check,
        capture_output=True,
        text=True,
        timeout=60,
        env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "TLS_FOLDER": str(folder)},
    )


class Nginx(Program):
    """Debian's nginx as one process, with what is in a `http` block as its configuration."""

    def __init__(self, folder: Path, http: str, port: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.port = port
        self.access_log = folder / "access.log"
        config = folder / "nginx.conf"
        temporary = "".join(
            f"{kind}_temp_path {folder}/{kind};\n"
            for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        config.write_text(
            f"daemon off; master_process off; pid {folder}/pid; error_log stderr;\n"
            "events { worker_connections 512; }\n"
            f"http {{\naccess_log {self.access_log};\n{temporary}{http}\n}}\n"
        )
        argv = [find_program("nginx"), "-c", str(config), "-e", "stderr"]
        super().__init__("nginx", argv, folder / "nginx.log")

    def ready(self) -> bool:
        """Tell whether it accepts connections."""
        try:
            with socket.create_connection((HOST, self.port), timeout=1):
                return True
        except OSError:
            return False

    def requests(self) -> list[str]:
        """Return what arrived, a line each."""
        return self.access_log.read_text().splitlines()


class Site(Nginx):
    """The site that is shipped, on ports of the test's own; `port` speaks TLS, `http_port` not."""

    def __init__(
        self, folder: Path, certificates: Certificates, grafana_port: int, buttons_port: int
    ) -> None:
        port, self.http_port = free_port(), free_port()
        (certificates.folder / "token.conf").write_text(f"proxy_set_header X-Api-Key {TOKEN};\n")
        text = (NGINX_FOLDER / "openenergy.conf").read_text()
        for shipped, ours in {
            "    listen [::]:80;\n": "",
            "    listen [::]:443 ssl;\n": "",
            "listen 80;": f"listen {HOST}:{self.http_port};",
            "listen 443 ssl;": f"listen {HOST}:{port} ssl;",
            "/etc/nginx/openenergy/": f"{certificates.folder}/",
            "http://127.0.0.1:3000": f"http://{HOST}:{grafana_port}",
            "http://127.0.0.1:8080": f"http://{HOST}:{buttons_port}",
        }.items():
            assert shipped in text
            text = text.replace(shipped, ours)
        super().__init__(folder, text, port)
        self.url = f"https://{HOST}:{port}"


def tls_proxy(port: int, certificates: Certificates, target: str) -> str:
    """Configure nginx as one puts TLS before a server, and nothing else."""
    return (
        f"server {{ listen {HOST}:{port} ssl;\n"
        f"ssl_certificate {certificates.server}; ssl_certificate_key {certificates.key};\n"
        f"location / {{ proxy_pass {target}; proxy_set_header Host $http_host; }} }}\n"
    )


# --- Grafana's part -----------------------------------------------------------------------------


class Seen(NamedTuple):
    """A request as it arrived."""

    method: str
    path: str
    headers: dict[str, str]  # names in lower case


class GrafanaStandIn:
    """What nginx and a browser need of Grafana: a page, a login, a session, a WebSocket.

    Answers as Grafana's sources have it (pkg/api/login.go, user_token.go, api.go). A session is
    good, "stale" (its token is to be renewed) or unknown.
    """

    USER, PASSWORD = "alice", "wonderland"

    def __init__(self, *, tls: Certificates | None = None, csp: str = "") -> None:
        self.csp = csp
        self.seen: list[Seen] = []
        self.sessions = {"good-session"}
        self._server = ThreadingHTTPServer((HOST, 0), type("Bound", (_Handler,), {"grafana": self}))
        self.port: int = self._server.server_address[1]
        if tls:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(tls.server, tls.key)
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._server.shutdown()
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    grafana: GrafanaStandIn
    timeout = 10

    def parse_request(self) -> bool:
        understood = super().parse_request()
        if understood:
            headers = {name.lower(): value for name, value in self.headers.items()}
            self.grafana.seen.append(Seen(self.command, self.path, headers))
        return understood

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        target = parse_qs(url.query).get("redirectTo", ["/"])[0]
        match url.path:
            case "/api/user" if self._is_logged_in():
                self._answer(HTTPStatus.OK, b'{"login": "alice"}', "application/json")
            case "/api/user":
                self._answer(HTTPStatus.UNAUTHORIZED, b'{"message": "Unauthorized"}')
            case "/user/auth-tokens/rotate":
                is_known = self._session() == "stale"
                self._redirect(target if is_known else "/login", new_session=is_known)
            case "/api/live/ws" if self.headers.get("Upgrade") == "websocket":
                self._speak_websocket()
            case _:
                page = b"<!doctype html><title>Grafana</title>" + url.path.encode()
                self._answer(HTTPStatus.OK, page, "text/html")

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers.get("Content-Length", "0"))))
        if body == {"user": self.grafana.USER, "password": self.grafana.PASSWORD}:
            self._answer(HTTPStatus.OK, b'{"message": "Logged in"}', new_session=True)
        else:
            self._answer(HTTPStatus.UNAUTHORIZED, b'{"message": "Invalid username or password"}')

    def _session(self) -> str:
        morsel = SimpleCookie(self.headers.get("Cookie", "")).get("grafana_session")
        return morsel.value if morsel else ""

    def _is_logged_in(self) -> bool:
        account = base64.b64encode(f"{self.grafana.USER}:{self.grafana.PASSWORD}".encode()).decode()
        by_password = self.headers.get("Authorization") == f"Basic {account}"
        return by_password or self._session() in self.grafana.sessions

    def _redirect(self, target: str, *, new_session: bool) -> None:
        self._answer(HTTPStatus.FOUND, b"", new_session=new_session, location=target)

    def _answer(
        self,
        status: HTTPStatus,
        body: bytes,
        content_type: str = "application/json",
        *,
        new_session: bool = False,
        location: str = "",
    ) -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        if self.grafana.csp:
            self.send_header("Content-Security-Policy", self.grafana.csp)
        if location:
            self.send_header("Location", location)
        if new_session:
            self.send_header(
                "Set-Cookie", "grafana_session=good-session; Path=/; HttpOnly; SameSite=Lax"
            )
        self.end_headers()
        self.wfile.write(body)

    def _speak_websocket(self) -> None:
        """Shake hands (RFC 6455, section 4.2.2), then send back whatever comes."""
        key = self.headers["Sec-WebSocket-Key"] + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
        accept = base64.b64encode(hashlib.sha1(key.encode()).digest()).decode()  # noqa: S324 - RFC
        self.send_response(HTTPStatus.SWITCHING_PROTOCOLS)
        self.send_header("Upgrade", "websocket")
        self.send_header("Connection", "Upgrade")
        self.send_header("Sec-WebSocket-Accept", accept)
        self.end_headers()
        self.close_connection = True
        while piece := self.connection.recv(4096):
            self.connection.sendall(piece)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name there
        """Stay silent: `seen` tells it all."""
