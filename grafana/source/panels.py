"""Grafana's panels as plain dicts."""

from collections.abc import Iterable, Sequence
from typing import Any, Final

Json = dict[str, Any]

# Provisioned under this uid; whoever imports by hand chooses another in the dashboard.
DATA_SOURCE_UID: Final = "openenergy"
DATA_SOURCE: Final = {"type": "influxdb", "uid": "${datasource}"}

ON_OFF: Final = ((1, "on", "green"), (0, "off", "#808080"))
ONLINE: Final = ((1, "online", "green"), (0, "offline", "red"))


def target(query: str, alias: str = "", *, ref: str = "A", table: bool = False) -> Json:
    """Return an InfluxQL query; `alias` names its series, a table has its tags as columns."""
    return {
        "refId": ref,
        "datasource": DATA_SOURCE,
        "rawQuery": True,
        # Many versions of Grafana escape a variable as in a regular expression if its line has a
        # "/" before and behind it (grafana/grafana#96820): a division has to stand on another line.
        "query": query.replace(" FROM ", "\nFROM "),
        "alias": alias,
        "resultFormat": "table" if table else "time_series",
    }


def panel(  # noqa: PLR0913 - each by name
    kind: str,
    title: str,
    targets: Sequence[Json],
    *,
    size: tuple[int, int],
    options: Json,
    unit: str = "",
    decimals: int | None = None,
    mappings: Iterable[tuple[int, str, str]] = (),
    custom: Json | None = None,
    limits: Sequence[tuple[float, str]] = (),
    description: str = "",
    **more: Any,
) -> Json:
    """Return a panel of `size` columns and rows; `limits` colour values from each on."""
    defaults: Json = {"custom": custom} if custom else {}
    if unit:
        defaults["unit"] = unit
    if decimals is not None:
        defaults["decimals"] = decimals
    if states := list(mappings):
        texts = {
            str(value): {"text": text, "color": colour, "index": index}
            for index, (value, text, colour) in enumerate(states)
        }
        defaults["mappings"] = [{"type": "value", "options": texts}]
    if limits:
        steps = [{"value": value, "color": colour} for value, colour in limits]
        base = {"value": None, "color": "green"}
        defaults["thresholds"] = {"mode": "absolute", "steps": [base, *steps]}
    return {
        "type": kind,
        "title": title,
        "description": description,
        "datasource": DATA_SOURCE,
        "gridPos": {"w": size[0], "h": size[1]},
        "targets": list(targets),
        "options": options,
        "fieldConfig": {"defaults": defaults, "overrides": []},
        **more,
    }


def _reduced() -> Json:
    return {"calcs": ["lastNotNull"], "fields": "", "values": False}


def stat(title: str, *targets: Json, size: tuple[int, int] = (4, 4), **more: Any) -> Json:
    """Return one large number for each series."""
    options = {
        "reduceOptions": _reduced(),
        "colorMode": "value",
        "graphMode": "none",
        "textMode": "auto",
        "justifyMode": "auto",
        "orientation": "auto",
        "wideLayout": True,
        "showPercentChange": False,
        "percentChangeColorMode": "standard",
    }
    return panel("stat", title, targets, size=size, options=options, **more)


def bars(title: str, *targets: Json, size: tuple[int, int] = (12, 8), **more: Any) -> Json:
    """Return a horizontal bar for each series."""
    options = {
        "displayMode": "gradient",
        "orientation": "horizontal",
        "valueMode": "color",
        "namePlacement": "auto",
        "sizing": "auto",
        "minVizHeight": 16,
        "maxVizHeight": 300,
        "minVizWidth": 8,
        "showUnfilled": True,
        "legend": {"displayMode": "list", "placement": "bottom", "showLegend": False, "calcs": []},
        "reduceOptions": _reduced(),
    }
    return panel("bargauge", title, targets, size=size, options=options, **more)


def _legend(calcs: Sequence[str]) -> Json:
    return {
        "displayMode": "table" if calcs else "list",
        "placement": "bottom",
        "showLegend": True,
        "calcs": list(calcs),
    }


def lines(
    title: str,
    *targets: Json,
    size: tuple[int, int] = (24, 9),
    calcs: Sequence[str] = ("lastNotNull", "mean", "max"),
    span_ms: int = 600_000,
    **more: Any,
) -> Json:
    """Return curves over time, with a gap where there is nothing for longer than `span_ms`."""
    options = {"legend": _legend(calcs), "tooltip": {"mode": "multi", "sort": "desc"}}
    custom = {"drawStyle": "line", "lineWidth": 1, "fillOpacity": 10, "spanNulls": span_ms}
    return panel("timeseries", title, targets, size=size, options=options, custom=custom, **more)


def columns(title: str, *targets: Json, size: tuple[int, int] = (12, 9), **more: Any) -> Json:
    """Return stacked columns over time, each from the time of its point on."""
    options = {"legend": _legend(["sum"]), "tooltip": {"mode": "multi", "sort": "desc"}}
    custom = {
        "drawStyle": "bars",
        "barAlignment": 1,
        "barWidthFactor": 0.9,
        "fillOpacity": 80,
        "lineWidth": 0,
        "stacking": {"mode": "normal", "group": "A"},
    }
    return panel("timeseries", title, targets, size=size, options=options, custom=custom, **more)


def month_bars(title: str, *targets: Json, size: tuple[int, int] = (12, 8), **more: Any) -> Json:
    """Return a column for each row, named by the field "Month"."""
    options = {
        "xField": "Month",
        "orientation": "auto",
        "showValue": "auto",
        "stacking": "none",
        "groupWidth": 0.7,
        "barWidth": 0.9,
        "xTickLabelRotation": 0,
        "xTickLabelSpacing": 0,
        "fullHighlight": False,
        "legend": {**_legend([]), "showLegend": False},
        "tooltip": {"mode": "single", "sort": "none"},
    }
    custom = {"fillOpacity": 80, "lineWidth": 0}
    return panel("barchart", title, targets, size=size, options=options, custom=custom, **more)


def timeline(title: str, *targets: Json, size: tuple[int, int] = (24, 7), **more: Any) -> Json:
    """Return states over time, a band for each series."""
    options = {
        "mergeValues": True,
        "showValue": "never",
        "rowHeight": 0.9,
        "alignValue": "left",
        "legend": _legend([]),
        "tooltip": {"mode": "single", "sort": "none"},
    }
    return panel("state-timeline", title, targets, size=size, options=options, **more)


def table(
    title: str,
    *targets: Json,
    key: str,
    overrides: Sequence[Json],
    size: tuple[int, int] = (24, 9),
    **more: Any,
) -> Json:
    """Return a table with one row for each value of the tag `key`, over all targets."""
    options = {"showHeader": True, "cellHeight": "sm"}
    result = panel("table", title, targets, size=size, options=options, **more)
    result["fieldConfig"]["overrides"] = list(overrides)
    if len(targets) > 1 and "transformations" not in more:
        join = {"byField": key, "mode": "outer"}
        result["transformations"] = [{"id": "joinByField", "options": join}]
    return result


def override(field: str, **properties: Any) -> Json:
    """Return settings of one column; "__" in a name stands for a dot."""
    return {
        "matcher": {"id": "byName", "options": field},
        "properties": [
            {"id": name.replace("__", "."), "value": value} for name, value in properties.items()
        ],
    }
