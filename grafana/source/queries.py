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
# A panel of this many columns reads the plugs' own readings in ranges of up to two days and a half,
# and quarter hours in longer ones, when a column is at least as wide. Grafana writes two numbers to
# compare into the query, and for one that is false InfluxDB reads nothing.
MAX_DATA_POINTS: Final = 300
DETAIL_MS: Final = 900_000
GAPS_MS: Final = 90_000
LONG_GAPS_MS: Final = 30_000_000
DETAIL: Final = f"$__interval_ms < {DETAIL_MS}"
OVERVIEW: Final = f"$__interval_ms >= {DETAIL_MS}"

# Of the minutes that were measured: an outage takes no part in it.
MEAN_POWER: Final = 'sum("consumption") * 60 / sum("minutes")'

CHOSEN_PLUGS: Final = '"switch" =~ /^$switch$/'
PLUGS: Final = f"{CHOSEN_PLUGS} AND $timeFilter"
SENSORS: Final = '"sensor" =~ /^$sensor$/ AND $timeFilter'

# By source: fields of QUARTER_HOUR, made of the minutes' means `m`.
AGGREGATES: Final = {
    "power": (
        'sum("m") / 60 AS "consumption", min("m") AS "power_min", max("m") AS "power_max",'
        ' count("m") * 1.0 AS "minutes"'
    ),
    "relay": 'sum("m") / 60 AS "on_hours"',
    "average_power": 'mean("m") AS "average_power"',
    "temperature": 'mean("m") AS "temperature"',
}


def quarter_hours(source: str, condition: str = "", into: str = QUARTER_HOUR) -> str:
    """Return the statement that makes quarter hours of a quantity's readings."""
    where = f" WHERE {condition}" if condition else ""
    # Sensors have a temperature too, and no switch.
    plugs = f'{where} AND "switch" =~ /./' if condition else ' WHERE "switch" =~ /./'
    target = f' INTO "{into}"' if into else ""
    return (
        f"SELECT {AGGREGATES[source]}{target} FROM ("
        f'SELECT mean("{source}") AS "m" FROM "{source}"{plugs}'
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


def last(quantity: str) -> str:
    """Return a query for the latest value of each switch in the range shown."""
    return (
        f'SELECT last("{quantity}") AS "{quantity}" FROM "{quantity}"'
        f' WHERE {PLUGS} GROUP BY "switch"'
    )


def last_online(name: str = "online") -> str:
    """Return a query for whether each switch answers: said when it changes, so at any time."""
    return f'SELECT last("online") AS "{name}" FROM "online" WHERE {CHOSEN_PLUGS} GROUP BY "switch"'


def last_ever(quantity: str, tag: str, field: str = "") -> str:
    """Return a query for the latest value there is, however old."""
    shown = field or quantity
    return f'SELECT last("{shown}") AS "{shown}" FROM "{quantity}" GROUP BY "{tag}"'


def total_power() -> str:
    """Return a query for the power of all switches together, W."""
    return f'SELECT sum("power") FROM ({last("power")})'


def over_time(quantity: str, function: str = "mean") -> str:
    """Return a query for a quantity of each switch over time, from its own readings."""
    assert quantity in UNITS  # noqa: S101 - a misspelt quantity is a mistake in this program
    return (
        f'SELECT {function}("{quantity}") FROM "{quantity}"'
        f' WHERE {DETAIL} AND {PLUGS} GROUP BY time($__interval), "switch" fill(null)'
    )


def power_limits() -> str:
    """Return a query for the least and the most power of each switch, from single readings."""
    return (
        'SELECT min("power") AS "least", max("power") AS "most" FROM "power"'
        f' WHERE {DETAIL} AND {PLUGS} GROUP BY time($__interval), "switch" fill(null)'
    )


def over_long_time(expression: str) -> str:
    """Return a query for an expression of each switch over time, from quarter hours."""
    return (
        f'SELECT {expression} FROM "{QUARTER_HOUR}"'
        f' WHERE {OVERVIEW} AND {PLUGS} GROUP BY time($__interval), "switch" fill(null)'
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


def change(half: str) -> str:
    """Return a query for how much more was used in the later `half` of the range, as a share.

    The later half is the whole less the earlier one, which ends so much earlier.
    """
    whole, earlier = (
        f'(SELECT sum("consumption") AS "{name}" FROM "{QUARTER_HOUR}" WHERE {PLUGS}{end})'
        for name, end in (("whole", ""), ("earlier", f" - {half}"))
    )
    return f'SELECT sum("whole") / sum("earlier") - 2 FROM {whole}, {earlier}'


def daily_energy_to_add_up(*, price: bool = False) -> str:
    """Return a query for the energy of each day, and by how much, in ms, its bill began earlier.

    To noon, so that the hour of a clock change, or another time zone, does not matter.
    """
    return (
        f'SELECT sum("consumption") / 1000{_times_price(price)} AS "energy",'
        ' count("consumption") * 0 + $billing_day * 86400000 - 43200000 AS "shift"'
        f" FROM \"{QUARTER_HOUR}\" WHERE {PLUGS} GROUP BY time(1d) fill(none) tz('$tz')"
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

    The step from one sample to the next (of different minutes) belongs to the later one; the step
    back of a counter that starts again counts nothing.
    """
    zone = " tz('$tz')" if every.endswith("d") else ""
    return (
        f'SELECT sum("step"){factor} FROM ('
        f'SELECT non_negative_difference(last("{quantity}")) AS "step" FROM "{quantity}"'
        f" WHERE {condition} GROUP BY time(1m), {tags} fill(none)"
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
        'SELECT count("relay") * 60000 / $__interval_ms FROM "relay"'
        f' WHERE {DETAIL} AND {PLUGS} GROUP BY time($__interval), "switch" fill(0)'
    )


def minutes_measured() -> str:
    """Return a query for how many of all minutes have a reading of the power, %."""
    return (
        f'SELECT sum("minutes") * 6000000 / $__interval_ms FROM "{QUARTER_HOUR}" WHERE {PLUGS}'
        ' GROUP BY time($__interval), "switch" fill(0)'
    )


def gaps() -> str:
    """Return a query for when and how long, in s, a switch had no reading for over a minute.

    In ranges of up to six hours: it has to look at every single reading.
    """
    return (
        'SELECT "gap" FROM (SELECT elapsed("relay", 1s) AS "gap" FROM "relay"'
        f' WHERE $__interval_ms < {GAPS_MS} AND {PLUGS} GROUP BY "switch"'
        ') WHERE "gap" > 60 AND $timeFilter GROUP BY "switch"'
    )


def long_gaps() -> str:
    """Return a query for when and how long, in s, a switch had no quarter hours.

    In ranges of six hours to three months.
    """
    return (
        f'SELECT "gap" - 900 AS "gap" FROM (SELECT elapsed("minutes", 1s) AS "gap"'
        f' FROM "{QUARTER_HOUR}" WHERE $__interval_ms >= {GAPS_MS}'
        f' AND $__interval_ms < {LONG_GAPS_MS} AND {PLUGS} GROUP BY "switch"'
        ') WHERE "gap" > 900 AND $timeFilter GROUP BY "switch"'
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
