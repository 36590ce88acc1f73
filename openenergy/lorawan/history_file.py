"""The history of all devices on disk, so that it outlives a restart."""

import logging
import time
from pathlib import Path
from typing import Final

import msgspec

from openenergy import whole_file
from openenergy.lorawan.history import History

RETRY_S: Final = 10.0

log = logging.getLogger("lorawan")


class HistoryFile:
    """A JSON file, replaced as a whole, and only when something changed that must not be lost.

    That is when a device tells its period, or begins a new grid: some lines a day.
    """

    def __init__(self, path: Path) -> None:
        """Read the file at `path`, if there is one; one that is no good is put aside.

        Raises OSError if the folder or the file cannot be used.
        """
        self._path = path
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.history = self._read()
        self._saved_revision = self.history.revision
        self._trouble = ""
        self._retry_at_s = 0.0

    def save(self) -> None:
        """Have the present history on the disk, whatever happens then.

        A disk that does not take it must not stop the measurements: it is tried again later.
        """
        revision = self.history.revision
        if revision == self._saved_revision or time.monotonic() < self._retry_at_s:
            return
        try:
            whole_file.write(self._path, msgspec.json.encode(self.history.dump()))
        except OSError as error:
            self._retry_at_s = time.monotonic() + RETRY_S
            if str(error) != self._trouble:
                log.error("%s; what sensors told of their periods is lost at a restart", error)
            self._trouble = str(error)
        else:
            self._saved_revision = revision
            self._trouble = ""

    def _read(self) -> History:
        if not self._path.exists():
            return History()
        try:
            return History(msgspec.json.decode(self._path.read_bytes()))
        except ValueError as error:
            aside = self._path.with_name(f"{self._path.name}.damaged-{time.time_ns()}")
            self._path.rename(aside)
            log.error("%s is damaged (%s); put aside as %s", self._path, error, aside)
            return History()
