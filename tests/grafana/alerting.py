"""What Grafana makes of an alert rule, evaluation by evaluation.

Its query, reduced to one number for each series and held against the threshold (pkg/expr), and the
states that follow from it (pkg/services/ngalert/eval/eval.go, state/manager.go, state/state.go).
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

import requests

from tests.grafana import expand
from tests.grafana.filled import Series

Json = dict[str, Any]
Ask = Callable[[str], list[Series]]
# By who is told of: from when on, and since when no more (or the end of all evaluations).
Told = dict[str, list[tuple[datetime, datetime]]]

MINUTE: Final = timedelta(minutes=1)
THE_RULE: Final = ""  # who is told of when there is no series
STATES: Final = {"Alerting": True, "OK": False}  # of those for "no data" and "error"
PASSES: Final = {"gt": float.__gt__, "lt": float.__lt__}


@dataclass
class Instance:
    """What a rule says of one series."""

    seen: datetime
    is_met_since: datetime | None = None
    is_alerting: bool = False

    def follow(self, is_met: bool, now: datetime, wait: timedelta) -> None:
        """Alert when the condition is met, and has been for the rule's `for`."""
        self.seen = now
        if not is_met:
            self.is_met_since, self.is_alerting = None, False
            return
        self.is_met_since = self.is_met_since or now
        self.is_alerting = self.is_alerting or now - self.is_met_since >= wait


def told(rule: Json, ask: Ask, begin: datetime, end: datetime, every: timedelta = MINUTE) -> Told:
    """Return of whom the rule tells, and when, evaluated from `begin` to `end`."""
    result: Told = {}
    before: set[str] = set()
    for now, alerting in _evaluations(rule, ask, begin, end, every):
        for who in alerting - before:
            result.setdefault(who, []).append((now, end))
        for who in before - alerting:
            result[who][-1] = (result[who][-1][0], now)
        before = alerting
    return result


def _evaluations(
    rule: Json, ask: Ask, begin: datetime, end: datetime, every: timedelta
) -> Iterator[tuple[datetime, set[str]]]:
    wait = timedelta(milliseconds=expand.parse_interval(rule["for"]))
    instances: dict[str, Instance] = {}
    now = begin
    while now <= end:
        results = _judged(rule, ask, now)
        if isinstance(results, bool):  # of no series, so of all that are known
            results = dict.fromkeys(instances or [THE_RULE], results)
        for who, is_met in results.items():
            instances.setdefault(who, Instance(now)).follow(is_met, now, wait)
        for who, instance in list(instances.items()):
            if now - instance.seen > 2 * every:
                del instances[who]
        yield now, {who for who, instance in instances.items() if instance.is_alerting}
        now += every


def _judged(rule: Json, ask: Ask, now: datetime) -> dict[str, bool] | bool:
    """Return for which series the condition is met; without any, what the rule says then."""
    _, reduce, threshold = (data["model"] for data in rule["data"])
    assert (reduce["expression"], reduce["reducer"]) == ("A", "last")
    assert reduce["settings"] == {"mode": "dropNN"}
    assert (threshold["expression"], rule["condition"]) == ("B", "C")
    (query,) = expand.alert_queries({"groups": [{"rules": [rule]}]}, now)
    try:
        series = ask(query.expanded)
    except requests.ConnectionError:
        return STATES[rule["execErrState"]]
    numbers = {" ".join(each.tags.values()): _last(each) for each in series}
    assert len(numbers) == len(series), "Grafana takes two series with the same labels for an error"
    if not numbers:
        return STATES[rule["noDataState"]]
    ((evaluator,),) = (condition.values() for condition in threshold["conditions"])
    limit = float(evaluator["params"][0])
    return {
        who: PASSES[evaluator["type"]](number, limit)
        if number is not None
        else STATES[rule["noDataState"]]
        for who, number in numbers.items()
    }


def _last(series: Series) -> float | None:
    numbers = [float(value) for _, value in series.values if value is not None]
    return numbers[-1] if numbers else None
