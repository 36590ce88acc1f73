"""Alert rules: what somebody should be told without looking."""

from typing import Any, Final, NamedTuple

from grafana.source.panels import DATA_SOURCE_UID, Json

HOUR: Final = 3600
DAY: Final = 24 * HOUR
EXPRESSIONS: Final = "__expr__"


class Rule(NamedTuple):
    """A query, and a limit that the last value of one of its series must pass to alert.

    `when` is "gt" or "lt"; `range_s` is how far the query looks back. `no_data` and `on_error` are
    the states while there is nothing to judge, or no answer.
    """

    uid: str
    title: str
    query: str
    when: str
    limit: float
    summary: str
    range_s: int = HOUR
    wait: str = "5m"
    no_data: str = "OK"
    on_error: str = "OK"
    severity: str = "warning"


# A series that has ended is not "no data" while others go on: it is counted, with 0 for nothing,
# over a time in which it was there.
RULES: Final = (
    Rule(
        "plug-silent",
        "Plug is silent",
        'SELECT count("relay") FROM "relay" WHERE $timeFilter GROUP BY time(10m), "switch" fill(0)',
        "lt",
        1,
        "{{ $labels.switch }} has sent nothing for 10 minutes",
        range_s=DAY,
        wait="10m",  # the last ten minutes have only begun
    ),
    Rule(
        "plug-power",
        "Plug draws much",
        'SELECT mean("power") FROM "power" WHERE $timeFilter'
        ' GROUP BY time($__interval), "switch" fill(none)',
        "gt",
        2300,  # W: myStrom allows 16 A, but not for hours in a plug that is covered
        '{{ $labels.switch }} draws {{ printf "%.0f" $values.B.Value }} W',
    ),
    Rule(
        "plug-hot",
        "Plug is hot",
        'SELECT mean("temperature") FROM "temperature"'
        ' WHERE "switch" =~ /./ AND $timeFilter'
        ' GROUP BY time($__interval), "switch" fill(none)',
        "gt",
        60,
        '{{ $labels.switch }} has {{ printf "%.0f" $values.B.Value }} °C inside',
        severity="critical",
    ),
    Rule(
        "sensor-silent",
        "LoRaWAN sensor is silent",
        'SELECT count("frame_counter") FROM "lorawan" WHERE $timeFilter'
        ' GROUP BY time(1h), "sensor" fill(0)',
        "lt",
        1,
        "{{ $labels.sensor }} has sent nothing for a day",
        range_s=7 * DAY,
        wait="1d",
    ),
    Rule(
        "battery-low",
        "Battery is low",
        'SELECT max("battery_low") FROM "battery_low" WHERE $timeFilter'
        ' GROUP BY time($__interval), "sensor" fill(none)',
        "gt",
        0,
        "the battery of {{ $labels.sensor }} is low",
        range_s=2 * DAY,
    ),
    Rule(
        "battery-level",
        "Battery is below 20 %",
        'SELECT last("battery_level") FROM "battery_level" WHERE $timeFilter'
        ' GROUP BY time($__interval), "sensor" fill(none)',
        "lt",
        20,
        'the battery of {{ $labels.sensor }} is at {{ printf "%.0f" $values.B.Value }} %',
        range_s=2 * DAY,
    ),
    Rule(
        "co2-high",
        "CO2 is high",
        'SELECT mean("co2") FROM "co2" WHERE $timeFilter'
        ' GROUP BY time($__interval), "sensor" fill(none)',
        "gt",
        1400,  # ppm: ventilate
        '{{ $labels.sensor }}: {{ printf "%.0f" $values.B.Value }} ppm CO2, open a window',
        wait="10m",
    ),
    Rule(
        "script-offline",
        "A script is offline",
        'SELECT last("online") FROM "online"'
        ' WHERE "switch" =~ /^(plug_2_mqtt|mqtt_2_influx|button_server)-/ AND $timeFilter'
        ' GROUP BY time($__interval), "switch" fill(none)',
        "lt",
        1,
        "{{ $labels.switch }} is not connected to the broker",
        range_s=7 * DAY,
        severity="critical",
    ),
    Rule(
        "chain-down",
        "Nothing arrives: database, broker or script is down",
        'SELECT count("relay") FROM "relay" WHERE $timeFilter GROUP BY time(5m) fill(0)',
        "lt",
        1,
        "no plug's reading has arrived for 5 minutes",
        no_data="Alerting",
        on_error="Alerting",  # InfluxDB does not answer
        severity="critical",
    ),
)


def build() -> Json:
    """Return contact point and rules as Grafana's provisioning reads them."""
    return {
        "apiVersion": 1,
        "contactPoints": [
            {
                "orgId": 1,
                "name": "openenergy",
                "receivers": [
                    {
                        "uid": "openenergy-mail",
                        "type": "email",
                        "settings": {"addresses": "$ALERT_MAIL"},
                        "disableResolveMessage": False,
                    }
                ],
            }
        ],
        "groups": [
            {
                "orgId": 1,
                "name": "openenergy",
                "folder": "openenergy",
                "interval": "1m",
                "rules": [_rule(rule) for rule in RULES],
            }
        ],
    }


def _rule(rule: Rule) -> Json:
    label = "sensor" if '"sensor"' in rule.query else "switch"
    return {
        "uid": f"openenergy-{rule.uid}",
        "title": rule.title,
        "condition": "C",
        "data": [
            {
                "refId": "A",
                "datasourceUid": DATA_SOURCE_UID,
                "relativeTimeRange": {"from": rule.range_s, "to": 0},
                "model": {
                    "refId": "A",
                    "rawQuery": True,
                    "resultFormat": "time_series",
                    "query": rule.query,
                    "intervalMs": 60_000,
                    "maxDataPoints": 43_200,
                },
            },
            _expression("B", type="reduce", expression="A", reducer="last", settings=_NUMBERS),
            _expression("C", type="threshold", expression="B", conditions=_condition(rule)),
        ],
        "for": rule.wait,
        "noDataState": rule.no_data,
        "execErrState": rule.on_error,
        "labels": {"severity": rule.severity},
        "annotations": {"summary": rule.summary},
        "notification_settings": {
            "receiver": "openenergy",
            "group_by": ["grafana_folder", "alertname", label],
        },
    }


_NUMBERS: Final = {"mode": "dropNN"}


def _condition(rule: Rule) -> list[Json]:
    return [{"evaluator": {"type": rule.when, "params": [rule.limit]}}]


def _expression(ref: str, **model: Any) -> Json:
    source = {"type": EXPRESSIONS, "uid": EXPRESSIONS}
    return {
        "refId": ref,
        "datasourceUid": EXPRESSIONS,
        "model": {"refId": ref, "datasource": source, **model},
    }
