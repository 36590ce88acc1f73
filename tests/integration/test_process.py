"""Programs start, tell what they do, end, and never outlive us."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from demo.parts import REPOSITORY, Mosquitto
from demo.process import free_port, wait_until
from tests.conftest import ConfigFile, RunScript


class TestScript:
    @pytest.fixture
    def script(self, tmp_path: Path) -> Path:
        """Write a script that logs what it is given and obeys SIGTERM, unless called deaf."""
        path = tmp_path / "script.py"
        path.write_text(
            "import json, os, signal, sys\n"
            "if 'deaf' in sys.argv: signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
            "else: signal.signal(signal.SIGTERM, lambda *_: sys.exit(3))\n"
            "world = {'argv': sys.argv[1:], 'cwd': os.getcwd(), 'env': dict(os.environ)}\n"
            "print('world ' + json.dumps(world), file=sys.stderr, flush=True)\n"
            "while True: signal.pause()\n"
        )
        return path

    def test_sees_what_systemd_would_give_it(
        self, script: Path, config_file: ConfigFile, run_script: RunScript, tmp_path: Path
    ) -> None:
        config = config_file({"MQTT": {"port": 1}})
        assert config.stat().st_mode & 0o777 == 0o600
        running = run_script(str(script), config, env={"TZ": "UTC"}, cwd=tmp_path, args=["a", "b"])
        world = json.loads(running.wait_for_log("^world (.*)$")[1])
        state = Path(world["env"].pop("STATE_DIRECTORY"))
        assert state.is_dir()
        assert state.is_relative_to(tmp_path)
        assert world["argv"] == ["--config", str(config), "a", "b"]
        assert world["cwd"] == str(tmp_path)
        assert set(world["env"]) == {"PATH", "LANG", "HOME", "TZ"}

    def test_ends_at_sigterm_and_starts_again(
        self, script: Path, config_file: ConfigFile, run_script: RunScript
    ) -> None:
        running = run_script(str(script), config_file({}))
        running.wait_for_log("^world")
        ended = running.terminate()
        assert ended.status == 3
        assert 0 <= ended.seconds < 15
        assert not running.running
        running.start()
        running.wait_for_log("^world")
        assert running.log().count("world") == 1  # of this run alone
        running.kill()
        assert running.terminate().status == -signal.SIGKILL

    def test_deaf_one_is_killed(
        self, script: Path, config_file: ConfigFile, run_script: RunScript
    ) -> None:
        running = run_script(str(script), config_file({}), args=["deaf"])
        running.wait_for_log("^world")
        with pytest.raises(TimeoutError, match=r"script.py did not end within 0.2 s of SIGTERM"):
            running.terminate(timeout=0.2)
        assert not running.running

    def test_missing_log_line_shows_the_log(
        self, script: Path, config_file: ConfigFile, run_script: RunScript
    ) -> None:
        running = run_script(str(script), config_file({}))
        seen = running.wait_for_log("^world").end()
        with pytest.raises(TimeoutError, match=r"(?s)'\^world'.*not within 0.1 s.*world \{"):
            running.wait_for_log("^world", timeout=0.1, after=seen)


def test_server_that_cannot_start_says_why(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match=r"(?s)mosquitto ended at once.*Unknown configuration"):
        Mosquitto(tmp_path, extra_config="nonsense 1").start()


def test_nothing_survives_a_killed_parent(tmp_path: Path) -> None:
    (tmp_path / "sleeper.py").write_text("import signal; signal.pause()\n")
    code = (
        "import sys; from pathlib import Path; from demo.parts import *\n"
        "folder = Path(sys.argv[1])\n"
        "parts = [Mosquitto(folder / 'm'), InfluxDB1(folder / 'i'), VictoriaMetrics(folder / 'v'),"
        " Script(str(folder / 'sleeper.py'), folder / 'c.toml')]\n"
        "print(*(part.start().pid for part in parts), flush=True); sys.stdin.read()\n"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)],
        cwd=REPOSITORY,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    with parent:
        assert parent.stdout
        pids = [int(pid) for pid in parent.stdout.readline().split()]
        assert len(pids) == 4
        assert all(map(is_alive, pids))
        parent.kill()
    wait_until(lambda: not any(map(is_alive, pids)), 10, "end of all parts")


def is_alive(pid: int) -> bool:
    """Tell whether a process exists and is not merely waiting to be reaped (proc(5))."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def test_free_ports_differ() -> None:
    ports = {free_port() for _ in range(50)}
    assert len(ports) == 50
    assert max(ports) < 32768
