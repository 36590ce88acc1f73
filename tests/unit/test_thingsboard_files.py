"""ThingsBoard's dashboard and device profile against what its published sources ask of them.

ThingsBoard itself is not at hand. tests/integration/test_thingsboard.py compares what both use with
what the real gateway sends.
"""

import itertools
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from demo.parts import REPOSITORY

FOLDER = REPOSITORY / "integrations" / "thingsboard"
DASHBOARD = json.loads((FOLDER / "dashboard.json").read_text())["configuration"]
PROFILE = json.loads((FOLDER / "device_profile.json").read_text())
WIDGETS: dict[str, Any] = DASHBOARD["widgets"]

# "fqn" and "descriptor.type" of application/src/main/data/json/system/widget_types/*.json in
# https://github.com/thingsboard/thingsboard, none of them deprecated.
PUBLISHED_WIDGETS = {
    "system.cards.entities_table": "latest",
    "system.cards.value_card": "latest",
    "system.time_series_chart": "timeseries",
    "system.alarm_widgets.alarms_table": "alarm",
    "system.single_switch": "rpc",
}
# Of the same sources: ui-ngx/src/app/shared/models/action-widget-settings.models.ts and
# common/data/src/main/java/org/thingsboard/server/common/data/device/profile/AlarmCondition*.java
GET_ACTIONS = {"DO_NOTHING", "EXECUTE_RPC", "GET_ATTRIBUTE", "GET_TIME_SERIES"}
SET_ACTIONS = {"EXECUTE_RPC", "SET_ATTRIBUTE", "ADD_TIME_SERIES"}
SEVERITIES = {"CRITICAL", "MAJOR", "MINOR", "WARNING", "INDETERMINATE"}
OPERATIONS: dict[str, Callable[[float, float], bool]] = {
    "EQUAL": lambda value, limit: value == limit,
    "GREATER": lambda value, limit: value > limit,
    "LESS_OR_EQUAL": lambda value, limit: value <= limit,
}
COLUMNS = 24

Alarm = dict[str, Any]


def values_of(name: str, tree: object) -> Iterator[Any]:
    """Yield everything that stands under a key, at any depth."""
    children = tree.values() if isinstance(tree, dict) else tree if isinstance(tree, list) else ()
    if isinstance(tree, dict) and name in tree:
        yield tree[name]
    for child in children:
        yield from values_of(name, child)


@pytest.mark.parametrize("widget", WIDGETS.values(), ids=lambda each: each["config"]["title"])
def test_widgets_exist_in_thingsboard(widget: dict[str, Any]) -> None:
    assert PUBLISHED_WIDGETS[widget["typeFullFqn"]] == widget["type"]
    assert WIDGETS[widget["id"]] is widget
    config = widget["config"]
    source = {"alarm": "alarmSource", "rpc": "targetDevice"}.get(widget["type"], "datasources")
    assert config[source]
    for other in {"alarmSource", "targetDevice", "datasources"} - {source}:
        assert other not in config


def test_what_is_referred_to_exists() -> None:
    aliases, states = DASHBOARD["entityAliases"], DASHBOARD["states"]
    assert set(values_of("entityAliasId", WIDGETS)) == aliases.keys()
    assert all(alias["id"] == name for name, alias in aliases.items())
    assert set(values_of("targetDashboardStateId", WIDGETS)) == states.keys() - {"default"}
    assert [name for name, state in states.items() if state["root"]] == ["default"]


def test_the_plugs_are_those_of_the_profile() -> None:
    (plugs, plug) = (alias["filter"] for alias in DASHBOARD["entityAliases"].values())
    assert (plugs["type"], plugs["resolveMultiple"]) == ("deviceType", True)
    assert plugs["deviceTypes"] == [PROFILE["name"]]
    assert (plug["type"], plug["resolveMultiple"]) == ("stateEntity", False)


