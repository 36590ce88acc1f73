"""What makes a script a service: command line, logging, signals, systemd's notifications."""

import argparse
import faulthandler
import logging
import os
import signal
import socket
import sys
import threading
import time
import urllib.parse
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from queue import SimpleQueue
from types import FrameType, MappingProxyType
from typing import Final, NoReturn

from openenergy import __version__, config, topics

EXIT_OK: Final = 0
EXIT_FAILED: Final = 1
EXIT_CONFIG: Final = 78  # EX_CONFIG of sysexits.h; systemd does not restart a unit for it

STATUS_S: Final = 10.0

log = logging.getLogger("service")

# Until when each thread's latest sign of life is good, by the thread's name.
_working_until_s: dict[str, float] = {}


def hostname() -> str:
    """Return this machine's name as it stands in topics and client identifiers."""
    return topics.as_name(socket.gethostname()) or "localhost"


def file_name(identity: str) -> str:
    """Return `identity` (a client identifier, say) as the name of a file."""
    return urllib.parse.quote(identity, safe=" ")


# What a script can do instead of its service, by option: help, and what returns the exit status.
Actions = Mapping[str, tuple[str, Callable[[argparse.Namespace], int]]]


def command_line(
    script: str, description: str, actions: Actions = MappingProxyType({})
) -> argparse.Namespace:
    """Parse the command line, the same for all scripts: config, check, log_level.

    A script's own actions are told by `action`, None without one.
    """
    parser = argparse.ArgumentParser(prog=f"{script}.py", description=description)
    parser.add_argument("--config", type=Path, default=default_config(), metavar="FILE")
    instead = parser.add_mutually_exclusive_group()
    instead.add_argument("--check", action="store_true", help="try every connection, then exit")
    for option, (text, action) in actions.items():
        instead.add_argument(option, dest="action", action="store_const", const=action, help=text)
    parser.add_argument(
        "--log-level", default="info", choices=["debug", "info", "warning", "error"]
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    return parser.parse_args()


def default_config() -> Path:
    """Return systemd's credential, else the file beside the script, wherever we are called from."""
    return _credential() or Path(__file__).resolve().parent.parent / "credentials.toml"


def _credential() -> Path | None:
    """Return the copy of the configuration that systemd made for us (LoadCredential=), if any."""
    folder = os.environ.get("CREDENTIALS_DIRECTORY")
    path = Path(folder, "credentials.toml") if folder else None
    return path if path and path.exists() else None


def start(
    script: str,
    description: str,
    needed_tables: tuple[str, ...],
    actions: Actions = MappingProxyType({}),
) -> tuple[argparse.Namespace, config.Settings]:
    """Begin a script: command line, logging, configuration.

    Exits with status 78 after one line per error of the configuration. An action, which needs no
    configuration, is carried out here, and ends the script.
    """
    arguments = command_line(script, description, actions)
    if actions and arguments.action:
        sys.exit(arguments.action(arguments))
    _log_to_stderr(arguments.log_level)
    threading.excepthook = _die
    faulthandler.enable()  # the watchdog's SIGABRT then tells where each thread hangs
    try:
        settings = config.load(arguments.config, needed_tables)
    except config.ConfigError as error:
        for line in error.lines:
            log.error("%s", line)
        if arguments.config == _credential():
            log.error("this is systemd's copy: correct the original (LoadCredential=), and restart")
        sys.exit(EXIT_CONFIG)
    if config.is_exposed(settings.path):
        log.warning("%s can be read by every user: chmod o-r %s", settings.path, settings.path)
    return arguments, settings


class _JournalFormatter(logging.Formatter):
    """Lets journald see the priority (sd-daemon(3)); it adds the time itself."""

    PRIORITIES: Final = {"DEBUG": 7, "INFO": 6, "WARNING": 4, "ERROR": 3, "CRITICAL": 2}

    def format(self, record: logging.LogRecord) -> str:
        """Put the priority before each line, those of a traceback included."""
        prefix = f"<{self.PRIORITIES[record.levelname]}>"
        return "\n".join(prefix + line for line in super().format(record).splitlines())


def _log_to_stderr(level: str) -> None:
    handler = logging.StreamHandler()
    if _is_journal():
        handler.setFormatter(_JournalFormatter("%(name)s: %(message)s"))
    else:
        handler.setFormatter(
            logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s", "%H:%M:%S")
        )
    logging.basicConfig(level=level.upper(), handlers=[handler])
    # A library's line per request would bury ours.
    for chatty in ("urllib3", "werkzeug", "waitress.queue"):
        logging.getLogger(chatty).setLevel(logging.ERROR)


def _is_journal() -> bool:
    """Whether stderr goes to journald, as JOURNAL_STREAM tells (systemd.exec(5)).

    Who is started from a service inherits the variable, but may write elsewhere.
    """
    stream = os.environ.get("JOURNAL_STREAM")
    if not stream:
        return False
    stderr = os.fstat(2)
    return stream == f"{stderr.st_dev}:{stderr.st_ino}"


def _die(failure: threading.ExceptHookArgs) -> NoReturn:
    """End the process when a thread fails: a service without one of its threads only looks alive.

    systemd starts it again.
    """
    name = failure.thread.name if failure.thread else "thread"
    error = failure.exc_value or failure.exc_type()
    try:
        log.critical(
            "%s failed; the process ends",
            name,
            exc_info=(failure.exc_type, error, failure.exc_traceback),
        )
    finally:  # there may be no memory left to say it with
        os._exit(EXIT_FAILED)


def stop_event() -> threading.Event:
    """Return the event that SIGTERM and SIGINT set."""
    stop = threading.Event()

    def on_signal(number: int, _frame: FrameType | None) -> None:
        log.info("%s: stopping", signal.Signals(number).name)
        stop.set()

    signal.signal(signal.SIGTERM, on_signal)
    signal.signal(signal.SIGINT, on_signal)
    return stop


def beat(allowed_s: float) -> None:
    """Say that this thread works, and that it will say so again within `allowed_s` seconds."""
    _working_until_s[threading.current_thread().name] = time.monotonic() + allowed_s


def serve_until(stop: threading.Event, status: Callable[[], str]) -> None:
    """Tell systemd that we are ready, how it goes, and that all threads work, until `stop`.

    A thread that missed its `beat` hangs: systemd is then not told that we are alive, and starts
    us again (WatchdogSec=).
    """
    notify(f"READY=1\nSTATUS={status()}")
    interval_s = min(int(os.environ.get("WATCHDOG_USEC", "20000000")) / 2e6, STATUS_S)
    known_to_hang: list[str] = []
    while not stop.wait(interval_s):
        hanging = _hanging_threads()
        if hanging and hanging != known_to_hang:
            log.error("no sign of life from: %s", ", ".join(hanging))
        known_to_hang = hanging
        notify(f"STATUS={status()}" if hanging else f"WATCHDOG=1\nSTATUS={status()}")
    notify("STOPPING=1")


def _hanging_threads() -> list[str]:
    now_s = time.monotonic()
    return [name for name, until_s in _working_until_s.copy().items() if until_s < now_s]


def notify(message: str) -> None:
    """Send systemd a notification (sd_notify(3)), if it started us."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel:
        try:
            channel.connect("\0" + address[1:] if address.startswith("@") else address)
            channel.send(message.encode())
        except OSError as error:
            log.warning("systemd's notification socket: %s", error)


# What `--check` tries: what it is, and what raises OSError with the reason.
Attempt = tuple[str, Callable[[], None]]


def check(attempts: Sequence[Attempt]) -> int:
    """Try connections, all at the same time.

    Prints a line for each, in their order, as soon as it is known; returns the exit status. Ctrl-C
    ends it at once.
    """
    outcomes = [_begin(*attempt) for attempt in attempts]
    lines = []
    try:
        for outcome in outcomes:
            lines.append(outcome.get())
            print(lines[-1], flush=True)  # noqa: T201 - the output of --check
    except KeyboardInterrupt:
        return EXIT_FAILED
    return EXIT_FAILED if any(line.startswith("FAILED") for line in lines) else EXIT_OK


def _begin(what: str, attempt: Callable[[], None]) -> SimpleQueue[str]:
    """Try a connection in a thread that nobody waits for; return where its line will be."""
    outcome = SimpleQueue[str]()

    def run() -> None:
        try:
            attempt()
        except OSError as error:
            outcome.put(f"FAILED {what}: {error}")
        else:
            outcome.put(f"ok {what}")

    threading.Thread(target=run, name=f"check of {what}", daemon=True).start()
    return outcome
