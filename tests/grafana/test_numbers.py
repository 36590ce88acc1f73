"""kWh, money, standby and hours as the panels get them, against sums made by hand.

The household (household.py) in Wh: the fridge uses 60 an hour, the TV 61 (half an hour at 120 W,
half at 2 W). The 28th has an outage of the fridge's readings of two hours, the 29th has 23 hours,
and 26 October has 25. On the 30th it is 12:08: the fridge has 12 x 60 + 8 = 728, the TV
12 x 61 + 8 x 2 = 748.
"""

import json
import re
import subprocess
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import requests

from demo.parts import REPOSITORY, write_config
from demo.process import free_port, wait_until
from grafana import aggregate
from grafana.generate import FOLDER
from grafana.source import queries
from openenergy import config
from tests.grafana import expand, grafana_code, household
from tests.grafana.expand import Query, Value
from tests.grafana.filled import DATABASE, Household

FRIDGE = {25: 1440, 26: 1500, 27: 1440, 28: 22 * 60, 29: 23 * 60, 30: 728}
TV = {25: 24 * 61, 26: 25 * 61, 27: 24 * 61, 28: 24 * 61, 29: 23 * 61, 30: 748}
DAYS = {day: FRIDGE[day] + TV[day] for day in FRIDGE}
OTHER_HOUR = 60  # of 10 February and of 10 March the year before
PRICE = 0.25


def query_of(
    name: str,
    title: str,
    *,
    ref: str = "A",
    now: datetime = household.NOW,
    shown: str = "",
    **values: Value,
) -> Query:
    """Return a query of a panel, for all plugs unless `values` say otherwise."""
    dashboard = json.loads((FOLDER / "dashboards" / f"{name}.json").read_text())
    all_values: dict[str, Value] = {**household.ALL, "price": str(PRICE), **values}
    found = expand.dashboard_queries(dashboard, now, all_values, shown)
    (query,) = (each for each in found if each.source.endswith(f"/ {title} / {ref}"))
    return query


PERIODS = [
    ("Today", DAYS[30]),
    ("Yesterday", DAYS[29]),
    # 11 hours (one is missing this day) and the quarter of an hour that holds 12:08.
    ("Yesterday so far", 11 * 121 + 15 + 30),
    ("This month", DAYS[27] + DAYS[28] + DAYS[29] + DAYS[30]),
    ("Last month so far", OTHER_HOUR),
    ("This year", OTHER_HOUR + DAYS[27] + DAYS[28] + DAYS[29] + DAYS[30]),
    ("Last year so far", OTHER_HOUR),
    ("In the time shown", DAYS[27] + DAYS[28] + DAYS[29] + DAYS[30]),
]


@pytest.mark.parametrize(("title", "watt_hours"), PERIODS)
def test_energy_and_cost_of_a_period(home: Household, title: str, watt_hours: float) -> None:
    energy = home.numbers(query_of("energy", title).expanded)
    cost = home.numbers(query_of("energy", f"{title}, ${{currency}}").expanded)
    assert energy == [pytest.approx(watt_hours / 1000)]
    assert cost == [pytest.approx(watt_hours / 1000 * PRICE)]


@pytest.mark.parametrize(
    ("billing_day", "watt_hours"),
    [
        (1, DAYS[27] + DAYS[28] + DAYS[29] + DAYS[30]),
        (28, DAYS[28] + DAYS[29] + DAYS[30]),
        (11, DAYS[27] + DAYS[28] + DAYS[29] + DAYS[30]),
    ],
)
def test_month_begins_on_the_billing_day(
    home: Household, billing_day: int, watt_hours: float
) -> None:
    query = query_of("energy", "This month", billing_day=str(billing_day - 1))
    assert query.range.begin == household.local(2026, 3, billing_day)
    assert home.numbers(query.expanded) == [pytest.approx(watt_hours / 1000)]


def test_month_of_the_bill_before_its_day_begins_in_the_month_before() -> None:
    now = household.local(2026, 3, 9, 8)
    query = query_of("energy", "This month", now=now, billing_day="14")
    assert query.range.begin == household.local(2026, 2, 15)


# Of the quarter hours that began after 12:08 on the 28th, and then on the 29th. By the clock in
# UTC, 12:08 of summer is 11:08 of winter: the outage takes the first 45 minutes. The last quarter
# lacks 7 minutes so far.
DAY_BEFORE = 24 * 61 + 24 * 60 - 45
LAST_DAY = 24 * 61 - 7 * 2 + 24 * 60 - 7
LAST_MONTH = DAYS[27] + DAYS[28] + DAYS[29] + DAYS[30]
LAST_YEAR = DAYS[25] + DAYS[26] + OTHER_HOUR + LAST_MONTH


