"""How long each panel takes on a year of ten plugs read every second, in InfluxDB 1.x.

Usage: python -m tests.bench.grafana_year FOLDER [--days 365] [--detailed-days 4]

FOLDER keeps the database, some GB for a year; run again it measures only. The last `--days` have
the power of each plug every second, the last `--detailed-days` everything else as well. Quarter
hours are made from these by the statements of the continuous queries; the rest of the year gets
quarter hours alone, of the same form.
"""

import argparse
import json
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import requests

from demo.parts import InfluxDB1
from grafana.generate import FOLDER
from grafana.source import queries
from tests.grafana import expand
from tests.grafana.household import ZONE

DATABASE = "energy"
PLUGS = 10
ALL: dict[str, expand.Value] = {"switch": [f"plug-{number}" for number in range(PLUGS)]}
END = datetime(2026, 11, 1, 12, tzinfo=ZONE)
DAY_S = 86_400
SECONDS_PER_WRITE = 1000
SHOWN = ("", "now-2d", "now-7d", "now-30d", "now-1y")


def lines(quantity: str, unit: str, begin_s: int, end_s: int) -> Iterator[bytes]:
    """Yield one write each: a line for each plug and second, with values that change."""
    tag = f",unit={unit}" if unit else ""
    templates = [
        "\n".join(
            f"{quantity},switch=plug-{plug}{tag} {quantity}={_value(quantity, plug, phase)} %d"
            for plug in range(PLUGS)
        )
        for phase in range(7)
    ]
    for first in range(begin_s, end_s, SECONDS_PER_WRITE):
        seconds = range(first, min(first + SECONDS_PER_WRITE, end_s))
        yield "\n".join(templates[s // 60 % 7] % ((s,) * PLUGS) for s in seconds).encode()


def _value(quantity: str, plug: int, phase: int) -> float:
    if quantity == "relay":
        return float(phase > 1)
    return 20.0 + 3 * plug + 1.5 * phase


def fill(database: InfluxDB1, days: int, detailed_days: int) -> None:
    """Write what is missing, newest quantities last, then make the quarter hours."""
    database.create_database(DATABASE)
    end_s = int(END.timestamp())
    session = requests.Session()
    url = f"{database.url}/write?db={DATABASE}&precision=s"
    for quantity, unit, span in (
        ("power", "W", days),
        ("average_power", "W", detailed_days),
        ("temperature", "C", detailed_days),
        ("energy", "Wh", detailed_days),
        ("relay", "", detailed_days),
    ):
        began = time.monotonic()
        for body in lines(quantity, unit, end_s - span * DAY_S, end_s):
            session.post(url, body, timeout=60).raise_for_status()
        print(f"{quantity}: {span} days written in {time.monotonic() - began:.0f} s", flush=True)
    _write_rest_of_year(session, url, end_s - days * DAY_S)
    for source in queries.AGGREGATES:
        began = time.monotonic()
        for day in range(days if source == "power" else detailed_days):
            begin = end_s - (day + 1) * DAY_S
            condition = f"time >= {begin}s AND time < {begin + DAY_S}s"
            database.query(queries.quarter_hours(source, condition), DATABASE)
        print(f"quarter hours of {source}: {time.monotonic() - began:.0f} s", flush=True)


def _write_rest_of_year(session: requests.Session, url: str, until_s: int) -> None:
    fields = (
        "consumption=10.5,power_min=20.0,power_max=80.0,minutes=15.0,"
        "on_hours=0.2,average_power=42.0,temperature=21.5"
    )
    for begin_s in range(int(END.timestamp()) - 365 * DAY_S, until_s, DAY_S):
        body = "\n".join(
            f"{queries.QUARTER_HOUR},switch=plug-{plug} {fields} {time_s}"
            for time_s in range(begin_s, begin_s + DAY_S, 900)
            for plug in range(PLUGS)
        )
        session.post(url, body, timeout=60).raise_for_status()


def measure(database: InfluxDB1) -> Iterator[tuple[str, str, float]]:
    """Yield range, panel and seconds for all its queries together, the fastest of three runs."""
    for path in sorted((FOLDER / "dashboards").iterdir()):
        dashboard = json.loads(path.read_text())
        if path.stem == "lorawan":
            continue  # sensors send every ten minutes: nothing to aggregate
        for shown in SHOWN:
            seconds: dict[str, float] = {}
            for query in expand.dashboard_queries(dashboard, END, ALL, shown):
                assert not query.has_unexpanded(), query.expanded
                name = query.source.rsplit(" / ", 1)[0]
                fastest = min(_timed(database, query.expanded) for _ in range(3))
                seconds[name] = seconds.get(name, 0.0) + fastest
            for name, duration in seconds.items():
                yield shown or dashboard["time"]["from"], name, duration


def _timed(database: InfluxDB1, query: str) -> float:
    began = time.monotonic()
    answer = requests.get(
        f"{database.url}/query", params={"db": DATABASE, "epoch": "ms", "q": query}, timeout=300
    )
    answer.raise_for_status()
    assert "error" not in answer.text, (answer.text, query)
    return time.monotonic() - began


def main() -> None:
    """Fill the database unless it is filled, measure, print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--days", type=int, default=365)
    parser.add_argument("--detailed-days", type=int, default=4)
    arguments = parser.parse_args()
    is_filled = arguments.folder.exists()
    with InfluxDB1(arguments.folder) as database:
        if not is_filled:
            fill(database, arguments.days, arguments.detailed_days)
        rows = list(measure(database))
    for shown, name, seconds in sorted(rows, key=lambda row: -row[2]):
        print(f"{seconds:7.2f} s  {shown:10}  {name}")


if __name__ == "__main__":
    main()
