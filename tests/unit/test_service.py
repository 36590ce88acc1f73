"""What makes a script a service: command line, logging, signals, systemd's notifications."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from demo.parts import REPOSITORY
from demo.process import wait_until
from openenergy import __version__, service, topics
from tests.conftest import ConfigFile

SCRIPTS = ("plug_2_mqtt", "mqtt_2_influx", "button_server")


def run(
    *arguments: str | Path, env: Mapping[str, str] | None = None, cwd: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """Run Python as systemd would: with an environment of its own."""
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        env={"PATH": os.defpath, "PYTHONPATH": str(REPOSITORY), "HOME": "/", **(env or {})},
        cwd=cwd or "/",
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


# Command line


@pytest.mark.parametrize("script", SCRIPTS)
def test_version(script: str) -> None:
    ended = run(REPOSITORY / f"{script}.py", "--version")
    assert (ended.returncode, ended.stdout) == (0, f"{script}.py {__version__}\n")


def exit_of(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> object:
    monkeypatch.setattr(sys, "argv", ["some.py", *arguments])
    with pytest.raises(SystemExit) as caught:
        service.command_line("some", "What it does.")
    return caught.value.code


def test_help_names_every_option(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert exit_of(monkeypatch, "--help") == 0
    said = capsys.readouterr().out
    for option in ("--config FILE", "--check", "--log-level {debug,info,warning,error}"):
        assert option in said
    assert "What it does." in said


@pytest.mark.parametrize(
    "arguments", [["--unknown"], ["surplus"], ["--log-level", "loud"], ["--config"]]
)
def test_a_command_line_that_is_wrong_ends_with_2_and_the_usage(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    assert exit_of(monkeypatch, *arguments) == 2
    assert capsys.readouterr().err.startswith("usage: some.py")


def test_a_script_with_an_unknown_option_ends_with_2() -> None:
    ended = run(REPOSITORY / "plug_2_mqtt.py", "--unknown")
    assert ended.returncode == 2
    assert ended.stderr.startswith("usage: plug_2_mqtt.py")


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """Install the scripts elsewhere, with a configuration that names itself by its errors."""
    folder = tmp_path / "installed here"
    shutil.copytree(REPOSITORY / "openenergy", folder / "openenergy")
    for script in SCRIPTS:
        shutil.copy(REPOSITORY / f"{script}.py", folder)
    (folder / "credentials.toml").write_text("wrong\n")
    return folder


def errors_of(script: Path, **env: str) -> list[str]:
    ended = run(script, env={"PYTHONPATH": "", **env})
    assert ended.returncode == 78
    return [line.split(" ERROR service: ")[1] for line in ended.stderr.splitlines()]


def test_the_configuration_is_that_beside_the_script(installed: Path) -> None:
    (error,) = errors_of(installed / "mqtt_2_influx.py")
    assert error.startswith(f"{installed}/credentials.toml: not TOML")


def test_a_link_to_the_script_finds_it_too(installed: Path, tmp_path: Path) -> None:
    link = tmp_path / "plug"
    link.symlink_to(installed / "plug_2_mqtt.py")
    (error,) = errors_of(link)
    assert error.startswith(f"{installed}/credentials.toml: not TOML")


def test_systemds_credential_comes_before_it(installed: Path, tmp_path: Path) -> None:
    (tmp_path / "credentials.toml").write_text("wrong too\n")
    error, hint = errors_of(installed / "plug_2_mqtt.py", CREDENTIALS_DIRECTORY=str(tmp_path))
    assert error.startswith(f"{tmp_path}/credentials.toml: not TOML")
    assert "LoadCredential" in hint


@pytest.mark.parametrize("folder", ["", "/no/such/folder"])
def test_a_folder_of_credentials_without_ours_does_not_matter(installed: Path, folder: str) -> None:
    (error,) = errors_of(installed / "plug_2_mqtt.py", CREDENTIALS_DIRECTORY=folder)
    assert error.startswith(f"{installed}/credentials.toml: not TOML")


def test_the_option_comes_before_all(installed: Path, tmp_path: Path) -> None:
    ended = run(installed / "plug_2_mqtt.py", "--config", tmp_path / "none.toml")
    assert ended.returncode == 78
    assert f"{tmp_path}/none.toml: cannot be read: No such file" in ended.stderr


# Logging

# Makes a program believe that what it says on stderr goes to the journal.
JOURNAL = """
import os
os.environ["JOURNAL_STREAM"] = f"{os.fstat(2).st_dev}:{os.fstat(2).st_ino}"
"""
LOGS = """
import logging, sys
from openenergy import service
sys.argv[0] = "some.py"
service.start("some", "", ())
log = logging.getLogger("part")
log.debug("fine")
log.info("about\\ntwo lines")
log.warning("a name: %s", "Küche")
try:
    raise ValueError("wrong")
except ValueError:
    log.exception("failed")
