"""Start real programs as child processes that cannot outlive us."""

import itertools
import os
import random
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, Self, TypeVar

T = TypeVar("T")

# Below Linux's ephemeral ports (32768 and up): a port that a stopped server will use again
# must not be taken by some client's connection meanwhile, nor by one to itself.
_candidate_ports = itertools.count(random.randrange(20_000, 30_000))


def free_port() -> int:
    """Return a loopback port nobody listens on; never the same one twice."""
    return next(port for port in _candidate_ports if _is_free(port))


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def wait_until(
    condition: Callable[[], T | None], timeout: float, what: str, *, every: float = 0.02
) -> T:
    """Return the first true value of `condition`; TimeoutError names `what` after `timeout` s."""
    deadline = time.monotonic() + timeout
    while not (value := condition()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: not within {timeout:g} s")
        time.sleep(every)
    return value


def find_program(name: str) -> str:
    """Return the path of an installed program, Debian's /usr/sbin included."""
    path = shutil.which(name, path=os.environ.get("PATH", os.defpath) + ":/usr/sbin:/sbin")
    if path is None:
        raise FileNotFoundError(f"{name} is not installed")
    return path


class Ended(NamedTuple):
    """How a process ended: its exit status (-N: killed by signal N), and how long it took."""

    status: int
    seconds: float


class Program:
    """One program, started and stopped any number of times; its output goes to `log_path`.

    The kernel kills it when the thread that started it ends (PR_SET_PDEATHSIG, prctl(2)), so
    that nothing stays behind even if we are killed with SIGKILL. Start programs from a thread
    that lives as long as they shall.
    """

    def __init__(
        self,
        name: str,
        argv: Sequence[str],
        log_path: Path,
        *,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
    ) -> None:
        """Prepare to run `argv`; `env` replaces the whole environment."""
        self.name = name
        self.argv = argv
        self.log_path = log_path
        self._env = env
        self._cwd = cwd
        self._process: subprocess.Popen[bytes] | None = None
        self._log_start = 0

    def start(self) -> Self:
        """Start the program and wait until it is ready, RuntimeError with its log if it ends."""
        with self.log_path.open("ab") as log:
            self._log_start = log.tell()
            self._process = subprocess.Popen(
                [find_program("setpriv"), "--pdeathsig", "KILL", "--", *self.argv],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=self._env,
                cwd=self._cwd,
                start_new_session=True,  # Ctrl-C is for us; we then stop the parts in order
            )
        try:
            wait_until(lambda: self.ready() or not self.running, 30, f"start of {self.name}")
        except TimeoutError:
            self.kill()
            raise
        if not self.ready():
            raise RuntimeError(f"{self.name} ended at once:\n{self.log()}")
        return self

    def ready(self) -> bool:
        """Tell whether the program does its service; for some it is enough to have started."""
        return True

    @property
    def pid(self) -> int:
        """Process id; RuntimeError if it was never started."""
        return self._started().pid

    @property
    def running(self) -> bool:
        """Whether the process exists now."""
        return self._process is not None and self._process.poll() is None

    def terminate(self, timeout: float = 15.0) -> Ended:
        """Send SIGTERM and wait; after `timeout` s SIGKILL and TimeoutError."""
        process, sent = self._started(), time.monotonic()
        process.terminate()
        try:
            status = process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.kill()
            raise TimeoutError(f"{self.name} did not end within {timeout:g} s of SIGTERM") from None
        return Ended(status, time.monotonic() - sent)

    def stop(self) -> None:
        """Terminate the program if it runs."""
        if self.running:
            self.terminate()

    def kill(self) -> None:
        """Send SIGKILL and wait."""
        self._started().kill()
        self._started().wait()

    def restart(self) -> None:
        """Stop the program if it runs, and start it again with the same arguments."""
        self.stop()
        self.start()

    def log(self) -> str:
        """Return what the program wrote since its last start."""
        with self.log_path.open("rb") as log:
            log.seek(self._log_start)
            return log.read().decode(errors="replace")

    def wait_for_log(self, regex: str, timeout: float = 10.0, *, after: int = 0) -> re.Match[str]:
        """Wait for `regex` (multi-line) in `log()` from character `after` on."""
        pattern = re.compile(regex, re.MULTILINE)
        try:
            return wait_until(lambda: pattern.search(self.log(), after), timeout, repr(regex))
        except TimeoutError as error:
            raise TimeoutError(f"{error} in the log of {self.name}:\n{self.log()}") from None

    def __enter__(self) -> Self:
        """Start the program unless it runs already."""
        return self if self.running else self.start()

    def __exit__(self, *exception: object) -> None:
        """Stop the program."""
        self.stop()

    def _started(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise RuntimeError(f"{self.name} was never started")
        return self._process
