"""What Grafana's own code makes of our panels: its oldest version and its newest, from npm."""

import json
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any

import pytest

from grafana.generate import FOLDER
from tests.grafana import expand, grafana_code, household
from tests.grafana.expand import Json, Range
from tests.grafana.filled import Household
from tests.grafana.grafana_code import VERSIONS, Column

pytestmark = grafana_code.needs_node
DASHBOARDS = {path.stem: json.loads(path.read_text()) for path in (FOLDER / "dashboards").iterdir()}
# Clock changes, ends of months, before and after each billing day.
TIMES = (
    household.NOW,
    household.local(2026, 3, 9, 8),
    household.local(2025, 10, 27),
    household.local(2028, 2, 29, 23, 59),
    household.local(2026, 1, 1, 0, 30),
)


def panel_of(name: str, title: str) -> Json:
    (panel,) = (each for each in DASHBOARDS[name]["panels"] if each["title"] == title)
    found: Json = panel
    return found


def columns_of(
    home: Household,
    name: str,
    title: str,
    *,
    panel: Json | None = None,
    now: datetime = household.NOW,
    **values: expand.Value,
) -> dict[str, list[Column]]:
    """Return the columns that each version makes of a panel, or of a variant of it."""
    shown = panel or panel_of(name, title)
    dashboard = DASHBOARDS[name] | {"panels": [shown]}
    queries = expand.dashboard_queries(dashboard, now, {**household.ALL, **values})
    frames = [
        frame
        for target, query in zip(shown["targets"], queries, strict=True)
        for frame in grafana_code.frames(target, home.ask(query.expanded))
    ]
    return grafana_code.columns(shown, frames)


def shown_columns(panel: Json, columns: list[Column]) -> dict[str, list[Any]]:
    """Return what a table shows, by the columns' titles."""
    shown = {}
    for column in columns:
        settings = {
            item["id"]: item["value"]
            for each in panel["fieldConfig"]["overrides"]
            if each["matcher"]["options"] in column.overrides
            for item in each["properties"]
        }
        if not settings.get("custom.hidden"):
            shown[settings.get("displayName", column.name)] = column.values
    return shown


def panels_with_a_range_of_their_own() -> Iterator[tuple[Json, str]]:
    for dashboard in DASHBOARDS.values():
        for panel in dashboard["panels"]:
            if panel.keys() & {"timeFrom", "timeShift"}:
                yield panel, dashboard["time"]["from"]


def test_ranges_of_panels_are_those_that_we_ask_for() -> None:
    asked, expected = [], []
    for now in TIMES:
        for panel, shown in panels_with_a_range_of_their_own():
            for day in range(28):
                values = {"billing_day": str(day)}
                own = {
                    key: expand.interpolate(panel.get(key, ""), values)
                    for key in ("timeFrom", "timeShift")
                }
                asked.append({"now": expand.milliseconds(now), "shown": shown, **own})
                whole = Range(expand.time_math(shown, now), now)
                ends = expand.panel_range(panel, whole, now, values)
                expected.append([expand.milliseconds(end) for end in ends])
    assert grafana_code.ranges(asked) == dict.fromkeys(VERSIONS, expected)


def test_a_range_that_is_not_understood_would_be_found_out() -> None:
    """Up to Grafana 12 digits beyond the tenth character are none."""
    now = expand.milliseconds(household.NOW)
    found = grafana_code.ranges([{"now": now, "shown": "now", "timeFrom": "now-13d/M-11M+13d"}])
    assert found[grafana_code.OLDEST] == [None]


def test_units_are_some_that_it_knows() -> None:
    used = set()
    for dashboard in DASHBOARDS.values():
        for panel in dashboard["panels"]:
            overrides = panel["fieldConfig"]["overrides"]
            used.add(panel["fieldConfig"]["defaults"].get("unit", "none"))
            used |= {p["value"] for o in overrides for p in o["properties"] if p["id"] == "unit"}
    for known in grafana_code.units().values():
        assert {unit for unit in used if not unit.startswith("suffix:")} <= known


TABLES = [
    (name, panel["title"])
    for name, dashboard in DASHBOARDS.items()
    for panel in dashboard["panels"]
    if panel["type"] == "table"
]


@pytest.mark.parametrize(("name", "title"), TABLES)
def test_each_override_has_a_column(home: Household, name: str, title: str) -> None:
    named = {
        each["matcher"]["options"] for each in panel_of(name, title)["fieldConfig"]["overrides"]
    }
    for columns in columns_of(home, name, title).values():
        assert {override for column in columns for override in column.overrides} == named


def plugs_shown(home: Household, now: datetime) -> Iterator[dict[str, list[Any]]]:
    for columns in columns_of(home, "now", "Plugs", now=now).values():
        yield shown_columns(panel_of("now", "Plugs"), columns)


@pytest.mark.parametrize("later", [timedelta(0), timedelta(hours=40)])
def test_table_of_plugs(home: Household, later: timedelta) -> None:
    """As it is now, and when all have been silent since."""
    last = expand.milliseconds(household.NOW) - 30_000
    for shown in plugs_shown(home, household.NOW + later):
        assert {title: values[0] for title, values in shown.items()} == {
            "Plug": "fridge",
            "Power": 60,
            "Last reading": last,
            "Relay": 1,
            "Temperature": pytest.approx(21.5),
            "Answers": 1,
            "Switch": 1,
        }
        assert shown["Plug"] == ["fridge", "my.tv-1", "lamp"]
        assert shown["Power"] == [60, 120, None]


def test_plugs_that_have_been_silent_for_days_are_still_listed(home: Household) -> None:
    for shown in plugs_shown(home, household.NOW + timedelta(days=3)):
        assert shown.keys() == {"Plug", "Answers", "Switch"}
        assert {"fridge", "lamp", "my.tv-1"} == set(shown["Plug"])


def test_ranking_begins_with_the_most(home: Household) -> None:
    title = "Ranking: energy in the time shown"
    panel = panel_of("energy", title)
    *ordered, rows_to_fields = panel["transformations"]
    # The last step, which makes a bar of each row, is not published on npm.
    assert rows_to_fields["id"] == "rowsToFields"
    mappings = {each["fieldName"] for each in rows_to_fields["options"]["mappings"]}
    ranking = {**panel, "transformations": ordered}
    for columns in columns_of(home, "energy", title, panel=ranking).values():
        found = {column.name: column.values for column in columns}
        assert found.keys() == mappings
        assert found["Field"] == ["my.tv-1", "fridge"]
        assert found["Last *"] == sorted(found["Last *"], reverse=True)


def test_gaps_of_both_queries_are_one_table(home: Household) -> None:
    for columns in columns_of(home, "chain", "Gaps").values():
        (lamp,) = zip(*(column.values for column in columns), strict=True)
        assert {"lamp", 31 * 60} < set(lamp)