@pytest.mark.parametrize(
    ("span", "before", "after"),
    [
        ("24 hours", DAY_BEFORE, LAST_DAY),
        ("30 days", OTHER_HOUR, LAST_MONTH),
        ("365 days", OTHER_HOUR, LAST_YEAR),
    ],
)
def test_change_against_the_span_before(
    home: Household, span: str, before: float, after: float
) -> None:
    query = query_of("energy", f"Last {span} against those before")
    assert home.numbers(query.expanded) == [pytest.approx(after / before - 1)]


def test_change_against_nothing_is_nothing(home: Household) -> None:
    query = query_of("energy", "Last 30 days against those before", switch="my.tv-1")
    assert home.numbers(query.expanded) == []


@grafana_code.needs_node
@pytest.mark.parametrize(
    ("billing_day", "months"),
    [
        (
            1,
            {
                "2025-03": OTHER_HOUR,
                "2025-10": DAYS[25] + DAYS[26],
                "2026-02": OTHER_HOUR,
                "2026-03": LAST_MONTH,
            },
        ),
        (
            26,  # between the days of 24 and 25 hours
            {
                "2025-09": DAYS[25],
                "2025-10": DAYS[26],
                "2026-01": OTHER_HOUR,
                "2026-03": LAST_MONTH,
            },
        ),
        (
            28,
            {
                "2025-09": DAYS[25] + DAYS[26],
                "2026-01": OTHER_HOUR,
                "2026-02": DAYS[27],
                "2026-03": DAYS[28] + DAYS[29] + DAYS[30],
            },
        ),
    ],
)
def test_months_of_the_bill(home: Household, billing_day: int, months: dict[str, float]) -> None:
    for title, price in (("Energy by month", 1.0), ("Cost by month, ${currency}", PRICE)):
        query = query_of("energy", title, billing_day=str(billing_day - 1))
        assert query.range.begin == household.local(2025, 3, billing_day)
        (target,) = query.panel["targets"]
        frames = grafana_code.frames(target, home.ask(query.expanded))
        expected = [pytest.approx(watt_hours / 1000 * price) for watt_hours in months.values()]
        for names, values in grafana_code.columns(query.panel, frames).values():
            assert (names.values, values.values) == (list(months), expected)


def test_energy_of_one_plug(home: Household) -> None:
    query = query_of("energy", "Yesterday", switch="my.tv-1")
    assert home.numbers(query.expanded) == [pytest.approx(TV[29] / 1000)]


def daily(home: Household, query: Query) -> dict[str, list[tuple[datetime, Any]]]:
    return {
        each.tags["switch"]: [
            (datetime.fromtimestamp(time / 1000, household.ZONE), pytest.approx(value))
            for time, value in each.values
        ]
        for each in home.ask(query.expanded)
    }


def test_day_of_23_hours_and_day_with_an_outage(home: Household) -> None:
    days = [27, 28, 29, 30]
    expected = {
        name: [(household.local(2026, 3, day), each[day] / 1000) for day in days]
        for name, each in (("fridge", FRIDGE), ("my.tv-1", TV))
    }
    query = query_of("energy", "Energy by day")
    found = daily(home, query)
    assert {name: found[name] for name in expected} == expected


def test_day_of_25_hours(home: Household) -> None:
    now = household.local(2025, 10, 27)
    found = daily(home, query_of("energy", "Energy by day", now=now, shown="now-2d"))
    expected = {
        name: [(household.local(2025, 10, day), each[day] / 1000) for day in (25, 26)]
        for name, each in (("fridge", FRIDGE), ("my.tv-1", TV))
    }
    assert found == expected


def test_cost_by_day(home: Household) -> None:
    found = daily(home, query_of("energy", "Cost by day, ${currency}", shown="now-3d/d"))
    assert [value for _, value in found["fridge"]] == [
        pytest.approx(FRIDGE[day] / 1000 * PRICE) for day in (27, 28, 29, 30)
    ]


