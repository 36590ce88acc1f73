"""PostgreSQL, and a machine on which ChirpStack is set up by our scripts."""

import os
import shlex
import shutil
import subprocess
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from demo.parts import HOST, REPOSITORY
from demo.process import Program, find_program, free_port

FOLDER = REPOSITORY / "integrations" / "chirpstack"
IS_ROOT = os.geteuid() == 0
ROLES = ("chirpstack", "chirpstack_as", "chirpstack_ns")
AS_POSTGRES = (
    shlex.split("setpriv --reuid=postgres --regid=postgres --clear-groups --pdeathsig=KILL --")
    if IS_ROOT
    else []
)


class RefusedError(RuntimeError):
    """A program ended with an error; its words."""


def run(
    *argv: str | Path, env: Mapping[str, str] | None = None, cwd: Path | None = None, text: str = ""
) -> str:
    """Return what a program says; its complaint, if it has one, is RefusedError."""
    outcome = subprocess.run(
        list(map(str, argv)),
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
        env={"PATH": os.environ["PATH"], **(env or {})},
        cwd=cwd,
        input=text,
    )
    if outcome.returncode:
        raise RefusedError(f"{outcome.returncode}: {outcome.stderr.strip()}")
    assert not outcome.stderr
    return outcome.stdout


class PostgreSQL(Program):
    """A cluster as Debian makes it, but one without a locale; it logs every statement.

    PostgreSQL refuses to run as root; then it is the user postgres's, as Debian's always is.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        versions = Path("/usr/lib/postgresql").glob("*/bin")
        self._bin = max(versions, key=lambda each: float(each.parent.name))
        settings = {
            "listen_addresses": HOST,
            "port": self.port,
            "unix_socket_directories": folder,
            "log_statement": "all",
            "fsync": "off",
        }
        options = [f"--{name}={value}" for name, value in settings.items()]
        argv = [*AS_POSTGRES, str(self._bin / "postgres"), "-D", str(folder / "data"), *options]
        super().__init__("postgres", argv, folder / "postgres.log", cwd=folder)

    def create(self) -> None:
        if IS_ROOT:
            shutil.chown(self.folder, "postgres", "postgres")
        local = "peer" if IS_ROOT else "trust"
        options = ["--username=postgres", f"--auth-local={local}", "--auth-host=scram-sha-256"]
        options += ["--no-sync", "--no-locale", "--encoding=SQL_ASCII", str(self.folder / "data")]
        run(*AS_POSTGRES, self._bin / "initdb", *options, cwd=self.folder)

    def ready(self) -> bool:
        argv = ["pg_isready", "--quiet", "--host", HOST, "--port", str(self.port)]
        return subprocess.run(argv, check=False, timeout=10).returncode == 0

    @property
    def env(self) -> dict[str, str]:
        return {"PGHOST": str(self.folder), "PGPORT": str(self.port)}

    def ask(self, *statements: str, database: str = "postgres") -> list[str]:
        """Run statements as the superuser; return the rows, their columns joined by `|`."""
        options = ["--no-psqlrc", "--quiet", "-At", "-v", "ON_ERROR_STOP=1", "-U", "postgres"]
        commands = [f"--command={each}" for each in statements]
        argv = [*AS_POSTGRES, "psql", *options, "-d", database, *commands]
        quiet = {"PGOPTIONS": "-c client_min_messages=warning"}
        return run(*argv, env=self.env | quiet, cwd=self.folder).splitlines()

    def ask_as(self, dsn: str, sql: str) -> list[str]:
        return run("psql", "--no-psqlrc", "--quiet", "-At", dsn, "--command", sql).splitlines()

    def dsn(self, role: str, password: str, database: str = "") -> str:
        return f"postgres://{role}:{password}@{HOST}:{self.port}/{database or role}?sslmode=disable"

    def state(self) -> list[str]:
        """Return all there is to know of the roles and databases, the row's version included."""
        roles = f"SELECT xmin, * FROM pg_authid WHERE rolname IN {ROLES} ORDER BY rolname"  # noqa: S608 - ours
        databases = f"SELECT xmin, * FROM pg_database WHERE datname IN {ROLES} ORDER BY datname"  # noqa: S608 - ours
        return self.ask(roles, databases)


@dataclass(frozen=True)
class Secrets:
    """The file of secrets, where tests have it."""

    path: Path

    @property
    def env(self) -> dict[str, str]:
        return {"SECRETS": str(self.path)}

    def __getitem__(self, name: str) -> str:
        return self.all()[name]

    def all(self) -> dict[str, str]:
        return dict(line.split("=", 1) for line in self.path.read_text().splitlines())


class Machine:
    """A folder with what the packages of ChirpStack leave in /etc, and our configuration."""

    PATHS = (
        "etc/chirpstack/chirpstack.toml",
        "etc/chirpstack/region_eu868.toml",
        "etc/chirpstack-gateway-bridge/chirpstack-gateway-bridge.toml",
    )

    def __init__(self, root: Path) -> None:
        self.root = root
        self.secrets = Secrets(root / "etc" / "openenergy" / "chirpstack.secrets")
        for path in self.PATHS:
            (root / path).parent.mkdir(parents=True, exist_ok=True)

    def configure(self, *arguments: str, port: int | str = "") -> str:
        env = {"DESTDIR": str(self.root), "PGPORT": str(port)} | self.secrets.env
        return run(FOLDER / "configure.sh", *arguments, env=env)

    def files(self) -> dict[str, str]:
        return {path: (self.root / path).read_text() for path in self.PATHS}

    def read(self, name: str) -> dict[str, Any]:
        (path,) = (self.root / path for path in self.PATHS if path.endswith(f"/{name}"))
        return tomllib.loads(path.read_text())

    @property
    def chirpstack(self) -> dict[str, Any]:
        return self.read("chirpstack.toml")

    @property
    def region(self) -> dict[str, Any]:
        (region,) = self.read("region_eu868.toml")["regions"]
        return dict(region)

    @property
    def bridge(self) -> dict[str, Any]:
        return self.read("chirpstack-gateway-bridge.toml")


def make_spies(folder: Path, arguments: Path, programs: Sequence[str]) -> Path:
    """Put programs into a folder that write down their arguments before they do their work."""
    folder.mkdir()
    arguments.touch()
    for name in programs:
        spy = folder / name
        spy.write_text(
            f'#!/bin/sh\necho {name} "$@" >>{arguments}\nexec {find_program(name)} "$@"\n'
        )
        spy.chmod(0o755)
    return folder