logging.getLogger("urllib3.connectionpool").warning("chatter")
"""


def test_at_a_terminal_a_line_has_a_time_and_a_level(config_file: ConfigFile) -> None:
    ended = run("-c", LOGS, "--config", config_file(""))
    lines = ended.stderr.splitlines()
    assert re.fullmatch(r"\d\d:\d\d:\d\d INFO part: about", lines[0])
    assert re.fullmatch(r"\d\d:\d\d:\d\d WARNING part: a name: Küche", lines[2])
    assert "ValueError: wrong" in lines
    assert "fine" not in ended.stderr
    assert "chatter" not in ended.stderr
    assert ended.stdout == ""


def test_in_the_journal_every_line_has_a_priority_and_no_time(config_file: ConfigFile) -> None:
    ended = run("-c", JOURNAL + LOGS, "--config", config_file(""))
    lines = ended.stderr.splitlines()
    assert lines[:4] == [
        *("<6>part: about", "<6>two lines", "<4>part: a name: Küche", "<3>part: failed")
    ]
    assert lines[-1] == "<3>ValueError: wrong"
    assert all(re.match("<[346]>", line) for line in lines)


@pytest.mark.parametrize("stream", ["", "8:12345", "no numbers"])
def test_who_writes_elsewhere_than_the_service_that_started_it_is_not_in_the_journal(
    config_file: ConfigFile, stream: str
) -> None:
    ended = run("-c", LOGS, "--config", config_file(""), env={"JOURNAL_STREAM": stream})
    assert re.match(r"\d\d:\d\d:\d\d INFO part: about", ended.stderr)


@pytest.mark.parametrize(("level", "count"), [("debug", 4), ("error", 1)])
def test_a_log_level_is_obeyed(config_file: ConfigFile, level: str, count: int) -> None:
    ended = run("-c", LOGS, "--config", config_file(""), "--log-level", level)
    assert len(re.findall("(?m)^.* part: ", ended.stderr)) == count


def test_a_configuration_that_everybody_can_read_is_a_warning(config_file: ConfigFile) -> None:
    path = config_file("")
    path.chmod(0o644)
    ended = run("-c", LOGS, "--config", path)
    assert f"WARNING service: {path} can be read by every user: chmod o-r {path}\n" in ended.stderr
    path.chmod(0o640)
    assert "every user" not in run("-c", LOGS, "--config", path).stderr


def test_a_thread_that_fails_ends_the_process_with_1_and_says_why(config_file: ConfigFile) -> None:
    program = """
import threading, time
from openenergy import service
service.start("some", "", ())
threading.Thread(target=lambda: 1 / 0, name="worker").start()
time.sleep(60)
"""
    ended = run("-c", JOURNAL + program, "--config", config_file(""))
    assert ended.returncode == 1
    lines = ended.stderr.splitlines()
    assert lines[0] == "<2>service: worker failed; the process ends"
    assert lines[-1] == "<2>ZeroDivisionError: division by zero"


# Signals


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_asks_to_stop(config_file: ConfigFile, number: signal.Signals) -> None:
    program = """
