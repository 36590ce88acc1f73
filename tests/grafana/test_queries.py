"""Every query of every dashboard, as Grafana sends it, on a database that our writer filled."""

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from grafana.generate import FOLDER
from openenergy.topics import UNITS
from tests.grafana import expand, household
from tests.grafana.expand import Query, Value
from tests.grafana.filled import Household

DASHBOARDS = {path.stem: json.loads(path.read_text()) for path in (FOLDER / "dashboards").iterdir()}
# What Grafana has a variable stand for: all values, one, a list of one, several.
CHOICES: dict[str, dict[str, Value]] = {
    "all": household.ALL,
    "one": {"switch": "fridge", "sensor": "kitchen"},
    "list of one": {"switch": ["my.tv-1"], "sensor": ["water"]},
    "several": {"switch": ["fridge", "my.tv-1"], "sensor": ["air", "flash", "water"]},
}
# Where one choice has nothing to show.
WITHOUT = {
    "my.tv-1": {
        "Average power, as the plug counts it",
        "Temperature",
        "Meter of the plug, Wh by hour (firmware 4)",
        "Gaps",
        "Last month so far",
        "Last year so far",
        "Energy by day, 31 days before",
        "Last 30 days against those before",
        "Last 365 days against those before",
    },
    "kitchen": {"CO2", "Battery", "Battery level", "Battery low", "Meters by"},
    "water": {"Temperature", "Humidity", "CO2", "Battery", "Battery level"},
}


def chosen(choice: dict[str, Value], dashboard: dict[str, Any]) -> str:
    name = "sensor" if dashboard["uid"] == "openenergy-lorawan" else "switch"
    value = choice.get(name, "")
    return value if isinstance(value, str) else " ".join(value)


def is_empty_by_nature(query: Query, plug_or_sensor: str) -> bool:
    title = query.panel["title"].removesuffix(", ${currency}")
    names = WITHOUT.get(plug_or_sensor, set())
    if title in names or any(title.startswith(name) for name in names if name.endswith(" by")):
        return True
    if plug_or_sensor == "my.tv-1" and 'FROM "temperature"' in query.raw:
        return True
    if plug_or_sensor in {"fridge", "fridge my.tv-1"} and "/ Gaps / A" in query.source:
        return True
    return is_off(query)


def is_off(query: Query) -> bool:
    """Tell whether a query is for longer or for shorter ranges than this."""
    limits = re.findall(r"\$__interval_ms (<|>=) (\d+)", query.raw)
    return any((query.interval_ms < int(limit)) != (sign == "<") for sign, limit in limits)


def check(home: Household, query: Query, plug_or_sensor: str) -> None:
    assert not query.has_unexpanded(), query.expanded
    series = home.ask(query.expanded)
    names = Counter((each.name, tuple(sorted(each.tags.items()))) for each in series)
    assert max(names.values(), default=1) == 1, f"{query.source}: a series twice: {names}"
    devices = ("switch", "sensor", "gateway")
    assert all(each.tags[tag] for each in series for tag in devices if tag in each.tags), series
    rows = [row for each in series for row in each.rows()]
    if is_empty_by_nature(query, plug_or_sensor):
        assert not rows, f"{query.source}: rows that should not be there: {rows[:3]}"
    else:
        assert rows, f"{query.source}: nothing found by {query.expanded}"


@pytest.mark.parametrize("shown", ["", "now-30d"], ids=["range of the dashboard", "30 days"])
@pytest.mark.parametrize("choice", CHOICES)
@pytest.mark.parametrize("name", DASHBOARDS)
def test_query_finds_each_series_once(home: Household, name: str, choice: str, shown: str) -> None:
    values = CHOICES[choice]
    dashboard = DASHBOARDS[name]
    for query in expand.dashboard_queries(dashboard, household.NOW, values, shown):
        check(home, query, chosen(values, dashboard))


@pytest.mark.parametrize("name", DASHBOARDS)
def test_variables_offer_what_there_is(home: Household, name: str) -> None:
    for source, query in expand.variable_queries(DASHBOARDS[name]):
        (series,) = home.ask(query)
        found = [row["value"] for row in series.rows()]
        name = "sensor" if source.endswith("$sensor") else "switch"
        assert sorted(found) == household.ALL[name], source


@pytest.mark.parametrize("shown", ["now-7d", "now-1y"])
@pytest.mark.parametrize("name", DASHBOARDS)
def test_long_ranges_read_no_single_readings(name: str, shown: str) -> None:
    """A plug is read 31 million times a year: only its quarter hours, or its last point, will do.

    tests/bench/grafana_year.py measures how long it takes.
    """
    every_second = "|".join(quantity for quantity in UNITS if quantity != "online")
    for query in expand.dashboard_queries(DASHBOARDS[name], household.NOW, household.ALL, shown):
        days = (query.range.end - query.range.begin).total_seconds() / 86_400
        is_heavy = re.search(f'FROM "({every_second})"', query.raw) and days > 3
        is_last_point = query.raw.startswith("SELECT last(") and "time(" not in query.raw
        assert not is_heavy or is_last_point or name == "lorawan" or is_off(query), query.source


def test_an_integral_would_be_found_out(home: Household) -> None:
    """The check for series that come twice is worth something: influxdata/influxdb#9901."""
    text = 'SELECT integral("power") FROM "power" WHERE $timeFilter GROUP BY time(1d), "switch"'
    shown = expand.Range(*household.LAST_DAYS)
    expanded = expand.macros(text, shown, 60_000)
    with pytest.raises(AssertionError, match="a series twice"):
        check(home, Query("integral", text, expanded, shown, 60_000, {"title": ""}), "")


def test_names_are_those_that_are_written(home: Household) -> None:
    """Measurements, fields and tags in queries are those that our writer and decoders gave."""
    known = {row["name"] for each in home.ask("SHOW MEASUREMENTS") for row in each.rows()}
    known |= {row["fieldKey"] for each in home.ask("SHOW FIELD KEYS") for row in each.rows()}
    known |= {row["tagKey"] for each in home.ask("SHOW TAG KEYS") for row in each.rows()}
    queries = [
        query
        for dashboard in DASHBOARDS.values()
        for query in expand.dashboard_queries(dashboard, household.NOW, household.ALL)
    ]
    alerts = json.loads((FOLDER / "provisioning" / "alerting" / "openenergy.json").read_text())
    for query in [*queries, *expand.alert_queries(alerts, household.NOW)]:
        named = set(re.findall(r'"([^"]+)"', query.raw))
        invented = set(re.findall(r'AS "([^"]+)"', query.raw))
        assert named - invented <= known, query.source


def test_dashboards_are_a_folder_of_this_name() -> None:
    assert sorted(DASHBOARDS) == ["chain", "energy", "lorawan", "now", "plug"]
    assert Path(FOLDER).name == "grafana"
