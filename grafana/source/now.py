"""Dashboard "Now": what draws how much, what is on, and the buttons."""

from collections.abc import Sequence

from grafana.source import curves, queries
from grafana.source.board import dashboard, query_variable, text_variable
from grafana.source.panels import ON_OFF, ONLINE, Json, bars, override, panel, stat, table, target

SWITCH = query_variable("switch", "Plugs", 'SHOW TAG VALUES FROM "relay" WITH KEY = "switch"')
PLUG = query_variable(
    "plug", "Buttons for", 'SHOW TAG VALUES FROM "relay" WITH KEY = "switch"', multi=False
)
# What the relay does: "open" is off.
BUTTONS = (("On", "close", "success"), ("Off", "open", "destructive"))


def build(plugs: Sequence[str]) -> Json:
    """Return the dashboard, with buttons for `plugs`, or for the one chosen on top."""
    button_url = text_variable("button_url", "Button server", "/buttons")
    return dashboard(
        "now",
        "Now",
        [
            stat(
                "Total power",
                target(queries.total_power()),
                size=(6, 6),
                unit="watt",
                timeFrom="2m",
                hideTimeOverride=True,
                description="Sum of what every plug said last, not longer than 2 minutes ago.",
            ),
            bars(
                "Power",
                target(queries.last("power"), "$tag_switch"),
                size=(18 if plugs else 12, 6),
                unit="watt",
                timeFrom="2m",
                hideTimeOverride=True,
                limits=[(100, "yellow"), (1000, "orange"), (2000, "red")],
            ),
            *(buttons(plug) for plug in plugs or ["${plug}"]),
            states(),
            curves.power("Power over time"),
        ],
        variables=[SWITCH, button_url, *([] if plugs else [PLUG])],
        time_from="now-15m",
        refresh="5s",
        description="Power, relays and buttons of every plug",
    )


def states() -> Json:
    """Return a table of all plugs: state, age, and buttons for those who may edit."""
    return table(
        "Plugs",
        target(queries.last("power"), ref="A", table=True),
        target(queries.last("relay"), ref="B", table=True),
        target(queries.last("temperature"), ref="C", table=True),
        target(queries.last_online(), ref="D", table=True),
        target(queries.last_online("switching"), ref="E", table=True),
        key="switch",
        timeFrom="2d",
        hideTimeOverride=True,
        overrides=[
            override("switch", displayName="Plug"),
            override("power", displayName="Power", unit="watt"),
            override("temperature", displayName="Temperature", unit="celsius"),
            override("relay", displayName="Relay", **_states(ON_OFF)),
            override("online", displayName="Answers", **_states(ONLINE)),
            # Columns that all targets have are told apart by their measurements.
            override("Time relay", displayName="Last reading", unit="dateTimeFromNow"),
            override("Time power", custom__hidden=True),
            override("Time temperature", custom__hidden=True),
            override("Time online", custom__hidden=True),
            override(
                "switching",
                displayName="Switch",
                custom__cellOptions={"type": "actions"},
                actions=[_action(text, value) for text, value, _ in BUTTONS],
            ),
        ],
        description=(
            "What each said last in two days, and when. The buttons are for those who may edit, in"
            " Grafana 11.6 and newer."
        ),
    )


def _action(text: str, value: str) -> Json:
    return {
        "type": "fetch",
        "title": text,
        "confirmation": f"Switch ${{__data.fields.switch}} {text.lower()}?",
        "oneClick": False,
        "fetch": {
            "method": "POST",
            "url": "${button_url}/plugs/${__data.fields.switch}/relay",
            "queryParams": [],
            "headers": [["Content-Type", "application/json"]],
            "body": f'{{"value": "{value}"}}',
        },
    }


def _states(mappings: Sequence[tuple[int, str, str]]) -> Json:
    options = {str(value): {"text": text, "color": colour} for value, text, colour in mappings}
    return {
        "mappings": [{"type": "value", "options": options}],
        "custom__cellOptions": {"type": "color-text"},
    }


def buttons(plug: str) -> Json:
    """Return a canvas with On and Off for a plug; "${plug}" is the one chosen on top.

    Written once per plug since Grafana does not give a repeated canvas its own value of the
    variable (grafana/grafana#82041). The title says which, since Grafana replaces no variables in
    texts of a canvas (grafana/grafana#89428).
    """
    canvas: Json = {
        "inlineEditing": False,
        "showAdvancedTypes": True,
        "panZoom": False,
        "root": {
            "type": "frame",
            "name": "root",
            "constraint": {"horizontal": "left", "vertical": "top"},
            "placement": {"top": 0, "left": 0, "width": 100, "height": 100},
            "background": {"color": {"fixed": "transparent"}},
            "elements": [
                _button(plug, *button, left=10 + 100 * number)
                for number, button in enumerate(BUTTONS)
            ],
        },
    }
    return panel("canvas", f"Switch {plug}", [], size=(6, 3), options=canvas)


def _button(plug: str, text: str, value: str, variant: str, left: int) -> Json:
    config = {
        "text": {"mode": "fixed", "fixed": text},
        "size": 14,
        "align": "center",
        "color": {"fixed": "#ffffff"},
        "style": {"variant": variant},
        "api": {
            "endpoint": f"${{button_url}}/plugs/{plug}/relay",
            "method": "POST",
            "contentType": "application/json",
            "data": f'{{"value": "{value}"}}',
            "queryParams": [],
            "headerParams": [],
            "successMessage": f"Switched {text.lower()}",
        },
    }
    return {
        "type": "button",
        "name": text,
        "constraint": {"horizontal": "left", "vertical": "top"},
        "placement": {"top": 10, "left": left, "width": 90, "height": 40, "rotation": 0},
        "config": config,
    }
