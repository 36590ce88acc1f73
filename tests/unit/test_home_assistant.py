"""What is said to Home Assistant of a switch, and when; tests/system shows what it makes of it."""

import json
import re
from collections.abc import Callable
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openenergy import broker, config, home_assistant, mystrom
from openenergy.home_assistant import Discovery, Plug
from tests.conftest import ConfigFile

INFO = mystrom.Info("083AF2AABBCC", "4.0.14", 106)
LAMP = config.MyStromSwitch(name="lamp", host="192.0.2.10:8001")
ALL = frozenset({"relay", "power", "average_power", "energy", "temperature"})
SCRIPT = "plug_2_mqtt"


def announcement(plug: Plug, mqtt: config.Mqtt | None = None) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(
        home_assistant.discovery_payload(plug, mqtt or config.Mqtt(), SCRIPT)
    )
    return content


def entities(announced: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the components but those that are to be removed, which have nothing but a platform."""
    return {
        key: component
        for key, component in announced["components"].items()
        if component.keys() != {"platform"}
    }


@pytest.mark.parametrize("device_type", [None, "WS2", 99])
def test_a_model_that_is_not_known_is_not_named(device_type: int | str | None) -> None:
    info = mystrom.Info("083AF2AABBCC", "", device_type)
    assert not announcement(Plug(LAMP, info, ALL))["device"].keys() & {"model", "sw_version"}


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
    plug = Plug(config.MyStromSwitch(name=name, macAdress=mac), None, ALL)
    assert home_assistant.discovery_topic("ha", plug) == f"ha/device/{object_id}/config"
    assert announcement(plug)["device"]["identifiers"] == [object_id]


@given(st.lists(st.from_regex(r"[A-Za-z0-9_.-]{1,64}", fullmatch=True), max_size=3, unique=True))
def test_each_name_has_an_object_id_of_its_own(names: list[str]) -> None:
    plugs = [Plug(config.MyStromSwitch(name=name), None, ALL) for name in names]
    identities = {home_assistant.object_id(plug) for plug in plugs}
    assert len(identities) == len(names)
    assert all(re.fullmatch(r"[a-zA-Z0-9_-]+", identity) for identity in identities)


def test_an_address_that_may_change_is_no_link() -> None:
    settings = config.MyStromSwitch(name="lamp", macAdress="083AF2AABBCC")
    assert "configuration_url" in announcement(Plug(LAMP, INFO, ALL))["device"]
    assert "configuration_url" not in announcement(Plug(settings, INFO, ALL))["device"]


@pytest.mark.parametrize(
    ("quantities", "sensors"),
    [
        (ALL, {"power", "average_power", "energy", "temperature"}),
        (frozenset({"relay", "power"}), {"power"}),
        (frozenset({"relay"}), set()),
    ],
)
def test_only_what_was_measured_is_an_entity(quantities: frozenset[str], sensors: set[str]) -> None:
    assert entities(announcement(Plug(LAMP, INFO, quantities))).keys() == {"relay", *sensors}


def test_a_switch_that_must_not_be_switched_has_no_topic_for_commands() -> None:
    read_only = config.MyStromSwitch(name="lamp", host="a", read_only=True)
    assert "@set" in json.dumps(announcement(Plug(LAMP, INFO, ALL)))
    assert "@set" not in json.dumps(announcement(Plug(read_only, INFO, ALL)))


def test_prefixes_are_those_of_the_configuration() -> None:
    mqtt = config.Mqtt(prefix_update="up", prefix_set="down")
    announced = announcement(Plug(LAMP, INFO, ALL), mqtt)
    relay = announced["components"]["relay"]
    assert relay["state_topic"] == "up/lamp/monitoring/relay"
    assert relay["command_topic"] == "down/lamp/control/relay"
    assert {each["topic"] for each in announced["availability"]} == {
        "up/lamp/monitoring/online",
        broker.online_topic(mqtt, SCRIPT),
    }


@pytest.mark.parametrize("qos", [0, 1])
def test_commands_come_with_qos_1_whatever_measurements_go_with(qos: int) -> None:
    found = entities(announcement(Plug(LAMP, INFO, ALL), config.Mqtt(qos=qos)))
    assert found.pop("relay")["qos"] == 1
    assert {component["qos"] for component in found.values()} == {qos}


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
    assert entities(json.loads(recorder.published[-1][1])).keys() == {"relay", "power"}
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
