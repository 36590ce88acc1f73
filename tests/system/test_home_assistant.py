"""Home Assistant itself, on the broker as it is shipped, and plug_2_mqtt.py with switches."""

import json
import re
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import pytest

from demo.loads import constant
from demo.parts import HOST, Mosquitto, Script, write_config
from demo.process import wait_until
from demo.switches import MODELS, SimulatedSwitches, SwitchSpec
from openenergy.mystrom import MODELS as KINDS
from tests.integration.running import (
    Table,
    command_topic,
    mqtt_table,
    now_ms,
    state_topic,
    switch_table,
    warnings,
)
from tests.integration.test_mosquitto_integration import InstalledMosquitto, User, password_of
from tests.mqtt_client import MqttClient
from tests.system.home_assistant import HomeAssistant, State
from tests.system.machine import obstacle

pytestmark = [pytest.mark.systemd, pytest.mark.timeout(600)]

WATTS = 24.5
FREEZER = "freezer"
SPARES = ("first", "second")
OUR_USER = "openenergy"
OUR_PASSWORD = password_of(OUR_USER)
# By the name of an entity: its quantity, and what Home Assistant has to know to add it up.
SENSORS = {
    "Power": ("power", "power", "measurement", "W"),
    "Average power": ("average_power", "power", "measurement", "W"),
    "Energy": ("energy", "energy", "total_increasing", "Wh"),
    "Temperature": ("temperature", "temperature", "measurement", "°C"),
}
METERED = {"Power", "Average power", "Temperature"}
SENSORS_BY_MODEL = {
    "v2": METERED | {"Energy"},
    "v2-3.82": METERED,
    "eu": METERED,
    "v1": {"Power"},
    "zero": set(),
    "swisscom": set(),
}


@pytest.fixture(scope="module")
def assistant(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HomeAssistant]:
    if reason := obstacle():
        pytest.skip(reason)
    with HomeAssistant(tmp_path_factory.mktemp("home-assistant") / "machine") as assistant:
        yield assistant
        print(assistant.log())


class Home:
    """Switches that Home Assistant is to find."""

    def __init__(
        self,
        folder: Path,
        broker: InstalledMosquitto,
        switches: SimulatedSwitches,
        client: MqttClient,
        assistant: HomeAssistant,
    ) -> None:
        self.broker = broker
        self.switches = switches
        self.client = client
        self.assistant = assistant
        self.tables = [
            switch_table(switch, read_only=name == FREEZER)
            for name, switch in switches.items()
            if name not in SPARES
        ]
        self._path = folder / "plugs.toml"
        self.script = self._script(self.tables)

    def _script(self, tables: Sequence[Table]) -> Script:
        settings = {
            "MQTT": mqtt_table(self.broker.port, username=OUR_USER, password=OUR_PASSWORD),
            "HomeAssistant": {"discovery": True},
            "MyStromSwitch": tables,
        }
        return Script("plug_2_mqtt.py", write_config(self._path, settings))

    def reconfigure(self, tables: Sequence[Table]) -> None:
        """Restart the script with other switches."""
        self.script.stop()
        self.script = self._script(tables).start()

    def wait_for(self, name: str, *states: str) -> None:
        """Wait until the entities of a name are in these states, one for each."""
        wait_until(
            lambda: [each["state"] for each in self.assistant.entities(name)] == list(states),
            20,
            f"{name} {states}",
            every=0.1,
        )

    def wait_for_all(self, state: str) -> None:
        for table in self.tables:
            self.wait_for(table["name"], state)


@pytest.fixture(scope="class")
def home(tmp_path_factory: pytest.TempPathFactory, assistant: HomeAssistant) -> Iterator[Home]:
    folder = tmp_path_factory.mktemp("home")
    specs = [
        *(SwitchSpec(model, model=model, load=constant(WATTS)) for model in MODELS),
        *(SwitchSpec(name) for name in (FREEZER, *SPARES)),
    ]
    with (
        InstalledMosquitto(folder) as broker,
        MqttClient(HOST, broker.port, username=OUR_USER, password=OUR_PASSWORD) as client,
        SimulatedSwitches(specs) as switches,
        assistant.mqtt(*pages_of_mqtt(broker), certificate=broker.certificates.ca),
    ):
        home = Home(folder, broker, switches, client, assistant)
        home.script.start()
        try:
            home.wait_for_all("on")
            yield home
        finally:
            home.script.stop()
            print(home.script.log())