@pytest.mark.parametrize("state", DASHBOARD["states"].values(), ids=DASHBOARD["states"])
def test_widgets_lie_beside_each_other(state: dict[str, Any]) -> None:
    layout = state["layouts"]["main"]
    assert layout["gridSettings"]["columns"] == COLUMNS
    cells = [
        (place["row"] + row, place["col"] + column)
        for place in layout["widgets"].values()
        for row, column in itertools.product(range(place["sizeY"]), range(place["sizeX"]))
    ]
    assert len(cells) == len(set(cells))
    assert max(column for _, column in cells) < COLUMNS


def test_each_widget_is_shown_once_for_what_its_page_knows() -> None:
    shown = {
        name: list(state["layouts"]["main"]["widgets"])
        for name, state in DASHBOARD["states"].items()
    }
    assert sorted(itertools.chain(*shown.values())) == sorted(WIDGETS)
    alias_of = {alias["alias"]: name for name, alias in DASHBOARD["entityAliases"].items()}
    for state, alias in (("default", "Plugs"), ("plug", "Plug")):
        for widget in shown[state]:
            assert set(values_of("entityAliasId", WIDGETS[widget])) == {alias_of[alias]}


def test_the_switch_shows_the_relay_and_sends_what_it_says() -> None:
    (switch,) = (each for each in WIDGETS.values() if each["type"] == "rpc")
    settings = switch["config"]["settings"]
    for name, key in (("initialState", "relay"), ("disabledState", "online")):
        assert settings[name]["action"] in GET_ACTIONS
        assert settings[name]["action"] == "GET_TIME_SERIES"
        assert settings[name]["getTimeSeries"] == {"key": key}
    for name, value in (("onUpdateState", "close"), ("offUpdateState", "open")):
        assert settings[name]["action"] in SET_ACTIONS
        assert settings[name]["action"] == "EXECUTE_RPC"
        assert settings[name]["valueToData"]["type"] == "CONSTANT"
        assert settings[name]["valueToData"]["constantValue"] == value
        # A persistent RPC would wait for a gateway that is away, and switch when nobody looks.
        assert settings[name]["executeRpc"]["requestPersistent"] is False


ALARMS: dict[str, Alarm] = {each["alarmType"]: each for each in PROFILE["profileData"]["alarms"]}


def holds(rule: dict[str, Any], value: float) -> bool:
    (condition,) = rule["condition"]["condition"]
    predicate = condition["predicate"]
    assert predicate["type"] == condition["valueType"]
    return OPERATIONS[predicate["operation"]](value, predicate["value"]["defaultValue"])


@pytest.mark.parametrize(
    ("name", "raising", "neither", "clearing"),
    [
        ("Plug offline", [0], [], [1]),
        ("Plug silent", [False], [], [True]),
        ("Plug hot", [60.1, 99], [60, 55.1], [55, 20, -5]),
        ("Power above limit", [2300.1, 3600], [], [2300, 0]),
    ],
)
def test_alarms_come_and_go(
    name: str, raising: list[float], neither: list[float], clearing: list[float]
) -> None:
    alarm = ALARMS[name]
    (create,) = alarm["createRules"].values()
    for value in (*raising, *neither, *clearing):
        assert holds(create, value) is (value in raising)
        assert holds(alarm["clearRule"], value) is (value in clearing)


def test_alarms_are_of_the_published_shape() -> None:
    assert ALARMS.keys() == {"Plug offline", "Plug silent", "Plug hot", "Power above limit"}
    assert len({alarm["id"] for alarm in ALARMS.values()}) == len(ALARMS)
    for alarm in ALARMS.values():
        assert alarm["createRules"].keys() <= SEVERITIES
        for rule in (*alarm["createRules"].values(), alarm["clearRule"]):
            (condition,) = rule["condition"]["condition"]
            assert condition["key"]["type"] in {"ATTRIBUTE", "TIME_SERIES"}
            assert condition["valueType"] in {"NUMERIC", "BOOLEAN"}
            spec = rule["condition"]["spec"]
            assert spec["type"] == "SIMPLE" or (spec["type"], spec["unit"]) == (
                "DURATION",
                "MINUTES",
            )
