"""ChirpStack's databases as they are set up, in a real PostgreSQL."""

import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from demo.process import free_port
from tests.integration.chirpstack_parts import (
    FOLDER,
    ROLES,
    Machine,
    PostgreSQL,
    RefusedError,
    Secrets,
    make_spies,
    run,
)


@pytest.fixture(scope="module")
def cluster() -> Iterator[PostgreSQL]:
    # pytest's folders are closed to the user postgres.
    with tempfile.TemporaryDirectory(prefix="postgresql-") as folder:
        cluster = PostgreSQL(Path(folder))
        cluster.create()
        with cluster:
            yield cluster


@pytest.fixture
def postgresql(cluster: PostgreSQL) -> Iterator[PostgreSQL]:
    yield cluster
    for name in (*ROLES, "guest"):
        cluster.ask(f"DROP DATABASE IF EXISTS {name}", f"DROP ROLE IF EXISTS {name}")


@pytest.fixture
def secrets(tmp_path: Path) -> Secrets:
    return Secrets(tmp_path / "openenergy" / "chirpstack.secrets")


def set_up(postgresql: PostgreSQL, secrets: Secrets, *arguments: str) -> str:
    return run(FOLDER / "database.sh", *arguments, env=postgresql.env | secrets.env)


def test_chirpstack_gets_a_database_of_its_own(postgresql: PostgreSQL, secrets: Secrets) -> None:
    said = set_up(postgresql, secrets)
    assert said == f"Database chirpstack is ready; its password is in {secrets.path}.\n"
    assert secrets.path.stat().st_mode & 0o777 == 0o600
    dsn = postgresql.dsn("chirpstack", secrets["postgresql_chirpstack"])
    # As ChirpStack's migrations do it; its names are in any language.
    postgresql.ask_as(dsn, "CREATE TABLE device (name varchar(100) NOT NULL)")
    index = "CREATE INDEX idx_device_name_trgm ON device USING gin (name gin_trgm_ops)"
    postgresql.ask_as(dsn, index)
    postgresql.ask_as(dsn, "INSERT INTO device VALUES ('Zähler Küche')")
    found = postgresql.ask_as(dsn, "SELECT length(name) FROM device WHERE name ILIKE '%KÜCHE%'")
    assert found == ["12"]
    assert postgresql.ask_as(
        dsn, "SELECT usesuper, usecreatedb FROM pg_user WHERE usename = user"
    ) == ["f|f"]
    with pytest.raises(RefusedError, match="permission denied"):
        postgresql.ask_as(dsn, "CREATE ROLE burglar")


def test_a_second_time_nothing_is_changed(postgresql: PostgreSQL, secrets: Secrets) -> None:
    set_up(postgresql, secrets)
    before, kept = postgresql.state(), secrets.path.read_text()
    assert len(before) == 2
    log_length = len(postgresql.log())
    set_up(postgresql, secrets)
    assert (postgresql.state(), secrets.path.read_text()) == (before, kept)
    statements = re.findall(r"statement: (\w+)", postgresql.log()[log_length:])
    assert set(statements) == {"SELECT"}


def test_nobody_else_gets_in(postgresql: PostgreSQL, secrets: Secrets) -> None:
    set_up(postgresql, secrets)
    postgresql.ask("CREATE ROLE guest LOGIN PASSWORD 'guest'", "CREATE DATABASE guest OWNER guest")
    assert postgresql.ask_as(postgresql.dsn("guest", "guest"), "SELECT user") == ["guest"]
    with pytest.raises(RefusedError, match='permission denied for database "chirpstack"'):
        postgresql.ask_as(postgresql.dsn("guest", "guest", "chirpstack"), "SELECT 1")
    with pytest.raises(RefusedError, match="password authentication failed"):
        postgresql.ask_as(postgresql.dsn("chirpstack", "chirpstack"), "SELECT 1")


def test_version_3_gets_two_databases(postgresql: PostgreSQL, secrets: Secrets) -> None:
    set_up(postgresql, secrets, "--version", "3")
    before = postgresql.state()
    set_up(postgresql, secrets, "--version", "3")
    assert postgresql.state() == before
    extensions = "SELECT extname FROM pg_extension WHERE extname <> 'plpgsql' ORDER BY 1"
    passwords = secrets.all()
    assert passwords.keys() == {"postgresql_chirpstack_as", "postgresql_chirpstack_ns"}
    assert len(set(passwords.values())) == 2
    for role, expected in (("chirpstack_as", ["hstore", "pg_trgm"]), ("chirpstack_ns", [])):
        dsn = postgresql.dsn(role, secrets[f"postgresql_{role}"])
        assert postgresql.ask_as(dsn, extensions) == expected
        postgresql.ask_as(dsn, "CREATE TABLE anything (id int)")
    dsn = postgresql.dsn("chirpstack_as", passwords["postgresql_chirpstack_as"], "chirpstack_ns")
    with pytest.raises(RefusedError, match='permission denied for database "chirpstack_ns"'):
        postgresql.ask_as(dsn, "SELECT 1")


NEW_ROLE = "CREATE ROLE chirpstack LOGIN PASSWORD 'chirpstack'"


