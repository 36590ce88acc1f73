"""Dashboard "Energy": kWh and money of days, months, years; ranking; standby."""

from grafana.source import queries
from grafana.source.board import choice_variable, dashboard, text_variable
from grafana.source.now import SWITCH
from grafana.source.panels import Json, bars, columns, month_bars, stat, target

PRICE = text_variable("price", "Price of a kWh", "0.29")
CURRENCY = text_variable("currency", "Currency", "CHF")
ZONE = text_variable("tz", "Time zone", "Europe/Zurich")
# Values are days after the first: Grafana's time expressions can add them.
BILLING_DAY = choice_variable(
    "billing_day", "Month begins on day", [(str(day + 1), str(day)) for day in range(28)]
)
# The month of the bill: go back to the month in which it began, then on to its first day.
MONTH = "now-${billing_day}d/M+${billing_day}d"
PERIODS = (
    ("Today", "now/d", None),
    ("Yesterday so far", "now/d", "1d"),
    ("Yesterday", "now/d", "1d/d"),
    ("In the time shown", None, None),
    ("This month", MONTH, None),
    ("Last month so far", MONTH, "1M"),
    ("This year", "now/y", None),
    ("Last year so far", "now/y", "1y"),
)

# Grafana's own "kwatth" makes "3.51 MWh" and "60 Wh" of it.
KWH = "suffix:kWh"
# In hours, which no clock change makes longer.
SPANS = (("24 hours", 24), ("30 days", 30 * 24), ("365 days", 365 * 24))


def build() -> Json:
    """Return the dashboard."""
    return dashboard(
        "energy",
        "Energy",
        [
            *(_period(*period, price=False) for period in PERIODS),
            *(_period(*period, price=True) for period in PERIODS),
            *(_change(*span) for span in SPANS),
            *_by_month(),
            *_by_day(),
            *_ranking(),
            *_standby(),
        ],
        variables=[SWITCH, PRICE, CURRENCY, ZONE, BILLING_DAY],
        time_from="now-30d/d",
        refresh="5m",
        description="Energy and its cost; needs the quarter hours of grafana/README.md",
    )


# Days become months, named by that in which the bill began.
BY_MONTH: Json = {
    "transformations": [
        {
            "id": "calculateField",
            "options": {
                "mode": "binary",
                "alias": "Month",
                "binary": {"left": "Time", "operator": "-", "right": "shift"},
            },
        },
        {
            "id": "convertFieldType",
            "options": {"conversions": [{"targetField": "Month", "destinationType": "time"}]},
        },
        {
            "id": "formatTime",
            "options": {"timeField": "Month", "outputFormat": "YYYY-MM", "timezone": "browser"},
        },
        {
            "id": "groupBy",
            "options": {
                "fields": {
                    "Month": {"operation": "groupby", "aggregations": []},
                    "energy": {"operation": "aggregate", "aggregations": ["sum"]},
                }
            },
        },
    ]
}
# Series become rows, so that they can be put in order.
SORTED: Json = {
    "transformations": [
        {"id": "reduce", "options": {"reducers": ["lastNotNull"], "mode": "seriesToRows"}},
        {"id": "sortBy", "options": {"sort": [{"field": "Last *", "desc": True}]}},
        {
            "id": "rowsToFields",
            "options": {
                "mappings": [
                    {"fieldName": "Field", "handlerKey": "field.name"},
                    {"fieldName": "Last *", "handlerKey": "field.value"},
                ]
            },
        },
    ]
}


def _period(title: str, time_from: str | None, shift: str | None, *, price: bool) -> Json:
    override = {"timeFrom": time_from} if time_from else {}
    if shift:
        override["timeShift"] = shift
    unit = {} if price else {"unit": KWH}
    return stat(
        f"{title}, ${{currency}}" if price else title,
        target(queries.energy(price=price)),
        size=(6, 3),
        decimals=2,
        hideTimeOverride=True,
        **unit,
        **override,
    )


def _change(title: str, hours: int) -> Json:
    return stat(
        f"Last {title} against those before",
        target(queries.change(f"{hours}h")),
        size=(8, 3),
        unit="percentunit",
        decimals=1,
        limits=[(0, "orange")],
        timeFrom=f"{2 * hours}h",
        hideTimeOverride=True,
        description="How much more was used. Nothing is shown if nothing was measured before.",
    )


def _by_month() -> list[Json]:
    months: Json = {
        "decimals": 2,
        "timeFrom": "now-12M/M+${billing_day}d",
        "hideTimeOverride": True,
        "description": "Each month begins on the day of the bill, and has the name of that day's.",
        **BY_MONTH,
    }
    return [
        month_bars(
            "Energy by month",
            target(queries.daily_energy_to_add_up(), table=True),
            unit=KWH,
            **months,
        ),
        month_bars(
            "Cost by month, ${currency}",
            target(queries.daily_energy_to_add_up(price=True), table=True),
            **months,
        ),
    ]


def _by_day() -> list[Json]:
    return [
        columns(
            "Energy by day",
            target(queries.daily_energy(), "$tag_switch"),
            unit=KWH,
            decimals=2,
            interval="1d",
        ),
        columns(
            "Cost by day, ${currency}",
            target(queries.daily_energy(price=True), "$tag_switch"),
            decimals=2,
            interval="1d",
        ),
        columns(
            "Energy by day, 31 days before",
            target(queries.daily_energy(by_switch=False), "all plugs"),
            size=(24, 6),
            unit=KWH,
            decimals=2,
            interval="1d",
            timeShift="31d",
            description="To compare with the days above, when these are today and the last 30.",
        ),
    ]


def _ranking() -> list[Json]:
    return [
        bars(
            "Ranking: energy in the time shown",
            target(queries.energy(by_switch=True), "$tag_switch"),
            unit=KWH,
            decimals=2,
            **SORTED,
        ),
        bars(
            "Ranking: cost in the time shown, ${currency}",
            target(queries.energy(price=True, by_switch=True), "$tag_switch"),
            decimals=2,
            **SORTED,
        ),
    ]


def _standby() -> list[Json]:
    week: Json = {"timeFrom": "7d", "hideTimeOverride": True}
    return [
        bars(
            "Standby power",
            target(queries.standby(), "$tag_switch"),
            size=(16, 6),
            unit="watt",
            decimals=1,
            description="Of each hour of the last week the least power, of these the median.",
            **week,
        ),
        stat(
            "Standby of all",
            target(queries.standby_sum()),
            size=(4, 6),
            unit="watt",
            decimals=1,
            **week,
        ),
        stat(
            "Standby in a year, ${currency}",
            target(queries.standby_sum(price=True)),
            size=(4, 6),
            decimals=2,
            **week,
        ),
    ]
