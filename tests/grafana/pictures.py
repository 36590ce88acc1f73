"""Draw the dashboards of grafana/README.md: `python -m tests.grafana.pictures`.

The numbers are answers of a real InfluxDB to the dashboards' queries, of the household that the
tests use. The drawing is ours, not Grafana's.
"""

import json
import tempfile
from collections.abc import Callable, Iterator
from datetime import datetime
from html import escape
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

from grafana.generate import FOLDER
from tests.grafana import expand, grafana_code, household
from tests.grafana.expand import Json, Query
from tests.grafana.filled import Household, Series, filled

CELL: Final = (50, 34)  # pixels of a column and a row of the grid
GAP: Final = 6
FONT: Final = 'font-family="sans-serif" font-size="12" fill="#ccccdc"'
HEAD: Final = 40
COLOURS: Final = ("#5794f2", "#fade2a", "#73bf69", "#ff9830", "#b877d9", "#f2495c")
NAMED: Final = {"green": "#37872d", "red": "#c4162a"}
UNITS: Final = {
    "watt": "W",
    "watth": "Wh",
    "celsius": "°C",
    "humidity": "%",
    "volt": "V",
    "percent": "%",
    "s": "s",
    "h": "h",
}
# What a panel shows: its queries with the series that answer them.
Answers = list[tuple[Json, Query, Series]]
Box = tuple[float, float, float, float]
NOTE: Final = "drawn by tests/grafana/pictures.py from answers of InfluxDB 1.6.7, not by Grafana"


def main() -> None:
    """Write one SVG for each dashboard."""
    messages = household.plug_messages(), household.sensor_messages()
    with tempfile.TemporaryDirectory() as folder, filled(Path(folder), *messages) as home:
        for path in sorted((FOLDER / "dashboards").iterdir()):
            dashboard = json.loads(path.read_text())
            picture = FOLDER / "pictures" / f"{path.stem}.svg"
            picture.parent.mkdir(exist_ok=True)
            picture.write_text(draw(home, dashboard), encoding="utf-8")


def draw(home: Household, dashboard: Json) -> str:
    """Return a dashboard as SVG."""
    answers: dict[int, Answers] = {panel["id"]: [] for panel in dashboard["panels"]}
    for query in expand.dashboard_queries(dashboard, household.NOW, household.ALL):
        (target,) = (t for t in query.panel["targets"] if query.source.endswith(f"/ {t['refId']}"))
        answers[query.panel["id"]] += [
            (target, query, part)
            for each in home.ask(query.expanded)
            for part in (
                [each] if target["resultFormat"] == "table" else grafana_code.by_column(each)
            )
        ]
    height = HEAD + CELL[1] * max(
        p["gridPos"]["y"] + p["gridPos"]["h"] for p in dashboard["panels"]
    )
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="1200" height="{height}" {FONT}>',
        f'<rect width="1200" height="{height}" fill="#111217"/>',
        _text(10, 26, dashboard["title"], size=18),
        _text(1190, 26, NOTE, anchor="end"),
    ]
    for panel in dashboard["panels"]:
        parts += _panel(panel, answers[panel["id"]], dashboard)
    return "\n".join([*parts, "</svg>", ""])


def _panel(panel: Json, answers: Answers, dashboard: Json) -> Iterator[str]:
    place = panel["gridPos"]
    x, y = place["x"] * CELL[0] + GAP / 2, HEAD + place["y"] * CELL[1] + GAP / 2
    width, height = place["w"] * CELL[0] - GAP, place["h"] * CELL[1] - GAP
    yield f'<svg x="{x}" y="{y}" width="{width}" height="{height}">'
    yield f'<rect width="{width}" height="{height}" rx="3" fill="#181b1f" stroke="#2c3235"/>'
    yield _text(8, 17, _interpolated(panel["title"], dashboard))
    box = (10.0, 26.0, width - 20, height - 34)
    yield from DRAWERS[panel["type"]](panel, answers, box)
    yield "</svg>"


