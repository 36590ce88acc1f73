"""What the demo's database has, and whether that is what was sent."""

from typing import Final

from demo.parts import InfluxDB1
from demo.sensors import DELAY, Series

DATABASE: Final = "energy"
# A sensor's samples get the delay of its first frame.
LARGEST_DELAY_MS = 1000 * max(DELAY) + 1


def points_by_switch(database: InfluxDB1) -> dict[str, int]:
    """Return how many points each switch, and each script, has in the database."""
    rows = database.query("SELECT count(*) FROM /.*/ WHERE switch != '' GROUP BY switch", DATABASE)
    counts: dict[str, int] = {}
    for row in rows:
        counts[row["switch"]] = counts.get(row["switch"], 0) + sum(
            count or 0 for key, count in row.items() if key.startswith("count_")
        )
    return counts


def points_stored(database: InfluxDB1) -> int:
    """Return how many points switches and scripts have."""
    return sum(points_by_switch(database).values())


def samples_stored(database: InfluxDB1, series: Series) -> dict[int, float]:
    """Return a sensor's values in the database by time (ms)."""
    rows = database.query(
        f'SELECT "{series.quantity}" AS value FROM "{series.quantity}" '  # noqa: S608 - our own names
        f"WHERE dev_eui = '{series.sensor.dev_eui}' AND channel = '{series.channel}'",
        DATABASE,
    )
    return {row["time"]: row["value"] for row in rows}


def are_stored(wanted: dict[int, float], stored: dict[int, float]) -> bool:
    """Whether every sample that came through is stored once, and soon after it was taken."""
    return len(wanted) == len(stored) and all(
        abs(value - stored_value) < 1e-4 and 0 <= stored_ms - time_ms <= LARGEST_DELAY_MS
        for (time_ms, value), (stored_ms, stored_value) in zip(
            sorted(wanted.items()), sorted(stored.items()), strict=True
        )
    )
