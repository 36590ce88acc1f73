"""Home Assistant itself, on a Debian whose Python is new enough for it, and its user."""

import asyncio
import contextlib
import hashlib
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, Self

import aiohttp
import requests

from demo.parts import HOST
from demo.process import free_port, wait_until
from tests.system.machine import CACHE, Machine, debian

REQUIREMENTS: Final = Path(__file__).with_suffix(".txt")
HOME: Final = "/opt/home-assistant"
PIP: Final = f"{HOME}/bin/pip install --no-deps --only-binary=:all: --no-cache-dir --no-compile"
INSTALLATION: Final = (
    "apt-get update",
    "apt-get install --yes --no-install-recommends python3-venv",
    f"python3 -m venv {HOME}",
    f"{PIP} --requirement /root/requirements.txt",
)
SERVICE: Final = "home-assistant"
UNIT: Final = f"""\
[Service]
ExecStart={HOME}/bin/hass --skip-pip --config {HOME}/config
"""
# What it says at every start, here: pip is skipped, and faster compression is not installed.
USUAL_WARNINGS: Final = ("[homeassistant.bootstrap] Skipping pip", "[aiohttp_fast_zlib]")

Answer = dict[str, Any]
State = dict[str, Any]
"""state, attributes, entity_id: https://developers.home-assistant.io/docs/api/rest"""


def installed() -> Path:
    """Return what is added to a Debian by its installation, made once and kept for later runs."""
    base = debian("trixie")
    layer = CACHE / f"home-assistant-{hashlib.sha256(REQUIREMENTS.read_bytes()).hexdigest()[:12]}"
    if not layer.exists():
        with tempfile.TemporaryDirectory(dir=CACHE) as folder:
            machine = Machine(Path(folder, "machine"), [base])
            machine.write("/root/requirements.txt", REQUIREMENTS.read_text())
            with machine:
                for step in INSTALLATION:
                    done = machine.run(*step.split(), timeout=300)
                    assert done.returncode == 0, done.stdout
                machine.power_off()
            machine.layers[0].rename(layer)
    return layer


