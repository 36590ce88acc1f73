"""What is said to Home Assistant of a switch, and when."""

import json
import re
from collections.abc import Callable
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openenergy import broker, config, home_assistant, mystrom
from openenergy.home_assistant import Discovery, Plug
from tests import home_assistant as checker
from tests.conftest import ConfigFile

INFO = mystrom.Info("083AF2AABBCC", "4.0.14", 106)
LAMP = config.MyStromSwitch(name="lamp", host="192.0.2.10:8001")
ALL = frozenset({"relay", "power", "average_power", "energy", "temperature"})
SCRIPT = "plug_2_mqtt"


def announcement(plug: Plug, mqtt: config.Mqtt | None = None) -> checker.Announcement:
    payload = home_assistant.discovery_payload(plug, mqtt or config.Mqtt(), SCRIPT)
    return checker.read(home_assistant.discovery_topic("homeassistant", plug), payload)


def test_a_device_is_who_the_switch_says_it_is() -> None:
    said = announcement(Plug(LAMP, INFO, ALL))
    assert said.object_id == "mystrom_083af2aabbcc"
    assert said.device.device == checker.DeviceInfo(
        identifiers=["mystrom_083af2aabbcc"],
        connections=[("mac", "08:3a:f2:aa:bb:cc")],
        name="lamp",
        manufacturer="myStrom",
        model="Switch CH v2",
        sw_version="4.0.14",
        configuration_url="http://192.0.2.10:8001/",
    )


@pytest.mark.parametrize("device_type", [None, "WS2", 99])
def test_a_model_that_is_not_known_is_not_named(device_type: int | str | None) -> None:
    info = mystrom.Info("083AF2AABBCC", "", device_type)
    device = announcement(Plug(LAMP, info, ALL)).device.device
    assert (device.model, device.sw_version) == ("", "")


@pytest.mark.parametrize(
    ("name", "mac", "object_id"),
    [
        ("lamp", "64:00:2D:00:00:01", "mystrom_64002d000001"),
        ("lamp", "00-00-01", "openenergy_lamp"),
        ("lamp", "", "openenergy_lamp"),
        ("la_mp-1", "", "openenergy_la_mp-1"),
        ("la.mp", "", "openenergy_la_mp-abfff20b"),
    ],
)
def test_a_switch_that_does_not_say_who_it_is(name: str, mac: str, object_id: str) -> None:
    settings = config.MyStromSwitch(name=name, macAdress=mac)
    assert announcement(Plug(settings, None, ALL)).object_id == object_id


@given(st.lists(st.from_regex(r"[A-Za-z0-9_.-]{1,64}", fullmatch=True), max_size=3, unique=True))
def test_each_name_has_an_object_id_of_its_own(names: list[str]) -> None:
    plugs = [Plug(config.MyStromSwitch(name=name), None, ALL) for name in names]
    identities = {home_assistant.object_id(plug) for plug in plugs}
    assert len(identities) == len(names)
    assert all(re.fullmatch(r"[a-zA-Z0-9_-]+", identity) for identity in identities)


def test_an_address_that_may_change_is_no_link() -> None:
    settings = config.MyStromSwitch(name="lamp", macAdress="083AF2AABBCC")
    payload = home_assistant.discovery_payload(Plug(settings, INFO, ALL), config.Mqtt(), SCRIPT)
    assert "configuration_url" not in json.loads(payload)["device"]


@pytest.mark.parametrize(
    ("quantities", "sensors"),
    [
        (ALL, {"power", "average_power", "energy", "temperature"}),
        (frozenset({"relay", "power"}), {"power"}),
        (frozenset({"relay"}), set()),
    ],
)
def test_only_what_was_measured_is_an_entity(quantities: frozenset[str], sensors: set[str]) -> None:
    components = announcement(Plug(LAMP, INFO, quantities)).device.components
    assert components.keys() == {"relay", *sensors}
    for quantity, component in components.items():
        assert component.unique_id == f"mystrom_083af2aabbcc_{quantity}"
        assert component.state_topic == f"@update/lamp/monitoring/{quantity}"
        assert component.qos == 1


def test_energy_is_what_the_energy_dashboard_takes() -> None:
    energy = announcement(Plug(LAMP, INFO, ALL)).device.components["energy"]
    assert isinstance(energy, checker.Sensor)
    assert (energy.device_class, energy.state_class) == ("energy", "total_increasing")
    assert energy.unit_of_measurement == "Wh"


