"""Make quarter hours of the plugs' readings, for databases without continuous queries.

Usage: python -m grafana.aggregate [--config FILE] [--hours 26]

Asks in InfluxQL at /query and writes as mqtt_2_influx.py does, with the same configuration:
InfluxDB 3 (and 1, 2). Run it every five minutes by cron; once with more `--hours` takes in what
is older. What it writes again is the same point.
"""

import argparse
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import msgspec
import requests

from grafana.source import queries
from openenergy import config, influx

QUARTER_S: Final = 900
# So much is asked for at a time: 600,000 readings of ten plugs, or less.
STEP_S: Final = 16 * 3600
LARGEST_ANSWER: Final = 64 * 1024 * 1024


class _Series(msgspec.Struct):
    columns: list[str]
    values: list[list[float | None]]
    tags: dict[str, str] = {}


class _Result(msgspec.Struct):
    series: list[_Series] = []
    error: str = ""


class _Answer(msgspec.Struct):
    results: list[_Result] = []
    error: str = ""


def ask(settings: config.InfluxDB, query: str) -> list[_Series]:
    """Return the series that answer a query; raises OSError or ValueError."""
    credentials: dict[str, Any] = (
        {"headers": {"Authorization": f"Token {settings.token}"}}
        if settings.token
        else {"auth": (settings.username, settings.password)}
    )
    answer = requests.get(
        f"{settings.url.rstrip('/')}/query",
        params={"db": settings.database or settings.bucket, "epoch": "ms", "q": query},
        timeout=60,
        allow_redirects=False,
        stream=True,
        **credentials,
    )
    with answer:
        body = answer.raw.read(LARGEST_ANSWER, decode_content=True)
        if not answer.ok:
            raise OSError(f"status {answer.status_code}: {body[:200]!r}")
    content = msgspec.json.decode(body, type=_Answer)
    errors = [text for text in (content.error, *(each.error for each in content.results)) if text]
    if errors:
        raise OSError(errors[0])
    return [series for result in content.results for series in result.series]


def lines(series: list[_Series]) -> Iterator[str]:
    """Yield lines of line protocol, one for each field."""
    for each in series:
        switch = each.tags.get("switch", "")
        heads = [
            influx.line_head(queries.QUARTER_HOUR, {"switch": switch}, name)
            for name in each.columns[1:]
        ]
        for time_ms, *values in each.values:
            for head, value in zip(heads, values, strict=True):
                if switch and value is not None and time_ms is not None:
                    yield influx.line(head, float(value), int(time_ms))


def aggregate(settings: config.InfluxDB, begin_s: int, end_s: int) -> int:
    """Make the quarter hours from `begin_s` to `end_s` (s since 1970); return how many values."""
    database = influx.connect(settings)
    count = 0
    for start_s in range(begin_s, end_s, STEP_S):
        condition = f"time >= {start_s}s AND time < {min(start_s + STEP_S, end_s)}s"
        for source in queries.AGGREGATES:
            found = ask(settings, queries.quarter_hours(source, condition, into=""))
            if batch := list(lines(found)):
                count += len(batch) - len(influx.write(database.post, batch))
    return count


def main() -> int:
    """Make the quarter hours of the last hours."""
    parser = argparse.ArgumentParser("python -m grafana.aggregate", description=__doc__)
    parser.add_argument("--config", type=Path, default=Path("credentials.toml"))
    parser.add_argument("--hours", type=int, default=26)
    arguments = parser.parse_args()
    end_s = int(time.time()) // QUARTER_S * QUARTER_S + QUARTER_S
    try:
        settings = config.load(arguments.config, ("InfluxDB",)).influxdb
        count = aggregate(settings, end_s - arguments.hours * 3600, end_s)
    except (OSError, ValueError, config.ConfigError, influx.UnavailableError) as error:
        print(f"grafana.aggregate: {error}", file=sys.stderr)  # noqa: T201 - a command's answer
        return 1
    print(f"{count} values written")  # noqa: T201
    return 0


if __name__ == "__main__":
    sys.exit(main())