class HomeAssistant:
    """Does what its user does, by HTTP and WebSocket as its pages do."""

    def __init__(self, folder: Path) -> None:
        """Prepare; once it is entered it runs, with nothing set up but its user."""
        self._port = free_port()
        self._url = f"http://{HOST}:{self._port}"
        self._http = requests.Session()
        self._http.trust_env = False
        self._http.headers["Connection"] = "close"  # it may be restarted at any time
        self._token = ""
        self._mqtt = ""  # id of its integration
        self._machine = Machine(folder, [installed(), debian("trixie")])
        self._machine.write(f"/etc/systemd/system/{SERVICE}.service", UNIT)
        self._machine.write(
            f"{HOME}/config/configuration.yaml",
            f"http: {{server_host: {HOST}, server_port: {self._port}}}\nrecorder:\n",
        )

    def __enter__(self) -> Self:
        self._machine.start()
        try:
            self.restart()
            self._become_its_user()
        except BaseException:
            self._machine.stop()
            raise
        return self

    def __exit__(self, *exception: object) -> None:
        self._machine.stop()

    def restart(self) -> None:
        """Restart it, and wait until it has started everything."""
        self._machine.output("systemctl", "restart", SERVICE)
        wait_until(self._answers, 60, f"Home Assistant:\n{self.log()}", every=0.2)

    def _answers(self) -> bool:
        try:
            return self._http.get(f"{self._url}/api/onboarding", timeout=5).ok
        except requests.ConnectionError:
            return False

    def _become_its_user(self) -> None:
        """Do what its page does for whoever opens it first."""
        client = {"client_id": f"{self._url}/"}
        user = {"name": "me", "username": "me", "password": "a password", "language": "en"}
        code = self._post("/api/onboarding/users", **client, **user)["auth_code"]
        form = {**client, "grant_type": "authorization_code", "code": code}
        answer = self._http.post(f"{self._url}/auth/token", data=form, timeout=10)
        self._token = answer.json()["access_token"]
        self._http.headers["Authorization"] = f"Bearer {self._token}"

    def log(self) -> str:
        """Return what it wrote since its machine was booted."""
        return self._machine.journal(SERVICE)

    def complaints(self) -> list[str]:
        """Return its warnings and errors, but those of every start."""
        return [
            line
            for line in self.log().splitlines()
            if (" WARNING " in line or " ERROR " in line)
            and not any(usual in line for usual in USUAL_WARNINGS)
        ]

    def devices(self, name: str) -> list[Answer]:
        """Return the devices of a name that MQTT has brought."""
        return [
            device
            for device in self.ask("config/device_registry/list")
            if device["name"] == name and self._mqtt in device["config_entries"]
        ]

    def names_of_entities(self, device: Answer) -> list[str]:
        """Return what a device's page shows."""
        registered = self.ask("config/entity_registry/list")
        ids = {each["entity_id"] for each in registered if each["device_id"] == device["id"]}
        states = [each for each in self._get("/api/states") if each["entity_id"] in ids]
        return [state["attributes"]["friendly_name"] for state in states]

    def entities(self, name: str) -> list[State]:
        """Return the entities of a name. A relay has that of its device."""
        states = self._get("/api/states")
        return [each for each in states if each["attributes"].get("friendly_name") == name]

    def click(self, switch: State, *, on: bool) -> None:
        """Do what a click on a switch does."""
        action = "turn_on" if on else "turn_off"
        self._post(f"/api/services/switch/{action}", entity_id=switch["entity_id"])

    def delete(self, device: Answer) -> None:
        """Do what "Delete" on a device's page does."""
        self.ask(
            "config/device_registry/remove_config_entry",
            device_id=device["id"],
            config_entry_id=self._mqtt,
        )

    @contextlib.contextmanager
    def mqtt(self, *forms: dict[str, object], certificate: Path | None = None) -> Iterator[None]:
        """Have the integration MQTT, added with what is filled in on its pages."""
        if certificate:
            with certificate.open("rb") as file:
                answer = self._http.post(
                    f"{self._url}/api/file_upload", files={"file": file}, timeout=10
                )
            forms = (*forms, {**forms[-1], "certificate": answer.json()["file_id"]})
        self._mqtt = self._fill_in("flow", "mqtt", *forms)["result"]["entry_id"]
        try:
            yield
        finally:
            entry = f"{self._url}/api/config/config_entries/entry/{self._mqtt}"
            assert self._http.delete(entry, timeout=30).ok

    def set_mqtt_options(self, **options: object) -> None:
        """Fill in "Configure MQTT options"."""
        self._fill_in("options/flow", self._mqtt, options)

    def _fill_in(self, dialog: str, handler: str, *pages: dict[str, object]) -> Answer:
        """Fill in the pages of a dialog, one after the other; return what comes of it."""
        path = f"/api/config/config_entries/{dialog}"
        page: Answer = self._post(path, handler=handler, show_advanced_options=True)
        for fields in pages:
            assert fields.keys() <= {field["name"] for field in page["data_schema"]}, page
            page = self._post(f"{path}/{page['flow_id']}", **fields)
        assert page["type"] == "create_entry", page
        return page

    def ask(self, command: str, **fields: object) -> Any:
        """Send a command by WebSocket; return its result."""
        answer = asyncio.run(self._ask({"id": 1, "type": command, **fields}))
        assert answer["success"], answer
        return answer["result"]

    async def _ask(self, command: dict[str, object]) -> Any:
        url = f"{self._url}/api/websocket"
        async with aiohttp.ClientSession() as session, session.ws_connect(url) as connection:
            await connection.receive_json()
            await connection.send_json({"type": "auth", "access_token": self._token})
            await connection.receive_json()
            await connection.send_json(command)
            return await connection.receive_json()

    def _get(self, path: str) -> Any:
        answer = self._http.get(self._url + path, timeout=10)
        assert answer.ok, answer.text
        return answer.json()

    def _post(self, path: str, **fields: object) -> Any:
        answer = self._http.post(self._url + path, json=fields, timeout=30)
        assert answer.ok, answer.text
        return answer.json()