@pytest.mark.parametrize(
    "statements",
    [
        ["CREATE ROLE chirpstack"],
        [NEW_ROLE],
        [NEW_ROLE, "CREATE DATABASE chirpstack"],
        [NEW_ROLE, "CREATE DATABASE chirpstack OWNER chirpstack"],
        [f"{NEW_ROLE} SUPERUSER", "CREATE DATABASE chirpstack OWNER chirpstack"],
        [f"{NEW_ROLE} CREATEDB CREATEROLE REPLICATION BYPASSRLS"],
        [f"{NEW_ROLE} VALID UNTIL '2020-01-01'"],
        ["CREATE DATABASE chirpstack"],
    ],
)
def test_a_half_done_state_is_completed(
    postgresql: PostgreSQL, secrets: Secrets, statements: list[str]
) -> None:
    postgresql.ask(*statements)
    set_up(postgresql, secrets)
    assert is_complete(postgresql, secrets)


@pytest.mark.parametrize(
    "damage",
    [
        "DROP EXTENSION pg_trgm",
        "ALTER ROLE chirpstack PASSWORD 'other'",
        "ALTER ROLE chirpstack PASSWORD NULL",
        "ALTER ROLE chirpstack NOLOGIN",
        "ALTER ROLE chirpstack SUPERUSER",
        "ALTER DATABASE chirpstack OWNER TO postgres",
        "GRANT CONNECT ON DATABASE chirpstack TO PUBLIC",
    ],
)
def test_what_was_damaged_is_repaired(
    postgresql: PostgreSQL, secrets: Secrets, damage: str
) -> None:
    set_up(postgresql, secrets)
    kept = secrets.path.read_text()
    postgresql.ask(damage, database="chirpstack")
    assert not is_complete(postgresql, secrets)
    set_up(postgresql, secrets)
    assert is_complete(postgresql, secrets)
    assert secrets.path.read_text() == kept


def test_lost_secrets_are_replaced(postgresql: PostgreSQL, secrets: Secrets) -> None:
    set_up(postgresql, secrets)
    old = secrets.path.read_text()
    secrets.path.unlink()
    set_up(postgresql, secrets)
    assert secrets.path.read_text() != old
    assert is_complete(postgresql, secrets)


def is_complete(postgresql: PostgreSQL, secrets: Secrets) -> bool:
    """Whether everything is as ChirpStack wants it, and as nobody else would like it."""
    sql = """
        SELECT 'pg_trgm' IN (SELECT extname FROM pg_extension),
            (SELECT pg_get_userbyid(datdba) FROM pg_database WHERE datname = current_database()),
            has_database_privilege('public', current_database(), 'CONNECT'), *
        FROM (SELECT rolsuper, rolcreatedb, rolcreaterole, rolreplication, rolbypassrls
            FROM pg_roles WHERE rolname = user) AS role"""
    dsn = postgresql.dsn("chirpstack", secrets["postgresql_chirpstack"])
    try:
        return postgresql.ask_as(dsn, sql) == ["t|chirpstack|f|f|f|f|f|f"]
    except RefusedError:
        return False


def test_the_password_is_seen_nowhere(
    postgresql: PostgreSQL, secrets: Secrets, tmp_path: Path
) -> None:
    """Neither as an argument of a program, nor said, nor in PostgreSQL's log."""
    arguments = tmp_path / "arguments"
    spies = make_spies(tmp_path / "spies", arguments, ["openssl", "psql", "runuser", "sed"])
    path = f"{spies}:{os.environ['PATH']}"
    before = len(postgresql.log())
    env = postgresql.env | secrets.env | {"PATH": path}
    said = run(FOLDER / "database.sh", env=env)
    seen = arguments.read_text()
    password = secrets["postgresql_chirpstack"]
    assert re.fullmatch("[0-9a-f]{48}", password)
    assert "psql --no-psqlrc --no-password --host 127.0.0.1 --username chirpstack" in seen
    log = postgresql.log()[before:]
    assert "CREATE DATABASE chirpstack" in log
    for text in (said, seen, log):
        assert password not in text


@pytest.mark.parametrize("arguments", [["--version"], ["--version", "5"], ["3"], ["--help"]])
def test_a_wrong_command_line_changes_nothing(
    postgresql: PostgreSQL, secrets: Secrets, arguments: list[str]
) -> None:
    with pytest.raises(RefusedError, match=r"^2: Usage: "):
        set_up(postgresql, secrets, *arguments)
    assert not secrets.path.exists()
    assert postgresql.state() == []


def test_without_postgresql_its_words_are_passed_on(secrets: Secrets, tmp_path: Path) -> None:
    env = {"PGHOST": str(tmp_path), "PGPORT": str(free_port())} | secrets.env
    with pytest.raises(RefusedError, match=r"connection to server on socket .* failed"):
        run(FOLDER / "database.sh", env=env)


def test_the_configured_dsn_opens_it(postgresql: PostgreSQL, tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    machine.configure(port=postgresql.port)
    set_up(postgresql, machine.secrets)
    dsn = machine.chirpstack["postgresql"]["dsn"]
    assert postgresql.ask_as(dsn, "SELECT user, current_database()") == ["chirpstack|chirpstack"]
    assert "Written" not in machine.configure()  # the port is kept
    machine.configure(port=5432)
    assert "@127.0.0.1:5432/" in machine.chirpstack["postgresql"]["dsn"]
