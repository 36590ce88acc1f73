"""Dashboard "Plug": one plug, or several, in detail."""

from grafana.source import queries
from grafana.source.energy import ZONE
from grafana.source.now import SWITCH
from grafana.source.panels import (
    ON_OFF,
    Json,
    bars,
    columns,
    dashboard,
    lines,
    target,
    timeline,
)

# Of the minutes that were measured; an outage takes no part in it.
MEAN_POWER = 'sum("consumption") * 60 / sum("minutes")'


def build() -> Json:
    """Return the dashboard."""
    return dashboard(
        "plug",
        "Plug",
        [
            lines("Power", *_both("power", MEAN_POWER), unit="watt"),
            lines(
                "Least and greatest power",
                target(queries.over_time("power", "min"), "$tag_switch least", ref="A"),
                target(queries.over_time("power", "max"), "$tag_switch greatest", ref="B"),
                target(queries.over_long_time('min("power_min")'), "$tag_switch least", ref="C"),
                target(queries.over_long_time('max("power_max")'), "$tag_switch greatest", ref="D"),
                size=(12, 8),
                unit="watt",
                description="Of single readings; from quarter hours on of the means of minutes.",
            ),
            lines(
                "Average power, as the plug counts it",
                *_both("average_power", MEAN_POWER),
                size=(12, 8),
                unit="watt",
                description="The mean between two readings; long ranges show the mean power.",
            ),
            timeline(
                "Relay",
                *_both("relay", 'max("on_hours") * 4', function="last", fill="none"),
                mappings=ON_OFF,
                limits=[(0.01, "green")],
                description="In long ranges on means: at times within the quarter of an hour.",
            ),
            lines(
                "Temperature",
                *_both("temperature", 'mean("temperature")'),
                size=(12, 8),
                unit="celsius",
            ),
            columns(
                "Hours on, by day",
                target(queries.on_hours(daily=True), "$tag_switch"),
                size=(12, 8),
                unit="h",
                decimals=1,
                interval="1d",
            ),
            bars(
                "Hours on in the time shown",
                target(queries.on_hours(), "$tag_switch"),
                size=(12, 6),
                unit="h",
                decimals=1,
            ),
            columns(
                "Meter of the plug, Wh by hour (firmware 4)",
                target(
                    queries.increments(
                        "energy", f"{queries.DETAIL} AND {queries.PLUGS}", '"switch"', "1h"
                    ),
                    "$tag_switch",
                ),
                size=(12, 6),
                unit="watth",
                interval="10s",
                description="To check the power against; for ranges up to some days.",
            ),
        ],
        variables=[SWITCH, ZONE],
        time_from="now-24h",
        refresh="1m",
        description="Power, temperature and relay over time",
    )


def _both(
    quantity: str, expression: str, *, function: str = "mean", fill: str = "null"
) -> tuple[Json, Json]:
    """Return targets for short and for long ranges; only one of them has rows."""
    return (
        target(queries.over_time(quantity, function, fill), "$tag_switch", ref="A"),
        target(queries.over_long_time(expression, fill), "$tag_switch", ref="B"),
    )