def test_standby_is_what_is_drawn_at_least(home: Household) -> None:
    watts = {
        each.tags["switch"]: each.values[0][-1]
        for each in home.ask(query_of("energy", "Standby power").expanded)
    }
    assert watts == {"fridge": 60, "my.tv-1": 2}
    assert home.numbers(query_of("energy", "Standby of all").expanded) == [62]
    cost = home.numbers(query_of("energy", "Standby in a year, ${currency}").expanded)
    assert cost == [pytest.approx(62 * 24 * 365.25 / 1000 * PRICE)]


def test_power_now(home: Household) -> None:
    assert home.numbers(query_of("now", "Total power").expanded) == [60 + 120]


def test_hours_on(home: Household) -> None:
    found = daily(home, query_of("plug", "Hours on, by day"))
    assert [value for _, value in found["my.tv-1"]] == [12, 12, 11.5, pytest.approx(6 + 8 / 60)]
    assert [value for _, value in found["fridge"]] == [24, 22, 23, pytest.approx(12 + 8 / 60)]


def test_long_range_shows_the_mean_of_what_was_measured(home: Household) -> None:
    """The fridge draws 60 W whenever it is measured: an outage must not lower its mean."""
    query = query_of("plug", "Power", ref="B", shown="now-6d/d", switch="fridge")
    assert set(home.numbers(query.expanded)) == {60}


def test_minutes_with_a_reading_are_all_but_the_outage(home: Household) -> None:
    title = "Minutes with a reading of the power"
    series = home.ask(query_of("chain", title, shown="now-3d/d").expanded)
    (fridge,) = (each for each in series if each.tags["switch"] == "fridge")
    measured = [value for _, value in fridge.values]
    # From the 27th, 0:00: the outage is in the hours 34 and 35, and the last has 8 minutes.
    hours = [60] * 34 + [0, 0] + [60] * (12 + 23 + 12) + [8]
    assert measured == [pytest.approx(minutes / 60 * 100) for minutes in hours]


def test_gap_is_listed_with_its_length(home: Household) -> None:
    (series,) = home.ask(query_of("chain", "Gaps").expanded)
    end = household.local(2026, 3, 30, 9, 30).timestamp() * 1000 + 30_000
    assert (series.tags["switch"], series.values) == ("lamp", [[end, 31 * 60]])


def test_long_range_lists_the_outage(home: Household) -> None:
    query = query_of("chain", "Gaps", ref="B", shown="now-3d/d")
    (series,) = home.ask(query.expanded)
    end = household.OUTAGE[1].timestamp() * 1000
    assert (series.tags["switch"], series.values) == ("fridge", [[end, 2 * 3600]])


def test_meter_by_hour_equals_the_power(home: Household) -> None:
    title = "Meter of the plug, Wh by hour (firmware 4)"
    (series,) = home.ask(query_of("plug", title, switch="fridge", shown="now-1d/d").expanded)
    assert {value for _, value in series.values[1:-1]} == {60}


def test_counter_that_starts_again_loses_one_step(home: Household) -> None:
    query = query_of("lorawan", "Meters by hour, ${pulse_unit}", sensor="water", shown="now-1d/d")
    (series,) = home.ask(query.expanded)
    by_hour = {datetime.fromtimestamp(time / 1000, household.ZONE): n for time, n in series.values}
    assert by_hour.pop(household.METER_RESET) == 10
    # The first step has no sample before it, the last hour is not over.
    assert set(list(by_hour.values())[1:-1]) == {12}


def test_value_of_a_pulse_and_days_of_a_meter(home: Household) -> None:
    title = "Meters by day, ${pulse_unit}"
    query = query_of("lorawan", title, shown="now-1d/d", sensor="water", pulse_value="0.5")
    (series,) = home.ask(query.expanded)
    # 23 hours of six samples: less the first, which has none before, and the one of the reset.
    assert series.values[0][1] == (23 * 6 - 2) * 2 * 0.5


def text_of(name: str) -> str:
    return (FOLDER / "aggregation" / f"influxdb1_{name}.iql").read_text()


def statements(name: str) -> list[str]:
    return [line.removesuffix(";") for line in text_of(name).splitlines()]