def _interpolated(text: str, dashboard: Json) -> str:
    return expand.interpolate(
        text, {**expand.defaults(dashboard), "plug": household.ALL["switch"][0]}
    )


def _stat(panel: Json, answers: Answers, box: Box) -> Iterator[str]:
    x, y, width, height = box
    shown = [(_name(*each), _last(each[2])) for each in answers]
    for index, (name, value) in enumerate(shown):
        left = x + width * (index + 0.5) / len(shown)
        size = 26 if len(shown) == 1 else 18
        yield _text(left, y + height / 2 + 8, _say(panel, value), size=size, anchor="middle")
        if len(shown) > 1:
            yield _text(left, y + height / 2 + 28, name, anchor="middle")


def _bars(panel: Json, answers: Answers, box: Box) -> Iterator[str]:
    x, y, width, _ = box
    shown = [(_name(*each), _last(each[2])) for each in answers]
    if panel.get("transformations"):
        shown.sort(key=lambda item: -float(item[1] or 0))
    largest = max((value or 0 for _, value in shown), default=1) or 1
    for index, (name, value) in enumerate(shown):
        top = y + index * 34
        length = max(1.0, (width - 190) * (value or 0) / largest)
        yield _text(x, top + 17, name)
        yield f'<rect x="{x + 100}" y="{top}" width="{length}" height="24" fill="{COLOURS[2]}"/>'
        yield _text(x + width, top + 17, _say(panel, value), anchor="end")


def _months(panel: Json, answers: Answers, box: Box) -> Iterator[str]:
    names, values = (column.values for column in _columns_of(panel, answers))
    months = dict(zip(names, values, strict=True))
    x, y, width, height = box[0], box[1] + 16, box[2], box[3] - 32
    for index, (name, value) in enumerate(months.items()):
        left, middle = (x + width * (index + share) / len(months) for share in (0.1, 0.5))
        top = y + height * (1 - value / max(months.values()))
        wide = width * 0.8 / len(months)
        yield (
            f'<rect x="{left:.1f}" y="{top:.1f}" width="{wide:.1f}"'
            f' height="{y + height - top:.1f}" fill="{COLOURS[2]}"/>'
        )
        yield _text(middle, top - 4, _say(panel, value), anchor="middle")
        yield _text(middle, y + height + 15, name, anchor="middle")


def _curves(panel: Json, answers: Answers, box: Box) -> Iterator[str]:
    x, y, width, height = box[0] + 50, box[1], box[2] - 50, box[3] - 34
    points = [(_name(*each), _points(each[2])) for each in answers]
    values = [value for _, each in points for _, value in each if value is not None]
    if not values:
        yield _text(x + width / 2, y + height / 2, "No data", anchor="middle")
        return
    is_stacked = panel["fieldConfig"]["defaults"]["custom"]["drawStyle"] == "bars"
    low, high = min(0, *values), _highest(points) if is_stacked else max(values)
    high = high if high > low else low + 1
    shown = answers[0][1].range
    begin, end = expand.milliseconds(shown.begin), expand.milliseconds(shown.end)

    def across(time: float) -> float:
        return x + width * (time - begin) / (end - begin)

    def up(value: float) -> float:
        return y + height * (1 - (value - low) / (high - low))

    for value in (low, (low + high) / 2, high):
        yield f'<path d="M{x} {up(value):.1f}h{width}" stroke="#2c3235"/>'
        yield _text(x - 4, up(value) + 4, _say(panel, value), size=10, anchor="end")
    for share in (0.0, 0.5, 1.0):
        time = datetime.fromtimestamp((begin + (end - begin) * share) / 1000, household.ZONE)
        anchor = ("start", "middle", "end")[int(share * 2)]
        yield _text(x + width * share, y + height + 13, f"{time:%d.%m. %H:%M}", 10, anchor)
    series = [each for _, each in points]
    if is_stacked:
        yield from _columns(series, across, up)
    else:
        yield from _lines(series, across, up, panel)
    yield from _legend([name for name, _ in points], x, y + height + 28)


Points = list[tuple[float, float | None]]
Scale = Callable[[float], float]


