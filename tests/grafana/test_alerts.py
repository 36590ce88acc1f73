"""Each alert rule, evaluated as Grafana does: of whom it tells, from when on, and of whom not."""

import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from demo.parts import InfluxDB1
from grafana.generate import FOLDER
from tests.grafana import evening, expand, household
from tests.grafana.alerting import THE_RULE, told
from tests.grafana.evening import at
from tests.grafana.expand import Query
from tests.grafana.filled import Household, filled
from tests.grafana.test_queries import check

PROVISIONING = json.loads((FOLDER / "provisioning" / "alerting" / "openenergy.json").read_text())
RULES = {rule["title"]: rule for group in PROVISIONING["groups"] for rule in group["rules"]}
NOTHING_ARRIVES = "Nothing arrives: database, broker or script is down"
SENSOR_SILENT = "LoRaWAN sensor is silent"
LAST = at(22, 10)
# Of whom each rule tells that evening, and of nobody else: seen first at the full minute after a
# reading, told of when the rule's `for` is over.
TOLD = {
    "Plug is silent": {
        "fridge": [(at(21, 10), LAST)],
        "heater": [(at(21, 10), LAST)],
        "kettle": [(at(21, 10), LAST)],
        "lamp": [(at(19, 10), at(19, 46)), (at(21, 10), LAST)],
    },
    "Plug draws much": {"heater": [(at(19, 6), at(19, 21))]},
    "Plug is hot": {"heater": [(at(19, 11), at(19, 26))]},
    SENSOR_SILENT: {},  # takes longer than an evening: see below
    "Battery is low": {"hall": [(at(19, 6), at(20, 1))]},
    "Battery is below 20 %": {"air": [(at(19, 6), at(20, 1))]},
    "CO2 is high": {"air": [(at(19, 11), at(19, 41))]},
    "A script is offline": {
        "button_server-pi": [(at(19, 6), LAST)],
        "plug_2_mqtt-pi": [(at(19, 6), at(20, 1))],
    },
    # From 22:00 on there is nothing in the hour that it looks back.
    NOTHING_ARRIVES: {THE_RULE: [(at(21, 5), LAST)]},
}


@pytest.fixture(scope="module")
def bad_evening(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Household]:
    folder = tmp_path_factory.mktemp("evening")
    with filled(folder, evening.plug_messages(), evening.sensor_messages()) as household:
        yield household


def query_of(title: str) -> Query:
    (query,) = (q for q in expand.alert_queries(PROVISIONING, household.NOW) if q.source == title)
    return query


@pytest.mark.parametrize("title", RULES)
def test_query_finds_each_series_once(home: Household, title: str) -> None:
    assert "$switch" not in query_of(title).raw
    check(home, query_of(title), "")


@pytest.mark.parametrize("title", RULES)
def test_rule_tells_of_whom_it_should_and_of_nobody_else(
    bad_evening: Household, title: str
) -> None:
    assert told(RULES[title], bad_evening.ask, at(18, 30), LAST) == TOLD[title]


def test_sensor_that_sends_once_a_day_is_not_silent(bad_evening: Household) -> None:
    begin, end = datetime(2026, 2, 1, 12, tzinfo=UTC), datetime(2026, 2, 2, 18, tzinfo=UTC)
    found = told(RULES[SENSOR_SILENT], bad_evening.ask, begin, end, timedelta(minutes=10))
    # Silent from 12:01 on the first, and back on the second half a minute after 15:00.
    since, until = datetime(2026, 2, 2, 13, tzinfo=UTC), datetime(2026, 2, 2, 15, 10, tzinfo=UTC)
    assert found == {"hourly": [(since, until)]}


@pytest.mark.parametrize("title", RULES)
def test_only_one_rule_tells_that_there_is_nothing(home: Household, title: str) -> None:
    home.influxdb.create_database("empty")
    ask = Household(home.influxdb, "empty").ask
    expected = {THE_RULE: [(at(19, 5), at(19, 30))]} if title == NOTHING_ARRIVES else {}
    assert told(RULES[title], ask, at(19), at(19, 30)) == expected


def test_only_one_rule_tells_that_the_database_is_down(tmp_path: Path) -> None:
    with InfluxDB1(tmp_path) as influxdb:
        influxdb.create_database("energy")
        stopped = Household(influxdb)
        assert stopped.ask("SHOW MEASUREMENTS") == []
    found = {title: told(rule, stopped.ask, at(19), at(19, 30)) for title, rule in RULES.items()}
    assert {title: each for title, each in found.items() if each} == {
        NOTHING_ARRIVES: {THE_RULE: [(at(19, 5), at(19, 30))]}
    }


@pytest.mark.parametrize("title", RULES)
def test_message_and_grouping_name_labels_of_the_series(home: Household, title: str) -> None:
    rule = RULES[title]
    labels = {tag for each in home.ask(query_of(title).expanded) for tag in each.tags}
    named = re.findall(r"\$labels\.(\w+)", rule["annotations"]["summary"])
    assert set(named) == labels
    values = re.findall(r"\$values\.(\w+)", rule["annotations"]["summary"])
    assert set(values) <= {data["refId"] for data in rule["data"]}
    assert set(rule["notification_settings"]["group_by"]) >= {"alertname", *labels}


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