def test_continuous_queries_follow_what_is_written(home: Household) -> None:
    """As they are, but every second and for a database of their own: 13 minutes at 120 W."""
    running = Household(home.influxdb, "running")
    home.influxdb.create_database("running")
    minute = int(datetime.now(household.ZONE).timestamp()) // 60
    body = "\n".join(
        f"power,switch=fridge power=120.0 {time}\nrelay,switch=fridge relay=1.0 {time}\n"
        f"temperature,sensor=kitchen temperature=20.0 {time}"
        for time in range(minute - 12, minute + 1)
    )
    url = f"{home.influxdb.url}/write?db=running&precision=m"
    requests.post(url, body, timeout=10).raise_for_status()
    # All at once, as the influx client sends what it reads from a file.
    text = text_of("continuous_queries").replace('ON "energy"', 'ON "running"')
    home.influxdb.query(text.replace("EVERY 5m", "EVERY 1s"))
    expected = {"sum": pytest.approx(26.0), "sum_1": 13, "sum_2": pytest.approx(13 / 60)}
    query = 'SELECT sum("consumption"), sum("minutes"), sum("on_hours") FROM "quarter_hour"'

    def rows() -> list[dict[str, Any]]:
        found = [row for each in running.ask(query) for row in each.rows()]
        return [{key: row[key] for key in row if key != "time"} for row in found]

    wait_until(lambda: rows() == [expected], 30, "quarter hours of continuous queries")
    devices = running.ask('SHOW TAG VALUES FROM "quarter_hour" WITH KEY = "switch"')
    assert [row["value"] for each in devices for row in each.rows()] == ["fridge"]
    assert not running.ask('SELECT "temperature" FROM "quarter_hour"')
    home.influxdb.query('DROP DATABASE "running"')  # and its continuous queries


def test_backfill_makes_the_same_as_the_continuous_queries(home: Household) -> None:
    """Each is the other's statement, with a range of time or without."""
    continuous = [
        statement.split(" BEGIN ")[1].removesuffix(" END")
        for statement in statements("continuous_queries")
    ]
    past = re.compile(r" (WHERE|AND) time >= '[0-9-]+' AND time < now\(\)( AND)?")
    backfill = [past.sub(lambda m: " WHERE" if m[2] else "", s) for s in statements("backfill")]
    assert continuous[::2] == continuous[1::2] == backfill
    before = quarter_hours(home)
    home.influxdb.query(text_of("backfill"), DATABASE)
    assert quarter_hours(home) == before


def quarter_hours(home: Household) -> list[tuple[Any, ...]]:
    """Return all quarter hours of the last days, whose clock change they include."""
    query = f"""SELECT * FROM "{queries.QUARTER_HOUR}" WHERE time >= '2026-03-27'"""  # noqa: S608
    return [tuple(row) for each in home.ask(query) for row in each.values]


def test_aggregation_without_continuous_queries_makes_the_same(
    home: Household, tmp_path: Path
) -> None:
    """For databases that have none: asked at /query, written as our writer does."""
    before = quarter_hours(home)
    tables = {"InfluxDB": {"url": home.influxdb.url, "database": "again"}}
    path = write_config(tmp_path / "credentials.toml", tables)
    home.influxdb.create_database("again")
    for source in ("power", "relay", "average_power", "temperature"):
        copy = f'SELECT * INTO "again".."{source}" FROM "{source}" GROUP BY *'  # noqa: S608
        home.influxdb.query(copy, DATABASE)
    begin, end = (int(time.timestamp()) for time in household.LAST_DAYS)
    settings = config.load(path, ("InfluxDB",)).influxdb
    end += -end % 900
    assert aggregate.aggregate(settings, begin, end) > len(before)
    again = Household(home.influxdb, "again")
    assert quarter_hours(again) == before


def test_aggregation_runs_from_what_is_installed(tmp_path: Path) -> None:
    """By cron, in the folder that systemd/install.sh makes, where there is no checkout."""
    script = """
        eval "$(sed -n '/^FILES=/,/)$/p' systemd/install.sh)"
        tar --create "${FILES[@]}" | tar --extract --directory "$1"
    """
    subprocess.run(["bash", "-ec", script, "-", tmp_path], check=True, cwd=REPOSITORY, timeout=60)
    ended = subprocess.run(
        [sys.executable, "-m", "grafana.aggregate", "--help"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=tmp_path,
    )
    assert (ended.returncode, ended.stderr) == (0, "")


def test_aggregation_says_in_one_line_what_is_wrong(tmp_path: Path) -> None:
    tables = {"InfluxDB": {"url": f"http://127.0.0.1:{free_port()}", "database": "energy"}}
    path = write_config(tmp_path / "credentials.toml", tables)
    ended = subprocess.run(
        [sys.executable, "-m", "grafana.aggregate", "--config", str(path)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=REPOSITORY,
    )
    assert ended.returncode == 1
    assert ended.stderr.startswith("grafana.aggregate: ")
    assert len(ended.stderr.splitlines()) == 1
