"""Grafana's own code for time ranges and transformations, as published on npm, in JavaScript."""

import json
import os
import re
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import pytest

from tests.grafana import household
from tests.grafana.expand import Json
from tests.grafana.filled import Series

SCRIPT: Final = Path(__file__).with_name("grafana_code.js")
OLDEST, NEWEST = "10.4.19", "13.2.3"
VERSIONS: Final = (OLDEST, NEWEST)


def _node_version() -> tuple[int, ...]:
    done = subprocess.run(["node", "--version"], stdout=subprocess.PIPE, text=True, check=True)
    return tuple(int(part) for part in done.stdout.strip().removeprefix("v").split("."))


# The older one of Debian 12 cannot require() the modules that Grafana 13 is made of.
needs_node = pytest.mark.skipif(_node_version() < (20, 19), reason="Node.js is older than 20.19")


class Column(NamedTuple):
    """A field of a panel after its transformations, with the overrides that it is under."""

    name: str
    overrides: list[str]
    values: list[Any]


def ranges(asked: Sequence[Json]) -> dict[str, list[list[int] | None]]:
    """Return both ends of panels' ranges, ms since 1970 UTC, by version; None: not understood."""
    return {version: answer["ranges"] for version, answer in _ask(ranges=asked).items()}


def units() -> dict[str, set[str]]:
    """Return the names of the units that each version knows."""
    return {version: set(answer["units"]) for version, answer in _ask().items()}


def columns(panel: Json, frames: Sequence[Json]) -> dict[str, list[Column]]:
    """Return what each version makes of the frames that answer a panel's queries."""
    named = [each["matcher"]["options"] for each in panel["fieldConfig"]["overrides"]]
    transformations = panel.get("transformations", [])
    asked = {"transformations": transformations, "overrides": named, "frames": frames}
    return {
        version: [Column(**each) for each in answer["panels"][0]]
        for version, answer in _ask(panels=[asked]).items()
    }


def frames(target: Json, answer: Sequence[Series]) -> list[Json]:
    """Return what Grafana's server makes of the answer to a target (pkg/tsdb/influxdb/influxql)."""
    if target["resultFormat"] == "table":
        return _table(target["refId"], answer)
    return [_curve(target, part) for each in answer for part in by_column(each)]


def _table(ref: str, answer: Sequence[Series]) -> list[Json]:
    """One frame, with the name of the measurement, and tags before fields."""
    rows = [(each, row) for each in answer for row in each.rows()]
    if not rows:
        return []
    first = answer[0]
    times = _field("Time", "time", [row["time"] for _, row in rows])
    tags = [_field(tag, "string", [each.tags[tag] for each, _ in rows]) for tag in first.tags]
    names = [name for name in first.columns if name != "time"]
    fields = [_field(name, "number", [row[name] for _, row in rows]) for name in names]
    return [{"refId": ref, "name": first.name, "fields": [times, *tags, *fields]}]


def _curve(target: Json, series: Series) -> Json:
    name = alias(target, series)
    values = _field("Value", "number", [each[-1] for each in series.values])
    values |= {"labels": series.tags, "config": {"displayNameFromDS": name}}
    times = _field("Time", "time", [each[0] for each in series.values])
    return {"refId": target["refId"], "name": name, "fields": [times, values]}


def by_column(series: Series) -> list[Series]:
    """Return one series for each field."""
    return [
        series._replace(
            columns=["time", name], values=[[each[0], each[i]] for each in series.values]
        )
        for i, name in enumerate(series.columns)
        if name != "time"
    ]


def alias(target: Json, series: Series) -> str:
    """Return the name that a target's alias gives a series of one field."""
    text = (target["alias"] or "value").replace("$col", series.columns[-1])
    return re.sub(r"\$tag_(\w+)", lambda tag: series.tags.get(tag[1], ""), text).strip()


def _field(name: str, kind: str, values: list[Any]) -> Json:
    return {"name": name, "type": kind, "values": values, "config": {}}


def _ask(*, ranges: Sequence[Json] = (), panels: Sequence[Json] = ()) -> dict[str, Json]:
    done = subprocess.run(
        ["node", SCRIPT],
        input=json.dumps({"ranges": ranges, "panels": panels}),
        env={**os.environ, "TZ": str(household.ZONE)},
        stdout=subprocess.PIPE,
        timeout=60,
        text=True,
        check=True,
    )
    answer: dict[str, Json] = json.loads(done.stdout)
    return answer
