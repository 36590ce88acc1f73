"""Grafana's dashboards, their variables and layout, as plain dicts (schema 42)."""

from collections.abc import Sequence
from typing import Final

from grafana.source.panels import DATA_SOURCE, DATA_SOURCE_UID, Json

SCHEMA_VERSION: Final = 42
COLUMNS: Final = 24


def query_variable(name: str, label: str, query: str, *, multi: bool = True) -> Json:
    """Return a variable of what a query finds; several of them or all, unless `multi` is off."""
    variable: Json = {
        "name": name,
        "label": label,
        "type": "query",
        "datasource": DATA_SOURCE,
        "query": query,
        "refresh": 2,  # whenever the time range changes
        "sort": 7,  # natural
        "multi": multi,
        "includeAll": multi,
    }
    if multi:
        # "All" stands for each of them: ".*" would fit the series of other devices too.
        variable["current"] = {"text": ["All"], "value": ["$__all"]}
    return variable


def text_variable(name: str, label: str, value: str) -> Json:
    """Return a variable that the user types."""
    current = {"text": value, "value": value}
    return {"name": name, "label": label, "type": "textbox", "query": value, "current": current}


def choice_variable(name: str, label: str, choices: Sequence[tuple[str, str]]) -> Json:
    """Return a variable with given texts and values, the first of them chosen."""
    options = [
        {"text": text, "value": value, "selected": not index}
        for index, (text, value) in enumerate(choices)
    ]
    return {
        "name": name,
        "label": label,
        "type": "custom",
        "query": ", ".join(f"{text} : {value}" for text, value in choices),
        "options": options,
        "current": {"text": choices[0][0], "value": choices[0][1]},
        "multi": False,
        "includeAll": False,
    }


def dashboard(  # noqa: PLR0913 - each by name
    name: str,
    title: str,
    panels: Sequence[Json],
    *,
    variables: Sequence[Json],
    time_from: str,
    refresh: str,
    description: str,
) -> Json:
    """Return a dashboard; its panels are laid out left to right, top to bottom."""
    data_source = {
        "name": "datasource",
        "label": "Data source",
        "type": "datasource",
        "query": "influxdb",
        "current": {"text": DATA_SOURCE_UID, "value": DATA_SOURCE_UID},
    }
    return {
        "uid": f"openenergy-{name}",
        "title": title,
        "description": description,
        "schemaVersion": SCHEMA_VERSION,
        "tags": ["openenergy"],
        "timezone": "browser",
        "editable": True,
        "graphTooltip": 1,
        "time": {"from": time_from, "to": "now"},
        "refresh": refresh,
        "links": [
            {
                "type": "dashboards",
                "title": "openenergy",
                "tags": ["openenergy"],
                "asDropdown": False,
                "keepTime": False,
                "includeVars": False,
                "targetBlank": False,
                "icon": "external link",
                "tooltip": "",
                "url": "",
            }
        ],
        "templating": {"list": [data_source, *variables]},
        "annotations": {"list": []},
        "panels": _laid_out(panels),
    }


def _laid_out(panels: Sequence[Json]) -> list[Json]:
    x = y = row_height = 0
    result = []
    for number, each in enumerate(panels, 1):
        width, height = each["gridPos"]["w"], each["gridPos"]["h"]
        if x + width > COLUMNS:
            x, y, row_height = 0, y + row_height, 0
        position = {"x": x, "y": y, "w": width, "h": height}
        result.append({"id": number, **each, "gridPos": position})
        x, row_height = x + width, max(row_height, height)
    return result