def _lines(series: list[Points], across: Scale, up: Scale, panel: Json) -> Iterator[str]:
    span_ms = panel["fieldConfig"]["defaults"]["custom"]["spanNulls"]
    for index, points in enumerate(series):
        path, latest, is_gap = "", float("-inf"), False
        for time, value in points:
            if value is None:
                is_gap = True
                continue
            is_new = not path or (is_gap and time - latest > span_ms)
            # With "h0" and round ends a point without neighbours is a dot.
            path += f"{'M' if is_new else 'L'}{across(time):.1f} {up(value):.1f}h0"
            latest, is_gap = time, False
        colour = COLOURS[index % len(COLOURS)]
        yield (
            f'<path d="{path}" fill="none" stroke="{colour}" stroke-width="1.5"'
            ' stroke-linecap="round"/>'
        )


def _columns(series: list[Points], across: Scale, up: Scale) -> Iterator[str]:
    heights: dict[float, float] = {}
    times = sorted({time for points in series for time, _ in points})
    step = min((later - time for time, later in pairwise(times)), default=3_600_000)
    wide = max(1.0, 0.9 * (across(times[0] + step) - across(times[0])))
    for index, points in enumerate(series):
        for time, value in points:
            below = heights.get(time, 0.0)
            heights[time] = below + (value or 0)
            tall = up(below) - up(heights[time])
            yield (
                f'<rect x="{across(time):.1f}" y="{up(heights[time]):.1f}" width="{wide:.1f}"'
                f' height="{tall:.1f}" fill="{COLOURS[index % len(COLOURS)]}"/>'
            )


def _highest(series: list[tuple[str, Points]]) -> float:
    sums: dict[float, float] = {}
    for _, points in series:
        for time, value in points:
            sums[time] = sums.get(time, 0.0) + (value or 0)
    return max(sums.values())


def _legend(names: list[str], x: float, y: float) -> Iterator[str]:
    for index, name in enumerate(names):
        colour = COLOURS[index % len(COLOURS)]
        yield f'<rect x="{x}" y="{y - 5}" width="12" height="3" fill="{colour}"/>'
        yield _text(x + 16, y, name, 10)
        x += 28 + 6 * len(name)


def _states(panel: Json, answers: Answers, box: Box) -> Iterator[str]:
    x, y, width, height = box[0] + 110, box[1], box[2] - 110, box[3]
    colours = {k: v["color"] for k, v in _mappings(panel).items()}
    tall = min(34.0, height / max(1, len(answers)))
    for index, each in enumerate(answers):
        begin, end = (expand.milliseconds(time) for time in each[1].range)
        yield _text(box[0], y + tall * index + tall / 2, _name(*each))
        points = _points(each[2])
        for (time, value), (until, _) in zip(points, [*points[1:], (end, None)], strict=True):
            if value is None:
                continue
            left, right = (x + width * (t - begin) / (end - begin) for t in (time, until))
            colour = colours.get(f"{value:.0f}", "#808080")
            yield (
                f'<rect x="{left:.1f}" y="{y + tall * index:.1f}" width="{right - left + 0.3:.1f}"'
                f' height="{tall * 0.8:.1f}" fill="{NAMED.get(colour, colour)}"/>'
            )


def _table(panel: Json, answers: Answers, box: Box) -> Iterator[str]:
    """Draw the columns that Grafana makes of the answers, but for those that are hidden."""
    shown = [
        (column, settings)
        for column in _columns_of(panel, answers)
        if not (settings := _settings(panel, column)).get("custom.hidden")
    ]
    for index, (column, settings) in enumerate(shown):
        left = box[0] + index * box[2] / len(shown)
        title = settings.get("displayName", column.name)
        yield _text(left, box[1] + 14, title, 11, colour="#8e8e9c")
        for line, value in enumerate(column.values, 1):
            text = _cell(settings, value, is_time=column.name == "Time")
            yield _text(left, box[1] + 14 + 24 * line, text)


