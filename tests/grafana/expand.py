"""What Grafana makes of a dashboard's queries before the database sees them.

Its time expressions (packages/grafana-data/src/datetime/datemath.ts), panels' own time ranges
(public/app/features/dashboard/utils/panel.ts), intervals (pkg/tsdb/intervalv2), the variables in
the browser (public/app/plugins/datasource/influxdb/datasource.ts) and the macros in the server
(pkg/tsdb/influxdb/models/query.go), for browser and household in one time zone.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, NamedTuple

Json = dict[str, Any]
Value = str | list[str]

DATA_POINTS = 1000  # a panel's width on a screen
DATA_SOURCE_INTERVAL_MS = 10_000  # jsonData.timeInterval of the data sources
UNITS_MS = {"s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000, "w": 604_800_000}
# Variables of the browser that stand for the server's macros of the same name.
BROWSER_MACROS = ("__interval", "__interval_ms")
# From a range divided by data points to the interval Grafana uses: below the first, the second.
ROUNDED_MS = (
    (1_500, 1_000),
    (3_500, 2_000),
    (7_500, 5_000),
    (12_500, 10_000),
    (17_500, 15_000),
    (25_000, 20_000),
    (45_000, 30_000),
    (90_000, 60_000),
    (210_000, 120_000),
    (450_000, 300_000),
    (750_000, 600_000),
    (1_050_000, 900_000),
    (1_500_000, 1_200_000),
    (2_700_000, 1_800_000),
    (5_400_000, 3_600_000),
    (9_000_000, 7_200_000),
    (16_200_000, 10_800_000),
    (32_400_000, 21_600_000),
    (86_400_000, 43_200_000),
    (604_800_000, 86_400_000),
    (1_814_400_000, 604_800_000),
    (3_628_800_000, 2_592_000_000),
)


class Range(NamedTuple):
    """A range of time; both ends belong to it."""

    begin: datetime
    end: datetime


@dataclass(frozen=True)
class Query:
    """A query as the database gets it, and where it comes from."""

    source: str
    raw: str
    expanded: str
    range: Range
    interval_ms: int
    panel: Json

    def has_unexpanded(self) -> bool:
        """Tell whether a variable is left; the end of a regular expression is none."""
        return bool(re.search(r"\$(?!/)|\[\[", self.expanded))


def panel_range(panel: Json, shown: Range, now: datetime, values: Mapping[str, Value]) -> Range:
    """Return the range of a panel that may have its own."""
    if time_from := panel.get("timeFrom"):
        text = interpolate(time_from, values)
        expression = text if "now" in text else f"now-{text}"
        shown = Range(time_math(expression, now), now)
    if time_shift := panel.get("timeShift"):
        shift = "-" + interpolate(time_shift, values)
        shown = Range(_calculate(shift, shown.begin), _calculate(shift, shown.end, round_up=True))
    return shown


def time_math(expression: str, now: datetime, *, round_up: bool = False) -> datetime:
    """Return the time that an expression like "now-14d/M+14d" means."""
    if not expression.startswith("now"):
        raise ValueError(expression)
    return _calculate(expression.removeprefix("now"), now, round_up=round_up)


def _calculate(steps: str, time: datetime, *, round_up: bool = False) -> datetime:
    rest = re.fullmatch(r"([-+]\d+[smhdwMy]|/[smhdwMy])*", steps)
    if rest is None:
        raise ValueError(steps)
    for sign, count, unit in re.findall(r"([-+/])(\d*)([smhdwMy])", steps):
        if sign == "/":
            time = _floor(time, unit)
            if round_up:
                time = _add(time, 1, unit) - timedelta(milliseconds=1)
        else:
            time = _add(time, int(sign + count), unit)
    return time


def _floor(time: datetime, unit: str) -> datetime:
    day = 1 if unit in "My" else time.day
    month = 1 if unit == "y" else time.month
    return time.replace(month=month, day=day, hour=0, minute=0, second=0, microsecond=0)


def _add(time: datetime, count: int, unit: str) -> datetime:
    """Add whole days and longer by the calendar, less by the clock."""
    if unit in "My":
        months = time.year * 12 + time.month - 1 + count * (12 if unit == "y" else 1)
        first = time.replace(year=months // 12, month=months % 12 + 1, day=1)
        return first.replace(day=min(time.day, _days_in_month(first)))
    days = {"d": count, "w": 7 * count}.get(unit)
    if days is not None:
        return time + timedelta(days=days)  # aware times add by the wall clock
    return datetime.fromtimestamp(time.timestamp() + count * UNITS_MS[unit] / 1000, time.tzinfo)


def _days_in_month(first: datetime) -> int:
    return ((first + timedelta(days=31)).replace(day=1) - first).days


def milliseconds(time: datetime) -> int:
    return round(time.timestamp() * 1000)


def interval_ms(shown: Range, panel: Json) -> int:
    """Return the interval for a panel, which may have a minimum and a number of points."""
    least = panel.get("interval")
    least_ms = parse_interval(least) if least else DATA_SOURCE_INTERVAL_MS
    exact = (milliseconds(shown.end) - milliseconds(shown.begin)) / panel.get(
        "maxDataPoints", DATA_POINTS
    )
    if exact < least_ms:
        return least_ms
    return next((rounded for limit, rounded in ROUNDED_MS if exact < limit), 31_536_000_000)


def parse_interval(text: str) -> int:
    return int(text[:-1]) * UNITS_MS[text[-1]]


def format_interval(interval: int) -> str:
    unit = next(u for u in "wdhms" if interval % UNITS_MS[u] == 0 and u != "w")
    return f"{interval // UNITS_MS[unit]}{unit}"


def interpolate(text: str, values: Mapping[str, Value], multi: frozenset[str] = frozenset()) -> str:
    """Replace variables as the browser does: regular expressions' characters escaped in `multi`.

    And, as many versions do, those of a variable between two "/" of a line, a number or a macro
    too (interpolateQueryExpr, grafana/grafana#96820).
    """

    def replacement(match: re.Match[str]) -> str:
        name = match[1] or match[2]
        if name not in values and name not in BROWSER_MACROS:
            return match[0]
        value = values.get(name, match[0])
        if isinstance(value, list):
            return f"({'|'.join(map(_escape, value))})"
        if name in multi:
            return value if re.match(r"\s*[-+]?\.?\d", value) else _escape(value)
        return _escape(value) if re.search(rf"/.*\${name}.*/", text) else value

    return re.sub(r"\$\{(\w+)\}|\$(\w+)", replacement, text)


def _escape(value: str) -> str:
    return re.sub(r"[\\^$*+?.()|\[\]{}/]", r"\\\g<0>", value)


def macros(query: str, shown: Range, interval: int) -> str:
    """Replace the macros as the server does."""
    begin, end = milliseconds(shown.begin), milliseconds(shown.end)
    query = query.replace("$timeFilter", f"time >= {begin}ms and time <= {end}ms")
    for name, text in (
        ("$__interval_ms", str(interval)),
        ("$__interval", format_interval(interval)),
        ("$interval", format_interval(interval)),
    ):
        query = query.replace(name, text)
    return query


def defaults(dashboard: Json) -> dict[str, Value]:
    """Return the values of variables that need no query, as the dashboard brings them."""
    return {
        variable["name"]: variable["current"]["value"]
        for variable in dashboard["templating"]["list"]
        if variable["type"] in ("textbox", "custom")
    }


def dashboard_queries(
    dashboard: Json, now: datetime, values: Mapping[str, Value], shown: str = ""
) -> Iterator[Query]:
    """Yield the queries of all panels; `shown` is another beginning than the dashboard's."""
    begin = time_math(shown or dashboard["time"]["from"], now)
    all_values = {**defaults(dashboard), **values}
    multi = frozenset(v["name"] for v in dashboard["templating"]["list"] if v.get("multi"))
    for panel in dashboard["panels"]:
        own = panel_range(panel, Range(begin, now), now, all_values)
        interval = interval_ms(own, panel)
        for target in panel["targets"]:
            text = macros(interpolate(target["query"], all_values, multi), own, interval)
            source = f"{dashboard['title']} / {panel['title']} / {target['refId']}"
            yield Query(source, target["query"], text, own, interval, panel)


def variable_queries(dashboard: Json) -> Iterator[tuple[str, str]]:
    """Yield name and query of the variables that ask the database."""
    for variable in dashboard["templating"]["list"]:
        if variable["type"] == "query":
            yield f"{dashboard['title']} / ${variable['name']}", variable["query"]


def alert_queries(provisioning: Json, now: datetime) -> Iterator[Query]:
    """Yield the queries of alert rules, which have no variables, only macros."""
    for group in provisioning["groups"]:
        for rule in group["rules"]:
            for data in rule["data"]:
                if data["datasourceUid"] == "__expr__":
                    continue
                span = data["relativeTimeRange"]
                shown = Range(
                    now - timedelta(seconds=span["from"]), now - timedelta(seconds=span["to"])
                )
                model = data["model"]
                text = macros(model["query"], shown, model["intervalMs"])
                yield Query(rule["title"], model["query"], text, shown, model["intervalMs"], rule)
