"""plug_2_mqtt.py between simulated switches, a real broker, and what Home Assistant makes of it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from demo.loads import constant
from demo.parts import Mosquitto, Script, write_config
from demo.process import wait_until
from demo.switches import MODELS, SimulatedSwitch, SimulatedSwitches, SwitchSpec
from tests.home_assistant import Announcement, BinarySensor, HomeAssistant, Sensor, is_discovery
from tests.integration.running import (
    mqtt_table,
    now_ms,
    retained,
    run_to_end,
    state_topic,
    switch_table,
    wait_for_readings,
    warnings,
)
from tests.mqtt_client import MqttClient

METERED = {"power", "average_power", "temperature"}
SENSORS_BY_MODEL: dict[str, set[str]] = {
    "v2": METERED | {"energy"},
    "v2-3.82": METERED,
    "eu": METERED,
    "v1": {"power"},
    "zero": set(),
    "swisscom": set(),
}
FREEZER = "freezer"
WATTS = 24.5
ONLY_OURS = "topic readwrite @update/#\ntopic readwrite @set/#\nuser watcher\ntopic readwrite #\n"


def config_of(
    folder: Path, broker: Mosquitto, switches: SimulatedSwitches, **home_assistant: object
) -> Path:
    return write_config(
        folder / "plugs.toml",
        {
            "MQTT": mqtt_table(broker.port),
            "HomeAssistant": home_assistant,
            "MyStromSwitch": [
                switch_table(switch, read_only=name == FREEZER) for name, switch in switches.items()
            ],
        },
    )


class Home:
    """Switches, a broker, plug_2_mqtt.py with discovery, and Home Assistant."""

    def __init__(
        self, broker: Mosquitto, client: MqttClient, switches: SimulatedSwitches, script: Script
    ) -> None:
        self.broker = broker
        self.client = client
        self.switches = switches
        self.script = script
        self.assistant = HomeAssistant(client)

    def announced(self, name: str) -> Announcement:
        found = wait_until(lambda: self.assistant.announced().get(name), 15, f"discovery of {name}")
        assert found.device.device.name == name
        return found

    def wait_for_state(self, switch: SimulatedSwitch, *, on: bool) -> None:
        relay = self.announced(switch.name).device.components["relay"]
        wait_until(lambda: self.assistant.is_on(relay) is on, 15, f"{switch.name} on: {on}")

    def wait_for_availability(self, name: str, *, available: bool) -> None:
        device = self.announced(name).device
        what = f"{name} available: {available}"
        wait_until(lambda: self.assistant.is_available(device) is available, 30, what)

    def count(self) -> int:
        return sum(map(is_discovery, self.client.messages()))

    def wait_for_all(self) -> None:
        everything = set(self.switches)
        wait_until(lambda: self.assistant.announced().keys() == everything, 15, "all switches")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    folder = tmp_path_factory.mktemp("home-assistant")
    specs = [SwitchSpec(model, model=model, load=constant(WATTS)) for model in MODELS]
    with (
        Mosquitto(folder / "mosquitto") as broker,
        MqttClient(broker.host, broker.port) as client,
        SimulatedSwitches([*specs, SwitchSpec(FREEZER)]) as switches,
        Script("plug_2_mqtt.py", config_of(folder, broker, switches, discovery=True)) as script,
    ):
        home = Home(broker, client, switches, script)
        home.wait_for_all()
        yield home
        print(script.log())


@pytest.mark.parametrize("model", MODELS)
def test_each_model_has_the_entities_that_it_measures(home: Home, model: str) -> None:
    said = home.announced(model)
    device = said.device
    assert said.object_id == f"mystrom_{home.switches[model].mac.lower()}"
    assert device.device.sw_version == MODELS[model].firmware
    assert device.components.keys() == {"relay", *SENSORS_BY_MODEL[model]}
    for component in device.components.values():
        home.client.wait_for(component.state_topic)
    assert home.assistant.is_available(device)
    assert home.assistant.is_on(device.components["relay"]) is True
    for quantity in SENSORS_BY_MODEL[model]:
        sensor = device.components[quantity]
        assert isinstance(sensor, Sensor)
        payload = home.assistant.last(sensor.state_topic)
        assert payload is not None
        if quantity == "power":
            assert sensor.value(payload) == pytest.approx(WATTS)
        else:
            assert sensor.value(payload) >= 0


def test_discovery_and_states_wait_at_the_broker_for_home_assistant(home: Home) -> None:
    waiting = retained(home.broker)
    for name in home.switches:
        said = home.announced(name)
        assert f"homeassistant/device/{said.object_id}/config" in waiting
        assert {state_topic(name, "relay"), state_topic(name, "online")} <= waiting.keys()
        assert {each.topic for each in said.device.availability} <= waiting.keys()
    assert all(each.qos == 1 for each in home.client.messages("homeassistant/#"))


def test_a_click_switches_the_plug_and_its_state_follows(home: Home) -> None:
    lamp = home.switches["v2"]
    relay = home.announced("v2").device.components["relay"]
    for on in (False, True):
        home.assistant.switch(relay, on=on)
        home.wait_for_state(lamp, on=on)
        assert lamp.relay is on
    for command in home.client.messages("@set/v2/control/relay"):
        assert not command.retain
        assert abs(command.json["time"] - now_ms()) < 60_000
    assert warnings(home.script.log()) == []


def test_what_must_not_be_switched_is_only_shown(home: Home) -> None:
    said = home.announced(FREEZER)
    assert said.removed == {"relay": "switch"}
    state = said.device.components["relay_state"]
    assert isinstance(state, BinarySensor)
    assert home.assistant.is_on(state) is True


def test_a_switch_that_does_not_answer_is_unavailable_and_no_other(home: Home) -> None:
    home.switches["eu"].set_fault("refused")
    home.wait_for_availability("eu", available=False)
    assert home.assistant.is_available(home.announced("v2").device)
    home.switches["eu"].clear_fault()
    home.wait_for_availability("eu", available=True)


@pytest.mark.parametrize("retain", [False, True])
def test_all_is_said_again_when_home_assistant_has_started(home: Home, retain: bool) -> None:
    before = home.count()
    home.assistant.start(retain=retain)
    wait_until(lambda: home.count() >= before + len(home.switches), 15, "all switches again")
    latest = [each for each in home.client.messages() if is_discovery(each)][before:]
    assert len({each.topic for each in latest}) == len(home.switches)
    home.client.publish("homeassistant/status", b"", retain=True)


def test_nothing_is_said_again_when_it_stops(home: Home) -> None:
    before = home.count()
    home.client.publish("homeassistant/status", "offline")
    for switch in home.switches.values():
        wait_for_readings(switch, 3)
    assert home.count() == before


class TestStartAndEnd:
    @pytest.fixture
    def lamp(self) -> Iterator[SimulatedSwitches]:
        with SimulatedSwitches([SwitchSpec("lamp")]) as switches:
            yield switches

    def test_the_end_of_the_script_makes_all_unavailable(
        self, tmp_path: Path, mosquitto: Mosquitto, mqtt_client: MqttClient, lamp: SimulatedSwitches
    ) -> None:
        config = config_of(tmp_path, mosquitto, lamp, discovery=True)
        with Script("plug_2_mqtt.py", config) as script:
            home = Home(mosquitto, mqtt_client, lamp, script)
            home.wait_for_availability("lamp", available=True)
            script.kill()
            home.wait_for_availability("lamp", available=False)

    def test_a_birth_from_before_the_start_stops_nothing(
        self, tmp_path: Path, mosquitto: Mosquitto, mqtt_client: MqttClient, lamp: SimulatedSwitches
    ) -> None:
        mqtt_client.publish("homeassistant/status", "online", retain=True)
        config = config_of(tmp_path, mosquitto, lamp, discovery=True)
        with Script("plug_2_mqtt.py", config) as script:
            Home(mosquitto, mqtt_client, lamp, script).wait_for_all()

    def test_a_broker_that_forgot_is_told_again(
        self, tmp_path: Path, mosquitto: Mosquitto, mqtt_client: MqttClient, lamp: SimulatedSwitches
    ) -> None:
        config = config_of(tmp_path, mosquitto, lamp, discovery=True)
        with Script("plug_2_mqtt.py", config) as script:
            home = Home(mosquitto, mqtt_client, lamp, script)
            topic = f"homeassistant/device/{home.announced('lamp').object_id}/config"
            mqtt_client.publish(topic, b"", retain=True)
            wait_until(lambda: topic not in retained(mosquitto), 10, "a broker without discovery")
            mosquitto.restart()
            wait_until(lambda: topic in retained(mosquitto), 20, "discovery after the restart")

    def test_the_prefix_is_that_of_home_assistant(
        self, tmp_path: Path, mosquitto: Mosquitto, mqtt_client: MqttClient, lamp: SimulatedSwitches
    ) -> None:
        config = config_of(tmp_path, mosquitto, lamp, discovery=True, prefix="my/ha")
        with Script("plug_2_mqtt.py", config):
            assistant = HomeAssistant(mqtt_client, "my/ha")
            wait_until(assistant.announced, 15, "discovery")
            mqtt_client.clear()
            assistant.start()
            wait_until(assistant.announced, 15, "discovery at its birth")
            assert not mqtt_client.messages("homeassistant/#")

    @pytest.mark.parametrize("options", [{}, {"discovery": False}])
    def test_off_it_uses_no_topics_but_ours(
        self, tmp_path: Path, lamp: SimulatedSwitches, options: dict[str, object]
    ) -> None:
        with (
            restrictive_broker(tmp_path) as broker,
            MqttClient(broker.host, broker.port, username="watcher") as client,
        ):
            config = config_of(tmp_path, broker, lamp, **options)
            with Script("plug_2_mqtt.py", config) as script:
                client.wait_for(state_topic("lamp", "power"))
                wait_for_readings(lamp["lamp"], 3)
                client.publish("homeassistant/status", "online")
                wait_for_readings(lamp["lamp"], 3)
            assert not any(is_discovery(each) for each in client.messages())
            others = {each.topic for each in client.messages() if each.topic[0] != "@"}
            assert others == {"homeassistant/status"}
            assert warnings(script.log()) == []
            assert {each.path for each in lamp["lamp"].requests} == {"/report"}

    def test_a_broker_that_does_not_allow_it_is_an_error_in_the_log(
        self, tmp_path: Path, lamp: SimulatedSwitches
    ) -> None:
        with (
            restrictive_broker(tmp_path) as broker,
            Script("plug_2_mqtt.py", config_of(tmp_path, broker, lamp, discovery=True)) as script,
            MqttClient(broker.host, broker.port, username="watcher") as client,
        ):
            script.wait_for_log("ERROR .* refuses a message of ours: Not authorized")
            client.clear()
            client.wait_for(state_topic("lamp", "power"))

    def test_check_announces_nothing(
        self, tmp_path: Path, mosquitto: Mosquitto, mqtt_client: MqttClient, lamp: SimulatedSwitches
    ) -> None:
        config = config_of(tmp_path, mosquitto, lamp, discovery=True)
        done = run_to_end("plug_2_mqtt.py", "--config", config, "--check", cwd=tmp_path)
        assert (done.returncode, len(done.stdout.splitlines())) == (0, 2)
        assert mqtt_client.messages() == []


def restrictive_broker(folder: Path) -> Mosquitto:
    acl = folder / "acl"
    acl.write_text(ONLY_OURS)
    acl.chmod(0o700)
    return Mosquitto(folder / "restrictive", extra_config=f"acl_file {acl}")
