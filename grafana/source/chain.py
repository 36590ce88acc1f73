"""Dashboard "The chain": whether everything runs, and what is missing."""

from grafana.source import queries
from grafana.source.now import SWITCH
from grafana.source.panels import (
    ONLINE,
    Json,
    columns,
    dashboard,
    lines,
    override,
    stat,
    table,
    target,
    timeline,
)


def build() -> Json:
    """Return the dashboard."""
    return dashboard(
        "chain",
        "The chain",
        [
            stat(
                "Answers now",
                target(queries.last_ever("online", "switch"), "$tag_switch"),
                size=(24, 5),
                mappings=ONLINE,
                description="Plugs: the switch answers. Scripts: connected to the broker.",
            ),
            timeline(
                "Online",
                target(queries.online_changes(), "$tag_switch"),
                mappings=ONLINE,
                description="Changes only: before the first in this range nothing is known here.",
            ),
            lines(
                "Readings per minute",
                target(queries.readings_per_minute(), "$tag_switch"),
                size=(12, 9),
                interval="1m",
                description="Of short ranges. 60 for an interval of 1 s.",
            ),
            columns(
                "Minutes without a reading of the power",
                target(queries.minutes_missing(), "$tag_switch"),
                interval="15m",
                description="Of quarter hours with at least one; the last one is not over yet.",
            ),
            table(
                "Gaps of more than a minute in the last day",
                target(queries.gaps(), table=True),
                key="switch",
                size=(12, 9),
                timeFrom="24h",
                overrides=[
                    override("Time", displayName="Until"),
                    override("switch", displayName="Plug"),
                    override("gap", displayName="Without a reading for", unit="s"),
                ],
            ),
            table(
                "Newest point of each device",
                target(queries.last_ever("relay", "switch"), ref="A", table=True),
                key="switch",
                size=(6, 9),
                overrides=[
                    override("Time", displayName="Newest", unit="dateTimeFromNow"),
                    override("switch", displayName="Plug"),
                    override("relay", custom__hidden=True),
                ],
            ),
            table(
                "Newest frame of each sensor",
                target(
                    queries.last_ever("lorawan", "sensor", "frame_counter"), ref="A", table=True
                ),
                key="sensor",
                size=(6, 9),
                overrides=[
                    override("Time", displayName="Newest", unit="dateTimeFromNow"),
                    override("sensor", displayName="Sensor"),
                    override("frame_counter", displayName="Frame"),
                ],
            ),
        ],
        variables=[SWITCH],
        time_from="now-6h",
        refresh="1m",
        description="Whether plugs, scripts, broker and database work, and what is missing",
    )
