"""The filters that our session at the broker has, or may have: the broker cannot be asked.

It keeps them with the session, so those that left the configuration must be unsubscribed.
"""

import logging
from pathlib import Path

from openenergy import topics, whole_file

log = logging.getLogger("state")


class Subscriptions:
    """The present filters, and a file that remembers those of former runs."""

    def __init__(self, path: Path, filters: list[str]) -> None:
        """Remember in the file at `path`."""
        self.filters = filters
        self._path = path

    def change(self) -> list[str]:
        """Return filters to unsubscribe; remember that the session may now have the new ones."""
        former = [each for each in self._read() if each not in self.filters]
        self._write([*self.filters, *former])
        return former

    def confirm(self) -> None:
        """Remember that the session has the present filters, and no others.

        If that cannot be written, the former ones are unsubscribed once more the next time.
        """
        try:
            self._write(self.filters)
        except OSError as error:
            log.warning("%s: %s", self._path, error)

    def _read(self) -> list[str]:
        """Return what the file has, but for what a damaged disk made of it.

        A broker hangs up on who names a filter that cannot be.
        """
        if not self._path.exists():
            return []
        lines = self._path.read_text("utf-8", "replace").splitlines()
        return [each for each in lines if topics.is_filter(each) and each.isprintable()]

    def _write(self, filters: list[str]) -> None:
        if filters != self._read():  # else a full disk must not matter
            whole_file.write(self._path, ("\n".join(filters) + "\n").encode())
