"""systemd/install.sh and uninstall.sh, on a Debian that has nothing but systemd."""

import re
import subprocess

import pytest

from tests.system.conftest import (
    CONFIGURATION,
    INSTALL,
    SERVICES,
    UNINSTALL,
    BootMachine,
    InstalledOn,
    Surroundings,
    configure,
)
from tests.system.machine import Machine

pytestmark = [pytest.mark.systemd, pytest.mark.timeout(600)]

SUITES = ("bookworm", "trixie")
PROJECT = "/home/pi/openenergy"


def process_ids(machine: Machine) -> dict[str, str]:
    return {name: machine.show(name, "MainPID") for name in SERVICES}


def install(machine: Machine, *services: str) -> subprocess.CompletedProcess[str]:
    return machine.run(INSTALL, *services, timeout=300)


def edit(machine: Machine, file: str, old: str, new: str) -> None:
    """Change the user's copy of the project, as an upgrade does."""
    text = machine.path(f"{PROJECT}/{file}").read_text()
    assert old in text
    machine.write(f"{PROJECT}/{file}", text.replace(old, new))


def files_of_ours(machine: Machine) -> set[str]:
    """Return everything with a name of ours, but the project the user has downloaded."""
    names = ("openenergy*", "plug_2_mqtt*", "mqtt_2_influx*", "button_server*")
    wanted = " -o ".join(f"-name '{name}'" for name in names)
    found = machine.output("sh", "-c", f"find / -path /proc -prune -o \\( {wanted} \\) -print")
    return {path for path in found.splitlines() if not path.startswith(("/home/pi", "/sys"))}


@pytest.mark.parametrize("suite", SUITES)
def test_new_debian_runs_all_services_after_one_command(
    suite: str, installed_on: InstalledOn
) -> None:
    installation = installed_on(suite)
    assert installation.status == 0, installation.output
    assert installation.states == ("active", "active", "active")


@pytest.mark.parametrize("suite", SUITES)
def test_installation_prints_its_steps_and_what_is_missing(
    suite: str, installed_on: InstalledOn
) -> None:
    output = installed_on(suite).output
    steps = [line for line in output.splitlines() if not line.startswith("  ")]
    expected = [
        "Installing Debian packages: .*python3-venv.*",
        "Copying the project to /opt/openenergy.releases/[0-9a-f]+",
        "Installing Python packages into /opt/openenergy.releases/[0-9a-f]+/.venv",
        f"Copying credentials.toml to {CONFIGURATION}",
        *(f"Checking {name}" for name in SERVICES),
        *(f"Starting {name}" for name in SERVICES),
    ]
    assert len(steps) == len(expected), output
    for step, pattern in zip(steps, expected, strict=True):
        assert re.fullmatch(pattern, step)
    for missing in ("broker", "InfluxDB", "switch my_strom-001"):
        assert re.search(rf"^  FAILED {missing} .*refused$", output, re.MULTILINE)


@pytest.mark.parametrize("suite", SUITES)
def test_chain_works_and_comes_back_after_a_reboot(
    suite: str, boot: BootMachine, surroundings: Surroundings
) -> None:
    machine = boot(suite)
    surroundings.wait_for_points(more=2)
    surroundings.press_button()
    machine.reboot()
    assert [machine.show(name, "ActiveState") for name in SERVICES] == ["active"] * 3
    surroundings.wait_for_points(more=2)
    surroundings.press_button()


@pytest.mark.parametrize("suite", SUITES)
def test_units_are_correct_and_exposed_no_more_than_1_6(suite: str, boot: BootMachine) -> None:
    machine = boot(suite)
    folder = "/opt/openenergy/systemd"
    for unit in (*SERVICES, "mqtt_2_influx@"):
        path = f"{folder}/{unit}.service"
        assert machine.output("systemd-analyze", "verify", path.replace("@", "@second")) == ""
        report = machine.run("systemd-analyze", "security", "--offline=yes", "--threshold=16", path)
        assert report.returncode == 0, report.stdout


