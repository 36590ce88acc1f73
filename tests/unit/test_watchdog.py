import logging
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from openenergy import service


class Systemd:
    """The receiving end of sd_notify(3)."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))
        self._socket.settimeout(10)

    def next(self) -> list[str]:
        return self._socket.recv(4096).decode().splitlines()

    def next_with(self, line: str) -> list[str]:
        while line not in (lines := self.next()):
            pass
        return lines

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def systemd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Systemd]:
    path = tmp_path / "notify"
    receiver = Systemd(path)
    monkeypatch.setenv("NOTIFY_SOCKET", str(path))
    monkeypatch.setenv("WATCHDOG_USEC", "40000")
    monkeypatch.setattr(service, "_working_until_s", {})
    yield receiver
    receiver.close()


@pytest.fixture
def stop(systemd: Systemd) -> Iterator[threading.Event]:
    """Begin to serve; end it when the event is set, or with the test."""
    stop = threading.Event()
    serving = threading.Thread(target=service.serve_until, args=(stop, lambda: "all is well"))
    serving.start()
    yield stop
    stop.set()
    serving.join()
    assert systemd.next_with("STOPPING=1")


def test_systemd_learns_that_we_are_ready_and_how_it_goes(
    systemd: Systemd, stop: threading.Event
) -> None:
    assert systemd.next() == ["READY=1", "STATUS=all is well"]
    assert systemd.next() == ["WATCHDOG=1", "STATUS=all is well"]
    assert not stop.is_set()


def test_watchdog_is_fed_only_while_every_thread_works(
    systemd: Systemd, stop: threading.Event, caplog: pytest.LogCaptureFixture
) -> None:
    service.beat(60)
    systemd.next_with("WATCHDOG=1")
    service.beat(0)  # no longer, from now on
    while "WATCHDOG=1" in systemd.next():  # sent before
        pass
    for _ in range(5):
        assert systemd.next() == ["STATUS=all is well"]
    service.beat(60)
    systemd.next_with("WATCHDOG=1")
    assert not stop.is_set()
    errors = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert [error.getMessage() for error in errors] == ["no sign of life from: MainThread"]
