"""Panels of plugs over any range: their own readings in short ones, quarter hours in long ones."""

from typing import Any

from grafana.source import queries
from grafana.source.panels import Json, lines, target


def over_any_time(quantity: str, expression: str, *, function: str = "mean") -> tuple[Json, Json]:
    """Return targets for short and for long ranges; only one of them has rows."""
    return (
        target(queries.over_time(quantity, function), "$tag_switch", ref="A"),
        target(queries.over_long_time(expression), "$tag_switch", ref="B"),
    )


def power(title: str, **more: Any) -> Json:
    """Return the power of each plug over time."""
    targets = over_any_time("power", queries.MEAN_POWER)
    return lines(title, *targets, unit="watt", maxDataPoints=queries.MAX_DATA_POINTS, **more)
