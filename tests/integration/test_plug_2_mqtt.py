"""plug_2_mqtt.py between simulated switches and a real broker: what is read, sent and obeyed."""

import contextlib
import itertools
import json
import os
import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from demo.loads import constant
from demo.parts import Mosquitto, Script, write_config
from demo.process import free_port, wait_until
from demo.switches import MODELS, Fault, SimulatedSwitches, SwitchSpec
from tests.fault_proxy import FaultProxy
from tests.integration.running import (
    Bench,
    Table,
    announced_switch,
    command_topic,
    median,
    moves,
    mqtt_table,
    now_ms,
    plugs,
    readings,
    retained,
    retained_value,
    script_online_topic,
    state_topic,
    switch_table,
    wait_for_readings,
    warnings,
)
from tests.mqtt_client import Message, MqttClient

WATTS = 24.5
SCRIPT_ONLINE = script_online_topic("plug_2_mqtt")
UNITS = {
    "power": "W",
    "average_power": "W",
    "energy": "Wh",
    "temperature": "C",
    "relay": "",
    "online": "",
}
METERED = {"power", "average_power", "temperature"}
MEASURED_BY_MODEL: dict[str, set[str]] = {
    "v2": METERED | {"energy"},
    "v2-3.82": METERED,
    "eu": METERED,
    "v1": {"power"},
    "zero": set(),
    "swisscom": set(),
}


def quantity_of(message: Message) -> str:
    return message.topic.rpartition("/")[2]