def test_services_run_as_nobody_and_only_root_changes_what_they_run(boot: BootMachine) -> None:
    machine = boot()
    for name in SERVICES:
        owner = machine.output("stat", "--format=%u", f"/proc/{machine.show(name, 'MainPID')}")
        assert 61184 <= int(owner) <= 65519  # the range of DynamicUser=, systemd.exec(5)
    assert machine.output("stat", "--format=%a %U:%G", CONFIGURATION) == "600 root:root"
    releases = "/opt/openenergy.releases"
    assert machine.output("find", releases, "!", "-user", "root") == ""
    assert machine.output("find", releases, "!", "-type", "l", "-perm", "/022") == ""


def test_upgrade_restarts_only_what_changed(boot: BootMachine) -> None:
    machine = boot()
    install(machine)  # the configuration is not the one it was installed with
    before = process_ids(machine)
    done = install(machine)
    assert done.returncode == 0, done.stdout
    steps = [line for line in done.stdout.splitlines() if not line.startswith("  ")]
    assert steps == [
        *(f"Checking {name}" for name in SERVICES),
        *(f"{name} has not changed" for name in SERVICES),
    ]
    assert process_ids(machine) == before
    edit(machine, "button_server.py", '"""\n', '"""\n# a new version\n')
    done = install(machine)
    assert done.returncode == 0, done.stdout
    after = process_ids(machine)
    assert {name for name in SERVICES if after[name] != before[name]} == {"button_server"}
    assert "# a new version" in machine.output("cat", "/opt/openenergy/button_server.py")
    releases = machine.output("ls", "/opt/openenergy.releases").splitlines()
    assert len(releases) == 2  # the other is "started"


@pytest.mark.parametrize(
    ("file", "old", "new", "reason"),
    [
        ("requirements.txt", "waitress==", "waitress==999.", "waitress==999"),
        ("openenergy/service.py", "import os\n", "import os, no_such_module\n", "no_such_module"),
    ],
    ids=["a package is missing", "a module is missing"],
)
def test_upgrade_that_cannot_work_changes_nothing(
    boot: BootMachine, file: str, old: str, new: str, reason: str
) -> None:
    machine = boot()
    before = process_ids(machine), machine.output("readlink", "/opt/openenergy")
    edit(machine, file, old, new)
    done = install(machine)
    assert done.returncode == 1
    assert reason in done.stdout
    assert done.stdout.endswith("That failed. Nothing has changed.\n")
    assert (process_ids(machine), machine.output("readlink", "/opt/openenergy")) == before


def test_upgrade_that_does_not_start_goes_back_to_the_version_before(
    boot: BootMachine, surroundings: Surroundings
) -> None:
    machine = boot()
    before = machine.output("readlink", "/opt/openenergy")
    # --version and --check work; the service itself does not.
    edit(machine, "plug_2_mqtt.py", "if __name__", "if not sys.argv[1:]:\n    1 / 0\nif __name__")
    done = install(machine)
    assert done.returncode == 1
    assert "ZeroDivisionError" in done.stdout
    assert done.stdout.endswith("That failed. The version before runs.\n")
    assert machine.output("readlink", "/opt/openenergy") == before
    surroundings.wait_for_points(more=1)


def test_wrong_configuration_is_told_before_anything_changes(
    boot: BootMachine, surroundings: Surroundings
) -> None:
    machine = boot()
    before = process_ids(machine)
    configure(machine, {**surroundings.tables, "MQTT": {"brokr": "a", "port": 0}})
    done = install(machine)
    assert done.returncode == 1
    assert f"{CONFIGURATION}: [MQTT] 'brokr'" in done.stdout
    assert f"{CONFIGURATION}: [MQTT] port" in done.stdout
    assert f"Correct {CONFIGURATION}, then run this again." in done.stdout
    assert process_ids(machine) == before


