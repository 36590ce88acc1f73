"""The filters that our session at the broker has, or may have: the broker cannot be asked.

It keeps them with the session, so those that left the configuration must be unsubscribed.
"""

from pathlib import Path


class Subscriptions:
    """The present filters, and a file that remembers those of former runs."""

    def __init__(self, path: Path, filters: list[str]) -> None:
        """Remember in the file at `path`."""
        self.filters = filters
        self._path = path

    def change(self) -> list[str]:
        """Return filters to unsubscribe; remember that the session may now have the new ones."""
        known = self._path.read_text("utf-8").splitlines() if self._path.exists() else []
        self._write([*self.filters, *(each for each in known if each not in self.filters)])
        return [each for each in known if each not in self.filters]

    def confirm(self) -> None:
        """Remember that the session has the present filters, and no others."""
        self._write(self.filters)

    def _write(self, filters: list[str]) -> None:
        new = self._path.with_suffix(".new")
        new.write_text("\n".join(filters) + "\n", "utf-8")
        new.replace(self._path)