def _columns_of(panel: Json, answers: Answers) -> list[grafana_code.Column]:
    frames: list[Json] = []
    for target in panel["targets"]:
        series = [each for asked, _, each in answers if asked is target]
        frames += grafana_code.frames(target, series)
    return grafana_code.columns(panel, frames)[grafana_code.NEWEST]


def _settings(panel: Json, column: grafana_code.Column) -> dict[str, Any]:
    """Return what the overrides that a column is under say."""
    return {
        item["id"]: item["value"]
        for each in panel["fieldConfig"]["overrides"]
        if each["matcher"]["options"] in column.overrides
        for item in each["properties"]
    }


def _cell(settings: dict[str, Any], value: str | float | None, *, is_time: bool) -> str:
    if value is None or isinstance(value, str):
        return value or "-"
    unit = settings.get("unit", "")
    if unit == "dateTimeFromNow":
        return _age(value)
    if is_time:
        return f"{datetime.fromtimestamp(value / 1000, household.ZONE):%Y-%m-%d %H:%M:%S}"
    if "actions" in settings:
        return "  ".join(f"[{action['title']}]" for action in settings["actions"])
    if "mappings" in settings:
        return str(settings["mappings"][0]["options"][f"{value:.0f}"]["text"])
    return f"{value:g} {_unit(unit)}".strip()


def _unit(name: str) -> str:
    return UNITS.get(name, name.removeprefix("suffix:"))


def _age(time_ms: float) -> str:
    seconds = household.NOW.timestamp() - time_ms / 1000
    if seconds < 120:
        return f"{seconds:.0f} s ago"
    return f"{seconds / 3600:.1f} h ago" if seconds >= 3600 else f"{seconds / 60:.0f} min ago"


def _canvas(panel: Json, _answers: Answers, _box: Box) -> Iterator[str]:
    for element in panel["options"]["root"]["elements"]:
        place, config = element["placement"], element["config"]
        left, top = place["left"], place["top"] + 26
        text = config["text"]["fixed"]
        if element["type"] == "button":
            colour = {"success": "#1a7f4b", "destructive": "#d10e5c"}[config["style"]["variant"]]
            yield f'<rect x="{left}" y="{top}" width="90" height="40" rx="3" fill="{colour}"/>'
            yield _text(left + 45, top + 25, text, 14, "middle")
        else:
            yield _text(left, top + 25, text, 16)


DRAWERS: Final[dict[str, Callable[[Json, Answers, Box], Iterator[str]]]] = {
    "stat": _stat,
    "bargauge": _bars,
    "barchart": _months,
    "timeseries": _curves,
    "state-timeline": _states,
    "table": _table,
    "canvas": _canvas,
}


def _text(  # noqa: PLR0913, PLR0917 - as in SVG
    x: float, y: float, text: str, size: int = 12, anchor: str = "start", colour: str = ""
) -> str:
    fill = f' fill="{colour}"' if colour else ""
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" text-anchor="{anchor}"{fill}>'
        f"{escape(text)}</text>"
    )


def _name(target: Json, _query: Query, series: Series) -> str:
    return grafana_code.alias(target, series)


def _points(series: Series) -> Points:
    return [(each[0], each[-1]) for each in series.values]


def _last(series: Series) -> Any:
    return next((each[-1] for each in reversed(series.values) if each[-1] is not None), None)


def _mappings(panel: Json) -> dict[str, Json]:
    mappings: list[Json] = panel["fieldConfig"]["defaults"].get("mappings", [])
    return mappings[0]["options"] if mappings else {}


def _say(panel: Json, value: float | None) -> str:
    if value is None:
        return "-"
    if mapped := _mappings(panel).get(f"{value:g}"):
        return str(mapped["text"])
    defaults = panel["fieldConfig"]["defaults"]
    unit = defaults.get("unit", "")
    if unit == "percentunit":
        unit, value = "%", 100 * value
    number = f"{value:.{defaults['decimals']}f}" if "decimals" in defaults else f"{value:.4g}"
    return f"{number} {_unit(unit)}".strip()


if __name__ == "__main__":
    main()