def pages_of_mqtt(broker: InstalledMosquitto) -> list[dict[str, object]]:
    """Return what integrations/home-assistant/README.md says to fill in."""
    first = {
        "broker": "localhost",
        "port": broker.tls_port,
        "username": "automation",
        "password": password_of("automation"),
    }
    return [first | {"advanced_options": True}, first | {"set_ca_cert": "custom"}]


class TestAtTheShippedBroker:
    @pytest.mark.parametrize("model", MODELS)
    def test_each_model_has_the_entities_that_it_measures(self, home: Home, model: str) -> None:
        (device,) = home.assistant.devices(model)
        names = {model, *(f"{model} {sensor}" for sensor in SENSORS_BY_MODEL[model])}
        wait_until(
            lambda: set(home.assistant.names_of_entities(device)) >= names, 15, "all", every=0.1
        )
        assert sorted(home.assistant.names_of_entities(device)) == sorted(names)
        assert is_only(home, model, "switch")
        for sensor in SENSORS_BY_MODEL[model]:
            check_sensor(home, model, sensor)

    @pytest.mark.parametrize("model", MODELS)
    def test_a_device_is_who_the_switch_says_it_is(self, home: Home, model: str) -> None:
        switch = home.switches[model]
        (device,) = home.assistant.devices(model)
        assert device["manufacturer"] == "myStrom"
        assert device["model"] == (None if switch.model.is_v1 else KINDS[switch.model.type])
        assert device["sw_version"] == switch.model.firmware
        mac = ":".join(re.findall("..", switch.mac.lower()))
        assert device["connections"] == [["mac", mac]]
        assert device["configuration_url"] == f"http://{HOST}:{switch.port}/"

    def test_the_energy_dashboard_offers_what_counts(self, home: Home) -> None:
        """It offers sums in a unit of energy."""
        sums = home.assistant.ask("recorder/list_statistic_ids", statistic_type="sum")
        assert {each["statistic_id"] for each in sums if each["unit_class"] == "energy"} == {
            each["entity_id"]
            for name in ("v2", FREEZER)
            for each in home.assistant.entities(f"{name} Energy")
        }

    def test_a_click_switches_the_plug_and_its_state_follows(self, home: Home) -> None:
        home.client.clear()
        for on in (False, True):
            home.assistant.click(*home.assistant.entities("v2"), on=on)
            home.wait_for("v2", "on" if on else "off")
            assert home.switches["v2"].relay is on
        commands = home.client.messages(command_topic("v2"))
        assert [each.json["value"] for each in commands] == ["open", "close"]
        for command in commands:
            assert (command.qos, command.retain) == (1, False)
            assert abs(command.json["time"] - now_ms()) < 30_000
        assert warnings(home.script.log()) == []

    def test_a_switch_that_does_not_answer_is_unavailable_and_no_other(self, home: Home) -> None:
        home.switches["eu"].set_fault("refused")
        home.wait_for("eu", "unavailable")
        home.wait_for("v2", "on")
        home.switches["eu"].clear_fault()
        home.wait_for("eu", "on")

    def test_all_are_unavailable_without_the_script(self, home: Home) -> None:
        home.script.kill()
        home.wait_for_all("unavailable")
        home.script.start()
        home.wait_for_all("on")

    def test_all_is_there_again_after_a_restart_of_home_assistant(self, home: Home) -> None:
        home.assistant.restart()
        home.script.wait_for_log(f"Home Assistant has started: announcing {len(home.tables)} ")
        home.wait_for_all("on")
        for model in MODELS:
            self.test_each_model_has_the_entities_that_it_measures(home, model)

    def test_what_must_not_be_switched_is_only_shown(self, home: Home) -> None:
        assert is_only(home, FREEZER, "binary_sensor")
        others = [table for table in home.tables if table["name"] != FREEZER]
        for read_only, kind in ((False, "switch"), (True, "binary_sensor")):
            home.reconfigure([*others, switch_table(home.switches[FREEZER], read_only=read_only)])
            wait_until(partial(is_only, home, FREEZER, kind), 15, f"a {kind} alone", every=0.1)
            home.wait_for(FREEZER, "on")

    def test_home_assistant_has_nothing_to_complain_of(self, home: Home) -> None:
        assert home.assistant.complaints() == []
        broken = {
            "device": {"identifiers": ["broken"]},
            "origin": {"name": "this test"},
            "components": {"power": {"platform": "sensor", "unique_id": "broken"}},
        }
        with User(home.broker, OUR_USER) as somebody:
            topic = "homeassistant/device/broken/config"
            assert somebody.publish(topic, json.dumps(broken))
            wait_until(home.assistant.complaints, 10, "an error that is found", every=0.2)

    def test_a_switch_that_is_renamed_keeps_its_history(self, home: Home) -> None:
        entities = []
        for name in ("lamp", "lantern"):
            home.reconfigure([*home.tables, switch_table(home.switches[SPARES[0]], name=name)])
            home.wait_for(name, "on")
            entities += [each["entity_id"] for each in home.assistant.entities(name)]
        assert entities == ["switch.lamp"] * 2
        home.reconfigure(home.tables)
        home.assistant.delete(*home.assistant.devices("lantern"))
        home.wait_for("lantern")

    def test_what_was_replaced_or_removed_stays_until_it_is_deleted(self, home: Home) -> None:
        first, second = (switch_table(home.switches[name], name="lamp") for name in SPARES)
        home.reconfigure([*home.tables, first])
        home.wait_for("lamp", "on")
        (device,) = home.assistant.devices("lamp")
        home.reconfigure([*home.tables, second])
        home.wait_for("lamp", "on", "on")
        home.assistant.delete(device)
        home.wait_for("lamp", "on")
        home.reconfigure(home.tables)
        home.wait_for_all("on")
        home.wait_for("lamp", "on")
        home.assistant.delete(*home.assistant.devices("lamp"))
        home.wait_for("lamp")
        wait_until(lambda: announced(home.broker) == len(home.tables), 10, "a broker without it")