class TestReadings:
    @pytest.fixture(scope="class")
    @classmethod
    def bench(cls, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
        specs = [SwitchSpec(model, model=model, load=constant(WATTS)) for model in MODELS]
        with plugs(tmp_path_factory.mktemp("models"), specs) as bench:
            for model in MODELS:
                bench.wait_for_values(model, "relay", 4)
            yield bench

    @pytest.mark.parametrize("model", MODELS)
    def test_quantities_are_those_of_the_model(self, bench: Bench, model: str) -> None:
        quantities = {quantity_of(m) for m in bench.client.messages(state_topic(model, "+"))}
        assert quantities == MEASURED_BY_MODEL[model] | {"relay", "online"}

    @pytest.mark.parametrize("model", MODELS)
    def test_messages_are_as_agreed(self, bench: Bench, model: str) -> None:
        connected = bench.client.messages(SCRIPT_ONLINE)[0].json["time"]
        for message in bench.client.messages(f"@update/{model}/#"):
            quantity = quantity_of(message)
            assert message.topic == state_topic(model, quantity)
            assert message.json.keys() == {"value", "unit", "time"}
            assert type(message.json["value"]) in (int, float)
            assert message.json["unit"] == UNITS[quantity]
            assert type(message.json["time"]) is int
            assert abs(message.json["time"] / 1000 - message.arrived) < 3
            # What was read before that came late, and is no longer the present state.
            is_state = quantity in {"relay", "online"} and message.json["time"] >= connected
            assert message.retain == is_state or message.json["time"] < connected
            assert (message.qos, message.expiry) == (1, None)

    @pytest.mark.parametrize("model", MODELS)
    def test_values_are_those_of_the_switch(self, bench: Bench, model: str) -> None:
        assert bench.values(model, "relay")[-1] == 1
        assert set(bench.values(model, "online")) == {1}
        if "power" in MEASURED_BY_MODEL[model]:
            assert bench.values(model, "power")[-1] == pytest.approx(WATTS)
        if "average_power" in MEASURED_BY_MODEL[model]:
            # The switch rounds energy to centijoules, over 0.1 s or so.
            assert bench.values(model, "average_power")[-1] == pytest.approx(WATTS, rel=0.1)
            assert 10 < bench.values(model, "temperature")[-1] < 35

    @pytest.mark.parametrize("model", MODELS)
    def test_quantities_of_one_reading_have_one_time(self, bench: Bench, model: str) -> None:
        def first_times(quantity: str) -> list[int]:
            # The first reading comes twice: it was kept until the broker was connected, and
            # published as the present state then.
            messages = bench.client.messages(state_topic(model, quantity))
            return sorted({message.json["time"] for message in messages})[:4]

        times = first_times("relay")
        assert len(times) == 4
        assert [first_times(quantity) for quantity in MEASURED_BY_MODEL[model]] == [times] * len(
            MEASURED_BY_MODEL[model]
        )

    @pytest.mark.parametrize("model", MODELS)
    def test_requests_suit_a_real_switch(self, bench: Bench, model: str) -> None:
        for request in list(bench.switches[model].requests):
            assert request.route == "GET /report"
            assert "accept-encoding" not in request.headers
            assert request.headers["connection"] == "close"

    def test_nothing_else_is_published(self, bench: Bench) -> None:
        topics = {message.topic for message in bench.client.messages()}
        plug_topics = {state_topic(model, quantity) for model in MODELS for quantity in UNITS}
        assert topics - plug_topics == {SCRIPT_ONLINE}
        assert warnings(bench.script.log()) == []


def test_qos_retain_and_prefixes_are_configurable(tmp_path: Path) -> None:
    mqtt = {"qos": 0, "retain": False, "prefix_update": "house", "prefix_set": "order"}
    with plugs(tmp_path, [SwitchSpec("lamp")], mqtt=mqtt) as bench:
        bench.client.wait_for("house/lamp/monitoring/relay", lambda m: m.json["value"] == 1)
        bench.client.publish("order/lamp/control/relay", {"value": "open"})
        bench.client.wait_for("house/lamp/monitoring/relay", lambda m: m.json["value"] == 0)
        sent = [m for m in bench.client.messages() if not m.topic.startswith("order/")]
        assert all(m.topic.startswith("house/") for m in sent)
        assert {(m.qos, m.retain) for m in sent} == {(0, False)}
        assert retained(bench.broker) == {}


def test_topics_that_the_broker_does_not_allow_are_one_error_and_disturb_no_other(
    tmp_path: Path,
) -> None:
    rules = tmp_path / "rules"
    rules.write_text("topic readwrite #\ntopic deny @update/forbidden/#\n")
    rules.chmod(0o700)
    specs = [SwitchSpec("forbidden"), SwitchSpec("allowed")]
    strict = Mosquitto(tmp_path / "strict", extra_config=f"acl_file {rules}")
    with strict, plugs(tmp_path, specs, broker=strict) as bench:
        bench.script.wait_for_log("ERROR")
        bench.client.clear()
        bench.wait_for_values("allowed", "power", 20)
        assert not bench.client.messages("@update/forbidden/#")
        (error,) = warnings(bench.script.log())
        assert re.search(r"Not authorized \(@update/forbidden/monitoring/\w+\)$", error)
        rules.write_text("topic readwrite #\n")
        os.kill(strict.pid, signal.SIGHUP)
        bench.wait_for_values("forbidden", "power", 1)


def test_switch_is_found_by_its_broadcast(tmp_path: Path, mosquitto: Mosquitto) -> None:
    with announced_switch("lamp") as lamp, MqttClient(mosquitto.host, mosquitto.port) as client:
        table = {"name": "lamp", "macAdress": lamp.mac, "interval": 0.2}
        tables = {"MQTT": mqtt_table(mosquitto.port), "MyStromSwitch": table}
        with Script("plug_2_mqtt.py", write_config(tmp_path / "c.toml", tables)):
            client.wait_for(state_topic("lamp", "power"), timeout=60)


def test_switch_is_followed_to_another_address(tmp_path: Path, mosquitto: Mosquitto) -> None:
    with MqttClient(mosquitto.host, mosquitto.port) as client, contextlib.ExitStack() as plugged:
        before = plugged.enter_context(announced_switch("lamp"))
        table = {"name": "lamp", "macAdress": before.mac, "interval": 0.2}
        tables = {"MQTT": mqtt_table(mosquitto.port), "MyStromSwitch": table}
        with Script("plug_2_mqtt.py", write_config(tmp_path / "c.toml", tables)):
            client.wait_for(state_topic("lamp", "power"), timeout=60)
            plugged.close()
            client.wait_for(state_topic("lamp", "online"), lambda each: each.json["value"] == 0)
            client.clear()
            with announced_switch("lamp") as after:
                assert (after.mac, after.host) != (before.mac, before.host)
                client.wait_for(state_topic("lamp", "power"), timeout=60)
                assert readings(after)


# Has names known to the script: what {} holds is read anew at every look-up.
SITECUSTOMIZE = """
import json, pathlib, socket
look_up, names = socket.getaddrinfo, pathlib.Path({!r})
def look_up_here(host, *more, **most):
    return look_up(json.loads(names.read_text()).get(host, host), *more, **most)
socket.getaddrinfo = look_up_here
"""


def test_switch_whose_broadcasts_are_not_heard_any_more_is_found_by_its_name(
    tmp_path: Path, mosquitto: Mosquitto
) -> None:
    names = tmp_path / "names.json"
    names.write_text("{}")
    (tmp_path / "sitecustomize.py").write_text(SITECUSTOMIZE.format(str(names)))
    with MqttClient(mosquitto.host, mosquitto.port) as client, contextlib.ExitStack() as plugged:
        before = plugged.enter_context(announced_switch("lamp"))
        table = {"name": "lamp", "macAdress": before.mac, "interval": 0.2}
        tables = {"MQTT": mqtt_table(mosquitto.port), "MyStromSwitch": table}
        config = write_config(tmp_path / "c.toml", tables)
        with Script("plug_2_mqtt.py", config, env={"PYTHONPATH": str(tmp_path)}):
            client.wait_for(state_topic("lamp", "power"), timeout=60)
            plugged.close()
            client.wait_for(state_topic("lamp", "online"), lambda each: each.json["value"] == 0)
            client.clear()
            with announced_switch("lamp", is_heard=False) as after:
                names.write_text(
                    json.dumps({f"mystrom-switch-{after.mac[-6:].lower()}": after.host})
                )
                client.wait_for(state_topic("lamp", "power"), timeout=60)


class TestSchedule:
    """Readings come at multiples of the interval, whatever else goes on."""

    def test_slow_answers_do_not_shift_it(self, tmp_path: Path) -> None:
        options: dict[str, Table] = {"lamp": {"interval": 0.6, "timeout": 5.0}}
        with plugs(tmp_path, [SwitchSpec("lamp", model="zero")], options=options) as bench:
            lamp = bench.switches["lamp"]
            lamp.set_fault("drip", interval=0.0005)  # an answer takes about 0.2 s
            wait_until(lambda: len(readings(lamp)) >= 7, 20, "readings")
            times = readings(lamp)
            gaps = [later - earlier for earlier, later in itertools.pairwise(times)]
            assert median(gaps) == pytest.approx(0.6, abs=0.05)
            assert (times[-1] - times[0]) / len(gaps) == pytest.approx(0.6, abs=0.1)

    def test_answers_slower_than_the_interval_are_not_stacked(self, tmp_path: Path) -> None:
        options: dict[str, Table] = {"lamp": {"interval": 0.1, "timeout": 5.0}}
        with plugs(tmp_path, [SwitchSpec("lamp", model="zero")], options=options) as bench:
            lamp = bench.switches["lamp"]
            lamp.set_fault("drip", interval=0.0005)
            wait_until(lambda: len(readings(lamp)) >= 10, 20, "readings")
            gaps = [later - earlier for earlier, later in itertools.pairwise(readings(lamp))]
            assert min(gaps) > 0.15  # none is made up for
            assert median(abs(gap - round(gap, 1)) for gap in gaps) < 0.02  # some ticks are skipped

    def test_ten_of_a_hundred_switches_hang(self, tmp_path: Path) -> None:
        names = [f"plug-{number:03d}" for number in range(100)]
        hanging = names[::10]
        healthy = [name for name in names if name not in hanging]
        options = {name: {"interval": 1.0, "timeout": 2.0} for name in names}
        with plugs(tmp_path, [SwitchSpec(name) for name in names], options=options) as bench:
            for name in hanging:
                bench.switches[name].set_fault("hang")
            for name in healthy:
                bench.wait_for_value(name, "online", 1)
            begin = time.monotonic()
            delays = [self.seconds_to_obey(bench, name) for name in healthy[::9]]
            assert median(delays) < 0.3
            wait_until(lambda: time.monotonic() > begin + 5, 10, "some readings")

            ended = bench.script.terminate()
            assert ended.status == 0
            assert ended.seconds < 5
            # The readings at once after a command are not those of the schedule.
            for name in set(healthy) - set(healthy[::9]):
                times = [each for each in readings(bench.switches[name]) if each >= begin]
                gaps = [later - earlier for earlier, later in itertools.pairwise(times)]
                assert len(times) >= 4
                assert median(gaps) == pytest.approx(1.0, abs=0.1)
                assert (times[-1] - times[0]) / len(gaps) == pytest.approx(1.0, abs=0.1)

    def seconds_to_obey(self, bench: Bench, name: str) -> float:
        sent = time.monotonic()
        bench.command(name, "open")
        wait_until(lambda: not bench.switches[name].relay, 10, f"{name} to open")
        return time.monotonic() - sent


class TestCommands:
    @pytest.fixture(scope="class")
    @classmethod
    def bench(cls, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
        specs = [
            SwitchSpec("lamp"),
            SwitchSpec("old", model="v1"),
            SwitchSpec("small", model="zero"),
            SwitchSpec("seldom_read"),
            SwitchSpec("freezer"),
            SwitchSpec("fence"),
            SwitchSpec("secured", token="its-token"),
        ]
        options: dict[str, Table] = {
            "lamp": {"interval": 0.05},
            "seldom_read": {"interval": 60.0},
            "freezer": {"read_only": True, "interval": 0.05},
            "secured": {"token": "its-token"},
        }
        with plugs(tmp_path_factory.mktemp("commands"), specs, options=options) as bench:
            for spec in specs:
                bench.wait_for_value(spec.name, "online", 1)
            yield bench

    @pytest.mark.parametrize("name", ["lamp", "old", "small", "secured"])
    def test_relay_obeys(self, bench: Bench, name: str) -> None:
        was_closed = True
        for value, is_closed in [
            ("open", False),
            ("open", False),
            ("close", True),
            ("toggle", False),
            ("toggle", True),
        ]:
            bench.client.clear()
            bench.command(name, value)
            state = bench.wait_for_value(name, "relay", is_closed)
            assert (state.retain, state.qos) == (True, 1)
            assert bench.switches[name].relay is is_closed
            assert retained_value(bench.broker, state_topic(name, "relay")) == is_closed
            if was_closed != is_closed:
                bench.script.wait_for_log(
                    f"{name} at .*: relay {'closed' if is_closed else 'open'}"
                )
            was_closed = is_closed

    def test_new_state_is_published_at_once(self, bench: Bench) -> None:
        bench.client.clear()
        bench.command("seldom_read", "open")
        state = bench.wait_for_value("seldom_read", "relay", 0)
        assert abs(state.json["time"] - now_ms()) < 3000

    @pytest.mark.parametrize("age", [None, 0, 25, -25])
    def test_fresh_command_is_obeyed(self, bench: Bench, age: int | None) -> None:
        command: dict[str, object] = {"value": "toggle", "sender": "unknown keys are ignored"}
        if age is not None:
            command["time"] = float(now_ms() - age * 1000)
        before = bench.switches["lamp"].relay
        bench.client.publish(command_topic("lamp"), command)
        wait_until(lambda: bench.switches["lamp"].relay is not before, 10, "the relay to move")

    @pytest.mark.parametrize("age", [35, 86_400, -40, -(10**8)])
    def test_command_from_another_time_is_refused(self, bench: Bench, age: int) -> None:
        payload = b'{"value": "toggle", "time": %d}' % (now_ms() - age * 1000)
        assert " ago" in self.refusal(bench, "lamp", payload)

    @pytest.mark.parametrize(
        "payload",
        [
            b'{"value": "on"}',
            b'{"value": "Open"}',
            b'{"value": "toggle "}',
            b'{"value": 1}',
            b'{"value": null}',
            b'{"value": ["toggle"]}',
            b'{"Value": "toggle"}',
            b"{}",
            b"[]",
            b'"toggle"',
            b"toggle",
            b"",
            b'{"value": "toggle"',
            b'{"value": "toggle"} {}',
            b"{'value': 'toggle'}",
            b'\xff\xfe{"value": "toggle"}',
            b'{"value": "toggle", "time": "now"}',
            b'{"value": "toggle", "time": NaN}',
            b'{"value": "toggle", "time": 1e999}',
            b'{"value": "toggle", "time": -1}',
            b'{"value": "toggle", "more": "' + 5000 * b"x" + b'"}',
            b'{"value": "toggle", "more": ' + 2000 * b"[",
            1024 * 1024 * b" " + b'{"value": "toggle"}',
        ],
        ids=lambda payload: f"{payload[:30]!r}",
    )
    def test_what_is_no_command_is_refused(self, bench: Bench, payload: bytes) -> None:
        assert "command refused: payload" in self.refusal(bench, "lamp", payload)

    def test_retained_command_is_refused(self, bench: Bench) -> None:
        try:
            assert "retained" in self.refusal(bench, "lamp", b'{"value": "toggle"}', retain=True)
        finally:
            bench.client.publish(command_topic("lamp"), b"", retain=True)
            self.pass_fence(bench)  # it is refused too, and the next test looks for its own refusal

    def test_read_only_switch_is_never_switched(self, bench: Bench) -> None:
        assert "read_only" in self.refusal(bench, "freezer", b'{"value": "open"}')

    @pytest.mark.parametrize(
        "topic",
        [
            "@set/lamp/control/power",
            "@set/lamp/control",
            "@set/lamp/relay",
            "@set/lamp/control/relay/now",
            "@set/lamp/control/relay/",
            "@set//control/relay",
            "@set/LAMP/control/relay",
            "@set/unknown/control/relay",
            "@update/lamp/control/relay",
            "set/lamp/control/relay",
        ],
    )
    def test_other_topics_are_no_commands(self, bench: Bench, topic: str) -> None:
        before = moves(bench.switches["lamp"])
        bench.client.publish(topic, {"value": "toggle"})
        self.pass_fence(bench)
        wait_for_readings(bench.switches["lamp"], 2)
        assert moves(bench.switches["lamp"]) == before

    def refusal(self, bench: Bench, name: str, payload: bytes, *, retain: bool = False) -> str:
        """Send a command that must not move the relay; return the one warning about it."""
        before = len(bench.script.log()), moves(bench.switches[name])
        bench.client.publish(command_topic(name), payload, retain=retain)
        self.pass_fence(bench)
        wait_for_readings(bench.switches[name], 2)
        assert moves(bench.switches[name]) == before[1]
        (warning,) = warnings(bench.script.log()[before[0] :])
        assert f"{name}: command refused: " in warning
        assert len(warning) < 500
        return warning

    def pass_fence(self, bench: Bench) -> None:
        """Wait until all commands sent so far were looked at: they are in order."""
        before = len(moves(bench.switches["fence"]))
        bench.command("fence", "close")
        wait_until(lambda: len(moves(bench.switches["fence"])) > before, 10, "the fence")


def test_retained_command_from_before_the_start_is_refused(
    tmp_path: Path, mosquitto: Mosquitto, mqtt_client: MqttClient
) -> None:
    mqtt_client.publish(command_topic("lamp"), {"value": "open"}, retain=True)
    with plugs(tmp_path, [SwitchSpec("lamp")], broker=mosquitto) as bench:
        bench.script.wait_for_log("lamp: command refused: .*retained")
        wait_for_readings(bench.switches["lamp"], 3)
        assert moves(bench.switches["lamp"]) == []
        assert len(warnings(bench.script.log())) == 1


class TestCommandToAbsentSwitch:
    def test_is_not_carried_out_late(self, tmp_path: Path) -> None:
        options = {"lamp": {"timeout": 5.5}}
        with plugs(tmp_path, [SwitchSpec("lamp")], options=options) as bench:
            bench.wait_for_value("lamp", "online", 1)
            lamp = bench.switches["lamp"]
            lamp.set_fault("hang")
            wait_for_readings(lamp, 1)
            bench.command("lamp", "open")
            bench.command("lamp", "toggle")
            wait_for_readings(lamp, 0)
            lamp.clear_fault()  # the reading goes on hanging, and the commands behind it wait
            bench.script.wait_for_log("open not carried out")
            bench.script.wait_for_log("toggle not carried out")
            wait_for_readings(lamp, 3)
            assert moves(lamp) == []
            assert lamp.relay

    def test_is_carried_out_when_the_switch_is_soon_back(self, tmp_path: Path) -> None:
        with plugs(tmp_path, [SwitchSpec("lamp")]) as bench:
            bench.wait_for_value("lamp", "online", 1)
            lamp = bench.switches["lamp"]
            lamp.set_fault("refused")
            bench.wait_for_value("lamp", "online", 0)
            gone = time.monotonic()
            # By then it is asked every 5 s or so only; a command does not wait for that.
            wait_until(lambda: time.monotonic() > gone + 5, 10, "a longer absence")
            sent = time.monotonic()
            bench.command("lamp", "open")
            bench.script.wait_for_log("connected")
            wait_until(lambda: time.monotonic() > sent + 0.5, 10, "the first attempt")
            lamp.clear_fault()
            wait_until(lambda: not lamp.relay, 10, "the relay to open")
            assert time.monotonic() - sent < 4
            assert moves(lamp) == ["/relay?state=0"]


FAULTS: list[Fault] = ["hang", "drip", "garbage", "html", "404", "500", "endless", "refused"]


class TestAbsence:
    def test_each_fault_is_told_once_and_overcome(self, tmp_path: Path) -> None:
        with plugs(tmp_path, [SwitchSpec(fault) for fault in FAULTS]) as bench:
            for fault in FAULTS:
                bench.wait_for_value(fault, "online", 1)
            for fault in FAULTS:
                bench.switches[fault].set_fault(fault)
            for fault in FAULTS:
                offline = bench.wait_for_value(fault, "online", 0)
                assert offline.retain
                assert abs(offline.json["time"] - now_ms()) < 15_000
            bench.client.clear()
            self.expect_backing_off(bench)
            assert bench.client.messages("@update/+/monitoring/#") == []
            assert retained_value(bench.broker, state_topic("html", "online")) == 0

            for fault in FAULTS:
                bench.switches[fault].clear_fault()
            for fault in FAULTS:
                bench.wait_for_value(fault, "online", 1)
                bench.wait_for_values(fault, "power", 3)
                assert bench.values(fault, "online") == [1]
            log = bench.script.log()
            for fault in FAULTS:
                assert log.count(f" {fault} at ") == 3  # online, offline, online
                assert log.count(f"WARNING plug_2_mqtt: {fault} at ") == 1
            assert "Traceback" not in log

    def expect_backing_off(self, bench: Bench) -> None:
        """See that a switch is asked less and less often."""
        gap = 0.0

        def has_longer_gap() -> bool:
            nonlocal gap
            times = readings(bench.switches["500"])
            gap = times[-1] - times[-2]
            return gap > 0.7

        wait_until(has_longer_gap, 15, "seven times the interval between two requests")

    def test_404_names_what_it_can_mean(self, tmp_path: Path) -> None:
        specs = [SwitchSpec(name, token="right-token") for name in ("right", "wrong", "missing")]
        options = {"right": {"token": "right-token"}, "wrong": {"token": "wrong-token"}}
        with plugs(tmp_path, specs, options=options) as bench:
            bench.wait_for_value("right", "online", 1)
            for name in ("wrong", "missing"):
                bench.wait_for_value(name, "online", 0)
                (line,) = (
                    each for each in bench.script.log().splitlines() if f" {name} at" in each
                )
                assert all(word in line for word in ("404", "token", "filter", "/report"))
                assert bench.values(name, "relay") == []
            assert set(bench.values("right", "online")) == {1}
            assert "right-token" not in bench.script.log()
            assert "wrong-token" not in bench.script.log()

    def test_switch_that_comes_after_the_script(self, tmp_path: Path) -> None:
        with plugs(tmp_path, [SwitchSpec("lamp")]) as bench:
            bench.script.stop()
            bench.client.clear()
            bench.switches["lamp"].set_fault("refused")
            bench.script.start()
            bench.wait_for_value("lamp", "online", 0)
            bench.switches["lamp"].clear_fault()
            bench.wait_for_value("lamp", "online", 1)
            bench.wait_for_values("lamp", "power", 2)


def test_will_tells_how_the_script_ended(tmp_path: Path) -> None:
    with plugs(tmp_path, [SwitchSpec("lamp")]) as bench:
        online = bench.client.wait_for(SCRIPT_ONLINE, lambda m: m.json["value"] == 1)
        assert (online.json["unit"], online.qos, online.retain) == ("", 1, True)
        assert abs(online.json["time"] - now_ms()) < 10_000

        bench.client.clear()
        bench.script.kill()
        will = bench.client.wait_for(SCRIPT_ONLINE)
        assert (will.json, will.qos, will.retain) == ({"value": 0, "unit": ""}, 1, True)
        assert retained_value(bench.broker, SCRIPT_ONLINE) == 0

        bench.client.clear()
        bench.script.start()
        bench.client.wait_for(SCRIPT_ONLINE, lambda m: m.json["value"] == 1)
        assert retained_value(bench.broker, SCRIPT_ONLINE) == 1

        bench.client.clear()
        assert bench.script.terminate().status == 0
        farewell = bench.client.wait_for(SCRIPT_ONLINE)
        assert farewell.json["value"] == 0
        assert abs(farewell.json["time"] - now_ms()) < 10_000
        assert retained_value(bench.broker, SCRIPT_ONLINE) == 0


def test_energy_never_goes_back(tmp_path: Path) -> None:
    watts = 36_000.0  # 10 Wh each second
    with plugs(tmp_path, [SwitchSpec("oven", load=constant(watts))]) as bench:
        oven, seen = bench.switches["oven"], 0

        def read_on() -> float:
            nonlocal seen
            seen = len(bench.wait_for_values("oven", "energy", seen + 5))
            return bench.values("oven", "energy")[-1]

        bench.wait_for_values("oven", "energy", 12)
        messages = bench.client.messages(state_topic("oven", "energy"))
        seconds = (messages[-1].json["time"] - messages[0].json["time"]) / 1000
        used = messages[-1].json["value"] - messages[0].json["value"]
        assert used == pytest.approx(watts / 3600 * seconds, rel=0.2)

        totals = [read_on()]
        oven.reboot()
        totals.append(read_on())
        bench.script.terminate()
        seen = len(bench.values("oven", "energy"))
        bench.script.start()
        totals.append(read_on())
        bench.script.kill()
        seen = len(bench.values("oven", "energy"))
        oven.reboot()
        bench.script.start()
        totals.append(read_on())
        oven.reboot(away=0.5)
        bench.wait_for_value("oven", "online", 0)
        seen = len(bench.values("oven", "energy"))
        totals.append(read_on())

        assert all(later > earlier for earlier, later in itertools.pairwise(totals))
        published = bench.values("oven", "energy")
        assert published == sorted(published)


class TestBroker:
    def test_it_comes_after_the_script(self, tmp_path: Path) -> None:
        broker = Mosquitto(tmp_path / "mosquitto")
        tables = {"MQTT": mqtt_table(broker.port)}
        with SimulatedSwitches([SwitchSpec("lamp")]) as switches:
            lamp = switches["lamp"]
            config = write_config(
                tmp_path / "c.toml", tables | {"MyStromSwitch": switch_table(lamp)}
            )
            with Script("plug_2_mqtt.py", config) as script:
                script.wait_for_log("broker .*refused")
                wait_for_readings(lamp, 5)
                with broker, MqttClient(broker.host, broker.port) as client:
                    came = now_ms()
                    client.wait_for(SCRIPT_ONLINE)
                    client.wait_for(state_topic("lamp", "power"), lambda m: m.json["time"] > came)
                    assert retained_value(broker, state_topic("lamp", "online")) == 1
                    assert len(warnings(script.log())) == 1
                    client.publish(command_topic("lamp"), {"value": "open"})
                    wait_until(lambda: not lamp.relay, 10, "the relay to open")

    def test_it_loses_everything_in_a_crash(self, tmp_path: Path) -> None:
        with plugs(tmp_path, [SwitchSpec("lamp"), SwitchSpec("tv", relay=False)]) as bench:
            for name in ("lamp", "tv"):
                bench.wait_for_value(name, "online", 1)
            bench.broker.kill()
            bench.broker.start()
            expected = {
                SCRIPT_ONLINE: 1,
                state_topic("lamp", "online"): 1,
                state_topic("lamp", "relay"): 1,
                state_topic("tv", "online"): 1,
                state_topic("tv", "relay"): 0,
            }

            def states() -> dict[str, float | None]:
                return {topic: retained_value(bench.broker, topic) for topic in expected}

            wait_until(lambda: states() == expected, 20, "the states")
            bench.client.wait_until_subscribed()
            bench.command("tv", "close")
            wait_until(lambda: bench.switches["tv"].relay, 10, "the relay to close")

    @pytest.mark.parametrize("is_script_killed", [False, True])
    def test_readings_of_its_absence_come_later(
        self, tmp_path: Path, mosquitto: Mosquitto, *, is_script_killed: bool
    ) -> None:
        with (
            FaultProxy(mosquitto.port, http=False) as way,
            plugs(
                tmp_path, [SwitchSpec("lamp")], broker=mosquitto, mqtt={"port": way.port}
            ) as bench,
        ):
            lamp = bench.switches["lamp"]
            bench.wait_for_values("lamp", "power", 3)
            offset = time.time() - time.monotonic()
            way.refuse()
            gone = time.monotonic()
            wait_for_readings(lamp, 5)
            lamp.press_button()
            wait_for_readings(lamp, 15)
            if is_script_killed:
                # What was read in the last moment may not have reached the disk.
                last_safe = readings(lamp)[-5]
                bench.script.kill()
                bench.script.start()
            else:
                last_safe = readings(lamp)[-1]
            back = now_ms()
            way.pass_through()
            bench.client.wait_for(
                state_topic("lamp", "power"), lambda m: m.json["time"] > back + 500, timeout=20
            )
            expected = [each + offset for each in readings(lamp) if gone < each <= last_safe]
            assert len(expected) > 10

            def times() -> list[float]:
                powers = bench.client.messages(state_topic("lamp", "power"))
                return sorted({each.json["time"] / 1000 for each in powers})

            def are_all_there() -> bool:
                return all(any(-0.01 < t - e < 0.09 for t in times()) for e in expected)

            wait_until(are_all_there, 10, "all readings")
            state = json.loads(retained(mosquitto)[state_topic("lamp", "relay")].payload)
            assert state["value"] == 0
            assert state["time"] > back

    def test_relay_state_is_the_newest_while_old_readings_come(
        self, tmp_path: Path, mosquitto: Mosquitto
    ) -> None:
        """A read at long intervals: what was switched in between stands first, and stays."""
        with (
            FaultProxy(mosquitto.port, http=False) as way,
            plugs(
                tmp_path,
                [SwitchSpec("lamp")],
                broker=mosquitto,
                mqtt={"port": way.port},
                options={"lamp": {"interval": 1.5}},
            ) as bench,
        ):
            bench.wait_for_value("lamp", "relay", 1)
            way.refuse()
            bench.switches["lamp"].press_button()
            wait_for_readings(bench.switches["lamp"], 1)
            bench.client.clear()
            way.pass_through()
            messages = state_topic("lamp", "relay")
            newest = bench.client.wait_for(messages, lambda m: m.retain)
            assert newest.json["value"] == 0
            late = bench.client.wait_for(messages, lambda m: not m.retain)
            assert late.json["time"] <= newest.json["time"]
            assert retained_value(mosquitto, messages) == 0


class TestEnd:
    @pytest.mark.parametrize("state", ["pass_through", "hang", "blackhole", "refuse"])
    def test_sigterm(self, tmp_path: Path, mosquitto: Mosquitto, state: str) -> None:
        specs = [SwitchSpec(name) for name in ("lamp", "tv", "heater")]
        options = {name: {"timeout": 20.0} for name in ("tv", "heater")}
        with (
            FaultProxy(mosquitto.port, http=False) as way,
            plugs(
                tmp_path, specs, broker=mosquitto, mqtt={"port": way.port}, options=options
            ) as bench,
        ):
            bench.wait_for_value("lamp", "online", 1)
            for name in ("tv", "heater"):
                bench.switches[name].set_fault("hang")
                wait_for_readings(bench.switches[name], 1)
            bench.command("tv", "open")
            getattr(way, state)()
            wait_for_readings(bench.switches["lamp"], 2)
            ended = bench.script.terminate()
            assert ended.status == 0
            assert ended.seconds < 5
            assert "Traceback" not in bench.script.log()

    def test_sigterm_while_the_broker_was_never_there(self, tmp_path: Path) -> None:
        with SimulatedSwitches([SwitchSpec("lamp")]) as switches:
            tables = {
                "MQTT": mqtt_table(free_port()),
                "MyStromSwitch": switch_table(switches["lamp"]),
            }
            with Script("plug_2_mqtt.py", write_config(tmp_path / "c.toml", tables)) as script:
                wait_for_readings(switches["lamp"], 2)
                ended = script.terminate()
                assert ended.status == 0
                assert ended.seconds < 5
