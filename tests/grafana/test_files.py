"""The committed files: what the generator writes, in the form that Grafana publishes."""

import enum
import json
import re
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models import alerting
from grafana_foundation_sdk.models.dashboard import Dashboard

from grafana import generate
from grafana.generate import FOLDER
from grafana.source.panels import DATA_SOURCE_UID
from openenergy import topics

Json = dict[str, Any]
MODELS = "grafana_foundation_sdk.models"
PROVISIONING = FOLDER / "provisioning"
DASHBOARDS = generate.dashboards()
# Grafana's types (11.6 is the newest on PyPI) leave these out.
UNKNOWN_TO_THE_TYPES = (
    r"panels\[\d+\]\.targets\[\d+\]\..*",  # InfluxDB's query has no published type
    r"panels\[\d+\]\.options\.root\.(constraint|placement|background)",  # of canvas elements
)

register_default_plugins()


@pytest.fixture(params=DASHBOARDS)
def dashboard(request: pytest.FixtureRequest) -> Json:
    content: Json = json.loads((FOLDER / "dashboards" / f"{request.param}.json").read_text())
    return content


@pytest.mark.parametrize("path", generate.files(), ids=lambda path: path.name)
def test_file_is_what_the_generator_writes(path: Path) -> None:
    assert path.read_text() == generate.files()[path], "run: python -m grafana.generate"


def missing(given: Any, known: Any, path: str = "") -> Iterator[str]:
    """Yield the paths of what Grafana's types have dropped or changed."""
    if isinstance(given, dict) and isinstance(known, dict):
        for key, value in given.items():
            below = f"{path}.{key}".lstrip(".")
            if key not in known:
                yield below
            else:
                yield from missing(value, known[key], below)
    elif isinstance(given, list) and isinstance(known, list) and len(given) == len(known):
        for index, (one, other) in enumerate(zip(given, known, strict=True)):
            yield from missing(one, other, f"{path}[{index}]")
    elif given != known:
        yield path


def not_in_enumeration(model: object, path: str = "") -> Iterator[str]:
    """Yield the paths of values that are no members of their enumeration in Grafana's types."""
    if isinstance(model, list):
        for index, each in enumerate(model):
            yield from not_in_enumeration(each, f"{path}[{index}]")
    elif isinstance(model, dict):
        for key, each in model.items():
            yield from not_in_enumeration(each, f"{path}.{key}")
    elif type(model).__module__.startswith(MODELS) and not isinstance(model, enum.Enum):
        hints = typing.get_type_hints(type(model))
        for name, value in vars(model).items():
            below = f"{path}.{name}".lstrip(".")
            hint = hints[name]
            enumerations = [each for each in (hint, *typing.get_args(hint)) if is_enum(each)]
            literals = [each for each in (hint, *typing.get_args(hint)) if is_literal(each)]
            members = [member.value for each in enumerations for member in each]
            members += [value for each in literals for value in typing.get_args(each)]
            if members and value is not None and value not in members:
                yield f"{below}: {value!r} is none of {members}"
            yield from not_in_enumeration(value, below)


def is_enum(hint: Any) -> bool:
    return isinstance(hint, type) and issubclass(hint, enum.Enum)


def is_literal(hint: Any) -> bool:
    return typing.get_origin(hint) is typing.Literal


def mistakes(dashboard: Json) -> list[str]:
    """Return what Grafana's published types object to."""
    model = Dashboard.from_json(dashboard)
    known = json.loads(json.dumps(model, cls=JSONEncoder))
    unknown = [
        path
        for path in missing(dashboard, known)
        if not any(re.fullmatch(each, path) for each in UNKNOWN_TO_THE_TYPES)
    ]
    return unknown + list(not_in_enumeration(model))


def test_dashboard_has_the_form_that_grafana_publishes(dashboard: Json) -> None:
    assert mistakes(dashboard) == []


@pytest.mark.parametrize(
    ("good", "bad"),
    [
        ('"unit"', '"unti"'),
        ('"colorMode"', '"clorMode"'),
        ('"multi"', '"mulit"'),
        ('"gridPos"', '"gridpos"'),
        ('"custom"', '"costum"'),
        ('"colorMode": "value"', '"colorMode": "valeu"'),
        ('"graphMode": "none"', '"graphMode": "nothing"'),
        ('"drawStyle": "line"', '"drawStyle": "lines"'),
    ],
)
def test_mistake_would_be_found(good: str, bad: str) -> None:
    text = json.dumps(DASHBOARDS["now"])
    assert good in text
    assert mistakes(json.loads(text.replace(good, bad))) != []