def announced(broker: InstalledMosquitto) -> int:
    """Return how many devices the broker has for a Home Assistant that comes now."""
    with User(broker, "automation") as automation:
        automation.subscribe("homeassistant/device/+/config")
        return len(automation.received)


def is_only(home: Home, name: str, kind: str) -> bool:
    """Tell whether there is one entity of a name, and it is of this kind."""
    kinds = [each["entity_id"].partition(".")[0] for each in home.assistant.entities(name)]
    return kinds == [kind]


def check_sensor(home: Home, model: str, sensor: str) -> None:
    """Check that it shows what was published, and what kind of number that is."""
    quantity, device_class, state_class, unit = SENSORS[sensor]

    def shown() -> State | None:
        (state,) = home.assistant.entities(f"{model} {sensor}")
        return None if state["state"] in ("unknown", "unavailable") else state

    state = wait_until(shown, 15, f"a value of {model} {sensor}", every=0.1)
    published = home.client.messages(state_topic(model, quantity))
    assert float(state["state"]) in [each.json["value"] for each in published]
    attributes = state["attributes"]
    assert attributes["device_class"] == device_class
    assert attributes["state_class"] == state_class
    assert attributes["unit_of_measurement"] == unit


def test_another_discovery_prefix(
    tmp_path: Path, assistant: HomeAssistant, mosquitto: Mosquitto, mqtt_client: MqttClient
) -> None:
    """It changes where Home Assistant looks for devices, not where it says that it has started."""
    with (
        SimulatedSwitches([SwitchSpec("lamp")]) as switches,
        assistant.mqtt({"broker": HOST, "port": mosquitto.port}),
    ):
        tables = {
            "MQTT": mqtt_table(mosquitto.port),
            "HomeAssistant": {"discovery": True, "prefix": "my/ha"},
            "MyStromSwitch": switch_table(switches["lamp"]),
        }
        with Script("plug_2_mqtt.py", write_config(tmp_path / "plugs.toml", tables)) as script:
            mqtt_client.wait_for("my/ha/device/+/config")
            assert assistant.devices("lamp") == []
            assistant.set_mqtt_options(discovery_prefix="my/ha")
            script.wait_for_log("Home Assistant has started: announcing 1")
            wait_until(lambda: assistant.devices("lamp"), 10, "the lamp", every=0.1)
