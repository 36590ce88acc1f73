"""A Debian of our own, booted beside the host's, in which anything may be installed or broken."""

import functools
import os
import shutil
import subprocess
import tempfile
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from demo.parts import REPOSITORY
from demo.process import Program, find_program, wait_until

BOOT: Final = Path(__file__).with_name("boot.sh")
CACHE: Final = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"), "openenergy-tests")
MIRROR: Final = "http://deb.debian.org/debian"
# They would configure the host's network, which we share, or be busy while we measure.
UNWANTED_UNITS: Final = (
    *("systemd-networkd.service", "systemd-networkd.socket"),
    *("apt-daily.timer", "apt-daily-upgrade.timer", "dpkg-db-backup.timer", "e2scrub_reap.service"),
)
PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
# How this host reaches the package registries, where that needs to be said.
NETWORK_VARIABLES: Final = ("PIP_DEFAULT_TIMEOUT", "PIP_INDEX_URL", "http_proxy", "https_proxy")
NETWORK_FILES: Final = ("/etc/resolv.conf", "/etc/pip.conf", "/etc/ssl/certs/ca-certificates.crt")


def obstacle() -> str | None:
    """Return why no machine can be booted here, None if one can."""
    if os.geteuid() != 0:
        return "booting a machine needs root"
    for program in ("debootstrap", "unshare", "nsenter"):
        try:
            find_program(program)
        except FileNotFoundError as error:
            return str(error)
    try:
        probe = _cgroup("probe")
        probe.mkdir()
        probe.rmdir()
    except OSError as error:
        return f"no control group can be made: {error}"
    made = subprocess.run(
        ["unshare", "--mount", "--pid", "--uts", "--ipc", "--cgroup", "--fork", "true"],
        capture_output=True,
        text=True,
        check=False,
    )
    return f"no namespaces can be made: {made.stderr.strip()}" if made.returncode else None


def _cgroup(name: str) -> Path:
    """Return the folder of a control group (version 2) below our own; OSError if there is none."""
    mounts = (line.split() for line in Path("/proc/self/mounts").read_text().splitlines())
    groups = (line.split(":", 2) for line in Path("/proc/self/cgroup").read_text().splitlines())
    mount_point = next((target for _, target, kind, *_ in mounts if kind == "cgroup2"), None)
    own = next((path for number, _, path in groups if number == "0"), None)
    if mount_point is None or own is None:
        raise FileNotFoundError("cgroup2 is not mounted")
    return Path(mount_point, own.lstrip("/"), f"openenergy-{os.getpid()}-{name}")


@functools.cache
def debian(suite: str) -> Path:
    """Return the folder of a minimal Debian with systemd, made once and kept for later runs."""
    root = CACHE / suite
    if not root.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=CACHE) as folder:
            made = Path(folder, suite)
            subprocess.run(
                [
                    *("debootstrap", "--variant=minbase", "--include=systemd-sysv,ca-certificates"),
                    *(suite, str(made), MIRROR),
                ],
                stdout=subprocess.DEVNULL,
                check=True,
            )
            made.rename(root)
    return root


class Machine(Program):
    """One Debian, booted and rebooted. It shares the host's network: loopback is the host's too.

    Its files are those of `layers`, which stay as they are, with its own changes on top.
    """

    def __init__(self, folder: Path, layers: Sequence[Path]) -> None:
        """Prepare, with everything it changes in `folder`; upper layers come first."""
        self._changes = folder / "changes"
        self.layers = (self._changes, *layers)
        self._cgroup = _cgroup(uuid.uuid4().hex[:8])
        for part in ("changes", "work", "root"):
            (folder / part).mkdir(parents=True)
        argv = [str(BOOT), str(folder), ":".join(map(str, layers)), str(self._cgroup)]
        super().__init__("machine", argv, folder / "boot.log")
        self._configure()

    def _configure(self) -> None:
        self.write("/etc/hostname", "pi\n")
        self.write("/etc/hosts", "127.0.0.1 localhost\n::1 localhost\n127.0.1.1 pi\n")
        self.write("/etc/machine-id", f"{uuid.uuid4().hex}\n")
        for unit in UNWANTED_UNITS:
            self.write(f"/etc/systemd/system/{unit}", "")  # empty: masked, systemd.unit(5)
        for file in filter(os.path.exists, NETWORK_FILES):
            self.write(file, Path(file).read_text())

    def path(self, inside: str) -> Path:
        """Return where the host sees a file of the machine; before it runs, a changed one."""
        root = Path(f"/proc/{self._first_process()}/root") if self.running else self._changes
        return root / inside.lstrip("/")

    def write(self, inside: str, text: str) -> None:
        """Write a file of the machine."""
        self.path(inside).parent.mkdir(parents=True, exist_ok=True)
        self.path(inside).write_text(text)

    def copy_project(self) -> None:
        """Put our working copy at /home/pi/openenergy, as somebody clones it."""
        hidden = shutil.ignore_patterns(".*", "__pycache__", "fixtures", "node_modules")
        shutil.copytree(REPOSITORY, self.path("/home/pi/openenergy"), ignore=hidden)

    def run(self, *argv: str, timeout: float = 60) -> subprocess.CompletedProcess[str]:
        """Run a command in the machine as root; stdout and stderr come together."""
        network = {name: os.environ[name] for name in NETWORK_VARIABLES if name in os.environ}
        return subprocess.run(
            ["nsenter", "--all", "--target", str(self._first_process()), "--", *argv],
            env={"PATH": PATH, "HOME": "/root", "LC_ALL": "C.UTF-8", **network},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=timeout,
            check=False,
        )

    def output(self, *argv: str) -> str:
        """Run a command; return what it prints, RuntimeError if it fails."""
        done = self.run(*argv)
        if done.returncode:
            raise RuntimeError(f"{argv}: status {done.returncode}\n{done.stdout}")
        return done.stdout.strip()

    def show(self, unit: str, name: str) -> str:
        """Return a property of a unit (systemctl(1), show)."""
        return self.output("systemctl", "show", "--value", f"--property={name}", unit)

    def journal(self, unit: str, *arguments: str) -> str:
        """Return what a unit wrote since the machine was booted, without times."""
        return self.output(
            "journalctl", "--quiet", "--no-pager", "--output=cat", f"--unit={unit}", *arguments
        )

    def ready(self) -> bool:
        """Tell whether it has booted."""
        try:
            state = self.run("systemctl", "is-system-running").stdout.strip()
        except ValueError:  # there is no first process yet
            return False
        return state in ("running", "degraded")

    def reboot(self) -> None:
        """Reboot as a user would."""
        self.run("systemctl", "reboot")
        wait_until(lambda: not self.running, 60, "shutdown of the machine")
        self._remove_cgroup()
        self.start()

    def power_off(self) -> None:
        """Shut down, as a user would."""
        self.run("systemctl", "poweroff")
        wait_until(lambda: not self.running, 60, "shutdown of the machine")
        self._remove_cgroup()

    def kill(self) -> None:
        """Pull the plug."""
        super().kill()
        self._remove_cgroup()

    def stop(self) -> None:
        """Pull the plug: nobody will look at its files again."""
        if self.running:
            self.kill()

    def _first_process(self) -> int:
        return int(Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text())

    def _remove_cgroup(self) -> None:
        def remove() -> bool:
            try:
                for group in sorted(self._cgroup.glob("**/"), reverse=True):
                    group.rmdir()
            except OSError:  # the kernel has not yet ended all processes
                return False
            return True

        wait_until(remove, 20, "end of the machine's processes")
