"""What cannot be delivered now, on disk, in order, until it can.

SQLite keeps the file whole through SIGKILL and power cuts; every `append` is on the disk when it
returns.
"""

import contextlib
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from openenergy import sqlite_file

SETUP: Final = """
PRAGMA locking_mode = EXCLUSIVE;  -- a second process with our name must not count on our records
PRAGMA journal_mode = WAL;
PRAGMA synchronous = FULL;  -- on the disk when a commit returns
PRAGMA journal_size_limit = 1048576;
CREATE TABLE IF NOT EXISTS spool (
    id INTEGER PRIMARY KEY AUTOINCREMENT, items INTEGER NOT NULL, content BLOB NOT NULL
);
"""


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
    """A queue of records on disk; several threads may use it.

    The file is bounded in bytes; SQLite's journal beside it takes about 5 MB more.
    """

    def __init__(self, path: Path, limit_bytes: int) -> None:
        """Open the spool, or make it; a file that is no database any more is put aside.

        Raises SpoolError if the folder or the file cannot be used.
        """
        self._path = path
        self._limit_bytes = limit_bytes
        self._lock = threading.Lock()
        self._open()

    def __len__(self) -> int:
        """Items that wait."""
        return int(self._items)

    def append(self, records: Sequence[Record]) -> None:
        """Keep records; they are on the disk when this returns.

        Raises SpoolError if there is no room, in the spool or on the disk; nothing is kept then.
        """
        with self._lock:
            if not self._is_open:
                self._open()
            with self._transaction() as database:
                # Before too: what is undone has been written to the disk.
                self._check_room_for(sum(len(record.content) for record in records))
                database.executemany("INSERT INTO spool (items, content) VALUES (?, ?)", records)
                self._check_room_for(0)
            self._items += sum(record.items for record in records)

    def oldest(self, items: int) -> Piece | None:
        """Return the oldest records, of about `items` items and at least one; None if empty."""
        last = taken = 0
        records: list[Record] = []
        with self._lock:
            if not self._is_open:
                return None
            rows = self._rows_left()
            for row_id, row_items, content in rows:
                if records and taken + row_items > items:
                    break
                last, taken = row_id, taken + row_items
                records.append(Record(row_items, content))
            rows.close()
        return Piece(last, records) if records else None

    def remove(self, piece: Piece) -> None:
        """Forget records that are delivered; a file without others is begun anew.

        A disk that is full cannot even note what is gone: that is passed over then, and the new
        file makes room. If there is not enough for that either, `append` will try it again.
        """
        with self._lock:
            self._items -= sum(record.items for record in piece.records)
            self._delivered = piece.last
            with contextlib.suppress(SpoolError):
                if self._rows_left().fetchone() is None:
                    self._begin_anew()
                else:
                    with self._transaction() as database:
                        database.execute("DELETE FROM spool WHERE id <= ?", (piece.last,))

    def close(self) -> None:
        """Close the file."""
        self._database.close()

    def _open(self) -> None:
        try:
            self._database = sqlite_file.open_file(self._path, SETUP)
            (self._items,) = self._database.execute(
                "SELECT COALESCE(SUM(items), 0) FROM spool"
            ).fetchone()
        except (OSError, sqlite3.Error) as error:
            raise SpoolError(f"{self._path}: {error}") from error
        self._delivered = 0  # the last row that need not be delivered, still in the file or not
        self._is_open = True

    def _begin_anew(self) -> None:
        self._database.close()
        self._is_open = False
        try:
            for suffix in ("-wal", "-shm", ""):  # a journal left alone would join the next file
                Path(f"{self._path}{suffix}").unlink(missing_ok=True)
        except OSError as error:
            raise SpoolError(f"{self._path}: {error}") from error
        self._open()

    def _rows_left(self) -> sqlite3.Cursor:
        return self._database.execute(
            "SELECT id, items, content FROM spool WHERE id > ? ORDER BY id", (self._delivered,)
        )

    def _check_room_for(self, more_bytes: int) -> None:
        if self._used_bytes() + more_bytes > self._limit_bytes:
            raise SpoolError(f"{self._path}: full, at {self._limit_bytes} bytes (spool_size)")

    def _used_bytes(self) -> int:
        """Return what the file holds, the present transaction included."""
        pages, unused_pages, page_bytes = (
            int(self._database.execute(f"PRAGMA {count}").fetchone()[0])
            for count in ("page_count", "freelist_count", "page_size")
        )
        return (pages - unused_pages) * page_bytes

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        try:
            with self._database:
                yield self._database
        except sqlite3.Error as error:
            raise SpoolError(f"{self._path}: {error}") from error
