"""The parts of the chain as processes on free loopback ports, their state in a given folder."""

import json
import os
import socket
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import requests

from demo.process import Program, find_program, free_port

REPOSITORY = Path(__file__).resolve().parent.parent
HOST = "127.0.0.1"

Row = dict[str, Any]
"""One point as a database returns it: its tags, its values, `time` in ms since 1970 UTC."""


class Mosquitto(Program):
    """The MQTT broker as Debian configures it, but on loopback and open to anybody there.

    Its own defaults hold: 20 messages in flight, 1,000 queued. Lines of `extra_config` may change
    them, or add users or listeners (mosquitto.conf(5)). State is saved at the end, after SIGTERM.
    """

    def __init__(self, folder: Path, *, extra_config: str = "", port: int | None = None) -> None:
        """Write the configuration into `folder`."""
        folder.mkdir(parents=True, exist_ok=True)
        self.host = HOST
        self.port = port or free_port()
        config = folder / "mosquitto.conf"
        config.write_text(
            f"listener {self.port} {HOST}\n"
            "allow_anonymous true\n"
            "persistence true\n"
            f"persistence_location {folder}/\n"
            # Started by root it would change to the user mosquitto, who may not write here; and
            # the kernel forgets to kill a process with its parent once it changes its user.
            "user root\n"
            f"{extra_config}\n"
        )
        argv = [find_program("mosquitto"), "-c", str(config)]
        super().__init__("mosquitto", argv, folder / "mosquitto.log")

    def ready(self) -> bool:
        """Tell whether it accepts connections."""
        try:
            with socket.create_connection((self.host, self.port), timeout=1):
                return True
        except OSError:
            return False


class _HttpDatabase(Program):
    """A database that is asked over HTTP."""

    def __init__(self, name: str, argv: Sequence[str], folder: Path, port: int) -> None:
        self.host = HOST
        self.port = port
        self.url = f"http://{HOST}:{port}"
        self._http = requests.Session()
        self._http.trust_env = False  # no proxy on the way to loopback
        self._http.headers["Connection"] = "close"  # the server may be restarted at any time
        super().__init__(name, argv, folder / f"{name}.log")

    def _ask(self, path: str, **form: str) -> str:
        answer = self._http.post(self.url + path, data=form, timeout=10)
        if not answer.ok:
            raise RuntimeError(f"{self.name}: {answer.status_code} {answer.text.strip()}")
        return answer.text

    def _answers(self, path: str) -> bool:
        try:
            return self._http.get(self.url + path, timeout=1).ok
        except requests.RequestException:
            return False


class InfluxDB1(_HttpDatabase):
    """InfluxDB 1.x, Debian's package influxdb. Given a username, it asks everybody for one."""

    def __init__(self, folder: Path, *, username: str = "", password: str = "") -> None:
        """Write the configuration; the user, if any, will be the administrator."""
        folder.mkdir(parents=True, exist_ok=True)
        port = free_port()
        config = folder / "influxdb.conf"
        config.write_text(
            "reporting-disabled = true\n"
            f'bind-address = "{HOST}:0"\n'
            f'[meta]\ndir = "{folder}/meta"\n'
            f'[data]\ndir = "{folder}/data"\nwal-dir = "{folder}/wal"\nindex-version = "tsi1"\n'
            f'[http]\nbind-address = "{HOST}:{port}"\nlog-enabled = false\n'
            f"auth-enabled = {json.dumps(bool(username))}\n"
            "[monitor]\nstore-enabled = false\n"
        )
        argv = [find_program("influxd"), "-config", str(config)]
        super().__init__("influxd", argv, folder, port)
        self._username = username
        self._password = password
        if username:
            self._http.auth = (username, password)

    def start(self) -> Self:
        """Start it, and make its administrator."""
        super().start()
        if self._username:
            self.query(
                f"CREATE USER \"{self._username}\" WITH PASSWORD '{self._password}'"
                " WITH ALL PRIVILEGES"
            )
        return self

    def ready(self) -> bool:
        """Tell whether it answers."""
        return self._answers("/ping")

    def create_database(self, name: str) -> None:
        """Create a database, unless it exists."""
        self.query(f'CREATE DATABASE "{name}"')

    def query(self, influxql: str, database: str = "") -> list[Row]:
        """Run statements; return the rows of all their series, RuntimeError with its reason."""
        answer = json.loads(self._ask("/query", q=influxql, db=database, epoch="ms"))
        rows: list[Row] = []
        for result in answer["results"]:
            if "error" in result:
                raise RuntimeError(f"{self.name}: {result['error']} in {influxql}")
            for series in result.get("series", []):
                tags = series.get("tags", {})
                rows += [
                    tags | dict(zip(series["columns"], values, strict=True))
                    for values in series.get("values", [])
                ]
        return rows