def test_a_switch_that_must_not_be_switched_is_a_state() -> None:
    plug = Plug(LAMP, INFO, ALL)
    assert announcement(plug).removed == {"relay_state": "binary_sensor"}
    read_only = config.MyStromSwitch(name="lamp", host="a", read_only=True)
    said = announcement(plug._replace(settings=read_only))
    assert said.removed == {"relay": "switch"}
    assert isinstance(said.device.components["relay_state"], checker.BinarySensor)
    assert (
        "@set"
        not in home_assistant.discovery_payload(
            plug._replace(settings=read_only), config.Mqtt(), SCRIPT
        ).decode()
    )


def test_prefixes_and_qos_are_those_of_the_configuration() -> None:
    mqtt = config.Mqtt(prefix_update="up", prefix_set="down", qos=0)
    device = announcement(Plug(LAMP, INFO, ALL), mqtt).device
    relay = device.components["relay"]
    assert isinstance(relay, checker.Switch)
    assert (relay.state_topic, relay.qos) == ("up/lamp/monitoring/relay", 0)
    assert relay.command_topic == "down/lamp/control/relay"
    assert {each.topic for each in device.availability} == {
        "up/lamp/monitoring/online",
        broker.online_topic(mqtt, SCRIPT),
    }


# When it is said


class Recorder:
    """In place of a broker: remembers what is published."""

    def __init__(self) -> None:
        self.published: list[tuple[str, bytes, bool]] = []

    def publish(self, topic: str, payload: bytes, *, retain: bool) -> None:
        self.published.append((topic, payload, retain))


class Answering:
    """In place of a switch: says who it is after so many failures."""

    def __init__(self, failures: int = 0) -> None:
        self.settings = LAMP
        self.asked = 0
        self._failures = failures

    def info(self) -> mystrom.Info:
        self.asked += 1
        if self.asked <= self._failures:
            raise mystrom.SwitchError("status 404")
        return INFO


Announce = Callable[[Recorder], Discovery]


@pytest.fixture
def announce(config_file: ConfigFile) -> Announce:
    """Make a Discovery that publishes to a recorder."""
    tables = {"HomeAssistant": {"discovery": True}}

    def to(recorder: Recorder) -> Discovery:
        discovery = Discovery(config.load(config_file(tables), ()), SCRIPT)
        discovery.start(cast("broker.Broker", recorder))
        return discovery

    return to


def see(discovery: Discovery, switch: Answering, *quantities: str) -> None:
    discovery.see(cast("mystrom.Switch", switch), frozenset(quantities))


def test_a_switch_is_announced_once_and_again_when_it_measures_more(announce: Announce) -> None:
    recorder, switch = Recorder(), Answering()
    discovery = announce(recorder)
    see(discovery, switch, "relay")
    see(discovery, switch, "relay")
    assert len(recorder.published) == 1
    see(discovery, switch, "relay", "power")
    see(discovery, switch, "relay")
    assert len(recorder.published) == 2
    topics = {topic for topic, _, _ in recorder.published}
    assert topics == {"homeassistant/device/mystrom_083af2aabbcc/config"}
    assert checker.read(*recorder.published[-1][:2]).device.components.keys() == {"relay", "power"}
    assert all(retain for _, _, retain in recorder.published)
    assert switch.asked == 1


def test_a_switch_is_asked_who_it_is_only_so_often(announce: Announce) -> None:
    recorder, switch = Recorder(), Answering(failures=2)
    discovery = announce(recorder)
    see(discovery, switch, "relay")
    see(discovery, switch, "relay")
    assert recorder.published == []  # by its name it would be another device
    see(discovery, switch, "relay")
    assert recorder.published[0][0] == "homeassistant/device/mystrom_083af2aabbcc/config"

    recorder, switch = Recorder(), Answering(failures=99)
    discovery = announce(recorder)
    for _ in range(10):
        see(discovery, switch, "relay")
    assert switch.asked == 3
    assert [topic for topic, _, _ in recorder.published] == [
        "homeassistant/device/openenergy_lamp/config"
    ]


def test_off_it_asks_nothing_says_nothing_and_hears_nothing(config_file: ConfigFile) -> None:
    recorder, switch = Recorder(), Answering()
    discovery = Discovery(config.load(config_file(""), ()), SCRIPT)
    discovery.start(cast("broker.Broker", recorder))
    see(discovery, switch, "relay")
    discovery.announce_all()
    assert (discovery.filters, recorder.published, switch.asked) == ([], [], 0)
