"""The InfluxQL of the dashboards, and the continuous queries that make long ranges quick.

Energy is the sum of the mean power of each minute, over sixty: a minute without a reading counts
nothing. INTEGRAL() will not do: it draws a line across outages, and with GROUP BY time() and a tag
it returns the last bucket of a series as one of its own (influxdata/influxdb#9901).
"""
# ruff: noqa: S608 - all text is of this file, nothing of a user

from typing import Final

from openenergy.topics import UNITS

# What the continuous queries write for each switch every quarter of an hour. Days begin on one in
# every time zone.
QUARTER_HOUR: Final = "quarter_hour"
# Panels read the plugs' own readings up to this width of a column on the screen (about four days
# on a whole row), and quarter hours from there on. InfluxDB sees two numbers to compare and reads
# nothing for the side that is false.
DETAIL_MS: Final = 300_000
DETAIL: Final = f"$__interval_ms < {DETAIL_MS}"
OVERVIEW: Final = f"$__interval_ms >= {DETAIL_MS}"

PLUGS: Final = '"switch" =~ /^$switch$/ AND $timeFilter'
SENSORS: Final = '"sensor" =~ /^$sensor$/ AND $timeFilter'

# By source: fields of QUARTER_HOUR, made of the minutes' means `m`.
AGGREGATES: Final = {
    "power": (
        'sum("m") / 60 AS "consumption", min("m") AS "power_min", max("m") AS "power_max",'
        ' count("m") * 1.0 AS "minutes"'
    ),
    "relay": 'sum("m") / 60 AS "on_hours"',
    "temperature": 'mean("m") AS "temperature"',
}
FIELDS: Final = ("consumption", "power_min", "power_max", "minutes", "on_hours", "temperature")


def quarter_hours(source: str, condition: str = "", into: str = QUARTER_HOUR) -> str:
    """Return the statement that makes quarter hours of a quantity's readings."""
    where = f" WHERE {condition}" if condition else ""
    target = f' INTO "{into}"' if into else ""
    return (
        f"SELECT {AGGREGATES[source]}{target} FROM ("
        f'SELECT mean("{source}") AS "m" FROM "{source}"{where}'
        ' GROUP BY time(1m), "switch" fill(none)'
        f'){where} GROUP BY time(15m), "switch" fill(none)'
    )


def continuous_queries(database: str) -> list[str]:
    """Return the statements that have InfluxDB 1.x make quarter hours by itself.

    The first of each pair follows what happens; the second takes in, every night, what arrived up
    to a week late because the broker or the database was away.
    """
    return [
        f'CREATE CONTINUOUS QUERY "{QUARTER_HOUR}_{source}_{name}" ON "{database}"'
        f" RESAMPLE EVERY {every} FOR {span} BEGIN {quarter_hours(source)} END"
        for source in AGGREGATES
        for name, every, span in (("now", "5m", "30m"), ("late", "1d", "8d"))
    ]


def last(quantity: str, name: str = "") -> str:
    """Return a query for the latest value of each switch in the range shown."""
    return (
        f'SELECT last("{quantity}") AS "{name or quantity}" FROM "{quantity}"'
        f' WHERE {PLUGS} GROUP BY "switch"'
    )


def last_ever(quantity: str, tag: str, field: str = "") -> str:
    """Return a query for the latest value there is, however old."""
    shown = field or quantity
    return f'SELECT last("{shown}") AS "{shown}" FROM "{quantity}" GROUP BY "{tag}"'


def total_power() -> str:
    """Return a query for the power of all switches together, W."""
    return f'SELECT sum("power") FROM ({last("power")})'


def over_time(quantity: str, function: str = "mean", fill: str = "null") -> str:
    """Return a query for a quantity of each switch over time, from its own readings."""
    assert quantity in UNITS  # noqa: S101 - a misspelt quantity is a mistake in this program
    return (
        f'SELECT {function}("{quantity}") FROM "{quantity}"'
        f' WHERE {DETAIL} AND {PLUGS} GROUP BY time($__interval), "switch" fill({fill})'
    )


def over_long_time(expression: str, fill: str = "null") -> str:
    """Return a query for an expression of each switch over time, from quarter hours."""
    return (
        f'SELECT {expression} FROM "{QUARTER_HOUR}"'
        f' WHERE {OVERVIEW} AND {PLUGS} GROUP BY time($__interval), "switch" fill({fill})'
    )


def energy(*, price: bool = False, by_switch: bool = False) -> str:
    """Return a query for the energy in the range shown: kWh, or its price."""
    return (
        f'SELECT sum("consumption") / 1000{_times_price(price)} FROM "{QUARTER_HOUR}"'
        f" WHERE {PLUGS}{_each(by_switch)}"
    )