def test_only_the_services_asked_for_are_installed(
    boot: BootMachine, surroundings: Surroundings
) -> None:
    machine = boot()
    done = install(machine, "plug_to_mqtt")
    assert done.returncode == 1
    assert "There is no service 'plug_to_mqtt'." in done.stdout
    machine.output(UNINSTALL)
    kept = ("/etc/openenergy", "/var/lib/openenergy", "/var/lib/private/openenergy")
    assert all(path.startswith(kept) for path in files_of_ours(machine))
    assert machine.path("/var/lib/private/openenergy/plug_2_mqtt/plug_2_mqtt-pi.meters").exists()
    machine.write("/etc/systemd/system/button_server.service", "# my own\n")
    done = install(machine, "plug_2_mqtt")
    assert done.returncode == 0, done.stdout
    assert f"port = {surroundings.broker.port}" in machine.path(CONFIGURATION).read_text()
    assert machine.show("plug_2_mqtt", "ActiveState") == "active"
    # Another one is added, in place of the user's own; an upgrade keeps the choice.
    done = install(machine, "button_server")
    assert done.returncode == 0, done.stdout
    assert "Keeping your own /etc/systemd/system/button_server.service" in done.stdout
    assert machine.output("cat", "/etc/systemd/system/button_server.service.old") == "# my own"
    machine.output("/opt/openenergy/systemd/install.sh")
    assert machine.show("button_server", "ActiveState") == "active"
    assert machine.show("mqtt_2_influx", "LoadState") == "not-found"


def test_script_with_a_file_of_its_own_is_checked_and_upgraded_with_it(
    boot: BootMachine, surroundings: Surroundings
) -> None:
    """As integrations/mosquitto/README.md separates the scripts of one machine."""
    machine = boot()
    install(machine)
    file = "/etc/openenergy/plug_2_mqtt.toml"
    shared = dict(surroundings.tables)
    own = {"MQTT": shared["MQTT"], "MyStromSwitch": shared.pop("MyStromSwitch")}
    machine.write(
        "/etc/systemd/system/plug_2_mqtt.service.d/override.conf",
        f"[Service]\nLoadCredential=\nLoadCredential=credentials.toml:{file}\n",
    )
    configure(machine, shared)  # without a switch: alone it would be wrong for plug_2_mqtt
    done = install(machine)
    assert done.returncode == 1
    assert f"plug_2_mqtt needs {file}" in done.stdout
    configure(machine, own, file)
    done = install(machine)
    assert done.returncode == 0, done.stdout
    surroundings.wait_for_points(more=1)
    surroundings.press_button()
    before = process_ids(machine)
    configure(machine, {**own, "Storage": {"spool_size": 65536}}, file)
    done = install(machine)
    assert done.returncode == 0, done.stdout
    after = process_ids(machine)
    assert {name for name in SERVICES if after[name] != before[name]} == {"plug_2_mqtt"}
    configure(machine, {**own, "MQTT": {"brokr": "a"}}, file)
    done = install(machine)
    assert f"{file}: [MQTT] 'brokr'" in done.stdout
    assert done.stdout.endswith(
        f"Correct {file}, then run this again.\nThat failed. Nothing has changed.\n"
    )


def test_further_writer_has_its_own_configuration_and_purging_leaves_nothing(
    boot: BootMachine, surroundings: Surroundings
) -> None:
    machine = boot()
    file = "/etc/openenergy/mqtt_2_influx@second.toml"
    done = install(machine, "mqtt_2_influx@second")
    assert done.returncode == 1
    assert f"mqtt_2_influx@second needs {file}" in done.stdout
    tables = surroundings.tables
    surroundings.database.create_database("second")
    configure(
        machine,
        {
            "MQTT": {**tables["MQTT"], "client_id": "second"},
            "InfluxDB": {**tables["InfluxDB"], "database": "second"},
        },
        file,
    )
    done = install(machine, "mqtt_2_influx@second")
    assert done.returncode == 0, done.stdout
    surroundings.wait_for_points(more=1, database="second")
    machine.output("/opt/openenergy/systemd/uninstall.sh", "--purge")
    assert files_of_ours(machine) == set()
    loaded = machine.output("systemctl", "list-units", "--all", "--plain", "--no-legend")
    assert not [line for line in loaded.splitlines() if line.startswith(SERVICES)]
    # Nothing is left to do, which is no failure.
    assert machine.output(UNINSTALL, "--purge") == ""
