"""A page that stands in for Grafana, and sends what its panels send.

- A Canvas button or an Action of Grafana's core: `X-Grafana-Action: 1`, no cookies to other
  origins, and from Grafana 10 to 13.2 also `X-Grafana-Device-Id` (grafana/grafana#81312).
- The panel cloudspout-button-panel 7.0.23: always `credentials: include`
  (cloudspout/cloudspout-button-panel, src/ButtonPanel.tsx).
"""

import json
from dataclasses import dataclass
from typing import Any, NamedTuple

from playwright.sync_api import ConsoleMessage, Page

from demo.parts import REPOSITORY
from tests.browser.parts import ButtonServer, GrafanaStandIn, Home


def shipped_buttons() -> list[dict[str, Any]]:
    """Return what the buttons of our dashboards send: `api` of a Canvas panel's button element."""
    found = []
    queue: list[Any] = [
        json.loads(path.read_text())
        for path in (REPOSITORY / "grafana" / "dashboards").rglob("*.json")
    ]
    while queue:
        match queue.pop():
            case {"type": "button", "config": {"api": dict(api)}}:
                found.append(api)
            case dict(content):
                queue += content.values()
            case list(content):
                queue += content
    return found


SHIPPED_BUTTONS = shipped_buttons()
OFF_BUTTON = next(api for api in SHIPPED_BUTTONS if json.loads(api["data"]) == {"value": "open"})


class Request(NamedTuple):
    """What a panel gives to fetch()."""

    url: str
    options: dict[str, Any]

    def with_headers(self, **headers: str) -> "Request":
        """Return the same with more headers ('_' for '-')."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        options = self.options | {"headers": self.options["headers"] | named}
        return self._replace(options=options)


def core(api: dict[str, Any], *, device_id: bool = True, **variables: str) -> Request:
    """Return the request of a Canvas button or an Action."""
    filled = json.loads(_fill(api, variables))
    headers = {"Content-Type": filled["contentType"], "X-Grafana-Action": "1"}
    if device_id:
        headers["X-Grafana-Device-Id"] = "0123456789abcdef"
    query = "&".join(f"{name}={value}" for name, value in filled["queryParams"])
    return Request(
        filled["endpoint"] + ("?" + query if query else ""),
        {
            "method": filled["method"],
            "headers": headers | dict(filled["headerParams"]),
            "body": filled["data"],
            "credentials": "same-origin",
        },
    )


def cloudspout(url: str, value: str) -> Request:
    """Return the request of the cloudspout panel."""
    return Request(
        url,
        {
            "method": "POST",
            "mode": "cors",
            "credentials": "include",
            "headers": {"Content-Type": "application/json"},
            "body": json.dumps({"value": value}),
        },
    )


def _fill(template: object, variables: dict[str, str]) -> str:
    text = json.dumps(template)
    for name, value in variables.items():
        text = text.replace(f"${{{name}}}", value)
    return text


class Outcome(NamedTuple):
    """What a page got of fetch(): status 0 if nothing; and what the browser said to developers."""

    status: int
    body: str
    console: str


FETCH = """async ([url, options]) => {
    try {
        const answer = await fetch(url, options);
        return [answer.status, await answer.text()];
    } catch (error) {
        return [0, String(error)];
    }
}"""


def press(page: Page, request: Request) -> Outcome:
    """Let the page send a request."""
    lines: list[str] = []

    def note(message: ConsoleMessage) -> None:
        lines.append(message.text)

    page.on("console", note)
    status, body = page.evaluate(FETCH, list(request))
    page.wait_for_timeout(20)  # what the console shows comes after the promise is settled
    page.remove_listener("console", note)
    return Outcome(status, body, "\n".join(lines))


@dataclass
class Stage:
    """The lamp is on, and watched. `open_to_grafana` lets Grafana's pages in, `closed` none."""

    house: Home
    grafana: GrafanaStandIn
    secure_grafana: GrafanaStandIn
    open_to_grafana: ButtonServer
    closed: ButtonServer
    moves_before: int = 0

    @property
    def page_url(self) -> str:
        return f"http://pi:{self.grafana.port}/d/energy"

    @property
    def secure_page_url(self) -> str:
        return f"https://pi:{self.secure_grafana.port}/d/energy"

    def reset(self) -> None:
        if not self.house.switches["lamp"].relay:
            self.house.switches["lamp"].press_button()
        self.house.commands()
        self.house.client.clear()
        self.moves_before = len(self.house.moves())

    def has_switched(self, outcome: Outcome, value: str = "open") -> bool:
        """Whether the caller knows, the broker heard it, and the relay moved: all three, once."""
        assert outcome.status == 200, outcome
        assert json.loads(outcome.body)["relay"] == value
        assert [each.json["value"] for each in self.house.commands("lamp")] == [value]
        assert len(self.house.moves()) == self.moves_before + 1
        return self.house.switches["lamp"].relay is (value == "close")

    def is_untouched(self) -> bool:
        """Whether no command was sent and no relay moved."""
        return (
            self.house.commands() == []
            and len(self.house.moves()) == self.moves_before
            and self.house.switches["lamp"].relay
        )


def lamp_off(url: str, *, device_id: bool = True) -> Request:
    """Return the request of a Canvas button of our dashboards that opens the lamp's relay."""
    return core(OFF_BUTTON, device_id=device_id, button_url=url, plug="lamp")
