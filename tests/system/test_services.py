"""The services under systemd: killed, hung, badly configured, without their peers."""

import signal
import time

import pytest

from demo.process import wait_until
from tests.system.conftest import SERVICES, BootMachine, Surroundings, configure
from tests.system.machine import Machine

pytestmark = [pytest.mark.systemd, pytest.mark.timeout(600)]

# MiB. The writer's client library takes 30 of them.
MEMORY_LIMITS = {"plug_2_mqtt": 40, "mqtt_2_influx": 60, "button_server": 40}


def wait_for_restart(machine: Machine, name: str, old_process: str) -> None:
    def is_restarted() -> bool:
        is_active = machine.show(name, "ActiveState") == "active"
        return is_active and machine.show(name, "MainPID") != old_process

    wait_until(is_restarted, 40, f"restart of {name}", every=0.5)


def wait_for_warning(machine: Machine, name: str, text: str) -> str:
    """Return the journal of a unit from priority warning on, when it has a line with `text`."""

    def journal() -> str | None:
        warnings = machine.journal(name, "--priority=warning")
        return warnings if text in warnings else None

    return wait_until(journal, 30, f"{text!r} in the journal of {name}", every=0.5)


def wait_for_status(machine: Machine, name: str, text: str) -> None:
    wait_until(lambda: text in machine.show(name, "StatusText"), 30, f"{name}: {text!r}", every=0.5)


def send(machine: Machine, number: signal.Signals) -> dict[str, str]:
    """Send a signal to each service; return the process it went to."""
    processes = {name: machine.show(name, "MainPID") for name in SERVICES}
    machine.output("systemctl", "kill", f"--signal={number.name}", *SERVICES)
    return processes


def test_killed_services_are_restarted(boot: BootMachine, surroundings: Surroundings) -> None:
    machine = boot()
    for name, process in send(machine, signal.SIGKILL).items():
        wait_for_restart(machine, name, process)
    surroundings.wait_for_points(more=1)
    surroundings.press_button()


def test_hung_services_are_restarted_by_the_watchdog(
    boot: BootMachine, surroundings: Surroundings
) -> None:
    machine = boot()
    for name in SERVICES:
        machine.write(f"/etc/systemd/system/{name}.service.d/x.conf", "[Service]\nWatchdogSec=2\n")
    machine.output("systemctl", "daemon-reload")
    machine.output("systemctl", "restart", *SERVICES)
    processes = send(machine, signal.SIGSTOP)
    journals = []
    for name, process in processes.items():
        wait_for_restart(machine, name, process)
        journals.append(machine.journal(name))
        assert "Watchdog timeout (limit 2s)!" in journals[-1]
    # Where each thread was. Python looks at threads that go on meanwhile, so that one of these
    # reports may end in a crash of its own; all three do not.
    assert any("in serve_until" in journal for journal in journals)
    surroundings.wait_for_points(more=1)
    # It is fed while they work: nobody is restarted now.
    restarts = [machine.show(name, "NRestarts") for name in SERVICES]
    surroundings.wait_for_points(more=6)
    assert [machine.show(name, "NRestarts") for name in SERVICES] == restarts


def test_wrong_configuration_is_said_once_and_not_tried_again(
    boot: BootMachine, surroundings: Surroundings
) -> None:
    machine = boot()
    wrong = {**surroundings.tables, "MQTT": {"brokr": "somewhere"}}
    configure(machine, wrong)
    machine.reboot()
    for name in SERVICES:
        assert machine.show(name, "ActiveState") == "failed"
        assert machine.show(name, "ExecMainStatus") == "78"
        assert machine.show(name, "NRestarts") == "0"
        assert "[MQTT] 'brokr': unknown key" in machine.journal(name, "--priority=err")


def test_services_wait_for_a_broker_that_comes_later(
    boot: BootMachine, surroundings: Surroundings
) -> None:
    surroundings.broker.stop()
    machine = boot()
    assert [machine.show(name, "ActiveState") for name in SERVICES] == ["active"] * 3
    for name in SERVICES:
        wait_for_warning(machine, name, "Connection refused")
    surroundings.broker.start()
    surroundings.wait_for_points(more=2)
    surroundings.press_button()
    assert [machine.show(name, "NRestarts") for name in SERVICES] == ["0"] * 3


def test_status_says_how_it_goes_and_warnings_what_matters(
    boot: BootMachine, surroundings: Surroundings
) -> None:
    machine = boot()
    wait_for_status(machine, "plug_2_mqtt", "1 switches, 1 online")
    wait_for_status(machine, "mqtt_2_influx", "points stored, 0 refused, 0 waiting")
    wait_for_status(machine, "button_server", "1 plugs")
    assert machine.journal("plug_2_mqtt", "--priority=warning") == ""
    surroundings.switch.set_fault("refused")
    warnings = wait_for_warning(machine, "plug_2_mqtt", "offline").splitlines()
    assert len(warnings) == 1
    assert "fridge" in warnings[0]
    assert "reading 1 switches" in machine.journal("plug_2_mqtt", "--priority=info")
    named = machine.output("journalctl", "--quiet", "--identifier=plug_2_mqtt", "--output=short")
    assert "pi plug_2_mqtt[" in named


def test_units_of_the_founding_document_work(boot: BootMachine, surroundings: Surroundings) -> None:
    machine = boot()
    machine.output("systemctl", "disable", "--now", *SERVICES)
    machine.output("cp", "--archive", "/opt/openenergy/.venv", "/home/pi/venv")
    configure(machine, surroundings.tables, "/home/pi/openenergy/credentials.toml")
    for name in SERVICES:
        machine.write(
            f"/etc/systemd/system/{name}.service",
            f"[Unit]\nDescription={name}\nAfter=network.target\n\n"
            "[Service]\n"
            f"ExecStart=/home/pi/venv/bin/python /home/pi/openenergy/{name}.py\n"
            "Restart=always\n\n"
            "[Install]\nWantedBy=multi-user.target\n",
        )
    machine.output("systemctl", "daemon-reload")
    machine.output("systemctl", "enable", "--now", *SERVICES)
    surroundings.wait_for_points(more=2)
    surroundings.press_button()
    machine.output("systemctl", "stop", *SERVICES)
    assert [machine.show(name, "Result") for name in SERVICES] == ["success"] * 3


def test_services_are_frugal(boot: BootMachine, surroundings: Surroundings) -> None:
    machine = boot()
    surroundings.wait_for_points(more=5)

    def processor_s(name: str) -> float:
        return int(machine.show(name, "CPUUsageNSec")) / 1e9

    began_s = time.monotonic()
    before = {name: processor_s(name) for name in SERVICES}
    surroundings.wait_for_points(more=20)
    elapsed_s = time.monotonic() - began_s
    for name in SERVICES:
        share = (processor_s(name) - before[name]) / elapsed_s
        status = machine.output("grep", "VmRSS", f"/proc/{machine.show(name, 'MainPID')}/status")
        memory = int(status.split()[1]) / 1024
        print(f"{name}: {memory:.1f} MiB resident, {share:.2%} of one core")
        assert memory <= MEMORY_LIMITS[name]
        assert share < 0.25