from openenergy import service
service.start("some", "", ())
stop = service.stop_event()
print("ready", flush=True)
stop.wait()
print("stopped")
"""
    argv = [sys.executable, "-c", program, "--config", str(config_file(""))]
    with subprocess.Popen(
        argv, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout
        assert process.stdout.readline() == "ready\n"
        process.send_signal(number)
        said, logged = process.communicate(timeout=30)
    assert (process.returncode, said) == (0, "stopped\n")
    assert logged.endswith(f" INFO service: {number.name}: stopping\n")


# systemd's notifications

Notifications = Callable[[], list[str]]


@pytest.fixture(params=["path", "abstract"])
def systemd(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Notifications]:
    """Listen as systemd does; return what was said since."""
    is_abstract = request.param == "abstract"
    name = f"@openenergy-test-{os.getpid()}" if is_abstract else str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind("\0" + name[1:] if is_abstract else name)
        listener.setblocking(False)
        monkeypatch.setenv("NOTIFY_SOCKET", name)

        def said() -> list[str]:
            messages = []
            while True:
                try:
                    messages.append(listener.recv(4096).decode())
                except BlockingIOError:
                    return messages

        yield said


def test_systemd_is_told(systemd: Notifications) -> None:
    service.notify("READY=1")
    service.notify("STATUS=Küche is on\nWATCHDOG=1")
    assert systemd() == ["READY=1", "STATUS=Küche is on\nWATCHDOG=1"]


def test_without_systemd_nothing_is_told(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for name in (None, ""):
        monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
        if name is not None:
            monkeypatch.setenv("NOTIFY_SOCKET", name)
        service.notify("READY=1")
    assert caplog.messages == []


def test_a_socket_that_is_not_there_is_a_warning(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name in (str(tmp_path / "none"), "@openenergy-none", "x" * 200):
        caplog.clear()
        monkeypatch.setenv("NOTIFY_SOCKET", name)
        service.notify("READY=1")
        (message,) = caplog.messages
        assert message.startswith("systemd's notification socket: ")


class Serving:
    """`serve_until` in a thread, with a watchdog that is fed every 10 ms."""

    def __init__(self) -> None:
        self.stop = threading.Event()
        self._thread = threading.Thread(
            target=service.serve_until, args=(self.stop, lambda: "all well")
        )

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *exception: object) -> None:
        self.stop.set()
        self._thread.join()


@pytest.fixture
def watchdog(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", "20000")
    monkeypatch.setattr(service, "_working_until_s", {})


def wait_for(systemd: Notifications, wanted: str, count: int) -> list[str]:
    """Return what was said until `wanted` was said `count` times."""
    messages: list[str] = []

    def heard() -> bool:
        messages.extend(systemd())
        return sum(wanted in message for message in messages) >= count

    wait_until(heard, 10, f"{count} times {wanted}")
    return messages


@pytest.mark.usefixtures("watchdog")
def test_systemd_hears_that_we_are_ready_then_that_we_live_then_that_we_stop(
    systemd: Notifications,
) -> None:
    with Serving():
        first, *others = wait_for(systemd, "WATCHDOG=1", 3)
    assert first == "READY=1\nSTATUS=all well"
    assert set(others) == {"WATCHDOG=1\nSTATUS=all well"}
    assert systemd()[-1] == "STOPPING=1"


@pytest.mark.usefixtures("watchdog")
def test_a_thread_without_a_sign_of_life_takes_the_watchdogs_food_away(
    systemd: Notifications, caplog: pytest.LogCaptureFixture
) -> None:
    service.beat(60)  # this thread
    with Serving():
        wait_for(systemd, "WATCHDOG=1", 2)
        service.beat(-1)
        wait_for(systemd, "STATUS=all well", 3)
        systemd()
        later = wait_for(systemd, "STATUS=all well", 3)
        assert not any("WATCHDOG" in message for message in later)
        assert caplog.messages == [f"no sign of life from: {threading.current_thread().name}"]
        service.beat(60)
        wait_for(systemd, "WATCHDOG=1", 2)
        service.beat(-1)
        wait_until(lambda: len(caplog.messages) == 2, 10, "the next error")


def test_a_watchdog_of_a_minute_is_fed_every_ten_seconds_at_least(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    waits: list[float | None] = []

    class Stop(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            waits.append(timeout)
            return True

    for usec in ("60000000", "8000000", None):
        monkeypatch.delenv("WATCHDOG_USEC", raising=False)
        if usec:
            monkeypatch.setenv("WATCHDOG_USEC", usec)
        service.serve_until(Stop(), lambda: "")
    assert waits == [10.0, 4.0, 10.0]


# --check


def refuse() -> None:
    raise ConnectionRefusedError("nobody there")


def test_a_check_prints_a_line_for_each_attempt_in_order(
    capsys: pytest.CaptureFixture[str],
) -> None:
    status = service.check(
        [("broker a:1", lambda: None), ("switch b at c", refuse), ("switch d", lambda: None)]
    )
    assert status == 1
    assert capsys.readouterr().out == (
        "ok broker a:1\nFAILED switch b at c: nobody there\nok switch d\n"
    )


def test_a_check_without_a_failure_ends_with_0(capsys: pytest.CaptureFixture[str]) -> None:
    assert service.check([("FAILED by name alone", lambda: None)]) == 0
    assert capsys.readouterr().out == "ok FAILED by name alone\n"


def test_attempts_are_made_at_the_same_time(capsys: pytest.CaptureFixture[str]) -> None:
    together = threading.Barrier(20, timeout=10)

    def meet() -> None:
        together.wait()

    assert service.check([("a", meet)] * 20) == 0
    assert capsys.readouterr().out == "ok a\n" * 20


def test_what_is_known_is_told_at_once_and_ctrl_c_ends_the_rest() -> None:
    program = """
import sys, threading
from openenergy import service
never = threading.Event()
sys.exit(service.check([("broker", lambda: None), ("switch", never.wait), ("other", never.wait)]))
"""
    # Where the tests run in the background of a shell, Ctrl-C is ignored and inherited.
    argv = ["env", "--default-signal=INT", sys.executable, "-c", program]
    with subprocess.Popen(
        argv, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout
        assert process.stdout.readline() == "ok broker\n"
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=10) == ("", "")
    assert process.returncode == 1


# Names


@given(st.text(max_size=30), st.text(max_size=30))
def test_any_identity_is_the_name_of_a_file_of_its_own(identity: str, other: str) -> None:
    name = service.file_name(identity)
    assert not set(name) & set("/\0")
    assert name.isascii()
    assert identity == other or name != service.file_name(other)


@pytest.mark.parametrize(
    ("name", "shown"),
    [("pi", "pi"), ("my pi.lan", "my-pi.lan"), ("a/+#b", "a---b"), ("", "localhost")],
)
def test_the_hostname_can_stand_in_a_topic(
    monkeypatch: pytest.MonkeyPatch, name: str, shown: str
) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: name)
    assert service.hostname() == shown
    assert topics.is_name(service.hostname())
