"""Web pages of others: any of them can make the browser of a visitor send requests to the LAN.

None may switch anything or read anything, whatever it sends. (The page's address is one of those
that `stage` does not allow.)
"""

import json
from collections.abc import Iterator
from http import HTTPStatus
from typing import Any

import pytest
import requests
from playwright.sync_api import Page

from tests.browser.conftest import OpenPage
from tests.browser.parts import TOKEN, ButtonServer, GrafanaStandIn
from tests.browser.stage import Request, Stage, cloudspout, lamp_off, press

BODY = json.dumps({"value": "open"})
ATTEMPTS: list[dict[str, Any]] = [
    {"method": "POST", "headers": {"Content-Type": "application/json"}, "body": BODY},
    {"method": "POST", "headers": {"Content-Type": "text/plain"}, "body": BODY},
    {"method": "POST", "body": BODY},
    {"method": "POST", "mode": "no-cors", "body": BODY, "credentials": "include"},
    {"method": "POST", "mode": "no-cors", "headers": {"Content-Type": "text/plain;a=b"}},
    {"method": "POST", "mode": "no-cors", "referrerPolicy": "no-referrer"},
    {"method": "PUT", "headers": {"Content-Type": "application/json"}, "body": BODY},
    {"method": "GET", "mode": "no-cors"},
]


@pytest.fixture(scope="module")
def switching_by_get(shared_stage: Stage) -> ButtonServer:
    """Start one that switches on GET too, for panels that cannot POST."""
    return shared_stage.house.button_server(token=TOKEN, allow_get=True)


@pytest.fixture
def stranger(open_page: OpenPage) -> Iterator[Page]:
    with GrafanaStandIn() as server:
        yield open_page(f"http://evil.example:{server.port}/")


@pytest.mark.parametrize("query", ["", "?value=open"])
def test_its_scripts_switch_nothing(stage: Stage, stranger: Page, query: str) -> None:
    for server in (stage.open_to_grafana, stage.closed):
        url = f"http://pi:{server.port}/plugs/lamp/relay{query}"
        for options in ATTEMPTS:
            outcome = press(stranger, Request(url, options))
            assert outcome.status == 0, options  # refused, or (no-cors) not to be seen
            assert stage.is_untouched(), options


def test_it_cannot_pretend_to_be_grafana(stage: Stage, stranger: Page) -> None:
    url = f"http://pi:{stage.open_to_grafana.port}"
    for request in (lamp_off(url), cloudspout(f"{url}/plugs/lamp/relay", "open")):
        outcome = press(stranger, request)
        assert outcome.status == 0
        assert "blocked by CORS policy" in outcome.console
    assert stage.is_untouched()


def test_it_cannot_read_what_is_on(stage: Stage, stranger: Page) -> None:
    for path in ("/plugs", "/plugs/lamp/relay", "/plugs/power", "/health", "/"):
        url = f"http://pi:{stage.open_to_grafana.port}{path}"
        assert press(stranger, Request(url, {"credentials": "include"})).status == 0


@pytest.mark.parametrize("encoding", ["text/plain", "application/x-www-form-urlencoded"])
def test_its_forms_switch_nothing(stage: Stage, stranger: Page, encoding: str) -> None:
    """A form needs no permission to be sent, and its text can be made to look like JSON."""
    url = f"http://pi:{stage.closed.port}/plugs/lamp/relay"
    with stranger.expect_navigation(url=f"{url}*"):
        stranger.evaluate(
            """([url, encoding]) => {
                const form = document.createElement('form');
                Object.assign(form, {action: url, method: 'post', enctype: encoding});
                const field = document.createElement('input');
                Object.assign(field, {name: '{"value": "open", "x": "', value: '"}'});
                form.append(field);
                document.body.append(form);
                form.submit();
            }""",
            [url, encoding],
        )
    assert '"success":false' in stranger.content()
    assert stage.is_untouched()


def test_its_pictures_switch_nothing(
    stage: Stage, stranger: Page, switching_by_get: ButtonServer
) -> None:
    """With `allow_get` the token alone is between a picture's address and the relay."""
    for server in (stage.closed, switching_by_get):
        url = f"http://pi:{server.port}/plugs/lamp/relay?value=open"
        stranger.evaluate(
            """url => new Promise((resolve) => {
                const picture = new Image();
                picture.onerror = resolve;
                picture.src = url;
            })""",
            url,
        )
    assert stage.is_untouched()


def test_a_name_that_is_turned_to_our_address_is_no_name_of_ours(
    stage: Stage, open_page: OpenPage
) -> None:
    """DNS rebinding: to the browser, page and server are the same origin then."""
    for server in (stage.closed, stage.open_to_grafana):
        origin = f"http://evil.example:{server.port}"
        page = open_page(f"{origin}/")
        assert "is not known as a name of this server" in page.content()
        outcome = press(page, lamp_off(origin))
        assert outcome.status == HTTPStatus.FORBIDDEN
        assert press(page, Request(f"{origin}/plugs", {})).status == HTTPStatus.FORBIDDEN
    assert stage.is_untouched()


def test_our_page_is_not_framed(stage: Stage, stranger: Page) -> None:
    """What is not seen cannot be clicked in error."""
    url = f"http://pi:{stage.closed.port}/"
    stranger.evaluate(
        """url => new Promise((resolve) => {
            const frame = document.createElement('iframe');
            frame.onload = resolve;
            frame.src = url;
            document.body.append(frame);
        })""",
        url,
    )
    (frame,) = stranger.frames[1:]
    assert "Plugs" not in frame.content()


def test_a_get_by_the_page_of_another_site_does_not_switch_where_that_is_told(
    stage: Stage, switching_by_get: ButtonServer
) -> None:
    """Browsers tell it (Sec-Fetch-Site) over HTTPS; the token alone may come by itself."""
    url = f"{switching_by_get.url}/plugs/lamp/relay?value=open"
    headers = {"X-Api-Key": TOKEN, "Sec-Fetch-Site": "cross-site"}
    refused = requests.get(url, headers=headers, timeout=5)
    assert refused.status_code == HTTPStatus.FORBIDDEN
    assert stage.is_untouched()
    switched = requests.get(url, headers={"X-Api-Key": TOKEN}, timeout=5)
    assert switched.json()["relay"] == "open"
