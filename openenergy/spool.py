"""What cannot be delivered now, on disk, in order, until it can.

SQLite keeps the file whole through SIGKILL and power cuts; every `append` is on the disk when it
returns.
"""

import logging
import sqlite3
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NamedTuple

log = logging.getLogger("spool")

# What a record costs in the file beside its own bytes: a row's header, its place in the tree.
RECORD_OVERHEAD: Final = 16


class SpoolError(Exception):
    """A record could not be kept: the spool is full, or the disk."""


class Record(NamedTuple):
    """What is kept together, and how many items (points, messages) it holds."""

    items: int
    content: bytes


class Piece(NamedTuple):
    """The oldest records; `Spool.remove` takes it when they are delivered."""

    last: int
    records: list[Record]


class Spool:
    """A queue of records on disk, bounded in bytes; several threads may use it."""

    def __init__(self, path: Path, limit_bytes: int) -> None:
        """Open the spool, or make it; a file that is no database any more is put aside.

        Raises SpoolError if the folder cannot be used.
        """
        self._path = path
        self._limit_bytes = limit_bytes
        self._lock = threading.Lock()
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._database = self._open()
        except (OSError, sqlite3.Error) as error:
            raise SpoolError(f"{path}: {error}") from error
        self._items, self._bytes = self._database.execute(
            "SELECT COALESCE(SUM(items), 0), COALESCE(SUM(LENGTH(content) + ?), 0) FROM spool",
            (RECORD_OVERHEAD,),
        ).fetchone()

    def __len__(self) -> int:
        """Items that wait."""
        return int(self._items)

    def append(self, records: Sequence[Record]) -> None:
        """Keep records; they are on the disk when this returns.

        Raises SpoolError if there is no room, in the spool or on the disk; nothing is kept then.
        """
        size = sum(len(record.content) + RECORD_OVERHEAD for record in records)
        with self._lock:
            if self._bytes + size > self._limit_bytes:
                raise SpoolError(f"{self._path}: full, at {self._limit_bytes} bytes (spool_size)")
            with self._transaction() as database:
                database.executemany("INSERT INTO spool (items, content) VALUES (?, ?)", records)
            self._items += sum(record.items for record in records)
            self._bytes += size

    def oldest(self, items: int) -> Piece | None:
        """Return the oldest records, of about `items` items and at least one; None if empty."""
        last = taken = 0
        records: list[Record] = []
        with self._lock:
            rows = self._database.execute("SELECT id, items, content FROM spool ORDER BY id")
            for row_id, row_items, content in rows:
                if records and taken + row_items > items:
                    break
                last, taken = row_id, taken + row_items
                records.append(Record(row_items, content))
            rows.close()
        return Piece(last, records) if records else None

    def remove(self, piece: Piece) -> None:
        """Forget records that are delivered.

        Raises SpoolError if the disk refuses; they will be delivered again then.
        """
        with self._lock:
            with self._transaction() as database:
                database.execute("DELETE FROM spool WHERE id <= ?", (piece.last,))
            self._items -= sum(record.items for record in piece.records)
            self._bytes -= sum(len(record.content) + RECORD_OVERHEAD for record in piece.records)

    def close(self) -> None:
        """Close the file."""
        self._database.close()

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        try:
            with self._database:
                yield self._database
        except sqlite3.Error as error:
            raise SpoolError(f"{self._path}: {error}") from error

    def _open(self) -> sqlite3.Connection:
        try:
            return self._connect()
        except sqlite3.OperationalError:  # the folder, the disk: nothing is wrong with the file
            raise
        except sqlite3.DatabaseError as error:
            aside = f"{self._path}.damaged-{time.time_ns()}"
            for suffix in ("", "-wal", "-shm"):
                if (part := Path(f"{self._path}{suffix}")).exists():
                    part.rename(f"{aside}{suffix}")
            log.error("%s is damaged (%s); put aside as %s", self._path, error, aside)
            return self._connect()

    def _connect(self) -> sqlite3.Connection:
        database = sqlite3.connect(self._path, check_same_thread=False)
        database.execute("PRAGMA auto_vacuum = FULL")  # give space back when it is drained
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("PRAGMA synchronous = FULL")  # on the disk when a commit returns
        database.execute("PRAGMA journal_size_limit = 1048576")
        (verdict,) = database.execute("PRAGMA quick_check(1)").fetchone()
        if verdict != "ok":
            database.close()
            raise sqlite3.DatabaseError(verdict)
        database.execute(
            "CREATE TABLE IF NOT EXISTS spool"
            " (id INTEGER PRIMARY KEY AUTOINCREMENT, items INTEGER NOT NULL, content BLOB NOT NULL)"
        )
        return database