def daily_energy(*, price: bool = False, by_switch: bool = True) -> str:
    """Return a query for the energy of each day (of 23, 24 or 25 hours) in the user's zone."""
    tag = ', "switch"' if by_switch else ""
    return (
        f'SELECT sum("consumption") / 1000{_times_price(price)} FROM "{QUARTER_HOUR}"'
        f" WHERE {PLUGS} GROUP BY time(1d){tag} fill(none) tz('$tz')"
    )


def standby() -> str:
    """Return a query for each switch's standby power, W: what it draws in half of all hours."""
    return (
        'SELECT median("low") AS "standby" FROM ('
        f'SELECT min("power_min") AS "low" FROM "{QUARTER_HOUR}" WHERE {PLUGS}'
        ' GROUP BY time(1h), "switch" fill(none)'
        ') WHERE $timeFilter GROUP BY "switch"'
    )


def standby_sum(*, price: bool = False) -> str:
    """Return a query for the standby power of all switches, W, or its price in a year."""
    # 8.766 thousand hours are a year of 365.25 days; W times that is kWh.
    yearly = " * 8.766 * $price" if price else ""
    return f'SELECT sum("standby"){yearly} FROM ({standby()})'


def on_hours(*, daily: bool = False) -> str:
    """Return a query for the hours each switch was on: in the range shown, or each day."""
    group = (
        " GROUP BY time(1d), \"switch\" fill(none) tz('$tz')" if daily else _each(by_switch=True)
    )
    return f'SELECT sum("on_hours") FROM "{QUARTER_HOUR}" WHERE {PLUGS}{group}'


def increments(quantity: str, condition: str, tags: str, every: str, factor: str = "") -> str:
    """Return a query for what a counter counted in each `every`.

    The step from one sample to the next belongs to the later one; the step back of a counter that
    starts again counts nothing.
    """
    zone = " tz('$tz')" if every.endswith("d") else ""
    return (
        f'SELECT sum("step"){factor} FROM ('
        f'SELECT non_negative_difference("{quantity}") AS "step" FROM "{quantity}"'
        f" WHERE {condition} GROUP BY {tags}"
        f") WHERE $timeFilter GROUP BY time({every}), {tags} fill(none){zone}"
    )


def of_sensors(quantity: str, function: str = "mean", fill: str = "null", more: str = "") -> str:
    """Return a query for a quantity of each sensor over time; `more` tags beside its name."""
    return (
        f'SELECT {function}("{quantity}") FROM "{quantity}"'
        f' WHERE {SENSORS} GROUP BY time($__interval), "sensor"{more} fill({fill})'
    )


def link(field: str, function: str, tag: str, fill: str = "null") -> str:
    """Return a query for the radio link of each sensor, or gateway, over time."""
    return (
        f'SELECT {function}("{field}") FROM "lorawan"'
        f' WHERE {SENSORS} GROUP BY time($__interval), "{tag}" fill({fill})'
    )


def readings_per_minute() -> str:
    """Return a query for the readings of each switch per minute, in short ranges."""
    return (
        f'SELECT count("relay") FROM "relay" WHERE {DETAIL} AND {PLUGS}'
        ' GROUP BY time(1m), "switch" fill(0)'
    )


def minutes_missing() -> str:
    """Return a query for the minutes of each quarter hour that have no reading of the power."""
    return (
        f'SELECT 15 - sum("minutes") FROM "{QUARTER_HOUR}" WHERE {PLUGS}'
        ' GROUP BY time(15m), "switch" fill(none)'
    )


def gaps() -> str:
    """Return a query for when and how long, in s, a switch had no reading for over a minute."""
    return (
        'SELECT "gap" FROM ('
        f'SELECT elapsed("relay", 1s) AS "gap" FROM "relay" WHERE {PLUGS} GROUP BY "switch"'
        ') WHERE "gap" > 60 AND $timeFilter GROUP BY "switch"'
    )


def online_changes() -> str:
    """Return a query for what switches and scripts said of themselves over time."""
    return (
        'SELECT last("online") FROM "online" WHERE $timeFilter'
        ' GROUP BY time($__interval), "switch" fill(none)'
    )


def frames_by_gateway() -> str:
    """Return a query for the frames per hour that each gateway heard best."""
    return (
        f'SELECT count("rssi") FROM "lorawan" WHERE {SENSORS}'
        ' GROUP BY time(1h), "gateway" fill(none)'
    )


def last_frames() -> str:
    """Return a query for the latest frame of each sensor."""
    return (
        'SELECT last("frame_counter") AS "frame", "gateways", "spreading_factor", "rssi", "snr"'
        f' FROM "lorawan" WHERE {SENSORS} GROUP BY "sensor"'
    )


def _times_price(price: bool) -> str:
    return " * $price" if price else ""


def _each(by_switch: bool) -> str:
    return ' GROUP BY "switch"' if by_switch else ""