def test_dashboard_can_be_imported_and_provisioned(dashboard: Json) -> None:
    assert re.fullmatch(r"[a-z-]{1,40}", dashboard["uid"])
    assert "id" not in dashboard, "of the server it was exported from"
    numbers = [panel["id"] for panel in dashboard["panels"]]
    assert len(set(numbers)) == len(numbers)


def test_panels_do_not_overlap(dashboard: Json) -> None:
    cells: set[tuple[int, int]] = set()
    for panel in dashboard["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        own = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & own, panel["title"]
        cells |= own


def test_references_of_targets_are_unique(dashboard: Json) -> None:
    for panel in dashboard["panels"]:
        references = [target["refId"] for target in panel["targets"]]
        assert len(set(references)) == len(references), panel["title"]


def buttons(dashboard: Json) -> list[Json]:
    return [
        element["config"]["api"]
        for panel in dashboard["panels"]
        if panel["type"] == "canvas"
        for element in panel["options"]["root"]["elements"]
        if element["type"] == "button"
    ]


def test_each_named_plug_has_two_buttons() -> None:
    calls = buttons(generate.dashboards(["fridge", "my.tv-1"])["now"])
    expected = [
        (f"${{button_url}}/plugs/{plug}/relay", topics.Action(value))
        for plug in ("fridge", "my.tv-1")
        for value in ("close", "open")
    ]
    assert [(c["endpoint"], json.loads(c["data"])["value"]) for c in calls] == expected
    assert {(c["method"], c["contentType"]) for c in calls} == {("POST", "application/json")}


def test_buttons_have_a_look_that_grafana_knows() -> None:
    """Of public/app/features/canvas/elements/button.tsx: the published types leave it out."""
    for panel in DASHBOARDS["now"]["panels"]:
        for element in panel["options"].get("root", {}).get("elements", []):
            if element["type"] == "button":
                variant = element["config"]["style"]["variant"]
                assert variant in {"primary", "secondary", "success", "destructive"}


def test_table_has_two_buttons_in_each_row() -> None:
    (table,) = (panel for panel in DASHBOARDS["now"]["panels"] if panel["type"] == "table")
    properties = [each for item in table["fieldConfig"]["overrides"] for each in item["properties"]]
    (actions,) = (each["value"] for each in properties if each["id"] == "actions")
    calls = [action["fetch"] for action in actions]
    assert [json.loads(call["body"])["value"] for call in calls] == ["close", "open"]
    assert {call["url"] for call in calls} == {"${button_url}/plugs/${__data.fields.switch}/relay"}
    assert all(["Content-Type", "application/json"] in call["headers"] for call in calls)


def test_without_names_the_buttons_are_for_the_chosen_plug() -> None:
    endpoints = {call["endpoint"] for call in buttons(DASHBOARDS["now"])}
    assert endpoints == {"${button_url}/plugs/${plug}/relay"}
    variables = {each["name"]: each for each in DASHBOARDS["now"]["templating"]["list"]}
    # A list would become "{a,b}" in the address.
    assert not variables["plug"]["multi"]
    assert variables["button_url"]["query"] == "/buttons"


def test_data_sources_are_found_by_dashboards_and_alerts() -> None:
    files = sorted((PROVISIONING / "datasources").iterdir())
    assert [path.stem for path in files] == ["influxdb1", "influxdb2", "influxdb3"]
    for path in files:
        (source,) = yaml.safe_load(path.read_text())["datasources"]
        assert (source["uid"], source["type"]) == (DATA_SOURCE_UID, "influxdb")
        assert source["jsonData"]["version"] == "InfluxQL"
        secrets = " ".join(source["secureJsonData"].values())
        assert re.fullmatch(r"(Token |Bearer )?\$INFLUXDB_(PASSWORD|TOKEN)", secrets)


def test_provider_of_dashboards() -> None:
    content = yaml.safe_load((PROVISIONING / "dashboards" / "openenergy.yaml").read_text())
    (provider,) = content["providers"]
    assert provider["type"] == "file"
    assert provider["options"]["path"] == "/var/lib/grafana/dashboards/openenergy"


def test_alert_rules_have_the_form_that_grafana_publishes() -> None:
    content = json.loads((PROVISIONING / "alerting" / "openenergy.json").read_text())
    for group in content["groups"]:
        for rule in group["rules"]:
            model = alerting.Rule.from_json(rule)
            known = json.loads(json.dumps(model, cls=JSONEncoder))
            # Models of queries are the data sources' own.
            paths = [p for p in missing(rule, known) if ".model." not in p]
            assert paths == []
            assert list(not_in_enumeration(model)) == []
    for point in content["contactPoints"]:
        for receiver in point["receivers"]:
            contact = alerting.ContactPoint.from_json(receiver)
            assert list(missing(receiver, json.loads(json.dumps(contact, cls=JSONEncoder)))) == []
