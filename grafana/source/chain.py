"""Dashboard "The chain": whether everything runs, and what is missing."""

from grafana.source import queries
from grafana.source.board import dashboard
from grafana.source.now import SWITCH
from grafana.source.panels import ONLINE, Json, lines, override, stat, table, target, timeline

AGE = override("Time", displayName="Newest", unit="dateTimeFromNow")


def build() -> Json:
    """Return the dashboard."""
    return dashboard(
        "chain",
        "The chain",
        [*_online(), *_missing(), *_newest()],
        variables=[SWITCH],
        time_from="now-6h",
        refresh="1m",
        description="Whether plugs, scripts, broker and database work, and what is missing",
    )


def _online() -> list[Json]:
    return [
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
    ]


def _missing() -> list[Json]:
    return [
        lines(
            "Readings per minute",
            target(queries.readings_per_minute(), "$tag_switch"),
            size=(12, 9),
            interval="1m",
            maxDataPoints=queries.MAX_DATA_POINTS,
            description="60 for an interval of 1 s; for ranges of up to two days.",
        ),
        lines(
            "Minutes with a reading of the power",
            target(queries.minutes_measured(), "$tag_switch"),
            size=(12, 9),
            calcs=["min", "mean"],
            unit="percent",
            interval="1h",
            maxDataPoints=queries.MAX_DATA_POINTS,
            description="Of each hour, or longer; the first and the last shown are not whole.",
        ),
        table(
            "Gaps",
            target(queries.gaps(), table=True),
            target(queries.long_gaps(), ref="B", table=True),
            key="switch",
            size=(12, 9),
            maxDataPoints=queries.MAX_DATA_POINTS,
            transformations=[{"id": "merge", "options": {}}],
            description=(
                "Of more than a minute; in ranges of more than six hours quarter hours without"
                " a reading of the power; none in ranges of more than three months."
            ),
            overrides=[
                override("Time", displayName="Until"),
                override("switch", displayName="Plug"),
                override("gap", displayName="Without a reading for", unit="s"),
            ],
        ),
    ]


def _newest() -> list[Json]:
    return [
        table(
            "Newest point of each plug",
            target(queries.last_ever("relay", "switch"), table=True),
            key="switch",
            size=(6, 9),
            overrides=[
                AGE,
                override("switch", displayName="Plug"),
                override("relay", custom__hidden=True),
            ],
        ),
        table(
            "Newest frame of each sensor",
            target(queries.last_ever("lorawan", "sensor", "frame_counter"), table=True),
            key="sensor",
            size=(6, 9),
            overrides=[
                AGE,
                override("sensor", displayName="Sensor"),
                override("frame_counter", displayName="Frame"),
            ],
        ),
    ]