class VictoriaMetrics(_HttpDatabase):
    """VictoriaMetrics, which takes what is written to InfluxDB 2 (/api/v2/write)."""

    def __init__(self, folder: Path) -> None:
        """Choose a port; everything else is on its command line."""
        folder.mkdir(parents=True, exist_ok=True)
        port = free_port()
        argv = [
            find_program("victoria-metrics"),
            f"-storageDataPath={folder}/data",
            f"-httpListenAddr={HOST}:{port}",
            "-retentionPeriod=100y",
            "-search.latencyOffset=0s",  # otherwise new points stay unseen for 30 s
        ]
        super().__init__("victoria-metrics", argv, folder, port)

    def ready(self) -> bool:
        """Tell whether it answers."""
        return self._answers("/health")

    def points(self, name: str) -> list[Row]:
        """Return all points of MEASUREMENT_FIELD: the tags, `value` and `time` of each."""
        self._ask("/internal/force_flush")
        lines = self._ask("/api/v1/export", **{"match[]": f'{{__name__="{name}"}}'}).splitlines()
        rows: list[Row] = []
        for series in map(json.loads, lines):
            tags = {key: tag for key, tag in series["metric"].items() if key != "__name__"}
            rows += [
                tags | {"value": value, "time": time}
                for value, time in zip(series["values"], series["timestamps"], strict=True)
            ]
        return rows


class Script(Program):
    """One of our three scripts, run as systemd would: an environment of its own, no terminal.

    Its log and its state lie in a folder beside the configuration, named after both; so two of
    the same script need two configurations.
    """

    def __init__(
        self,
        name: str,
        config_path: Path,
        *,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        args: Sequence[str] = (),
    ) -> None:
        """Prepare to run `name` (a file of the repository); `env` is added to what it gets."""
        stem = Path(name).stem
        folder = config_path.with_name(f"{config_path.stem}-{stem}")
        folder.mkdir(exist_ok=True)
        environment = {
            "PATH": os.environ.get("PATH", os.defpath),
            "LANG": "C.UTF-8",
            "HOME": str(folder),
            "STATE_DIRECTORY": str(folder),
            **(env or {}),
        }
        argv = [sys.executable, str(REPOSITORY / name), "--config", str(config_path), *args]
        super().__init__(name, argv, folder / f"{stem}.log", env=environment, cwd=cwd)


def write_config(path: Path, tables: Mapping[str, Any]) -> Path:
    """Write `tables` as TOML, readable by the owner alone: {"MQTT": {"port": 1883}, ...}.

    A list of dicts becomes an array of tables ([[MyStromSwitch]]).
    """
    lines: list[str] = []
    for name, content in tables.items():
        header, bodies = (
            (f"[[{name}]]", content) if isinstance(content, list) else (f"[{name}]", [content])
        )
        for body in bodies:
            lines += [header, *(f"{key} = {_toml(value)}" for key, value in body.items()), ""]
    path.touch(mode=0o600)
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def _toml(value: object) -> str:
    match value:
        case dict():
            return "{" + ", ".join(f"{key} = {_toml(item)}" for key, item in value.items()) + "}"
        case list() | tuple():
            return "[" + ", ".join(map(_toml, value)) + "]"
        case bool() | str():
            # TOML, unlike JSON, wants DEL escaped.
            return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
        case _:
            return repr(value)
