"""Dashboard "Plug": one plug, or several, in detail."""

from grafana.source import curves, queries
from grafana.source.board import dashboard
from grafana.source.curves import over_any_time
from grafana.source.energy import ZONE
from grafana.source.now import SWITCH
from grafana.source.panels import ON_OFF, Json, bars, columns, lines, target, timeline
from grafana.source.queries import MAX_DATA_POINTS


def build() -> Json:
    """Return the dashboard."""
    return dashboard(
        "plug",
        "Plug",
        [curves.power("Power"), *_measured(), *_hours_on(), _meter()],
        variables=[SWITCH, ZONE],
        time_from="now-24h",
        refresh="1m",
        description="Power, temperature and relay over time",
    )


def _measured() -> list[Json]:
    return [
        lines(
            "Least and greatest power",
            target(queries.power_limits(), "$tag_switch $col", ref="A"),
            target(
                queries.over_long_time('min("power_min") AS "least", max("power_max") AS "most"'),
                "$tag_switch $col",
                ref="B",
            ),
            size=(12, 8),
            unit="watt",
            maxDataPoints=MAX_DATA_POINTS,
            description="Of single readings; in long ranges of the means of minutes.",
        ),
        lines(
            "Average power, as the plug counts it",
            *over_any_time("average_power", 'mean("average_power")'),
            size=(12, 8),
            unit="watt",
            maxDataPoints=MAX_DATA_POINTS,
            description="The mean between two readings.",
        ),
        timeline(
            "Relay",
            *over_any_time("relay", 'ceil(max("on_hours"))', function="last"),
            mappings=ON_OFF,
            interval="1m",
            maxDataPoints=MAX_DATA_POINTS,
            description="In long ranges on means: at some time within the column.",
        ),
        lines(
            "Temperature",
            *over_any_time("temperature", 'mean("temperature")'),
            size=(12, 8),
            unit="celsius",
            maxDataPoints=MAX_DATA_POINTS,
        ),
    ]


def _hours_on() -> list[Json]:
    return [
        columns(
            "Hours on, by day",
            target(queries.on_hours(daily=True), "$tag_switch"),
            size=(12, 8),
            unit="h",
            decimals=1,
            interval="1d",
            timeFrom="now-6d/d",
        ),
        bars(
            "Hours on in the time shown",
            target(queries.on_hours(), "$tag_switch"),
            size=(12, 6),
            unit="h",
            decimals=1,
        ),
    ]


def _meter() -> Json:
    short_ranges = f"{queries.DETAIL} AND {queries.PLUGS}"
    return columns(
        "Meter of the plug, Wh by hour (firmware 4)",
        target(queries.increments("energy", short_ranges, '"switch"', "1h"), "$tag_switch"),
        size=(12, 6),
        unit="watth",
        maxDataPoints=MAX_DATA_POINTS,
        description="To check the power against; for ranges of up to two days.",
    )
