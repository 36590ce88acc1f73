"""The filters that our session at the broker has, or may have: the broker cannot be asked.

It keeps them with the session, so those that left the configuration must be unsubscribed.
"""

import logging
from pathlib import Path

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
        return self._path.read_text("utf-8").splitlines() if self._path.exists() else []

    def _write(self, filters: list[str]) -> None:
        if filters == self._read():  # a full disk must not matter then
            return
        new = self._path.with_suffix(".new")
        new.write_text("\n".join(filters) + "\n", "utf-8")
        new.replace(self._path)
