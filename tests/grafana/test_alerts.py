"""Alert rules: their queries, and which plugs and sensors they would tell of."""

import json
from datetime import datetime, timedelta
from typing import Any

import pytest

from grafana.generate import FOLDER
from tests.grafana import expand, household
from tests.grafana.expand import Query
from tests.grafana.filled import Household
from tests.grafana.test_queries import check

PROVISIONING = json.loads((FOLDER / "provisioning" / "alerting" / "openenergy.json").read_text())
RULES = {rule["title"]: rule for group in PROVISIONING["groups"] for rule in group["rules"]}


def query_of(title: str, now: datetime = household.NOW) -> Query:
    (query,) = (q for q in expand.alert_queries(PROVISIONING, now) if q.source == title)
    return query


def fires(home: Household, title: str, now: datetime = household.NOW) -> list[str]:
    """Return for whom the rule's condition is met: last value of each series against the limit."""
    rule = RULES[title]
    _, reduce, threshold = (data["model"] for data in rule["data"])
    assert (reduce["reducer"], reduce["settings"]) == ("last", {"mode": "dropNN"})
    evaluator = threshold["conditions"][0]["evaluator"]
    series = home.ask(query_of(title, now).expanded)
    if not series:
        return ["no data"] if rule["noDataState"] == "Alerting" else []
    passes = {"gt": float.__gt__, "lt": float.__lt__}[evaluator["type"]]
    limit = float(evaluator["params"][0])
    last = {"".join(each.tags.values()): each.rows()[-1] for each in series}
    return sorted(
        who
        for who, row in last.items()
        if passes(float(next(value for key, value in row.items() if key != "time")), limit)
    )


@pytest.mark.parametrize("title", RULES)
def test_query_finds_each_series_once(home: Household, title: str) -> None:
    assert "$switch" not in query_of(title).raw
    check(home, query_of(title), "")


QUIET = {
    "Battery is low": ["water"],
    "Battery is below 20 %": ["air"],
}


@pytest.mark.parametrize("title", RULES)
def test_alerts_of_an_ordinary_noon(home: Household, title: str) -> None:
    assert fires(home, title) == QUIET.get(title, [])


def test_plug_that_falls_silent(home: Household) -> None:
    during = household.local(2026, 3, 30, 9, 25)
    assert fires(home, "Plug is silent", during) == ["lamp"]


@pytest.mark.parametrize("title", ["Plug draws much", "Plug is hot"])
def test_plug_that_burns(home: Household, title: str) -> None:
    assert fires(home, title, household.FIRE[1]) == ["heater"]


def test_bad_air(home: Household) -> None:
    assert fires(home, "CO2 is high", household.FIRE[1]) == ["air"]


def test_nothing_arrives(home: Household) -> None:
    title = "Nothing arrives: database, broker or script is down"
    assert fires(home, title, household.LAST_DAYS[0] - timedelta(hours=3)) == ["no data"]
    assert RULES[title]["execErrState"] == "Alerting"


def test_sensor_that_falls_silent(home: Household) -> None:
    now = household.NOW + timedelta(days=2)
    assert fires(home, "LoRaWAN sensor is silent", now) == ["air", "kitchen", "water"]


def test_script_that_goes_offline(home: Household) -> None:
    assert fires(home, "A script is offline", household.FIRE[1]) == ["plug_2_mqtt-pi"]


def test_states_and_references_are_some_that_grafana_knows() -> None:
    """One unknown word makes Grafana refuse the whole file (pkg/services/ngalert/models)."""
    receivers = {each["name"] for each in PROVISIONING["contactPoints"]}
    uids: list[Any] = [rule["uid"] for rule in RULES.values()]
    assert len(set(uids)) == len(uids)
    for rule in RULES.values():
        assert rule["noDataState"] in {"OK", "Alerting", "NoData", "KeepLast"}
        assert rule["execErrState"] in {"OK", "Alerting", "Error", "KeepLast"}
        assert rule["notification_settings"]["receiver"] in receivers
        assert rule["condition"] in {data["refId"] for data in rule["data"]}
        assert len(rule["uid"]) <= 40
