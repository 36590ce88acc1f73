"""Meter readings that never go back, made from counters that start again with every power cut."""

import logging
import sqlite3
import threading
from pathlib import Path
from typing import Final, NamedTuple

from openenergy import sqlite_file

SETUP: Final = """
PRAGMA journal_mode = WAL;
PRAGMA synchronous = NORMAL;
CREATE TABLE IF NOT EXISTS meter (
    switch TEXT PRIMARY KEY, boot_id TEXT, begin_ws REAL, total_ws REAL
);
"""

log = logging.getLogger("meter")


class Meter(NamedTuple):
    """A switch's meter: `total_ws` in Ws, of which `begin_ws` was counted before `boot_id`."""

    boot_id: str
    begin_ws: float
    total_ws: float


def advance(meter: Meter | None, boot_id: str, energy_since_boot_ws: float) -> Meter:
    """Return the meter after a reading of the switch's own counter.

    The vendor's algorithm (https://api.mystrom.ch, energy_since_boot): with a new boot_id the
    total so far becomes the beginning. A counter that goes back under the same boot_id counts as
    a new start too.
    """
    if meter is None:
        return Meter(boot_id, 0.0, energy_since_boot_ws)
    is_same_run = (
        boot_id == meter.boot_id and meter.begin_ws + energy_since_boot_ws >= meter.total_ws
    )
    begin_ws = meter.begin_ws if is_same_run else meter.total_ws
    return Meter(boot_id, begin_ws, begin_ws + energy_since_boot_ws)


class MeterStore:
    """The meters on disk; several threads may use it.

    A commit survives the end of our process at once, and a power cut once the system has written
    its buffers (within a minute), which spares the memory card a write for every reading.
    """

    def __init__(self, path: Path) -> None:
        """Open the store, or make it; raises OSError or sqlite3.Error if the folder is no good."""
        self._path = path
        self._lock = threading.Lock()
        self._has_trouble = False
        self._database = sqlite_file.open_file(path, SETUP)

    def load(self, switch: str) -> Meter | None:
        """Return the meter of a switch, None if it was never read."""
        with self._lock:
            row = self._database.execute(
                "SELECT boot_id, begin_ws, total_ws FROM meter WHERE switch = ?", (switch,)
            ).fetchone()
        return Meter(*row) if row else None

    def save(self, switch: str, meter: Meter) -> None:
        """Keep the meter of a switch; a disk that does not take it must not stop the readings."""
        with self._lock:
            try:
                with self._database:
                    self._database.execute(
                        "REPLACE INTO meter VALUES (?, ?, ?, ?)", (switch, *meter)
                    )
            except sqlite3.Error as error:
                if not self._has_trouble:
                    log.error("%s: %s; meter readings do not outlive a restart", self._path, error)
                self._has_trouble = True
            else:
                self._has_trouble = False

    def close(self) -> None:
        """Close the file."""
        self._database.close()
