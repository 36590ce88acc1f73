"""Writes to the database in a thread of its own: a database that hangs holds nobody up."""

import queue
import threading
import time

from openenergy import influx


class Sender:
    """Does one job at a time."""

    def __init__(self, database: influx.Database, most: int, wake: threading.Event) -> None:
        """Prepare to write `most` lines at once; sets `wake` when a job is done."""
        self._database = database
        self._most = most
        self._wake = wake
        self._jobs: queue.SimpleQueue[list[str]] = queue.SimpleQueue()
        self._outcomes: queue.SimpleQueue[list[influx.Rejection] | influx.UnavailableError] = (
            queue.SimpleQueue()
        )
        self.began_s = 0.0

    def start(self) -> None:
        """Write from now on."""
        threading.Thread(target=self._run, name="sender", daemon=True).start()

    def send(self, lines: list[str]) -> None:
        """Begin to write."""
        self.began_s = time.monotonic()
        self._jobs.put(lines)

    def outcome(self) -> list[influx.Rejection] | influx.UnavailableError | None:
        """Return how the job ended: what was rejected, or why not all was taken; None: not yet."""
        try:
            return self._outcomes.get_nowait()
        except queue.Empty:
            return None

    def _run(self) -> None:
        while True:
            lines = self._jobs.get()
            try:
                self._outcomes.put(self._write(lines))
            except influx.UnavailableError as error:
                self._outcomes.put(error)
            self._wake.set()

    def _write(self, lines: list[str]) -> list[influx.Rejection]:
        rejections: list[influx.Rejection] = []
        # The last message of a batch, or a record that was kept with another setting, may be over.
        for begin in range(0, len(lines), self._most):
            rejections += influx.write(self._database.post, lines[begin : begin + self._most])
        return rejections
