"""A SQLite file for what must outlive a restart; one that is damaged is put aside."""

import logging
import sqlite3
import time
from pathlib import Path

log = logging.getLogger("state")


def open_file(path: Path, setup: str) -> sqlite3.Connection:
    """Open the database at `path`, or make it; `setup` is SQL that is run each time.

    A file that is no sound database any more is put aside. Several threads may use the connection,
    one at a time. Raises OSError or sqlite3.Error if the folder or the file cannot be used.
    """
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    try:
        return _connect(path, setup)
    except sqlite3.OperationalError:  # the folder, the disk: nothing is wrong with the file
        raise
    except sqlite3.DatabaseError as error:
        aside = f"{path}.damaged-{time.time_ns()}"
        for suffix in ("", "-wal", "-shm"):
            if (part := Path(f"{path}{suffix}")).exists():
                part.rename(f"{aside}{suffix}")
        log.error("%s is damaged (%s); put aside as %s", path, error, aside)
        return _connect(path, setup)


def _connect(path: Path, setup: str) -> sqlite3.Connection:
    database = sqlite3.connect(path, check_same_thread=False, timeout=1.0)
    try:
        database.executescript(setup)
        (verdict,) = database.execute("PRAGMA quick_check(1)").fetchone()
        if verdict != "ok":
            raise sqlite3.DatabaseError(" ".join(verdict.split()))
    except sqlite3.Error:
        database.close()
        raise
    return database
